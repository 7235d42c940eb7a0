"""What earlier jobs, or earlier tries of the same job, have already done for a participant: asked of the database."""

from __future__ import annotations

import sqlalchemy as sa

from wodmail.model import Action, JobSpec, State
from wodmail.store import Store, jobs


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
