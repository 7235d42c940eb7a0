"""What there is to tell about a request: plain data, and its form for programs (result.json). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from wodmail.mail.grammar import visible
from wodmail.model import State

JSON_VERSION = 1
OUTPUT_LINES = 60
OUTPUT_CHARACTERS = 16_000
_BAD = (State.FAILED, State.ABORTED, State.SHELVED)


@dataclass(frozen=True, slots=True)
class StepReport:
    """How one step went.

    Args:
        name: the step's name, e.g. `create-script`.
        state: waiting, running, done, failed or skipped.
        seconds: how long it took; None when it did not run.
        note: a few words on what it did.
        error: the sender's words when it failed.
    """

    name: str
    state: State
    seconds: float | None = None
    note: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class JobReport:
    """How one job went.

    Args:
        students: the job's students; several for RESET over a range.
        state: the job's state.
        steps: its steps in order.
        warnings: what the sender should know though nothing failed.
        output: the tail of what the failing step's program printed, secrets masked.
        password: the student's new password; shown only when WODREPLYCREDENTIALS allows it.
    """

    students: tuple[int, ...]
    state: State
    steps: tuple[StepReport, ...] = ()
    warnings: tuple[str, ...] = ()
    output: str = ""
    password: str | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        """The job's students in words."""
        if len(self.students) > 1:
            return f"students {self.students[0]} to {self.students[-1]}"
        return f"student {self.students[0]}" if self.students else "no student"

    @property
    def failed_step(self) -> StepReport | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.state is State.FAILED), None)


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """A document that a PDF or WORD has made.

    Args:
        student: whose it is.
        path: within the workshop's folder.
        size: bytes.
        data: what is attached; None when it is left out.
    """

    student: int
    path: str
    size: int
    data: bytes | None = field(default=None, repr=False)

    @property
    def line(self) -> str:
        """The document in words: whose, its path, its size."""
        return f"student{self.student}: {visible(self.path)}, {size_of(self.size)}"


@dataclass(frozen=True, slots=True)
class ReplyData:
    """What a reply tells about its request.

    Args:
        request: the request's number.
        to: who the mail goes to: the envelope sender, or WODMONITOR.
        subject: the subject as written; shown cut and made visible.
        action: the action, empty when it was not understood.
        state: the request's state.
        received: when the mail was stored, with a time zone.
        finished: when the request ended, with a time zone; None when it has not.
        reason: why it was refused or failed, in the sender's words.
        students: every student of the request.
        workshop: the workshop as mailed.
        number: NUMBER as written.
        number_note: how it was read; other notes (a repaired subject) may follow it.
        jobs: its jobs in order.
        warnings: warnings that belong to no single job.
        what_next: what to do about a failure; a sentence for the state when empty.
        turn: 1, one more after each retry.
        in_reply_to: Message-ID of the mail that is answered.
        references: References header of that mail.
        documents: what a PDF or WORD has made.
        left_out: why some of them are not attached.
    """

    request: int
    to: str
    subject: str
    action: str
    state: State
    received: datetime
    finished: datetime | None = None
    reason: str = ""
    students: tuple[int, ...] = ()
    workshop: str = ""
    number: int | None = None
    number_note: str = ""
    jobs: tuple[JobReport, ...] = ()
    warnings: tuple[str, ...] = ()
    what_next: str = ""
    turn: int = 1
    in_reply_to: str = ""
    references: str = ""
    documents: tuple[DocumentReport, ...] = ()
    left_out: str = ""

    @property
    def quoted(self) -> str:
        """The subject, cut and made visible."""
        return visible(self.subject.strip() or "(no subject)")


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A step that would run, and what it would do: commands, files, API calls, a line each."""

    name: str
    does: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CredentialsData:
    """What a participant is told.

    Args:
        request: the request's number.
        email: the participant's address.
        student: the student number.
        login: the account's name, e.g. `student121`.
        password: its password.
        workshop: the workshop as mailed.
        received: when the request came in.
        at: when the credentials became valid; both with a time zone.
        url: where to log in; may be empty.
        turn: see `ReplyData`.
    """

    request: int
    email: str
    student: int
    login: str
    password: str = field(repr=False)
    workshop: str
    received: datetime
    at: datetime
    url: str = ""
    turn: int = 1


def result_json(data: ReplyData, *, credentials: bool) -> dict[str, object]:
    """The result as data, as docs/mail.md describes it.

    Args:
        data: the request.
        credentials: whether passwords may be shown.
    """
    return {
        "version": JSON_VERSION,
        "id": data.request,
        "subject": data.quoted,
        "action": data.action,
        "state": str(data.state),
        "reason": data.reason,
        "students": list(data.students),
        "workshop": data.workshop,
        "number": data.number,
        "number_note": data.number_note,
        "received": iso(data.received),
        "finished": iso(data.finished) if data.finished else None,
        "warnings": list(data.warnings),
        "what_next": what_next(data),
        "jobs": [_job_json(job, credentials) for job in data.jobs],
        "documents": [
            {"student": each.student, "path": each.path, "size": each.size, "attached": each.data is not None}
            for each in data.documents
        ],
    }


def _job_json(job: JobReport, credentials: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "student": job.students[0] if len(job.students) == 1 else None,
        "students": list(job.students),
        "state": str(job.state),
        "warnings": list(job.warnings),
        "steps": [
            {
                "name": step.name,
                "state": str(step.state),
                "seconds": None if step.seconds is None else round(step.seconds, 3),
                "note": step.note,
                "error": step.error,
            }
            for step in job.steps
        ],
        "output": tail(job.output),
    }
    if credentials and job.password is not None:
        document["password"] = job.password
    return document


def headline(data: ReplyData) -> str:
    """How it ended, for the subject."""
    if data.state is State.REFUSED:
        return f"refused: {first_line(data.reason)}" if data.reason.strip() else "refused"
    if data.state is not State.FAILED:
        return str(data.state) if data.state is State.DONE else str(data.state).upper()
    failed = [job for job in data.jobs if job.state in _BAD]
    step = next((job.failed_step for job in failed if job.failed_step), None)
    where = f" at step {step.name}" if step else ""
    share = f" ({len(failed)} of {len(data.jobs)} students)" if len(data.jobs) > 1 else ""
    return f"FAILED{where}{share}"


def what_next(data: ReplyData) -> str:
    """What the sender or an operator should do about a request that did not end done; empty when there is nothing."""
    number = data.request
    if data.what_next:
        return data.what_next
    if data.state is State.FAILED:
        home = " The home is left as it is for inspection." if data.action == "CREATE" else ""
        others = " The students that are done stay done." if len(data.jobs) > 1 else ""
        return (
            f"`wodmail show {number}` shows an operator the cause; when it is mended, `wodmail retry {number}` starts "
            f"what failed again, or send the mail once more.{home}{others}"
        )
    if data.state is State.ABORTED:
        return f"An operator stopped it. `wodmail retry {number}` starts it again."
    if data.state is State.SHELVED:
        return f"The server died several times while it ran alone. `wodmail retry {number}` frees it."
    return ""


def size_of(size: int) -> str:
    """A size in KiB, from 1 MiB on in MiB."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{(size + 1023) // 1024} KiB"


def first_line(text: str) -> str:
    """The first line, cut and made visible."""
    return visible(next(iter(text.splitlines()), ""), 100)


def iso(at: datetime) -> str:
    """The time as ISO 8601 in UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def tail(output: str) -> str:
    """The last lines of an output, few enough for a mail."""
    lines = output[-OUTPUT_CHARACTERS:].splitlines()[-OUTPUT_LINES:]
    return "\n".join(lines)
