"""What a server costs that has nothing to do."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from benchmarks.figures import Figure
from benchmarks.memory import MIB, family, pss, rss
from benchmarks.site import Site

SETTLE = 3.0


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def idle(folder: Path, seconds: float) -> list[Figure]:
    """Memory and CPU of `wodmail serve` that nobody talks to.

    Args:
        folder: for the site; made.
        seconds: how long it is watched.
    """
    with Site(folder) as site:
        time.sleep(SETTLE)
        root = psutil.Process(site.pid)
        before, start = _cpu(family(root)), time.monotonic()
        time.sleep(seconds)
        processes = family(root)
        percent = 100 * (_cpu(processes) - before) / (time.monotonic() - start)
        resident, shared = rss(processes) / MIB, pss(processes) / MIB
    told = f"{len(processes)} process(es); PSS {shared:.0f} MiB"
    return [
        Figure("idle serve, resident memory", resident, "MiB", 150.0, detail=told),
        Figure("idle serve, CPU", percent, "% of a core", 3.0, detail=f"over {seconds:.0f} s"),
    ]
