"""Durable execution: the only module that knows DBOS.

Which job may start is ours (`wodmail.lanes`); that a started job goes on at its unfinished step is DBOS's. A job is
handed to DBOS as a workflow named after the job, its attempt and its segment (a wait ends a segment, so that it
holds no worker). Interruptions are counted here, before anything resumes (docs/flow.md, "After a crash").
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, Protocol, TypedDict, TypeVar

import sqlalchemy as sa
import structlog
from dbos import DBOS, DBOSClient, DBOSConfig, SetWorkflowID
from dbos._serialization import DBOSPortableJSONSerializer

from wodmail import drained
from wodmail.errors import Temporary
from wodmail.lanes import UNFINISHED, startable
from wodmail.model import State
from wodmail.store import Store, jobs

log = structlog.get_logger("wodmail.engine")

P = ParamSpec("P")
R = TypeVar("R")

WORKFLOW = "wodmail-job"
APPLICATION = "wodmail"
# Pinned: a new release of wodmail must resume what an older one began; guard changed step lists instead of raising it.
APPLICATION_VERSION = "1"
SUSPICIOUS_LIMIT = 3
LOOK_EVERY = 1.0


class Drained(BaseException):
    """The server is going down: leave the job as it is, record nothing. Not an `Exception`, so that nobody keeps it."""


class PlannedStep(TypedDict):
    """One step as the engine needs it: `always` steps run also after a failure, `stops` ends the job when it fails."""

    name: str
    always: bool
    stops: bool


class StepOutcome(TypedDict):
    """How a step ended, without anything that could hold a secret."""

    state: str
    again_in: float


class _Handed(NamedTuple):
    """A job about to be handed over; `runs` is how often that was done before with this workflow."""

    id: int
    attempt: int
    segment: int
    runs: int


class Work(Protocol):
    """What the engine drives: the jobs themselves."""

    def begin(self, job: int) -> list[PlannedStep]:
        """Mark the job running and say which steps are left, in order."""

    def step(self, job: int, name: str) -> StepOutcome:
        """Run one step to its end and record how it ended."""

    def park(self, job: int, again_in: float) -> None:
        """Give the worker back; ask the waiting step again after so many seconds."""

    def finish(self, job: int, state: str) -> None:
        """Record the job's end, and the request's when this was its last job."""

    def crashed(self, job: int, error: Exception) -> None:
        """Record a fault of our own that no step caught; the job is failed."""


_engine: Engine | None = None


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
def _job_workflow(job: int) -> str:
    if _engine is None:
        raise Drained
    return _engine.run(job)


class Engine:
    """Runs jobs, in lanes, durably.

    Args:
        store: the database.
        work: what a job does.
        workers: jobs at the same time, at least 1.
    """

    def __init__(self, store: Store, work: Work, *, workers: int) -> None:
        self._store, self._work, self._workers = store, work, workers
        self._url = _url(store)
        self._draining = threading.Event()
        self._handing = threading.Lock()
        self._kicked = threading.Event()
        self._changed = threading.Condition()
        self._active: set[int] = set()
        self._client: DBOSClient | None = None
        self._waker: Callable[[], None] = lambda: None
        self._poison: list[int] = []
        self._hander = threading.Thread(target=self._hand_on, name="hand-over", daemon=True)

    # -- life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Migrate, settle what the last life left, and begin to work.

        Raises:
            Temporary: the database can't be reached.
        """
        global _engine
        _route_log()
        DBOS.migrate(self._url)
        self._client = _client(self._url)
        drained.prepare(self._store)
        self._recover()
        for job in self._poison:
            log.error("job-poison", job=job)
            self._work.finish(job, State.SHELVED.value)
        _engine = self
        DBOS(config=self._config())
        DBOS.listen_queues([])  # but for DBOS's own, which resumed workflows go through
        DBOS.launch()
        self._hander.start()

    def _config(self) -> DBOSConfig:
        return DBOSConfig(
            name=APPLICATION,
            system_database_url=self._url,
            application_version=APPLICATION_VERSION,
            executor_id=self._store.backend,
            serializer=DBOSPortableJSONSerializer(),
            use_listen_notify=False,
            notification_listener_polling_interval_sec=0.1,  # nothing is asked for, but a stop waits for it
            log_level="WARNING",
        )

    def drain(self, seconds: float) -> bool:
        """Start nothing new and let running steps finish.

        Args:
            seconds: how long at most, 0 or more.

        Returns:
            Whether every job came to rest in time; the others resume at the next start.
        """
        self._draining.set()
        self._kicked.set()
        with self._changed:
            rested = self._changed.wait_for(lambda: not self._active, timeout=seconds)
            unfinished = sorted(self._active)
        self._mark_drained()
        if unfinished:
            log.warning("drain-unfinished", jobs=unfinished, seconds=seconds)
        return rested

    def stop(self) -> None:
        """Let go of the database; call `drain` first."""
        global _engine
        self._draining.set()
        self._kicked.set()
        if self._hander.is_alive():
            self._hander.join(timeout=5.0)
        DBOS.destroy()
        if self._client is not None:
            self._client.destroy()
            self._client = None
        _engine = None

    @property
    def draining(self) -> bool:
        """Whether the engine is going down."""
        return self._draining.is_set()

    @property
    def active(self) -> set[int]:
        """The jobs that a worker of this process is at."""
        with self._changed:
            return set(self._active)

    def on_change(self, waker: Callable[[], None]) -> None:
        """Have `waker` called whenever a job ends or parks."""
        self._waker = waker

    # -- handing over -----------------------------------------------------------------------------------------

    def kick(self) -> None:
        """Say that a job was added or ended: what may start now starts at once."""
        self._kicked.set()

    def _hand_on(self) -> None:
        while not self.draining:
            try:
                self.hand_over()
            except Temporary as error:
                log.warning("service-away", cause=error.operator)
            except Exception:  # this thread is the only one that starts jobs: it looks again in a second
                log.exception("hand-over-fault")
            self._kicked.wait(LOOK_EVERY)  # parked jobs become due without a kick
            self._kicked.clear()

    def hand_over(self) -> list[int]:
        """Give jobs that may start to the workers that are free.

        Not through one of DBOS's queues: its polling costs more than the idle server may, and each first step would
        wait for it (docs/decisions/dbos-and-own-lanes.md).

        Returns:
            The jobs handed over.
        """
        if self.draining or self._client is None:
            return []
        with self._handing:
            with self._store.reading() as view:  # asked often: a look costs no write lock
                if drained.look(view, self._store.backend).on:
                    return []
                if not startable(view, self._store.backend, time.time()):
                    return []
            with self._store.transaction() as connection:
                handed = self._mark(connection)
            self._begin(handed)
            return [row.id for row in handed]

    def _mark(self, connection: sa.Connection) -> list[_Handed]:
        """Mark what may start as handed over, as far as workers are free; nothing on a drained backend."""
        if drained.look(connection, self._store.backend, lock=True).on:
            return []
        busy = connection.execute(
            sa.select(sa.func.count()).where(
                jobs.c.backend == self._store.backend, jobs.c.state.in_(UNFINISHED), jobs.c.enqueued.is_(True)
            )
        ).scalar_one()
        ready = startable(connection, self._store.backend, time.time())
        ready = self._respect_loner(connection, ready, busy)[: max(0, self._workers - busy)]
        query = sa.select(jobs.c.id, jobs.c.attempt, jobs.c.segment, jobs.c.runs).where(jobs.c.id.in_(ready))
        handed = [_Handed(*row) for row in connection.execute(query.order_by(jobs.c.id))]
        connection.execute(
            jobs.update().where(jobs.c.id.in_(ready)).values(enqueued=True, runs=jobs.c.runs + 1, drained=False)
        )
        return handed

    def _respect_loner(self, connection: sa.Connection, ready: list[int], busy: int) -> list[int]:
        """While a job must run alone, hand over that one only, and only when nothing else is at work."""
        loner = connection.execute(
            sa.select(jobs.c.id)
            .where(jobs.c.backend == self._store.backend, jobs.c.state.in_(UNFINISHED), jobs.c.alone.is_(True))
            .where(sa.or_(jobs.c.parked_until.is_(None), jobs.c.parked_until <= time.time()))
            .order_by(jobs.c.id)
            .limit(1)
        ).scalar()
        if loner is None:
            return ready
        return [loner] if not busy and loner in ready else []

    def _begin(self, handed: list[_Handed]) -> None:
        """Start new workflows; put interrupted ones back, what they recorded stays recorded.

        When we die before it, the next start finds the jobs unfinished and hands them over again.
        """
        left = {self._workflow_id(row.id, row.attempt, row.segment): row.id for row in handed}
        again = [self._workflow_id(row.id, row.attempt, row.segment) for row in handed if row.runs]
        try:
            for name in self._resumed(again):
                del left[name]
            for name, job in list(left.items()):
                with SetWorkflowID(name):
                    DBOS.start_workflow(_job_workflow, job)
                del left[name]
        finally:
            if left:
                self._take_back(list(left.values()))

    def _take_back(self, idle: list[int]) -> None:
        """What could not be begun must not hold its lanes and workers until the next start."""
        with self._store.transaction() as connection:
            connection.execute(jobs.update().where(jobs.c.id.in_(idle)).values(enqueued=False))

    def _resumed(self, names: list[str]) -> set[str]:
        known = self._known(names)
        if known:
            self._running_client().resume_workflows(sorted(known))
        return known

    def _known(self, names: list[str]) -> set[str]:
        if not names:
            return set()
        found = self._running_client().list_workflows(workflow_ids=names, load_input=False, load_output=False)
        return {workflow.workflow_id for workflow in found}

    def _workflow_id(self, job: int, attempt: int, segment: int) -> str:
        return f"{self._store.backend}-job{job}-{attempt}-{segment}"

    def _running_client(self) -> DBOSClient:
        if self._client is None:
            raise Drained
        return self._client

    # -- one job ----------------------------------------------------------------------------------------------

    def run(self, job: int) -> str:
        """The workflow: the job's steps, each recorded. Called by DBOS in a thread of its own."""
        with self._changed:
            self._active.add(job)
        try:
            return self._run(job)
        except Exception as error:  # the last line of defence: `crashed` records and reports it
            log.exception("job-crashed", job=job)
            self._work.crashed(job, error)
            return State.FAILED.value
        finally:
            with self._changed:
                self._active.discard(job)
                self._changed.notify_all()
            self.kick()
            self._waker()

    def _run(self, job: int) -> str:
        self._gate()
        self._patiently(self._mark_running, job)
        plan: list[PlannedStep] = DBOS.run_step({"name": "begin"}, self._patiently, self._work.begin, job)
        state, stopped = State.DONE, False
        for step in plan:
            if stopped and not step["always"]:
                continue
            self._gate()
            outcome: StepOutcome = DBOS.run_step(
                {"name": step["name"]}, self._patiently, self._work.step, job, step["name"]
            )
            if outcome["state"] == State.WAITING:
                DBOS.run_step({"name": "park"}, self._patiently, self._work.park, job, outcome["again_in"])
                return State.WAITING.value
            state = _worse(state, State(outcome["state"]))
            stopped = stopped or _stops(step, outcome)
        self._gate()
        DBOS.run_step({"name": "finish"}, self._patiently, self._work.finish, job, state.value)
        return state.value

    def _mark_running(self, job: int) -> None:
        """In every life, not only in the one that recorded `begin`: only what runs can be interrupted."""
        with self._store.progress() as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.id == job, jobs.c.state.in_(UNFINISHED))
                .values(state=State.RUNNING.value, drained=False)
            )

    def _patiently(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """A database that is away is waited for: no student's job fails because of it."""
        pause = 0.2
        while True:
            try:
                return work(*args, **kwargs)
            except Temporary as error:
                log.warning("service-away", cause=error.operator, again_in=pause)
            if self._draining.wait(pause):
                raise Drained
            pause = min(pause * 2, 10.0)

    def _gate(self) -> None:
        if self.draining:
            raise Drained

    # -- after a crash ----------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Settle what the last life left: count interruptions, set poison aside, make the rest startable again."""
        client = self._running_client()
        left = client.list_workflows(
            workflow_id_prefix=f"{self._store.backend}-job", status=["PENDING", "ENQUEUED"], load_input=False
        )
        names = [workflow.workflow_id for workflow in left]
        if names:
            client.cancel_workflows(names)
        ended = self._ended_workflows(client)
        with self._store.transaction() as connection:
            query = sa.select(jobs).where(jobs.c.backend == self._store.backend, jobs.c.state.in_(UNFINISHED))
            for row in connection.execute(query.order_by(jobs.c.id)).mappings().all():
                self._recover_job(connection, dict(row), ended)

    def _ended_workflows(self, client: DBOSClient) -> set[str]:
        """Workflows that are over for DBOS while their job is not (we died in between): the job needs a new one."""
        rows = self._store.rows(
            sa.select(jobs.c.id, jobs.c.attempt, jobs.c.segment).where(
                jobs.c.backend == self._store.backend, jobs.c.state.in_(UNFINISHED), jobs.c.runs > 0
            )
        )
        names = [self._workflow_id(row["id"], row["attempt"], row["segment"]) for row in rows]
        if not names:
            return set()
        found = client.list_workflows(workflow_ids=names, status=["SUCCESS", "ERROR"], load_input=False)
        return {workflow.workflow_id for workflow in found}

    def _recover_job(self, connection: sa.Connection, row: dict[str, Any], ended: set[str]) -> None:
        values: dict[str, Any] = {"enqueued": False, "drained": False, "state": State.WAITING.value}
        if self._workflow_id(row["id"], row["attempt"], row["segment"]) in ended:
            values |= {"segment": row["segment"] + 1, "runs": 0}
        if row["state"] == State.RUNNING.value and not row["drained"]:
            verdict = judge_interruption(row["steps_done"], row["steps_at_interruption"], row["interruptions"])
            if row["alone"] and verdict["interruptions"]:
                self._poison.append(row["id"])
            values |= {**verdict, "alone": row["alone"] or verdict["alone"]}
        connection.execute(jobs.update().where(jobs.c.id == row["id"]).values(**values))

    def _mark_drained(self) -> None:
        with self._store.transaction() as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.backend == self._store.backend, jobs.c.state == State.RUNNING.value)
                .values(drained=True)
            )

    def forget(self, finished: list[int]) -> None:
        """Delete the records of the workflows of jobs that are no longer in our tables: every attempt and segment."""
        _forget(self._running_client(), self._store.backend, finished)


