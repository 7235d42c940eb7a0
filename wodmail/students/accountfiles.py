"""The system's files of accounts: read, and rewritten by the thousand lines under the lock that all their tools take.

Why not useradd, newusers or systemd-sysusers: docs/decisions/students-in-bulk.md. The lock is that of lckpwdf(3), which
useradd, chpasswd, PAM and systemd-sysusers wait for; each file is written beside itself, synced, and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wodmail.errors import Failed, Temporary

NEEDED = ("passwd", "group")
SECRET = ("shadow", "gshadow")
SUBORDINATE = ("subuid", "subgid")
PATIENCE = 15.0  # seconds, as lckpwdf(3) waits
_PAUSE = 0.02
_LOCKED = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
_AGING = re.compile(r"^(PASS_MIN_DAYS|PASS_MAX_DAYS|PASS_WARN_AGE)\s+(\d+)\s*$", re.M)


@dataclass
class Table:
    """One of the files, e.g. /etc/passwd: its lines as they are, and those that have changed since it was read.

    Args:
        name: of the file, in its folder.
        lines: without their ends; what is no entry (comments, compatibility lines) stays as it is.
        fresh: new lines.
    """

    name: str
    lines: list[str]
    fresh: list[str] = field(default_factory=list)
    changed: bool = False

    def entries(self) -> Iterator[tuple[int, list[str]]]:
        """Index and fields of each line that is an entry."""
        for index, line in enumerate(self.lines):
            if line and line[0] not in "#+-" and ":" in line:
                yield index, line.split(":")

    def put(self, index: int | None, fields: list[str]) -> None:
        """Write an entry in place of a line, or as a new one."""
        self.changed = True
        if index is None:
            self.fresh.append(":".join(fields))
        else:
            self.lines[index] = ":".join(fields)

    def strike(self, indexes: set[int]) -> None:
        """Take lines out."""
        if indexes:
            self.changed = True
            self.lines = [line for index, line in enumerate(self.lines) if index not in indexes]

    def data(self) -> bytes:
        """The file's bytes; new lines stand before those for NIS, which end what is local."""
        compat = next((number for number, line in enumerate(self.lines) if line[:1] in ("+", "-")), len(self.lines))
        lines = [*self.lines[:compat], *self.fresh, *self.lines[compat:]]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


@dataclass
class Files:
    """All files of accounts in one folder, as they were read.

    Args:
        tables: by name; passwd and group always, the others where the system has them.
        aging: fields of a new line in shadow: least and most days, days of warning (login.defs(5)).
    """

    tables: dict[str, Table] = field(default_factory=dict)
    aging: tuple[str, str, str] = ("", "", "")


def read(etc: Path) -> Files:
    """Read the files.

    Args:
        etc: the folder, e.g. /etc.

    Raises:
        Failed: one can't be read, or passwd or group is missing.
    """
    files = Files(aging=_aging(etc / "login.defs"))
    for name in (*NEEDED, *SECRET, *SUBORDINATE):
        try:
            text = (etc / name).read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            if name in NEEDED:
                raise Failed(f"There is no {etc / name}; this is no system with accounts.") from None
            continue
        except OSError as error:
            raise Failed(f"{etc / name} can't be read: {error.strerror}; run as root.") from error
        files.tables[name] = Table(name, text.removesuffix("\n").split("\n") if text else [])
    return files


def _aging(file: Path) -> tuple[str, str, str]:
    try:
        found = dict(_AGING.findall(file.read_text(encoding="utf-8", errors="replace")))
    except FileNotFoundError:
        found = {}
    return found.get("PASS_MIN_DAYS", ""), found.get("PASS_MAX_DAYS", ""), found.get("PASS_WARN_AGE", "")


@contextlib.contextmanager
def locked(etc: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of the files of accounts; it goes with the process, however that ends.

    Args:
        etc: the folder.
        patience: seconds to wait for another program that has it.

    Raises:
        Temporary: another program has it for longer.
        Failed: the folder can't be written.
    """
    until = time.monotonic() + patience
    try:
        lock = os.open(etc / ".pwd.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Failed(f"{etc / '.pwd.lock'} can't be opened: {error.strerror}; run as root.") from error
    try:
        while not _taken(lock):
            _wait(until, f"Another program has locked the accounts in {etc}")
        while holder := _holder(etc):
            _wait(until, holder)
        for left in (each for name in _LOCKED for each in (_fresh(etc / name), _fresh(etc / f"{name}-"))):
            left.unlink(missing_ok=True)  # by a run that was killed
        yield
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(etc: Path) -> str:
    """Who has a file of its own locked (FILE.lock, with its pid), as vipw does; empty when nobody that lives."""
    for name in _LOCKED:
        try:
            pid = int((etc / f"{name}.lock").read_bytes().strip(b"\0\n ") or b"0")
        except FileNotFoundError:
            continue
        except ValueError:
            pid = 0
        if pid and Path(f"/proc/{pid}").exists():
            return f"Process {pid} has {etc / name} locked"
    return ""


def _wait(until: float, what: str) -> None:
    if time.monotonic() > until:
        raise Temporary(f"{what}; try again when it has ended.")
    time.sleep(_PAUSE)


def write(etc: Path, files: Files, order: tuple[str, ...], *, backup: bool) -> list[str]:
    """Write the files that have changed; to be called with the lock held.

    Args:
        etc: the folder.
        files: as read under that lock, and changed.
        order: in which they are put in place. An interruption leaves the later ones as they were.
        backup: whether each file is first kept with a dash at its name's end, as useradd does.

    Returns:
        The names of those that were written.

    Raises:
        Failed: one could not be written; it is as it was.
    """
    todo = [files.tables[name] for name in order if name in files.tables and files.tables[name].changed]
    for table in todo:
        target = etc / table.name
        try:
            if backup:
                _put(target, etc / f"{table.name}-", target.read_bytes())
            _put(target, target, table.data())
        except OSError as error:
            raise Failed(f"{target} can't be written: {error.strerror}; it is as it was.") from error
        table.changed = False
    return [table.name for table in todo]


def _put(pattern: Path, target: Path, data: bytes) -> None:
    """Write a file whole or not at all, with owner, mode and attributes (SELinux's label) of another."""
    fresh = _fresh(target)
    status = pattern.stat()
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
            for name in os.listxattr(pattern):
                os.setxattr(file.fileno(), name, os.getxattr(pattern, name))
            os.fsync(file.fileno())
        fresh.replace(target)
        _sync(target.parent)
    finally:
        fresh.unlink(missing_ok=True)


def _fresh(target: Path) -> Path:
    return target.with_name(f".{target.name}.wodmail")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
