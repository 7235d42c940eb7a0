"""Sessions and their ends: a reminder an hour before, a CLEANUP at the end (docs/sessions.md).

With the embedded registry the backend itself knows how long a session lasts (`duration` in wod.yml). What is due is
found by looking, so nothing has to be armed and nothing is lost by a restart. How one ends is in
`wodmail.sessionends`. With an API-DB see `wodmail.overdue`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
import structlog

from wodmail import sessionclock
from wodmail.config import Settings
from wodmail.errors import Refused, WodmailError
from wodmail.mail.spool import Spool
from wodmail.model import OPEN_SESSIONS, Action, SessionState, State
from wodmail.registry.base import Registry
from wodmail.sessionclock import Reading
from wodmail.sessionends import Ends, seated
from wodmail.store import Row, Store, facts, jobs, mails, requests, sessions
from wodmail.wodyml import HOURS

log = structlog.get_logger("wodmail.sessions")

HOUR = 3600.0
NOTICE = HOUR
REMINDER = "reminder"
EVERY = 30.0
"""Seconds between two looks."""
ON, OVER = SessionState.ON.value, SessionState.OVER.value


@dataclass(frozen=True, slots=True)
class Session:
    """One session that goes on.

    Args:
        student: the student's number.
        workshop: WKSHP-Name.
        participant: who has it, 0 when nobody is known by number.
        request: the CREATE it began with.
        job: that one's job.
        left: seconds that are left; below 0 when its CLEANUP has to wait.
        ends: when that is by the wall clock, seconds since 1970.
        reminded: whether the reminder is out.
    """

    student: int
    workshop: str
    participant: int
    request: int
    job: int
    left: float
    ends: float
    reminded: bool


class Sessions:
    """Looks after the sessions of a backend with the embedded registry.

    Args:
        settings: whose backend.
        store: the database.
        registry: who sits where, and how long workshops last.
        spool: gets the CLEANUP mails.
        clocks: shows the machine's clocks.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        registry: Registry,
        spool: Spool,
        clocks: Callable[[], Reading] = sessionclock.reading,
    ) -> None:
        self._settings, self._store, self._registry, self._spool = settings, store, registry, spool
        self._clocks = clocks
        self._ends = Ends(settings, store, registry, spool)

    def look(self) -> bool:
        """Begin, remind and end what is due; returns whether mails are due now.

        Raises:
            Temporary: database, registry or spool are not to be had; nothing is lost, the next look does it.
        """
        now = self._now()
        self._begin(now)
        ended = self._ends.look(now)
        due = self._store.rows(
            sa.select(sessions)
            .where(sessions.c.backend == self._store.backend, sessions.c.state == ON)
            .where(~sessions.c.reminded, sessions.c.remind <= now, sessions.c.ends > now)
            .order_by(sessions.c.job)
        )
        told = [self._guarded(self._remind, row) for row in due]
        return ended or any(told)

    def _guarded(self, work: Callable[[Row], bool], row: Row) -> bool:
        """One session's trouble is not the others'."""
        try:
            return work(row)
        except WodmailError as error:  # the next look does it
            log.warning("session-trouble", job=row.get("job", row.get("id")), cause=error.operator)
            return False

    def _now(self) -> float:
        """What the session clock shows, kept so that a restart goes on with it."""
        with self._store.transaction() as connection:
            return advanced(connection, self._store.backend, self._clocks())

    def _begin(self, now: float) -> None:
        """Give every CREATE that is done a row; of those the student's latest is a session, when the seat is active."""
        known = sa.select(sessions.c.job)
        new = self._store.rows(
            sa.select(jobs.c.id, jobs.c.students, jobs.c.workshop, jobs.c.participant, jobs.c.request)
            .where(
                jobs.c.backend == self._store.backend,
                jobs.c.action == Action.CREATE.value,
                jobs.c.state == State.DONE.value,
                jobs.c.id.not_in(known),
            )
            .order_by(jobs.c.id)
        )
        for row in new:
            self._guarded(lambda row: self._add(row, now), row)
        if new:
            gone = (sessions.c.job.not_in(sa.select(jobs.c.id)), sessions.c.state.not_in(OPEN_SESSIONS))
            with self._store.transaction() as connection:
                connection.execute(sessions.delete().where(sessions.c.backend == self._store.backend, *gone))

    def _add(self, row: Row, now: float) -> bool:
        student = int(json.loads(row["students"])[0])
        seconds = self._hours(row["workshop"]) * HOUR
        ends = now + seconds
        values = {
            "job": row["id"],
            "backend": self._store.backend,
            "request": row["request"],
            "student": student,
            "workshop": row["workshop"],
            "participant": row["participant"],
            "ends": ends,
            "remind": ends - min(NOTICE, seconds / 2),
            "reminded": False,
        }
        state = ON if self._seated(values) else OVER
        with self._store.transaction() as connection:
            older = (sessions.c.backend == self._store.backend, sessions.c.student == student)
            still = sessions.c.state.in_(OPEN_SESSIONS)
            connection.execute(sessions.update().where(*older, still, sessions.c.job < row["id"]).values(state=OVER))
            connection.execute(sessions.insert(), {**values, "state": state})
        if state == ON:
            log.info("session-began", student=student, workshop=row["workshop"], hours=seconds / HOUR)
        return False

    def _seated(self, row: Row) -> bool:
        try:
            return seated(self._registry, row)
        except Refused as error:  # e.g. WODUSERMAX is lower by now
            log.warning("session-dropped", student=row["student"], job=row["job"], cause=error.operator)
            return False

    def _hours(self, workshop: str) -> float:
        try:
            return self._registry.workshop(workshop).duration
        except Refused:  # its folder is gone meanwhile
            return HOURS

    def _remind(self, row: Row) -> bool:
        """Make the reminder due: to the participant's address when the CREATE gave one, else to who sent it."""
        if not self._seated(row):
            self._ends.move(row, SessionState.OVER)
            return False
        request = self._store.row(sa.select(requests).where(requests.c.id == row["request"]))
        to = (request["email"] or request["reply_to"]) if request else ""
        with self._store.transaction() as connection:
            # Who was given more time meanwhile is reminded later.
            same = (sessions.c.job == row["job"], sessions.c.state == ON, sessions.c.remind == row["remind"])
            if connection.execute(sessions.update().where(*same).values(reminded=True)).rowcount != 1:
                return False
            if to and request:
                # Each is a mail of its own: after more time was given there is another one.
                earlier = sa.select(sa.func.max(mails.c.round)).where(
                    mails.c.request == row["request"], mails.c.kind == REMINDER
                )
                turn = (connection.execute(earlier).scalar() or 0) + 1
                due = {"request": row["request"], "backend": self._store.backend, "kind": REMINDER, "round": turn}
                connection.execute(mails.insert(), {**due, "recipient": to, "job": row["job"], "state": "due"})
        log.info("session-reminded", student=row["student"], workshop=row["workshop"])
        return True


