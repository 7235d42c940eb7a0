"""What the tables say against a write: a later mail may show that the frontend has gone on without it.

Late, active=true would undo that the frontend gave a participant up, or ended it; assigned=false would free a seat that
it gave out again because the first try had arrived after all. docs/decisions/kept-writes.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from wodmail.model import Action, State, Write
from wodmail.store import Store, jobs, steps, writes

ACTIVE = {"active": True}
FREE = {"assigned": False}
ENDS = (Action.CLEANUP.value, Action.RESET.value, Action.PURGE.value)
REFUSED = "failed"  # how `writes` records a write that the API-DB refused


@dataclass(frozen=True, slots=True)
class Later:
    """The job of a later mail that overtakes a write if the mail is right.

    Args:
        request: its request's number.
        action: as mailed.
        participant: whom it names.
        student: whom it names.
        workshop: as mailed; None where it is ignored (PURGE).
        checked: whether its validation has found that these belong together.
    """

    request: int
    action: str
    participant: int
    student: int
    workshop: str | None
    checked: bool

    def __str__(self) -> str:
        return f"the {self.action} of request {self.request}"


def later(store: Store, write: Write, job: int) -> list[Later]:
    """The mails that overtake a write, if they are right: active=true every end of that participant, assigned=false
    every CREATE with a participant for that student. Without those whose validation was refused.

    Args:
        store: the database.
        write: of any kind; only those two can be overtaken.
        job: whose write it is; 0 when nobody knows, and then nothing is later.
    """
    student = write.lane.removeprefix("student ")
    if not job or not student.isdecimal():
        return []
    if write.body == ACTIVE:
        about = sa.and_(jobs.c.participant == int(write.path.rpartition("/")[2]), jobs.c.action.in_(ENDS))
    elif write.body == FREE:
        its = jobs.c.students == json.dumps([int(student)])
        about = sa.and_(jobs.c.action == Action.CREATE.value, jobs.c.participant != 0, its)
    else:
        return []
    validation = sa.and_(steps.c.job == jobs.c.id, steps.c.name == "validate")
    columns = (jobs.c.request, jobs.c.action, jobs.c.participant, jobs.c.students, jobs.c.workshop)
    query = (
        sa.select(*columns, steps.c.state, steps.c.result)
        .select_from(jobs.outerjoin(steps, validation))
        .where(jobs.c.backend == store.backend, jobs.c.id > job, about)
        .order_by(jobs.c.id)
    )
    return [
        Later(
            request=row["request"],
            action=row["action"],
            participant=row["participant"],
            student=json.loads(row["students"])[0],
            workshop=None if row["action"] == Action.PURGE.value else row["workshop"],
            checked=row["state"] == State.DONE.value,
        )
        for row in store.rows(query)
        if not _was_refused(row["state"], row["result"])
    ]


def _was_refused(state: str | None, result: str | None) -> bool:
    """Whether a validation said no; one that failed because it could not find out said nothing."""
    return state == State.FAILED.value and bool(json.loads(result or "{}").get("data", {}).get("refused"))


def password_refused(store: Store, lane: str, job: int) -> bool:
    """Whether the password that a job told last, and that was kept, was refused in the end.

    Args:
        store: the database.
        lane: of the student.
        job: its number, 0 when nobody knows.
    """
    told = sa.select(steps.c.started_at).where(steps.c.job == job, steps.c.name == "registry-password")
    query = sa.select(writes.c.id).where(
        writes.c.backend == store.backend,
        writes.c.lane == lane,
        writes.c.job == job,
        writes.c.password != "",
        writes.c.state == REFUSED,
        writes.c.settled_at >= sa.func.coalesce(told.scalar_subquery(), 0.0),
    )
    return bool(job) and store.row(query.limit(1)) is not None
