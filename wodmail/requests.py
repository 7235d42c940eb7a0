"""What becomes of a request: accepted, its jobs ended one by one, retried, aborted. Rows in, rows out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import structlog

from wodmail.errors import Refused
from wodmail.lanes import UNFINISHED
from wodmail.model import OPEN_SESSIONS, Action, JobSpec, State
from wodmail.store import CHUNK, Store, iso, jobs, lanes, mails, nonces, requests, sessions, steps, writes

if TYPE_CHECKING:
    from wodmail.jobs.services import Services

log = structlog.get_logger("wodmail.requests")

_LOOKS_ONLY = frozenset({Action.PDF.value, Action.WORD.value})
"""Actions that an older one, when it is retried, can't undo."""
RETRYABLE = (State.FAILED.value, State.ABORTED.value, State.SHELVED.value)
_WITH_WRITES = sa.select(writes.c.job).where(writes.c.state == "kept")
ACCEPTED = (*UNFINISHED, State.DONE.value, *RETRYABLE)


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request about to be written, as intake judged it.

    Args:
        spool_key: the mail's file in the spool; the same key is never accepted twice.
        state: waiting, or how it ended at once: refused, duplicate, done (PING and PLAN).
        action: as reported, e.g. CREATE or "PLAN CREATE".
        received_at: seconds since 1970 at which the mail was stored.
        notes: JSON values for the reply: how NUMBER was read, warnings, the answer to PLAN.
        reply_to: where the result mail goes, empty for nowhere.
        reply_kind: which mail is due at once (refusal, duplicate, ping, plan), empty for none.
        one_job: whether all students belong to one job.
        then_reset: whether each job is followed by a RESET of its student (CLEANUP with the embedded registry).
    """

    spool_key: str
    state: State
    received_at: float
    action: str = ""
    reason: str = ""
    students: tuple[int, ...] = ()
    workshop: str = ""
    number: int | None = None
    participant: int = 0
    email: str | None = None
    subject: str = ""
    sender: str = ""
    message_id: str = ""
    references: str = ""
    reply_to: str = ""
    reply_kind: str = ""
    one_job: bool = False
    then_reset: bool = False
    notes: dict[str, Any] = field(default_factory=dict)


def spec_of(row: dict[str, Any], runs: int = 1) -> JobSpec:
    """A job's row as the steps know it.

    Args:
        row: of the jobs table.
        runs: how often the step at work was begun; with the job's retries it makes the attempt.
    """
    return JobSpec(
        request=row["request"],
        job=row["id"],
        action=Action(row["action"]),
        students=tuple(json.loads(row["students"])),
        workshop=row["workshop"],
        participant=row["participant"],
        email=row["email"],
        attempt=row["attempt"] - 1 + runs,
    )


def envelope(store: Store, request: int) -> list[str]:
    """The mail's envelope as the trace shows it: mbox From line, subject, request."""
    row = store.row(sa.select(requests).where(requests.c.id == request))
    if row is None:
        raise LookupError(f"request {request} is not in the database")
    stamp = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(row["received_at"]))
    return [
        f"From {row['sender'] or 'MAILER-DAEMON'}  {stamp}",
        f" Subject: {row['subject']}",
        f"  Folder: wodmail request {request}, {row['workshop'] or '-'}",
    ]


def accept(connection: sa.Connection, backend: str, new: NewRequest) -> int:
    """Write a request and its jobs.

    Args:
        connection: a transaction of `Store.transaction`.
        backend: whose queue.
        new: what intake judged.

    Returns:
        The request's number.
    """
    finished = new.state is not State.WAITING
    columns = {
        "backend": backend,
        "spool_key": new.spool_key,
        "state": new.state.value,
        "reason": new.reason,
        "action": new.action,
        "students": json.dumps(list(new.students)),
        "workshop": new.workshop,
        "number": new.number,
        "participant": new.participant,
        "email": new.email,
        "subject": new.subject,
        "sender": new.sender,
        "message_id": new.message_id,
        "reply_references": new.references,
        "reply_to": new.reply_to,
        "notes": json.dumps(new.notes),
        "received": iso(new.received_at),
        "received_at": new.received_at,
        "finished": iso() if finished else None,
        "finished_at": time.time() if finished else None,
    }
    request = int(connection.execute(requests.insert().returning(requests.c.id), columns).scalar_one())
    if new.reply_kind and new.reply_to:
        _due(connection, request, backend, new.reply_kind, 1, new.reply_to)
    if not finished:
        groups = [new.students] if new.one_job else [(student,) for student in new.students]
        for students in groups:
            job = _add_job(connection, backend, request, new, students)
            if new.then_reset:
                _add_reset(connection, backend, new, request, job, students)
    return request


