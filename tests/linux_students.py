"""Real Linux students for tests: an own range of users, a user without rights that runs wodmail, and the helper.

Tests with a `site` or a `linux_deployment` may run beside those of other test processes.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.parts import require
from wodmail.config import Settings
from wodmail.students import install
from wodmail.students.linux import LinuxAccounts

SLOT = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])  # each test process has users of its own
BASE = 61000
FIRST, LAST = 9001 + 100 * SLOT, 9004 + 100 * SLOT
MOST = 99  # students of one test process
SERVICE = f"wodmail-tests{SLOT}"


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

    def renew_home(self, student: int) -> None:
        """Make a home anew, whatever a test did to it."""
        home = self.settings.WODSTUDDIR / f"student{student}"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o755)
        os.chown(home, self.uid(student), self.uid(student))

    def start(self, student: int, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program as a student."""
        uid = self.uid(student)
        return subprocess.Popen(argv, user=uid, group=uid, extra_groups=[], cwd="/", start_new_session=True)


def _quiet(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def running(*wanted: int) -> list[psutil.Process]:
    """What runs as one of some uids."""
    found = []
    for process in psutil.process_iter(["uids", "status"]):
        uids = process.info["uids"]
        if uids and uids.real in wanted and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _remove_users() -> None:
    ours = {SERVICE, *(f"student{number}" for number in range(FIRST, FIRST + MOST))}
    there = {user.pw_uid: user.pw_name for user in pwd.getpwall() if user.pw_name in ours}
    # A user that still runs something can't be removed.
    while left := running(*there):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, 10)
    for name in there.values():
        subprocess.run(["userdel", name], capture_output=True, check=False)


def logs_in(student: int, word: str) -> bool:
    """Whether `su`, called by a user that is no root, lets the student in with that password."""
    user = pwd.getpwnam(SERVICE)
    argv = ["su", f"student{student}", "-c", "id -u"]
    done = subprocess.run(
        argv,
        input=f"{word}\n",
        text=True,
        capture_output=True,
        check=False,
        user=user.pw_uid,
        group=user.pw_gid,
        cwd="/",
    )
    return done.returncode == 0 and done.stdout.strip() == str(BASE + student)


@contextmanager
def site() -> Iterator[Site]:
    """Make the users, install the helper with one line for sudo, and take all of it away again."""
    for part in ("root", "useradd", "sudo", "setfacl"):
        require(part)
    with users() as folder:
        yield from _made(folder)


@contextmanager
def users(count: int = LAST - FIRST + 1) -> Iterator[Path]:
    """The students and the service user, with homes below one folder; gives the folder, removes all of it at the end.

    `service` in it is the service user's home, `students` holds the students'. One user of a slot at a time.

    Args:
        count: how many students, from FIRST on; at most MOST.
    """
    with Path(f"/var/tmp/wodmail-tests{SLOT}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_users()
        for left in Path("/etc/sudoers.d").glob(f"{SERVICE}-*"):
            left.unlink()  # by a run that was killed
        # Not below pytest's folder, which is shut for others: students must get to their homes.
        folder = Path(tempfile.mkdtemp(prefix="wodmail-tests-", dir="/var/tmp"))
        try:
            folder.chmod(0o755)
            _make_users(folder, count)
            yield folder
        finally:
            _remove_users()
            shutil.rmtree(folder)


def _make_users(folder: Path, count: int) -> None:
    homes, service = folder / "students", folder / "service"
    homes.mkdir(mode=0o755)
    _quiet("useradd", "--system", "--user-group", "-M", "-d", str(service), "--shell", "/usr/sbin/nologin", SERVICE)
    service.mkdir(mode=0o700)
    shutil.chown(service, SERVICE, SERVICE)
    for number in range(FIRST, FIRST + count):
        name, uid = f"student{number}", str(BASE + number)
        _quiet("groupadd", "--force", "--gid", uid, name)
        _quiet("useradd", "-M", "--uid", uid, "--gid", uid, "--home-dir", str(homes / name), "--shell", "/bin/sh", name)
        (homes / name).mkdir(mode=0o755)
        os.chown(homes / name, BASE + number, BASE + number)


def _made(folder: Path) -> Iterator[Site]:
    sudoers = Path(f"/etc/sudoers.d/{SERVICE}-{os.getpid()}")
    settings = Settings(
        WODUSER=SERVICE,
        WODUSERMIN=FIRST,
        WODUSERMAX=LAST,
        UIDBASE=BASE,
        GIDBASE=BASE,
        WODSTUDDIR=folder / "students",
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
