"""The words of the trade as types: command, job, step result. Pure data, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What a mail can ask for (spec: the mail protocol, "Subject")."""

    CREATE = "CREATE"
    CLEANUP = "CLEANUP"
    RESET = "RESET"
    PURGE = "PURGE"
    PDF = "PDF"
    WORD = "WORD"
    PING = "PING"


class State(StrEnum):
    """States of requests, jobs and steps; requests alone know refused and duplicate, steps alone skipped."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    DUPLICATE = "duplicate"
    ABORTED = "aborted"
    SHELVED = "shelved"
    SKIPPED = "skipped"


class SessionState(StrEnum):
    """States of a session: it goes on; its CLEANUP is about to be sent; it was sent, and its end is awaited; it has
    ended; it was ended by somebody else, or never looked after."""

    ON = "on"
    ENDING = "ending"
    SENT = "sent"
    ENDED = "ended"
    OVER = "over"


OPEN_SESSIONS = (SessionState.ON.value, SessionState.ENDING.value, SessionState.SENT.value)
"""Those that the backend still looks after."""

FINISHED = frozenset({State.DONE, State.FAILED, State.REFUSED, State.DUPLICATE, State.ABORTED, State.SHELVED})


@dataclass(frozen=True, slots=True)
class Command:
    """A subject as written, parsed but not yet interpreted.

    Args:
        action: the action, for PLAN the action that follows it.
        plan: whether the subject began with PLAN (a dry run).
        first: STUDENT, None for PING.
        last: STUDENT_MAX when a range was written, else None.
        number: NUMBER as written, None when absent; what it means is `interpret`'s to say.
        email: the participant's address when given.
        text: what follows PING.
    """

    action: Action
    plan: bool = False
    first: int | None = None
    last: int | None = None
    number: int | None = None
    email: str | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What one job is to do: an action on the student(s) of one lane set.

    Args:
        request: number of the request (mail) it belongs to.
        job: number of the job; the order of all jobs.
        action: CREATE, CLEANUP, RESET, PURGE, PDF or WORD (PLAN, PING and refused actions make no jobs).
        students: student numbers, one except for RESET over a range.
        workshop: the workshop as mailed (`w`): WKSHP-Name or CHLG-Name; for PURGE any word.
        participant: the API-DB's customer id, 0 when none.
        email: where the credentials go (embedded registry only), or None.
        attempt: 1 on the first run, one more after each interruption or retry (scripts see WODATTEMPT).
    """

    request: int
    job: int
    action: Action
    students: tuple[int, ...]
    workshop: str
    participant: int = 0
    email: str | None = None
    attempt: int = 1

    @property
    def ws(self) -> str:
        """The workshop's folder name: `w` with CHLG made WKSHP."""
        return "WKSHP" + self.workshop[4:] if self.workshop.startswith("CHLG-") else self.workshop

    @property
    def modews(self) -> str:
        """MODEWS as templates and scripts know it: CHLG for a challenge, else WKSHP."""
        return "CHLG" if self.workshop.startswith("CHLG-") else "WKSHP"


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended; stored durably as JSON, so it never holds a secret.

    Args:
        state: done, skipped or failed; waiting when the step wants to be asked again (see `again_in`).
        note: one line for the transcript, e.g. "16 files, 3 expanded".
        warnings: lines for the sender that don't fail the job.
        error: the sender's words when failed.
        cause: the operator's words when failed.
        output: tail of the failing program's output, masked.
        again_in: seconds until a waiting step wants to be asked again.
        data: small JSON values that later steps need (references, counts; never a secret).
    """

    state: State
    note: str = ""
    warnings: tuple[str, ...] = ()
    error: str = ""
    cause: str = ""
    output: str = ""
    again_in: float = 0.0
    data: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Write:
    """One PUT to the API-DB, which may be repeated.

    Args:
        lane: what it must keep its order in, e.g. "student 3".
        path: e.g. /student/1121.
        body: the fields; never a password.
        password: reference to the password that goes with them (`secretstore.reference`), empty for none.
    """

    lane: str
    path: str
    body: dict[str, Any]
    password: str = ""
