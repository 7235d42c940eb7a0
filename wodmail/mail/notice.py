"""A mail to WODMONITOR about something other than a request: made from a template and sent at once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime

from wodmail.config import Settings
from wodmail.errors import ConfigError, Failed, Temporary
from wodmail.mail.letter import host, letter
from wodmail.mail.reply import render_text
from wodmail.mail.send import Sender


def tell(settings: Settings, template: str, subject: str, values: Mapping[str, object], at: datetime) -> str:
    """Mail WODMONITOR; a mail that can't be sent is told and is no error.

    Args:
        settings: WODMONITOR, and where mail goes out.
        template: a name in wodmail/mail/templates, without its ending.
        subject: the mail's subject.
        values: what the template uses besides `host` and `at`; without secrets.
        at: the moment that it is about, with a time zone.

    Returns:
        What became of it, for people; "" when it was sent.
    """
    if not settings.WODMONITOR:
        return "nobody was told by mail: WODMONITOR is not set"
    text = render_text(template, host=host(settings), at=at.isoformat(timespec="seconds"), **values)
    mail = letter(
        settings,
        to=settings.WODMONITOR,
        subject=subject,
        text=text,
        identity=f"<wodmail.{template}.{uuid.uuid4().hex}@{host(settings)}>",
        at=at,
        automatic="auto-generated",
    )
    try:
        Sender(settings).send(mail, settings.WODMONITOR)
    except (Temporary, Failed, ConfigError) as error:
        return f"the mail to {settings.WODMONITOR} could not be sent: {error.sender} ({error.operator})"
    return ""
