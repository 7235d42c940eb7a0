"""What runs as students, read from /proc (proc(5)) by plain calls; psutil takes four times as long for the same.

A process counts as a student's only when its real, effective and saved uid all are students'. So nothing of root's, of
a service's, or of a program that a student started with other rights is ever in the list.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from wodmail.config import Settings
from wodmail.students.rootlimits import LOWEST_UID

_TICKS = os.sysconf("SC_CLK_TCK")
_MOST = 64 * 1024  # bytes of a command line


@dataclass(frozen=True, slots=True)
class Students:
    """Whose processes are looked at.

    Args:
        base: a student's uid is this plus the number.
        lowest: lowest student number.
        highest: highest student number.
    """

    base: int
    lowest: int
    highest: int

    @classmethod
    def of(cls, settings: Settings) -> Students:
        """Those of the configuration."""
        return cls(settings.UIDBASE, settings.WODUSERMIN, settings.WODUSERMAX)

    def number(self, uid: int) -> int | None:
        """The student with that uid; None for everybody else, always for root and the system's accounts."""
        student = uid - self.base
        return student if uid >= LOWEST_UID and self.lowest <= student <= self.highest else None

    def owner(self, pid: int) -> int | None:
        """Whose a process is by its real, effective and saved uid at this moment; None unless all are students'."""
        return self.named(_read(f"/proc/{pid}/status", 4096))

    def named(self, status: bytes) -> int | None:
        """The same from the text of /proc/PID/status."""
        _, found, rest = status.partition(b"\nUid:\t")
        if not found:
            return None
        uids = [self.number(int(word)) for word in rest.split(None, 3)[:3]]
        return None if None in uids else uids[0]


class ExeFile(NamedTuple):
    """The file that a process runs, as the kernel knows it: no name can lie about it.

    Args:
        device: of its file system.
        inode: its number there.
        uid: who owns it.
        gid: its group.
        mode: type and permissions.
    """

    device: int
    inode: int
    uid: int
    gid: int
    mode: int


