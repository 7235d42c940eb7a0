"""Who sits where, as far as the guard has to know it: since when it is somebody else, and how long a session lasts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from wodmail import sessions
from wodmail.catalog import Catalog
from wodmail.config import Settings
from wodmail.errors import Temporary
from wodmail.model import Action, State
from wodmail.store import Row, Store, jobs, open_store

_HOUR = 3600.0
SECONDS = 5.0  # that the database may take to be connected to, and for each statement
_WAIT = 2.0
_ACTIONS = (Action.CREATE, Action.CLEANUP, Action.PURGE)


@dataclass(frozen=True, slots=True)
class Sittings:
    """What the jobs say.

    Args:
        who: the last job that changed who sits there, as a text, by student. It is compared with what it was before,
            never with a clock, which somebody may set.
        limits: how long a session lasts, in seconds, of students whose last such job is a CREATE of a known workshop.
        going_on: students whose session goes on, by the backend's own account of sessions.
    """

    who: dict[int, str]
    limits: dict[int, float]
    going_on: frozenset[int]


class Asker:
    """Asks the backend's database.

    Args:
        settings: whose.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalog = Catalog(settings.WODNOBO, settings.WODPRIVNOBO)

    def ask(self) -> Sittings | None:
        """What is known now; None when there is no database yet.

        Raises:
            Temporary: the database can't be reached.
        """
        store = open_store(self._settings, SECONDS)
        try:
            if not store.made():
                return None
            last = _last(store)
            alone = not self._settings.apidb
            going_on = frozenset(each.student for each in sessions.running(store) if each.left > 0) if alone else ()
        finally:
            store.close()
        # Without an API-DB the backend ends sessions itself, and knows better than the workshop how long they last.
        begun = {} if alone else {student: job for student, job in last.items() if job["action"] == Action.CREATE.value}
        limits = {student: self._limit(job["workshop"]) for student, job in begun.items()}
        known = {student: seconds for student, seconds in limits.items() if seconds is not None}
        who = {student: f"{job['id']}, {job['finished']}" for student, job in last.items()}
        return Sittings(who, known, frozenset(going_on))

    def _limit(self, workshop: str) -> float | None:
        found = self._catalog.find(workshop)
        return None if found is None else found.duration * _HOUR


def _last(store: Store) -> dict[int, Row]:
    """The last job that changed who sits there, by student."""
    done = (
        jobs.c.backend == store.backend,
        jobs.c.state == State.DONE.value,
        jobs.c.action.in_([each.value for each in _ACTIONS]),
    )
    newest = sa.select(sa.func.max(jobs.c.id)).where(*done).group_by(jobs.c.students)
    rows = store.rows(sa.select(jobs).where(jobs.c.id.in_(newest)).order_by(jobs.c.id))
    return {student: row for row in rows for student in json.loads(row["students"])}


class _Work(threading.Thread):
    """Asks once."""

    def __init__(self, ask: Callable[[], Sittings | None]) -> None:
        super().__init__(daemon=True, name="guard-sittings")
        self._ask = ask
        self.answer: Sittings | None = None
        self.fault: Exception | None = None

    def run(self) -> None:
        """Ask, and keep what comes of it."""
        try:
            self.answer = self._ask()
        except Exception as error:  # noqa: BLE001 - raised where the answer is wanted
            self.fault = error


class Beside:
    """Asks beside the guard's work: whatever the database does, nobody waits long for it.

    Args:
        ask: what may take for ever.
        seconds: how long the answer is waited for; later it is taken when it has come.
    """

    def __init__(self, ask: Callable[[], Sittings | None], seconds: float = _WAIT) -> None:
        self._ask, self._seconds = ask, seconds
        self._work: _Work | None = None

    def ask(self) -> Sittings | None:
        """What is known now, or was when the answer came that was waited for in vain.

        Raises:
            Temporary: there is no answer yet.
            Exception: what the asking raised.
        """
        if self._work is None:
            self._work = _Work(self._ask)
            self._work.start()
            self._work.join(self._seconds)
        if self._work.is_alive():
            raise Temporary(
                "The backend's database does not answer; the guard goes on with what it knew last.",
                f"the database has been asked and has not answered within {self._seconds:g} s",
            )
        work, self._work = self._work, None
        if work.fault is not None:
            raise work.fault
        return work.answer
