"""The engine on both databases: order, lanes, waits, resumption, interruptions. Each test runs real processes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import databases
from tests.engineprogram import BACKEND
from tests.support import wait_until
from wodmail.lanes import UNFINISHED
from wodmail.model import State
from wodmail.requests import NewRequest, accept
from wodmail.store import Store, jobs

ROOT = Path(__file__).resolve().parents[2]


class Bench:
    """A database, an event log and the processes at work on them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url.replace("postgresql://", "postgresql+psycopg://")
        self.log = folder / "events"
        self.log.touch()
        self.store = Store(self.url, BACKEND)
        self.store.migrate()
        self.running: list[subprocess.Popen[str]] = []
        self.count = 0

    def add(self, steps: str, students: tuple[int, ...] = (1,), action: str = "CREATE", participant: int = 0) -> int:
        """Add a job and return its number."""
        self.count += 1
        new = NewRequest(
            spool_key=str(self.count),
            state=State.WAITING,
            received_at=time.time(),
            action=action,
            students=students,
            workshop=steps,
            participant=participant,
            one_job=True,
        )
        with self.store.transaction() as connection:
            request = accept(connection, BACKEND, new)
            return int(connection.execute(sa.select(jobs.c.id).where(jobs.c.request == request)).scalar_one())

    def start(self, workers: int = 4, drain: float = 5.0) -> subprocess.Popen[str]:
        """Start a processor and wait until it is ready."""
        command = [sys.executable, "-m", "tests.engineprogram", self.url, str(self.log)]
        process = subprocess.Popen(
            [*command, "--workers", str(workers), "--drain", str(drain)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.running.append(process)
        return process

    def run(self, workers: int = 4, seconds: float = 60.0) -> int:
        """Run a processor to its end; returns its status."""
        process = self.start(workers)
        return process.wait(timeout=seconds)

    def events(self, job: int | None = None) -> list[str]:
        """The events, of one job or of all."""
        rows = [line.split(" ", 2) for line in self.log.read_text().splitlines()]
        return [row[2] for row in rows if job is None or row[1] == str(job)]

    def short(self, job: int) -> list[str]:
        """The events of a job without action and students."""
        return [event.split("] ", 1)[1] for event in self.events(job)]

    def states(self) -> dict[int, str]:
        """The state of every job."""
        return {row["id"]: row["state"] for row in self.store.rows(sa.select(jobs))}

    def close(self) -> None:
        """End what still runs."""
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.store.close()


@pytest.fixture(params=databases.KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench on each database."""
    with databases.fresh(request.param, tmp_path) as url:
        made = Bench(url, tmp_path)
        yield made
        made.close()


def test_steps_run_in_order_and_a_failure_stops_all_but_always(bench: Bench) -> None:
    good = bench.add("ok,ok")
    bad = bench.add("ok,fail,ok,always", students=(2,))
    assert bench.run() == 0
    assert bench.short(good) == ["begin", "start 0:ok", "end 0:ok", "start 1:ok", "end 1:ok", "finish done"]
    assert "start 2:ok" not in bench.short(bad)
    assert bench.short(bad)[-2:] == ["end 3:always", "finish failed"]
    assert bench.states() == {good: "done", bad: "failed"}


def test_a_step_may_fail_and_the_job_goes_on(bench: Bench) -> None:
    job = bench.add("go-on=1,fail-go-on,ok")
    bench.add("ok")
    assert bench.run() == 0
    assert "end 2:ok" in bench.short(job)


def check_lanes(bench: Bench) -> int:
    """Assert that no two jobs of one student overlapped and that each student's jobs came in order."""
    at_work: dict[int, int] = {}
    order: dict[int, list[int]] = {}
    seen = 0
    for line in bench.log.read_text().splitlines():
        _, job, _, rest = line.split(" ", 3)
        students = json.loads(rest[: rest.index("]") + 1])
        event = rest[rest.index("]") + 2 :]
        for student in students:
            if event == "begin":
                assert student not in at_work, f"{line}: job {at_work[student]} is still at student {student}"
                at_work[student] = int(job)
                order.setdefault(student, []).append(int(job))
            elif event.startswith(("finish", "park")):
                assert at_work.pop(student) == int(job)
        seen += event == "begin"
    for student, jobs_seen in order.items():
        assert jobs_seen == sorted(jobs_seen), f"student {student} out of order: {jobs_seen}"
    return seen


def test_reset_over_forty_among_creates_and_cleanups(bench: Bench) -> None:
    for student in range(1, 41):
        bench.add("ok", (student,))
    bench.add("ok", tuple(range(1, 41)), "RESET")
    for student in range(1, 41):
        bench.add("ok", (student,), "CLEANUP")
    bench.add("ok", tuple(range(10, 21)), "RESET")
    assert bench.run(workers=2, seconds=120) == 0
    assert set(bench.states().values()) == {"done"}
    assert check_lanes(bench) == 82


def test_mixed_actions_keep_each_students_order(bench: Bench) -> None:
    dice = random.Random(7)  # noqa: S311 - a test wants the same dice each time
    for _ in range(120):
        first = dice.randint(1, 10)
        last = dice.randint(first, min(10, first + dice.choice([0, 0, 0, 3])))
        bench.add("ok", tuple(range(first, last + 1)), dice.choice(["CREATE", "CLEANUP", "RESET", "PURGE"]))
    assert bench.run(workers=4, seconds=120) == 0
    assert check_lanes(bench) == 120


def test_a_wait_holds_no_worker_and_a_cleanup_of_the_same_participant_overtakes(bench: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "clean"
    reset = bench.add(f"clean={flag},ok", (1,), "RESET", participant=5)
    other = bench.add("ok", (2,))
    bench.start(workers=1)
    wait_until(lambda: bench.states()[other] == "done", what="the other student's job, while the first one waits")
    same = bench.add(f"gate={tmp_path / 'go'}", (1,), "CLEANUP", participant=5)
    stranger = bench.add("ok", (1,), "CLEANUP", participant=6)
    wait_until(lambda: f"start 0:gate={tmp_path / 'go'}" in bench.short(same), what="the overtaking CLEANUP")
    flag.touch()
    assert "start 1:ok" not in bench.short(reset), "the waiting job went on beside the one that overtook it"
    (tmp_path / "go").touch()
    wait_until(lambda: bench.states()[stranger] == "done", what="all jobs")
    finished = [line.split(" ")[1] for line in bench.log.read_text().splitlines() if " finish " in line]
    assert finished == [str(job) for job in (other, same, reset, stranger)]


def test_a_cleanup_overtakes_all_that_wait_for_it(bench: Bench, tmp_path: Path) -> None:
    """A frontend's RESET and PURGE that were accepted before the CLEANUP of the same participant, parked or not."""
    flag = tmp_path / "clean"
    reset = bench.add(f"clean={flag},ok", (1,), "RESET", participant=5)
    purge = bench.add(f"clean={flag},ok", (1,), "PURGE", participant=5)
    other = bench.add("ok", (2,))
    bench.start(workers=2)
    wait_until(lambda: bench.states()[other] == "done", what="the other student's job")
    cleanup = bench.add(f"touch={flag}", (1,), "CLEANUP", participant=5)
    wait_until(lambda: bench.states()[purge] == "done", what="all jobs")
    finished = [line.split(" ")[1] for line in bench.log.read_text().splitlines() if " finish " in line]
    assert finished == [str(job) for job in (other, cleanup, reset, purge)]


def test_of_those_that_may_start_the_cleanup_comes_first(bench: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "clean"
    reset = bench.add(f"clean={flag},ok", (1,), "RESET", participant=5)
    cleanup = bench.add(f"touch={flag}", (1,), "CLEANUP", participant=5)
    assert bench.run(workers=2) == 0
    finished = [line.split(" ")[1] for line in bench.log.read_text().splitlines() if " finish " in line]
    assert finished == [str(job) for job in (cleanup, reset)]


def test_kill_resumes_at_the_unfinished_step(bench: Bench) -> None:
    job = bench.add("ok,die=1,ok")
    assert bench.run() == -signal.SIGKILL
    assert bench.run() == 0
    assert bench.short(job).count("start 0:ok") == 1, "a finished step ran again"
    assert bench.short(job).count("start 1:die=1") == 2
    assert bench.states()[job] == "done"


def test_poison_runs_alone_after_three_and_is_shelved_after_that(bench: Bench) -> None:
    poison = bench.add("die")
    harmless = [bench.add("ok,sleep=0.05,ok", (student,)) for student in range(2, 12)]
    deaths = 0
    while bench.run() == -signal.SIGKILL:
        deaths += 1
        assert deaths < 10
    states = bench.states()
    assert states[poison] == "shelved"
    assert deaths == 4
    assert all(states[job] == "done" for job in harmless)


def test_progress_between_interruptions_is_no_poison(bench: Bench) -> None:
    job = bench.add(",".join(["die=1"] * 5))
    for _ in range(5):
        assert bench.run() == -signal.SIGKILL
    assert bench.run() == 0
    assert bench.states()[job] == "done"


def test_random_kills_shelve_nothing(bench: Bench) -> None:
    dice = random.Random(11)  # noqa: S311 - a test wants the same dice each time
    for student in range(1, 31):
        bench.add("ok,sleep=0.1,ok,sleep=0.1,ok", (student,))
    for _ in range(6):
        process = bench.start(workers=4)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = len(bench.events())
        more = dice.randint(5, 25)
        wait_until(
            lambda before=before, more=more, process=process: (
                len(bench.events()) >= before + more or process.poll() is not None
            ),
            what="some work before the kill",
        )
        process.kill()
        process.wait()
    assert bench.run() == 0
    assert set(bench.states().values()) == {"done"}
    for job in bench.states():
        starts = [event for event in bench.short(job) if event.startswith("start")]
        ends = [event for event in bench.short(job) if event.startswith("end")]
        assert len(ends) >= 5
        assert len(starts) - len(ends) <= 6


def test_sigterm_lets_steps_finish_and_is_no_interruption(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = bench.add(f"gate={gate},ok,ok")
    process = bench.start(drain=60)
    wait_until(lambda: f"start 0:gate={gate}" in bench.short(job), what="the first step")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "draining\n"]
    assert process.poll() is None
    gate.touch()
    assert process.wait(timeout=60) == 0
    assert f"end 0:gate={gate}" in bench.short(job)
    assert "start 1:ok" not in bench.short(job)
    row = bench.store.row(sa.select(jobs).where(jobs.c.id == job))
    assert row is not None
    assert row["drained"]
    assert row["state"] in UNFINISHED
    assert bench.run() == 0
    assert bench.short(job).count(f"start 0:gate={gate}") == 1
    row = bench.store.row(sa.select(jobs).where(jobs.c.id == job))
    assert row is not None
    assert (row["state"], row["interruptions"]) == ("done", 0)


def test_a_drain_that_is_too_short_leaves_the_step_to_the_next_life(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = bench.add(f"gate={gate},ok")
    process = bench.start(drain=0.2)
    wait_until(lambda: any("start" in event for event in bench.short(job)), what="the first step")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert bench.states()[job] == "running"
    gate.touch()
    assert bench.run() == 0
    assert bench.states()[job] == "done"


def test_an_aborted_job_skips_what_is_left_but_the_always_steps(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = bench.add(f"gate={gate},ok,always")
    process = bench.start()
    wait_until(lambda: any("start" in event for event in bench.short(job)), what="the first step")
    with bench.store.transaction() as connection:
        connection.execute(jobs.update().where(jobs.c.id == job).values(abort=True))
    gate.touch()
    assert process.wait(timeout=60) == 0
    assert bench.states()[job] == "aborted"
    assert "start 1:ok" not in bench.short(job)


def test_workers_bound_what_runs_at_once(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    for student in range(1, 13):
        bench.add(f"gate={gate},sleep=0.1", (student,))
    process = bench.start(workers=3)
    # The first ones stay until all workers have one, however long those take to come.
    wait_until(lambda: sum("] start" in event for event in bench.events()) >= 3, what="three at work")
    gate.touch()
    assert process.wait(timeout=120) == 0
    running = most = 0
    for event in bench.events():
        running += "] start" in event
        running -= "] end" in event
        most = max(most, running)
    assert most == 3
