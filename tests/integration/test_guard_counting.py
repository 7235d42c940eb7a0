"""The guard counts real processes that no look sees twice and nobody waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.guards import QUICK, policy, run_as
from tests.linux_students import BASE, FIRST
from tests.support import wait_until
from wodmail.config import Settings
from wodmail.guard import policy as rules
from wodmail.guard.judge import Judge
from wodmail.guard.scan import Watcher
from wodmail.guard.tracks import Look
from wodmail.guard.watch import Students

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux-users")]

# Its children are never waited for: their time is lost when they end.
CHAIN = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass
"""


@pytest.fixture
def chain() -> Iterator[int]:
    """A student's program that works in nothing but children."""
    process = run_as(BASE + FIRST, "/usr/bin/python3", "-c", CHAIN)
    yield process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_workers_that_nobody_waits_for_are_found(chain: int) -> None:
    # What their parent knows of is far from this limit; what lives counts by the other one.
    judge = Judge(policy(Settings(), rules.over(QUICK, {"cpu": {"together_limit_cores": 50}})))
    watcher = Watcher(Students(BASE, FIRST, FIRST))

    def look() -> set[str]:
        return {each.rule for each in judge.judge(Look(time.monotonic(), watcher.scan()))} & {"cpu-together"}

    assert wait_until(look, seconds=30, every=0.1, what="a finding") == {"cpu-together"}
    assert chain in {seen.pid for seen in watcher.scan()}


THREADS = "import threading\ndef burn():\n    while True: pass\nthreading.Thread(target=burn).start()"


def test_what_a_process_does_at_this_moment_is_seen() -> None:
    """Whether its first thread runs, and how many there are: the guess about a process that is new rests on that."""
    watcher = Watcher(Students(BASE, FIRST, FIRST))
    for program, wanted in ((THREADS, (False, 2)), ("while True: pass", (True, 1)), ("input()", (False, 1))):
        process = run_as(BASE + FIRST, "/usr/bin/python3", "-c", program, stdin=subprocess.PIPE)
        try:
            wait_until(lambda pid=process.pid, wanted=wanted: state(watcher, pid) == wanted, what=program)
        finally:
            process.kill()
            process.communicate()


def state(watcher: Watcher, pid: int) -> tuple[bool, int] | None:
    return next(((seen.running, seen.threads) for seen in watcher.scan() if seen.pid == pid), None)
