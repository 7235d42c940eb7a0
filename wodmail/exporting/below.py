"""Files below a folder, reached step by step: a link on the way, put there at whatever moment, leads nowhere."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MODE = 0o644
Folder = Path | int
"""A folder: its path, or better a descriptor of it, which stays the same folder whatever becomes of its path."""
_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def above(folder: Folder, path: str) -> Iterator[tuple[int, str]]:
    """The folder that holds a file, and the file's name in it.

    Args:
        folder: where the path begins.
        path: names with `/` between them, none of them `..`.

    Yields:
        A descriptor, which is closed afterwards, and the last name.

    Raises:
        OSError: a part of the way isn't there or is no folder; ELOOP or ENOTDIR when it is a link.
    """
    *parts, name = path.split("/")
    handle = os.dup(folder) if isinstance(folder, int) else os.open(folder, _STEP & ~os.O_NOFOLLOW)
    try:
        for part in parts:
            inner = os.open(part, _STEP, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle, name
    finally:
        os.close(handle)


@contextmanager
def opened(folder: Folder, path: str) -> Iterator[int]:
    """A file's descriptor, for reading; it may be of another kind of file (never waits for a pipe's other end).

    Raises:
        OSError: see `above`, or it can't be read.
    """
    with above(folder, path) as (handle, name):
        file = os.open(name, _FILE, dir_fd=handle)
    try:
        yield file
    finally:
        os.close(file)


def write(folder: Folder, path: str, data: bytes) -> None:
    """Write a file whole or not at all, mode 0644; what was there, a link too, is replaced.

    Raises:
        OSError: see `above`, or it can't be written.
    """
    with above(folder, path) as (handle, name):
        fresh = f".wod-{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(fresh, _FRESH, 0o600, dir_fd=handle), "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), MODE)
            os.rename(fresh, name, src_dir_fd=handle, dst_dir_fd=handle)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=handle)
