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
from wodmail.guard import scan
from wodmail.guard.judge import Judge
from wodmail.guard.scan import Watcher
from wodmail.guard.tracks import Look
from wodmail.guard.watch import Students

STUDENTS = Students(BASE, FIRST, FIRST)

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("guard-counting")]

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
    watcher = Watcher(STUDENTS)

    def look() -> set[str]:
        return {each.rule for each in judge.judge(Look(time.monotonic(), watcher.scan()))} & {"cpu-together"}

    assert wait_until(look, seconds=30, every=0.1, what="a finding") == {"cpu-together"}
    assert chain in {seen.pid for seen in watcher.scan()}


THREADS = """
import threading
def burn():
    while True: {}
threads = [threading.Thread(target=burn, daemon=True) for _ in range(3)]
[each.start() for each in threads]
input()
"""
BURN, WAIT = THREADS.format("pass"), THREADS.format("threading.Event().wait()")


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator[int]:
    """A student's Python with some code."""
    process = run_as(BASE + FIRST, "/usr/bin/python3", "-c", request.param, stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("program", "wanted"),
    [(BURN, (True, 4)), (WAIT, (False, 4)), ("while True: pass", (True, 1)), ("input()", (False, 1))],
    indirect=["program"],
)
def test_what_a_process_does_at_this_moment_is_seen(program: int, wanted: tuple[bool, int]) -> None:
    """Whether any thread runs, and how many there are: the guess about a process that is new rests on it."""
    wait_until(lambda: state(Watcher(STUDENTS), program) == wanted, what="what it does")


@pytest.mark.parametrize("program", [WAIT], indirect=True)
def test_a_look_asks_no_more_threads_than_it_has_time_for(program: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: state(Watcher(STUDENTS), program) == (False, 4), what="its threads")
    monkeypatch.setattr(scan, "_THREADS", 3)
    watcher = Watcher(STUDENTS)
    assert state(watcher, program) == (True, 4)  # nobody knows what the fourth does
    wait_until(lambda: state(watcher, program) == (False, 4), what="a look at its first thread alone: it is known")


def state(watcher: Watcher, pid: int) -> tuple[bool, int] | None:
    return next(((seen.running, seen.threads) for seen in watcher.scan() if seen.pid == pid), None)
