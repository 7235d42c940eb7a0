"""Real Postfix, procmail and pipe: a mail that can't be stored is kept by Postfix, not lost and not bounced."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests import postfix
from tests.postfix import PYTHON, ROOT, Backend
from tests.support import wait_until
from wodmail.mail.spool import Spool

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("postfix")]


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A mail system for each test."""
    with postfix.running() as made:
        yield made


def test_commands_go_to_the_spool_and_the_rest_to_the_mailbox(backend: Backend) -> None:
    ours = [
        "CREATE 12 57 user@example.org",
        "cleanup 12 57",
        "Purge [object Promise] 825",
        "  RESET   1,40",
        "PING",
        "PLAN CREATE 7",
        "=?utf-8?q?CREATE_13_0?=",
        "\r\n CREATE 14 0",
    ]
    others = ["Re: CREATE 12 57", "CREATED 12", "Weekly report", "Please CLEANUP 12"]
    for subject in ours + others:
        backend.send(subject)
    wait_until(lambda: len(backend.spooled()) == len(ours), what="eight stored mails")
    wait_until(lambda: backend.mailbox.count("\nSubject:") == len(others), what="four mails in the mailbox")
    mails = backend.spooled()
    assert {mail.sender for mail in mails} == {"frontend@wod.test"}
    assert {(mail.door, mail.peer, mail.authenticated) for mail in mails} == {("pipe", "", False)}
    assert not any(mail.raw.startswith(b"From ") for mail in mails)
    assert sum(b"Subject: CREATE 12 57 user@example.org\n" in mail.raw for mail in mails) == 1
    for subject in others:
        assert f"Subject: {subject}\n" in backend.mailbox


def test_the_null_sender_arrives_as_none(backend: Backend) -> None:
    backend.send("PING", sender="")
    wait_until(lambda: len(backend.spooled()) == 1, what="the mail")
    assert backend.spooled()[0].sender == ""


def test_a_spool_that_is_not_writable_defers_until_repaired(backend: Backend) -> None:
    spool = Spool(backend.state / "spool")  # made by root: the user can't write to it
    backend.send("CREATE 12 0")
    assert "frontend@wod.test" in backend.deferred()
    assert backend.spooled() == [] and backend.mailbox == ""
    for path in (spool.folder, *spool.folder.iterdir()):
        backend.own(path)
    backend.postfix("postqueue", "-f")
    wait_until(lambda: len(backend.spooled()) == 1, what="the mail in the repaired spool")
    wait_until(lambda: "Mail queue is empty" in backend.queue(), what="an empty queue")
    assert b"Subject: CREATE 12 0\n" in backend.spooled()[0].raw
    assert backend.mailbox == ""


@pytest.mark.parametrize("kind", ["no such command", "syntax error", "killed", "wrong option"])
def test_a_broken_installation_defers(backend: Backend, kind: str) -> None:
    broken = backend.base / "broken.py"
    broken.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n" if kind == "killed" else "def (\n")
    commands: dict[str, Callable[[], str]] = {
        "no such command": lambda: "/nonexistent/wodmail pipe",
        "syntax error": lambda: f"{PYTHON} {broken}",
        "killed": lambda: f"{PYTHON} {broken}",
        "wrong option": lambda: f"{PYTHON} -I {backend.base}/pipe.py --wrong",
    }
    backend.configure(commands[kind]())
    backend.send("CREATE 12 0")
    assert "frontend@wod.test" in backend.deferred()
    assert backend.mailbox == ""
    backend.configure(f"{PYTHON} -I {backend.base}/pipe.py")
    backend.postfix("postqueue", "-f")
    wait_until(lambda: len(backend.spooled()) == 1, what="the mail after the repair")
    assert backend.mailbox == ""


def test_the_forward_file_works_too(backend: Backend) -> None:
    main_cf = backend.base / "etc" / "main.cf"
    main_cf.write_text(
        "".join(f"{line}\n" for line in main_cf.read_text().splitlines() if "mailbox_command" not in line)
    )
    forward = backend.base / "home" / ".forward"
    forward.write_text((ROOT / "procmail" / "forward").read_text())
    backend.own(forward)
    assert backend.postfix("postfix", "reload").returncode == 0
    backend.send("CREATE 12 0")
    wait_until(lambda: len(backend.spooled()) == 1, what="the mail")
    assert backend.spooled()[0].sender == "frontend@wod.test"
