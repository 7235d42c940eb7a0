"""Evidence: what was found, kept as one JSON file a case in WODSTATEDIR/guard/evidence, for WODRETENTION days.

Students choose what is in it, and how often there is something to keep. So a file has a limit, each student has one,
and the folder too: the oldest files go first, in the folder those of whoever has most.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from wodmail.guard import files
from wodmail.guard.judge import Finding
from wodmail.guard.ladder import Case
from wodmail.guard.policy import Evidence
from wodmail.guard.tracks import Track
from wodmail.guard.watch import Seen, alive

DAY = 86400.0
_BLOCK = 1024 * 1024
_ARGUMENTS = 256
_CONNECTIONS = 100
_SECONDS = 10.0  # for the digests of a case
_FILE, _STUDENT, _FOLDER = 256 * 1024, 8 * 1024 * 1024, 512 * 1024 * 1024  # bytes
_BLOCK_OF_DISK = 4096
_ACTIONS, _RESULT = 100, 300  # of a case; characters of each
_SHOWN = 300  # characters of a parent's program
_WHOSE = re.compile(r"-student(\d+)-")


def collect(
    case: Case,
    finding: Finding,
    processes: Mapping[int, Seen],
    tracks: Mapping[tuple[int, int], Track],
    limits: Evidence,
) -> dict[str, Any]:
    """Everything about a case while its processes still run.

    Args:
        case: which.
        finding: with its processes.
        processes: all students' processes by pid, for the parents.
        tracks: how busy each was.
        limits: how much is kept.
    """
    shown = _fitting(finding, processes, tracks, limits)
    return {
        "case": case.name,
        "student": case.student,
        "rule": case.rule,
        "words": finding.words,
        "found": iso(case.at),
        "processes_found": len(finding.processes),
        "processes": shown,
        "actions": [],
    }


def _fitting(
    finding: Finding,
    processes: Mapping[int, Seen],
    tracks: Mapping[tuple[int, int], Track],
    limits: Evidence,
) -> list[dict[str, Any]]:
    """The worst processes of a finding, one at least, as many as a file has room for."""
    end, room = time.monotonic() + _SECONDS, _FILE
    shown: list[dict[str, Any]] = []
    for seen in finding.processes[: limits.processes_at_most]:
        entry = _process(seen, processes, tracks.get(seen.key), limits.hash_limit_bytes, end)
        room -= len(json.dumps(entry, indent=1))
        if room < 0 and shown:
            break
        shown.append(entry)
    return shown


def iso(at: float) -> str:
    """A moment as text."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _process(
    seen: Seen, processes: Mapping[int, Seen], track: Track | None, hash_limit: int, end: float
) -> dict[str, Any]:
    return {
        "pid": seen.pid,
        "start_ticks": seen.start,
        "name": seen.name,
        "command_line": list(seen.argv[:_ARGUMENTS]),
        "age_seconds": round(seen.age_seconds, 1),
        "cpu_seconds": seen.cpu_seconds,
        "cpu_rate_cores": round(track.rate_cores, 3) if track else None,
        "cpu_series_cores": track.series() if track else [],
        "program": _program(seen, hash_limit, end),
        "parents": [f"{each.pid} {(each.exe or each.name)[:_SHOWN]}" for each in _parents(seen, processes)],
        "connections": _connections(seen),
    }


def _parents(seen: Seen, processes: Mapping[int, Seen]) -> list[Seen]:
    found: list[Seen] = []
    parent = processes.get(seen.parent)
    while parent is not None and parent not in found and len(found) < 20:
        found.append(parent)
        parent = processes.get(parent.parent)
    return found


def _program(seen: Seen, limit: int, end: float) -> dict[str, Any]:
    file = seen.file
    if file is None:
        return {"path": seen.exe, "sha256": None, "why": "its program can't be looked at"}
    return {
        "path": seen.exe,
        "owner": file.uid,
        "group": file.gid,
        "mode": f"{stat.S_IMODE(file.mode):04o}",
        **_timely(seen, limit, end),
    }


def _timely(seen: Seen, limit: int, end: float) -> dict[str, Any]:
    """The digest, when it comes in time: a file in a file system of the student's own may never be read."""
    found: list[dict[str, Any]] = []
    work = threading.Thread(target=lambda: found.append(digest(seen, limit)), daemon=True, name="guard-hash")
    if end > time.monotonic():
        work.start()
        work.join(end - time.monotonic())
    return found[0] if found else {"sha256": None, "why": "its program could not be read in time"}


