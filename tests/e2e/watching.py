"""For an autouse fixture of a file of tests: nothing secret is shown while a test runs, nor in what it leaves.

    @pytest.fixture(autouse=True)
    def nothing_leaks(site: Deployment) -> Iterator[None]:
        with watching(site, {"WODLDAPPWD": "..."}):
            yield

The student's passwords need not be named: they are those of the trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message

from tests.e2e.harness import Deployment
from tests.leaks import Sampler, in_files, in_texts

PAUSE = 0.03
_LAST_LINE = re.compile(r"^end of procmail-action .*$", re.MULTILINE)


@contextmanager
def watching(site: Deployment, secrets: Mapping[str, str]) -> Iterator[Sampler]:
    """Look at the command lines of all processes meanwhile, and afterwards at log, trace, mails and state folder.

    Args:
        site: whose server runs, or is started meanwhile.
        secrets: names and values of what the services know this backend by.
    """
    with Sampler(pause=PAUSE) as sampler:
        yield sampler
    told = site.trace()
    words = {f"password {at}": word for at, word in enumerate(set(re.findall(r"\(passwd (\S{6,})\)", told)))}
    assert sampler.saw(b"wodmail\0serve"), "the sampler slept"
    found = sampler.findings({**secrets, **words})
    # The trace's last lines, and where the configuration says so the mails, are where operators look for passwords.
    found += in_texts({"log": site.log(), "trace": _LAST_LINE.sub("", told)}, {**secrets, **words})
    found += in_texts({name: text for mail in site.outbox() for name, text in _parts(mail)}, secrets)
    shut = {site.state / name for name in ("secrets", "student", ".mail")}  # 0600, homes, the trace
    found += in_files([site.state], secrets, allowed=shut)
    assert not found, found


def _parts(mail: Message) -> Iterator[tuple[str, bytes]]:
    """A mail as it was sent, and its parts as they are read."""
    name = str(mail["Message-ID"])
    yield name, mail.as_bytes()
    for part in mail.walk():
        text = part.get_payload(decode=True)
        if isinstance(text, bytes):
            yield f"{name} {part.get_content_type()}", text
