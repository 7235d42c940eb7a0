"""What students left running long ago: found by uid and age, ended so that a reused process id is never hit.

Only processes all of whose uids are those of students are looked at: never root's, never anybody else's. The age is
counted from the boot on, so a clock that was set makes nobody old.
"""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from wodmail import processes
from wodmail.processes import Process
from wodmail.schema import Settings

DAY = 86400.0
GRACE = 10.0
_NAME = re.compile(r"student\d+")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process that should have ended long ago.

    Args:
        process: its identity.
        student: whose it is.
        name: the program's name as the kernel has it; it is the student's to choose.
        age: seconds since it began.
        cpu: seconds of processor time that it has used.
    """

    process: Process
    student: int
    name: str
    age: float
    cpu: float


def student_uids(settings: Settings) -> dict[int, int]:
    """Students by uid, without uids that are somebody else's: WODUSER's, or an account of another name."""
    found = {settings.UIDBASE + student: student for student in range(settings.WODUSERMIN, settings.WODUSERMAX + 1)}
    for account in pwd.getpwall():
        if account.pw_uid in found and not _NAME.fullmatch(account.pw_name):
            del found[account.pw_uid]
    return {uid: student for uid, student in found.items() if uid not in (0, os.geteuid())}


def find(uids: dict[int, int], seconds: float) -> list[Leftover]:
    """The students' processes that began more than so many seconds ago, the oldest first.

    Args:
        uids: students by uid, see `student_uids`.
        seconds: 0 or more.
    """
    found = [leftover for process in psutil.process_iter() if (leftover := _look(process, uids)) is not None]
    return sorted((each for each in found if each.age > seconds), key=lambda each: -each.age)


def _look(process: psutil.Process, uids: dict[int, int]) -> Leftover | None:
    """The process if it is a student's and runs; who it is is read before and after, so that it is one process."""
    before = processes.lookup(process.pid)
    if before is None or before.dead:
        return None
    try:
        owners = set(process.uids())
        if len(owners) != 1 or not owners <= uids.keys():
            return None
        name, times = process.name(), process.cpu_times()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    if not processes.lives(before.pid, before.start):
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - before.start / os.sysconf("SC_CLK_TCK")
    return Leftover(before, uids[owners.pop()], name, max(0.0, age), times.user + times.system)


def end(uids: dict[int, int], seconds: float, leftovers: Iterable[Leftover], *, grace: float = GRACE) -> list[Leftover]:
    """End leftovers: TERM, after a while KILL, through descriptors of exactly these processes.

    Args:
        uids: see `find`.
        seconds: see `find`.
        leftovers: what was found and told; what became old only now is left for the next time.
        grace: seconds between TERM and KILL.

    Returns:
        Those that are still there.
    """
    known = {(each.process.pid, each.process.start) for each in leftovers}

    def still() -> list[Leftover]:
        return [each for each in find(uids, seconds) if (each.process.pid, each.process.start) in known]

    processes.end(lambda: [each.process for each in still()], grace)
    return still()
