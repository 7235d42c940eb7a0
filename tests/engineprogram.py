"""A small processor for the engine's tests: real engine, real database, steps that only write down what they do.

Run as `python -m tests.engineprogram URL LOG [options]`. A job's workshop says what its steps do, separated by commas:
`ok`, `fail`, `sleep=SECONDS`, `die` (kill -9 of this very process), `die=N` (only in its first N runs), `gate=FILE`
(until that file is there), `clean=FILE` (a wait: parked until the file is there), `touch=FILE` (makes it).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from wodmail.engine import Engine, PlannedStep, StepOutcome
from wodmail.lanes import UNFINISHED
from wodmail.model import State
from wodmail.store import Store, iso, jobs, lanes

BACKEND = "test-backend"


class NotedWork:
    """Work whose every event is a line `time job students event` in a file, written with one write call."""

    def __init__(self, store: Store, log: Path) -> None:
        self.store = store
        self.log = log

    def note(self, job: int, event: str) -> None:
        """Append an event."""
        row = self.row(job)
        line = f"{time.time():.6f} {job} {row['action']} {row['students']} {event}\n"
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line)

    def row(self, job: int) -> dict[str, Any]:
        """The job's row."""
        found = self.store.row(sa.select(jobs).where(jobs.c.id == job))
        assert found is not None
        return found

    def change(self, job: int, **values: object) -> None:
        """Change the job's row."""
        with self.store.transaction() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job).values(**values))

    def begin(self, job: int) -> list[PlannedStep]:
        """Steps are named by position and text; a later segment leaves out what is done."""
        row = self.row(job)
        self.change(job, state=State.RUNNING.value, parked_until=None)
        names = [f"{at}:{text}" for at, text in enumerate(row["workshop"].split(","))]
        self.note(job, "begin")
        return [
            PlannedStep(name=name, always="always" in name, stops="go-on" not in name)
            for name in names[row["steps_done"] :]
        ]

    def step(self, job: int, name: str) -> StepOutcome:
        """Do what the name says."""
        if self.row(job)["abort"]:
            return StepOutcome(state=State.ABORTED.value, again_in=0.0)
        self.note(job, f"start {name}")
        word, _, value = name.partition(":")[2].partition("=")
        state = self.act(job, name, word, value)
        if state is State.WAITING:
            return StepOutcome(state=state.value, again_in=0.1)
        self.note(job, f"end {name}")
        self.change(job, steps_done=jobs.c.steps_done + 1)
        return StepOutcome(state=state.value, again_in=0.0)

    def act(self, job: int, name: str, word: str, value: str) -> State:
        """One word of a step's name."""
        if word == "sleep":
            time.sleep(float(value))
        elif word == "gate":
            while not Path(value).exists():
                time.sleep(0.01)
        elif word == "touch":
            Path(value).touch()
        elif word == "die" and self.runs(job, name) <= int(value or 1_000_000):
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "clean" and not Path(value).exists():
            return State.WAITING
        return State.FAILED if word == "fail" else State.DONE

    def runs(self, job: int, name: str) -> int:
        """How often the step was begun, in all lives."""
        return sum(line.split(" ")[1] == str(job) and f"start {name}" in line for line in self.log.open())

    def park(self, job: int, again_in: float) -> None:
        """As the real one."""
        row = self.row(job)
        self.note(job, "park")
        self.change(
            job,
            state=State.WAITING.value,
            enqueued=False,
            segment=row["segment"] + 1,
            runs=0,
            parked_until=time.time() + again_in,
        )

    def finish(self, job: int, state: str) -> None:
        """As the real one, without a request."""
        self.note(job, f"finish {state}")
        with self.store.transaction() as connection:
            connection.execute(
                jobs.update().where(jobs.c.id == job).values(state=state, finished=iso(), enqueued=False, alone=False)
            )
            connection.execute(lanes.delete().where(lanes.c.job == job))

    def crashed(self, job: int, error: Exception) -> None:
        """As the real one."""
        self.note(job, f"crashed {error!r}")
        self.finish(job, State.FAILED.value)


def main() -> int:
    """Run until nothing is unfinished, or until SIGTERM."""
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("log", type=Path)
    options.add_argument("--workers", type=int, default=4)
    options.add_argument("--drain", type=float, default=5.0)
    given = options.parse_args()
    store = Store(given.url, BACKEND)
    store.migrate()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    engine = Engine(store, NotedWork(store, given.log), workers=given.workers)
    engine.start()
    print("ready", flush=True)
    unfinished = sa.select(jobs.c.id).where(jobs.c.state.in_(UNFINISHED)).limit(1)
    while not stop.is_set() and store.row(unfinished) is not None:
        engine.kick()
        stop.wait(0.05)
    if stop.is_set():
        engine._draining.set()  # as `drain` does at once; who reads the line knows that no more steps begin
        print("draining", flush=True)
    rested = engine.drain(given.drain if stop.is_set() else 60.0)
    engine.stop()
    print("rested" if rested else "unrested", flush=True)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
