"""Writes to the API-DB: sent at once when it is there; else kept in order, lane by lane, until it is back.

A lane is what must stay in order: a student's seat with its participants, or a workshop. A kept write holds a
reference in place of a password. Every write is a PUT that may be repeated, so one that was sent but not yet struck
off the list when the server died is sent again.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
import structlog

from wodmail.errors import Away, Failed, NotLetIn, Temporary
from wodmail.secretstore import Secrets, job_of
from wodmail.store import Store, iso, mails, writes
from wodmail.store import requests as request_table

log = structlog.get_logger("wodmail.writes")

KEPT, FAILED = "kept", "failed"
NOTE = "kept: the API-DB is away; delivered when it is back"
BEHIND = "kept behind earlier ones; delivered when the API-DB takes them"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
COURIERS = 4  # a write that hangs holds up one of them
EVERY = 0.5  # seconds between two looks for lanes that are due
AFTER_FAULT = 2.0
WRITE_FAILED = "write-failed"


class Putter(Protocol):
    """What sends a write."""

    @property
    def away(self) -> bool:
        """See `ApiDb.away`."""
        ...

    def put(self, path: str, body: dict[str, Any], *, tries: int | None = None) -> Any:
        """See `ApiDb.put`."""
        ...


@dataclass(frozen=True, slots=True)
class Write:
    """One PUT.

    Args:
        lane: what it must keep its order in, e.g. "student 3".
        path: e.g. /student/1121.
        body: the fields; never a password.
        password: reference to the password that goes with them (`secretstore.reference`), empty for none.
    """

    lane: str
    path: str
    body: dict[str, Any]
    password: str = ""


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
    """A request's writes that are kept or have failed, in order; no password and no reference to one."""
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


