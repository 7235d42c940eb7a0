"""The one place where a clear password lies at rest: a folder of files that only the service's user can read.

Everything durable (database, step results, queued writes, logs) holds a reference instead, made by `reference`. An
entry belongs to a job and goes when the job and its queued writes have ended.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets as random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from wodmail.errors import Failed

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
MAX_BYTES = 64 * 1024
_REFERENCE = re.compile(r"secret:([1-9][0-9]{0,17})/(" + NAME.pattern + ")")


def reference(job: int, name: str) -> str:
    """The text that stands for a secret wherever something is stored durably, for example `secret:57/password-121`.

    Args:
        job: the job's number, 1 or more.
        name: letters, digits, `_`, `.` and `-`, at most 64, no dot in front.

    Raises:
        Failed: when job or name can't be part of a reference.
    """
    text = f"secret:{job}/{name}"
    if not _REFERENCE.fullmatch(text):
        raise Failed("a secret can't be stored under that name", f"no reference: job {job}, name {name[:80]!r}")
    return text


def job_of(ref: str) -> int:
    """The job that a reference's secret belongs to.

    Raises:
        Failed: the text is no reference (it is not shown: it might be a password).
    """
    match = _REFERENCE.fullmatch(ref)
    if match is None:
        raise Failed("a stored password reference is broken; the operator has to look at it", "not a reference")
    return int(match[1])


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_new(file: Path, data: bytes) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _trouble(doing: str) -> Iterator[None]:
    """Name what was being done when the disk says no; the value itself is never part of it."""
    try:
        yield
    except OSError as error:
        words = "the store of passwords has trouble on disk; the operator has to look at it"
        raise Failed(words, f"{doing}: {error.strerror or error}") from error


class Secrets:
    """Secrets by job and name, one file each (0600) in a folder a job (0700).

    Safe for several threads and processes; every change is on disk when its call returns.

    Args:
        folder: where they lie, made when absent; `secrets` below WODSTATEDIR.

    Raises:
        Failed: the folder is a link, belongs to another user or can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _trouble(f"making {folder}"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                words = "the store of passwords isn't safe; the operator has to look at it"
                raise Failed(words, f"{folder} is a link or belongs to another user; remove it or mend its owner")
            folder.chmod(0o700)

    def put(self, job: int, name: str, value: str) -> str:
        """Store a secret, replacing an earlier one of that name.

        Args:
            job: the job's number, 1 or more.
            name: see `reference`.
            value: the secret, at most 64 KiB as UTF-8.

        Returns:
            the reference that may be stored elsewhere.

        Raises:
            Failed: a name that is not allowed, a value too large, or trouble on disk.
        """
        ref, data = reference(job, name), value.encode("utf-8")
        if len(data) > MAX_BYTES:
            raise Failed("a secret is too large to be stored", f"{ref}: {len(data)} bytes, at most {MAX_BYTES}")
        with _trouble(f"storing {ref}"), self._alone():
            self._put(self.folder / str(job), name, data)
        return ref

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time, of all threads and processes: a folder never goes while something is put into it."""
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _put(self, folder: Path, name: str, data: bytes) -> None:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self.folder)
        temporary = folder / f".{name}.{random.token_hex(6)}"
        try:
            _write_new(temporary, data)
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(folder)

    def get(self, job: int, name: str) -> str | None:
        """The secret, or None when there is none (any more).

        Raises:
            Failed: a name that is not allowed, or trouble on disk (a link in its place included).
        """
        ref = reference(job, name)
        with _trouble(f"reading {ref}"):
            try:
                handle = os.open(self.folder / str(job) / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            with os.fdopen(handle, "rb") as source:
                return source.read(MAX_BYTES).decode("utf-8")

    def resolve(self, ref: str) -> str | None:
        """The secret that a reference stands for, or None when it is forgotten.

        Raises:
            Failed: the text is no reference (it is not shown: it might be a password).
        """
        match = _REFERENCE.fullmatch(ref)
        if match is None:
            raise Failed("a stored password reference is broken; the operator has to look at it", "not a reference")
        return self.get(int(match[1]), match[2])

    def forget(self, job: int) -> None:
        """Remove all secrets of a job; nothing happens when it has none.

        Raises:
            Failed: trouble on disk.
        """
        folder = self.folder / str(int(job))
        with _trouble(f"forgetting the secrets of job {job}"), self._alone():
            if folder.is_dir():
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
            _sync_folder(self.folder)

    def list_jobs(self) -> tuple[int, ...]:
        """The jobs that still have secrets, in order.

        Raises:
            Failed: trouble on disk.
        """
        with _trouble(f"listing {self.folder}"):
            return tuple(sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal()))

    def sweep(self, keep: Collection[int]) -> int:
        """Forget every job that is not among those to keep: what a crash left behind.

        Args:
            keep: the jobs that have not ended or still have queued writes.

        Returns:
            how many jobs were forgotten.

        Raises:
            Failed: trouble on disk.
        """
        gone = [job for job in self.list_jobs() if job not in keep]
        for job in gone:
            self.forget(job)
        return len(gone)
