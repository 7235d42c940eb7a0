"""Tells WODMONITOR of a schedule that could not begin: with a wrong configuration, say, there is no record of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from wodmail import config
from wodmail.mail import notice
from wodmail.mail.letter import deliverable, host

NOTICE = "schedule-not-begun"


def tell(file: Path | None, name: str, words: str) -> str:
    """Mail WODMONITOR, as far as the configuration can be read.

    Args:
        file: the configuration's file; None for the usual one.
        name: the schedule.
        words: why it could not begin; without secrets.

    Returns:
        What became of the mail, for people; "" when it was sent.
    """
    settings = config.lenient(file)
    if not deliverable(settings.WODMONITOR):
        return "nobody was told by mail: WODMONITOR is not set, or can't be read"
    subject = f"{host(settings)}: schedule {name} could not begin"
    values = {"schedule": name, "words": words}
    return notice.tell(settings, NOTICE, subject, values, datetime.now(UTC))
