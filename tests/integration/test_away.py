"""A registry that is away: jobs give their worker back and ask again, mails are taken in all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import databases
from tests.e2e.harness import SENDER, Deployment
from tests.support import wait_until
from wodmail import intake as intake_module
from wodmail.alarms import LATE_AFTER, Alarms
from wodmail.errors import Away, Failed
from wodmail.intake import Intake
from wodmail.jobs.runner import Runner, away_pause
from wodmail.jobs.services import Services
from wodmail.lanes import startable
from wodmail.logs import Masker
from wodmail.mail.send import Sender
from wodmail.mail.spool import Spool
from wodmail.model import State
from wodmail.outbox import Outbox
from wodmail.registry.base import Registry
from wodmail.requests import NewRequest, accept
from wodmail.server import build_services
from wodmail.store import jobs, mails, requests, steps

WORDS = "The API-DB is away. Try again when it is back."


class Moody:
    """A registry that passes everything on, or is away, or says no."""

    def __init__(self, inner: Registry) -> None:
        self.inner = inner
        self.error: Exception | None = None
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return getattr(self.inner, name)


class Office:
    """Services on one database, with a moody registry."""

    def __init__(self, made: Services) -> None:
        self.registry = Moody(made.registry)
        self.services = replace(made, registry=self.registry)  # type: ignore[arg-type]
        self.store = made.store
        self.runner = Runner(self.services)

    def add(
        self, action: str, student: int = 7, participant: int = 0, received: float | None = None
    ) -> tuple[int, int]:
        """Accept a request; returns its number and its job's."""
        new = NewRequest(
            spool_key=f"{time.time_ns()}",
            state=State.WAITING,
            received_at=received or time.time(),
            action=action,
            students=(student,),
            participant=participant,
            workshop="WKSHP-Test",
            subject=f"{action} {student} {participant}",
            sender=SENDER,
            reply_to=SENDER,
        )
        with self.store.transaction() as connection:
            number = accept(connection, self.store.backend, new)
            query = sa.select(jobs.c.id).where(jobs.c.request == number)
            return number, int(connection.execute(query).scalar_one())

    def names(self, job: int) -> list[str]:
        """The job's steps in order."""
        query = sa.select(steps.c.name).where(steps.c.job == job).order_by(steps.c.position)
        return [row["name"] for row in self.store.rows(query)]


@pytest.fixture(params=databases.KINDS)
def office(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Office]:
    """Real services without a server, on each database."""
    with databases.fresh(request.param, tmp_path) as url:
        site = Deployment(tmp_path, "" if request.param == "sqlite" else url, WODMONITOR="monitor@localhost")
        site.workshop("WKSHP-Test", reset=True)
        made = build_services(site.settings, Masker())
        made.store.migrate()
        yield Office(made)
        made.store.close()


def test_the_pause_grows_and_ends() -> None:
    assert [away_pause(waited, 600) for waited in (0, 20, 300, 599.5)] == [1.0, 5.0, 15.0, 0.5]
    assert away_pause(600, 600) is None
    assert away_pause(0, 0) is None


def test_a_job_that_cannot_be_planned_waits_and_is_planned_later(office: Office) -> None:
    _, job = office.add("CREATE")
    office.registry.error = Away(WORDS)
    assert [step["name"] for step in office.runner.begin(job)] == ["await-registry", "trace"]
    assert office.runner.step(job, "await-registry") == {"state": "waiting", "again_in": 1.0}
    office.runner.park(job, 1.0)
    assert [step["name"] for step in office.runner.begin(job)] == ["await-registry", "trace"]
    office.registry.error = None
    assert office.runner.step(job, "await-registry") == {"state": "waiting", "again_in": 0.0}
    office.runner.park(job, 0.0)
    planned = [step["name"] for step in office.runner.begin(job)]
    assert planned[:2] == ["validate", "password"]
    assert planned == office.names(job)


