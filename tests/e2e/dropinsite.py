"""A machine laid out as an existing backend's, with wodmail in the place of the backend that was there.

The content is in `tests/data/dropin`: workshops, the private tree, the installation tree, procmail recipes. Everything
is below the service user's home, /etc is a copy (`tests/ownetc.py`), Postfix and procmail are real.
"""

from __future__ import annotations

import shutil
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests import asuser
from tests.apidb.frontend import send
from tests.apidb.site import ApiDbSite
from tests.e2e.harness import ROOT
from tests.e2e.linuxsite import LinuxDeployment
from tests.linux_students import BASE, FIRST, SERVICE, users
from tests.ownetc import OwnEtc, own_etc
from tests.parts import require
from tests.postfix import MAIN_CF, MASTER_CF
from tests.support import free_port, wait_until

CONTENT = ROOT / "tests" / "data" / "dropin"
FIFTH = FIRST + 4
BASE_ID = 1000
BEFORE = 51
WORDS = {FIRST: "WKSHP-Plain101", FIRST + 1: "CHLG-Quest101", FIRST + 2: "WKSHP-Locker101"}
WORDS |= {FIRST + 3: "WKSHP-Box101", FIFTH: "WKSHP-Inner101"}
NEWS = {f"WKSHP-{name}": {"reset": True} for name in ("Quest101", "Inner101")}
NEWS |= {"WKSHP-Box101": {"reset": True, "monoappliance": True}, "WKSHP-Locker101": {"varpass": True}}


