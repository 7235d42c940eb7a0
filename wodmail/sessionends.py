"""The end of a session: claimed, its CLEANUP sent, and followed until it has come to something (docs/sessions.md).

A CLEANUP that comes late would wipe whoever has the seat by then. So none is sent while an action of the student that
changes the seat waits, runs or is on its way, and each carries the session that it ends: once a newer CREATE is known
it is refused, by intake and again by its own validation.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from email.message import EmailMessage

import sqlalchemy as sa
import structlog

from wodmail import submit
from wodmail.config import Settings
from wodmail.errors import Failed, Refused, WodmailError
from wodmail.jobs.earlier import newer_create
from wodmail.lanes import UNFINISHED
from wodmail.mail import command as commands
from wodmail.mail import message as messages
from wodmail.mail.grammar import Broken, Limits, render
from wodmail.mail.message import SESSION_HEADER
from wodmail.mail.spool import Spool
from wodmail.model import Action, Command, SessionState, State
from wodmail.registry.base import Registry
from wodmail.store import Row, Store, jobs, lanes, mails, requests, sessions

log = structlog.get_logger("wodmail.sessionends")

HOUR = 3600.0
LONGEST_PAUSE = 24 * HOUR
CHANGING = (Action.CREATE.value, Action.CLEANUP.value, Action.RESET.value, Action.PURGE.value)
TOLD = "session-refused"
"""The kind of mail that tells WODMONITOR of a refusal."""


def pause_after(tries: int) -> float:
    """Seconds until a CLEANUP that was refused is sent again (pure): 1, 2, 4 … at most 24 hours."""
    return min(HOUR * 2.0 ** min(tries - 1, 10), LONGEST_PAUSE)


class Ends:
    """Ends sessions whose time is over.

    Args:
        settings: whose backend; WODMONITOR is told of refusals.
        store: the database.
        registry: who sits where.
        spool: gets the CLEANUP mails.
    """

    def __init__(self, settings: Settings, store: Store, registry: Registry, spool: Spool) -> None:
        self._settings, self._store, self._registry, self._spool = settings, store, registry, spool

    def look(self, now: float) -> bool:
        """Claim what is over, send the CLEANUPs, see what became of earlier ones.

        Args:
            now: what the session clock shows, seconds.

        Returns:
            Whether mails are due now.

        Raises:
            Temporary: database or spool are not to be had.
        """
        told = self._follow(now)
        over = (sessions.c.ends <= now, sessions.c.again <= now, ~_at_work())
        due = self._rows(SessionState.ON, *over)
        if not due and not self._rows(SessionState.ENDING):
            return told
        coming = coming_to(self._settings, self._spool)
        self._claim([row for row in due if row["student"] not in coming], over)
        # Also what an earlier life has claimed, whose mail may be stored already: then it is among those that come.
        ending = [row for row in self._rows(SessionState.ENDING, ~_at_work()) if row["student"] not in coming]
        sent = [self._guarded(row) for row in ending]
        return told or any(sent)

    def _rows(self, state: SessionState, *more: sa.ColumnElement[bool]) -> list[dict[str, object]]:
        mine = (sessions.c.backend == self._store.backend, sessions.c.state == state.value)
        return self._store.rows(sa.select(sessions).where(*mine, *more).order_by(sessions.c.job))

    # -- claiming and sending ---------------------------------------------------------------------------------

    def _claim(self, due: Sequence[Row], over: Iterable[sa.ColumnElement[bool]]) -> None:
        """In one transaction, so that nobody is promised more time for a session whose CLEANUP goes out."""
        with self._store.transaction() as connection:
            for row in due:
                still = (sessions.c.job == row["job"], sessions.c.state == SessionState.ON.value, *over)
                connection.execute(sessions.update().where(*still).values(state=SessionState.ENDING.value))

    def _guarded(self, row: Row) -> bool:
        """One session's trouble is not the others'."""
        try:
            return self._end(row)
        except Refused as error:
            log.warning("session-dropped", student=row["student"], job=row["job"], cause=error.operator)
            self.move(row, SessionState.OVER)
        except WodmailError as error:  # it stays as it is, and the next look does it
            log.warning("session-trouble", student=row["student"], job=row["job"], cause=error.operator)
        return False

    def _end(self, row: Row) -> bool:
        if not seated(self._registry, row):
            self.move(row, SessionState.OVER)
            return False
        tries = f"-{row['tries']}" if row["tries"] else ""
        names = (row["student"], row["participant"], row["workshop"], f"session-{row['job']}{tries}")
        key = clean(self._settings, self._spool, *names, session=row["job"])
        self.move(row, SessionState.SENT, mail=key)
        return True

    def move(self, row: Row, state: SessionState, **values: object) -> bool:
        """Write a session's new state, unless it is not as it was read any more; returns whether it was."""
        with self._store.transaction() as connection:
            return _moved(connection, row, state, **values)

    # -- what became of it ------------------------------------------------------------------------------------

    def _follow(self, now: float) -> bool:
        """See what became of the CLEANUPs that were sent; returns whether somebody is to be told."""
        sent = self._rows(SessionState.SENT)
        waiting = set(self._spool.new()) if sent else set()
        told = [self._followed(row, waiting, now) for row in sent]
        return any(told)

    def _followed(self, row: Row, waiting: Collection[str], now: float) -> bool:
        request = self._request(row)
        if request is None:
            if row["mail"] not in waiting:  # somebody has taken it out of the spool
                self.move(row, SessionState.ENDING)
        elif request["state"] == State.REFUSED.value:
            return self._refused(row, request, now)
        elif request["state"] not in UNFINISHED:
            self.move(row, SessionState.ENDED)
            log.info("session-ended", student=row["student"], workshop=row["workshop"])
        return False

    def _request(self, row: Row) -> dict[str, object] | None:
        """The request of a session's CLEANUP, or the one that it repeats; None when it is not taken in."""
        ours = sa.select(requests).where(requests.c.backend == self._store.backend)
        found = self._store.row(ours.where(requests.c.spool_key == row["mail"]))
        if found is not None and found["state"] == State.DUPLICATE.value:
            return self._store.row(ours.where(requests.c.id == json.loads(found["notes"])["first"])) or found
        return found

    def _refused(self, row: Row, request: Row, now: float) -> bool:
        """Send it again later; WODMONITOR is told once, but not of what only came too late."""
        tries = int(row["tries"]) + 1
        with self._store.transaction() as connection:
            newer = newer_create(connection, self._store.backend, row["job"], row["student"])
            tell = bool(newer is None and not row["told"] and self._settings.WODMONITOR)
            again = now if newer is not None else now + pause_after(tries)
            values = {"tries": tries, "again": again, "reminded": True, "told": row["told"] or tell}
            if not _moved(connection, row, SessionState.ON, **values):
                return False
            if tell:
                due = {"request": request["id"], "backend": self._store.backend, "kind": TOLD, "round": 1}
                to = self._settings.WODMONITOR
                connection.execute(mails.insert(), {**due, "recipient": to, "job": row["job"], "state": "due"})
        log.warning("session-refused", student=row["student"], job=row["job"], cause=request["reason"])
        return tell