def _add_reset(
    connection: sa.Connection, backend: str, cleanup: NewRequest, request: int, job: int, students: tuple[int, ...]
) -> None:
    """The RESET after a CLEANUP, accepted with it, so that no later mail of that student comes between the two."""
    reset = NewRequest(
        spool_key=f"reset-after-job-{job}",
        state=State.WAITING,
        received_at=cleanup.received_at,
        action=Action.RESET.value,
        students=students,
        workshop=cleanup.workshop.replace("CHLG-", "WKSHP-", 1),
        subject=f"RESET {students[0]} 0",
        one_job=True,
        notes={"reading": f"follows the CLEANUP of request {request}"},
    )
    number = accept(connection, backend, reset)
    connection.execute(requests.update().where(requests.c.id == number).values(automatic=True))
    connection.execute(jobs.update().where(jobs.c.request == number).values(follows=job))


def _add_job(connection: sa.Connection, backend: str, request: int, new: NewRequest, students: tuple[int, ...]) -> int:
    row = {
        "request": request,
        "backend": backend,
        "action": new.action,
        "students": json.dumps(list(students)),
        "workshop": new.workshop,
        "participant": new.participant,
        "email": new.email,
        "state": State.WAITING.value,
    }
    job = int(connection.execute(jobs.insert().returning(jobs.c.id), row).scalar_one())
    _take_lanes(connection, job, students)
    return job


def _take_lanes(connection: sa.Connection, job: int, students: Iterable[int]) -> None:
    connection.execute(lanes.insert(), [{"job": job, "student": student} for student in students])


def _due(connection: sa.Connection, request: int, backend: str, kind: str, round_: int, to: str, job: int = 0) -> None:
    row = {"request": request, "backend": backend, "kind": kind, "round": round_, "recipient": to, "job": job}
    connection.execute(mails.insert(), {**row, "state": "due"})


# -- the end of a job -----------------------------------------------------------------------------------------------


def finish_job(services: Services, job: int, state: State, reason: str = "", *, only_waiting: bool = False) -> None:
    """Record a job's end; with its last job the request ends and its mails become due.

    Args:
        services: the parts around the jobs.
        job: the job; nothing happens when it has ended already.
        state: done, failed, aborted or shelved.
        reason: why; found out from the failed steps when empty.
        only_waiting: leave a job alone that was handed to a worker meanwhile.
    """
    store = services.store
    with store.transaction() as connection:
        row = connection.execute(sa.select(jobs).where(jobs.c.id == job).with_for_update()).mappings().one()
        if row["state"] not in UNFINISHED or (only_waiting and row["enqueued"]):
            return
        if state is State.DONE and _any_failed(connection, job):  # in a segment before a wait
            state = State.FAILED
        why, refused = (reason, False) if reason else _why(connection, job, state)
        _end_job(connection, dict(row), state, why)
        spec = spec_of(dict(row))
        if state is State.DONE and spec.action is Action.CREATE and spec.email and not services.settings.apidb:
            _due(connection, spec.request, store.backend, "credentials", row["attempt"], spec.email, job)
        if refused or state in (State.ABORTED, State.SHELVED):
            _end_follower(connection, services, job)
        if spec.action is Action.CLEANUP and spec.participant:
            _wake_waiting(connection, store.backend, spec.participant)
        ended = _end_request(connection, services, row["request"], refused)
    if state is State.SHELVED:
        log.error("job-shelved", job=job, request=row["request"])
    log.info("job-ended", job=job, request=row["request"], state=state.value, reason=services.masker.mask(why))
    if ended:
        forget_secrets(services, row["request"])


