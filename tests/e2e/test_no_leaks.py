"""No secret on a command line, in an environment, file, log, mail or trace while and after a CREATE is at work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.harness import Deployment, step_of
from tests.leaks import Finding, Sampler, in_files, in_texts
from tests.parts import require
from tests.slapdsite import ADMIN_PASSWORD, slapd
from tests.support import wait_until

VAULT = "vault-s3cret-4711"
# Says all it knows, uses each way to a secret, and waits while the job is at its middle.
SCRIPT = """set -ex
. "$WODFUNCTIONS"
echo "known: $randompw, $VAULTPWD, $WODLDAPPWD"
file=$WODANSIBLEPRIVDIR/$WODGROUP/pass/variables_${w}_$stdid.yml
ansible-vault view --vault-password-file "$WODANSIBLEPRIVDIR/vault_secret" "$file"
wod_update_ldap_passwd
wod_create_var_passwd
printf 'tok-4711\\n' | wod_add_variable MLTOK
touch "$WODROOTDIR/waits"
read -r _ <"$WODROOTDIR/go"
[ "$stdid" = 1 ] || exit 3
"""


@dataclass
class Watched:
    """A deployment, what was sampled, and the secrets to look for."""

    site: Deployment
    sampler: Sampler
    secrets: dict[str, str]
    during: list[Finding]
    rows: list[dict[str, object]]

    @property
    def trace(self) -> Path:
        """What operators `tail`."""
        return self.site.state / ".mail" / "from"


def _ours(_pid: int, line: bytes) -> bool:
    """Whose environments are looked at: the server's and the playbooks'; scripts are given theirs on purpose."""
    return b"\0serve\0" in line or b"ansible-playbook" in line


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two CREATEs with ldap and varpass, watched: student 1's ends well, student 2's script fails."""
    require("ansible")
    folder = tmp_path_factory.mktemp("leaks")
    private = folder / "private" / "ansible"
    private.mkdir(parents=True)
    (private / "vault_secret").write_text(VAULT)
    (private / "vault_secret").chmod(0o600)
    keys = {"WODPRIVDIR": str(folder / "private"), "VAULTPWD": VAULT, "WODROOTDIR": str(folder)}
    with slapd() as server, Sampler(environ=_ours) as sampler:
        site = Deployment(folder, WODREPLYCREDENTIALS=False, WODMONITOR="monitor@localhost", **keys, **server.keys())
        try:
            yield _watch(site, sampler)
        finally:
            site.close()


def _watch(site: Deployment, sampler: Sampler) -> Watched:
    site.workshop("WKSHP-All", {"note.py": "'{{ PASSSTU }} {{ MLTOK }}'\n"}, ldap=True, varpass=True)
    site.script("create-WKSHP-All.sh", SCRIPT)
    os.mkfifo(site.folder / "go")
    site.start()
    at_rest, during = {"VAULTPWD": VAULT, "WODLDAPPWD": ADMIN_PASSWORD}, []
    for student in (1, 2):
        site.mail(f"CREATE {student} 0", "WKSHP-All")
        wait_until(lambda: (site.folder / "waits").exists(), seconds=60, what="the waiting script")
        looks = sampler.looks
        wait_until(lambda looks=looks: sampler.looks > looks + 2, what="the sampler's looks")
        during += in_files([site.state], at_rest)
        (site.folder / "waits").unlink()
        (site.folder / "go").write_text("go\n")
        rows = site.ended(student)
    wait_until(lambda: len(site.outbox()) >= 3, what="the result mails and the monitor's")
    wait_until(lambda: not list((site.state / "secrets").glob("*/password-*")), what="the end of the passwords")
    trace = (site.state / ".mail" / "from").read_text()
    words = {f"password of {name}": word for name, word in re.findall(r"student (\d) \(passwd (\w+)\)", trace)}
    assert len(words) == 2
    return Watched(site, sampler, {**at_rest, **words, "WODLDAPPWD": ADMIN_PASSWORD}, during, rows)


def test_it_was_watched_at_work(watched: Watched) -> None:
    assert [row["state"] for row in watched.rows] == ["done", "failed"]
    assert step_of(watched.rows[1], "create-script")["state"] == "failed"
    assert watched.secrets["password of 1"] in (watched.site.home(1) / "WKSHP-All" / "note.py").read_text()
    for words in (b"copy_folder.yml", b"ansible-vault", b"directory-password", b"variable-password", b"MLTOK"):
        assert watched.sampler.saw(words), words


def test_no_command_line_and_no_environment_held_a_secret(watched: Watched) -> None:
    assert watched.sampler.findings(watched.secrets) == []


def test_no_file_held_one_while_it_ran(watched: Watched) -> None:
    assert watched.during == []


def test_no_file_holds_one_afterwards(watched: Watched) -> None:
    site = watched.site
    given = {site.file, site.folder / "private" / "ansible" / "vault_secret"}  # where operators wrote them
    given |= {watched.trace, site.home(1) / "WKSHP-All"}  # the trace's last lines; the notebook that is to show it
    roots = [site.folder, Path.home() / ".ansible" / "tmp"]
    assert in_files(roots, watched.secrets, allowed=given) == []
    assert in_files([site.folder], watched.secrets) != [], "the search finds them where they are"


def test_the_trace_holds_one_in_its_last_lines_alone(watched: Watched) -> None:
    lines = watched.trace.read_text().splitlines()
    others = [line for line in lines if not line.startswith("end of procmail-action for student ")]
    assert len(lines) == len(others) + 2
    assert in_texts({"trace": "\n".join(others)}, watched.secrets) == []
    assert any("known: ****, ****, ****" in line for line in others)


def test_no_mail_holds_one(watched: Watched) -> None:
    mails = {str(mail["Subject"]) + str(mail["To"]): mail.as_bytes() for mail in watched.site.outbox()}
    mails |= {
        f"{name} {at}": part.get_payload(decode=True) or b""
        for name, mail in ((str(each["Message-ID"]), each) for each in watched.site.outbox())
        for at, part in enumerate(mail.walk())
        if not part.is_multipart()
    }
    assert len(mails) > 6
    assert in_texts(mails, watched.secrets) == []
