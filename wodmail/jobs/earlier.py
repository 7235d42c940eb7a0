"""What earlier jobs, or earlier tries of the same job, have already done for a participant: asked of the database."""

from __future__ import annotations

import json

import sqlalchemy as sa

from wodmail.errors import Refused
from wodmail.lanes import UNFINISHED
from wodmail.model import Action, JobSpec, State
from wodmail.store import Store, jobs, requests

SESSION_NOTE = "session"
"""What the notes of a CLEANUP's request call the session that it ends."""


def was_retried(store: Store, job: int) -> bool:
    """Whether `wodmail retry` has let this job begin anew; a job that goes on after a crash was not."""
    row = store.row(sa.select(jobs.c.attempt).where(jobs.c.id == job))
    return row is not None and row["attempt"] > 1


def was_cleaned(store: Store, spec: JobSpec) -> bool:
    """Whether a CLEANUP of this participant has ended since its last CREATE, well or not; the job's own first try too.

    Args:
        store: the database.
        spec: a CLEANUP with a participant.
    """
    if was_retried(store, spec.job):
        return True
    ended = jobs.c.state.in_([State.DONE.value, State.FAILED.value])
    same = sa.and_(jobs.c.backend == store.backend, jobs.c.participant == spec.participant, jobs.c.id < spec.job)
    which = jobs.c.action.in_([Action.CREATE.value, Action.CLEANUP.value])
    newest = store.row(sa.select(jobs.c.action).where(same, ended, which).order_by(jobs.c.id.desc()).limit(1))
    return newest is not None and newest["action"] == Action.CLEANUP.value


def newer_create(connection: sa.Connection, backend: str, session: int, student: int, before: int = 0) -> int | None:
    """A CREATE that has given the seat of a session to somebody, or is about to.

    Args:
        connection: of a transaction or a read.
        backend: whose jobs.
        session: the job of the CREATE that the session began with.
        student: whose seat.
        before: only what comes before this job counts; 0 for everything.

    Returns:
        Its job; None when there is none. One that failed or was refused doesn't count.
    """
    query = sa.select(jobs.c.id).where(
        jobs.c.backend == backend,
        jobs.c.action == Action.CREATE.value,
        jobs.c.id > session,
        jobs.c.students == json.dumps([student]),
        jobs.c.state.in_([*UNFINISHED, State.DONE.value]),
    )
    if before:
        query = query.where(jobs.c.id < before)
    found = connection.execute(query.order_by(jobs.c.id).limit(1)).scalar()
    return None if found is None else int(found)


def check_session(store: Store, spec: JobSpec) -> None:
    """A CLEANUP that ends a session must not touch the seat after a newer CREATE.

    Args:
        store: the database.
        spec: the CLEANUP; one that no session sent is right.

    Raises:
        Refused: there was a newer CREATE.
    """
    with store.reading() as connection:
        notes = connection.execute(sa.select(requests.c.notes).where(requests.c.id == spec.request)).scalar()
        session = json.loads(notes or "{}").get(SESSION_NOTE, 0)
        student = spec.students[0]
        newer = newer_create(connection, store.backend, session, student, spec.job) if session else None
    if newer is not None:
        raise Refused(too_late(student), f"job {newer} is a CREATE after job {session}, whose session this ends")


def too_late(student: int) -> str:
    """What is said of a CLEANUP that ends a session and comes after a newer CREATE."""
    return f"The session that this ends is over: student {student} has a newer CREATE. Nothing was changed."
