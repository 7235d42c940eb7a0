"""Runs the steps of jobs: loads, times, records, traces. What the engine calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
import structlog

from wodmail import __version__, drained, requests
from wodmail.catalog import Workshop
from wodmail.engine import Drained, StepOutcome
from wodmail.engine import PlannedStep as EngineStep
from wodmail.errors import Away, Failed, Refused, Temporary, WodmailError
from wodmail.jobs.atwork import at_work
from wodmail.jobs.plan import AWAIT_REGISTRY, PlannedStep, await_registry, named, plan, recorded
from wodmail.jobs.services import Services, StepContext
from wodmail.jobs.steps import STEPS
from wodmail.model import FINISHED, Action, JobSpec, State, StepResult
from wodmail.store import iso, jobs, steps
from wodmail.store import requests as request_table

log = structlog.get_logger("wodmail.jobs")

TRIES = 3
OUTPUT_KEPT = 16 * 1024


def retry_delay(tries: int) -> float | None:
    """How long to wait before a step that failed for a moment is tried again (pure).

    Args:
        tries: how often it has been tried, at least 1.

    Returns:
        seconds, or None when it has been tried often enough.
    """
    return None if tries >= TRIES else float(2**tries) / 4


def away_pause(waited: float, patience: float) -> float | None:
    """How long a job gives its worker back while a service that it must read is away (pure).

    Args:
        waited: seconds since it was found away, 0 or more.
        patience: WODAPIDBPATIENCE, seconds.

    Returns:
        seconds, at first 1, at last 15; None when its patience is over.
    """
    return None if waited >= patience else min(max(waited / 4, 1.0), 15.0, patience - waited)


def outcome_of(error: WodmailError) -> StepResult:
    """The result of a step that ended with an expected error (pure)."""
    data: dict[str, object] = {"refused": True} if isinstance(error, Refused) else {}
    output = str(getattr(error, "output", ""))[-OUTPUT_KEPT:]
    return StepResult(State.FAILED, error=error.sender, cause=error.operator, output=output, data=data)


def _strange(name: str) -> Failed:
    """A step that another version of wodmail has planned and this one does not have."""
    return Failed(
        f"The backend was updated while this request was at work, and its step {name} is not known any more. "
        "Send the mail again.",
        f"step {name} was planned by another version of wodmail than {__version__}",
    )


_NUMBER, _NAMED = sa.bindparam("number", type_=sa.Integer), sa.bindparam("named", type_=sa.Text)
_OVER = frozenset({State.DONE.value, State.SKIPPED.value, State.FAILED.value})
# Built once: they run twice a step, and building a statement costs more than running it.
_JOB = sa.select(jobs).where(jobs.c.id == _NUMBER)
_STEPS_OF = sa.select(steps.c.name, steps.c.state, steps.c.runs, steps.c.result).where(steps.c.job == _NUMBER)
_STEP_BEGINS = (
    steps.update()
    .where(steps.c.job == _NUMBER, steps.c.name == _NAMED)
    .values(state=State.RUNNING.value, started_at=sa.bindparam("now"), runs=sa.bindparam("nth"))
)
_STEP_ENDS = (
    steps.update()
    .where(steps.c.job == _NUMBER, steps.c.name == _NAMED)
    .values(state=sa.bindparam("to"), seconds=sa.bindparam("took"), result=sa.bindparam("left"))
)
_NOT_BEGUN = steps.update().where(steps.c.job == _NUMBER, steps.c.name == _NAMED).values(runs=steps.c.runs - 1)
_ONE_MORE = jobs.update().where(jobs.c.id == _NUMBER).values(steps_done=jobs.c.steps_done + 1, waiting_since=None)


class Runner:
    """The work that the engine drives.

    Args:
        services: the parts around the jobs.
        draining: says whether the server is going down.
    """

    def __init__(self, services: Services, draining: Callable[[], bool] = lambda: False) -> None:
        self.services = services
        self.draining = draining

    # -- loading ----------------------------------------------------------------------------------------------

    def _job(self, job: int) -> dict[str, Any]:
        row = self.services.store.row(sa.select(jobs).where(jobs.c.id == job))
        if row is None:
            raise LookupError(f"job {job} is not in the database")
        return row

    def _workshop(self, spec: JobSpec) -> Workshop | None:
        if spec.action is Action.PURGE:  # ignores it
            return None
        try:
            return self.services.registry.workshop(spec.ws)
        except Refused as error:
            log.warning("workshop-unknown", job=spec.job, workshop=spec.ws, cause=error.operator)
            return None

    # -- what the engine calls --------------------------------------------------------------------------------

    def begin(self, job: int) -> list[EngineStep]:
        """See `engine.Work.begin`."""
        row = self._job(job)
        if row["state"] in FINISHED:  # ended between hand-over and now
            return []
        spec = requests.spec_of(row)
        planned, finished = self._planned(spec)
        self._mark_running(row)
        if not finished:
            envelope = requests.envelope(self.services.store, spec.request)
            for student in spec.students:
                self.services.trace.mail(spec.request, student, envelope)
        log.info("job-started", job=job, request=spec.request, students=list(spec.students), attempt=spec.attempt)
        return [
            EngineStep(name=step.name, always=step.always, stops=step.stops)
            for step in planned
            if step.name not in finished
        ]

    def _planned(self, spec: JobSpec) -> tuple[list[PlannedStep], set[str]]:
        """The job's steps, and which of them an earlier segment has finished; planned once, then as recorded."""
        query = sa.select(steps.c.name, steps.c.state).where(steps.c.job == spec.job).order_by(steps.c.position)
        known = {row["name"]: row["state"] for row in self.services.store.rows(query)}
        if known and AWAIT_REGISTRY not in known:
            return recorded(list(known), spec), {name for name, state in known.items() if state in _OVER}
        planned = self._plan(spec)
        names = [step.name for step in planned]
        if names != list(known):
            self._record_plan(spec.job, names)
        return planned, set()

    def _plan(self, spec: JobSpec) -> list[PlannedStep]:
        try:
            return plan(spec, self._workshop(spec))
        except (Away, Failed) as error:  # the step asks again, and tells it when it has to
            log.warning("service-away", job=spec.job, cause=error.operator)
            return await_registry(spec)

    def _record_plan(self, job: int, names: list[str]) -> None:
        """Write the steps down as waiting, in place of those that waited for the API-DB to be planned."""
        fresh = [
            {"job": job, "position": position, "name": name, "state": State.WAITING.value}
            for position, name in enumerate(names, 1)
        ]
        with self.services.store.progress() as connection:
            connection.execute(steps.delete().where(steps.c.job == job))
            connection.execute(steps.insert(), fresh)

    def _mark_running(self, row: dict[str, Any]) -> None:
        values: dict[str, Any] = {"state": State.RUNNING.value, "parked_until": None, "drained": False}
        if row["started"] is None:
            values["started"] = iso()
        with self.services.store.transaction() as connection:
            unfinished = jobs.c.state.not_in(sorted(FINISHED))
            connection.execute(jobs.update().where(jobs.c.id == row["id"], unfinished).values(**values))
            connection.execute(
                request_table.update()
                .where(request_table.c.id == row["request"], request_table.c.state == State.WAITING.value)
                .values(state=State.RUNNING.value)
            )

    def step(self, job: int, name: str) -> StepOutcome:
        """See `engine.Work.step`."""
        row, runs, data = self._mark_step_running(job, name)
        if isinstance(runs, State):
            return StepOutcome(state=runs.value, again_in=0.0)
        spec = requests.spec_of(row, runs=runs)
        waiting_since = self._not_drained(row["waiting_since"])
        context = StepContext(self.services, spec, named(name, spec.students[0]), waiting_since, data)
        started = time.monotonic()
        told = {"request": spec.request, "job": job, "step": name}
        with at_work(spec.request, job), structlog.contextvars.bound_contextvars(**told):
            result = self._attempt(context)
        aborted = result.state is State.FAILED and self._job(job)["abort"]
        if aborted:
            result = StepResult(State.FAILED, error="ended by an abort", output=result.output)
        self._record_step(context, result, time.monotonic() - started)
        return StepOutcome(state=State.ABORTED.value if aborted else result.state.value, again_in=result.again_in)

    def _attempt(self, context: StepContext) -> StepResult:
        """Run the step's function; what is only for a moment is tried again."""
        context.line(f"+ {context.step.name}" + (f" (run {context.spec.attempt})" if context.spec.attempt > 1 else ""))
        if context.step.kind not in STEPS:
            return self._ended(outcome_of(_strange(context.step.name)))
        tries = 0
        while True:
            tries += 1
            try:
                return STEPS[context.step.kind](context)
            except Away as error:
                if self.draining():
                    raise Drained from error
                return self._wait_for(context, error)
            except Temporary as error:
                delay = retry_delay(tries)
                if delay is None or self.draining():
                    return self._ended(outcome_of(error))
                context.line(f"  {error.operator}; trying again in {delay} s")
                time.sleep(delay)
            except WodmailError as error:
                return self._ended(outcome_of(error))
            except Exception as error:  # a fault of ours must fail this job alone, with its cause
                log.exception("step-crashed")
                words = f"An internal error ended the step {context.step.name}; the operator's log has the cause."
                return self._ended(StepResult(State.FAILED, error=words, cause=f"{type(error).__name__}: {error}"))

    def _wait_for(self, context: StepContext, error: Away) -> StepResult:
        """Give the worker back while a service is away; fail with its words when patience is over."""
        now = time.time()
        since = context.data.get("away_since")
        since = self._not_drained(float(since)) if isinstance(since, int | float) else now
        since = now if since is None else since
        pause = away_pause(max(0.0, now - since), self.services.settings.WODAPIDBPATIENCE)
        if pause is None:
            return outcome_of(error)
        log.warning("service-away", step=context.step.name, cause=error.operator)
        return StepResult(State.WAITING, note=error.sender, again_in=pause, data={"away_since": since})

    def _not_drained(self, since: float | None) -> float | None:
        """Since when a job has waited; a drain wears nobody's patience out: it begins anew when that ends."""
        return None if since is None else max(since, drained.current(self.services.store).resumed)

    def _ended(self, result: StepResult) -> StepResult:
        """A step whose children were ended because the server goes down has not failed: it runs again."""
        if self.draining():
            raise Drained
        return result

    # -- recording --------------------------------------------------------------------------------------------

    def _mark_step_running(self, job: int, name: str) -> tuple[dict[str, Any], int | State, dict[str, object]]:
        """Record that a step begins.

        Returns:
            The job's row; how often the step was begun, or its state when it must not run: the job is to be aborted,
            or we died between our record of the step's end and DBOS's; and what earlier steps left for it.
        """
        with self.services.store.progress() as connection:
            row = dict(connection.execute(_JOB, {"number": job}).mappings().one())
            if row["abort"] and not named(name, 0).always:
                return row, State.ABORTED, {}
            runs, data = 1, dict[str, object]()
            for step in connection.execute(_STEPS_OF, {"number": job}):
                data |= json.loads(step.result).get("data", {})
                if step.name == name and step.state in _OVER:
                    return row, State(step.state), {}
                runs = step.runs + 1 if step.name == name else runs
            connection.execute(_STEP_BEGINS, {"number": job, "named": name, "now": time.time(), "nth": runs})
        return row, runs, data

    def _record_step(self, context: StepContext, result: StepResult, seconds: float) -> None:
        job, name = context.spec.job, context.step.name
        kept = {key: value for key, value in asdict(result).items() if key not in ("state", "again_in") and value}
        kept = self.services.masker.mask_value(kept)
        with self.services.store.progress() as connection:
            ended = {"to": result.state.value, "took": seconds, "left": json.dumps(kept)}
            connection.execute(_STEP_ENDS, {"number": job, "named": name, **ended})
            if result.state is State.WAITING:  # a look is no attempt
                connection.execute(_NOT_BEGUN, {"number": job, "named": name})
            else:
                connection.execute(_ONE_MORE, {"number": job})
        words = result.error or result.note
        if context.step.kind != "trace":
            context.line(f"  {context.step.name}: {result.state}{': ' + words if words else ''} ({seconds:.2f} s)")
            if result.cause and result.cause != result.error:
                context.line(f"  cause: {result.cause}")
        event = "step-failed" if result.state is State.FAILED else "step-ended"
        log.info(
            event, request=context.spec.request, job=job, step=name, state=result.state.value, seconds=round(seconds, 3)
        )

    def park(self, job: int, again_in: float) -> None:
        """See `engine.Work.park`; the next look at the step is a segment of its own."""
        row = self._job(job)
        with self.services.store.transaction() as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.id == job, jobs.c.state == State.RUNNING.value)
                .values(
                    state=State.WAITING.value,
                    enqueued=False,
                    segment=row["segment"] + 1,
                    runs=0,
                    parked_until=time.time() + again_in,
                    waiting_since=row["waiting_since"] or time.time(),
                )
            )

    def finish(self, job: int, state: str) -> None:
        """See `engine.Work.finish`."""
        requests.finish_job(self.services, job, State(state))

    def crashed(self, job: int, error: Exception) -> None:
        """See `engine.Work.crashed`."""
        requests.finish_job(self.services, job, State.FAILED, reason=f"internal error: {type(error).__name__}: {error}")
