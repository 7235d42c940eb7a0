"""What becomes of requests: ended, aborted and retried at awkward moments; mails that can't be rendered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import databases
from tests.e2e.harness import Deployment
from wodmail import requests
from wodmail.errors import Failed, Refused
from wodmail.jobs.runner import Runner
from wodmail.jobs.services import Services, StepContext
from wodmail.jobs.steps import STEPS
from wodmail.logs import Masker
from wodmail.mail.send import Sender
from wodmail.model import State, StepResult
from wodmail.outbox import Outbox
from wodmail.requests import NewRequest, accept
from wodmail.server import build_services
from wodmail.store import jobs, mails

SENDER = "wodadmin@localhost"


@pytest.fixture(params=databases.KINDS)
def services(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Services]:
    """Real services without a server, on each database."""
    with databases.fresh(request.param, tmp_path) as url:
        site = Deployment(tmp_path, "" if request.param == "sqlite" else url, WODMONITOR="monitor@localhost")
        site.workshop("WKSHP-Test", reset=True)
        made = build_services(site.settings, Masker())
        made.store.migrate()
        yield made
        made.store.close()


def add(services: Services, action: str = "CREATE", student: int = 7, **more: Any) -> tuple[int, int]:
    """Accept a request; returns its number and its first job's."""
    new = NewRequest(
        spool_key=f"{time.time_ns()}",
        state=State.WAITING,
        received_at=time.time(),
        action=action,
        students=(student,),
        workshop="WKSHP-Test",
        subject=f"{action} {student} 0",
        sender=SENDER,
        reply_to=SENDER,
        **more,
    )
    with services.store.transaction() as connection:
        number = accept(connection, services.store.backend, new)
        first = sa.select(jobs.c.id).where(jobs.c.request == number).order_by(jobs.c.id)
        return number, int(connection.execute(first).scalars().first() or 0)


def change(services: Services, job: int, **values: object) -> None:
    """Change a job's row."""
    with services.store.transaction() as connection:
        connection.execute(jobs.update().where(jobs.c.id == job).values(**values))


def state(services: Services, request: int) -> str:
    """A request's state."""
    return str(services.store.describe([request])[0]["state"])


def due(services: Services) -> list[tuple[str, str]]:
    """Kind and recipient of the mails that are due."""
    rows = services.store.rows(sa.select(mails).where(mails.c.state == "due").order_by(mails.c.id))
    return [(row["kind"], row["recipient"]) for row in rows]


def test_an_abort_that_meets_a_hand_over_ends_the_job_once(services: Services) -> None:
    request, job = add(services)
    change(services, job, abort=True, enqueued=True)
    requests.abort_waiting(services, job)
    assert state(services, request) == "waiting", "a worker has it: it ends there"
    change(services, job, enqueued=False)
    requests.abort_waiting(services, job)
    assert state(services, request) == "aborted"
    runner = Runner(services)
    assert runner.begin(job) == [], "a job that has ended does not begin"
    runner.finish(job, "done")
    assert state(services, request) == "aborted"
    assert due(services) == [("result", SENDER), ("monitor", "monitor@localhost")]


def test_a_job_that_has_begun_is_aborted_by_a_worker(services: Services) -> None:
    _, job = add(services)
    change(services, job, abort=True, started="2026-01-01T00:00:00.000Z")
    assert requests.to_abort(services.store) == [(job, True)]


def test_an_aborted_job_runs_its_always_steps_only(services: Services) -> None:
    _, job = add(services)
    runner = Runner(services)
    planned = [step["name"] for step in runner.begin(job)]
    change(services, job, abort=True)
    outcomes = {name: runner.step(job, name)["state"] for name in planned}
    assert {name for name, found in outcomes.items() if found != "aborted"} == {"forget-variables", "trace"}


