"""PURGE of a seat, asked of the backend by mail like everybody else asks."""

from __future__ import annotations

import structlog

from wodmail import submit
from wodmail.config import Settings
from wodmail.errors import Refused
from wodmail.mail.command import Broken, Limits, parse

log = structlog.get_logger("wodmail.guard")

WORKSHOP = "VOID"  # PURGE ignores it (docs/mail.md)


def subject(student: int) -> str:
    """The subject: the student's number, and no participant or count."""
    return f"PURGE {student} 0"


def send(settings: Settings, student: int) -> str:
    """Send the mail; when this returns the backend has stored it.

    Args:
        settings: whose backend.
        student: the number.

    Returns:
        Its Message-ID.

    Raises:
        Temporary: the backend takes no mail now.
        Refused: the student is none of this backend's, or the backend refuses the mail.
    """
    command = parse(subject(student), limits=Limits.of(settings))
    if isinstance(command, Broken):
        raise Refused(f"student {student} can't be named in a subject")
    mail = submit.build(settings, command, subject(student), WORKSHOP)
    submit.send(settings, mail, lambda line: log.debug("guard-purge-reply", line=line))
    return str(mail["Message-ID"])
