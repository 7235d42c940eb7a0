"""Where processes come from: from the hub, from a server that the hub has started, or from anywhere.

A command line is its process's own, and whoever is nobody's child any more looks like a child of the system. So a
process's origin is what is seen when it is seen first, and is kept as long as it lives, through restarts of the guard
and of the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import StrEnum

from wodmail.guard.watch import Seen, read
from wodmail.students.rootlimits import LOWEST_UID

_INIT = 1
_MOST = 4096


class Origin(StrEnum):
    """Where a process comes from."""

    SERVER = "server"  # the hub has started it
    BELOW = "below"  # a server has, or what a server has started
    ELSEWHERE = ""


class Lineage:
    """The origin of every student's process.

    Args:
        hub: matches the paths of the hub's program or script.
    """

    def __init__(self, hub: re.Pattern[str]) -> None:
        self.hub = hub
        self.origins: dict[tuple[int, int], Origin] = {}

    def look(self, processes: Iterable[Seen]) -> None:
        """Take a look at all students: those that are new get their origin, those that are gone are forgotten."""
        by_pid = {seen.pid: seen for seen in processes}
        before, self.origins = self.origins, {}
        for seen in sorted(by_pid.values(), key=lambda each: each.start):
            known = before.get(seen.key)
            self.origins[seen.key] = self._origin(seen, by_pid.get(seen.parent)) if known is None else known

    def of(self, seen: Seen) -> Origin:
        """The origin of a process; one that no look has seen comes from elsewhere."""
        return self.origins.get(seen.key, Origin.ELSEWHERE)

    def _origin(self, seen: Seen, parent: Seen | None) -> Origin:
        if parent is None:
            return Origin.SERVER if seen.parent > _INIT and self._is_hub(seen.parent) else Origin.ELSEWHERE
        return Origin.BELOW if self.of(parent) is not Origin.ELSEWHERE else Origin.ELSEWHERE

    def _is_hub(self, pid: int) -> bool:
        """Whether it is the hub: one of the system's accounts runs its program, or Python its script.

        `su` is root's process too, with words that the student chose; its program is neither.
        """
        try:
            status = read(f"/proc/{pid}/status", _MOST)
            words = os.fsdecode(read(f"/proc/{pid}/cmdline", _MOST)).split("\0")
            program = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - may be no path at all
        except OSError:
            return False
        _, found, rest = status.partition(b"\nUid:\t")
        if not found or any(int(uid) >= LOWEST_UID for uid in rest.split(None, 3)[:3]):
            return False
        python = os.path.basename(program).startswith("python")  # noqa: PTH119 - may be no path at all
        return bool(self.hub.fullmatch(program) or (python and any(map(self.hub.fullmatch, words[1:4]))))