def _any_failed(connection: sa.Connection, job: int) -> bool:
    query = sa.select(steps.c.name).where(steps.c.job == job, steps.c.state == State.FAILED.value).limit(1)
    return connection.execute(query).first() is not None


def _wake_waiting(connection: sa.Connection, backend: str, participant: int) -> None:
    """Whoever waits for this participant to be cleaned looks at once, not at its next poll."""
    parked = sa.and_(jobs.c.backend == backend, jobs.c.participant == participant, jobs.c.parked_until.is_not(None))
    connection.execute(jobs.update().where(parked).values(parked_until=time.time()))


def _end_job(connection: sa.Connection, row: dict[str, Any], state: State, reason: str) -> None:
    connection.execute(
        jobs.update()
        .where(jobs.c.id == row["id"])
        .values(state=state.value, reason=reason, finished=iso(), enqueued=False, parked_until=None, alone=False)
    )
    connection.execute(lanes.delete().where(lanes.c.job == row["id"]))


def _why(connection: sa.Connection, job: int, state: State) -> tuple[str, bool]:
    """The failed steps in words, and whether each of them was a refusal."""
    if state is State.DONE:
        return "", False
    if state is State.ABORTED:
        return "aborted by the operator", False
    if state is State.SHELVED:
        return "set aside: the server died four times at this job; see `wodmail show`, then `wodmail retry`", False
    query = sa.select(steps.c.name, steps.c.result).where(steps.c.job == job, steps.c.state == State.FAILED.value)
    failed = [(row.name, json.loads(row.result)) for row in connection.execute(query.order_by(steps.c.position))]
    words = "; ".join(f"step {name}: {result.get('error', '')}" for name, result in failed)
    refused = bool(failed) and all(result.get("data", {}).get("refused") for _, result in failed)
    return words, refused


def _end_follower(connection: sa.Connection, services: Services, job: int) -> None:
    """A RESET whose CLEANUP was refused or did not come to its end has nothing to follow; a retry brings it back."""
    query = sa.select(jobs).where(jobs.c.follows == job, jobs.c.state == State.WAITING.value)
    for row in connection.execute(query).mappings().all():
        _end_job(connection, dict(row), State.ABORTED, f"its CLEANUP (job {job}) did not come to its end")
        _end_request(connection, services, row["request"], refused=False)


def _end_request(connection: sa.Connection, services: Services, request: int, refused: bool) -> bool:
    """End the request when its last job has; returns whether it did."""
    rows = connection.execute(sa.select(jobs.c.state, jobs.c.reason).where(jobs.c.request == request)).all()
    states = {State(row.state) for row in rows}
    if states & {State.WAITING, State.RUNNING}:
        return False
    state = request_state(states, refused=refused and len(rows) == 1)
    reason = "; ".join(dict.fromkeys(row.reason for row in rows if row.reason))
    connection.execute(
        requests.update()
        .where(requests.c.id == request)
        .values(state=state.value, reason=reason[:2000], finished=iso(), finished_at=time.time())
    )
    row = connection.execute(sa.select(requests).where(requests.c.id == request)).mappings().one()
    if row["reply_to"]:
        _due(connection, request, services.store.backend, "result", row["round"], row["reply_to"])
    monitor = services.settings.WODMONITOR
    if monitor and state is not State.DONE:
        _due(connection, request, services.store.backend, "monitor", row["round"], monitor)
    log.info("request-ended", request=request, state=state.value)
    return True


def request_state(states: Iterable[State], *, refused: bool) -> State:
    """A request's state from its jobs' (pure): failed when any of them failed.

    Args:
        states: the states of all its jobs, all ended.
        refused: its one job failed because what it asked for was refused.
    """
    found = set(states)
    if State.FAILED in found:
        return State.REFUSED if refused else State.FAILED
    for state in (State.SHELVED, State.ABORTED):
        if state in found:
            return state
    return State.DONE