@pytest.mark.parametrize("error", [Away(WORDS), Failed("The API-DB does not let us in. Check WODAPIDBUSER.")])
def test_patience_ends(office: Office, error: Exception) -> None:
    """With no patience at all, and for what clearly will not mend itself, the job fails with the words."""
    office.services = replace(
        office.services, settings=office.services.settings.model_copy(update={"WODAPIDBPATIENCE": 0})
    )
    office.runner = Runner(office.services)
    request, job = office.add("CREATE")
    office.registry.error = error
    for step in office.runner.begin(job):
        office.runner.step(job, step["name"])
    office.runner.finish(job, "failed")
    told = office.store.describe([request])[0]
    assert told["state"] == "failed"
    assert str(error) in told["reason"]
    assert "await-registry" in told["reason"]


def test_a_step_that_reads_remembers_since_when_it_waits(office: Office) -> None:
    _, job = office.add("CREATE", participant=57)
    office.runner.begin(job)
    office.registry.error = Away(WORDS)
    assert office.runner.step(job, "validate")["state"] == "waiting"
    first = office.store.describe([1])[0]["jobs"][0]["steps"][0]
    began = office.store.row(sa.select(steps.c.result).where(steps.c.name == "validate"))
    assert office.runner.step(job, "validate")["state"] == "waiting"
    again = office.store.row(sa.select(steps.c.result).where(steps.c.name == "validate"))
    assert began == again
    assert first["note"] == WORDS
    office.registry.error = None
    assert office.runner.step(job, "validate")["state"] == "done"
    assert "away_since" not in str(office.store.row(sa.select(steps.c.result).where(steps.c.name == "validate")))


def test_a_job_goes_on_as_planned_though_the_registry_is_away_by_now(office: Office) -> None:
    """As after a restart: nothing is cached; the finished steps stay finished, a CLEANUP goes on past failures."""
    _, job = office.add("CLEANUP", participant=57)
    planned = office.runner.begin(job)
    assert office.runner.step(job, "validate")["state"] == "done"
    office.runner.park(job, 0.0)
    office.registry.error = Away(WORDS)
    assert office.runner.begin(job) == planned[1:]
    assert office.names(job) == [step["name"] for step in planned]


def test_a_failure_before_a_wait_is_not_forgotten(office: Office) -> None:
    request, job = office.add("CLEANUP", participant=57)
    names = [step["name"] for step in office.runner.begin(job)]
    office.runner.step(job, names[0])
    office.registry.error = Failed("The API-DB does not let us in.")
    assert office.runner.step(job, "registry-password")["state"] == "failed"
    office.registry.error = Away(WORDS)
    assert office.runner.step(job, "registry-cleaned")["state"] == "waiting"
    office.runner.park(job, 0.0)
    office.registry.error = None
    for step in office.runner.begin(job):
        assert step["name"] != "registry-password"
        office.runner.step(job, step["name"])
    office.runner.finish(job, "done")
    told = office.store.describe([request])[0]
    assert told["state"] == "failed"
    assert "registry-password" in told["reason"]


def test_a_look_is_no_attempt(office: Office) -> None:
    _, job = office.add("CREATE", participant=57)
    office.runner.begin(job)
    office.registry.error = Away(WORDS)
    for _ in range(3):
        assert office.runner.step(job, "validate")["state"] == "waiting"
    row = office.store.row(sa.select(steps.c.runs).where(steps.c.name == "validate"))
    assert row == {"runs": 0}


def test_whoever_waits_for_a_participant_looks_when_the_cleanup_has_ended(office: Office) -> None:
    office.registry.inner.assign(7, "WKSHP-Test", 57)
    _, reset = office.add("RESET", participant=57)
    _, cleanup = office.add("CLEANUP", participant=57)
    office.runner.begin(reset)
    waits = office.runner.step(reset, "wait-cleaned")
    assert waits == {"state": "waiting", "again_in": 20.0}
    office.runner.park(reset, waits["again_in"])
    with office.store.transaction() as connection:
        assert startable(connection, office.store.backend, time.time()) == [cleanup]
    office.registry.inner.set_cleaned(57)
    office.runner.finish(cleanup, "done")
    with office.store.transaction() as connection:
        assert startable(connection, office.store.backend, time.time()) == [reset]
    office.runner.begin(reset)
    assert office.runner.step(reset, "wait-cleaned")["state"] == "done"
    assert office.runner.step(reset, "validate-again")["state"] == "done"


