"""The guard's folder, WODSTATEDIR/guard: JSON files with a version, replaced in one go, for their owner alone."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from wodmail.errors import Failed, Refused

log = structlog.get_logger("wodmail.guard")

VERSION = 1
MODE = 0o700
Entry = TypeVar("Entry")
_SHOWN = 300


def folder(state: Path) -> Path:
    """The guard's folder below WODSTATEDIR, made when it isn't there.

    Raises:
        Failed: it can't be made.
    """
    place = state / "guard"
    try:
        (place / "evidence").mkdir(parents=True, exist_ok=True, mode=MODE)
    except OSError as error:
        raise Failed(f"The guard can't keep its files in {place}; run it as WODUSER.", str(error)) from error
    return place


def write(file: Path, data: dict[str, Any]) -> None:
    """Write a file: a temporary one, renamed.

    Raises:
        OSError: the folder can't be written.
    """
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            json.dump({"version": VERSION, **data}, stream, indent=1)
            stream.write("\n")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read(file: Path) -> dict[str, Any] | None:
    """A file's data; None when it isn't there or is no such file (a full disk may have cut it).

    Raises:
        OSError: it can't be read.
    """
    try:
        data = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) and data.get("version") == VERSION else None


def intact(entries: object, take: Callable[[Any], Entry]) -> list[Entry]:
    """Those of some entries that can be taken: another version may have written others, and each loses only itself.

    Args:
        entries: a list, or an object, of which the pairs are taken.
        take: makes one of it; fails with a LookupError, TypeError, ValueError or OverflowError when it can't.
    """
    found: list[Entry] = []
    for entry in entries.items() if isinstance(entries, dict) else entries if isinstance(entries, list) else ():
        try:
            found.append(take(entry))
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            log.warning("guard-state-unreadable", entry=repr(entry)[:_SHOWN], cause=repr(error)[:_SHOWN])
    return found


@contextmanager
def held(place: Path) -> Iterator[None]:
    """The folder for this guard alone.

    Raises:
        Refused: another one works on it.
    """
    with (place / "lock").open("a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            words = "The guard already runs; `wod-kill-processes status` tells what it sees, --dry-run only looks."
            raise Refused(words) from error
        yield