def forget_secrets(services: Services, request: int) -> None:
    """Remove passwords and documents of a request whose jobs and mails have all ended.

    A shelved job keeps its own, and so does one whose writes to the API-DB are still kept.
    """
    store = services.store
    due = store.row(sa.select(mails.c.id).where(mails.c.request == request, mails.c.state == "due").limit(1))
    if due is not None:
        return
    kept = (*UNFINISHED, State.SHELVED.value)
    query = sa.select(jobs.c.id).where(
        jobs.c.request == request, jobs.c.state.not_in(kept), jobs.c.id.not_in(_WITH_WRITES)
    )
    for row in store.rows(query):
        services.passwords.forget(row["id"])
        services.documents.forget(row["id"])


def jobs_with_passwords(store: Store) -> set[int]:
    """Jobs that still need theirs, or their documents: unfinished, shelved, with mails to send or writes to deliver."""
    due = sa.select(mails.c.request).where(mails.c.state == "due")
    kept = (*UNFINISHED, State.SHELVED.value)
    needed = sa.or_(jobs.c.state.in_(kept), jobs.c.request.in_(due), jobs.c.id.in_(_WITH_WRITES))
    query = sa.select(jobs.c.id).where(needed)
    return {row["id"] for row in store.rows(query)}


def abort_waiting(services: Services, job: int) -> None:
    """End a job that somebody wants aborted and that never began; one that did has steps that must still run."""
    finish_job(services, job, State.ABORTED, only_waiting=True)


# -- what operators do ----------------------------------------------------------------------------------------------


def retry(store: Store, request: int, *, force: bool = False) -> list[int]:
    """Let the failed, aborted and shelved jobs of a request run again.

    A failed or aborted job begins anew, a shelved one goes on at its unfinished step.

    Args:
        store: the database.
        request: its number.
        force: also when a student of such a job has a newer one: the retry may undo what that did.

    Returns:
        The jobs that will run.

    Raises:
        Refused: there is no such request, or nothing of it to retry.
    """
    with store.transaction() as connection:
        row = _known(connection, request)
        rows = connection.execute(sa.select(jobs).where(jobs.c.request == request, jobs.c.state.in_(RETRYABLE)))
        again = [dict(found) for found in rows.mappings()]
        if not again:
            raise Refused(
                f"Request {request} is {row['state']}: nothing to retry. Only failed, aborted and shelved jobs can be."
            )
        if not force:
            _refuse_overtaken(connection, store.backend, again)
        follows = sa.select(jobs).where(
            jobs.c.follows.in_([job["id"] for job in again]), jobs.c.state == State.ABORTED.value
        )
        for job in [*again, *(dict(found) for found in connection.execute(follows).mappings())]:
            _again(connection, job)
            _reopen(connection, job["request"])
    return [job["id"] for job in again]


def _reopen(connection: sa.Connection, request: int) -> None:
    """Let an ended request wait again; a result of its last round that was not sent yet is out of date."""
    if connection.execute(sa.select(requests.c.state).where(requests.c.id == request)).scalar_one() in UNFINISHED:
        return
    fresh = {"state": State.WAITING.value, "reason": "", "finished": None, "finished_at": None}
    connection.execute(requests.update().where(requests.c.id == request).values(**fresh, round=requests.c.round + 1))
    connection.execute(
        mails.update()
        .where(mails.c.request == request, mails.c.state == "due", mails.c.kind.in_(["result", "monitor"]))
        .values(state="dropped", error="the request was retried before this was sent")
    )


def _refuse_overtaken(connection: sa.Connection, backend: str, again: list[dict[str, Any]]) -> None:
    """An old CLEANUP that is retried would wipe whoever has the seat now."""
    first = min(job["id"] for job in again)
    ours = {job["id"] for job in again}
    newer = connection.execute(
        sa.select(jobs.c.id, jobs.c.request, jobs.c.students, jobs.c.action)
        .where(jobs.c.backend == backend, jobs.c.id > first, jobs.c.follows.is_(None))
        .order_by(jobs.c.id.desc())
    ).all()
    for job in again:
        students = set(json.loads(job["students"]))
        for row in newer:
            shared = students.intersection(json.loads(row.students))
            if row.id > job["id"] and row.id not in ours and shared and row.action not in _LOOKS_ONLY:
                raise Refused(
                    f"Student {min(shared)} has a newer request, {row.request}; running this one again may undo it. "
                    "Send the mail anew, or retry with --force."
                )


