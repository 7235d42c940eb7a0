"""Memory of a process and all that it started, sampled while something else is measured."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import psutil

MIB = 1024 * 1024


def family(root: psutil.Process) -> list[psutil.Process]:
    """The process and its living descendants, those in other sessions too."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


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
        self._cpu: dict[tuple[int, float], float] = {}
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