class DropIn(LinuxDeployment):
    """The machine.

    Args:
        folder: readable for all; `service`, the service user's home, is there.
        etc: the namespace.
        api: the API-DB of the frontend.
    """

    def __init__(self, folder: Path, etc: OwnEtc, api: ApiDbSite) -> None:
        super().__init__(folder, len(WORDS))
        self.etc, self.api = etc, api
        self.top = folder / "service"
        self.smtp = free_port()
        self._trees()
        values = yaml.safe_load(self.file.read_text()) | self._values()
        for name in ("notebooks", "scripts"):
            (folder / name).rmdir()
        shutil.rmtree(folder / "private")
        self.file.unlink()
        self.file = etc.folder / "wod.yml"
        self.file.write_text(yaml.safe_dump(values), encoding="utf-8")
        shutil.chown(self.file, 0, SERVICE)
        self.file.chmod(0o640)

    def _trees(self) -> None:
        """The four trees, as git leaves them in the home."""
        for name in ("wod-notebooks", "wod-private", "wod-install"):
            shutil.copytree(CONTENT / name, self.top / name)
        backend = self.top / "wod-backend"
        for name in ("ansible", "procmail", "scripts", "sys"):
            shutil.copytree(ROOT / name, backend / name)
        (backend / "wodmail").symlink_to(ROOT / "wodmail")
        secret = self.top / "wod-private" / "ansible" / "vault_secret"
        secret.write_text("of-the-vault\n")
        secret.chmod(0o600)
        self.recipes("EXITCODE=75\nHOST=none\n")

    def _values(self) -> dict[str, Any]:
        """What /etc/wod.yml says here beside what every deployment of the tests says."""
        top, private = self.top, self.top / "wod-private"
        return {
            **self.api.keys,
            "WODGROUP": "production",
            "WODROOTDIR": str(top),
            "WODBEDIR": str(top / "wod-backend"),
            "WODANSIBLEDIR": str(top / "wod-backend/ansible"),
            "WODSCRIPTDIR": str(top / "wod-backend/scripts"),
            "WODSYSDIR": str(top / "wod-backend/sys"),
            "WODNOBO": str(top / "wod-notebooks"),
            "WODPRIVDIR": str(private),
            "WODANSIBLEPRIVDIR": str(private / "ansible"),
            "WODSCRIPTPRIVDIR": str(private / "scripts"),
            "WODSYSPRIVDIR": str(private / "sys"),
            "WODPRIVNOBO": str(private / "notebooks"),
            "WODINSDIR": str(top / "wod-install/install"),
            "WODSSHKEYTYPE": "rsa",
            "NOCHECKSSH": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            "BRANDINGWOD": "Lab of Tests",
            "SURVEYCHALURL": "https://survey.example.org/challenge",
            "QUESTBEFORE": BEFORE,
        }

    def recipes(self, text: str) -> None:
        """Make this the service user's .procmailrc; the mailbox would be /var/mail/USER, which is not ours."""
        rc = self.top / ".procmailrc"
        rc.write_text(f"DEFAULT={self.top}/mailbox\n{text}")
        rc.chmod(0o600)
        shutil.chown(rc, SERVICE, SERVICE)

    # -- making it --------------------------------------------------------------------------------------------

    def key_pair(self) -> str:
        """Give everything to the service user, and make a key pair; gives the public key."""
        key = self.top / ".ssh" / "id_ed25519"
        key.parent.mkdir(mode=0o700)
        self.etc.must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", SERVICE, "-f", str(key))
        self.etc.must("chown", "-R", f"{SERVICE}:{SERVICE}", str(self.top))
        return key.with_suffix(".pub").read_text()

    def group_vars(self, address: str) -> None:
        """The private variables of the group, among them the appliance's address."""
        file = self.top / "wod-private/ansible/group_vars/production"
        file.write_text(yaml.safe_dump({"LABTOWN": "Testville", "IP-WKSHP-Box101": address}))

    def install(self) -> None:
        """What docs/operations.md says to do once the files are there."""
        self.etc.must(*self._wodmail("helper", "install"))
        self.etc.must(*self._wodmail("config", "shell", "--output"))
        done = self.as_service(*self._wodmail("deliver"))
        assert done.returncode == 0, done.stdout + done.stderr

    def start_all(self) -> None:
        """The server and the mail system."""
        # procmail makes /var/mail/USER before it reads its file, and sets one of an earlier user aside.
        self.etc.must("mount", "-t", "tmpfs", "-o", "mode=2775,gid=mail", "tmpfs", "/var/mail")
        base = self.folder / "postfix"
        for name in ("etc", "queue", "data"):
            (base / name).mkdir(parents=True)
        shutil.chown(base / "data", "postfix")
        text = MAIN_CF.format(base=base, procmail=require("procmail"))
        (base / "etc" / "main.cf").write_text(text)
        (base / "etc" / "master.cf").write_text(MASTER_CF.format(port=self.smtp))
        self.postfix("postfix", "start")
        self.start()

    def _wodmail(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("wodmail")), *arguments]

    def start(self, *arguments: str, module: str = "wodmail", wait: bool = True) -> subprocess.Popen[bytes]:
        """Start the server as systemd would: its user, and the configuration at its usual place."""
        given = arguments or ("serve",)
        argv = [*self.etc.enter, *asuser.prefix(SERVICE), sys.executable, "-m", module, *given]
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(argv, cwd="/", env=asuser.environment(SERVICE), stdout=log, stderr=log)
        self.running.append(process)
        if wait:
            wait_until(lambda: self.answers() or process.poll() is not None, seconds=60, what="the server's greeting")
            assert process.poll() is None, self.log()
        return process

    def close(self) -> None:
        """End the server and the mail system."""
        if (self.folder / "postfix" / "queue" / "pid").is_dir():
            self.etc.run(["postfix", "-c", str(self.folder / "postfix/etc"), "stop"])
        super().close()

    # -- using it ---------------------------------------------------------------------------------------------

    def postfix(self, program: str, *arguments: str) -> str:
        """Run one of Postfix's commands; gives what it printed."""
        return self.etc.must(program, "-c", str(self.folder / "postfix/etc"), *arguments)

    def deferred(self) -> bool:
        """Whether Postfix says that it keeps a mail for later."""
        # It says so before the mail is in that queue, and `postqueue -f` tries only what is there.
        queued = any((self.folder / "postfix/queue/deferred").glob("*/*"))
        return queued and "status=deferred" in (self.folder / "postfix/log").read_text()

    def as_service(self, *argv: str, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program as the service user, with what its login sets and `more`."""
        return self.etc.run([*asuser.prefix(SERVICE), *argv], text=text, env=asuser.environment(SERVICE) | more)

    def by_node(self, subject: str, word: str) -> None:
        """Send a command as the frontend does."""
        assert send(self.port, subject, word, self.sender)

    def by_postfix(self, subject: str, word: str) -> None:
        """Send a command to the service user's mailbox, where procmail has its recipes."""
        with smtplib.SMTP("127.0.0.1", self.smtp) as client:
            client.sendmail(self.sender, [f"{SERVICE}@backend.test"], f"Subject: {subject}\r\n\r\n{word}\r\n".encode())

    def logs_in(self, student: int, word: str) -> bool:
        """Whether `su`, called by a user that is no root, lets the student in with that password."""
        done = self.as_service("su", f"student{student}", "-c", "id -u", text=f"{word}\n")
        return done.returncode == 0 and done.stdout.strip() == str(BASE + student)

    def read(self, student: int, name: str) -> str:
        """A file of a home, which is looked at from outside."""
        return (self.home(student) / name).read_text(encoding="utf-8")


@contextmanager
def drop_in() -> Iterator[DropIn]:
    """Everything made, nothing started; all of it is taken away at the end."""
    for part in ("root", "useradd", "sudo", "setfacl", "postfix", "procmail", "ansible"):
        require(part)
    with users(len(WORDS)) as folder:
        (folder / "etc").mkdir()
        (folder / "api").mkdir()
        with asuser.reachable(SERVICE), own_etc(folder / "etc") as etc, api_db(folder / "api") as api:
            site = DropIn(folder, etc, api)
            try:
                yield site
            finally:
                site.close()


@contextmanager
def api_db(folder: Path) -> Iterator[ApiDbSite]:
    """The API-DB with the workshops, the seats, and a participant for each."""
    with ApiDbSite(folder, base=BASE_ID) as api:
        for student, word in WORDS.items():
            name = "WKSHP-" + word.partition("-")[2]
            api.add_workshop(name, range=[FIRST, FIFTH], **NEWS.get(name, {}))
            api.add_student(student)
            api.add_customer(word, student, id=participant(student))
        api.add_customer("WKSHP-Plain101", None, id=BEFORE, cleaned=True)
        yield api


def participant(student: int) -> int:
    """The number of the participant who has a student."""
    return 100 + student - FIRST
