"""What is kept for WODRETENTION days and then deleted: requests, raw mails, traces. The server does the same hourly."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from wodmail import requests
from wodmail.config import Settings
from wodmail.engine import forget_workflows
from wodmail.logs import Masker
from wodmail.mail.spool import Spool
from wodmail.store import Store, open_store
from wodmail.store import requests as table
from wodmail.trace import Trace, trace_path

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Swept:
    """How much was deleted (or would be): requests, mails of spool/cur, old copies of the trace."""

    requests: int
    mails: int
    traces: int


def due(settings: Settings, store: Store) -> Swept:
    """What is older than WODRETENTION days; changes nothing.

    Raises:
        Temporary: the database can't be reached.
    """
    before = time.time() - settings.WODRETENTION * DAY
    query = sa.select(sa.func.count().label("n")).where(table.c.backend == store.backend, table.c.finished_at < before)
    row = store.row(query) if _made(settings, store) else None
    folder = settings.WODSTATEDIR / "spool" / "cur"
    mails = [file for file in folder.iterdir() if file.stat().st_mtime < before] if folder.is_dir() else []
    trace = _trace(settings)
    copies = trace.copies() if trace.path.parent.is_dir() else ()
    copies = tuple(copy for copy in copies if copy.lstat().st_mtime < before)
    return Swept(int(row["n"]) if row else 0, len(mails), len(copies))


def sweep(settings: Settings) -> Swept:
    """Delete what is older than WODRETENTION days; safe beside a running server.

    Raises:
        Temporary: the database can't be reached.
        Failed: trouble on disk.
    """
    store = open_store(settings)
    try:
        count = _sweep_requests(store, time.time() - settings.WODRETENTION * DAY) if _made(settings, store) else 0
    finally:
        store.close()
    folder = settings.WODSTATEDIR / "spool"
    mails = Spool(folder).purge(settings.WODRETENTION * DAY) if folder.is_dir() else 0
    trace = _trace(settings)
    return Swept(count, mails, trace.sweep() if trace.path.parent.is_dir() else 0)


def _sweep_requests(store: Store, before: float) -> int:
    total = 0
    while True:
        jobs, count = requests.purge(store, before)
        forget_workflows(store, jobs)
        total += count
        if not count:
            return total


def _made(settings: Settings, store: Store) -> bool:
    """Whether a server has ever run here."""
    return settings.WODSTATEDIR.is_dir() and store.made()


def _trace(settings: Settings) -> Trace:
    return Trace(trace_path(settings), Masker(), retention_days=settings.WODRETENTION)