def _moved(connection: sa.Connection, row: Row, state: SessionState, **values: object) -> bool:
    same = (sessions.c.job == row["job"], sessions.c.state == row["state"], sessions.c.ends == row["ends"])
    done = connection.execute(sessions.update().where(*same).values(state=state.value, **values))
    return done.rowcount == 1


def _at_work() -> sa.ColumnElement[bool]:
    """Of a session: an action that changes its student's seat waits or runs."""
    return (
        sa.select(sa.literal(1))
        .select_from(lanes.join(jobs, jobs.c.id == lanes.c.job))
        .where(lanes.c.student == sessions.c.student, jobs.c.backend == sessions.c.backend)
        .where(jobs.c.action.in_(CHANGING), jobs.c.state.in_(UNFINISHED))
        .exists()
    )


def seated(registry: Registry, row: Row) -> bool:
    """Whether somebody works at a session's seat, and nobody else.

    Raises:
        Refused: there is no such student here.
    """
    seat = registry.seat(row["student"])
    return seat.active and seat.participant in (0, row["participant"])


def coming_to(settings: Settings, spool: Spool) -> set[int]:
    """The students whom mails name that are not taken in yet and will change their seats.

    Args:
        settings: say how subjects are read.
        spool: the backend's.

    Raises:
        Temporary: the spool is not to be had.
    """
    found, limits = set[int](), Limits.of(settings)
    for key in spool.new():
        try:
            command = commands.parse(messages.read(spool.read(key).raw).subject, limits=limits)
            if not isinstance(command, Broken) and command.action.value in CHANGING:
                found.update(commands.interpret(command, commands.reading(settings), limits).students)
        except (Failed, Refused):  # no mail to read, or none that will do anything: intake says so
            continue
    return found


def clean(
    settings: Settings, spool: Spool, student: int, participant: int, workshop: str, mark: str, *, session: int = 0
) -> str:
    """Put a CLEANUP into the spool; the same mark makes the same Message-ID, so a second one is a duplicate.

    Args:
        settings: whose backend; its own test sender commands.
        spool: the backend's.
        student: the student's number.
        participant: who had the seat, 0 for nobody known by number.
        workshop: WKSHP-Name.
        mark: names what ended, letters, digits and dashes.
        session: the job of the CREATE whose session it ends, 0 for none; it does nothing after a newer CREATE.

    Returns:
        Its key in the spool.

    Raises:
        Temporary: it could not be stored.
    """
    number = participant if settings.number_reading == "participant" else 0
    command = Command(Action.CLEANUP, first=student, number=number)
    mail: EmailMessage = submit.build(settings, command, render(command), workshop)
    mail.replace_header("Message-ID", f"<{mark}.cleanup@{settings.WODBEFQDN}>")
    if session:
        mail[SESSION_HEADER] = str(session)
    allowed = [] if settings.WODSENDER else settings.WODALLOWEDSENDERS
    sender = (*allowed, settings.test_sender)[0]
    return spool.store(mail.as_bytes(), peer="127.0.0.1", sender=sender, door="pipe")
