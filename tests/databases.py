"""A fresh database for a test: SQLite in its folder, or one on the PostgreSQL server that the environment names."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from tests.parts import missing

KINDS = ("sqlite", "postgresql")


@contextmanager
def fresh(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database as WODDATABASEURL takes it; dropped afterwards.

    Args:
        kind: sqlite or postgresql.
        folder: where SQLite's file goes.
    """
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'wodmail.sqlite'}"
        return
    server = os.environ.get("WODMAIL_TEST_POSTGRES", "")
    if not server:
        missing("postgres", "WODMAIL_TEST_POSTGRES names no server, e.g. postgresql://user@127.0.0.1:5433/postgres")
    url = sa.make_url(server)
    name = f"wodmail_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()
