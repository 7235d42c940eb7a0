"""Turns: work that several threads prepare side by side is completed in the order in which it came."""

from __future__ import annotations

import threading
from types import TracebackType

PATIENCE = 10.0  # seconds; one that takes longer (a disk in trouble) no longer holds up those behind it


class Turn:
    """A place in the order, as a context manager: entering waits for the one before, leaving lets the next one in.

    Args:
        before: set when the one before is over.
        patience: seconds to wait for it at most.
    """

    def __init__(self, before: threading.Event, patience: float) -> None:
        self._before, self._patience = before, patience
        self.over = threading.Event()

    def __enter__(self) -> None:
        self._before.wait(self._patience)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Let the next one in, also when this turn was never entered; harmless when it is over."""
        self.over.set()


class Turns:
    """Gives out turns; used by one thread, the turns by any.

    Args:
        patience: seconds for which a turn waits for the one before it.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._last = threading.Event()
        self._last.set()

    def take(self) -> Turn:
        """The turn after the one that was taken last. Its holder must enter it or give it up."""
        turn = Turn(self._last, self._patience)
        self._last = turn.over
        return turn
