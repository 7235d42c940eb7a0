"""Logs are events: a fixed name, key-value pairs, and no secret in them.

On a terminal they are lines for people, elsewhere JSON, one object a line. What libraries log through the standard
library takes the same way, so that one masker sees everything.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import shlex
import sys
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TextIO

import structlog

from wodmail.config import Settings

MASK = "****"
SHORT = 4
FOREIGN_LEVELS = {
    "dbos": logging.WARNING,
    "mail.log": logging.WARNING,
    "mail.debug": logging.WARNING,
    "ansible-runner": logging.WARNING,
    "ansible-runner.display": logging.CRITICAL + 30,
    "ansible-runner.debug": logging.WARNING,
    "asyncio": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "py.warnings": logging.WARNING,
}
_SECRET_KEY = re.compile(r"(PWD|PASSWD|PASSWORD|TOKEN|SECRET)$", re.IGNORECASE)


class Event(StrEnum):
    """The names that events have; who watches the logs can rely on them."""

    CHILDREN_ENDED = "children-ended"
    CREATE_LATE = "create-late"
    DRAIN_DROPPED = "drain-dropped"
    DRAIN_UNFINISHED = "drain-unfinished"
    GUARD_DRY_RUN = "guard-dry-run"
    GUARD_ENDED = "guard-ended"
    GUARD_EVIDENCE_FAILED = "guard-evidence-failed"
    GUARD_FOUND = "guard-found"
    GUARD_GPU_TROUBLE = "guard-gpu-trouble"
    GUARD_LOAD = "guard-load"
    GUARD_MAIL_DEFERRED = "guard-mail-deferred"
    GUARD_MAIL_FAILED = "guard-mail-failed"
    GUARD_MAIL_WITHHELD = "guard-mail-withheld"
    GUARD_POLICY_LOADED = "guard-policy-loaded"
    GUARD_POLICY_REFUSED = "guard-policy-refused"
    GUARD_PURGED = "guard-purged"
    GUARD_PURGE_FAILED = "guard-purge-failed"
    GUARD_PURGE_REPLY = "guard-purge-reply"
    GUARD_STARTED = "guard-started"
    GUARD_STATE_UNREADABLE = "guard-state-unreadable"
    GUARD_STOPPED = "guard-stopped"
    GUARD_SWEPT = "guard-swept"
    HAND_OVER_FAULT = "hand-over-fault"
    INTAKE_FAULT = "intake-fault"
    JOB_CRASHED = "job-crashed"
    JOB_ENDED = "job-ended"
    JOB_POISON = "job-poison"
    JOB_SHELVED = "job-shelved"
    JOB_STARTED = "job-started"
    MAIL_HELD = "mail-held"
    MAIL_REPAIRED = "mail-repaired"
    MAIL_SET_ASIDE = "mail-set-aside"
    OVERDUE_UNTOLD = "overdue-untold"
    REPLY_DEFERRED = "reply-deferred"
    REPLY_FAILED = "reply-failed"
    REPLY_FAULT = "reply-fault"
    REPLY_SENT = "reply-sent"
    REPLY_WITH_FEWER_DOCUMENTS = "reply-with-fewer-documents"
    REPLY_WITHOUT_DOCUMENTS = "reply-without-documents"
    REQUEST_ACCEPTED = "request-accepted"
    REQUEST_DUPLICATE = "request-duplicate"
    REQUEST_ENDED = "request-ended"
    REQUEST_REFUSED = "request-refused"
    SCHEDULE_ENDED = "schedule-ended"
    SCHEDULE_FAILED = "schedule-failed"
    SCHEDULE_STARTED = "schedule-started"
    SCHEDULE_UNTOLD = "schedule-untold"
    SENDER_REJECTED = "sender-rejected"
    SERVER_DRAINED = "server-drained"
    SERVER_DRAINING = "server-draining"
    SERVER_FAULT = "server-fault"
    SERVER_READY = "server-ready"
    SERVER_RESUMED = "server-resumed"
    SERVER_STARTED = "server-started"
    SERVER_STOPPED = "server-stopped"
    SERVICE_AWAY = "service-away"
    SERVICE_BACK = "service-back"
    SESSION_BEGAN = "session-began"
    SESSION_DROPPED = "session-dropped"
    SESSION_ENDED = "session-ended"
    SESSION_OVERDUE = "session-overdue"
    SESSION_REFUSED = "session-refused"
    SESSION_REMINDED = "session-reminded"
    SESSION_TROUBLE = "session-trouble"
    STEP_CRASHED = "step-crashed"
    STEP_ENDED = "step-ended"
    STEP_FAILED = "step-failed"
    SWEPT = "swept"
    WORKSHOP_UNKNOWN = "workshop-unknown"
    WRITE_DEFERRED = "write-deferred"
    WRITE_DELIVERED = "write-delivered"
    WRITE_FAILED = "write-failed"
    WRITE_KEPT = "write-kept"
    WRITE_OVERTAKEN = "write-overtaken"


def _forms(secret: str) -> frozenset[str]:
    """The secret as it also appears: in URLs, JSON, HTML, shell lines, Python text and inside base64."""
    raw = secret.encode("utf-8", "surrogateescape")
    found = {
        secret,
        urllib.parse.quote(raw, safe=""),
        urllib.parse.quote(raw),
        urllib.parse.quote_plus(raw),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        html.escape(secret),
        shlex.quote(secret),
        *_base64_forms(raw),
    }
    lines = secret.splitlines()
    if len(lines) > 1:  # a key of several lines is logged line by line
        found.update(line for line in lines if len(line.strip()) >= 8)
    return frozenset(form for form in found if len(form) >= SHORT or form == secret)


def _base64_forms(raw: bytes) -> Iterator[str]:
    """What the secret looks like in base64: alone, and within longer data at each of the three alignments."""
    if len(raw) < 6:  # three or four characters of base64 stand in many a text
        return
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode("ascii")
        for shift in range(3):
            text = encode(b"\0" * shift + raw).decode("ascii").rstrip("=")
            start = (shift * 8 + 5) // 6  # the first character that the secret alone decides
            end = (shift + len(raw)) * 8 // 6
            yield text[start:end]


def _spans(text: str, form: str) -> Iterator[tuple[int, int]]:
    """Where a form stands in the text, overlapping places included; a short one only as a word of its own."""
    if len(form) < SHORT:
        for match in re.finditer(rf"(?<!\w){re.escape(form)}(?!\w)", text):
            yield match.span()
        return
    at = text.find(form)
    while at >= 0:
        yield at, at + len(form)
        at = text.find(form, at + 1)


class Masker:
    """Knows the secrets of the moment and puts `****` where they stand in a text.

    A secret registered twice has to be unregistered twice. Safe for several threads; masking never waits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._forms: dict[str, frozenset[str]] = {}
        self._known: tuple[str, ...] = ()

    def register(self, value: str) -> None:
        """Mask this value from now on, whatever form it takes.

        Args:
            value: the secret; nothing happens when it is empty; below 4 characters only whole words are masked.
        """
        if value:
            self._change(value, 1)

    def unregister(self, value: str) -> None:
        """Take back one `register` of this value; nothing happens when there was none."""
        self._change(value, -1)

    def _change(self, value: str, by: int) -> None:
        with self._lock:
            count = self._counts[value] + by
            if count > 0:
                self._counts[value] = count
                self._forms.setdefault(value, _forms(value))
            else:
                self._counts.pop(value, None)
                self._forms.pop(value, None)
            self._known = tuple(frozenset().union(*self._forms.values()))

    @contextmanager
    def registered(self, *values: str) -> Iterator[None]:
        """Mask these values within the block."""
        for value in values:
            self.register(value)
        try:
            yield
        finally:
            for value in values:
                if value:
                    self.unregister(value)

    def register_settings(self, settings: Settings) -> None:
        """Mask what the configuration holds: keys that end in PWD, PASSWORD, TOKEN or SECRET, and passwords in URLs."""
        for key, value in {**settings.model_dump(), **(settings.model_extra or {})}.items():
            if not isinstance(value, str):
                continue
            if _SECRET_KEY.search(key):
                self.register(value)
            elif "://" in value:
                self._register_url(value)

    def _register_url(self, url: str) -> None:
        match = re.match(r"[a-z0-9+.-]+://[^/@:]*:([^/]*)@", url, re.IGNORECASE)
        if match:
            self.register(match[1])
            if urllib.parse.unquote(match[1]) != match[1]:
                self.register(urllib.parse.unquote(match[1]))

    def mask(self, text: str) -> str:
        """The text with every known secret replaced by `****`, one for secrets that touch or overlap."""
        spans = sorted(span for form in self._known if form in text for span in _spans(text, form))
        if not spans:
            return text
        parts = []
        end = -1  # of the masked stretch so far
        for start, stop in spans:
            if start > end:
                parts += [text[max(end, 0) : start], MASK]
            end = max(end, stop)
        return "".join([*parts, text[end:]])

    def mask_value(self, value: Any) -> Any:
        """The same for what is inside lists and mappings; other objects become their masked text.

        Args:
            value: anything that may be logged.
        """
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, Mapping):
            return {self.mask(str(key)): self.mask_value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.mask_value(inner) for inner in value]
        if isinstance(value, bytes):
            return self.mask(value.decode("utf-8", "backslashreplace"))
        return self.mask(str(value))