def _again(connection: sa.Connection, job: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "state": State.WAITING.value,
        "reason": "",
        "finished": None,
        "enqueued": False,
        "abort": False,
        "interruptions": 0,
        "alone": False,
        "steps_at_interruption": job["steps_done"],
    }
    if job["state"] != State.SHELVED.value:
        connection.execute(steps.delete().where(steps.c.job == job["id"]))
        values |= {"attempt": job["attempt"] + 1, "segment": 1, "runs": 0, "steps_done": 0, "steps_at_interruption": 0}
    connection.execute(jobs.update().where(jobs.c.id == job["id"]).values(**values))
    _take_lanes(connection, job["id"], json.loads(job["students"]))


def abort(store: Store, request: int) -> list[int]:
    """Ask for the end of a request's unfinished jobs; the server hears of it within a second.

    Those that wait end at once; those at work end at the next step, their children are ended.

    Returns:
        The jobs that will end.

    Raises:
        Refused: there is no such request, or it has ended already.
    """
    with store.transaction() as connection:
        row = _known(connection, request)
        found = connection.execute(
            sa.select(jobs.c.id).where(jobs.c.request == request, jobs.c.state.in_(UNFINISHED))
        ).scalars()
        unfinished = list(found)
        if not unfinished:
            raise Refused(f"Request {request} is {row['state']}: nothing to abort.")
        connection.execute(jobs.update().where(jobs.c.id.in_(unfinished)).values(abort=True))
        parked = sa.and_(jobs.c.id.in_(unfinished), jobs.c.parked_until.is_not(None))
        connection.execute(jobs.update().where(parked).values(parked_until=time.time()))
    return unfinished


def _known(connection: sa.Connection, request: int) -> dict[str, Any]:
    row = connection.execute(sa.select(requests).where(requests.c.id == request)).mappings().first()
    if row is None:
        raise Refused(f"There is no request {request}. `wodmail requests` lists them.")
    return dict(row)


def to_abort(store: Store) -> list[tuple[int, bool]]:
    """Unfinished jobs of this backend that somebody asked to abort, and whether they have ever begun."""
    query = sa.select(jobs.c.id, jobs.c.enqueued, jobs.c.started).where(
        jobs.c.backend == store.backend, jobs.c.abort.is_(True), jobs.c.state.in_(UNFINISHED)
    )
    return [(row["id"], row["enqueued"] or row["started"] is not None) for row in store.rows(query)]


def purge(store: Store, older_than: float) -> tuple[list[int], int]:
    """Delete requests that ended long ago, at most CHUNK of them.

    Args:
        older_than: seconds since 1970; only what ended before is deleted, and nothing whose mail is still due, whose
            writes are kept or whose session goes on.

    Returns:
        The jobs whose workflows can go too, and the number of requests deleted.
    """
    with store.transaction() as connection:
        due = sa.select(mails.c.request).where(mails.c.state == "due")
        kept = sa.select(writes.c.request).where(writes.c.state == "kept")
        going_on = sa.select(sessions.c.request).where(sessions.c.state.in_(OPEN_SESSIONS))
        old = list(
            connection.execute(
                sa.select(requests.c.id)
                .where(
                    requests.c.backend == store.backend,
                    requests.c.finished_at < older_than,
                    requests.c.id.not_in(due),
                    requests.c.id.not_in(kept),
                    requests.c.id.not_in(going_on),
                )
                .order_by(requests.c.id)
                .limit(CHUNK)
            ).scalars()
        )
        numbers = list(connection.execute(sa.select(jobs.c.id).where(jobs.c.request.in_(old))).scalars())
        for table in (lanes, steps):
            connection.execute(table.delete().where(table.c.job.in_(numbers)))
        connection.execute(mails.delete().where(mails.c.request.in_(old)))
        connection.execute(jobs.delete().where(jobs.c.id.in_(numbers)))
        connection.execute(requests.delete().where(requests.c.id.in_(old)))
        failed = sa.and_(writes.c.backend == store.backend, writes.c.settled_at < older_than)
        connection.execute(writes.delete().where(sa.or_(failed, writes.c.request.in_(old))))
        connection.execute(nonces.delete().where(nonces.c.seen_at < older_than))
    return numbers, len(old)
