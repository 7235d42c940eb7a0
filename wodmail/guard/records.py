"""What the guard writes for `status` and for its own next start, in WODSTATEDIR/guard."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from wodmail import processes
from wodmail.config import Settings
from wodmail.guard import files
from wodmail.guard.files import intact
from wodmail.guard.judge import Finding, Judge
from wodmail.guard.ladder import Cases
from wodmail.guard.lineage import Origin
from wodmail.guard.load import Facts
from wodmail.guard.scan import Watcher

Value = TypeVar("Value")
_SHOWN = 20
_LINE = 500
STATUS, STATE = "status.json", "state.json"


def report(findings: list[Finding], cases: Cases, judge: Judge, facts: Facts | None) -> dict[str, Any]:
    """A look and the open cases as plain data."""
    return {
        "findings": [_finding(finding, judge) for finding in findings],
        "cases": cases.dump()["cases"],
        "purges_waiting": sorted(cases.wanted()),
        "cores_by_student": {str(student): round(cores, 3) for student, cores in judge.rates().items()},
        "load": facts.data() if facts else {},
    }


def write_status(folder: Path, interval_seconds: float, policies: list[Path], data: dict[str, Any]) -> None:
    """Write what `status` shows.

    Raises:
        OSError: the folder can't be written.
    """
    now = time.time()
    when = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    facts = {"at": now, "when": when, "pid": os.getpid(), "interval_seconds": interval_seconds}
    files.write(folder / STATUS, {**facts, "policy": [str(file) for file in policies], **data})


def write_state(folder: Path, cases: Cases, judge: Judge, watcher: Watcher) -> None:
    """Write what a restart needs: cases, stops, who sits where, which processes are on their way to be found or hidden.

    Raises:
        OSError: the folder can't be written.
    """
    over = [[*key, track.over_seconds] for key, track in judge.tracks.items() if track.over_seconds > 0]
    origins = [[*key, origin.value] for key, origin in judge.lineage.origins.items() if origin]
    hidden = [[*key, student] for key, student in watcher.hidden.items()]
    sittings = {str(student): words for student, words in cases.sittings.items()}
    seen = {"over_seconds": over, "hidden": hidden, "origins": origins}
    files.write(folder / STATE, {"boot": processes.boot_id(), **cases.dump(), "sittings": sittings, **seen})


def restore(folder: Path, cases: Cases, judge: Judge, watcher: Watcher) -> None:
    """Go on where the last guard of this boot ended; what it kept of another boot means nothing."""
    data = files.read(folder / STATE) or {}
    # Who sat there last has to do with no boot. What is found before the database answers is of those.
    cases.sittings = dict(intact(data.get("sittings"), lambda pair: (int(pair[0]), str(pair[1]))))
    if data.get("boot") != processes.boot_id():
        return
    cases.restore(data)
    judge.restore(dict(intact(data.get("over_seconds"), lambda entry: _of_process(entry, float))))
    judge.lineage.origins = dict(intact(data.get("origins"), lambda entry: _of_process(entry, Origin)))
    watcher.hidden = dict(intact(data.get("hidden"), lambda entry: _of_process(entry, int)))


def _of_process(entry: Sequence[Any], value: Callable[[Any], Value]) -> tuple[tuple[int, int], Value]:
    """What was kept of a process: its pid, its start and something."""
    return (int(entry[0]), int(entry[1])), value(entry[2])


def status(settings: Settings) -> tuple[dict[str, Any] | None, Path]:
    """What the running guard wrote last, and the file; None when there is none.

    Raises:
        OSError: it can't be read.
    """
    file = settings.WODSTATEDIR / "guard" / STATUS
    return files.read(file), file


def _finding(finding: Finding, judge: Judge) -> dict[str, Any]:
    listed = []
    for seen in finding.processes[:_SHOWN]:
        track = judge.tracks.get(seen.key)
        rate = round(track.rate_cores, 3) if track else 0.0
        line = seen.command_line[:_LINE]
        listed.append({"pid": seen.pid, "exe": seen.exe, "command_line": line, "cpu_rate_cores": rate})
    return {
        "student": finding.student,
        "rule": finding.rule,
        "then": finding.then.word,
        "words": finding.words,
        "processes": listed,
    }
