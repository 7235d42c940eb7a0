"""Writes to the API-DB that could not be sent: kept in order, lane by lane. Rows in, rows out; `delivery` sends them.

A lane is what must stay in order: a student's seat with its participants, or a workshop. A kept write holds a
reference in place of a password.
"""

from __future__ import annotations

import json
import time
from typing import Any

import sqlalchemy as sa
import structlog

from wodmail import overtaken
from wodmail.errors import Failed, WodmailError
from wodmail.jobs import atwork
from wodmail.model import Write
from wodmail.overtaken import Later
from wodmail.secretstore import job_of
from wodmail.store import Store, iso, mails, requests, writes

log = structlog.get_logger("wodmail.writes")

KEPT, FAILED, OVERTAKEN = "kept", overtaken.REFUSED, "overtaken"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
STUCK_AFTER = 65  # tries in vain, which take an hour
WRITE_FAILED, WRITE_OVERTAKEN, WRITE_STUCK = "write-failed", "write-overtaken", "write-stuck"
TOLD = (WRITE_FAILED, WRITE_OVERTAKEN, WRITE_STUCK)
"""The kinds of mails about a write; each has the write's number as its round."""


def _write(row: dict[str, Any]) -> Write:
    """The write that a row keeps."""
    return Write(row["lane"], row["path"], json.loads(row["body"]), row["password"])


def pause_after(tries: int) -> float:
    """Seconds until a kept write is tried again (pure): 1, 2, 4 … at most 60."""
    return float(min(FIRST_PAUSE * 2 ** min(tries - 1, 10), LONGEST_PAUSE))


def kept(store: Store, request: int | None = None) -> int:
    """How many writes of this backend are kept.

    Args:
        store: the database.
        request: only those of that request.
    """
    query = sa.select(sa.func.count().label("n")).where(writes.c.backend == store.backend, writes.c.state == KEPT)
    if request is not None:
        query = query.where(writes.c.request == request)
    found = store.row(query)
    return int(found["n"]) if found else 0


def of_request(store: Store, request: int) -> list[dict[str, Any]]:
    """A request's writes that are kept, refused or overtaken, in order; no password and no reference to one."""
    rows = store.rows(sa.select(writes).where(writes.c.request == request).order_by(writes.c.id))
    return [_described(row) for row in rows]


def described(store: Store, write: int) -> dict[str, Any]:
    """One write by its number, as `of_request` tells it.

    Raises:
        Failed: there is none of that number (any more).
    """
    row = store.row(sa.select(writes).where(writes.c.id == write))
    if row is None:
        raise Failed("A write to the API-DB that failed is not on record any more.", f"no write {write}")
    return _described(row)


def _described(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": row["path"],
        "fields": sorted([*json.loads(row["body"]), *(["password"] if row["password"] else [])]),
        "state": row["state"],
        "kept": iso(row["kept_at"]),
        "tries": row["tries"],
        "error": row["error"],
    }