def test_the_wait_for_a_participant_ends_with_a_warning(office: Office) -> None:
    office.registry.inner.assign(7, "WKSHP-Test", 57)
    request, job = office.add("PURGE", participant=57)
    office.runner.begin(job)
    office.runner.step(job, "wait-cleaned")
    office.runner.park(job, 0.0)
    with office.store.transaction() as connection:
        connection.execute(jobs.update().where(jobs.c.id == job).values(waiting_since=time.time() - 15 * 60 - 1))
    assert office.runner.step(job, "wait-cleaned")["state"] == "done"
    found = next(s for s in office.store.describe([request])[0]["jobs"][0]["steps"] if s["name"] == "wait-cleaned")
    assert found["warnings"] == ["participant 57 is not cleaned after 15 min; going on"]


def test_a_cleanup_does_not_overtake_a_create_that_waits(office: Office) -> None:
    _, create = office.add("CREATE", participant=57)
    office.add("CLEANUP", participant=57)
    office.registry.error = Away(WORDS)
    office.runner.begin(create)
    office.runner.park(create, 3600.0)
    with office.store.transaction() as connection:
        assert startable(connection, office.store.backend, time.time()) == []
        assert startable(connection, office.store.backend, time.time() + 3601) == [create]


# -- intake -------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(office: Office) -> tuple[Intake, Spool]:
    """An intake that reads NUMBER as a participant."""
    settings = office.services.settings.model_copy(update={"WODSUBJECTNUMBER": "participant"})
    spool = Spool(settings.WODSTATEDIR / "spool")
    registry: Any = office.registry
    return Intake(settings, spool, office.store, registry, lambda: None, lambda _spec, _step: []), spool


def put(spool: Spool, subject: str, workshop: str = "WKSHP-Test") -> str:
    """Store a mail."""
    raw = f"Subject: {subject}\n\n{workshop}\n".encode()
    return spool.store(raw, peer="127.0.0.1", sender=SENDER, door="listener")


def stored_ago(patch: pytest.MonkeyPatch, seconds: float, spool: Spool, subject: str, workshop: str) -> None:
    """Store a mail as of so many seconds ago."""
    then = time.time() - seconds
    with patch.context() as earlier:
        earlier.setattr(time, "time", lambda: then)
        put(spool, subject, workshop)


def states(office: Office) -> list[tuple[str, str]]:
    """Subject and state of every request, oldest first."""
    rows = office.store.rows(sa.select(requests.c.subject, requests.c.state).order_by(requests.c.id))
    return [(row["subject"], row["state"]) for row in rows]


