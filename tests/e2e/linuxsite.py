"""A deployment as in production: real students, `wodmail serve` as a user without rights, one line for sudo."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import asuser
from tests.e2e.harness import Deployment
from tests.linux_students import BASE, FIRST, LAST, SERVICE, users
from tests.parts import missing, require

INSTALLED = Path("/etc/sudoers.d/wodmail")  # where `wodmail helper install` puts its line
SUDOERS = Path(f"/etc/sudoers.d/{SERVICE}-linux")  # where it is kept, so that other test processes have theirs


class LinuxDeployment(Deployment):
    """A deployment whose students are users of this machine and whose server is `SERVICE`.

    Args:
        folder: where everything is, readable for all; `service` and `students` are made.
        students: how many there are, from FIRST on.
        extra: more settings.
    """

    def __init__(self, folder: Path, students: int = LAST - FIRST + 1, **extra: Any) -> None:
        for name in ("notebooks", "scripts", "private", "private/sys", "private/sys/skel", "outbox", "state"):
            (folder / name).mkdir()
        (folder / "private/sys/skel/welcome.txt").write_text("welcome\n")
        super().__init__(
            folder,
            WODSANDBOX=False,
            WODUSER=SERVICE,
            WODUSERMIN=FIRST,
            WODUSERMAX=FIRST + students - 1,
            WODMAXCOUNT=students,
            UIDBASE=BASE,
            GIDBASE=BASE,
            WODSTUDDIR=str(folder / "students"),
            WODPRIVDIR=str(folder / "private"),
            WODHELPER=str(folder / "libexec" / "wodmail-helper"),
            WODOUTBOX=str(folder / "outbox"),
            WODSENDER="frontend@localhost",
            WODMONITOR="monitor@localhost",
            **extra,
        )
        for name in ("outbox", "state"):
            shutil.chown(folder / name, SERVICE, SERVICE)
            (folder / name).chmod(0o700)
        shutil.chown(self.file, 0, SERVICE)
        self.file.chmod(0o640)
        self.user = SERVICE
        self.sender = "frontend@localhost"

    @property
    def outbox_folder(self) -> Path:
        """WODOUTBOX."""
        return self.folder / "outbox"

    def home(self, student: int) -> Path:
        """A student's home."""
        return self.folder / "students" / f"student{student}"

    def renew_home(self, student: int) -> Path:
        """Make a home anew, whatever a test did to it."""
        home = self.home(student)
        if home.is_symlink():
            home.unlink()
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o755)
        os.chown(home, BASE + student, BASE + student)
        return home

    def trace(self) -> str:
        """What operators `tail`; empty when nothing was done yet."""
        file = self.folder / "service" / ".mail" / "from"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def password(self, student: int, action: str = "CREATE") -> str:
        """The password in the newest last line of a job of the student."""
        line = (
            rf"^end of procmail-action for student {student} \(passwd (\S+)\) with workshop \S+ with action {action} "
        )
        found = re.findall(line, self.trace(), re.MULTILINE)
        assert found, f"no line of student {student} in the trace"
        return str(found[-1])

    def command(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """A wodmail command as the service user, which must end within so many seconds."""
        argv = [*asuser.prefix(SERVICE), sys.executable, "-m", "wodmail", *arguments, "--config", str(self.file)]
        environment = asuser.environment(SERVICE)
        return subprocess.run(
            argv, cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=seconds
        )


def install_helper(site: LinuxDeployment) -> subprocess.CompletedProcess[str]:
    """`wodmail helper install`, as root."""
    argv = [sys.executable, "-m", "wodmail", "helper", "install", "--config", str(site.file)]
    with Path("/var/tmp/wodmail-tests-sudoers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(argv, cwd=asuser.ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            INSTALLED.rename(SUDOERS)
    return done


@contextmanager
def linux_deployment(students: int = LAST - FIRST + 1, **extra: Any) -> Iterator[LinuxDeployment]:
    """Users, helper and configuration; everything is taken away at the end. The server is not started.

    Args:
        students: how many, from FIRST on.
        extra: more settings.
    """
    for part in ("root", "useradd", "sudo", "setfacl"):
        require(part)
    with users(students) as folder:
        if INSTALLED.exists() and not INSTALLED.read_text().startswith(SERVICE.rstrip("0123456789")):
            missing("sudo", f"{INSTALLED} belongs to a wodmail that is installed here")
        with asuser.reachable(SERVICE):
            site = LinuxDeployment(folder, students, **extra)
            try:
                yield site
            finally:
                site.close()
                SUDOERS.unlink(missing_ok=True)