class KeptWrites:
    """The table of kept writes of one backend.

    Args:
        store: the database.
        monitor: WODMONITOR, told of a write that is refused, overtaken or can't be delivered; empty for nobody.
    """

    def __init__(self, store: Store, monitor: str = "") -> None:
        self._store, self._monitor = store, monitor
        self._waiting = sa.select(writes).where(writes.c.backend == store.backend, writes.c.state == KEPT)

    def first(self, lane: str) -> dict[str, Any] | None:
        """The oldest of a lane."""
        return self._store.row(self._waiting.where(writes.c.lane == lane).order_by(writes.c.id).limit(1))

    def last(self, lane: str) -> dict[str, Any] | None:
        """The newest of a lane."""
        return self._store.row(self._waiting.where(writes.c.lane == lane).order_by(writes.c.id.desc()).limit(1))

    def due_lanes(self) -> list[str]:
        """Lanes whose first write may be tried, the oldest first."""
        ours = sa.and_(writes.c.backend == self._store.backend, writes.c.state == KEPT)
        heads = sa.select(sa.func.min(writes.c.id)).where(ours).group_by(writes.c.lane)
        query = sa.select(writes.c.lane).where(writes.c.id.in_(heads), writes.c.next_try <= time.time())
        return [row["lane"] for row in self._store.rows(query.order_by(writes.c.id))]

    def try_all_now(self) -> None:
        """Forget every pause: what stood in the way may have been mended."""
        ours = sa.and_(writes.c.backend == self._store.backend, writes.c.state == KEPT)
        with self._store.transaction() as connection:
            connection.execute(writes.update().where(ours).values(next_try=0.0))

    @staticmethod
    def meant(row: dict[str, Any]) -> Write:
        """The write that a row keeps."""
        return _write(row)

    def keep(self, write: Write, cause: str) -> None:
        """Write it down, unless its lane's newest is the same: a step that runs again keeps nothing twice.

        It belongs to the job that is at work.

        Args:
            write: what could not be sent.
            cause: why, for the operator; empty when it only waits for others.
        """
        newest = self.last(write.lane)
        if newest is not None and _write(newest) == write:
            return
        at_work = atwork.current()
        row = {
            "backend": self._store.backend,
            "lane": write.lane,
            "path": write.path,
            "body": json.dumps(write.body),
            "password": write.password,
            "request": at_work.request,
            "job": job_of(write.password) if write.password else at_work.job,
            "state": KEPT,
            "kept_at": time.time(),
            "error": cause,
        }
        with self._store.transaction() as connection:
            connection.execute(writes.insert(), row)
        log.warning("write-kept", lane=write.lane, path=write.path, cause=cause)

    def strike_off(self, row: dict[str, Any]) -> None:
        """It was delivered."""
        with self._store.transaction() as connection:
            connection.execute(writes.delete().where(writes.c.id == row["id"]))

    def defer(self, row: dict[str, Any], error: WodmailError) -> None:
        """It can't be delivered now though the service is there; other lanes may go on.

        After an hour of that WODMONITOR is told, once.
        """
        tries = row["tries"] + 1
        pause = pause_after(tries)
        values = {"tries": tries, "next_try": time.time() + pause, "error": error.operator}
        self._change(row, values, WRITE_STUCK if tries == STUCK_AFTER else "")
        log.warning("write-deferred", path=row["path"], request=row["request"], cause=error.operator, again_in=pause)

    def refuse(self, row: dict[str, Any], error: WodmailError) -> None:
        """It was refused. Nobody waits for it any more, so WODMONITOR is told."""
        self._settle(row, FAILED, error.operator, WRITE_FAILED)
        log.error("write-failed", path=row["path"], request=row["request"], cause=error.operator)

    def overtake(self, row: dict[str, Any], error: WodmailError) -> None:
        """It is out of date and will never be delivered; WODMONITOR is told."""
        self._settle(row, OVERTAKEN, error.operator, WRITE_OVERTAKEN)

    def _settle(self, row: dict[str, Any], state: str, why: str, kind: str) -> None:
        values = {"state": state, "error": why, "tries": row["tries"] + 1, "settled_at": time.time()}
        self._change(row, values, kind)

    def _change(self, row: dict[str, Any], values: dict[str, Any], kind: str) -> None:
        """Change a row; the mail about it, if any, becomes due in the same transaction."""
        with self._store.transaction() as connection:
            connection.execute(writes.update().where(writes.c.id == row["id"]).values(**values))
            if not kind or not self._monitor:
                return
            if connection.execute(sa.select(requests.c.id).where(requests.c.id == row["request"])).first() is None:
                return
            mail = {"request": row["request"], "backend": self._store.backend, "kind": kind, "round": row["id"]}
            connection.execute(mails.insert(), {**mail, "recipient": self._monitor, "state": "due", "job": row["job"]})

    def later(self, write: Write, job: int) -> list[Later]:
        """See `overtaken.later`."""
        return overtaken.later(self._store, write, job)

    def password_refused(self, lane: str, job: int) -> bool:
        """See `overtaken.password_refused`."""
        return overtaken.password_refused(self._store, lane, job)
