"""The ladder: warn, stop, PURGE. Pure: findings in, what to do out; what was done is told to it afterwards.

A *case* is one student's offence against one rule, from the first look that finds it until it was gone for a while.
Cases and stops are kept through a restart (`dump`, `restore`), so that nobody is warned of the same thing again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from wodmail.guard.files import intact
from wodmail.guard.judge import Finding
from wodmail.guard.policy import Ladder, Rung

_VAIN = 3  # looks in which a stop finds all processes gone
_TOLD = ("case", "words", "trouble")  # what a mail about a PURGE says
_LASTING = ("port", "port-loopback")  # what these find is still there, whether its process is found or not


@dataclass
class Case:
    """One student's offence against one rule.

    Args:
        name: its identity: when, whose, which rule.
        student: the number.
        rule: see `Finding`.
        words: what was found last.
        opened: monotonic seconds of the first look that found it.
        seen: the same of the last one.
        at: seconds since 1970 of the first.
        told: WODMONITOR was told, or is not to be.
        stops: how often its processes were stopped.
        failed: the last stop left something running.
        vain: how many stops one after another ended nothing, and left nothing.
        sitting: who sat there then, see `Sittings`; empty when that was not known.
    """

    name: str
    student: int
    rule: str
    words: str
    opened: float
    seen: float
    at: float
    told: bool = False
    stops: int = 0
    failed: bool = False
    vain: int = 0
    sitting: str = ""


@dataclass
class Seat:
    """What a student's seat has been through.

    Args:
        stops: monotonic seconds of the stops that count.
        wanted: name of the case for which a PURGE has to be sent; empty for none.
        purged: monotonic seconds of the last PURGE.
        troubled: WODMONITOR was told that it could not be sent.
        again: monotonic seconds of stops that count only when there are many, each for something new.
        sitting: who sits there, as in `Case`.
    """

    stops: list[float] = field(default_factory=list)
    wanted: str = ""
    purged: float | None = None
    troubled: bool = False
    again: list[float] = field(default_factory=list)
    sitting: str = ""

    def moments(self) -> list[float]:
        """When something happened that may still count."""
        return [*self.stops, *self.again, *([] if self.purged is None else [self.purged])]


# What an entry has besides is left out, what is missing stands as in a new one.
_CASE, _SEAT = TypeAdapter(Case), TypeAdapter(Seat)


@dataclass(frozen=True)
class Step:
    """Something to do.

    Args:
        kind: `open` (a new case: collect evidence) or `stop`.
        case: which case leads to it.
        finding: what was found in this look.
    """

    kind: str
    case: Case
    finding: Finding


class Cases:
    """All open cases.

    Args:
        ladder: the policy's part.
    """

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        self.cases: dict[tuple[int, str], Case] = {}
        self.seats: dict[int, Seat] = {}
        self.sittings: Mapping[int, str] = {}  # as they were known last, by this guard or the one before
        self.letters: dict[str, dict[str, Any]] = {}  # of PURGEs, until they are handed over

    def look(self, findings: Iterable[Finding], now: float, at: float) -> list[Step]:
        """Take the findings of one look.

        Args:
            findings: one at most for a student and rule.
            now: monotonic seconds.
            at: seconds since 1970.

        Returns:
            What is new, and what has to be stopped now. `stopped` says afterwards whether a PURGE follows.
        """
        self._forget(now)
        steps = []
        for finding in findings:
            key = (finding.student, finding.rule)
            case = self.cases.get(key)
            if case is None:
                name = f"{_stamp(at)}-student{finding.student}-{finding.rule}"
                case = Case(name, finding.student, finding.rule, finding.words, now, now, at)
                case.sitting = self.sittings.get(finding.student, "")
                self.cases[key] = case
                steps.append(Step("open", case, finding))
            case.seen, case.words = now, finding.words
            due = now - case.opened >= self.ladder.stop_after_seconds
            # Without a process the stop is one in vain; a connection that nobody has is still somebody's.
            if finding.then >= Rung.STOP and due and (finding.processes or finding.rule in _LASTING):
                steps.append(Step("stop", case, finding))
        return steps

    def stopped(self, step: Step, now: float, *, left: bool, ended: int = 1) -> bool:
        """Note a stop; says whether a PURGE has become due (`wanted`).

        Args:
            step: the stop.
            now: monotonic seconds.
            left: something still runs, so the next rung is taken at once.
            ended: how many processes were ended. A stop that found all of them gone is none; but whose processes are
                always gone when they are to be stopped gets out of the way of it, as if they still ran.
        """
        step.case.vain = 0 if ended or left else step.case.vain + 1
        if step.case.vain >= _VAIN:
            step.case.vain, left = 0, True
        elif step.case.vain:
            return False
        step.case.stops += 1
        step.case.failed = left
        if max(step.finding.then, step.finding.again) < Rung.PURGE:
            return False
        seat = self._seat(step.case.student)
        enough = self._often(seat, now) if step.finding.then < Rung.PURGE else self._enough(seat, now) or left
        again = seat.purged is None or now - seat.purged >= self.ladder.purge_again_seconds
        if not (enough and again):
            return False
        if not seat.wanted:
            seat.wanted = step.case.name
        return True

    def _enough(self, seat: Seat, now: float) -> bool:
        """Note a stop that counts; says whether there were enough of them."""
        if now not in seat.stops:  # one look counts once, whatever was found in it
            seat.stops.append(now)
        recent = [moment for moment in seat.stops if moment > now - self.ladder.purge_window_seconds]
        seat.stops = recent[-self.ladder.purge_after_stops :]
        return len(seat.stops) >= self.ladder.purge_after_stops

    def _often(self, seat: Seat, now: float) -> bool:
        """The same for what leads to a PURGE only when it happens again and again.

        Stops shortly after one another are one: three builds at the same time are not three offences.
        """
        if not seat.again or now - seat.again[-1] >= self.ladder.forget_seconds:
            seat.again.append(now)
        recent = [moment for moment in seat.again if moment > now - self.ladder.again_window_seconds]
        seat.again = recent[-self.ladder.again_after_stops :]
        return len(seat.again) >= self.ladder.again_after_stops

    def changed(self, sittings: Mapping[int, str]) -> set[int]:
        """Forget what those before did whose seat is another's, or nobody's, by now.

        Args:
            sittings: who sits there, by student, see `Sittings`; of whom it tells nothing, nothing has changed.

        Returns:
            The students of whom something was forgotten.
        """
        self.sittings = sittings
        old = {key for key, case in self.cases.items() if sittings.get(case.student, case.sitting) != case.sitting}
        self.cases = {key: case for key, case in self.cases.items() if key not in old}
        left = {student for student, seat in self.seats.items() if sittings.get(student, seat.sitting) != seat.sitting}
        self.seats = {student: seat for student, seat in self.seats.items() if student not in left}
        return left | {student for student, _ in old}

    def _seat(self, student: int) -> Seat:
        return self.seats.setdefault(student, Seat(sitting=self.sittings.get(student, "")))

    def wanted(self) -> dict[int, str]:
        """Students whose seat has to be purged, with the case that led to it."""
        return {student: seat.wanted for student, seat in self.seats.items() if seat.wanted}

    def purged(self, student: int, now: float) -> None:
        """Note that the PURGE was sent."""
        seat = self._seat(student)
        seat.purged, seat.wanted, seat.stops, seat.again = now, "", [], []

    def tell(self, student: int, name: str, words: str, trouble: str) -> None:
        """Note that WODMONITOR has to be told of a PURGE.

        Args:
            student: whose.
            name: the case's.
            words: what was found.
            trouble: why the PURGE could not be sent; empty when it was.
        """
        kind = f"{name}.{'trouble' if trouble else 'purge'}"
        self.letters[kind] = {"student": student, "case": name, "words": words, "trouble": trouble}

    def untold(self) -> list[Case]:
        """The cases that WODMONITOR has not been told of, the oldest first."""
        return sorted((case for case in self.cases.values() if not case.told), key=lambda case: case.opened)

    def _forget(self, now: float) -> None:
        self.cases = {
            key: case
            for key, case in self.cases.items()
            if now - case.seen < self.ladder.forget_seconds or (not case.told and now - case.seen < 86400)
        }
        ladder = self.ladder
        keep = max(ladder.purge_window_seconds, ladder.purge_again_seconds, ladder.again_window_seconds)
        self.seats = {
            student: seat
            for student, seat in self.seats.items()
            if seat.wanted or any(now - moment < keep for moment in seat.moments())
        }

    def dump(self) -> dict[str, Any]:
        """What has to survive a restart, as plain data."""
        return {
            "cases": [asdict(case) for case in self.cases.values()],
            "letters": self.letters,
            "seats": {str(student): asdict(seat) for student, seat in self.seats.items()},
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take what `dump` gave, of this version or of another: what is known of it, as far as it makes sense."""
        cases = intact(data.get("cases"), _CASE.validate_python)
        self.cases = {(case.student, case.rule): case for case in cases}
        self.seats = dict(intact(data.get("seats"), lambda pair: (int(pair[0]), _SEAT.validate_python(pair[1]))))
        self.letters = dict(intact(data.get("letters"), _letter))


def _letter(pair: tuple[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    return pair[0], {"student": int(pair[1]["student"]), **{key: str(pair[1][key]) for key in _TOLD}}


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
