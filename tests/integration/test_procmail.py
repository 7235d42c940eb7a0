"""Real Postfix, procmail and pipe: a mail that can't be stored is kept by Postfix, not lost and not bounced."""

from __future__ import annotations

import os
import pwd
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pytest

from tests.parts import require
from tests.support import free_port, wait_until
from wodmail.mail.spool import Spool, StoredMail

ROOT = Path(__file__).resolve().parents[2]
# The user of this test can't reach a Python under /root; the pipe runs with any Python.
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") or "python3"
PIPE = ROOT / "wodmail" / "mail" / "pipe.py"

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {base}/queue
data_directory = {base}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = backend.test
mydestination = backend.test
mynetworks = 127.0.0.0/8
local_recipient_maps =
alias_maps =
alias_database =
default_transport = discard
mailbox_command = {procmail} -a "$EXTENSION"
mail_spool_directory = {base}/mail
maillog_file = {base}/log
maillog_file_prefixes = {base}
minimal_backoff_time = 300s
"""
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass
class Backend:
    """A machine's mail system of its own: folders, port, user."""

    base: Path
    port: int
    user: str

    @property
    def state(self) -> Path:
        """WODSTATEDIR."""
        return self.base / "state"

    @property
    def mailbox(self) -> str:
        """Everything that procmail has put into the user's mailbox."""
        file = self.base / "mailbox"
        return file.read_text() if file.exists() else ""

    def spooled(self) -> list[StoredMail]:
        """The stored mails."""
        if not (self.state / "spool" / "new").is_dir():
            return []
        spool = Spool(self.state / "spool")
        return [spool.read(key) for key in spool.new()]

    def queue(self) -> str:
        """What `postqueue -p` prints."""
        return self.postfix("postqueue", "-p").stdout

    def postfix(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of Postfix's commands on this instance."""
        return subprocess.run([program, "-c", str(self.base / "etc"), *arguments], capture_output=True, text=True)

    def send(self, subject: str, sender: str = "frontend@wod.test", body: str = "WKSHP-Demo101\r\n") -> None:
        """Hand a mail to Postfix; `subject` may be folded or encoded."""
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            client.sendmail(sender, [f"{self.user}@backend.test"], f"Subject: {subject}\r\n\r\n{body}".encode())

    def configure(self, pipe: str) -> None:
        """Render procmailrc.j2 with this command as the pipe."""
        text = (ROOT / "procmail" / "procmailrc.j2").read_text()
        rendered = jinja2.Template(text, undefined=jinja2.StrictUndefined, keep_trailing_newline=True).render(
            WODUSER=self.user, WODSTATEDIR=str(self.state), wodmail_pipe=pipe
        )
        file = self.base / "home" / ".procmailrc"
        # The mailbox would be /var/mail/USER, which is not this test's to write to.
        file.write_text(f"DEFAULT={self.base}/mailbox\n" + rendered)
        file.chmod(0o600)
        self.own(file)

    def own(self, path: Path) -> None:
        """Give a path to the user."""
        entry = pwd.getpwnam(self.user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _prepare(base: Path, user: str, port: int) -> Backend:
    backend = Backend(base, port, user)
    base.chmod(0o755)
    for name in ("etc", "queue", "data", "home", "state"):
        (base / name).mkdir()
    shutil.chown(base / "data", "postfix")
    subprocess.run(["useradd", "-M", "-d", str(base / "home"), "-s", "/bin/sh", user], check=True)
    for path in (base / "home", base / "state"):
        backend.own(path)
    (base / "mailbox").touch()
    backend.own(base / "mailbox")
    (base / "etc" / "main.cf").write_text(MAIN_CF.format(base=base, procmail=require("procmail")))
    (base / "etc" / "master.cf").write_text(MASTER_CF.format(port=port))
    shutil.copy(PIPE, base / "pipe.py")
    backend.configure(f"{PYTHON} -I {base}/pipe.py")
    return backend


@pytest.fixture
def backend() -> Iterator[Backend]:
    require("root")
    require("postfix")
    require("useradd")
    base = Path(tempfile.mkdtemp(prefix="wodmail-postfix-", dir="/tmp"))
    user = f"wpf{os.getpid()}"
    try:
        made = _prepare(base, user, free_port())
        started = made.postfix("postfix", "start")
        assert started.returncode == 0, started.stderr
        yield made
    finally:
        # Shown by pytest when the test fails.
        for file in (base / "log", base / "home" / "procmail.log"):
            print(file.name, file.read_text() if file.exists() else "is not there")
        subprocess.run(["postfix", "-c", str(base / "etc"), "stop"], capture_output=True)
        subprocess.run(["userdel", user], capture_output=True)
        shutil.rmtree(base)


pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux-users")]


def _defers(backend: Backend) -> str:
    wait_until(lambda: "status=deferred" in (backend.base / "log").read_text(), what="Postfix deferring the mail")
    return backend.queue()


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
    assert "frontend@wod.test" in _defers(backend)
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
    assert "frontend@wod.test" in _defers(backend)
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