class Seen(NamedTuple):
    """A student's process at one moment; its pid and start time together are nobody else's.

    Args:
        pid: its number.
        start: clock ticks between boot and its start.
        student: whose it is.
        parent: pid of its parent.
        name: what it calls itself (the student can choose it).
        argv: its command line (the student can choose and change it), cut.
        exe: real path of its program.
        file: that program's file; None when it can't be seen.
        cpu_seconds: CPU time so far, all its threads together.
        children_seconds: the same of its children that have ended.
        age_seconds: since its start.
        stopped: it is stopped, or dead but for its entry.
    """

    pid: int
    start: int
    student: int
    parent: int
    name: str
    argv: tuple[str, ...]
    exe: str
    file: ExeFile | None
    cpu_seconds: float
    children_seconds: float
    age_seconds: float
    stopped: bool

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from every other process of this boot."""
        return self.pid, self.start

    @property
    def command_line(self) -> str:
        """The command line as one text; the name when it has none."""
        return " ".join(self.argv) or f"[{self.name}]"


class Watcher:
    """Lists students' processes, whatever they do to hinder it.

    A command line is memory of its process, and one that lies in a file system of the student's own may never come. So
    reading one has a deadline; a process that overruns it is *hidden*, and looked at without it from then on.

    Args:
        students: whose processes.
        seconds: the deadline for one process.
    """

    def __init__(self, students: Students, seconds: float = 10.0) -> None:
        self.students, self._seconds = students, seconds
        self.hidden: set[tuple[int, int]] = set()

    def scan(self, only: int | None = None) -> list[Seen]:
        """Every living process of students.

        Args:
            only: one of them; None for all.
        """
        while True:
            work = _Scan(self.students, only, frozenset(self.hidden))
            work.start()
            held = self._await(work)
            if held is None:
                if work.fault is not None:
                    raise work.fault
                found = {seen.key for seen in work.found}
                self.hidden = {key for key in self.hidden if only is not None or key in found}
                return work.found
            self.hidden.add(held)

    def _await(self, work: _Scan) -> tuple[int, int] | None:
        """Wait for the end of a look (None), or for a process that holds it up longer than the deadline."""
        while True:
            work.join(self._seconds / 2)
            if not work.is_alive():
                return None
            reading = work.reading
            if reading is not None and time.monotonic() - reading[1] >= self._seconds:
                return reading[0]


class _Scan(threading.Thread):
    """One look; in a thread of its own, which nobody waits for when it is held up."""

    def __init__(self, students: Students, only: int | None, hidden: frozenset[tuple[int, int]]) -> None:
        super().__init__(daemon=True, name="guard-scan")
        self._students, self._only, self._hidden = students, only, hidden
        self.found: list[Seen] = []
        self.fault: OSError | None = None
        self.reading: tuple[tuple[int, int], float] | None = None  # whose command line, since when

    def run(self) -> None:
        """Look at all of /proc."""
        wanted = {0, self._students.base + self._only} if self._only is not None else None
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            with os.scandir("/proc") as entries:
                names = [entry.name for entry in entries if entry.name.isdigit()]
        except OSError as error:
            self.fault = error
            return
        for name in names:
            seen = self._look(name, boot, wanted)
            if seen is not None and self._only in (None, seen.student):
                self.found.append(seen)

    def _look(self, name: str, boot: float, wanted: set[int] | None) -> Seen | None:
        """One process, when it is a student's and lives."""
        folder = f"/proc/{name}"
        try:
            # The owner is the effective uid, or root when the process hides itself (prctl(2), PR_SET_DUMPABLE).
            owner = os.stat(folder).st_uid  # noqa: PTH116 - once for every process on the machine
            if (owner != 0 and self._students.number(owner) is None) or (wanted is not None and owner not in wanted):
                return None
            student = self._students.named(_read(f"{folder}/status", 4096))
            if student is None:
                return None
            return self._seen(folder, int(name), student, boot)
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            return None
        finally:
            self.reading = None

    def _seen(self, folder: str, pid: int, student: int, boot: float) -> Seen | None:
        front, _, rest = _read(f"{folder}/stat", 4096).rpartition(b")")
        fields = rest.split()
        # A process whose first thread has ended looks dead while others of it may run on.
        if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
            return None
        start = int(fields[19])
        exe, file = _program(folder)
        if (pid, start) in self._hidden:
            argv: tuple[str, ...] = ()
        else:
            self.reading = ((pid, start), time.monotonic())
            argv = _argv(folder)
        return Seen(
            pid=pid,
            start=start,
            student=student,
            parent=int(fields[1]),
            name=_text(front.partition(b"(")[2]),
            argv=argv,
            exe=exe,
            file=file,
            cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
            children_seconds=(int(fields[13]) + int(fields[14])) / _TICKS,
            age_seconds=max(0.0, boot - start / _TICKS),
            stopped=fields[0] in b"TtZX",
        )


def _program(folder: str) -> tuple[str, ExeFile | None]:
    """Path and file of the program; nothing of them when the process is just about to end."""
    try:
        exe = os.readlink(f"{folder}/exe")  # noqa: PTH115 - see above
        status = os.stat(f"{folder}/exe")  # noqa: PTH116
    except OSError:
        return "", None
    return exe, ExeFile(status.st_dev, status.st_ino, status.st_uid, status.st_gid, status.st_mode)


def _argv(folder: str) -> tuple[str, ...]:
    data = _read(f"{folder}/cmdline", _MOST)
    return tuple(_text(word) for word in data.rstrip(b"\0").split(b"\0")) if data else ()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _read(path: str, most: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def descendants(everyone: Iterable[Seen], roots: Iterable[Seen]) -> list[Seen]:
    """The roots and what they have started, and what that has started (pure)."""
    children: dict[int, list[Seen]] = {}
    for each in everyone:
        children.setdefault(each.parent, []).append(each)
    found: dict[tuple[int, int], Seen] = {}
    todo = list(roots)
    while todo:
        each = todo.pop()
        if each.key not in found:
            found[each.key] = each
            todo += children.get(each.pid, ())
    return list(found.values())
