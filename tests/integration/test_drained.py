"""A drained backend: nothing is handed over, nothing is lost or overtaken, WODMONITOR isn't alarmed needlessly."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import databases
from wodmail import cleanupusers, drained, retention
from wodmail.alarms import LATE_AFTER, Alarms
from wodmail.engine import Engine, Work
from wodmail.mail.reply import render_late
from wodmail.mail.report import ReplyData
from wodmail.model import State
from wodmail.requests import NewRequest, accept
from wodmail.schema import Settings
from wodmail.store import Store, jobs, mails, open_store, requests

HERE = "here"


class Noting(Engine):
    """The real hand-over; instead of beginning jobs it notes which."""

    def __init__(self, store: Store, workers: int = 3) -> None:
        super().__init__(store, cast(Work, None), workers=workers)
        self._client = cast(Any, object())
        self.begun: list[int] = []

    def _begin(self, handed: Any) -> None:
        self.begun += [row.id for row in handed]


def add(store: Store, student: int, *, action: str = "CREATE", received: float | None = None) -> int:
    """Accept a mail; returns its job."""
    moment = time.time() if received is None else received
    new = NewRequest(
        f"{time.monotonic_ns()}", State.WAITING, moment, action, students=(student,), subject=f"{action} 1 0"
    )
    with store.transaction() as connection:
        request = accept(connection, HERE, new)
        return int(connection.execute(sa.select(jobs.c.id).where(jobs.c.request == request)).scalar_one())


def end(store: Store, job: int) -> None:
    """The job is done."""
    with store.transaction() as connection:
        connection.execute(jobs.update().where(jobs.c.id == job).values(state="done", enqueued=False))


@pytest.fixture(params=databases.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database of each kind."""
    with databases.fresh(request.param, tmp_path) as url:
        made = Store(url.replace("postgresql://", "postgresql+psycopg://"), HERE)
        made.migrate()
        yield made
        made.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["drain", "resume", "look", "end", "restart"]), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_whatever_happens_nothing_starts_while_drained_and_all_in_order_afterwards(
    steps: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/wodmail.sqlite", HERE)
        store.migrate()
        story = Story(store)
        for word, student in [*steps, ("resume", 0)]:
            story.play(word, student)
        story.finish()
        store.close()
        assert sorted(story.begun) == sorted(story.student), "each job once"
        for student in (1, 2, 3):
            assert [job for job in story.begun if story.student[job] == student] == sorted(
                job for job in story.student if story.student[job] == student
            ), "in the order of the mails"


class Story:
    """What happens to a backend, one thing after another."""

    def __init__(self, store: Store) -> None:
        self.store, self.engine = store, Noting(store)
        self.student: dict[int, int] = {}
        self.begun: list[int] = []
        self.running: list[int] = []

    def play(self, word: str, student: int) -> None:
        """One thing."""
        if word == "add":
            self.student[add(self.store, student)] = student
        elif word == "drain":
            drained.drain(self.store)
        elif word == "resume":
            drained.resume(self.store)
        elif word == "restart":
            self.engine = Noting(self.store)
        elif word == "end" and self.running:
            end(self.store, self.running.pop())
        found = self.engine.hand_over()
        assert not (found and drained.current(self.store).on)
        self.begun += found
        self.running += found

    def finish(self) -> None:
        """Until all jobs have ended."""
        while self.running:
            self.play("end", 0)


def test_once_drain_has_returned_nothing_starts(store: Store) -> None:
    """Also against a server that is just handing jobs over."""
    engine = Noting(store, workers=1000)
    drained.prepare(store)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            engine.hand_over()

    server = threading.Thread(target=serve)
    server.start()
    try:
        for turn in range(5):
            for student in range(10 * turn, 10 * turn + 10):
                add(store, student)
            drained.drain(store)
            begun = set(engine.begun) | {row["job"] for row in drained.at_work(store)}
            late = add(store, 500 + turn)
            for _ in range(5):
                assert engine.hand_over() == []
            assert set(engine.begun) == begun
            assert late not in begun
            drained.resume(store)
    finally:
        stop.set()
        server.join()
    engine.hand_over()
    assert len(engine.begun) == len(set(engine.begun)) == 55


def test_the_first_drain_counts_and_its_reason_can_be_given_later(store: Store) -> None:
    assert drained.current(store) == drained.Drain()
    first = drained.drain(store)
    again = drained.drain(store, "a new hub")
    assert (again.since, again.reason) == (first.since, "a new hub")
    assert drained.drain(store).reason == "a new hub"
    assert "(a new hub)" in drained.current(store).words()
    assert drained.resume(store).on
    assert not drained.resume(store).on
    after = drained.current(store)
    assert (after.on, after.words(), after.resumed > 0) == (False, "", True)


def test_a_program_ends_its_own_hold_alone(store: Store) -> None:
    one, two = drained.new_holder(), drained.new_holder()
    assert drained.hold(store, "homes", one) and drained.hold(store, "homes", two)
    assert drained.current(store).reason == "homes"
    assert drained.release(store, one).on, "the other one still works"
    assert drained.current(store).on
    assert not drained.release(store, two).on
    assert not drained.current(store).on
    drained.drain(store, "a new hub")
    assert not drained.hold(store, "homes", one)
    assert drained.release(store, one).reason == "a new hub"
    assert drained.current(store).reason == "a new hub"


def test_an_operator_who_drains_takes_a_programs_hold_over(store: Store) -> None:
    holder = drained.new_holder()
    assert drained.hold(store, "homes", holder)
    assert drained.drain(store).reason == ""
    assert drained.release(store, holder).on
    assert drained.current(store).on
    assert drained.resume(store).on


@pytest.mark.parametrize("theirs", ["", "a new hub"])
def test_emptying_homes_ends_no_operators_drain(tmp_path: Path, theirs: str) -> None:
    conf = Settings(WODSANDBOX=True, WODSTATEDIR=tmp_path, WODBACKEND=HERE, WODUSERMIN=1, WODUSERMAX=2)
    before = []

    def opened(work: Callable[[Store], Any]) -> Any:
        """Ask the database, and close it: wod-cleanup-users has it open in a child alone."""
        store = open_store(conf)
        try:
            return work(store)
        finally:
            store.close()

    def meanwhile(_: object) -> None:
        before.append(opened(drained.current).reason)
        opened(lambda store: drained.drain(store, theirs))

    opened(lambda store: store.migrate())
    cleanupusers.clean(conf, [1], meanwhile)
    assert before == [cleanupusers.REASON]
    assert (opened(drained.current).on, opened(drained.current).reason) == (True, theirs)
    opened(drained.resume)
    cleanupusers.clean(conf, [1])
    assert not opened(drained.current).on


def told(store: Store) -> list[int]:
    """The requests that WODMONITOR is told of."""
    return [row["request"] for row in store.rows(sa.select(mails).where(mails.c.kind == "late").order_by(mails.c.id))]


def test_late_in_a_drain_is_told_once_and_says_so(store: Store) -> None:
    alarms = Alarms(Settings(WODMONITOR="ops@localhost"), store)
    now = time.time()
    old = [add(store, student, received=now - LATE_AFTER - 1) for student in (1, 2, 3)]
    numbers = {row["id"]: row["request"] for row in store.rows(sa.select(jobs))}
    drained.drain(store, "a new hub")
    assert alarms.look() == [numbers[old[0]]]
    assert alarms.look() == []
    assert Alarms(Settings(WODMONITOR="ops@localhost"), store).look() == [], "nor after a restart"
    assert told(store) == [numbers[old[0]]]
    drained.resume(store)
    assert alarms.look() == [], "they get their time"
    assert sorted(alarms.look(now + LATE_AFTER + 60)) == sorted(numbers.values())
    assert sorted(told(store)) == sorted(numbers.values()), "each once"


def test_the_mail_about_a_late_create_says_drained() -> None:
    data = ReplyData(
        request=7, to="ops@localhost", subject="CREATE 1 0", action="CREATE", state=State.WAITING,
        received=datetime(2026, 1, 1, tzinfo=UTC), finished=None,
    )  # fmt: skip
    words = drained.Drain(since=0.0, reason="a new hub").words()
    plain = render_late(Settings(), data, 8).get_content()
    said = render_late(Settings(), data, 8, words).get_content()
    assert "drained" not in plain
    assert "the backend is drained since 1970-01-01" in said
    assert "wodmail resume" in said and "wodmail abort" not in said


def test_retention_beside_a_server(tmp_path: Path) -> None:
    conf = Settings(WODSANDBOX=True, WODSTATEDIR=tmp_path, WODRETENTION=30, WODBACKEND=HERE)
    store = Store(f"sqlite:///{tmp_path / 'wodmail.sqlite'}", HERE)
    assert retention.sweep(conf) == retention.Swept(0, 0, 0)
    store.migrate()
    for age in (1, 29, 31, 90):
        moment = time.time() - age * retention.DAY
        new = NewRequest(f"k{age}", State.DONE, moment, "PING")
        with store.transaction() as connection:
            number = accept(connection, HERE, new)
            connection.execute(requests.update().where(requests.c.id == number).values(finished_at=moment))
    assert retention.due(conf, store).requests == 2
    assert retention.sweep(conf).requests == 2
    assert [row["spool_key"] for row in store.rows(sa.select(requests))] == ["k1", "k29"]
    assert retention.sweep(conf).requests == 0
    store.close()
