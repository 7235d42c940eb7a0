"""A new version of wodmail on what an old one left: jobs half done, tables without columns; old ones on new tables."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import databases
from tests.e2e.harness import Deployment, step_of
from tests.support import wait_until
from wodmail import tableversions
from wodmail.errors import ConfigError
from wodmail.store import Store, facts, jobs, requests

OLDER = "tests.e2e.olderserver"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose create script counts its runs."""
    made = Deployment(tmp_path)
    made.workshop("WKSHP-Test")
    made.script("create-WKSHP-Test.sh", f"echo $stdid >>{tmp_path}/runs\n")
    yield made
    made.close()


def test_jobs_that_an_older_one_began(site: Deployment) -> None:
    """They go on with the plan they began with; a step that this version has lost fails in clear words."""
    process = site.start("serve", "ratio,polish-home", module=OLDER)
    assert site.mail("CREATE 1 0").startswith("250 ")
    assert site.mail("CREATE 2 0").startswith("250 ")
    assert process.wait(timeout=60) == -signal.SIGKILL
    site.start()
    known, gone = sorted(site.ended(2), key=lambda row: row["students"])
    assert known["state"] == "done"
    assert step_of(known, "ratio")["state"] == "done"
    assert sorted((site.folder / "runs").read_text().split()) == ["1", "2"], "what was done is not done again"
    assert gone["state"] == "failed"
    assert "its step polish-home is not known any more. Send the mail again." in gone["reason"]
    assert "planned by another version of wodmail" in step_of(gone, "polish-home")["cause"]
    states = {name: step_of(gone, name)["state"] for name in ("create-script", "hub-start", "trace")}
    assert states == {"create-script": "done", "hub-start": "waiting", "trace": "done"}
    (mail,) = wait_until(lambda: site.replies(gone["id"]), what="the result mail")
    assert "not known any more" in str(mail)
    assert site.one("CREATE 2 0")["state"] == "done", "the mail sent again"


@pytest.mark.parametrize("kind", databases.KINDS)
def test_columns_that_an_older_one_did_not_have(kind: str, tmp_path: Path) -> None:
    with databases.fresh(kind, tmp_path) as url:
        store = Store(url.replace("postgresql://", "postgresql+psycopg://"), "here")
        store.migrate()
        values = {"backend": "here", "spool_key": "a", "state": "done", "received": "then", "received_at": 1.0}
        with store.transaction() as connection:
            connection.execute(requests.insert(), values)
            connection.execute(
                jobs.insert(),
                {
                    "request": 1,
                    "backend": "here",
                    "action": "CREATE",
                    "students": "[1]",
                    "workshop": "W",
                    "state": "done",
                },
            )
            for column in ("alone", "reason", "waiting_since", "runs"):
                connection.execute(sa.DDL(f"ALTER TABLE wod_jobs DROP COLUMN {column}"))
            connection.execute(facts.delete())
        store.migrate()
        row = store.row(sa.select(jobs)) or {}
        assert [row[name] for name in ("alone", "reason", "waiting_since", "runs")] == [False, "", None, 0]
        assert (store.row(sa.select(requests)) or {})["received_at"] == 1.0
        store.close()


def test_what_a_newer_one_left_is_not_touched(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'wodmail.sqlite'}", "here")
    store.migrate()
    newer = json.dumps({"format": tableversions.FORMAT + 1, "wodmail": "9.8"})
    with store.transaction() as connection:
        connection.execute(facts.update().where(facts.c.name == "format").values(value=newer))
    with pytest.raises(
        ConfigError, match=r"wodmail 9\.8 has worked with this database.* too old.*Install that version"
    ):
        store.migrate()
    known = store.row(sa.select(facts.c.value).where(facts.c.name == "format"))
    assert known == {"value": newer}
    store.close()
