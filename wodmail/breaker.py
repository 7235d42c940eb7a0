"""A breaker: once a service was found away, callers hear so at once instead of each waiting out its time-outs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wodmail.errors import Away

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 3.0
GROWTH = 1.5


class Breaker:
    """Remembers that a service is away, for a second at first, a little longer each time it is found away again.

    When the pause is over one caller tries; until that one knows, the others still hear that it is away. Safe for
    several threads.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._away: Away | None = None
        self._until = 0.0
        self._pause = FIRST_PAUSE
        self._trying = False

    @property
    def away(self) -> Away | None:
        """How the service was found away, None while all is well."""
        with self._lock:
            return self._away

    def pause(self) -> float:
        """Seconds until somebody may try again, 0 when nothing is in the way."""
        with self._lock:
            return max(self._until - self._clock(), 0.0) if self._away else 0.0

    @contextmanager
    def trying(self) -> Iterator[None]:
        """One try; what it finds is told with `found_away` and `found_well`.

        Raises:
            Away: the service was found away a moment ago, in the same words.
        """
        with self._lock:
            mine = False
            if self._away is not None:
                if self._trying or self._clock() < self._until:
                    raise Away(self._away.sender, self._away.operator)
                mine = self._trying = True
        try:
            yield
        finally:
            if mine:
                with self._lock:
                    self._trying = False

    def found_away(self, error: Away) -> bool:
        """Turn callers away for a while; returns whether that is news. Many who find it at once count once."""
        with self._lock:
            news = self._away is None
            if not news and self._clock() < self._until:
                return False
            self._away = error
            self._until = self._clock() + self._pause
            self._pause = min(self._pause * GROWTH, LONGEST_PAUSE)
            return news

    def found_well(self) -> bool:
        """Let everybody in again; returns whether that is news."""
        with self._lock:
            news = self._away is not None
            self._away, self._until, self._pause = None, 0.0, FIRST_PAUSE
            return news
