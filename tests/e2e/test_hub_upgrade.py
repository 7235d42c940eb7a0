"""wod-install's hub with the database of an earlier JupyterHub: it starts, keeps users, and keeps the old database."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.test_jupyterhub import installed
from tests.hubsite import HubSite
from tests.parts import require

pytestmark = pytest.mark.root
EARLIER = Path(__file__).parents[1] / "data" / "jupyterhub-5.4.sql"
DATABASE = "hub.sqlite"


@pytest.fixture
def hub() -> Iterator[HubSite]:
    """A hub that has not been started, with a database of 5.4 and what our configuration says about databases."""
    require("root")
    with tempfile.TemporaryDirectory(prefix="wodmail-hub-", dir="/var/tmp") as folder:
        site = HubSite(Path(folder), installed("c[.]JupyterHub[.]upgrade_db"))
        with closing(sqlite3.connect(site.folder / DATABASE)) as database:
            database.executescript(EARLIER.read_text(encoding="utf-8"))
        try:
            yield site
        finally:
            site.close()


def schema(file: Path) -> str:
    """The version that a database of the hub says it has."""
    with closing(sqlite3.connect(file)) as database:
        found: str = database.execute("select version_num from alembic_version").fetchone()[0]
        return found


def test_a_later_hub_takes_an_earlier_one_s_database(hub: HubSite) -> None:
    before = schema(hub.folder / DATABASE)
    hub.start()
    (kept,) = hub.folder.glob(f"{DATABASE}.*")
    assert (schema(kept), schema(hub.folder / DATABASE) != before) == (before, True)
    assert hub.server("student1") is None
    assert hub.api("GET", "/users/student1").json()["name"] == "student1"
    hub.stop()
    hub.start()
    assert list(hub.folder.glob(f"{DATABASE}.*")) == [kept]
