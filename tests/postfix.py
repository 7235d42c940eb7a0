"""A Postfix of its own with procmail and a user who gets the commands, for tests that run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jinja2

from tests.parts import require
from tests.support import free_port, wait_until
from wodmail.mail.spool import Spool, StoredMail

ROOT = Path(__file__).resolve().parents[1]
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
pickup unix n - n 60 1 pickup
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
        # Opened before the first mail lies there, root would make what the user makes.
        if not list((self.state / "spool" / "new").glob("*")):
            return []
        spool = Spool(self.state / "spool")
        return [spool.read(key) for key in spool.new()]

    def queue(self) -> str:
        """What `postqueue -p` prints."""
        return self.postfix("postqueue", "-p").stdout

    def renew_state(self) -> None:
        """An empty WODSTATEDIR, the user's own, an empty mailbox and log."""
        shutil.rmtree(self.state)
        self.state.mkdir()
        self.own(self.state)
        (self.base / "mailbox").write_text("")
        (self.base / "log").write_text("")

    def deferred(self) -> str:
        """Wait until Postfix defers a mail; what `postqueue -p` prints then."""
        wait_until(lambda: "status=deferred" in (self.base / "log").read_text(), what="Postfix deferring the mail")
        # It says so before the mail is in that queue, and `postqueue -f` tries only what is there.
        wait_until(lambda: any((self.base / "queue" / "deferred").glob("*/*")), what="the mail in the deferred queue")
        return self.queue()

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


@contextmanager
def running() -> Iterator[Backend]:
    """Postfix on a free port; it and its user are gone at the end."""
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
        # procmail makes it whatever DEFAULT says; one of another uid would hold the next user of that name up for 16 s.
        for left in Path("/var/mail").glob(f"*{user}*"):
            left.unlink()
        shutil.rmtree(base)
