"""With an API-DB: seats whose participants' time is over and that nobody cleans (docs/sessions.md).

The frontend ends sessions there. When its CLEANUP doesn't come within an hour, WODMONITOR is told, once a participant,
and with WODSELFCLEAN the backend sends the CLEANUP itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
import structlog

from wodmail import sessionends
from wodmail.config import Settings
from wodmail.lanes import UNFINISHED
from wodmail.mail import notice
from wodmail.mail.spool import Spool
from wodmail.model import Action
from wodmail.registry.base import Registry, Seat
from wodmail.store import Store, facts, iso, jobs

log = structlog.get_logger("wodmail.overdue")

GRACE = 3600.0
"""Seconds after a participant's end until a missing CLEANUP is told."""
EVERY = 300.0
"""Seconds between two looks."""
TEMPLATE = "overdue"


class Overdue:
    """Watches a backend that has an API-DB.

    Args:
        settings: WODMONITOR is told; WODSELFCLEAN cleans.
        store: the database.
        registry: knows when participants' time ends.
        spool: gets the CLEANUP mails.
    """

    def __init__(self, settings: Settings, store: Store, registry: Registry, spool: Spool) -> None:
        self._settings, self._store, self._registry, self._spool = settings, store, registry, spool

    def look(self, now: float | None = None) -> list[Seat]:
        """Tell of what is newly overdue, and clean it when that is wanted.

        Args:
            now: seconds since 1970; None for the clock.

        Returns:
            The seats that are newly overdue.

        Raises:
            Temporary: registry, database or spool are not to be had; the next look does it.
        """
        moment = time.time() if now is None else now
        found = self._registry.overdue(moment - GRACE)
        new = [seat for seat in found if not self._known(seat) and not self._at_work(seat)]
        for seat in new:
            log.warning("session-overdue", student=seat.student, participant=seat.participant, workshop=seat.workshop)
            if self._settings.WODSELFCLEAN:
                self._clean(seat)
        if new and self._tell(new, moment):
            self._remember(new)
        return new

    def _clean(self, seat: Seat) -> None:
        workshop = seat.workshop or ""
        mark = f"overdue-{seat.participant}-{seat.student}"
        sessionends.clean(self._settings, self._spool, seat.student, seat.participant, workshop, mark)

    def _at_work(self, seat: Seat) -> bool:
        """Whether a CLEANUP or PURGE of that student waits or runs."""
        query = sa.select(jobs.c.id).where(
            jobs.c.backend == self._store.backend,
            jobs.c.action.in_([Action.CLEANUP.value, Action.PURGE.value]),
            jobs.c.state.in_(UNFINISHED),
            jobs.c.students == f"[{seat.student}]",
        )
        return self._store.row(query.limit(1)) is not None

    def _name(self, seat: Seat) -> str:
        return f"overdue:{self._store.backend}:{seat.participant}"

    def _known(self, seat: Seat) -> bool:
        return self._store.row(sa.select(facts.c.name).where(facts.c.name == self._name(seat))) is not None

    def _remember(self, seats: Sequence[Seat]) -> None:
        with self._store.transaction() as connection:
            for seat in seats:
                connection.execute(facts.insert(), {"name": self._name(seat), "value": iso()})

    def _tell(self, seats: Sequence[Seat], moment: float) -> bool:
        """Mail WODMONITOR; returns whether nothing more is to be tried."""
        if not self._settings.WODMONITOR:
            return True
        values = {"seats": seats, "cleaned": self._settings.WODSELFCLEAN}
        count = len(seats)
        subject = f"{count} seat{'s' if count > 1 else ''} overdue: no CLEANUP came"
        trouble = notice.tell(self._settings, TEMPLATE, subject, values, datetime.fromtimestamp(moment, UTC))
        if trouble:
            log.warning("overdue-untold", cause=trouble)
        return not trouble
