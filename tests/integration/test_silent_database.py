"""A PostgreSQL that accepts and says nothing, or takes its time: who waits for it, and how long."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import databases
from wodmail import store
from wodmail.errors import Temporary
from wodmail.store import Store


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql+psycopg://u:p@127.0.0.1:{server.getsockname()[1]}/x"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A database on the server that the environment names."""
    with databases.fresh("postgresql", tmp_path) as url:
        yield url.replace("postgresql://", "postgresql+psycopg://")


def test_a_server_that_says_nothing_is_away(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend's own store goes on as with one that can't be reached; the guard's the same, sooner."""
    with pytest.raises(Temporary, match="can't be reached"):
        Store(silent, "b", seconds=1).made()
    monkeypatch.setitem(store.PATIENCE, "connect_timeout", 2)
    with pytest.raises(Temporary, match="can't be reached"):
        Store(silent, "b").migrate()


def settings_of(made: Store) -> tuple[dict[str, str], str]:
    """The parameters of a connection, and its limit for statements."""
    with made.reading() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        limit = connection.execute(sa.text("SHOW statement_timeout")).scalar_one()
        return raw.info.get_parameters(), str(limit)


def test_a_statement_may_take_as_long_as_it_likes_unless_somebody_is_in_a_hurry(database: str) -> None:
    hurried = Store(database, "b", seconds=1)
    with pytest.raises(Temporary, match="can't be reached"):
        hurried.rows(sa.select(sa.func.pg_sleep(60)))
    assert settings_of(hurried)[1] == "1s"
    patient = Store(database, "b")
    found, limit = settings_of(patient)
    assert (limit, found["connect_timeout"], found["tcp_user_timeout"]) == ("0", "10", "30000")
    sites = Store(f"{database}?connect_timeout=77", "b")
    assert settings_of(sites)[0]["connect_timeout"] == "77"
    for each in (hurried, patient, sites):
        each.close()
