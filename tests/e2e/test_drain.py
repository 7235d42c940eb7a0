"""`wodmail drain` and `resume`: what runs ends, what comes is kept, through restarts and kill -9; then all goes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests import databases
from tests.e2e.harness import Deployment
from tests.support import wait_until
from wodmail.cli.root import root

GATE = "until test -e {folder}/gate-$stdid; do sleep 0.02; done\necho $stdid >>{folder}/order\n"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment on each database, whose create script waits for a file and writes down who came."""
    with databases.fresh(request.param, tmp_path) as url:
        made = Deployment(tmp_path, "" if request.param == "sqlite" else url, WODMONITOR="ops@localhost")
        made.workshop("WKSHP-Test")
        made.script("create-WKSHP-Test.sh", GATE.format(folder=tmp_path))
        yield made
        made.close()


def command(site: Deployment, *words: str, status: int = 0) -> dict[str, Any]:
    """Run a command of ours with --json, as another process would; returns what it printed."""
    line = [*words, "--json", "--config", str(site.file)]
    done = CliRunner().invoke(root, line, standalone_mode=False, catch_exceptions=False)
    assert (done.return_value or 0) == status
    data: dict[str, Any] = json.loads(done.stdout)
    assert data["version"] == 1
    return data


def at_script(site: Deployment, request: int) -> bool:
    """Whether the request's job waits in its create script."""
    rows = [row for row in site.requests() if row["id"] == request]
    steps = [step for row in rows for job in row["jobs"] for step in job["steps"]]
    return any(step["name"] == "create-script" and step["state"] == "running" for step in steps)


def states(site: Deployment) -> list[str]:
    """The states of all requests."""
    return [row["state"] for row in site.requests()]


def test_nothing_starts_and_nothing_is_lost(site: Deployment) -> None:
    process = site.start()
    assert site.mail("CREATE 1 0").startswith("250 ")
    wait_until(lambda: at_script(site, 1), what="the first CREATE in its script")
    assert command(site, "drain", "--status", status=1)["drained"] is False
    first = command(site, "drain", "--wait", "--timeout", "0.1", "--reason", "a new hub", status=75)
    assert [(job["request"], job["step"]) for job in first["running"]] == [(1, "create-script")]
    assert site.mail("CREATE 2 0").startswith("250 ")
    assert site.mail("CREATE 3 0").startswith("250 ")
    (site.folder / "gate-1").touch()
    assert command(site, "drain", "--wait")["running"] == []
    wait_until(lambda: states(site) == ["done", "waiting", "waiting"], what="the kept mails in the list")

    process.send_signal(signal.SIGKILL)
    process.wait()
    assert command(site, "drain", "--status")["server"] is False
    site.start()
    assert site.mail("PING").startswith("250 ")
    assert site.mail("PLAN CREATE 4").startswith("250 ")
    wait_until(lambda: len(states(site)) == 5 and states(site)[3:] == ["done", "done"], what="PING and PLAN answered")
    assert "server-drained" in site.log()
    assert states(site)[1:3] == ["waiting", "waiting"]
    told = command(site, "requests")
    assert told["drained"].startswith("drained since ")
    assert "(a new hub)" in told["drained"]
    for student in (2, 3):
        (site.folder / f"gate-{student}").touch()
    assert command(site, "resume") == {"version": 1, "was_drained": True, "kept": 2}
    site.ended(5)
    assert states(site) == ["done"] * 5
    wait_until(lambda: any("drained since" in str(mail) for mail in site.replies(4)), what="PING's answer")


@pytest.mark.soak
@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_a_drained_server_killed_while_a_job_runs(site: Deployment) -> None:
    process = site.start()
    assert site.mail("CREATE 1 0").startswith("250 ")
    wait_until(lambda: at_script(site, 1), what="the CREATE in its script")
    command(site, "drain")
    process.send_signal(signal.SIGKILL)
    process.wait()
    seen = command(site, "drain", "--wait")
    assert (seen["server"], seen["running"]) == (False, [])
    once = site.start("work", "--until-empty", wait=False)
    assert once.wait(timeout=60) == 0, "what is kept does not hold it up"
    assert [job["state"] for job in site.requests()[0]["jobs"]] == ["waiting"]
    seen = command(site, "drain", "--wait")
    assert (seen["server"], seen["running"], seen["kept"]) == (False, [], 1)
    (site.folder / "gate-1").touch()
    command(site, "resume")
    assert site.start("work", "--until-empty", wait=False).wait(timeout=60) == 0
    assert states(site) == ["done"]
    assert (site.folder / "order").read_text().splitlines() == ["1"]
