"""The tables: requests, jobs, lanes, steps, outgoing mails and kept writes, in one database (SQLite or PostgreSQL).

Plain SQLAlchemy; knows nothing of how jobs are run. Times are ISO 8601 in UTC, or seconds since 1970 where they
are compared.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from wodmail import tableversions
from wodmail.config import Settings
from wodmail.errors import Refused, Temporary

PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""Of PostgreSQL's client (libpq): seconds until one that says nothing is let go, milliseconds until one that is gone.

No keepalives: a network that is away for a while must not end the idle connection with the lock of `Store.claim`.
"""
_HURRY = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3}

CHUNK = 1000  # numbers in one query; databases bound that

metadata = sa.MetaData()

requests = sa.Table(
    "wod_requests",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("spool_key", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("action", sa.Text, nullable=False, default=""),
    sa.Column("students", sa.Text, nullable=False, default="[]"),
    sa.Column("workshop", sa.Text, nullable=False, default=""),
    sa.Column("number", sa.Integer),
    sa.Column("participant", sa.Integer, nullable=False, default=0),
    sa.Column("email", sa.Text),
    sa.Column("subject", sa.Text, nullable=False, default=""),
    sa.Column("sender", sa.Text, nullable=False, default=""),
    sa.Column("message_id", sa.Text, nullable=False, default=""),
    sa.Column("reply_references", sa.Text, nullable=False, default=""),
    sa.Column("reply_to", sa.Text, nullable=False, default=""),
    sa.Column("notes", sa.Text, nullable=False, default="{}"),
    sa.Column("round", sa.Integer, nullable=False, default=1),
    sa.Column("automatic", sa.Boolean, nullable=False, default=False),
    sa.Column("received", sa.Text, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("finished", sa.Text),
    sa.Column("finished_at", sa.Float),
    sa.UniqueConstraint("backend", "spool_key"),
    sa.Index("wod_requests_message", "sender", "message_id"),
    sa.Index("wod_requests_finished", "finished_at"),
    sqlite_autoincrement=True,
)

jobs = sa.Table(
    "wod_jobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request", sa.Integer, sa.ForeignKey("wod_requests.id"), nullable=False, index=True),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("students", sa.Text, nullable=False),
    sa.Column("workshop", sa.Text, nullable=False),
    sa.Column("participant", sa.Integer, nullable=False, default=0),
    sa.Column("email", sa.Text),
    sa.Column("follows", sa.Integer, index=True),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("enqueued", sa.Boolean, nullable=False, default=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=1),
    sa.Column("segment", sa.Integer, nullable=False, default=1),
    sa.Column("parked_until", sa.Float),
    sa.Column("waiting_since", sa.Float),
    sa.Column("steps_done", sa.Integer, nullable=False, default=0),
    sa.Column("steps_at_interruption", sa.Integer, nullable=False, default=0),
    sa.Column("interruptions", sa.Integer, nullable=False, default=0),
    sa.Column("runs", sa.Integer, nullable=False, default=0),
    sa.Column("alone", sa.Boolean, nullable=False, default=False),
    sa.Column("drained", sa.Boolean, nullable=False, default=False),
    sa.Column("abort", sa.Boolean, nullable=False, default=False),
    sa.Column("started", sa.Text),
    sa.Column("finished", sa.Text),
    sqlite_autoincrement=True,
)

lanes = sa.Table(
    "wod_lanes",
    metadata,
    sa.Column("job", sa.Integer, sa.ForeignKey("wod_jobs.id"), primary_key=True),
    sa.Column("student", sa.Integer, primary_key=True),
    sa.Index("wod_lanes_student", "student", "job"),
)

steps = sa.Table(
    "wod_steps",
    metadata,
    sa.Column("job", sa.Integer, sa.ForeignKey("wod_jobs.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("seconds", sa.Float),
    sa.Column("runs", sa.Integer, nullable=False, default=0),
    sa.Column("result", sa.Text, nullable=False, default="{}"),
)

mails = sa.Table(
    "wod_mails",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request", sa.Integer, sa.ForeignKey("wod_requests.id"), nullable=False, index=True),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("recipient", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("next_try", sa.Float, nullable=False, default=0.0),
    sa.Column("sent_at", sa.Float),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("job", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("request", "kind", "round", "recipient", "job"),
    sa.Index("wod_mails_budget", "recipient", "sent_at"),
    sqlite_autoincrement=True,
)

writes = sa.Table(
    "wod_writes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("password", sa.Text, nullable=False, default=""),
    sa.Column("request", sa.Integer, nullable=False, default=0, index=True),
    sa.Column("job", sa.Integer, nullable=False, default=0),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("kept_at", sa.Float, nullable=False),
    sa.Column("settled_at", sa.Float),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("next_try", sa.Float, nullable=False, default=0.0),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Index("wod_writes_lane", "backend", "state", "lane", "id"),
    sqlite_autoincrement=True,
)

nonces = sa.Table(
    "wod_nonces",
    metadata,
    sa.Column("nonce", sa.Text, primary_key=True),
    sa.Column("signed_text", sa.Text, nullable=False),
    sa.Column("request", sa.Integer, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)

facts = sa.Table(
    "wod_facts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

sessions = sa.Table(
    "wod_sessions",
    metadata,
    sa.Column("job", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("request", sa.Integer, nullable=False),
    sa.Column("student", sa.Integer, nullable=False),
    sa.Column("workshop", sa.Text, nullable=False),
    sa.Column("participant", sa.Integer, nullable=False),
    sa.Column("remind", sa.Float, nullable=False),
    sa.Column("ends", sa.Float, nullable=False),
    sa.Column("reminded", sa.Boolean, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("mail", sa.Text, nullable=False, default=""),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("again", sa.Float, nullable=False, default=0.0),
    sa.Column("told", sa.Boolean, nullable=False, default=False),
)
"""A row a CREATE that is done; `remind`, `ends` and `again` are times of the session clock (wodmail/sessionclock.py).

`mail` is the CLEANUP's key in the spool; when it was refused, `tries` counts, and there is no other one before `again`.
"""

Row = Mapping[str, Any]


def iso(moment: float | None = None) -> str:
    """A moment (seconds since 1970; now when None) as ISO 8601 in UTC, to the millisecond."""
    stamp = datetime.fromtimestamp(time.time() if moment is None else moment, UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def database_url(settings: Settings) -> str:
    """Where the database is, as SQLAlchemy wants it: WODDATABASEURL, else SQLite in WODSTATEDIR."""
    url = settings.WODDATABASEURL
    if not url:
        return f"sqlite:///{settings.WODSTATEDIR / 'wodmail.sqlite'}"
    if url.startswith(("postgresql://", "postgres://")):
        return "postgresql+psycopg://" + url.split("://", 1)[1]
    return url


def _engine(url: str, *, durable: bool, readonly: bool = False, seconds: float | None = None) -> sa.Engine:
    """An SQLAlchemy engine; without `durable` a commit may be lost in a power cut (never in a crash of the process)."""
    if not url.startswith("sqlite"):
        options = [] if durable else ["-c synchronous_commit=off"]
        if seconds is not None:
            options.append(f"-c statement_timeout={round(seconds * 1000)}")
        hurry = {} if seconds is None else {"connect_timeout": math.ceil(seconds), **_HURRY}
        wanted = {**PATIENCE, **hurry}
        given = sa.make_url(url).query  # what a site says is left as it is
        arguments = {"options": " ".join(options), **{name: wanted[name] for name in wanted if name not in given}}
        return sa.create_engine(url, pool_pre_ping=True, pool_size=5, connect_args=arguments)
    engine = sa.create_engine(url, connect_args={"timeout": 30})
    begin = "BEGIN" if readonly else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, so that a read and the write after it are one
        connection.execute("PRAGMA busy_timeout=30000")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


class Store:
    """The database of one backend.

    Args:
        url: an SQLAlchemy URL.
        backend: this host's name in the queue (WODBACKEND).
        seconds: how long PostgreSQL may take to be connected to, and for a statement; None for as long as it likes.
    """

    def __init__(self, url: str, backend: str, seconds: float | None = None) -> None:
        self.url = url
        self.backend = backend
        self._durable = _engine(url, durable=True, seconds=seconds)
        self._progress = _engine(url, durable=False, seconds=seconds)
        self._reader = _engine(url, durable=False, readonly=True, seconds=seconds)
        self._claim: sa.Connection | None = None
        # SQLite has one writer at a time and lets the others sleep ever longer; our own threads take turns instead.
        self._turn: AbstractContextManager[object] = threading.RLock() if url.startswith("sqlite") else nullcontext()

    def close(self) -> None:
        """Give the connections back."""
        if self._claim is not None:
            self._claim.close()
        for engine in (self._durable, self._progress, self._reader):
            engine.dispose()

    def migrate(self) -> None:
        """Make the tables and columns that are missing.

        Raises:
            ConfigError: a newer wodmail has worked with this database.
            Temporary: the database can't be reached.
        """
        if self.url.startswith("sqlite:///"):
            Path(self.url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        with self._trouble():
            if self.url.startswith("sqlite"):
                with self._durable.connect() as connection:
                    raw = connection.connection.driver_connection
                    connection.rollback()
                    if raw is not None:
                        raw.execute("PRAGMA journal_mode=WAL")
            with self._durable.begin() as connection:
                tableversions.check(connection, facts)
                tableversions.bring_up(connection, metadata)
                tableversions.note(connection, facts)

    def claim(self) -> None:
        """On PostgreSQL, which several hosts share: be the only processor with this backend's name.

        Raises:
            Refused: another host works under the same name.
            Temporary: the database can't be reached.
        """
        if self.url.startswith("sqlite"):
            return  # one state folder, one lock file
        with self._trouble():
            self._claim = self._durable.connect()
            held = self._claim.execute(
                sa.text("SELECT pg_try_advisory_lock(hashtext(:name))"), {"name": f"wodmail:{self.backend}"}
            ).scalar()
            self._claim.rollback()
        if not held:
            raise Refused(
                f"Another host already works on the database as {self.backend}. Stop it, or set WODBACKEND to a name "
                "of its own."
            )

    def made(self) -> bool:
        """Whether the tables are there: a server has run with this database. Looking makes no file.

        Raises:
            Temporary: the database can't be reached.
        """
        if self.url.startswith("sqlite:///") and not Path(self.url.removeprefix("sqlite:///")).exists():
            return False
        with self._trouble(), self._reader.connect() as connection:
            return bool(sa.inspect(connection).has_table(requests.name))

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            # InternalError: PostgreSQL says so of a server that became a read-only standby.
            if not (isinstance(error, OperationalError | InternalError) or error.connection_invalidated):
                raise
            raise Temporary(
                "The backend's database can't be reached; nothing is lost, it is tried again.",
                f"database {sa.make_url(self.url).render_as_string(hide_password=True)}: {error.orig}",
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction that is on the disk when it is committed.

        Raises:
            Temporary: the database can't be reached.
        """
        with self._turn, self._trouble(), self._durable.begin() as connection:
            yield connection

    @contextmanager
    def progress(self) -> Iterator[sa.Connection]:
        """A cheap transaction for what may be lost in a power cut because it can be found out again."""
        with self._turn, self._trouble(), self._progress.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A consistent view that blocks nobody."""
        with self._trouble(), self._reader.connect() as connection:
            yield connection

    def rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """All rows of a query as dictionaries."""
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def row(self, query: sa.Select[Any]) -> dict[str, Any] | None:
        """The first row of a query, or None."""
        with self.reading() as connection:
            found = connection.execute(query).mappings().first()
            return dict(found) if found is not None else None

    # -- what people ask for ------------------------------------------------------------------------------

    def find_by_message_id(self, message_id: str) -> dict[str, Any] | None:
        """The newest request of the mail with that Message-ID, as `describe` gives it; None when there is none."""
        query = sa.select(requests.c.id).where(requests.c.message_id == message_id).order_by(requests.c.id.desc())
        found = self.row(query)
        return self.describe([int(found["id"])])[0] if found else None

    def recent(self, limit: int = 50, state: str | None = None) -> list[dict[str, Any]]:
        """The newest requests first, as `describe` gives them.

        Args:
            limit: how many at most; 0 means all.
            state: only those in this state.
        """
        query = sa.select(requests.c.id).where(requests.c.backend == self.backend).order_by(requests.c.id.desc())
        if state:
            query = query.where(requests.c.state == state)
        if limit:
            query = query.limit(limit)
        return self.describe([int(row["id"]) for row in self.rows(query)])

    def describe(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Requests with their jobs and steps, in the order of `ids`; unknown ids are left out."""
        if len(ids) > CHUNK:
            return self.describe(ids[:CHUNK]) + self.describe(ids[CHUNK:])
        found = {row["id"]: row for row in self.rows(sa.select(requests).where(requests.c.id.in_(ids)))}
        job_rows = self.rows(sa.select(jobs).where(jobs.c.request.in_(ids)).order_by(jobs.c.id))
        step_rows = self.rows(
            sa.select(steps)
            .where(steps.c.job.in_([row["id"] for row in job_rows]))
            .order_by(steps.c.job, steps.c.position)
        )
        steps_of: dict[int, list[dict[str, Any]]] = {}
        for row in step_rows:
            steps_of.setdefault(row["job"], []).append(_describe_step(row))
        jobs_of: dict[int, list[dict[str, Any]]] = {}
        for row in job_rows:
            jobs_of.setdefault(row["request"], []).append(_describe_job(row, steps_of.get(row["id"], [])))
        return [_describe_request(found[number], jobs_of.get(number, [])) for number in ids if number in found]


def _describe_step(row: Row) -> dict[str, Any]:
    result = json.loads(row["result"])
    seconds = row["seconds"]
    if seconds is None and row["started_at"] is not None and row["state"] == "running":
        seconds = time.time() - row["started_at"]
    return {
        "name": row["name"],
        "state": row["state"],
        "seconds": None if seconds is None else round(seconds, 3),
        "error": result.get("error", ""),
        "note": result.get("note", ""),
        "warnings": result.get("warnings", []),
        "cause": result.get("cause", ""),
        "output": result.get("output", ""),
        "runs": row["runs"],
    }


def _describe_job(row: Row, job_steps: list[dict[str, Any]]) -> dict[str, Any]:
    students = json.loads(row["students"])
    return {
        "id": row["id"],
        "student": students[0] if len(students) == 1 else None,
        "students": students,
        "state": row["state"],
        "reason": row["reason"],
        "attempt": row["attempt"],
        "interruptions": row["interruptions"],
        "started": row["started"],
        "finished": row["finished"],
        "steps": job_steps,
    }


def _describe_request(row: Row, request_jobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "action": row["action"],
        "students": json.loads(row["students"]),
        "workshop": row["workshop"],
        "number": row["number"],
        "state": row["state"],
        "reason": row["reason"],
        "received": row["received"],
        "finished": row["finished"],
        "subject": row["subject"],
        "sender": row["sender"],
        "message_id": row["message_id"],
        "notes": json.loads(row["notes"]),
        "jobs": request_jobs,
    }


def open_store(settings: Settings, seconds: float | None = None) -> Store:
    """The store that a configuration names; tables aren't made (see `Store.migrate`).

    Args:
        settings: the configuration.
        seconds: see `Store`.
    """
    return Store(database_url(settings), settings.WODBACKEND or settings.WODBEFQDN, seconds)


def open_readonly(settings: Settings) -> Store:
    """The store for commands that look.

    Raises:
        Temporary: there is no database yet, so no server has ever run with this configuration.
    """
    store = open_store(settings)
    if not store.made():
        raise Temporary(
            "No requests yet: the database has no tables. Start `wodmail serve` with this configuration first.",
            f"no table {requests.name} in {sa.make_url(store.url).render_as_string(hide_password=True)}",
        )
    return store