def test_mails_are_taken_in_while_the_registry_is_away(
    office: Office, desk: tuple[Intake, Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the one that nobody can read without it stays in the spool, and holds nobody up."""
    monkeypatch.setattr(intake_module, "LATER", 0.0)
    intake, spool = desk
    office.registry.error = Away(WORDS)
    broken = put(spool, "PURGE [object Promise] 57", "VOID")
    put(spool, "CREATE 7 57")
    put(spool, "CREATE 8 58", "WKSHP-Unknown")
    intake.run()
    assert states(office) == [("CREATE 7 57", "waiting"), ("CREATE 8 58", "refused")]
    assert "WKSHP-Unknown" in office.store.describe([2])[0]["reason"]
    assert intake.held == 1
    assert broken in spool.new()
    office.registry.error = None
    office.registry.inner.assign(9, "WKSHP-Test", 57)
    intake.run()
    assert ("PURGE [object Promise] 57", "waiting") in states(office)
    assert intake.held == 0
    assert spool.new() == []


def test_one_mail_finds_for_all_that_the_registry_is_away(office: Office, desk: tuple[Intake, Spool]) -> None:
    intake, spool = desk
    office.registry.error = Away(WORDS)
    for number in range(1, 9):
        put(spool, f"RESET [object Promise] {number}")
    put(spool, "CREATE 7 57")
    intake.run()
    assert intake.held == 8
    assert office.registry.asked == 1
    assert states(office) == [("CREATE 7 57", "waiting")]


def test_a_mail_is_not_held_for_ever(
    office: Office, desk: tuple[Intake, Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    intake, spool = desk
    office.registry.error = Away(WORDS)
    stored_ago(monkeypatch, 601, spool, "PURGE [object Promise] 57", "VOID")
    intake.run()
    row = office.store.describe([1])[0]
    assert row["state"] == "refused"
    assert "student's number" in row["reason"]
    assert spool.new() == []


def test_a_registry_that_says_no_is_an_answer(office: Office, desk: tuple[Intake, Spool]) -> None:
    intake, spool = desk
    office.registry.error = Failed("The API-DB does not let us in.")
    put(spool, "PURGE [object Promise] 57", "VOID")
    intake.run()
    assert states(office) == [("PURGE [object Promise] 57", "refused")]
    row = office.store.describe([1])[0]
    assert "does not let us in" in row["reason"] and "Send the mail again" in row["reason"]


# -- alarms -------------------------------------------------------------------------------------------------------


def test_a_late_create_is_told_once(office: Office, tmp_path: Path) -> None:
    now = time.time()
    late, _ = office.add("CREATE", received=now - LATE_AFTER - 1)
    office.add("CREATE", student=8, received=now - LATE_AFTER + 60)
    office.add("CLEANUP", student=9, received=now - LATE_AFTER - 1)
    done, job = office.add("CREATE", student=10, received=now - LATE_AFTER - 1)
    office.runner.finish(job, "done")
    alarms = Alarms(office.services.settings, office.store)
    assert alarms.look(now) == [late]
    assert alarms.look(now) == []
    assert Alarms(office.services.settings, office.store).look(now) == [late], "a new server logs it again"
    told = office.store.rows(sa.select(mails).where(mails.c.kind == "late"))
    assert [(row["request"], row["recipient"]) for row in told] == [(late, "monitor@localhost")]
    outbox = Outbox(office.services, Sender(office.services.settings))
    outbox.run()
    folder = tmp_path / "state" / "outbox" / "new"
    (mail,) = [text for file in folder.iterdir() if "monitor@localhost" in (text := file.read_text())]
    assert "Subject: Re: CREATE 7 0: not finished after 8 minutes" in mail
    assert f"wodmail show {late}" in mail
    assert done


def test_the_server_tells_of_a_late_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits behind another has not finished either."""
    site = Deployment(tmp_path, WODMONITOR="monitor@localhost", WODWORKERS=1)
    site.workshop("WKSHP-Test")
    hold = tmp_path / "hold"
    hold.touch()
    site.script("create-WKSHP-Test.sh", f"while [ -e {hold} ]; do sleep 0.02; done\n")
    spool = Spool(site.settings.WODSTATEDIR / "spool")
    stored_ago(monkeypatch, LATE_AFTER + 1, spool, "CREATE 7 0", "WKSHP-Test")
    try:
        site.start()
        wait_until(lambda: "Re: CREATE 7 0: not finished after 8 minutes" in site.subjects(), what="the alarm")
        hold.unlink()
        assert [row["state"] for row in site.ended(1)] == ["done"]
        wait_until(lambda: "Re: CREATE 7 0: done" in site.subjects(), what="the result")
        assert [str(mail["To"]) for mail in site.outbox() if "not finished" in str(mail["Subject"])] == [
            "monitor@localhost"
        ]
    finally:
        site.close()
