"""Every mail that wodmail writes, rendered from templates: results, refusals, answers, notices. Pure.

A reply is made from plain data, so the same data gives the same mail again after a crash, Message-ID included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import jinja2

from wodmail.config import Settings
from wodmail.errors import Refused
from wodmail.mail.grammar import is_address, visible
from wodmail.mail.letter import letter, message_id, no_reply_reason, should_reply
from wodmail.mail.report import (
    CredentialsData,
    DocumentReport,
    JobReport,
    PlanStep,
    ReplyData,
    StepReport,
    headline,
    iso,
    result_json,
    tail,
    what_next,
)
from wodmail.model import State

__all__ = [
    "CredentialsData",
    "DocumentReport",
    "JobReport",
    "PlanStep",
    "ReplyData",
    "StepReport",
    "no_reply_reason",
    "render_budget_notice",
    "render_credentials",
    "render_duplicate",
    "render_late",
    "render_ping",
    "render_plan",
    "render_refusal",
    "render_reminder",
    "render_result",
    "render_write",
    "result_json",
    "should_reply",
]

_WRITES = {
    "write-failed": "a write to the API-DB was refused",
    "write-overtaken": "a write to the API-DB was out of date",
    "write-stuck": "a write to the API-DB can't be delivered",
}


def render_result(settings: Settings, data: ReplyData) -> EmailMessage:
    """The mail that ends a request: a transcript for people, result.json for programs.

    Args:
        settings: name the backend and say whether passwords may be shown.
        data: the request.
    """
    ending = headline(data)
    text = render_text(
        "result",
        data=data,
        headline=ending,
        next_steps=what_next(data),
        show_password=settings.WODREPLYCREDENTIALS,
        tail=tail,
        width=max((len(step.name) for job in data.jobs for step in job.steps), default=0),
    )
    mail = _reply(settings, data, "result", f"Re: {data.quoted}: {ending}", text)
    document = result_json(data, credentials=settings.WODREPLYCREDENTIALS)
    mail.add_attachment(
        json.dumps(document, indent=2, ensure_ascii=True).encode("ascii") + b"\n",
        maintype="application",
        subtype="json",
        filename="result.json",
    )
    for each in data.documents:
        if each.data is not None:
            _attach(mail, each, several=len(data.jobs) > 1)
    return mail


def _attach(mail: EmailMessage, document: DocumentReport, *, several: bool) -> None:
    """Attach a document under a name that is safe anywhere, whatever the student has called the notebook."""
    stem, _, ending = document.path.rpartition(".")
    plain = "".join(char if char.isprintable() and char not in '"\\/:*?<>|' else "-" for char in stem)
    name = f"{plain[-80:].lstrip('.')}.{ending}"
    kind = "pdf" if ending == "pdf" else "vnd.openxmlformats-officedocument.wordprocessingml.document"
    mail.add_attachment(
        document.data,
        maintype="application",
        subtype=kind,
        filename=f"student{document.student}-{name}" if several else name,
    )


def render_refusal(settings: Settings, data: ReplyData) -> EmailMessage:
    """The answer to a mail that is not executed; `data.reason` says why and shows a correct example."""
    text = render_text("refusal", data=data)
    return _reply(settings, data, "refused", f"Re: {data.quoted}: {headline(data)}", text)


def render_duplicate(settings: Settings, data: ReplyData, first: int) -> EmailMessage:
    """The answer to a mail that asks again for what request number `first` already does or did."""
    text = render_text("duplicate", data=data, first=first)
    return _reply(settings, data, "duplicate", f"Re: {data.quoted}: already in hand as request {first}", text)


def render_ping(settings: Settings, data: ReplyData, facts: Mapping[str, object]) -> EmailMessage:
    """The answer to PING.

    Args:
        settings: see `render_result`.
        data: the request.
        facts: what to tell, in order, e.g. the version and how many jobs run; never a secret.
    """
    text = render_text("ping", data=data, facts=facts, backend=settings.WODBEFQDN)
    return _reply(settings, data, "ping", f"Re: {data.quoted}: pong", text)


def render_plan(
    settings: Settings, data: ReplyData, jobs: Sequence[tuple[Sequence[int], Sequence[PlanStep]]]
) -> EmailMessage:
    """The answer to PLAN: what would run, for each job its students and steps.

    Args:
        settings: see `render_result`.
        data: the request.
        jobs: students and steps of each job that the action would make.
    """
    titled = [(JobReport(tuple(students), State.WAITING).title, steps) for students, steps in jobs]
    text = render_text("plan", data=data, jobs=titled)
    return _reply(settings, data, "plan", f"Re: {data.quoted}: the plan; nothing was changed", text)


def render_budget_notice(settings: Settings, data: ReplyData, until: datetime) -> EmailMessage:
    """The last answer for a while to an address that was refused too often (WODREPLYBUDGET an hour)."""
    text = render_text("budget", data=data, until=iso(until), budget=settings.WODREPLYBUDGET)
    return _reply(settings, data, "budget", "Further replies to you are held back for a while", text)


def render_late(settings: Settings, data: ReplyData, minutes: int, drained: str = "") -> EmailMessage:
    """The alarm to WODMONITOR about a CREATE that has not ended so many minutes after its mail.

    Args:
        settings: name the backend and whether there is a frontend that gives up.
        data: the request.
        minutes: whole minutes since its mail, at least.
        drained: what is said of the backend's drain; empty when jobs may start.
    """
    width = max((len(step.name) for job in data.jobs for step in job.steps), default=0)
    text = render_text("late", data=data, minutes=minutes, participants=settings.apidb, width=width, drained=drained)
    return _reply(settings, data, "late", f"Re: {data.quoted}: not finished after {minutes} minutes", text)


def render_reminder(settings: Settings, data: ReplyData, seconds: float) -> EmailMessage:
    """The reminder that a session ends soon.

    Args:
        settings: name the backend.
        data: the CREATE that it began with.
        seconds: how much of it is left.
    """
    ends = datetime.now(UTC) + timedelta(seconds=max(seconds, 0.0))
    minutes = max(round(seconds / 60), 1)
    left = f"{minutes} minute{'s' if minutes > 1 else ''}"
    text = render_text("reminder", data=data, left=left, ends=ends.strftime("%Y-%m-%d %H:%M UTC"))
    return _reply(settings, data, "reminder", f"Re: {data.quoted}: the session ends in {left}", text)


def render_credentials(settings: Settings, data: CredentialsData) -> EmailMessage:
    """The mail that tells a participant how to log in.

    Raises:
        Refused: the address is not one plain e-mail address.
    """
    if not is_address(data.email):
        raise Refused(f'"{visible(data.email)}" is no plain e-mail address; no credentials were sent')
    kind = f"credentials-{data.student}"
    return letter(
        settings,
        to=data.email,
        subject=f"Your workshop {visible(data.workshop)} is ready",
        text=render_text("credentials", data=data),
        identity=message_id(settings, data.request, kind, data.received, data.turn),
        at=data.at,
        automatic="auto-generated",
    )


def render_write(settings: Settings, data: ReplyData, kind: str, write: Mapping[str, object]) -> EmailMessage:
    """The mail that tells WODMONITOR what became of a kept write.

    Args:
        settings: see `render_result`.
        data: the request.
        kind: one of `writes.TOLD`.
        write: path, fields, kept and error, as `writes.described` gives them.
    """
    text = render_text(kind, data=data, write=write)
    return _reply(settings, data, kind, f"Re: {data.quoted}: {_WRITES[kind]}", text)


def render_session_refused(settings: Settings, data: ReplyData, session: int) -> EmailMessage:
    """The mail that tells WODMONITOR that the CLEANUP at the end of a session was refused.

    Args:
        settings: see `render_result`.
        data: the CLEANUP's request.
        session: the job of the session's CREATE.
    """
    text = render_text("session-refused", data=data, session=session)
    return _reply(settings, data, f"session-refused-{session}", f"Re: {data.quoted}: a session can't be ended", text)


def _reply(settings: Settings, data: ReplyData, kind: str, subject: str, text: str) -> EmailMessage:
    return letter(
        settings,
        to=data.to,
        subject=subject,
        text=text,
        identity=message_id(settings, data.request, kind, data.received, data.turn),
        at=data.finished or data.received,
        in_reply_to=data.in_reply_to,
        references=data.references,
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("wodmail.mail"),
    autoescape=jinja2.select_autoescape(),  # no escapes in plain text; `letter` makes visible what does not print
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters.update(iso=iso, seconds=_seconds, visible=visible)


def render_text(template: str, **values: object) -> str:
    """The text of a mail: a template of wodmail/mail/templates with its values.

    Args:
        template: its name without `.txt.j2`.
        values: what it uses.
    """
    text = _TEMPLATES.get_template(f"{template}.txt.j2").render(**values)
    return re.sub(r"\n{3,}", "\n\n", text)
