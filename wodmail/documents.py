"""Exported documents between a job's end and the result mail that carries them: a folder a job below WODSTATEDIR.

They are not read from the home when the mail goes out: by then a later job may have emptied it, or filled it for
somebody else.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from wodmail.errors import Failed, Temporary
from wodmail.students.exports import Document

MOST = 10 * 1024 * 1024
"""Bytes of documents that one mail holds at most, before they are encoded."""
_HEADERS = 1024
_INDEX = "index.json"
_ABANDONED = 3600.0


@dataclass(frozen=True, slots=True)
class Kept:
    """One document.

    Args:
        student: whose it is.
        path: within the workshop's folder.
        size: bytes.
        data: the document; None when it is too large for a mail.
    """

    student: int
    path: str
    size: int
    data: bytes | None = field(default=None, repr=False)


class Documents:
    """The documents of jobs whose mails are not out yet; every change is on disk when its call returns.

    Args:
        folder: where they lie, made when absent; `documents` below WODSTATEDIR.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, job: int, student: int, found: Sequence[Document]) -> None:
        """Keep what an export has made, in place of what an earlier try of the job did.

        Args:
            job: the job's number.
            student: whose they are.
            found: what became of each notebook; those without a document are passed over.

        Raises:
            Failed: trouble on disk.
        """
        made = within([Kept(student, each.path, each.size, each.data) for each in found if each.path], MOST)
        fresh = self.folder / f".{job}.{secrets.token_hex(6)}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            fresh.mkdir(mode=0o700)
            for number, each in enumerate(made):
                if each.data is not None:
                    _write(fresh / str(number), each.data)
            rows = [{"student": e.student, "path": e.path, "size": e.size, "kept": e.data is not None} for e in made]
            _write(fresh / _INDEX, json.dumps(rows).encode())
            _sync(fresh)
            shutil.rmtree(self.folder / str(job), ignore_errors=True)
            fresh.rename(self.folder / str(job))
            _sync(self.folder)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            words = "The documents were made, but could not be kept for the mail; they are in the workshop's folder."
            raise Failed(words, f"{self.folder}: {error}") from error

    def get(self, job: int) -> list[Kept]:
        """The documents of a job; none when it made none, or its mails are out.

        Raises:
            Temporary: trouble on disk.
        """
        folder = self.folder / str(job)
        try:
            rows = json.loads((folder / _INDEX).read_bytes())
            return [
                Kept(
                    row["student"],
                    row["path"],
                    row["size"],
                    (folder / str(number)).read_bytes() if row["kept"] else None,
                )
                for number, row in enumerate(rows)
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise Temporary("The documents for this mail can't be read.", f"{folder}: {error}") from error

    def forget(self, job: int) -> None:
        """Remove a job's documents; nothing happens when it has none.

        Raises:
            Failed: trouble on disk.
        """
        with self._removing():
            if (self.folder / str(job)).is_dir():
                shutil.rmtree(self.folder / str(job))

    def sweep(self, keep: Collection[int]) -> int:
        """Remove what a crash left of jobs that have ended; returns how many jobs that were.

        Args:
            keep: jobs that have not ended, or whose mails are not out.

        Raises:
            Failed: trouble on disk.
        """
        with self._removing():
            gone = list(self._gone(keep)) if self.folder.is_dir() else []
            for folder in gone:
                shutil.rmtree(folder)
        return len(gone)

    def _gone(self, keep: Collection[int]) -> Iterator[Path]:
        for folder in self.folder.iterdir():
            if folder.name.isdecimal():
                if int(folder.name) not in keep:
                    yield folder
            elif folder.stat().st_mtime < time.time() - _ABANDONED:
                yield folder

    @contextmanager
    def _removing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            words = "The documents of mails that are out can't be removed; the operator has to look at it."
            raise Failed(words, f"{self.folder}: {error}") from error


def within(found: Iterable[Kept], most: int) -> list[Kept]:
    """The documents, those that go beyond a mail's size without their content: the small ones stay (pure).

    Args:
        found: in the order in which they are named.
        most: bytes of all that keep their content.
    """
    every = list(found)
    chosen = set()
    for number in sorted(range(len(every)), key=lambda each: every[each].size):
        data = every[number].data
        if data is not None and len(data) <= most:
            most -= len(data)
            chosen.add(number)
    return [each if number in chosen else replace(each, data=None) for number, each in enumerate(every)]


def room(largest: int, others: int, count: int) -> int:
    """How many bytes of documents a mail may hold (pure).

    Args:
        largest: bytes that the mail server takes.
        others: bytes of the mail without documents.
        count: how many documents there are; each has headers of its own.

    Returns:
        0 or more: base64 makes 78 bytes of 57, line ends included (RFC 2045 section 6.8).
    """
    return max(0, (largest - others - count * _HEADERS) * 57 // 78)


def _write(file: Path, data: bytes) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
