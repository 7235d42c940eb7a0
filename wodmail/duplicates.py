"""At least once in, one effect out: which earlier request a mail repeats (docs/mail.md, "Duplicates")."""

from __future__ import annotations

import json

import sqlalchemy as sa

from wodmail.errors import Refused
from wodmail.lanes import UNFINISHED
from wodmail.mail.trust import Verdict
from wodmail.model import Action, State
from wodmail.requests import ACCEPTED, NewRequest
from wodmail.store import nonces, requests

RECENT = 15 * 60.0
_CHANGING = (Action.CREATE, Action.CLEANUP, Action.RESET, Action.PURGE)
_LOOKING = (Action.PDF, Action.WORD)  # they come between others without making these anything new


def first_of(
    connection: sa.Connection, backend: str, new: NewRequest, verdict: Verdict | None, now: float
) -> int | None:
    """The request that a new mail repeats, None when it is a new one.

    Args:
        connection: the transaction that will write the new request.
        backend: whose queue.
        new: the request to be.
        verdict: what its signature proved.
        now: seconds since 1970.

    Raises:
        Refused: its nonce was used before, with another text.
    """
    return (
        _same_nonce(connection, verdict)
        or _same_message(connection, backend, new)
        or _same_command(connection, backend, new, now)
    )


def remember_nonce(connection: sa.Connection, verdict: Verdict, request: int, now: float) -> None:
    """Keep a nonce so that it is never accepted for another text; the first request that used it stays."""
    known = connection.execute(sa.select(nonces.c.request).where(nonces.c.nonce == verdict.nonce)).scalar()
    if known is None:
        row = {"nonce": verdict.nonce, "signed_text": verdict.signed_text, "request": request, "seen_at": now}
        connection.execute(nonces.insert(), row)


def _same_nonce(connection: sa.Connection, verdict: Verdict | None) -> int | None:
    if verdict is None:
        return None
    row = connection.execute(sa.select(nonces).where(nonces.c.nonce == verdict.nonce)).mappings().first()
    if row is None:
        return None
    if row["signed_text"] != verdict.signed_text:
        raise Refused(
            "The nonce of this mail's signature was used before for another command. Sign each command with a new one.",
            f"replay: nonce {verdict.nonce} belongs to request {row['request']}",
        )
    return int(row["request"])


def _same_message(connection: sa.Connection, backend: str, new: NewRequest) -> int | None:
    if not new.message_id:
        return None
    query = (
        sa.select(requests.c.id)
        .where(requests.c.backend == backend, requests.c.sender == new.sender, requests.c.message_id == new.message_id)
        .order_by(requests.c.id)
        .limit(1)
    )
    found = connection.execute(query).scalar()
    return None if found is None else int(found)


def _same_command(connection: sa.Connection, backend: str, new: NewRequest, now: float) -> int | None:
    """The newest accepted request of one of its students, when it is the same command and still counts."""
    if new.state is not State.WAITING:
        return None
    wanted = set(new.students)
    recent = sa.or_(requests.c.state.in_(UNFINISHED), requests.c.finished_at > now - RECENT)
    query = (
        sa.select(requests)
        .where(requests.c.backend == backend, requests.c.state.in_(ACCEPTED), recent)
        .where(requests.c.automatic.is_(False))
        .where(requests.c.action.in_([*_CHANGING, *({new.action} & set(_LOOKING))]))
        .order_by(requests.c.id.desc())
    )
    for row in connection.execute(query).mappings():
        if wanted.isdisjoint(json.loads(row["students"])):
            continue
        return int(row["id"]) if _repeats(dict(row), new) else None
    return None


def _repeats(row: dict[str, object], new: NewRequest) -> bool:
    same = (
        row["action"] == new.action
        and row["students"] == json.dumps(list(new.students))
        and (row["number"] or 0) == (new.number or 0)
        and row["email"] == new.email
        and row["workshop"] == new.workshop
        and row["sender"] == new.sender
    )
    if not same:
        return False
    if row["state"] in UNFINISHED:
        return True
    return row["state"] == State.DONE.value and new.action == Action.CREATE and new.participant != 0
