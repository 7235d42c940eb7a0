"""Memory of a process and all that it started, sampled while something else is measured."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import psutil

MIB = 1024 * 1024
MARKER = b"WODMAIL_CHILD="


def family(root: psutil.Process) -> list[psutil.Process]:
    """The process, its living descendants, and what it started whose parents have ended (told by the marker)."""
    try:
        found = {root, *root.children(recursive=True)}
    except psutil.NoSuchProcess:
        return []
    for process in psutil.process_iter():
        if process not in found and _started_by(process.pid, root.pid):
            found.add(process)
    return list(found)


def _started_by(pid: int, owner: int) -> bool:
    """Whether a process carries the marker that wodmail's children inherit, with that owner in it."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone meanwhile, or another user's
        return False
    return any(f":{owner}:".encode() in part for part in environment.split(b"\0") if part.startswith(MARKER))


def rss(processes: list[psutil.Process]) -> int:
    """Resident bytes, pages that processes share counted in each."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def pss(processes: list[psutil.Process]) -> int:
    """Resident bytes, a page that n processes share counted as an n-th in each: what they really take together."""
    total = 0
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # gone meanwhile, or its memory is
            continue
        total += next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total


class Peak:
    """Samples a family's memory within a `with` block.

    Args:
        pid: the process at its root.
        every: seconds between samples.
    """

    def __init__(self, pid: int, every: float = 0.2) -> None:
        self._root = psutil.Process(pid)
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.pss = self.rss = self.processes = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            processes = family(self._root)
            self.pss = max(self.pss, pss(processes))
            self.rss = max(self.rss, rss(processes))
            self.processes = max(self.processes, len(processes))
            if self._stop.wait(self._every):
                return
