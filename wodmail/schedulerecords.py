"""What became of schedules: a JSON file and a log each in WODSTATEDIR/schedules, and a lock so that none runs twice.

Root and WODUSER both write here, and the folder is WODUSER's: every name is opened below a folder that is held open,
never through a link, so that nobody leads root astray.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from wodmail.errors import Failed, Refused
from wodmail.lock import acquired, locked

VERSION = 1
FOLDER = "schedules"
LARGEST = 1024 * 1024
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRESENT = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Busy(Refused):
    """The schedule is at work already."""


def busy(name: str) -> Busy:
    """The error about a schedule that is at work."""
    return Busy(f"{name} is at work already; look with: wod-schedule list")


class Records:
    """The records of one state folder.

    Args:
        state: WODSTATEDIR; it must be there.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / FOLDER

    def log(self, name: str) -> Path:
        """The log of a schedule's last run."""
        return self.folder / f"{name}.log"

    def read(self, name: str) -> dict[str, Any] | None:
        """What became of a schedule's last run; None when there was none, or nobody can read what is there."""
        try:
            with self._opened(make=False) as folder:
                found = json.loads(_text(folder, f"{name}.json"))
        except (FileNotFoundError, ValueError):
            return None
        except PermissionError as error:
            raise Refused(f"{self.folder} can't be read: {error.strerror}. Run this as root or as WODUSER.") from error
        return found if isinstance(found, dict) and found.get("version") == VERSION else None

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep a record: written whole under another name, then renamed.

        Raises:
            Failed: the disk refused.
        """
        text = json.dumps({"version": VERSION, "name": name, **record}, indent=1) + "\n"
        try:
            with self._opened() as folder:
                _replace(folder, f"{name}.json", text.encode())
        except OSError as error:
            raise Failed("The result could not be kept.", f"{self.folder / name}.json: {error}") from error

    @contextlib.contextmanager
    def logging(self, name: str) -> Iterator[IO[bytes]]:
        """A new log for a run; the one before is kept beside it, with .1 at its end."""
        with self._opened() as folder:
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{name}.log", f"{name}.log.1", src_dir_fd=folder, dst_dir_fd=folder)
            descriptor = os.open(f"{name}.log", _NEW, 0o600, dir_fd=folder)
            _as_folder(descriptor, folder)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                yield file

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Hold the schedule's lock.

        Raises:
            Busy: somebody else does.
            Failed: what lies in its place is no lock of ours.
        """
        with self._opened() as folder:
            descriptor = _lock_file(folder, f"{name}.lock")
            try:
                if not acquired(descriptor):
                    raise busy(name)
                yield
            finally:
                os.close(descriptor)

    def is_running(self, name: str) -> bool:
        """Whether somebody holds the schedule's lock."""
        try:
            with self._opened(make=False) as folder:
                return locked(os.open(f"{name}.lock", os.O_RDONLY | _PRESENT, dir_fd=folder))
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _opened(self, *, make: bool = True) -> Iterator[int]:
        state = os.open(self.folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            made = make and _made(state)
            try:
                folder = os.open(FOLDER, _FOLDER_FLAGS, dir_fd=state)
            except NotADirectoryError as error:
                raise Failed(f"{self.folder} is no folder but a link or a file; remove it.", str(error)) from error
            try:
                if made:
                    _as_folder(folder, state)
                yield folder
            finally:
                os.close(folder)
        finally:
            os.close(state)


def _made(state: int) -> bool:
    """Make our folder; whether it was not there."""
    try:
        os.mkdir(FOLDER, 0o700, dir_fd=state)
    except FileExistsError:
        return False
    return True


def _lock_file(folder: int, name: str) -> int:
    """Open a lock; only one that was made here just now is given away, for another's may be a hard link to any file."""
    try:
        descriptor = os.open(name, _NEW, 0o600, dir_fd=folder)
    except FileExistsError:
        try:
            descriptor = os.open(name, os.O_RDWR | _PRESENT, dir_fd=folder)
        except OSError as error:
            raise Failed(f"The lock {name} can't be opened.", str(error)) from error
    else:
        _as_folder(descriptor, folder)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise Failed(f"{name} is no lock of ours but another file or a link to one; remove it.")
    return descriptor


def _text(folder: int, name: str) -> str:
    """The text of a plain file; a link or anything else that somebody has put there is as good as nothing."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return ""
        raise
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        return file.read(LARGEST) if stat.S_ISREG(os.fstat(descriptor).st_mode) else ""


def _as_folder(descriptor: int, folder: int) -> None:
    """Root gives what it makes to the folder's owner, who writes here too."""
    if os.geteuid() == 0:
        owner = os.fstat(folder)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _replace(folder: int, name: str, data: bytes) -> None:
    temporary = f".{name}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, _NEW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _as_folder(file.fileno(), folder)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)