def advanced(connection: sa.Connection, backend: str, seen: Reading) -> float:
    """What the session clock of a backend shows, written down.

    Args:
        connection: a transaction.
        backend: whose clock.
        seen: the machine's clocks.
    """
    name, stored = _clock_of(connection, backend)
    mark = sessionclock.advance(sessionclock.loaded(stored), seen)
    if stored is None:
        connection.execute(facts.insert(), {"name": name, "value": sessionclock.dumped(mark)})
    else:
        connection.execute(facts.update().where(facts.c.name == name).values(value=sessionclock.dumped(mark)))
    return mark.now


def _clock_of(connection: sa.Connection, backend: str) -> tuple[str, str | None]:
    """The name of the fact that keeps a backend's session clock, and what it says."""
    name = f"session-clock:{backend}"
    return name, connection.execute(sa.select(facts.c.value).where(facts.c.name == name)).scalar()


def running(store: Store, clocks: Callable[[], Reading] = sessionclock.reading) -> list[Session]:
    """The sessions that go on, those that end first at the top.

    Args:
        store: the database.
        clocks: shows the machine's clocks.

    Raises:
        Temporary: the database can't be reached.
    """
    with store.reading() as connection:
        _, stored = _clock_of(connection, store.backend)
    now = sessionclock.advance(sessionclock.loaded(stored), clocks()).now
    query = sa.select(sessions).where(sessions.c.backend == store.backend, sessions.c.state == ON)
    return [_session(row, now) for row in store.rows(query.order_by(sessions.c.ends, sessions.c.student))]


def _session(row: Row, now: float) -> Session:
    left = row["ends"] - now
    identity = (row["student"], row["workshop"], row["participant"], row["request"], row["job"])
    return Session(*identity, left, time.time() + left, bool(row["reminded"]))


def extend(store: Store, student: int, hours: float, clocks: Callable[[], Reading] = sessionclock.reading) -> Session:
    """Let a student's session last longer.

    Args:
        store: the database.
        student: the student's number.
        hours: how much longer, more than 0.
        clocks: shows the machine's clocks.

    Returns:
        The session as it is now; it gets a new reminder when there is time for one.

    Raises:
        Refused: the student has no session that goes on.
    """
    with store.transaction() as connection:
        now = advanced(connection, store.backend, clocks())
        query = sa.select(sessions).where(
            sessions.c.backend == store.backend, sessions.c.student == student, sessions.c.state == ON
        )
        row = connection.execute(query.order_by(sessions.c.job.desc())).mappings().first()
        if row is None:
            raise Refused(f"Student {student} has no session that goes on; see `wodmail sessions`.")
        ends = max(row["ends"], now) + hours * HOUR
        values = {"ends": ends, "remind": ends - min(NOTICE, (ends - now) / 2), "reminded": False}
        still = (sessions.c.job == row["job"], sessions.c.state == ON)
        if connection.execute(sessions.update().where(*still).values(**values)).rowcount != 1:
            raise Refused(f"The session of student {student} has just ended; see `wodmail sessions`.")
    return _session({**row, **values}, now)


def moments(found: Sequence[Session]) -> list[str]:
    """When sessions end, as people read it."""
    return [datetime.fromtimestamp(each.ends, UTC).strftime("%Y-%m-%d %H:%M UTC") for each in found]
