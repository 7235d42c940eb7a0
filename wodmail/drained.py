"""A drained backend: mails are accepted and kept, no job starts, until it is resumed (docs/operations.md).

The flag is a row of the table of facts, so it survives restarts, and the hand-over of jobs reads it in the transaction
in which it marks them: once `drain` has returned, nothing starts.

A program that holds it drained while it works is named with its process, so that one that was killed holds nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from wodmail import processes
from wodmail.lanes import UNFINISHED
from wodmail.model import State
from wodmail.store import Store, facts, iso, jobs, requests, steps

VERSION = 1
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class Drain:
    """What is known of the drains of a backend.

    Args:
        since: when it was drained, seconds since 1970; None when it is not.
        reason: the operator's words, empty for none.
        told: the request whose lateness WODMONITOR was told of during this drain, 0 for none.
        resumed: when the last drain ended, seconds since 1970; 0.0 when there was none.
        holders: the programs that drained it while they work, see `hold`; empty when an operator did.
    """

    since: float | None = None
    reason: str = ""
    told: int = 0
    resumed: float = 0.0
    holders: tuple[str, ...] = ()

    @property
    def on(self) -> bool:
        """Whether no job may start."""
        return self.since is not None

    def words(self) -> str:
        """What people are told; empty when it is not drained."""
        if self.since is None:
            return ""
        why = f" ({self.reason})" if self.reason else ""
        return f"drained since {iso(self.since)}{why}: mails are kept, no job starts until `wodmail resume`"


def prepare(store: Store) -> None:
    """Make the backend's row, which `look` locks.

    Raises:
        Temporary: the database can't be reached.
    """
    with store.transaction() as connection:
        _look(connection, store.backend)


def look(connection: sa.Connection, backend: str, *, lock: bool = False) -> Drain:
    """What is known of a backend's drain.

    Args:
        connection: a view or a transaction.
        backend: whose.
        lock: keep others from changing it until the transaction ends (PostgreSQL; SQLite's transactions do anyway).
    """
    query = sa.select(facts.c.value).where(facts.c.name == _name(backend))
    found = connection.execute(query.with_for_update(read=True) if lock else query).scalar()
    return _read(found)


def current(store: Store) -> Drain:
    """The same, looked up by itself.

    Raises:
        Temporary: the database can't be reached.
    """
    with store.reading() as view:
        return look(view, store.backend)


def drain(store: Store, reason: str = "") -> Drain:
    """Let no job start from now on; a backend that is drained stays so, with its first time.

    One that a program only holds (`hold`) is the operator's from then on: the program's end does not resume it.

    Args:
        store: the database.
        reason: for whoever asks why; replaces an earlier one unless it is empty.

    Returns:
        What holds now; when this returns no further job starts.

    Raises:
        Temporary: the database can't be reached.
    """
    with store.transaction() as connection:
        known = _look(connection, store.backend)
        new = replace(known, since=time.time(), told=0, reason="") if known.since is None else known
        theirs = "" if known.holders else new.reason
        new = replace(new, reason=reason or theirs, holders=())
        _write(connection, store.backend, new)
    return new


def resume(store: Store) -> Drain:
    """Let the kept jobs start, in their order; the server looks within a second.

    Returns:
        What held before.

    Raises:
        Temporary: the database can't be reached.
    """
    with store.transaction() as connection:
        known = _look(connection, store.backend)
        if known.on:
            _write(connection, store.backend, Drain(resumed=time.time()))
    return known


def new_holder() -> str:
    """A name for this process as one that holds a backend drained; see `hold`.

    It tells which process that is: pid and start time, and where these mean something: host, boot, namespace of pids.
    """
    me = processes.lookup(os.getpid())
    start = me.start if me is not None else 0
    where = (os.uname().nodename, processes.boot_id(), str(_NAMESPACE.readlink()))
    return " ".join((secrets.token_hex(8), str(os.getpid()), str(start), *where))


def hold(store: Store, reason: str, holder: str) -> bool:
    """Let no job start while a program works; `release` ends that unless an operator has drained it meanwhile.

    Args:
        store: the database.
        reason: for whoever asks why.
        holder: the program's process, see `new_holder`; when that has ended without `release`, it holds nothing.

    Returns:
        False when an operator has drained it, whose drain it stays.

    Raises:
        Temporary: the database can't be reached.
    """
    with store.transaction() as connection:
        known = _held(_look(connection, store.backend))
        if known.on and not known.holders:
            return False
        new = known if known.on else replace(known, since=time.time(), told=0, reason=reason)
        _write(connection, store.backend, replace(new, holders=(*known.holders, holder)))
    return True


def release(store: Store, holder: str) -> Drain:
    """Let the kept jobs start when nobody else holds the backend; an operator's drain goes on.

    Args:
        store: the database.
        holder: what `hold` was given, whatever came of that.

    Returns:
        What holds now.

    Raises:
        Temporary: the database can't be reached.
    """
    with store.transaction() as connection:
        known = _look(connection, store.backend)
        left = _held(known, without=holder)
        if left != known:
            _write(connection, store.backend, left)
    return left


def drop_ended(store: Store) -> bool:
    """Forget programs that ended without `release`: killed, or by the end of the machine.

    Returns:
        Whether there were any.

    Raises:
        Temporary: the database can't be reached.
    """
    if not any(map(_ended, current(store).holders)):
        return False
    release(store, "")
    return True


def _held(known: Drain, without: str = "") -> Drain:
    """What is left of a drain by those who still hold it; an operator's, which has no holders, is left as it is."""
    left = tuple(each for each in known.holders if each != without and not _ended(each))
    if left == known.holders:
        return known
    return replace(known, holders=left) if left else Drain(resumed=time.time())


def _ended(holder: str) -> bool:
    """Whether a holder's process has surely ended; who can't be judged from here still holds."""
    words = holder.split()
    if len(words) != 6:
        return False
    _, pid, start, host, boot, namespace = words
    if host != os.uname().nodename:
        return False
    if boot != processes.boot_id():
        return True
    return namespace == str(_NAMESPACE.readlink()) and processes.ended(int(pid), int(start))


def note_told(connection: sa.Connection, backend: str, request: int) -> None:
    """Remember, in the transaction given, that WODMONITOR hears of this drain by the mail about that request."""
    _write(connection, backend, replace(_look(connection, backend), told=request))


def at_work(store: Store) -> list[dict[str, Any]]:
    """The jobs that workers have, with the step at which they are: id, request, action, students, step, seconds."""
    query = (
        sa.select(jobs.c.id, jobs.c.request, jobs.c.action, jobs.c.students, steps.c.name, steps.c.started_at)
        .select_from(jobs.outerjoin(steps, sa.and_(steps.c.job == jobs.c.id, steps.c.state == State.RUNNING.value)))
        .where(jobs.c.backend == store.backend, jobs.c.state.in_(UNFINISHED), jobs.c.enqueued.is_(True))
        .order_by(jobs.c.id)
    )
    now = time.time()
    return [
        {
            "job": row["id"],
            "request": row["request"],
            "action": row["action"],
            "students": json.loads(row["students"]),
            "step": row["name"] or "",
            "seconds": round(max(0.0, now - row["started_at"]), 1) if row["started_at"] else 0.0,
        }
        for row in store.rows(query)
    ]


def kept(store: Store) -> int:
    """How many requests wait for jobs that no worker has."""
    query = (
        sa.select(sa.func.count(sa.distinct(requests.c.id)).label("n"))
        .select_from(requests.join(jobs, jobs.c.request == requests.c.id))
        .where(requests.c.backend == store.backend, jobs.c.state.in_(UNFINISHED), jobs.c.enqueued.is_(False))
    )
    found = store.row(query)
    return int(found["n"]) if found else 0


def _name(backend: str) -> str:
    return f"drained:{backend}"


def _look(connection: sa.Connection, backend: str) -> Drain:
    """Read the row to change it: it is made when it isn't there, and locked."""
    query = sa.select(facts.c.value).where(facts.c.name == _name(backend)).with_for_update()
    found = connection.execute(query).scalar()
    if found is None:
        connection.execute(facts.insert(), {"name": _name(backend), "value": _text(Drain())})
    return _read(found)


def _read(text: str | None) -> Drain:
    if text is None:
        return Drain()
    data = json.loads(text)
    known = {name: data[name] for name in ("since", "reason", "told", "resumed")}
    return Drain(**known, holders=tuple(data.get("holders", ())))


def _text(drain: Drain) -> str:
    return json.dumps({"version": VERSION, **asdict(drain)})


def _write(connection: sa.Connection, backend: str, drain: Drain) -> None:
    connection.execute(facts.update().where(facts.c.name == _name(backend)).values(value=_text(drain)))
