"""Which job may start: the one with no earlier unfinished job that shares a student.

One rule more each way (docs/flow.md, "Lanes"): a CLEANUP overtakes jobs that wait, or will wait, for the same
participant to be cleaned, and those don't go on while the one that overtook them is at work.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from wodmail.model import State
from wodmail.store import jobs, lanes

UNFINISHED = (State.WAITING.value, State.RUNNING.value)
WAIT_UNTIL_CLEANED = ("RESET", "PURGE")


def _query() -> sa.Select[Any]:
    job, other = jobs.alias("job"), jobs.alias("other")
    lane, shared = lanes.alias("lane"), lanes.alias("shared")
    backend, now = sa.bindparam("backend", type_=sa.Text), sa.bindparam("now", type_=sa.Float)
    overtakes = sa.and_(
        job.c.action == "CLEANUP",
        job.c.participant != 0,
        job.c.participant == other.c.participant,
        other.c.action.in_(WAIT_UNTIL_CLEANED),  # parked or not begun yet
        other.c.enqueued.is_(False),
    )
    earlier = sa.and_(other.c.id < job.c.id, sa.not_(overtakes))
    at_work = sa.and_(other.c.id > job.c.id, other.c.enqueued.is_(True))
    in_the_way = (
        sa.select(sa.literal(1))
        .select_from(lane.join(shared, shared.c.student == lane.c.student).join(other, other.c.id == shared.c.job))
        .where(lane.c.job == job.c.id, other.c.backend == backend, other.c.id != job.c.id)
        .where(other.c.state.in_(UNFINISHED), sa.or_(earlier, at_work))
    )
    return (
        sa.select(job.c.id, job.c.action, job.c.participant)
        .where(job.c.backend == backend, job.c.state == State.WAITING.value, job.c.enqueued.is_(False))
        .where(sa.or_(job.c.parked_until.is_(None), job.c.parked_until <= now))
        .where(~in_the_way.exists())
        .order_by(job.c.id)
    )


_STARTABLE = _query()  # built once: it is asked often, and building it costs more than asking it


def startable(connection: sa.Connection, backend: str, now: float) -> list[int]:
    """The jobs of a backend that may be handed to the workers now, in their order.

    Args:
        connection: a transaction; it must also hold what is then written about these jobs.
        backend: whose jobs.
        now: seconds since 1970, for jobs that are parked until some moment.
    """
    found = connection.execute(_STARTABLE, {"backend": backend, "now": now}).all()
    # Whom a CLEANUP may overtake could start just as well: never both at once.
    cleaning = {row.participant for row in found if row.action == "CLEANUP"} - {0}
    return [row.id for row in found if row.action not in WAIT_UNTIL_CLEANED or row.participant not in cleaning]
