"""The root helper's own process, with workers that hang: they are ended at their deadline, and it goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support import wait_until
from wodmail.errors import Temporary
from wodmail.students.helperclient import HelperClient
from wodmail.students.roothelper import MAX_WORKERS

# The real server around requests that need no root: one takes a lock and stops, with a child that it has started.
HELPER = """
import fcntl, os, signal, sys
from wodmail.students import roothelper
from wodmail.students.rootlimits import Limits
from wodmail.students.rootwork import Answer

def perform(limits, request):
    op = request.fields["op"]
    if op != "echo":
        lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
    if op == "stop":
        child = os.fork()
        if child == 0:
            signal.pause()
        with open(sys.argv[1] + ".pids", "w") as file:
            file.write(f"{os.getpid()} {child}")
        os.kill(os.getpid(), signal.SIGSTOP)
    return Answer({"said": op})

class Server(roothelper.Server):
    def _start(self, request):
        super()._start(request)
        if request.fields["op"] != "stop":  # these don't hang, but a busy machine may be slow
            list(self._workers.values())[-1].until += 600

roothelper.perform = perform
roothelper.WORKER_SECONDS, roothelper.LAST_SECONDS = float(sys.argv[2]), 0.5
Server(Limits(1, 2, 1000, 1000, "/student", "nobody"), 0, 1).serve()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock as students have them."""
    return tmp_path / "lock"


@pytest.fixture
def client(lock: Path) -> Iterator[HelperClient]:
    """A helper whose workers have half a second to stop."""
    found = HelperClient([sys.executable, "-c", HELPER, str(lock), "0.5"], timeout=60)
    yield found
    found.close()


def test_a_stopped_worker_is_ended_at_its_deadline(client: HelperClient, lock: Path) -> None:
    for _ in range(10):  # once, unless the machine is so slow that the half second was over before it stopped
        with pytest.raises(Temporary, match="interrupted") as error:
            client.call("stop")
        assert "ended after 0.5 s" in error.value.operator
        if pids(lock):
            break
    assert client.call("hold").fields["said"] == "hold"  # so the lock was given back
    worker, child = pids(lock)
    wait_until(lambda: gone(worker) and gone(child), what="the end of both")


def pids(lock: Path) -> list[int]:
    """The worker that stopped and its child, when it has come so far."""
    file = lock.with_suffix(".pids")
    return [int(word) for word in file.read_text().split()] if file.exists() else []


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_many_that_hang_hold_nobody_up_for_long(client: HelperClient) -> None:
    with ThreadPoolExecutor(MAX_WORKERS + 1) as pool:
        hanging = [pool.submit(client.call, "stop") for _ in range(MAX_WORKERS)]
        answer = pool.submit(client.call, "echo").result(120)
        assert [type(each.exception(120)) for each in hanging] == [Temporary] * MAX_WORKERS
    assert answer.fields["said"] == "echo"


def test_what_hangs_when_the_input_ends_is_ended_with_it(lock: Path) -> None:
    patient = HelperClient([sys.executable, "-c", HELPER, str(lock), "600"], timeout=0.5)
    with pytest.raises(Temporary, match="in time"):
        patient.call("stop")
    worker, _ = wait_until(lambda: pids(lock), what="the worker's stop")
    patient.close()
    wait_until(lambda: gone(worker), what="the worker's end")
