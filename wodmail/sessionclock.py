"""A clock for the length of sessions that no change of the machine's time makes jump.

While the machine runs it goes by CLOCK_BOOTTIME, which nobody can set; over a restart of the machine by the difference
of the wall clock, never backwards and never by more than a day, because nothing better is known then.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LONGEST_GAP = 24 * 3600.0
VERSION = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine's clocks show.

    Args:
        boot: names the machine's present life.
        uptime: seconds since it began, sleep included.
        wall: seconds since 1970.
    """

    boot: str
    uptime: float
    wall: float


@dataclass(frozen=True, slots=True)
class Mark:
    """The session clock when it was last looked at.

    Args:
        now: what it showed, in seconds; at its very beginning the wall clock's time.
        boot: see `Reading`.
        uptime: see `Reading`.
        wall: see `Reading`.
    """

    now: float
    boot: str
    uptime: float
    wall: float


def reading() -> Reading:
    """Look at the machine's clocks."""
    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot = ""  # then every look counts as one after a restart
    return Reading(boot, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


def advance(last: Mark | None, seen: Reading) -> Mark:
    """What the session clock shows now (pure).

    Args:
        last: when it was last looked at; None begins it.
        seen: the machine's clocks.
    """
    if last is None:
        return Mark(seen.wall, seen.boot, seen.uptime, seen.wall)
    if seen.boot and seen.boot == last.boot:
        if seen.uptime <= last.uptime:
            return last  # two processes look at once, and the later one has written first
        passed = seen.uptime - last.uptime
    else:
        passed = min(max(0.0, seen.wall - last.wall), LONGEST_GAP)
    return Mark(last.now + passed, seen.boot, seen.uptime, seen.wall)


def dumped(mark: Mark) -> str:
    """A mark as it is stored."""
    return json.dumps({"version": VERSION, **asdict(mark)})


def loaded(text: str | None) -> Mark | None:
    """A stored mark; None when there is none, or none that is understood."""
    try:
        data = json.loads(text or "null")
        return Mark(float(data["now"]), str(data["boot"]), float(data["uptime"]), float(data["wall"]))
    except (ValueError, KeyError, TypeError):
        return None