def digest(seen: Seen, limit: int) -> dict[str, Any]:
    """SHA-256 of the program that a process runs, at most so many bytes of it.

    What is opened is the running file itself, also when its name is gone by now; it is hashed only when it is the one
    that was seen.
    """
    if seen.file is None:
        return {"sha256": None, "why": "its program can't be looked at"}
    try:
        descriptor = os.open(f"{alive(seen.pid)}/exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        return {"sha256": None, "why": str(error.strerror)}
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != (seen.file.device, seen.file.inode):
            return {"sha256": None, "why": "it runs another program by now"}
        if not stat.S_ISREG(status.st_mode):
            return {"sha256": None, "why": "it is no plain file"}
        total, hashed = 0, hashlib.sha256()
        try:
            while total < limit and (block := file.read(min(_BLOCK, limit - total))):
                hashed.update(block)
                total += len(block)
        except OSError as error:
            return {"sha256": None, "why": str(error.strerror)}
    return {"sha256": hashed.hexdigest(), "bytes": status.st_size, "bytes_hashed": total}


def _connections(seen: Seen) -> list[str]:
    try:
        process = psutil.Process(int(Path(alive(seen.pid)).name))
        found = process.net_connections(kind="inet") if process.is_running() else []
    except (psutil.Error, OSError):
        return []
    return [f"{_end(each.laddr)} > {_end(each.raddr)} {each.status}" for each in found[:_CONNECTIONS]]


def _end(address: Any) -> str:
    return f"{address.ip} port {address.port}" if address else "-"


class Store:
    """The folder of evidence.

    Args:
        folder: the guard's folder.
        days: how long a file is kept.
    """

    def __init__(self, folder: Path, days: int) -> None:
        self._folder, self._days = folder / "evidence", days

    def file(self, case: Case) -> Path:
        """Where a case's evidence is."""
        return self._folder / f"{case.name}.json"

    def keep(self, case: Case, data: Mapping[str, Any]) -> None:
        """Write a case's evidence.

        Raises:
            OSError: the disk has trouble.
        """
        files.write(self.file(case), {key: value for key, value in data.items() if key != "version"})

    def note(self, case: Case, action: str, result: str) -> None:
        """Add what was done about a case.

        Raises:
            OSError: the disk has trouble.
        """
        data = files.read(self.file(case)) or {"case": case.name, "student": case.student, "rule": case.rule}
        actions: Sequence[Any] = data.get("actions", [])
        entry = {"when": iso(time.time()), "action": action, "result": result[:_RESULT]}
        self.keep(case, {**data, "actions": [*actions, entry][-_ACTIONS:]})

    def sweep(self, now: float) -> int:
        """Remove what is older than it is to be kept, or too much; gives how many files."""
        files_now = self._all()
        old = [file for file in files_now if file.lstat().st_mtime < now - self._days * DAY]
        sizes = {file: _size(file) for file in files_now if file not in set(old)}
        gone = [*old, *surplus(sizes, _STUDENT, _FOLDER)]
        for file in gone:
            file.unlink(missing_ok=True)
        return len(gone)

    def _all(self) -> Sequence[Path]:
        """By name, so the oldest first."""
        return sorted(self._folder.glob("*.json"))


def surplus(sizes: Mapping[Path, int], student_most: int, folder_most: int) -> list[Path]:
    """Which files are too many (pure): a student's oldest; in all the oldest of whoever has most, again and again.

    So nobody pushes out what is kept of others before having no more than they have.

    Args:
        sizes: bytes by file, the oldest first.
        student_most: bytes of one student.
        folder_most: bytes of all.
    """
    kept: dict[str, deque[Path]] = {}
    for file in sizes:
        found = _WHOSE.search(file.name)
        kept.setdefault(found[1] if found else "", deque()).append(file)
    total = {student: sum(map(sizes.__getitem__, each)) for student, each in kept.items()}
    gone: list[Path] = []

    def drop(student: str) -> None:
        gone.append(kept[student].popleft())
        total[student] -= sizes[gone[-1]]

    for student in kept:
        while total[student] > student_most and len(kept[student]) > 1:
            drop(student)
    rest = sum(total.values())
    while rest > folder_most:
        drop(max(total, key=total.__getitem__))
        rest -= sizes[gone[-1]]
    return gone


def _size(file: Path) -> int:
    """What a file takes of the disk, at least one block."""
    return -(-file.lstat().st_size // _BLOCK_OF_DISK) * _BLOCK_OF_DISK
