"""Empties students' homes for an operator; a seat that is in use is never touched.

While it works the backend is drained, so that no job begins for a seat that was just found free.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from wodmail import drained, students
from wodmail.becoming import as_user
from wodmail.config import Settings
from wodmail.errors import Refused, WodmailError
from wodmail.store import open_store
from wodmail.students import occupancy
from wodmail.students.base import Accounts

REASON = "wod-cleanup-users is at work"


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


def clean(
    settings: Settings, asked: Sequence[int], on_student: Callable[[Cleaned], None] = lambda _: None
) -> list[Cleaned]:
    """Empty the homes of all students whose seats are free.

    Args:
        settings: the configuration.
        asked: the students.
        on_student: called as each is done.

    Returns:
        What became of each, in order.

    Raises:
        WodmailError: who is in use can't be found out; nothing was touched.
    """
    done = []
    with _standstill(settings):
        busy = in_use(settings, asked)
        accounts = students.for_settings(settings)
        try:
            for student in asked:
                row = Cleaned(student, Outcome.IN_USE, busy[student]) if student in busy else _empty(accounts, student)
                on_student(row)
                done.append(row)
        finally:
            accounts.close()
    return done


def _empty(accounts: Accounts, student: int) -> Cleaned:
    try:
        accounts.check(student)
        accounts.erase(student)
        accounts.verify_erased(student)
    except WodmailError as error:
        return Cleaned(student, Outcome.FAILED, error.operator)
    return Cleaned(student, Outcome.EMPTIED)


@contextmanager
def _standstill(settings: Settings) -> Iterator[None]:
    """Let no job start meanwhile; a backend that was drained before stays drained.

    When an operator drains it meanwhile it stays drained, too. The database is WODUSER's, so it is changed with its
    rights.
    """
    user = pwd.getpwuid(os.geteuid()) if settings.WODSANDBOX else pwd.getpwnam(settings.WODUSER)
    holder = as_user(user, lambda: _hold(settings), umask=0o077)
    try:
        yield
    finally:
        if holder:
            as_user(user, lambda: _release(settings, holder), umask=0o077)


def _hold(settings: Settings) -> str:
    """Hold the backend drained; empty when there is nothing to be released afterwards."""
    store = open_store(settings)
    try:
        return drained.hold(store, REASON) if store.made() else ""
    finally:
        store.close()


def _release(settings: Settings, holder: str) -> bool:
    store = open_store(settings)
    try:
        return drained.release(store, holder)
    finally:
        store.close()
