"""The other front door from end to end: Postfix, procmail, `wodmail pipe`, the worker, and the result mail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import asuser, postfix
from tests.e2e.harness import Deployment
from tests.parts import require
from tests.postfix import Backend
from tests.support import wait_until

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("postfix")]
FRONTEND = "frontend@wod.test"


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    """Postfix and procmail, with the installed `wodmail pipe` as procmailrc names it."""
    require("procmail")
    with postfix.running() as made, asuser.reachable(made.user):
        made.configure(f"{Path(sys.executable).with_name('wodmail')} pipe")
        yield made


@pytest.fixture
def site(backend: Backend) -> Iterator[Deployment]:
    """A sandbox of its own for each test, which reads what the pipe stores."""
    backend.renew_state()
    folder = backend.base / "wod"
    folder.mkdir()
    made = Deployment(
        folder,
        WODUSER=backend.user,
        WODDOOR="postfix",
        WODSTATEDIR=str(backend.state),
        WODOUTBOX=str(backend.state / "outbox"),
        WODSENDER=FRONTEND,
        WODPOSTPORT=backend.port,
    )
    made.state = backend.state
    made.user = backend.user
    made.workshop("WKSHP-Test")
    yield made
    made.close()
    shutil.rmtree(folder)


def served(site: Deployment) -> None:
    """Start `wodmail serve` and wait until it works."""
    site.start("serve", wait=False)
    wait_until(lambda: "server-ready" in site.log(), seconds=60, what="the server")


def test_from_smtp_to_the_result_mail(backend: Backend, site: Deployment) -> None:
    served(site)
    backend.send("CREATE 7 0", body="WKSHP-Test\r\n")
    row = site.ended(1)[0]
    assert row["state"] == "done", row
    assert "student 7" in (site.home(7) / "WKSHP-Test" / "0-ReadMeFirst.ipynb").read_text()
    mail = wait_until(lambda: site.replies(row["id"]), what="the result mail")[0]
    assert (mail["Subject"], mail["To"]) == ("Re: CREATE 7 0: done", FRONTEND)
    wait_until(lambda: "Mail queue is empty" in backend.queue(), what="an empty queue")
    assert backend.mailbox == ""
    backend.send("CREATE 7;reboot 0", body="WKSHP-Test\r\n")
    refused = site.ended(2)[-1]
    assert (refused["state"], refused["jobs"]) == ("refused", [])


def test_who_may_not_command_is_not_answered(backend: Backend, site: Deployment) -> None:
    served(site)
    backend.send("CREATE 7 0", body="WKSHP-Test\r\n", sender="stranger@wod.test")
    backend.send("PING")
    wait_until(lambda: any("Re: PING" in subject for subject in site.subjects()), what="the answer to the second mail")
    assert [row["action"] for row in site.requests() if row["state"] == "done"] == ["PING"]
    assert {mail["To"] for mail in site.outbox()} == {FRONTEND}
    assert not site.home(7).exists()


def test_a_spool_that_is_not_writable_keeps_the_mail_until_it_is_repaired(backend: Backend, site: Deployment) -> None:
    spool = backend.state / "spool"
    for name in ("tmp", "new", "cur"):
        (spool / name).mkdir(parents=True)  # root's, so that the pipe can't write
    backend.send("CREATE 8 0", body="WKSHP-Test\r\n")
    assert FRONTEND in backend.deferred()
    assert not list((spool / "new").iterdir())
    for path in (spool, *spool.iterdir()):
        backend.own(path)
    served(site)
    assert site.requests() == []
    backend.postfix("postqueue", "-f")
    row = site.ended(1)[0]
    assert (row["state"], row["students"]) == ("done", [8])
    wait_until(lambda: "Re: CREATE 8 0: done" in site.subjects(), what="the result mail")
    wait_until(lambda: "Mail queue is empty" in backend.queue(), what="an empty queue")


def test_mails_that_came_before_the_worker(backend: Backend, site: Deployment) -> None:
    """`wodmail work --until-empty` does what lies in the spool and ends."""
    for student in (9, 10):
        backend.send(f"CREATE {student} 0", body="WKSHP-Test\r\n")
    wait_until(lambda: len(backend.spooled()) == 2, what="two stored mails")
    work = [sys.executable, "-X", "faulthandler", "-m", "wodmail", "work", "--until-empty", "--config", str(site.file)]
    limited = ["timeout", "--signal=ABRT", "120", *work]  # one that hangs says where
    argv = [*asuser.prefix(backend.user), *limited]
    environment = asuser.environment(backend.user)
    done = subprocess.run(argv, cwd="/", env=environment, capture_output=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr.decode()
    assert site.subjects() == ["Re: CREATE 10 0: done", "Re: CREATE 9 0: done"]
