"""An answer that many threads want at once is fetched once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from wodmail.errors import WodmailError

T = TypeVar("T")


class Shared(Generic[T]):
    """What `fetch` gives, shared by all who wait for it; nobody gets one that is older than allowed.

    Args:
        fetch: asks for it; an expected error is shared like an answer.
        clock: seconds that only grow.
    """

    def __init__(self, fetch: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._lock = threading.Lock()
        self._begun = float("-inf")
        self._value: T | None = None
        self._failed = float("-inf")
        self._error: WodmailError | None = None

    def get(self, age: float = 0.0) -> T:
        """The answer; fetched anew when there is none that was asked for within the last `age` seconds.

        Args:
            age: 0 for one that was asked for after this call.

        Raises:
            WodmailError: what `fetch` raises, also for those who waited meanwhile.
        """
        asked = self._clock()
        value = self._value
        if age and value is not None and self._begun > asked - age:
            return value
        with self._lock:
            if self._value is not None and self._begun > asked - age:
                return self._value
            if self._error is not None and self._failed > asked:
                raise type(self._error)(self._error.sender, self._error.operator)
            begun = self._clock()
            try:
                value = self._fetch()
            except WodmailError as error:
                self._failed, self._error = begun, error
                raise
            self._begun, self._value = begun, value
            return value

    def latest(self) -> T | None:
        """The last answer, however old; None when there never was one."""
        return self._value

    @property
    def busy(self) -> bool:
        """Whether somebody is fetching."""
        return self._lock.locked()
