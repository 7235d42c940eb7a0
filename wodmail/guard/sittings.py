"""Who sits where, as far as the guard has to know it: since when it is somebody else, and how long a session lasts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from wodmail import sessions
from wodmail.catalog import Catalog
from wodmail.config import Settings
from wodmail.model import Action, State
from wodmail.store import Store, jobs, open_store

_HOUR = 3600.0
_ACTIONS = (Action.CREATE, Action.CLEANUP, Action.PURGE)


@dataclass(frozen=True, slots=True)
class Sittings:
    """What the jobs say.

    Args:
        since: when the last job that changed who sits there was done, seconds since 1970, by student.
        limits: how long a session lasts, in seconds, of students whose last such job is a CREATE of a known workshop.
        going_on: students whose session goes on, by the backend's own account of sessions.
    """

    since: dict[int, float]
    limits: dict[int, float]
    going_on: frozenset[int]


class Asker:
    """Asks the backend's database.

    Args:
        settings: whose.
        opened: opens the database.
    """

    def __init__(self, settings: Settings, opened: Callable[[Settings], Store] = open_store) -> None:
        self._settings, self._opened = settings, opened
        self._catalog = Catalog(settings.WODNOBO, settings.WODPRIVNOBO)
        self._jobs: dict[int, tuple[int, str, str, float]] = {}  # by student: job, action, workshop, when it was done
        self._until = ""

    def ask(self) -> Sittings | None:
        """What is known now; None when there is no database yet.

        Raises:
            Temporary: the database can't be reached.
        """
        store = self._opened(self._settings)
        try:
            if not store.made():
                return None
            self._read(store)
            alone = not self._settings.apidb
            going_on = frozenset(each.student for each in sessions.running(store) if each.left > 0) if alone else ()
        finally:
            store.close()
        # Without an API-DB the backend ends sessions itself, and knows better than the workshop how long they last.
        limits = {} if alone else {student: self._limit(job[2]) for student, job in self._jobs.items() if _begins(job)}
        since = {student: job[3] for student, job in self._jobs.items()}
        known = {student: seconds for student, seconds in limits.items() if seconds is not None}
        return Sittings(since, known, frozenset(going_on))

    def _read(self, store: Store) -> None:
        """Take the jobs that were done since the last time, or all."""
        rows = store.rows(
            sa.select(jobs.c.id, jobs.c.action, jobs.c.students, jobs.c.workshop, jobs.c.finished)
            .where(
                jobs.c.backend == store.backend,
                jobs.c.state == State.DONE.value,
                jobs.c.action.in_([each.value for each in _ACTIONS]),
                jobs.c.finished >= self._until,
            )
            .order_by(jobs.c.id)
        )
        for row in rows:
            at = datetime.fromisoformat(row["finished"]).timestamp()
            for student in json.loads(row["students"]):
                if row["id"] >= self._jobs.get(student, (0,))[0]:
                    self._jobs[student] = (row["id"], row["action"], row["workshop"], at)
        self._until = max([self._until, *(row["finished"] for row in rows)])

    def _limit(self, workshop: str) -> float | None:
        found = self._catalog.find(workshop)
        return None if found is None else found.duration * _HOUR


def _begins(job: tuple[int, str, str, float]) -> bool:
    return job[1] == Action.CREATE.value
