"""Empties students' homes for an operator; a seat that is in use is never touched.

While it works the backend is drained, so that no job begins for a seat that was just found free. A signal
ends that, too.
"""

from __future__ import annotations

import os
import pwd
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType

from wodmail import drained, students
from wodmail.becoming import as_user
from wodmail.config import Settings
from wodmail.errors import Refused, WodmailError
from wodmail.store import open_store
from wodmail.students import occupancy
from wodmail.students.base import Accounts

REASON = "wod-cleanup-users is at work"
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Outcome(StrEnum):
    """What became of a student's home."""

    EMPTIED = "emptied"
    IN_USE = "in use"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """One student: what became of the home, and why when it was not emptied."""

    student: int
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What became of all.

    Args:
        students: what became of each, in order.
        drained: what is to be said of the backend when somebody else has it drained still; else empty.
    """

    students: tuple[Cleaned, ...]
    drained: str = ""


def numbers(settings: Settings, first: int, last: int) -> range:
    """The students from the first to the last.

    Raises:
        Refused: this backend doesn't have them all, or the last comes before the first.
    """
    low, high = settings.WODUSERMIN, settings.WODUSERMAX
    if not low <= first <= last <= high:
        raise Refused(f"MIN and MAX must be from {low} to {high}, MIN not above MAX; not {first} and {last}.")
    return range(first, last + 1)


def in_use(settings: Settings, asked: Sequence[int]) -> dict[int, str]:
    """Which of the students' seats are in use, and why.

    Raises:
        WodmailError: it can't be found out; then nothing may be touched.
    """
    if settings.WODSANDBOX:
        found = occupancy.ask(settings)
    else:
        found = occupancy.engaged(settings)
        working = occupancy.at_work({settings.UIDBASE + student: student for student in asked})
        found = dict.fromkeys(working, occupancy.WORKING) | found
    return {student: why for student, why in sorted(found.items()) if student in asked}


def clean(settings: Settings, asked: Sequence[int], on_student: Callable[[Cleaned], None] = lambda _: None) -> Cleaning:
    """Empty the homes of all students whose seats are free.

    SIGHUP, SIGINT and SIGTERM end it in good order, by SystemExit or KeyboardInterrupt.

    Args:
        settings: the configuration.
        asked: the students.
        on_student: called as each is done.

    Raises:
        WodmailError: who is in use can't be found out; nothing was touched.
    """
    done = []
    with _standstill(settings) as left:
        busy = in_use(settings, asked)
        accounts = students.for_settings(settings)
        try:
            for student in asked:
                row = Cleaned(student, Outcome.IN_USE, busy[student]) if student in busy else _empty(accounts, student)
                on_student(row)
                done.append(row)
        finally:
            accounts.close()
    return Cleaning(tuple(done), left[0])


def _empty(accounts: Accounts, student: int) -> Cleaned:
    try:
        accounts.check(student)
        accounts.erase(student)
        accounts.verify_erased(student)
    except WodmailError as error:
        return Cleaned(student, Outcome.FAILED, error.operator)
    return Cleaned(student, Outcome.EMPTIED)


@contextmanager
def _standstill(settings: Settings) -> Iterator[list[str]]:
    """Let no job start meanwhile; a backend that was drained before stays drained.

    When an operator drains it meanwhile it stays drained, too. The database is WODUSER's, so it is changed with its
    rights.

    Yields:
        A list that gets the words about a drain that goes on.
    """
    user = pwd.getpwuid(os.geteuid()) if settings.WODSANDBOX else pwd.getpwnam(settings.WODUSER)
    holder, left = drained.new_holder(), [""]
    with _signals_raise() as hush:
        try:
            as_user(user, lambda: _hold(settings, holder), umask=0o077)
            yield left
        finally:
            hush()
            left[0] = as_user(user, lambda: _release(settings, holder), umask=0o077)


@contextmanager
def _signals_raise() -> Iterator[Callable[[], None]]:
    """The first signal raises here, further ones disturb nothing; what nohup or a shell has ignored stays so.

    Yields:
        What ends the raising: signals are ignored from then on.
    """
    here = threading.current_thread() is threading.main_thread()
    before = {each: old for each in _SIGNALS if here and (old := signal.getsignal(each)) is not signal.SIG_IGN}

    def hush() -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)

    def end(number: int, _frame: FrameType | None) -> None:
        hush()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    try:
        for each in before:
            signal.signal(each, end)
        yield hush
    finally:
        for each, old in before.items():
            signal.signal(each, old)


def _hold(settings: Settings, holder: str) -> bool:
    store = open_store(settings)
    try:
        return store.made() and drained.hold(store, REASON, holder)
    finally:
        store.close()


def _release(settings: Settings, holder: str) -> str:
    """Release the backend; the words about a drain that goes on."""
    store = open_store(settings)
    try:
        return drained.release(store, holder).words() if store.made() else ""
    finally:
        store.close()
