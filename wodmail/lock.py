"""Locks on files that the kernel lets go of, whatever ends the process."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from wodmail.errors import Refused

PATIENCE = 0.5
"""Seconds for which a lock is asked for again: somebody may only be looking whether it is held (`held`)."""


class Lock:
    """Only one live processor a state folder.

    Args:
        file: the lock file.

    Raises:
        Refused: another one has it.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file: IO[str] = file.open("a+", encoding="ascii")
        if not acquired(self._file.fileno()):
            self._file.seek(0)
            owner = self._file.read(20).strip() or "unknown"
            self._file.close()
            raise Refused(
                f"Another wodmail (process {owner}) already works on {file.parent}. Stop it first, or use another "
                "WODSTATEDIR.",
            )
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let another processor in."""
        self._file.close()


def held(file: Path) -> bool:
    """Whether some process holds that lock; False when there is no such file.

    Raises:
        Refused: the file may not be read.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise Refused(f"{file} can't be read. Run this as root or as WODUSER.") from error
    return locked(descriptor)


def locked(descriptor: int) -> bool:
    """Whether some process holds a lock on that open file; the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def acquired(descriptor: int) -> bool:
    """Lock an open file; whether we have it. Asked for PATIENCE seconds, see there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        else:
            return True