def test_a_recorded_step_does_not_run_again(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    _, job = add(services)
    runner = Runner(services)
    runner.begin(job)
    calls: list[str] = []

    def fail(context: StepContext) -> StepResult:
        calls.append(context.step.name)
        raise Failed("no")

    monkeypatch.setitem(STEPS, "validate", fail)
    assert [runner.step(job, "validate")["state"] for _ in range(2)] == ["failed", "failed"]
    assert calls == ["validate"]


def test_warnings_are_masked(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    request, job = add(services)
    runner = Runner(services)
    runner.begin(job)
    services.masker.register("s3cretword")
    monkeypatch.setitem(STEPS, "validate", lambda _: StepResult(State.DONE, warnings=("it was s3cretword",)))
    runner.step(job, "validate")
    assert services.store.describe([request])[0]["jobs"][0]["steps"][0]["warnings"] == ["it was ****"]


def test_a_retry_takes_back_a_result_that_was_not_sent(services: Services) -> None:
    request, job = add(services)
    runner = Runner(services)
    runner.begin(job)
    runner.finish(job, "failed")
    assert due(services) == [("result", SENDER), ("monitor", "monitor@localhost")]
    assert requests.retry(services.store, request) == [job]
    assert due(services) == []
    runner.begin(job)
    runner.finish(job, "done")
    assert due(services) == [("result", SENDER)]


def test_an_aborted_cleanup_takes_its_reset_along_and_a_retry_brings_both_back(services: Services) -> None:
    request, job = add(services, "CLEANUP", then_reset=True)
    reset = services.store.recent(1)[0]
    assert (reset["action"], reset["state"]) == ("RESET", "waiting")
    change(services, job, abort=True)
    requests.abort_waiting(services, job)
    assert [state(services, number) for number in (request, reset["id"])] == ["aborted", "aborted"]
    requests.retry(services.store, request)
    assert [state(services, number) for number in (request, reset["id"])] == ["waiting", "waiting"]


def test_a_failed_cleanup_keeps_its_reset(services: Services) -> None:
    _, job = add(services, "CLEANUP", then_reset=True)
    Runner(services).finish(job, "failed")
    assert services.store.recent(1)[0]["state"] == "waiting"


def test_retry_refuses_what_is_overtaken_unless_forced(services: Services) -> None:
    request, job = add(services)
    Runner(services).finish(job, "failed")
    add(services, "CLEANUP")
    with pytest.raises(Refused, match="newer request"):
        requests.retry(services.store, request)
    assert requests.retry(services.store, request, force=True) == [job]


def test_a_pdf_overtakes_nothing(services: Services) -> None:
    request, job = add(services)
    Runner(services).finish(job, "failed")
    add(services, "PDF")
    assert requests.retry(services.store, request) == [job]


def test_a_mail_that_cannot_be_rendered_holds_up_no_other(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []
    for student in (7, 8):
        number, job = add(services, student=student)
        Runner(services).finish(job, "done")
        numbers.append(number)
    render = Outbox._render

    def broken(self: Outbox, kind: str, row: dict[str, Any], request: dict[str, Any], full: dict[str, Any]) -> Any:
        if request["id"] == numbers[0]:
            raise KeyError("facts")
        return render(self, kind, row, request, full)

    monkeypatch.setattr(Outbox, "_render", broken)
    outbox = Outbox(services, Sender(services.settings))
    assert outbox.run() == 1
    assert due(services) == []
    states = {row["request"]: row["state"] for row in services.store.rows(sa.select(mails))}
    assert states == {numbers[0]: "failed", numbers[1]: "sent"}


def test_purge_deletes_what_ended_long_ago(services: Services) -> None:
    old, job = add(services)
    fresh, _ = add(services, student=8)
    Runner(services).finish(job, "done")
    Outbox(services, Sender(services.settings)).run()
    finished, count = requests.purge(services.store, time.time() + 1)
    assert (finished, count) == ([job], 1)
    assert [row["id"] for row in services.store.recent(0)] == [fresh]
    assert old not in {row["request"] for row in services.store.rows(sa.select(mails))}
