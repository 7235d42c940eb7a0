"""Nothing is lost in a crash: kill -9 at every step of a CREATE, in intake, in the reply, and under load."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import databases
from tests.e2e.harness import Deployment
from tests.support import wait_until
from wodmail.catalog import Workshop
from wodmail.jobs.plan import plan
from wodmail.model import Action, JobSpec

MODULE = "tests.e2e.crashserver"
COUNT = "echo run $WODATTEMPT >>{folder}/{name}.$stdid\n"


def create_steps() -> list[str]:
    """The steps of a CREATE."""
    spec = JobSpec(1, 1, Action.CREATE, (7,), "WKSHP-Test")
    return [step.name for step in plan(spec, Workshop(name="WKSHP-Test"))]


@pytest.fixture(params=databases.KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment on each database, whose scripts count their runs."""
    with databases.fresh(request.param, tmp_path) as url:
        made = Deployment(tmp_path, "" if request.param == "sqlite" else url)
        made.workshop("WKSHP-Test")
        for name in ("create", "post-copy"):
            made.script(f"{name}-WKSHP-Test.sh", COUNT.format(folder=tmp_path, name=name))
        yield made
        made.close()


def runs(site: Deployment, name: str, student: int) -> list[str]:
    """What a script's runs wrote."""
    file = site.folder / f"{name}.{student}"
    return file.read_text().splitlines() if file.exists() else []


def check_created(site: Deployment, student: int) -> None:
    """The home is as a CREATE leaves it."""
    text = (site.home(student) / "WKSHP-Test" / "0-ReadMeFirst.ipynb").read_text()
    assert f"student {student}" in text
    assert "{{" not in text
    assert (site.home(student) / ".ssh").is_dir()


def killed_and_restarted(site: Deployment, point: str, subject: str = "CREATE 7 0") -> dict[str, object]:
    """Serve armed, send a mail, see the server die, serve again, wait for the end; returns the request."""
    process = site.start("serve", point, module=MODULE)
    assert site.mail(subject).startswith("250 ")
    assert process.wait(timeout=60) == -signal.SIGKILL
    site.start()
    row = site.ended(1)[0]
    wait_until(lambda: site.replies(row["id"]), what="the result mail")
    return row


def check_kill_at_each_step(site: Deployment) -> None:
    """One student a step, so that one restart both resumes a job and awaits the next death."""
    process = site.start("serve", "each", module=MODULE)
    for student, step in enumerate(create_steps(), 1):
        assert site.mail(f"CREATE {student} 0").startswith("250 ")
        assert process.wait(timeout=60) == -signal.SIGKILL, f"no death at {step}"
        process = site.start("serve", "each", module=MODULE)
        row = site.ended(student)[-1]
        assert row["state"] == "done", f"killed at {step}: {row['reason']}"
        check_created(site, student)
        for script, name in (("create", "create-script"), ("post-copy", "post-copy-script")):
            expected = ["run 2"] if step == name else ["run 1"]
            assert runs(site, script, student) == expected, f"killed at {step}: {script}"
        times = {found["name"]: found["runs"] for found in row["jobs"][0]["steps"]}
        assert times == {name: 2 if name == step else 1 for name in times}, f"killed at {step}"
    every = sorted(f"Re: CREATE {student} 0: done" for student in range(1, len(create_steps()) + 1))
    wait_until(lambda: len(site.outbox()) == len(every), what="the result mails")
    assert site.subjects() == every


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_kill_at_each_step(site: Deployment) -> None:
    check_kill_at_each_step(site)


@pytest.mark.soak
@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_kill_at_each_step_on_postgresql(site: Deployment) -> None:
    check_kill_at_each_step(site)


