"""wod-cleanup-users is cut off, by signals and kill -9: the backend is not left drained, and an operator's drain is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Deployment
from tests.support import wait_until
from wodmail import cleanupusers, drained, processes
from wodmail.store import Store

# The program itself; in the first home it waits for what comes.
PROGRAM = """
import signal, sys
from wodmail.students import sandbox

def erase(self, student):
    print("at work", flush=True)
    while True:
        signal.pause()

sandbox.SandboxAccounts.erase = erase
from wodmail.cli.cleanup_users import main
sys.exit(main())
"""


class Run:
    """A wod-cleanup-users that stands in the first home."""

    def __init__(self, file: Path, *, ignored: int = 0) -> None:
        program = [sys.executable, "-c", PROGRAM, "--config", str(file), "--yes", "1", "2"]
        before = {each: signal.getsignal(each) for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
        try:
            for each in before:  # a shell's & and nohup ignore some
                signal.signal(each, signal.SIG_IGN if each == ignored else signal.SIG_DFL)
            self.process = subprocess.Popen(program, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True)
        finally:
            for each, old in before.items():
                signal.signal(each, old)
        assert self.process.stdout is not None and self.process.stdout.readline() == "at work\n"

    def end(self, number: int) -> int:
        """Send a signal to it and its children, as a terminal does; its exit status."""
        os.killpg(self.process.pid, number)
        return self.process.wait(60)

    def close(self) -> None:
        """End it in any case."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Deployment]:
    """A backend whose server has been there once."""
    made = Deployment(tmp_path, WODUSERMIN=1, WODUSERMAX=5)
    (made.state).mkdir()
    made.store.migrate()
    yield made
    made.close()


@pytest.fixture
def run(site: Deployment) -> Iterator[Run]:
    """At work."""
    made = Run(site.file)
    assert drained.current(site.store).reason == cleanupusers.REASON
    yield made
    made.close()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_good_order(site: Deployment, run: Run, number: int, status: int) -> None:
    assert run.end(number) == status
    assert not drained.current(site.store).on


def test_what_nohup_has_ignored_stays_so(site: Deployment) -> None:
    run = Run(site.file, ignored=signal.SIGHUP)
    try:
        os.killpg(run.process.pid, signal.SIGHUP)
        assert run.end(signal.SIGTERM) == 143
    finally:
        run.close()


def test_a_signal_ends_no_operators_drain(site: Deployment, run: Run) -> None:
    drained.drain(site.store, "a new hub")
    assert run.end(signal.SIGTERM) == 143
    assert drained.current(site.store).reason == "a new hub"


def test_the_next_run_forgets_one_that_was_killed(site: Deployment, run: Run) -> None:
    """Its hold begins anew, so that one run's end is the drain's end."""
    since = drained.current(site.store).since
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert drained.current(site.store).on
    second = Run(site.file)
    try:
        found = drained.current(site.store)
        assert (len(found.holders), found.since != since) == (1, True)
        assert second.end(signal.SIGTERM) == 143
    finally:
        second.close()
    assert not drained.current(site.store).on


def test_a_run_beside_one_that_is_killed_ends_the_drain(site: Deployment, run: Run) -> None:
    """Killed while the other one works, before that releases the backend."""
    second = Run(site.file)
    try:
        assert len(drained.current(site.store).holders) == 2
        assert run.end(signal.SIGKILL) == -signal.SIGKILL
        assert second.end(signal.SIGTERM) == 143
    finally:
        second.close()
    assert not drained.current(site.store).on


def good_run(site: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    """Empty two homes, as another process: a database that is open here can't be opened by our children."""
    call = [sys.executable, "-m", "wodmail", "cleanup-users", "3", "4", "--yes", "--config", str(site.file), *words]
    return subprocess.run(call, capture_output=True, encoding="utf-8", check=True)


def test_a_good_run_says_who_has_it_drained_still(site: Deployment, run: Run) -> None:
    """Another run that works; nobody, when that was killed; an operator."""
    told = good_run(site)
    assert told.stdout == "2 home(s) emptied\n"
    assert told.stderr.startswith("the backend is still drained since ") and cleanupusers.REASON in told.stderr
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert good_run(site).stderr == ""
    drained.drain(site.store, "a new hub")
    assert "(a new hub)" in json.loads(good_run(site, "--json").stdout)["drained"]


def test_a_server_lets_jobs_start_when_it_is_killed(site: Deployment, run: Run) -> None:
    """A server that runs, and one that comes later; one that works is waited for."""
    site.start()
    wait_until(lambda: "server-drained" in site.log(), what="the server to see it")
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: "server-resumed" in site.log(), what="the server to forget it")
    assert "drain-dropped" in site.log()
    assert not drained.current(site.store).on


@pytest.mark.parametrize("killed", [True, False])
def test_a_server_that_starts_forgets_those_alone_that_are_gone(site: Deployment, run: Run, *, killed: bool) -> None:
    if killed:
        run.end(signal.SIGKILL)
    site.start()
    assert drained.current(site.store).on is not killed
    assert ("drain-dropped" in site.log()) is killed


def test_an_operators_drain_survives_its_process_and_the_machine(
    site: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = [sys.executable, "-m", "wodmail", "drain", "--reason", "a new hub", "--config", str(site.file)]
    subprocess.run(call, check=True, capture_output=True)
    monkeypatch.setattr(processes, "boot_id", lambda: "another")
    assert not drained.drop_ended(site.store)
    site.start()
    assert drained.current(site.store).reason == "a new hub"


def holders(store: Store) -> int:
    """How many hold the backend after those who are gone were forgotten."""
    drained.drop_ended(store)
    return len(drained.current(store).holders)


@pytest.mark.parametrize(
    ("place", "value", "left"),
    [
        (1, str(2**22 + 1), 0),  # no such process
        (2, "1", 0),  # the number is another's by now
        (3, "other-host", 1),  # can't be judged from here
        (4, "an-earlier-boot", 0),
        (5, "pid:[1]", 1),  # a container's; its numbers mean nothing here
        (0, "cafe", 1),
    ],
)
def test_who_is_gone(site: Deployment, place: int, value: str, left: int) -> None:
    words = drained.new_holder().split(" ")
    words[place] = value
    assert drained.hold(site.store, "homes", " ".join(words))
    assert holders(site.store) == left
    assert drained.current(site.store).on is bool(left)


def test_who_has_no_process_named_is_not_judged(site: Deployment) -> None:
    """As versions before this one wrote it."""
    assert drained.hold(site.store, "homes", "0123456789abcdef")
    assert holders(site.store) == 1


def test_a_process_that_is_hidden_is_none_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hidepid`: /proc doesn't show those of others."""
    me: Any = processes.lookup(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    monkeypatch.setattr(processes, "lookup", lambda _: None)
    assert not processes.ended(me.pid, me.start)
    assert not processes.ended(1, 1)
    assert processes.ended(child.pid, 1)