class Writes:
    """Sends writes, keeps those that can't be sent, and delivers them later.

    Args:
        api: sends them.
        secrets: turns references into passwords.
        store: where they are kept; without one they fail with `Away` instead.
        monitor: WODMONITOR, told of a write that is refused in the end; empty for nobody.
    """

    def __init__(self, api: Putter, secrets: Secrets, store: Store | None, monitor: str = "") -> None:
        self._api, self._secrets, self._store, self._monitor = api, secrets, store, monitor
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()  # of _locks and _busy
        self._busy: set[str] = set()
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._settled: Callable[[int], object] = lambda _request: None
        self._threads: list[threading.Thread] = []

    # -- writing ----------------------------------------------------------------------------------------------

    def write(self, write: Write) -> str:
        """Send it, or keep it when that can't be done now or older ones of its lane still wait.

        Returns:
            empty when it was delivered, else words for the transcript.

        Raises:
            Failed: the API-DB refuses it.
            Away: it can't be sent and there is nowhere to keep it.
        """
        store = self._store
        if store is None:
            self._send(write, None)
            return ""
        with self._lock(write.lane):
            last = self._last(store, write.lane)
            if last is not None:
                if not _same(last, write):
                    self._keep(store, write, "")
                return BEHIND
            try:
                self._send(write, None)
            except Away as error:
                self._keep(store, write, error.operator)
                return NOTE
        return ""

    def _lock(self, lane: str) -> threading.Lock:
        with self._guard:
            return self._locks[lane]

    def _last(self, store: Store, lane: str) -> dict[str, Any] | None:
        return store.row(_waiting(store).where(writes.c.lane == lane).order_by(writes.c.id.desc()).limit(1))

    def _send(self, write: Write, tries: int | None) -> None:
        body = dict(write.body)
        if write.password:
            word = self._secrets.resolve(write.password)
            if word is None:
                words = "The password for the API-DB is not known any more. `wodmail retry` makes a new one."
                raise Failed(words, f"{write.path}: {write.password} was forgotten")
            body["password"] = word
        self._api.put(write.path, body, tries=tries)

    def _keep(self, store: Store, write: Write, cause: str) -> None:
        """Write it down; the job at work is the one that the log's context names."""
        at_work = structlog.contextvars.get_contextvars()
        job = job_of(write.password) if write.password else int(at_work.get("job", 0))
        row = {
            "backend": store.backend,
            "lane": write.lane,
            "path": write.path,
            "body": json.dumps(write.body),
            "password": write.password,
            "request": int(at_work.get("request", 0)),
            "job": job,
            "state": KEPT,
            "kept_at": time.time(),
            "error": cause,
        }
        with store.transaction() as connection:
            connection.execute(writes.insert(), row)
        log.warning("write-kept", lane=write.lane, path=write.path, cause=cause)

    # -- delivering -------------------------------------------------------------------------------------------

    def start(self, settled: Callable[[int], object]) -> None:
        """Deliver what is kept from now on, what the last life left first.

        Args:
            settled: called with a request's number when one of its kept writes has ended.
        """
        store = self._store
        if store is None:
            return
        self._settled = settled
        with store.transaction() as connection:  # what stood in the way may have been mended before this start
            ours = sa.and_(writes.c.backend == store.backend, writes.c.state == KEPT)
            connection.execute(writes.update().where(ours).values(next_try=0.0))
        work = [lambda: self._dispatch(store), *[lambda: self._courier(store)] * COURIERS]
        self._threads = [threading.Thread(target=part, name="writes", daemon=True) for part in work]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the delivery; a write that is on its way then is sent again in the next life.

        Args:
            timeout: seconds to wait for writes on their way.
        """
        self._stopping.set()
        self._wake.set()
        for _ in range(COURIERS):
            self._queue.put(None)
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))

    def kick(self) -> None:
        """Look for lanes that are due now: the API-DB is back."""
        self._wake.set()

    def behind(self, lane: str) -> bool:
        """Whether writes of that lane are kept, so that the API-DB doesn't know yet what is true here."""
        return self._store is not None and self._last(self._store, lane) is not None

    def idle(self) -> bool:
        """Whether nothing is kept that could be delivered now."""
        return self._store is None or self._api.away or not self._due_lanes(self._store)

    def deliver(self) -> None:
        """One round in this thread: each lane's kept writes in order, as far as they go."""
        if self._store is not None:
            for lane in self._due_lanes(self._store):
                self._lane(self._store, lane)

    def _dispatch(self, store: Store) -> None:
        """Hand lanes that are due to the couriers, each to one."""
        while not self._stopping.is_set():
            self._wake.clear()
            with self._guarded():
                due = self._due_lanes(store)
                with self._guard:
                    fresh = [lane for lane in due if lane not in self._busy]
                    self._busy.update(fresh)
                for lane in fresh:
                    self._queue.put(lane)
            self._wake.wait(EVERY)

    def _courier(self, store: Store) -> None:
        while not self._stopping.is_set():
            lane = self._queue.get()
            if lane is None:
                return
            with self._guarded():
                self._lane(store, lane)
            with self._guard:
                self._busy.discard(lane)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """A round that must not end its thread."""
        try:
            yield
        except Temporary as error:
            log.warning("service-away", cause=error.operator)
            self._stopping.wait(AFTER_FAULT)
        except Exception:  # said in full, and tried again in the next round
            log.exception("server-fault")
            self._stopping.wait(AFTER_FAULT)

    def _due_lanes(self, store: Store) -> list[str]:
        """Lanes whose first kept write may be tried, the oldest first."""
        heads = sa.select(sa.func.min(writes.c.id)).where(writes.c.backend == store.backend, writes.c.state == KEPT)
        query = sa.select(writes.c.lane).where(writes.c.id.in_(heads.group_by(writes.c.lane)))
        rows = store.rows(query.where(writes.c.next_try <= time.time()).order_by(writes.c.id))
        return [row["lane"] for row in rows]

    def _lane(self, store: Store, lane: str) -> None:
        """Deliver a lane's kept writes until none is left or one can't be delivered now."""
        while not self._stopping.is_set():
            with self._lock(lane):
                row = store.row(_waiting(store).where(writes.c.lane == lane).order_by(writes.c.id).limit(1))
                if row is None or row["next_try"] > time.time() or not self._deliver(store, row):
                    return
            self._settled(row["request"])

    def _deliver(self, store: Store, row: dict[str, Any]) -> bool:
        """Deliver one kept write; returns whether it was settled, delivered or refused."""
        write = Write(row["lane"], row["path"], json.loads(row["body"]), row["password"])
        try:
            self._send(write, 1)
        except (Away, NotLetIn) as error:
            if isinstance(error, NotLetIn) or not self._api.away:
                self._defer(store, row, error)
            return False
        except Failed as error:
            self._refused(store, row, error)
            return True
        with store.transaction() as connection:
            connection.execute(writes.delete().where(writes.c.id == row["id"]))
        log.info("write-delivered", path=row["path"], request=row["request"], kept_for=_age(row))
        return True

    def _defer(self, store: Store, row: dict[str, Any], error: Away | NotLetIn) -> None:
        """This one can't be delivered though the service is there; others may."""
        tries = row["tries"] + 1
        pause = pause_after(tries)
        with store.transaction() as connection:
            values = {"tries": tries, "next_try": time.time() + pause, "error": error.operator}
            connection.execute(writes.update().where(writes.c.id == row["id"]).values(**values))
        log.warning("write-deferred", path=row["path"], request=row["request"], cause=error.operator, again_in=pause)

    def _refused(self, store: Store, row: dict[str, Any], error: Failed) -> None:
        """Nobody waits for this write any more, so WODMONITOR is told that it failed."""
        with store.transaction() as connection:
            connection.execute(
                writes.update()
                .where(writes.c.id == row["id"])
                .values(state=FAILED, error=error.operator, tries=row["tries"] + 1, settled_at=time.time())
            )
            known = connection.execute(sa.select(request_table.c.id).where(request_table.c.id == row["request"]))
            if self._monitor and known.first() is not None:
                mail = {"request": row["request"], "backend": store.backend, "kind": WRITE_FAILED, "round": row["id"]}
                more = {"recipient": self._monitor, "state": "due", "job": row["job"]}
                connection.execute(mails.insert(), {**mail, **more})
        log.error("write-failed", path=row["path"], request=row["request"], cause=error.operator)


def writes_of(registry: object) -> Writes | None:
    """The writes of a registry that keeps them; None for one that doesn't."""
    found = getattr(registry, "writes", None)
    return found if isinstance(found, Writes) else None


def _waiting(store: Store) -> sa.Select[Any]:
    return sa.select(writes).where(writes.c.backend == store.backend, writes.c.state == KEPT)


def _same(row: dict[str, Any], write: Write) -> bool:
    """Whether that kept write is this one: a step that runs again after a crash keeps nothing twice."""
    return (
        bool((row["path"], row["password"]) == (write.path, write.password)) and json.loads(row["body"]) == write.body
    )


def _age(row: dict[str, Any]) -> float:
    return round(time.time() - float(row["kept_at"]), 1)
