"""What the root helper may touch.

Standard library alone: the root helper carries a copy of this file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wodmail.students import treewriter

LOCKS = "/run/wodmail-helper"
LOWEST_UID = 1000
_HIGHEST_GUARD = 2_147_400_000  # above what systems give to accounts, containers and directories, below 2**31


class HelperError(Exception):
    """A request that can't be served.

    Args:
        kind: refused (the limits don't allow it), failed (needs an operator) or temporary.
        words: for the sender of the mail.
        cause: for the operator.
    """

    def __init__(self, kind: str, words: str, cause: str = "") -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words
        self.cause = cause or words


@dataclass(frozen=True)
class Limits:
    """What the helper may touch.

    Args:
        lowest: lowest student number.
        highest: highest student number.
        uidbase: a student's uid is its number plus this.
        gidbase: the same for its gid.
        studdir: absolute path of the folder of homes.
        user: the account that wodmail runs as; gets its ACL in the homes.
        exporter: absolute path of the program that makes documents of notebooks; "" when there is none.
    """

    lowest: int
    highest: int
    uidbase: int
    gidbase: int
    studdir: str
    user: str
    exporter: str = ""


@dataclass(frozen=True)
class Account:
    """A student's account as the system knows it.

    Args:
        name: its name.
        uid: its uid.
        gid: its gid.
        home: absolute path of its home.
        guard: the uid that shields what the helper does for this student from the student; nobody's.
    """

    name: str
    uid: int
    gid: int
    home: str
    guard: int


def trusted(path: Path) -> None:
    """See that nobody but root can change a file: it and every folder above belong to root and are shut for others.

    A folder like /tmp, where everybody may write but nobody may touch what is another's, is as good.

    Raises:
        HelperError: who could change it.
    """
    for each in (path, *path.parents):
        status = each.lstat()
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_uid != 0 or (status.st_mode & 0o022 and not sticky) or stat.S_ISLNK(status.st_mode):
            words = "The root helper is not installed safely."
            raise HelperError("failed", words, f"{each} must belong to root, be writable by root alone and be no link")


def read_limits(path: Path) -> Limits:
    """Read the file of limits.

    Raises:
        HelperError: it is missing, could be changed by others, or says something impossible.
    """
    try:
        trusted(path)
        data = json.loads(path.read_text(encoding="utf-8"))
        low, high, uids, gids = (int(data[key]) for key in ("lowest", "highest", "uidbase", "gidbase"))
        exporter = str(data.get("exporter", ""))
        limits = Limits(low, high, uids, gids, str(data["studdir"]), str(data["user"]), exporter)
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = "The root helper is not installed rightly."
        raise HelperError("failed", words, f"{path}: {error!r}; run `wodmail helper install` as root") from error
    first = min(limits.uidbase, limits.gidbase) + limits.lowest
    if not 1 <= limits.lowest <= limits.highest or first < LOWEST_UID or not limits.studdir.startswith("/"):
        raise HelperError("failed", "The root helper's limits are impossible.", f"{path}: {limits}")
    return limits


def account_of(limits: Limits, student: object) -> Account:
    """The account of a student, checked against the limits and the system's user list.

    Raises:
        HelperError: outside the limits, unknown, or not the account that it should be.
    """
    if not isinstance(student, int) or isinstance(student, bool) or not limits.lowest <= student <= limits.highest:
        raise HelperError("refused", f"student {student!r} is not one of this backend's.")
    name = f"student{student}"
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise HelperError("failed", f"student {student} has no account here.", f"no user {name}; make it") from None
    home = f"{limits.studdir.rstrip('/')}/{name}"
    wanted = (limits.uidbase + student, limits.gidbase + student, home)
    found = (entry.pw_uid, entry.pw_gid, entry.pw_dir)
    if found != wanted:
        words = f"The account of student {student} is not what it should be."
        raise HelperError("failed", words, f"{name} has uid, gid, home {found}, must be {wanted}")
    guard = guard_of(student)
    if guard <= limits.uidbase + limits.highest:
        cause = f"no uid is left for the helper's own use above those of the students, up to {limits.highest}"
        raise HelperError("failed", "The root helper's limits are impossible.", cause)
    return Account(name, entry.pw_uid, entry.pw_gid, home, guard)


def guard_of(student: int) -> int:
    """A uid for each student that is no account's, counted down from the highest one there is for such."""
    ranges = (line.split() for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines())
    # In a container there may be few: then from below "nobody".
    highest = max(int(first) + int(count) for first, _, count in ranges) - 3
    return min(_HIGHEST_GUARD, highest) - student


def hold(name: str) -> int:
    """Take a lock that all helpers on this machine share and hold it until this process ends, or closes it.

    Returns:
        The lock's descriptor.

    Raises:
        HelperError: the folder of the locks is not root's own.
    """
    lock = _open_lock(name)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def try_hold(name: str) -> int | None:
    """Take such a lock when nobody has it; else None.

    Raises:
        HelperError: see `hold`.
    """
    lock = _open_lock(name)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _open_lock(name: str) -> int:
    Path(LOCKS).mkdir(0o700, exist_ok=True)
    status = os.lstat(LOCKS)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise HelperError("failed", "The root helper can't lock an account.", f"{LOCKS} is not root's own folder")
    return os.open(f"{LOCKS}/{name}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold such a lock for a while."""
    lock = hold(name)
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def opened_home(account: Account) -> Iterator[int]:
    """The student's home as a descriptor; to be called as the student.

    Raises:
        HelperError: missing, a link, another's, or on no terms to be opened.
    """
    parent, name = account.home.rsplit("/", 1)
    try:
        home = _open_home(parent, name)
    except OSError as error:
        number = name.removeprefix("student")
        words = f"The home of student {number} is not usable."
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.lstat(account.home).st_mode):
                words = f"The home of student {number} is not usable: it is a link."
        raise HelperError("failed", words, f"{account.home}: {error.strerror}") from error
    try:
        owner = os.fstat(home).st_uid
        if owner != account.uid:
            words = f"The home of {account.name} belongs to somebody else."
            raise HelperError("failed", words, f"{account.home}: uid {owner}, must be {account.uid}")
        yield home
    finally:
        os.close(home)


def _open_home(parent: str, name: str) -> int:
    try:
        return treewriter.open_home(parent, name)
    except PermissionError:
        path = os.open(f"{parent}/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{path}", 0o700)  # noqa: PTH101 - a descriptor has no Path
        finally:
            os.close(path)
        return treewriter.open_home(parent, name)
