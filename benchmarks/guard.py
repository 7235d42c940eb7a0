"""What a look of wod-kill-processes costs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from pathlib import Path

from benchmarks.figures import Figure, spread, timed, until
from wodmail.config import Settings
from wodmail.guard import policy
from wodmail.guard.judge import Judge
from wodmail.guard.scan import Watcher
from wodmail.guard.sockets import connections
from wodmail.guard.tracks import Look
from wodmail.guard.watch import Students

PROCESSES = 500
UID = 61099
# As many as are wanted, asleep, in one process group.
SLEEPERS = "import os, signal\nfor _ in range({count} - 1):\n    if not os.fork():\n        break\nsignal.pause()"


def guard(_folder: Path, runs: int) -> list[Figure]:
    """A look at 500 processes of students: its time, against `ps` on the same ones, and its share of a core.

    Args:
        _folder: nothing is written.
        runs: how often.
    """
    if os.geteuid() != 0:
        return [Figure("the guard's look at 500 processes", None, "s", detail="needs root")]
    sleepers = subprocess.Popen(
        ["/usr/bin/python3", "-c", SLEEPERS.format(count=PROCESSES)],
        user=UID,
        group=UID,
        extra_groups=[],
        cwd="/",
        start_new_session=True,
    )
    try:
        return _measured(runs)
    finally:
        os.killpg(sleepers.pid, signal.SIGKILL)
        sleepers.wait()


def _ps() -> None:
    argv = ["ps", "-eo", "pid,ppid,ruid,euid,suid,stat,times,comm,args"]
    subprocess.run(argv, check=True, capture_output=True)


def _measured(runs: int) -> list[Figure]:
    rules = policy.load(Settings())
    watcher, judge = Watcher(Students(UID - 1, 1, 1)), Judge(rules)
    until(lambda: len(watcher.scan()) >= PROCESSES, seconds=30, every=0.1, what="the processes")

    def look() -> None:
        found = connections(watcher.students, rules.connections.ports)
        judge.judge(Look(time.monotonic(), watcher.scan(), found))

    look()
    times, costs, others = [], [], []
    for _ in range(runs):
        used = time.process_time()
        times.append(timed(look))
        costs.append(time.process_time() - used)
        others.append(timed(_ps))
    took, ratio = statistics.median(times), statistics.median(times) / statistics.median(others)
    share = 100 * statistics.median(costs) / rules.interval_seconds
    return [
        Figure("the guard's look at 500 processes", took, "s", 0.1, detail=spread(times)),
        Figure("the same, against `ps`", ratio, "x", 1.0, detail=f"ps {spread(others)}"),
        Figure("the guard's share of a core", share, "% of a core", 1.0, detail=f"every {rules.interval_seconds:g} s"),
    ]
