"""What comes of a run over all students: a state and some words for each, counted and added up. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """What there is of a student's account, or was done about it."""

    OK = "ok"
    MISSING = "missing"
    DIFFERS = "differs"
    MADE = "made"
    REPAIRED = "repaired"
    REMOVED = "removed"
    IN_USE = "in use"
    WRONG = "wrong"
    FAILED = "failed"


CHANGED = (State.MADE, State.REPAIRED, State.REMOVED)
BAD = (State.WRONG, State.FAILED)


@dataclass(frozen=True, slots=True)
class Row:
    """One student.

    Args:
        student: the student's number.
        state: see `State`.
        words: what differs, was done, or stands against it.
    """

    student: int
    state: State
    words: tuple[str, ...] = ()


@dataclass
class Report:
    """What came of one run.

    Args:
        rows: by student, in their order.
        trouble: what could not be done for all of them, in words.
    """

    rows: dict[int, Row] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)

    def set(self, student: int, state: State, *words: str) -> None:
        """Say what came of a student."""
        self.rows[student] = Row(student, state, words)

    def add(self, student: int, state: State, words: str) -> None:
        """Say one thing more; only a student who was well, or is now badly off, gets another state."""
        before = self.rows[student]
        changes = before.state is State.OK or state in BAD
        self.rows[student] = Row(student, state if changes else before.state, (*before.words, words))

    def counts(self) -> dict[str, int]:
        """How many students are in each state that any is in."""
        states = [row.state for row in self.rows.values()]
        return {state.value: states.count(state) for state in State if state in states}

    def students(self, *states: State) -> list[int]:
        """The students in some states."""
        return [row.student for row in self.rows.values() if row.state in states]

    @property
    def changed(self) -> bool:
        """Whether anything was changed."""
        return bool(self.students(*CHANGED))
