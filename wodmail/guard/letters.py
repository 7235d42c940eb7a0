"""The guard's mails to WODMONITOR: rendered, kept until they are handed over, no more of them than the policy says."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import jinja2
import structlog

from wodmail.config import Settings
from wodmail.errors import Failed, Temporary
from wodmail.guard.evidence import iso
from wodmail.guard.ladder import Case
from wodmail.guard.policy import Ladder, Load
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


def _nothing() -> None:
    """Nothing follows from a mail that was handed over."""


class Letters:
    """Mails that wait to be handed over.

    Args:
        settings: WODMONITOR gets them; without one there are none.
        most: mails an hour of each kind: about findings, about PURGEs, about the load.
    """

    def __init__(self, settings: Settings, most: int) -> None:
        self.most = most
        self._settings = settings
        self._sender = Sender(settings, timeout=_SECONDS) if settings.WODMONITOR else None
        self._waiting: deque[tuple[str, str, EmailMessage, Callable[[], object]]] = deque()
        self._handed: dict[str, deque[float]] = {}  # by template: findings take nothing from what matters more

    @property
    def waiting(self) -> set[str]:
        """The kinds of the mails that wait."""
        return {kind for _, kind, _, _ in self._waiting}

    def finding(
        self, case: Case, data: Mapping[str, Any], ladder: Ladder, file: Path, done: Callable[[], object]
    ) -> None:
        """The mail about a case, its only one.

        Args:
            case: which.
            data: its evidence.
            ladder: says what happens next.
            file: where the evidence is.
            done: called when the mail is handed over, or will never be.
        """
        shown = {"processes": data.get("processes", []), "processes_found": data.get("processes_found", 0)}
        then = {"then": data.get("then", ""), "again": data.get("again", "")}
        values = {"case": case, "found": iso(case.at), **then, "evidence": file}
        subject = f"student{case.student}: {case.words}"
        self._write("finding", case.name, subject, {**values, "data": shown, "ladder": ladder}, done)

    def purge(self, kind: str, told: Mapping[str, Any], folder: Path, done: Callable[[], object]) -> None:
        """The mail that a seat is purged, or should be.

        Args:
            kind: tells it from all other mails of the guard.
            told: `student`; `case`, its name; `words`, what was found; `trouble`, why the PURGE could not be sent.
            folder: where the evidence is.
            done: called when the mail is handed over, or will never be.
        """
        outcome = "could not be asked for" if told["trouble"] else "is purged"
        subject = f"student{told['student']}: PURGE of the seat {outcome}"
        self._write("purge", kind, subject, {**told, "folder": folder}, done)

    def load(
        self,
        over: Mapping[str, str],
        rates: Mapping[int, float],
        window_seconds: float,
        policy: Load,
        done: Callable[[], object],
    ) -> None:
        """The mail that the machine has too much to do.

        Args:
            over: what is too much, in words, by a short name.
            rates: cores that each student uses.
            window_seconds: over which.
            policy: the policy's part.
            done: called when the mail is handed over, or will never be.
        """
        busiest = sorted((pair for pair in rates.items() if pair[1] >= 0.01), key=lambda pair: -pair[1])[:5]
        values = {"over": list(over.values()), "busiest": busiest, "window": window_seconds, "policy": policy}
        kind = f"load-{'-'.join(sorted(over))}"
        self._write("load", kind, f"too much to do: {'; '.join(over.values())}", values, done)

    def _write(
        self,
        template: str,
        kind: str,
        subject: str,
        values: Mapping[str, object],
        done: Callable[[], object],
    ) -> None:
        """Make a mail due; `kind` tells it from all other mails of the guard."""
        if self._sender is None:
            done()
            return
        now = datetime.now(UTC)
        text = _TEMPLATES.get_template(f"{template}.txt.j2").render(backend=host(self._settings), **values)
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
            _, _, _, lost = self._waiting.popleft()
            lost()
            log.warning("guard-mail-withheld", why="too many wait")
        self._waiting.append((template, kind, mail, done))

    def send(self, beat: Callable[[], object] = _nothing) -> int:
        """Hand over what waits; gives how many. Trouble with the mail server leaves the rest for the next time.

        Args:
            beat: called after each mail.
        """
        sent = 0
        while self._waiting and self._sender is not None:
            template, _, mail, done = self._waiting[0]
            if not self._within_budget(template):
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
                    self._handed[template].append(time.monotonic())
                    sent += 1
            self._waiting.popleft()
            done()
            beat()
        return sent

    def _within_budget(self, template: str) -> bool:
        handed = self._handed.setdefault(template, deque())
        while handed and handed[0] < time.monotonic() - HOUR:
            handed.popleft()
        return len(handed) < self.most
