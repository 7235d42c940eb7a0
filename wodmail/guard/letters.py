"""The guard's mails to WODMONITOR: rendered, kept until they are handed over, no more of them than the policy says."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage

import jinja2
import structlog

from wodmail.config import Settings
from wodmail.errors import Failed, Temporary
from wodmail.mail.grammar import visible
from wodmail.mail.letter import host, letter
from wodmail.mail.send import Sender

log = structlog.get_logger("wodmail.guard")

HOUR = 3600.0
_WAITING = 200
_SECONDS = 10.0  # without an answer of the mail server; meanwhile nothing is watched

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("wodmail.guard"),
    autoescape=jinja2.select_autoescape(),  # plain text; `letter` makes visible what does not print
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["visible"] = visible


class Letters:
    """Mails that wait to be handed over.

    Args:
        settings: WODMONITOR gets them; without one there are none.
        most: mails an hour.
    """

    def __init__(self, settings: Settings, most: int) -> None:
        self.most = most
        self._settings = settings
        self._sender = Sender(settings, timeout=_SECONDS) if settings.WODMONITOR else None
        self._waiting: deque[tuple[str, EmailMessage, Callable[[], None]]] = deque()
        self._handed: deque[float] = deque()

    @property
    def waiting(self) -> set[str]:
        """The kinds of the mails that wait."""
        return {kind for kind, _, _ in self._waiting}

    def write(
        self, template: str, kind: str, subject: str, done: Callable[[], None] = lambda: None, **data: object
    ) -> None:
        """Make a mail due.

        Args:
            template: finding, purge or load.
            kind: tells it from all other mails of the guard.
            subject: made visible.
            done: called when it is handed over, or will never be.
            data: what the template shows.
        """
        if self._sender is None:
            done()
            return
        now = datetime.now(UTC)
        text = _TEMPLATES.get_template(f"{template}.txt.j2").render(backend=host(self._settings), **data)
        mail = letter(
            self._settings,
            to=self._settings.WODMONITOR,
            subject=subject,
            text=re.sub(r"\n{3,}", "\n\n", text),
            identity=f"<wodmail.guard.{kind}.{int(now.timestamp()):x}@{host(self._settings)}>",
            at=now,
            automatic="auto-generated",
        )
        if len(self._waiting) >= _WAITING:
            _, _, lost = self._waiting.popleft()
            lost()
            log.warning("guard-mail-withheld", why="too many wait")
        self._waiting.append((kind, mail, done))

    def send(self) -> int:
        """Hand over what waits; gives how many. Trouble with the mail server leaves the rest for the next time."""
        sent = 0
        while self._waiting and self._sender is not None:
            _, mail, done = self._waiting[0]
            if not self._within_budget():
                log.warning("guard-mail-withheld", subject=str(mail["Subject"]), most_an_hour=self.most)
            else:
                try:
                    self._sender.send(mail, self._settings.WODMONITOR)
                except Temporary as error:
                    log.warning("guard-mail-deferred", cause=error.operator)
                    return sent
                except Failed as error:
                    log.error("guard-mail-failed", cause=error.operator)  # noqa: TRY400 - an expected error
                else:
                    self._handed.append(time.monotonic())
                    sent += 1
            self._waiting.popleft()
            done()
        return sent

    def _within_budget(self) -> bool:
        while self._handed and self._handed[0] < time.monotonic() - HOUR:
            self._handed.popleft()
        return len(self._handed) < self.most
