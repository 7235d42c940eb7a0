"""What WODMONITOR is told while a request is still at work: a CREATE that takes too long."""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa
import structlog

from wodmail import drained
from wodmail.config import Settings
from wodmail.lanes import UNFINISHED
from wodmail.model import Action
from wodmail.store import Row, Store, mails, requests

log = structlog.get_logger("wodmail.alarms")

LATE_AFTER = 8 * 60.0
"""Seconds after its mail; the frontend gives a CREATE up after 10 minutes (docs/api-db.md)."""
KIND = "late"


class Alarms:
    """Finds CREATEs that are late, each once.

    Args:
        settings: WODMONITOR is used; without one the log alone tells.
        store: the database.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._monitor, self._store = settings.WODMONITOR, store
        self._told: set[int] = set()

    def look(self, now: float | None = None) -> list[int]:
        """Make the mails due that tell of late CREATEs.

        Args:
            now: seconds since 1970; None for the clock.

        Returns:
            The requests that are newly late.
        """
        query = sa.select(requests.c.id, requests.c.round, requests.c.subject).where(
            requests.c.backend == self._store.backend,
            requests.c.action == Action.CREATE.value,
            requests.c.state.in_(UNFINISHED),
            requests.c.received_at < (time.time() if now is None else now) - LATE_AFTER,
        )
        late = [row for row in self._store.rows(query.order_by(requests.c.id)) if row["id"] not in self._told]
        drain = drained.current(self._store) if late else drained.Drain()
        if drain.on:
            return self._look_drained(late, drain.told)
        if (time.time() if now is None else now) - drain.resumed < LATE_AFTER:
            return []  # what was kept in a drain gets its time
        for row in late:
            log.warning("create-late", request=row["id"], subject=row["subject"], seconds=LATE_AFTER)
            if self._monitor:
                self._tell(row["id"], row["round"])
            self._told.add(row["id"])
        return [row["id"] for row in late]

    def _look_drained(self, late: Sequence[Row], told: int) -> list[int]:
        """A drain makes many late, and its operator knows: one mail says so; later ones are told as ever."""
        if told or not late:
            return []
        first = late[0]
        log.warning("create-late", request=first["id"], subject=first["subject"], seconds=LATE_AFTER, drained=True)
        with self._store.transaction() as connection:
            drained.note_told(connection, self._store.backend, first["id"])
        if self._monitor:
            self._tell(first["id"], first["round"])
        return [first["id"]]

    def _tell(self, request: int, turn: int) -> None:
        """One mail a request, also when the server was started anew meanwhile."""
        due = {"backend": self._store.backend, "kind": KIND, "round": turn, "recipient": self._monitor, "job": 0}
        with self._store.transaction() as connection:
            known = sa.select(mails.c.id).where(mails.c.request == request, mails.c.kind == KIND)
            if connection.execute(known).first() is None:
                connection.execute(mails.insert(), {"request": request, "state": "due", **due})