@pytest.mark.parametrize("step", ["password", "create-script", "copy-folder", "trace"])
def test_kill_between_a_step_and_its_record(site: Deployment, step: str) -> None:
    row = killed_and_restarted(site, f"end:{step}")
    assert row["state"] == "done"
    check_created(site, 7)
    assert runs(site, "create", 7) == (["run 1", "run 2"] if step == "create-script" else ["run 1"])
    assert site.subjects() == ["Re: CREATE 7 0: done"]


def test_kill_between_our_record_of_a_step_and_the_engines(site: Deployment) -> None:
    row = killed_and_restarted(site, "noted:create-script")
    assert row["state"] == "done"
    assert runs(site, "create", 7) == ["run 1"], "a step that is recorded as done ran again"


def test_kill_between_the_250_and_intake(site: Deployment) -> None:
    row = killed_and_restarted(site, "intake")
    assert row["state"] == "done"
    assert len(site.requests()) == 1


def test_kill_between_the_request_and_the_move_of_its_mail(site: Deployment) -> None:
    row = killed_and_restarted(site, "settle")
    assert row["state"] == "done"
    assert len(site.requests()) == 1
    assert runs(site, "create", 7) == ["run 1"]
    wait_until(lambda: not list((site.state / "spool" / "new").iterdir()), what="an empty spool")
    assert site.subjects() == ["Re: CREATE 7 0: done"]


def test_kill_between_hand_over_and_record_repeats_the_same_message(site: Deployment) -> None:
    row = killed_and_restarted(site, "reply")
    assert row["state"] == "done"
    wait_until(lambda: site.store.rows(sent()), what="the mail's record")
    assert len(site.outbox()) == 1, "the repetition must have the same Message-ID, so it replaces the first"


def sent() -> object:
    """The query for mails recorded as sent."""
    from wodmail.store import mails

    return mails.select().where(mails.c.state == "sent")


def sleepers(marker: str) -> list[psutil.Process]:
    """The live processes with that word in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if marker in " ".join(line) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_a_script_at_work_runs_exactly_once_after_a_restart(site: Deployment) -> None:
    marker = f"31.{os.getpid()}{random.randrange(10**6):06}"  # noqa: S311 - only a name
    site.script("create-WKSHP-Test.sh", f"echo run $WODATTEMPT >>{site.folder}/create.$stdid\nsleep {marker}\n")
    process = site.start()
    site.mail("CREATE 7 0")
    first = wait_until(lambda: [p for p in sleepers(marker) if p.name() == "sleep"], what="the script's sleep")
    process.kill()
    process.wait()
    site.start()
    wait_until(lambda: len(runs(site, "create", 7)) == 2, what="the second run")
    wait_until(lambda: len([p for p in sleepers(marker) if p.name() == "sleep"]) == 1, what="exactly one sleep")
    assert first[0].pid not in {process.pid for process in sleepers(marker)}
    assert runs(site, "create", 7) == ["run 1", "run 2"]


def check_random_kills(site: Deployment, students: int, kills: int, seed: int) -> None:
    """A burst of CREATEs with kills at random moments: all done, nothing shelved."""
    dice = random.Random(seed)  # noqa: S311 - the same dice each time
    process = site.start()
    for student in range(1, students + 1):
        site.mail(f"CREATE {student} 0")
    for _ in range(kills):
        until = time.monotonic() + dice.uniform(0.5, 6.0)
        wait_until(lambda until=until: time.monotonic() > until, what="a random moment")
        process.kill()
        process.wait()
        process = site.start()
    rows = site.ended(students, seconds=300)
    assert [row["state"] for row in rows] == ["done"] * students
    for student in range(1, students + 1):
        check_created(site, student)
    wait_until(lambda: len(site.outbox()) == students, what="a result mail each")
    assert site.subjects() == sorted(f"Re: CREATE {student} 0: done" for student in range(1, students + 1))


def test_random_kills_under_a_burst(site: Deployment) -> None:
    check_random_kills(site, students=6, kills=3, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_sixteen_random_kills_under_a_burst(site: Deployment) -> None:
    check_random_kills(site, students=40, kills=16, seed=5)
