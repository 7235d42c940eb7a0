"""Following requests to their end: asks the database, shows each step, finds the credentials line in the trace."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wodmail.model import FINISHED, State

POLL_SECONDS = 0.2
_END = re.compile(
    r"end of procmail-action for student (?P<student>\d+) \(passwd .*\) with workshop (?P<workshop>\S+) "
    r"with action (?P<action>[A-Z]+) at \w{3} (?P<date>\w{3} [ \d]\d \d\d:\d\d:\d\d UTC \d{4})"
)
_MARKS = {"done": "green", "failed": "red", "running": "yellow", "skipped": "dim"}
Ask = Callable[[str], dict[str, Any] | None]


class View(Protocol):
    """Shows how far the requests are; told after every look at the database."""

    def update(self, requests: Sequence[dict[str, Any] | None]) -> None:
        """Show the requests as they are now; None is one that has not been taken in yet."""


@dataclass
class Lines:
    """Plain lines for a pipe or a log: one for each step that ends and one for each request.

    Args:
        show: prints a line.
    """

    show: Callable[[str], None]
    told: set[tuple[Any, ...]] = field(default_factory=set)

    def update(self, requests: Sequence[dict[str, Any] | None]) -> None:
        """Print what has ended since the last look."""
        for request in requests:
            if request is None:
                continue
            for key, line in _events(request):
                if key not in self.told:
                    self.told.add(key)
                    self.show(line)


@dataclass
class Board:
    """A live table on a terminal.

    Args:
        live: rich's live display.
    """

    live: Live

    def update(self, requests: Sequence[dict[str, Any] | None]) -> None:
        """Draw the table anew."""
        table = Table("request", "student", "step", "state", "seconds", box=None, pad_edge=False)
        for request in requests:
            if request is None:
                table.add_row("-", "-", "on its way", "", "")
                continue
            for row in _rows(request):
                state = row[3]
                table.add_row(*row[:3], Text(state, style=_MARKS.get(state, "")), row[4])
        self.live.update(table)


def follow(message_ids: Sequence[str], ask: Ask, view: View, *, seconds: float) -> list[dict[str, Any] | None]:
    """Follow requests until all have ended or the time is up.

    Args:
        message_ids: of the mails that asked for them.
        ask: gives the request of a Message-ID, or None when it has not been taken in.
        view: is told after every look.
        seconds: how long at most.

    Returns:
        The requests as they were at the end, in the order of the Message-IDs.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = [ask(message_id) for message_id in message_ids]
        view.update(found)
        if all(ended(request) for request in found) or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_SECONDS)


def ended(request: dict[str, Any] | None) -> bool:
    """Whether a request will not change any more (a shelved one waits for an operator)."""
    return request is not None and State(request["state"]) in FINISHED


def watch(message_ids: Sequence[str], ask: Ask, console: Console, *, seconds: float) -> list[dict[str, Any] | None]:
    """`follow` with a live table on a terminal and plain lines elsewhere."""
    if not console.is_terminal:
        plain = Lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return follow(message_ids, ask, plain, seconds=seconds)
    with Live(console=console, refresh_per_second=8) as live:
        return follow(message_ids, ask, Board(live), seconds=seconds)


def credentials(trace: Path, student: int, workshop: str, action: str, since: float) -> str | None:
    """The line with which a job's trace ended.

    Args:
        trace: the trace file; its newest copy is looked at too, in case it was rotated meanwhile.
        student: the student's number.
        workshop: the workshop as mailed.
        action: the action.
        since: when the mail was sent, seconds since 1970; older lines are of other jobs.

    Returns:
        The newest such line; None when there is none yet.

    Raises:
        OSError: the trace can't be read by this account.
    """
    wanted = (str(student), workshop, action)
    for file in [trace, *sorted(trace.parent.glob(f"{trace.name}.2*"), reverse=True)[:1]]:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
        for line in reversed(lines):
            found = _END.match(line)
            if found and found.group("student", "workshop", "action") == wanted:
                return line if _moment(found["date"]) >= int(since) else None
    return None


def _moment(text: str) -> float:
    """Seconds since 1970 of `Mar  3 09:11:39 UTC 2023`."""
    return datetime.strptime(text, "%b %d %H:%M:%S UTC %Y").replace(tzinfo=UTC).timestamp()


def _events(request: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """What has ended in a request, each with a key that is the same at the next look."""
    number = request["id"]
    for place, job in enumerate(request["jobs"]):
        for position, step in enumerate(job["steps"]):
            if step["state"] in (State.DONE, State.FAILED, State.SKIPPED):
                key = (number, place, position, step["state"])
                yield key, f"[{number} {_who(job)}] {step['name']}: {step['state']} {_seconds(step)}{_said(step)}"
    if ended(request):
        reason = f": {request['reason']}" if request["reason"] else ""
        yield (number, request["state"]), f"request {number} {request['state']}{reason}"


def _rows(request: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """One row a job: the step that runs, else the last that ended."""
    number = str(request["id"])
    if not request["jobs"]:
        yield number, "-", request["reason"] or "", str(request["state"]), ""
    for job in request["jobs"]:
        if State(job["state"]) in FINISHED:
            total = sum(step["seconds"] or 0 for step in job["steps"])
            yield number, _who(job), _failed(job), str(job["state"]), f"{total:.1f}"
            continue
        begun = [step for step in job["steps"] if step["state"] != State.WAITING]
        last = begun[-1] if begun else {"name": "waiting for its turn", "state": job["state"], "seconds": None}
        done = f"({len(begun)}/{len(job['steps'])})" if begun else ""
        yield number, _who(job), f"{last['name']} {done}".rstrip(), str(last["state"]), _seconds(last)


def _failed(job: dict[str, Any]) -> str:
    bad = [f"{step['name']}: {step['error']}" for step in job["steps"] if step["state"] == State.FAILED]
    return f"failed at {'; '.join(bad)}" if bad else f"{len(job['steps'])} steps"


def _who(job: dict[str, Any]) -> str:
    students = job.get("students") or [job["student"]]
    return f"student{students[0]}" if len(students) == 1 else f"student{students[0]}-{students[-1]}"


def _seconds(step: dict[str, Any]) -> str:
    return "" if step["seconds"] is None else f"{step['seconds']:.1f} s"


def _said(step: dict[str, Any]) -> str:
    words = step["error"] or step.get("note") or ""
    return f" - {words}" if words else ""
