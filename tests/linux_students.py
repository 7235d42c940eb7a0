"""Real Linux students for tests: an own range of users, a user without rights that runs wodmail, and the helper."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts import require
from wodmail.config import Settings
from wodmail.students import install
from wodmail.students.linux import LinuxAccounts

BASE = 61000
FIRST, LAST = 9001, 9004
SERVICE = "wodmail-tests"


class AsService(LinuxAccounts):
    """Linux accounts as the unprivileged service user reaches them, from tests that run as root."""

    def writer_argv(self) -> list[str]:
        """The helper through sudo, called by the service user."""
        user = pwd.getpwnam(SERVICE)
        drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        return [*drop, *super().writer_argv()]


@dataclass(frozen=True)
class Site:
    """A backend with real students."""

    settings: Settings
    accounts: AsService
    sudoers: Path

    def uid(self, student: int) -> int:
        """A student's uid."""
        return BASE + student

    def start(self, student: int, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program as a student."""
        uid = self.uid(student)
        return subprocess.Popen(argv, user=uid, group=uid, extra_groups=[], cwd="/", start_new_session=True)


def _quiet(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def _remove_users() -> None:
    for name in [SERVICE, *(f"student{number}" for number in range(FIRST, LAST + 1))]:
        subprocess.run(["userdel", name], capture_output=True, check=False)


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Make the users, install the helper with one line for sudo, and take all of it away again.

    Args:
        folder: a folder of root's in which the helper and the homes are made.
    """
    for part in ("root", "useradd", "sudo", "setfacl"):
        require(part)
    _remove_users()
    homes = folder / "students"
    homes.mkdir(mode=0o755)
    for each in (homes, *homes.parents):
        if each.stat().st_mode & 0o005 != 0o005:
            each.chmod(each.stat().st_mode | 0o001)
    sudoers = Path(f"/etc/sudoers.d/wodmail-tests-{os.getpid()}")
    _quiet("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVICE)
    for number in range(FIRST, LAST + 1):
        name, uid = f"student{number}", str(BASE + number)
        _quiet("groupadd", "--force", "--gid", uid, name)
        _quiet("useradd", "-M", "--uid", uid, "--gid", uid, "--home-dir", str(homes / name), "--shell", "/bin/sh", name)
        (homes / name).mkdir(mode=0o755)
        os.chown(homes / name, BASE + number, BASE + number)
    settings = Settings(
        WODUSER=SERVICE,
        WODUSERMIN=FIRST,
        WODUSERMAX=LAST,
        UIDBASE=BASE,
        GIDBASE=BASE,
        WODSTUDDIR=homes,
        WODSTATEDIR=folder / "state",
        WODHELPER=folder / "helper" / "wodmail-helper",
    )
    try:
        install.install_helper(settings, sudoers=sudoers)
        accounts = AsService(settings)
        yield Site(settings, accounts, sudoers)
        accounts.close()
    finally:
        sudoers.unlink(missing_ok=True)
        _remove_users()
