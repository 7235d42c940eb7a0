"""A subject as a command: parsed by the grammar, then interpreted (is NUMBER a count or a participant?). Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wodmail.config import Settings
from wodmail.mail.grammar import Broken, Limits, is_address, outside, parse, refuse, render, visible
from wodmail.model import Action, Command

__all__ = [
    "Broken",
    "Interpretation",
    "Limits",
    "Reading",
    "interpret",
    "is_address",
    "parse",
    "reading",
    "render",
    "repair",
    "visible",
]

Reading = Literal["count", "participant"]


@dataclass(frozen=True, slots=True)
class Interpretation:
    """What a command means in this deployment.

    Args:
        students: the students, in rising order; none for PING.
        participant: the API-DB's customer id, 0 when there is none.
        one_job: whether all students belong to one job (RESET) instead of one job each.
        note: one sentence for the reply: how NUMBER was read.
    """

    students: tuple[int, ...]
    participant: int
    one_job: bool
    note: str


def reading(settings: Settings) -> Reading:
    """How NUMBER is read here: WODSUBJECTNUMBER; `auto` is participant when an API-DB is configured, else count."""
    if settings.WODSUBJECTNUMBER != "auto":
        return settings.WODSUBJECTNUMBER
    return "participant" if settings.WODAPIDBEXTURL else "count"


def interpret(command: Command, reading: Reading, limits: Limits) -> Interpretation:
    """Say which students and which participant a command means.

    Args:
        command: what `parse` gave.
        reading: whether NUMBER is a count of students or the participant's id in this deployment.
        limits: see `Limits`.

    Raises:
        Refused: NUMBER makes no sense with the rest of the command.
    """
    if command.first is None:
        return Interpretation((), 0, False, "")
    last = command.first if command.last is None else command.last
    if reading == "participant":
        return _as_participant(command, command.first, last, limits)
    return _as_count(command, command.first, last, limits)


def repair(broken: Broken, student_of: Callable[[int], int], reading: Reading, limits: Limits) -> tuple[Command, str]:
    """Find the student that a stock frontend failed to write.

    Args:
        broken: what `parse` gave.
        student_of: asks the registry for a participant's student; may raise `Refused`.
        reading: how NUMBER is read; a repair is possible only when it names the participant.
        limits: see `Limits`.

    Returns:
        The command with its student, and a sentence for the log and the reply.

    Raises:
        Refused: NUMBER is no participant here, or that participant's student does not exist.
    """
    subject = f"{broken.action} [object Promise] {broken.number}"
    if reading != "participant":
        refuse(subject, "there is no student number, and NUMBER names no participant here", broken.action, limits)
    student = student_of(broken.number)
    if not limits.user_min <= student <= limits.user_max:
        what = f"participant {broken.number} has student {student}, which is {outside(limits)}"
        refuse(subject, what, broken.action, limits)
    note = f'the subject said "[object Promise]" for the student; participant {broken.number} has student {student}'
    return Command(action=broken.action, first=student, number=broken.number), note


def _span(first: int, last: int) -> str:
    return f"student {first}" if first == last else f"students {first} to {last}"


def _as_participant(command: Command, first: int, last: int, limits: Limits) -> Interpretation:
    number = command.number or 0
    one_job = command.action is Action.RESET
    if number and last > first and not one_job:
        what = (
            f"NUMBER {number} is read as a participant's id here, and one participant can't have {_span(first, last)}"
        )
        refuse(render(command), what, command.action, limits)
    if number:
        note = f"NUMBER {number} was read as the participant's id"
    elif command.number is None:
        note = "no NUMBER was given: no participant (a test mail)"
    else:
        note = "NUMBER 0 was read as no participant (a test mail)"
    return Interpretation(tuple(range(first, last + 1)), number, one_job, note)


def _as_count(command: Command, first: int, last: int, limits: Limits) -> Interpretation:
    number = command.number or 0
    one_job = command.action is Action.RESET
    wrong = _count_problem(command, first, number, limits)
    if wrong:
        refuse(render(command), wrong, command.action, limits)
    if number > 1:
        last = first + number - 1
    if command.number is None:
        note = f"no NUMBER was given: {_span(first, last)}"
    elif command.last is not None:
        note = f"NUMBER {number} was read as a count; the range decides: {_span(first, last)}"
    else:
        note = f"NUMBER {number} was read as a count: {_span(first, last)}"
    return Interpretation(tuple(range(first, last + 1)), 0, one_job, note)


def _count_problem(command: Command, first: int, number: int, limits: Limits) -> str:
    """Why a count can't be meant like this, or nothing."""
    several = number > 1
    if command.email is not None and command.last is not None and command.last > first:
        return "an EMAIL belongs to one participant and so to one student, not to a range"
    if not several:
        return ""
    counted = f"NUMBER {number} is read as a count of students here"
    if command.action in (Action.RESET, Action.PURGE):
        hint = "; write a range instead" if command.action is Action.RESET else ""
        return f"{counted}, and {command.action} takes none{hint}"
    if command.last is not None:
        return f"{counted}, and a range has its own"
    if command.email is not None:
        return f"{counted}, and an EMAIL belongs to one student"
    if number > limits.max_count:
        return f"{counted}, and one mail may name {limits.max_count} at most"
    if first + number - 1 > limits.user_max:
        return f"{counted}, and student {first + number - 1} is {outside(limits)}"
    return ""
