"""Ending a student's processes so that nobody else's is ever hit.

A process is its pid and its start time. A signal goes through a descriptor of the process (pidfd_open(2)), and what was
opened is looked at once more before it is sent: the same start time, and still a student's by all its uids.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wodmail import processes
from wodmail.guard.scan import Watcher
from wodmail.guard.watch import Seen, Students, descendants

SECONDS = 5.0
_ROUNDS = 40
_GONE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """What became of some processes.

    Args:
        ended: how many were ended.
        left: what still runs; it is faster than we are.
    """

    ended: int
    left: tuple[Seen, ...]


def send(students: Students, seen: Seen, number: int) -> bool:
    """Send a signal to exactly that process.

    Returns:
        False when it is gone, its pid is another's by now, it is no student's any more, or it may not be signalled.
    """
    if students.number(students.base + seen.student) is None:
        return False
    try:
        descriptor = os.pidfd_open(seen.pid)
    except OSError:
        return False
    try:
        now = processes.lookup(seen.pid)
        if now is None or now.start != seen.start or students.owner(seen.pid) != seen.student:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except (OSError, ValueError):
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def stop(
    watcher: Watcher,
    student: int,
    chosen: Sequence[Seen],
    spared: Callable[[Seen], bool],
    seconds: float = SECONDS,
) -> Stopped:
    """End processes of a student and all that they have started.

    First all of it is stopped, until nothing new comes, so that nothing is born while the rest is killed. What runs the
    same program as one that was chosen goes with it, and so do its relatives that appear later.

    Args:
        watcher: lists the processes, of students alone.
        student: whose these are.
        chosen: which.
        spared: whether a process that was not chosen is to be left alone, with what it has started.
        seconds: how long at most.
    """
    chase = _Chase(watcher, student, chosen, spared)
    end = time.monotonic() + seconds
    while True:
        caught = chase.freeze(end)
        for seen in caught:
            send(watcher.students, seen, signal.SIGKILL)
        same = [processes.Process(seen.pid, seen.start, seen.parent, 0, 0, dead=False) for seen in caught]
        processes.wait_gone(same, min(_GONE_SECONDS, max(0.0, end - time.monotonic())))
        left = chase.relatives()
        if not left or time.monotonic() >= end:
            return Stopped(len(chase.known) - len(left), tuple(left))


class _Chase:
    """The processes that are to be ended, as more of them are found."""

    def __init__(self, watcher: Watcher, student: int, chosen: Sequence[Seen], spared: Callable[[Seen], bool]) -> None:
        self._watcher, self._student, self._spared = watcher, student, spared
        self._chosen = {seen.key for seen in chosen if seen.student == student}
        self._files = {seen.file for seen in chosen if seen.file is not None and seen.file.uid != 0}
        self.known: dict[tuple[int, int], Seen] = {}

    def relatives(self) -> list[Seen]:
        """What runs now and belongs to those that were chosen."""
        everyone = self._watcher.scan(self._student)
        roots = [each for each in everyone if each.key in self._chosen or each.key in self.known]
        roots += [each for each in everyone if each.file in self._files and not self._spared(each)]
        firm = {each.key for each in roots}
        others = [each for each in everyone if each.key in firm or not self._spared(each)]
        found = descendants(others, roots)
        self.known.update((each.key, each) for each in found)
        return found

    def freeze(self, end: float) -> list[Seen]:
        """Stop all of it, again and again until nothing is found that still runs."""
        found: list[Seen] = []
        for _ in range(_ROUNDS):
            found = self.relatives()
            running = [each for each in found if not each.stopped]
            for each in running:
                send(self._watcher.students, each, signal.SIGSTOP)
            if not running or time.monotonic() >= end:
                break
        return found
