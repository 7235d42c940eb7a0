"""What runs as students, read from /proc (proc(5)) by plain calls; psutil takes four times as long for the same.

A process counts as a student's only when its real, effective and saved uid all are students'. So nothing of root's, of
a service's, or of a program that a student started with other rights is ever in the list.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from wodmail.config import Settings
from wodmail.students.rootlimits import LOWEST_UID

_THREADS = 1000  # of a process; of those that ended hardly any are left


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
        return self.named(read(f"/proc/{pid}/status", 4096))

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


class Searched(NamedTuple):
    """What was found in a whole command line, of which only the beginning is kept.

    Args:
        digest: tells it from another one.
        search: what has searched.
        matched: what matched; None when nothing did.
    """

    digest: int
    search: Callable[[str], str | None]
    matched: str | None


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
        running: its first thread runs, or would if there were a processor for it; one of its threads when it is seen
            for the first time.
        threads: how many it has.
        searched: what was found in its command line, where that is cut for want of room.
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
    running: bool = False
    threads: int = 1
    searched: Searched | None = None

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from every other process of this boot."""
        return self.pid, self.start

    @property
    def command_line(self) -> str:
        """The command line as one text; the name when it has none."""
        return " ".join(self.argv) or f"[{self.name}]"


def read(path: str, most: int) -> bytes:
    """The beginning of a file of /proc.

    Args:
        path: which.
        most: bytes at most.

    Raises:
        OSError: it isn't there, or its process has ended.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def threads(pid: int) -> Iterator[str]:
    """Folders of a process's threads in /proc; those of one that has ended are gone, or empty."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/task") as entries:
        yield from (entry.path for entry in entries)


def works(pid: int, most: int) -> tuple[bool, int]:
    """Whether any thread of a process runs, or would if there were a processor for it; and how many were asked.

    Args:
        pid: which process.
        most: how many threads are asked at most; one that has more is taken to run, for nobody knows.
    """
    asked = 0
    for folder in threads(pid):
        if asked >= most:
            return True, asked
        asked += 1
        with contextlib.suppress(OSError, IndexError):
            if state_of(read(f"{folder}/stat", 4096)) == b"R":
                return True, asked
    return False, asked


def state_of(text: bytes) -> bytes:
    """The state in the text of a process' or thread's `stat`; its name may be any bytes."""
    return text.rpartition(b")")[2].split(None, 1)[0]


def alive(pid: int) -> str:
    """The folder in /proc that tells a process's program, command line and descriptors.

    A process whose first thread has ended runs on in its others; its own folder tells nothing of these any more.
    """
    own = f"/proc/{pid}"
    for folder in (own, *itertools.islice(threads(pid), _THREADS)):
        with contextlib.suppress(OSError):
            os.readlink(f"{folder}/exe")  # noqa: PTH115 - asked only whether it is there
            return folder
    return own


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
