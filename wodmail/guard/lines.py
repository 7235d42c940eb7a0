"""How much is kept of the command lines of a look: a student chooses them, and must neither take the guard's memory
with them nor hide anything behind it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from wodmail.guard.watch import Searched, Seen

_KEPT = 1024 * 1024  # bytes of command lines that are kept of a student; of what is beyond that only a beginning
_CUT = 6, 128  # words, and characters of each, of such a beginning


class Lines:
    """The room for command lines in one look.

    Args:
        known: the look before.
        search: what finds a denied pattern in a line. A line that is cut is searched before, as a whole.
    """

    def __init__(self, known: Mapping[tuple[int, int], Seen], search: Callable[[str], str | None]) -> None:
        self._known, self._search = known, search
        self._taken: dict[int, int] = {}  # bytes, by student

    def keep(self, seen: Seen) -> Seen:
        """The process with what is kept of its command line: once for all looks, and no more than there is room for."""
        if seen.searched is not None:  # cut in an earlier look, and not read since
            return seen
        known, size = self._known.get(seen.key), sum(map(sys.getsizeof, seen.argv))
        taken = self._taken.get(seen.student, 0) + size
        if taken > _KEPT:
            return self._cut(seen, known.searched if known is not None else None)
        self._taken[seen.student] = taken
        return seen._replace(argv=known.argv) if known is not None and known.argv == seen.argv else seen

    def _cut(self, seen: Seen, before: Searched | None) -> Seen:
        """The process with the beginning of its command line; searched again only when it, or the policy, is new."""
        words, characters = _CUT
        digest = hash(seen.argv)
        if before is None or before[:2] != (digest, self._search):
            matched = self._search(seen.command_line)
            before = Searched(digest, self._search, matched and matched[:characters])
        first, *rest = seen.argv[:words]  # the end of a path is its name
        cut = (first[-characters:], *(word[:characters] for word in rest))
        return seen._replace(argv=cut, searched=before)