def forget_workflows(store: Store, finished: list[int]) -> None:
    """What `Engine.forget` does, for a process without an engine; a server may run beside it.

    Args:
        store: the database.
        finished: the jobs, none of them in our tables any more.
    """
    if not finished:
        return
    _route_log()
    client = _client(_url(store))
    try:
        _forget(client, store.backend, finished)
    finally:
        client.destroy()


def _forget(client: DBOSClient, backend: str, finished: list[int]) -> None:
    for job in finished:
        found = client.list_workflows(workflow_id_prefix=f"{backend}-job{job}-", load_input=False, load_output=False)
        client.delete_workflows([workflow.workflow_id for workflow in found])


def _url(store: Store) -> str:
    """The database as DBOS wants it named."""
    return store.url.replace("postgresql+psycopg://", "postgresql://")


def _client(url: str) -> DBOSClient:
    return DBOSClient(system_database_url=url, serializer=DBOSPortableJSONSerializer(), application_name=APPLICATION)


def judge_interruption(steps_done: int, steps_at_interruption: int, interruptions: int) -> dict[str, Any]:
    """What an interruption does to a job (pure).

    Suspicious is one before which no step had finished since the last one; three in a row make the job run alone.
    The engine shelves a job that is interrupted suspiciously while it runs alone.

    Args:
        steps_done: finished steps now.
        steps_at_interruption: finished steps at the last interruption, 0 when there was none.
        interruptions: suspicious ones in a row so far.

    Returns:
        The columns to change.
    """
    count = interruptions + 1 if steps_done <= steps_at_interruption else 0
    return {"interruptions": count, "steps_at_interruption": steps_done, "alone": count >= SUSPICIOUS_LIMIT}


def _worse(state: State, other: State) -> State:
    order = [State.DONE, State.FAILED, State.ABORTED]
    other = State.DONE if other is State.SKIPPED else other
    return max(state, other, key=order.index)


def _stops(step: PlannedStep, outcome: StepOutcome) -> bool:
    return outcome["state"] == State.ABORTED or (outcome["state"] == State.FAILED and step["stops"])


def _route_log() -> None:
    """DBOS's log goes where ours goes; without a handler of its own it would write to stderr unmasked."""
    dbos_log = logging.getLogger("dbos")
    if not dbos_log.handlers:
        dbos_log.addHandler(logging.NullHandler())
    dbos_log.propagate = True
