"""A look at what runs as students, of which no student can make it last.

A command line is memory of its process, and a program is a file: of one that lies in a file system of the student's own
neither may ever come. So reading them has a deadline, and so has a look as a whole. Nor may it take as much of the
guard's memory as the student likes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from wodmail.guard.lines import Lines
from wodmail.guard.watch import ExeFile, Seen, Students, alive, read, state_of, works

Key = tuple[int, int]
_TICKS = os.sysconf("SC_CLK_TCK")
_MOST, _WORDS = 8192, 256  # bytes and words of a command line
_LOOK = 6  # a look waits at most so many times the deadline for one process
_ASKED = 200  # processes of suspects that are asked at the same time
_THREADS = 2000  # of a student's new processes that are asked in a look


class _Held(NamedTuple):
    """A process that holds up a look."""

    key: Key
    student: int


class Watcher:
    """Lists students' processes, whatever they do to hinder it.

    A process that overruns the deadline is *hidden*: from then on it is seen without its command line and program. Its
    student is a suspect, whose other processes are asked all at the same time, beside the look: one stall is all that a
    student can cause. What was not read in a look is as it was in the one before.

    Args:
        students: whose processes.
        seconds: the deadline for one process.
        beat: called again and again while a look lasts.
    """

    def __init__(self, students: Students, seconds: float = 10.0, beat: Callable[[], None] = lambda: None) -> None:
        self.students, self._seconds, self.beat = students, seconds, beat
        self.search: Callable[[str], str | None] = lambda _line: None  # what finds denied patterns in command lines
        self.hidden: dict[Key, int] = {}
        self._known: dict[Key, Seen] = {}
        self._asked: list[_Ask] = []

    def scan(self, only: int | None = None) -> list[Seen]:
        """Every living process of students.

        Args:
            only: one of them; suspects' processes are then as they were in the last look at all.

        Raises:
            OSError: /proc can't be listed.
        """
        end = time.monotonic() + _LOOK * self._seconds
        suspects: set[int] | None = set(self.hidden.values())
        while True:
            work = _Scan(self.students, only, suspects, self._known, Lines(self._known, self.search))
            work.start()
            held = self._await(work)
            if held is None:
                break
            self.hidden[held.key] = held.student
            # When many students do this at once, nobody's is read any more in this look.
            suspects = None if time.monotonic() >= end or suspects is None else {*suspects, held.student}
        if work.fault is not None:
            raise work.fault
        asked = self._ask(work.bare) if only is None else self._remembered(work.bare)
        found = work.found + [work.lines.keep(seen) for seen in asked]
        if only is None:
            self._known = {seen.key: seen for seen in found}
            self.hidden = {key: student for key, student in self.hidden.items() if key in self._known}
        return found

    def _await(self, work: _Scan) -> _Held | None:
        """Wait for the end of a look (None), or for a process that holds it up longer than the deadline."""
        while True:
            work.join(self._seconds / 2)
            self.beat()
            if not work.is_alive():
                return None
            reading = work.reading
            if reading is not None and time.monotonic() - reading[1] >= self._seconds:
                return reading[0]

    def _remembered(self, bare: Iterable[Seen]) -> list[Seen]:
        """Processes that were not read, with what was known of them as long as they have the same program."""
        found = []
        for seen in bare:
            known = self._known.get(seen.key)
            if known is not None and (known.exe, known.name) == (seen.exe, seen.name):
                found.append(seen._replace(argv=known.argv, file=known.file, searched=known.searched))
            else:
                found.append(seen)
        return found

    def _ask(self, bare: list[Seen]) -> list[Seen]:
        """Read suspects' processes, all at the same time; those that don't answer are hidden as well."""
        self._asked = [each for each in self._asked if each.is_alive()]
        wanted = [seen for seen in bare if seen.key not in self.hidden][: max(0, _ASKED - len(self._asked))]
        asked = [_Ask(seen) for seen in wanted]
        self._asked += asked
        for each in asked:
            each.start()
        end = time.monotonic() + self._seconds / 2
        for each in asked:
            each.join(max(0.0, end - time.monotonic()))
        self.beat()
        answered = {each.seen.key: each.full for each in asked}
        for each in asked:
            if each.full is None and each.is_alive():
                self.hidden[each.seen.key] = each.seen.student
        rest = [seen for seen in bare if seen.key not in answered]
        full = [answered[seen.key] or seen for seen in bare if seen.key in answered]
        return [*full, *self._remembered(rest)]


class _Scan(threading.Thread):
    """One look; in a thread of its own, which nobody waits for when it is held up.

    Args:
        students: whose processes.
        only: one student's.
        suspects: students of whose processes neither command line nor program is read; None for all students.
        known: the look before.
        lines: the room for command lines.
    """

    def __init__(
        self,
        students: Students,
        only: int | None,
        suspects: Collection[int] | None,
        known: Mapping[Key, Seen],
        lines: Lines,
    ) -> None:
        super().__init__(daemon=True, name="guard-scan")
        self._students, self._only, self._suspects, self._known = students, only, suspects, known
        self.lines = lines
        self._threads: dict[int, int] = {}  # that were asked, by student
        self.found: list[Seen] = []
        self.bare: list[Seen] = []
        self.fault: OSError | None = None
        self.reading: tuple[_Held, float] | None = None  # which process, since when

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
            self._look(name, boot, wanted)

    def _look(self, name: str, boot: float, wanted: set[int] | None) -> None:
        """Take one process, when it is a student's and lives."""
        folder = f"/proc/{name}"
        try:
            # The owner is the effective uid, or root when the process hides itself (prctl(2), PR_SET_DUMPABLE).
            owner = os.stat(folder).st_uid  # noqa: PTH116 - once for every process on the machine
            if (owner != 0 and self._students.number(owner) is None) or (wanted is not None and owner not in wanted):
                return
            student = self._students.named(read(f"{folder}/status", 4096))
            if student is None or self._only not in (None, student):
                return
            seen = _bare(folder, int(name), student, boot)
            if seen is None:
                return
            seen = self._any_thread(seen)
            if self._suspects is None or student in self._suspects:
                self.bare.append(seen)
                return
            self.reading = (_Held(seen.key, student), time.monotonic())
            self.found.append(self.lines.keep(_filled(seen)))
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            return
        finally:
            self.reading = None

    def _any_thread(self, seen: Seen) -> Seen:
        """A process that is new with what all of its threads do; of others that doesn't matter."""
        if self._only is not None or seen.running or seen.threads <= 1 or seen.key in self._known:
            return seen
        before = self._threads.get(seen.student, 0)
        running, asked = works(seen.pid, _THREADS - before)
        self._threads[seen.student] = before + asked
        return seen._replace(running=running)


