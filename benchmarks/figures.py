"""A measured figure with its goal, and small helpers to measure with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """One line of the result.

    Args:
        name: what was measured.
        value: in `unit`; None when it could not be measured (the detail says why).
        unit: for example "s", "x yardstick", "MiB".
        goal: the limit, in the same unit; None for a figure that is only told.
        want: which side of the goal is good.
        detail: spread, counts, what it was compared with.
        broken: the measurement failed, as against a part that this machine lacks.
    """

    name: str
    value: float | None
    unit: str
    goal: float | None = None
    want: Literal["at most", "at least"] = "at most"
    detail: str = ""
    broken: bool = False

    @property
    def verdict(self) -> str:
        """met, missed, not measured, or empty without a goal."""
        if self.broken:
            return "failed"
        if self.value is None:
            return "not measured"
        if self.goal is None:
            return ""
        good = self.value <= self.goal if self.want == "at most" else self.value >= self.goal
        return "met" if good else "missed"

    def as_json(self) -> dict[str, object]:
        """The figure for `--json`."""
        return {
            "name": self.name,
            "value": None if self.value is None else round(self.value, 4),
            "unit": self.unit,
            "goal": self.goal,
            "want": self.want,
            "verdict": self.verdict,
            "detail": self.detail,
        }


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> str:
    """Median, least and most of some seconds, for a detail."""
    return f"{statistics.median(values):.3f} s ({min(values):.3f}-{max(values):.3f}, {len(values)} runs)"


def until(ask: Callable[[], T], *, seconds: float, every: float, what: str) -> T:
    """Ask until the answer is true.

    Args:
        ask: gives the answer.
        seconds: how long at most.
        every: pause between two looks, in seconds.
        what: what is awaited, for the error.

    Raises:
        TimeoutError: it never was.
    """
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(every)
    return answer
