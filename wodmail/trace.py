"""The trace: the file that operators `tail -F` to watch jobs, with the credentials in each job's last line.

Jobs run side by side, so each line is prefixed with request and student; the last line of a job is not, and keeps the
form that existing tools look for.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from wodmail.config import Settings
from wodmail.errors import Failed
from wodmail.logs import Masker

MAX_BYTES = 16 * 1024 * 1024
MAX_LINE = 16 * 1024
ROTATE_SECONDS = 7 * 24 * 3600
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def date_text(when: datetime) -> str:
    """A time as `date` prints it in the C locale: `Fri Mar  3 09:11:39 UTC 2023`.

    Args:
        when: with a time zone; shown in UTC.
    """
    utc = when.astimezone(UTC)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[utc.weekday()]
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[utc.month - 1]
    return f"{day} {month} {utc.day:2d} {utc:%H:%M:%S} UTC {utc.year}"


def who(students: int | Sequence[int]) -> str:
    """The students of a job for people: `student121`, for several `student1-40` or `student1,3,9`."""
    numbers = [students] if isinstance(students, int) else sorted(students)
    if len(numbers) < 2:
        return f"student{numbers[0]}" if numbers else "-"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"student{numbers[0]}-{numbers[-1]}"
    return "student" + ",".join(str(number) for number in numbers[:5]) + ("…" if len(numbers) > 5 else "")


def _harmless(line: str) -> str:
    """A line without control characters, which would reach the terminal of whoever reads the trace."""
    cut = line if len(line) <= MAX_LINE else line[:MAX_LINE] + " … (cut)"
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", cut).rstrip()


def trace_path(settings: Settings) -> Path:
    """Where operators `tail`: `.mail/from` in the home of WODUSER; in the sandbox in WODSTATEDIR."""
    if settings.WODSANDBOX:
        return settings.WODSTATEDIR / ".mail" / "from"
    try:
        home = Path(pwd.getpwnam(settings.WODUSER).pw_dir)
    except KeyError:  # an account that isn't made yet; whoever runs this has a home
        home = Path.home()
    return home / ".mail" / "from"


class Trace:
    """Appends to the trace, keeps it below a size and old copies no longer than wanted.

    Safe for several threads and processes: lines of one call stay together, and a rotation loses none. `tail -F`
    follows a rotation. The file and its copies (`from.20230303T091139Z`) are 0600.

    Args:
        path: the file, usually `.mail/from` in the home of WODUSER; its folder is made (0700) when absent.
        masker: its secrets are masked in all lines but the last one of a job.
        max_bytes: above this the file becomes a copy and a new one is begun.
        retention_days: copies older than this go (WODRETENTION).
    """

    def __init__(
        self, path: Path, masker: Masker | None = None, *, max_bytes: int = MAX_BYTES, retention_days: int = 90
    ) -> None:
        self.path = path
        self._masker = masker if masker is not None else Masker()
        self._max_bytes = max_bytes
        self._retention = retention_days * 24 * 3600
        self._thread_lock = threading.Lock()

    def line(self, request: int, student: int | Sequence[int], text: str) -> None:
        """Append a text, each of its lines prefixed and masked.

        Args:
            request: the request's number.
            student: the job's student, or all of them for a RESET over a range.
            text: one or more lines.

        Raises:
            Failed: the file can't be written, or is a link.
        """
        self._lines(request, student, [text])

    def mail(self, request: int, student: int | Sequence[int], envelope: Iterable[str]) -> None:
        """Append the mail's envelope lines, with which a job begins.

        Args:
            request: the request's number.
            student: see `line`.
            envelope: for example ` Subject: CREATE 121 0`.

        Raises:
            Failed: see `line`.
        """
        self._lines(request, student, envelope)

    def end(self, student: int, password: str | None, w: str, action: str, when: datetime | None = None) -> None:
        """Append a job's last line: unprefixed, unmasked, with the credentials.

        Args:
            student: the student's number; a job for several has one such line for each.
            password: the student's new password; None when the job set none (shown as `-`).
            w: the workshop as mailed.
            action: CREATE, CLEANUP, RESET or PURGE.
            when: with a time zone; now by default.

        Raises:
            Failed: see `line`.
        """
        at = date_text(when if when is not None else datetime.now(UTC))
        text = f"for student {student} (passwd {password or '-'}) with workshop {w} with action {action} at {at}"
        self._append(f"end of procmail-action {_harmless(text)}\n")

    def _lines(self, request: int, student: int | Sequence[int], texts: Iterable[str]) -> None:
        prefix = f"[{request} {who(student)}] "
        masked = (line for text in texts for line in self._masker.mask(text).splitlines() or [""])
        self._append("".join(f"{(prefix + _harmless(line)).rstrip()}\n" for line in masked))

    def sweep(self, now: float | None = None) -> int:
        """Begin a new file when this one is a week old, and remove copies that are too old; for the daily round.

        Args:
            now: seconds since 1970, the present by default.

        Returns:
            how many copies were removed.

        Raises:
            Failed: trouble on disk.
        """
        present = time.time() if now is None else now
        with self._locked() as begun:
            if present - begun > ROTATE_SECONDS and self._size() > 0:
                self._rotate()
            old = [copy for copy in self.copies() if present - copy.lstat().st_mtime > self._retention]
            for copy in old:
                copy.unlink(missing_ok=True)
        return len(old)

    def copies(self) -> tuple[Path, ...]:
        """The files that earlier rotations left, the oldest first."""
        form = re.compile(re.escape(self.path.name) + r"\.[0-9]{8}T[0-9]{6}Z(-[0-9]+)?")
        found = [entry for entry in self.path.parent.iterdir() if form.fullmatch(entry.name)]
        return tuple(sorted(found, key=lambda entry: (entry.name.partition("-")[0], entry.name)))

    def _append(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        with self._locked():
            if self._size() + len(data) > self._max_bytes and self._size() > 0:
                self._rotate()
            with self._opened(self.path) as handle:
                _write_all(handle, data)

    @contextmanager
    def _locked(self) -> Iterator[float]:
        """Hold the trace alone, among threads and processes; yields when the present file was begun.

        The lock's file is an own one, because the trace itself is renamed; its time of change is that beginning.
        """
        with self._thread_lock, self._trouble():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._opened(self.path.with_name(f".{self.path.name}.lock")) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self._size() == 0:
                    os.utime(lock)
                yield os.fstat(lock).st_mtime

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        """Open for appending, only what is a plain file of ours under a single name, and 0600 from its first byte."""
        handle = os.open(path, _WRITE, 0o600)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
                raise PermissionError(0, "not a plain file of this user's under a single name", str(path))
            if stat.S_IMODE(status.st_mode) != 0o600:
                os.fchmod(handle, 0o600)
            yield handle
        finally:
            os.close(handle)

    def _size(self) -> int:
        try:
            return self.path.lstat().st_size
        except FileNotFoundError:
            return 0

    def _rotate(self) -> None:
        """Rename the file to a copy with the time in its name; the next append begins a new one."""
        name = self.path.with_name(f"{self.path.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        free, number = name, 1
        while os.path.lexists(free):
            free, number = name.with_name(f"{name.name}-{number:03d}"), number + 1
        with self._opened(self.path):  # only what passes our checks, and so 0600, becomes a copy
            self.path.rename(free)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            words = "the trace can't be written; the operator has to look at it"
            raise Failed(words, f"{self.path}: {error.strerror or error}") from error


def _write_all(handle: int, data: bytes) -> None:
    """Write everything or, when the disk is full, nothing: half a line would spoil the next one."""
    before = os.fstat(handle).st_size
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
    except OSError:
        os.ftruncate(handle, before)
        raise