class _Ask(threading.Thread):
    """Reads one process of a suspect."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(daemon=True, name="guard-ask")
        self.seen = seen
        self.full: Seen | None = None

    def run(self) -> None:
        """Read it, if it lets itself be read."""
        try:
            self.full = _filled(self.seen)
        except OSError:  # it has ended meanwhile
            self.full = self.seen


def _bare(folder: str, pid: int, student: int, boot: float) -> Seen | None:
    """A process by what the kernel alone knows of it, which nobody can withhold; None when it is dead."""
    front, _, rest = read(f"{folder}/stat", 4096).rpartition(b")")
    fields = rest.split()
    # A process whose first thread has ended looks dead while others of it may run on.
    if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
        return None
    start, state = int(fields[19]), fields[0]
    if state in (b"Z", b"X"):
        folder = alive(pid)
        state = state_of(read(f"{folder}/stat", 4096))
    return Seen(
        pid=pid,
        start=start,
        student=student,
        parent=int(fields[1]),
        name=_text(front.partition(b"(")[2]),
        argv=(),
        exe=_path(folder),
        file=None,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        children_seconds=(int(fields[13]) + int(fields[14])) / _TICKS,
        age_seconds=max(0.0, boot - start / _TICKS),
        stopped=state in b"TtZX",
        running=state == b"R",
        threads=int(fields[17]),
    )


def _filled(seen: Seen) -> Seen:
    """The process with what lies in its own memory and in file systems: this may take for ever."""
    folder = f"/proc/{seen.pid}"
    file = _file(folder)
    if file is None:
        folder = alive(seen.pid)
        file = _file(folder)
    return seen._replace(file=file, argv=_argv(folder))


def _path(folder: str) -> str:
    """Path of the program; none when the process is just about to end."""
    try:
        return os.readlink(f"{folder}/exe")  # noqa: PTH115 - see above
    except OSError:
        return ""


def _file(folder: str) -> ExeFile | None:
    """The program's file; none when it can't be looked at."""
    try:
        status = os.stat(f"{folder}/exe")  # noqa: PTH116 - see above
    except OSError:
        return None
    return ExeFile(status.st_dev, status.st_ino, status.st_uid, status.st_gid, status.st_mode)


def _argv(folder: str) -> tuple[str, ...]:
    """The command line's words; those beyond the most are one word together, in which patterns are searched too."""
    data = read(f"{folder}/cmdline", _MOST)
    if not data:
        return ()
    words = data.rstrip(b"\0").split(b"\0", _WORDS - 1)
    return tuple(_text(word.replace(b"\0", b" ")) for word in words)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
