"""With an API-DB: seats whose participants' time is over and that nobody cleans (docs/sessions.md).

The frontend ends sessions there. When its CLEANUP doesn't come within an hour, or did nothing, WODMONITOR is told, and
with WODSELFCLEAN the backend sends the CLEANUP itself: each once for a participant's end. What is to be told is noted
before anything is cleaned, as nobody could find it afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
import structlog

from wodmail import sessionends
from wodmail.config import Settings
from wodmail.lanes import UNFINISHED
from wodmail.mail import notice
from wodmail.mail.spool import Spool
from wodmail.model import Action, State
from wodmail.registry.base import Registry, Seat
from wodmail.store import Store, facts, iso, jobs, requests

log = structlog.get_logger("wodmail.overdue")

GRACE = 3600.0
"""Seconds after a participant's end until a missing CLEANUP is told."""
EVERY = 300.0
"""Seconds between two looks."""
TEMPLATE = "overdue"
CLEANING = (Action.CLEANUP.value, Action.PURGE.value)


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
        found = [seat for seat in self._registry.overdue(moment - GRACE) if not self._at_work(seat)]
        coming = sessionends.coming_to(self._settings, self._spool) if found else set()
        found = [seat for seat in found if seat.student not in coming]
        marks = self._marks()
        new = [seat for seat in found if self._name(seat) not in marks]
        self._note(new)
        if self._settings.WODSELFCLEAN:
            for seat in found:
                if not marks.get(self._name(seat), {}).get("cleaned"):
                    self._clean(seat)
        self._tell(moment)
        return new

    def _note(self, seats: Sequence[Seat]) -> None:
        """Write down that these are to be told."""
        came = {seat: self._came(seat) for seat in seats}
        with self._store.transaction() as connection:
            for seat in seats:
                value = {"seat": asdict(seat), "came": came[seat], "told": "", "cleaned": ""}
                connection.execute(facts.insert(), {"name": self._name(seat), "value": json.dumps(value)})
        for seat in seats:
            log.warning("session-overdue", student=seat.student, participant=seat.participant, workshop=seat.workshop)

    def _clean(self, seat: Seat) -> None:
        """After a crash between the two lines the second CLEANUP is a duplicate."""
        mark = f"overdue-{seat.participant}-{seat.student}-{_end(seat)}"
        sessionends.clean(self._settings, self._spool, seat.student, seat.participant, seat.workshop or "", mark)
        self._mark([self._name(seat)], "cleaned")

    def _at_work(self, seat: Seat) -> bool:
        """Whether a CLEANUP or PURGE of that student waits or runs."""
        query = sa.select(jobs.c.id).where(
            jobs.c.backend == self._store.backend,
            jobs.c.action.in_(CLEANING),
            jobs.c.state.in_(UNFINISHED),
            jobs.c.students == f"[{seat.student}]",
        )
        return self._store.row(query.limit(1)) is not None

    def _came(self, seat: Seat) -> dict[str, Any]:
        """The request that should have cleaned the seat since its CREATE, with what became of it; empty for none."""
        answered = requests.c.state.not_in([State.REFUSED.value, State.DUPLICATE.value])
        query = sa.select(requests.c.id, requests.c.action, requests.c.state).where(
            requests.c.backend == self._store.backend,
            requests.c.students == f"[{seat.student}]",
            sa.func.coalesce(requests.c.number, 0).in_([0, seat.participant]),
            sa.or_(
                requests.c.action.in_(CLEANING) & (requests.c.state != State.DUPLICATE.value),
                (requests.c.action == Action.CREATE.value) & answered,
            ),
        )
        found = self._store.row(query.order_by(requests.c.id.desc()).limit(1))
        return found if found is not None and found["action"] in CLEANING else {}

    def _name(self, seat: Seat) -> str:
        """An end that is moved and passes again is another one."""
        return f"{self._prefix}{seat.participant}:{_end(seat)}"

    @property
    def _prefix(self) -> str:
        return f"overdue-end:{self._store.backend}:"

    def _marks(self) -> dict[str, dict[str, Any]]:
        """What is known of ends that were seen before, by name."""
        query = sa.select(facts).where(facts.c.name.startswith(self._prefix, autoescape=True)).order_by(facts.c.name)
        return {row["name"]: json.loads(row["value"]) for row in self._store.rows(query)}

    def _mark(self, names: Sequence[str], what: str) -> None:
        """Note that ends were told, or cleaned."""
        with self._store.transaction() as connection:
            for name in names:
                same = facts.c.name == name
                value = json.loads(connection.execute(sa.select(facts.c.value).where(same)).scalar_one())
                connection.execute(facts.update().where(same).values(value=json.dumps({**value, what: iso()})))

    def _tell(self, moment: float) -> None:
        """Mail WODMONITOR what it does not know yet; a mail that can't be sent is tried again at the next look."""
        untold = {name: mark for name, mark in self._marks().items() if not mark["told"]}
        if not untold:
            return
        trouble = ""
        if self._settings.WODMONITOR:
            seats = [_shown(mark) for mark in untold.values()]
            count, none = len(seats), not any(seat["came"] for seat in seats)
            subject = f"{count} seat{'s' if count > 1 else ''} overdue{': no CLEANUP came' if none else ''}"
            at = datetime.fromtimestamp(moment, UTC)
            trouble = notice.tell(self._settings, TEMPLATE, subject, {"seats": seats}, at)
        if trouble:
            log.warning("overdue-untold", cause=trouble)
        else:
            self._mark(list(untold), "told")


def _shown(mark: Mapping[str, Any]) -> dict[str, Any]:
    return {**mark["seat"], "came": mark.get("came", {}), "cleaned": bool(mark["cleaned"])}


def _end(seat: Seat) -> int:
    return int(seat.ends or 0)