def _masking(masker: Masker) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    def process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {key: value if key[:1] == "_" else masker.mask_value(value) for key, value in event.items()}

    return process


def setup(masker: Masker, *, stream: TextIO | None = None, json_lines: bool | None = None, level: str = "INFO") -> None:
    """Set up logging for the whole process; a second call replaces the first.

    Args:
        masker: what it knows is masked in every line, tracebacks included.
        stream: where lines go (standard error).
        json_lines: one JSON object a line, or lines for people; by default JSON unless the stream is a terminal.
        level: DEBUG, INFO, WARNING or ERROR; libraries are held at WARNING, DBOS too.
    """
    out = stream if stream is not None else sys.stderr
    as_json = not out.isatty() if json_lines is None else json_lines
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _masking(masker),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(_formatter(shared, as_json, out))
    _route(handler, level)


def _formatter(shared: list[Any], as_json: bool, out: TextIO) -> logging.Formatter:
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    )


def _route(handler: logging.Handler, level: str) -> None:
    """Give all loggers this one handler.

    DBOS's logger gets it directly and passes nothing on, because DBOS adds a handler of its own to a logger without.
    """
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name, lowest in FOREIGN_LEVELS.items():
        logger = logging.getLogger(name)
        logger.setLevel(lowest)
        logger.handlers = [handler] if name == "dbos" else []
        logger.propagate = name != "dbos"
