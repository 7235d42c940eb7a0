"""How CPU time counts of programs that end, are nobody's children, or pause; and who is no offender."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guards import BUILDERS, builder, configured, policy, seen
from wodmail.config import Settings
from wodmail.guard.judge import Judge
from wodmail.guard.sittings import Sittings
from wodmail.guard.tracks import Look, Track
from wodmail.guard.watch import Seen
from wodmail.guard.work import Guard

POLICY = policy(Settings(), BUILDERS)
HOUR = 3600.0


def found(processes: Callable[[float], list[Seen]], hours: float) -> dict[str, float]:
    """When each rule found something first.

    Args:
        processes: what runs at a moment.
        hours: how long to look, every 15 seconds.
    """
    judge, first = Judge(POLICY), {}
    for turn in range(int(hours * HOUR / 15)):
        for each in judge.judge(Look(turn * 15.0, processes(turn * 15.0))):
            first.setdefault(each.rule, turn * 15.0)
    return first


def shell(now: float, children_seconds: float = 0.0) -> Seen:
    return seen(50, name="bash", exe="/usr/bin/bash", children_seconds=children_seconds, age_seconds=1000 + now)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("lasts", [280.0, 100.0, 20.0, 14.0])
def test_one_core_is_found_however_often_its_program_is_started_again(lasts: float, waits: bool) -> None:
    def restarted(now: float) -> list[Seen]:
        number, age = int(now // lasts), now % lasts
        busy = seen(1000 + number, parent=50, cpu_seconds=0.97 * age, age_seconds=age, running=True)
        return [shell(now, 0.97 * lasts * number if waits else 0.0), busy]

    first = found(restarted, 1)
    assert (list(first), first["cpu-together"] <= 500) == (["cpu-together"], True)


def worker(number: int, cpu: float, age: float, **more: object) -> Seen:
    """A process that no look sees twice."""
    return seen(10_000 + number, parent=50, cpu_seconds=cpu, age_seconds=age, **more)


@pytest.mark.parametrize(
    ("cpu", "age", "threads"),
    [(0.03, 0.03, 1), (0.0, 0.0, 1), (0.0, 0.02, 1), (0.8, 1.0, 1), (2.4, 0.8, 4)],
)
def test_short_workers_that_nobody_waits_for_are_found(cpu: float, age: float, threads: int) -> None:
    # SIGCHLD ignored, or a parent that is gone: no process ever gets their time.
    def chain(now: float) -> list[Seen]:
        one = worker(int(now), cpu, age, running=True, threads=threads)
        return [shell(now), one]

    assert found(chain, 1)["cpu-together"] <= 400


def test_allowed_ones_that_nobody_waits_for_are_found_in_the_end() -> None:
    def chain(now: float) -> list[Seen]:
        return [worker(int(now) * 10 + each, 0.5, 0.5, running=True, **builder()) for each in range(2)]

    first = found(chain, 1)
    assert (list(first), 1800 < first["cpu-long"] <= 1900) == (["cpu-long"], True)


def short_commands(now: float) -> list[Seen]:
    """A shell whose commands wait for most of their lives, as kubectl's do: 0.2 cores."""
    return [shell(now, 0.2 * now), worker(int(now), 1.0, 2.0)]


def now_and_then(now: float) -> list[Seen]:
    """Four times a minute a command of 3 s, which one look of five sees."""
    number = int(now // 15)
    commands = [worker(number, 1.5, 1.5, running=True)] if number % 5 == 0 else []
    return [shell(now, 3.0 * number), *commands]


def build_script(now: float) -> list[Seen]:
    """A script of the student's own that calls one short compiler after another: 0.95 cores, all the compilers'."""
    return [shell(now, 0.95 * now), worker(int(now), 1.0, 1.0, running=True, **builder())]


def lasting(now: float) -> list[Seen]:
    """Twenty services that have worked for a second each when they were started, and wait since."""
    age = now % 600
    return [
        seen(int(now // 600) * 100 + each, cpu_seconds=min(1.0, age + 0.5), age_seconds=age + 0.5, threads=9)
        for each in range(20)
    ]


def bursts(now: float) -> list[Seen]:
    """Four cores for a minute in every ten."""
    return [seen(7, cpu_seconds=4 * (now // 600 * 60 + min(now % 600, 60)), age_seconds=1000 + now)]


@pytest.mark.parametrize("work", [short_commands, now_and_then, build_script, lasting, bursts])
def test_ordinary_work_is_not_found(work: Callable[[float], list[Seen]]) -> None:
    assert found(work, 4) == {}


def test_by_chance_hardly_anybody_is_found() -> None:
    # 0.4 cores all day: in one look of ten four commands, in the others none.
    def commands(seed: int) -> Callable[[float], list[Seen]]:
        chance = random.Random(seed)  # noqa: S311 - the same each time

        def four(now: float) -> list[Seen]:
            many = 4 if chance.random() < 0.1 else 0
            return [
                shell(now, 0.4 * now),
                *[worker(int(now) * 4 + each, 0.5, 0.5, running=True) for each in range(many)],
            ]

        return four

    assert sum(bool(found(commands(seed), 2)) for seed in range(24)) <= 1


@pytest.mark.parametrize("life", [8.0, 10.0, 14.0])
def test_programs_that_work_first_and_then_wait_are_not_found(life: float) -> None:
    # As a Java machine does, or ansible-playbook: 2 CPU seconds in the first one, then a dozen threads wait.
    def polls(seed: int) -> Callable[[float], list[Seen]]:
        begin = random.Random(seed).random() * life  # noqa: S311 - the same each time

        def client(now: float) -> list[Seen]:
            number, age = divmod(now + begin, life + 0.2)
            one = worker(int(number), min(2.0, 2 * age), age, running=age < 1, threads=14)
            return [shell(now, 2.0 * number), *([one] if age < life else [])]

        return client

    assert [found(polls(seed), 2) for seed in range(12)] == [{}] * 12


def test_who_sits_there_next_is_not_counted_for_who_sat_there_before() -> None:
    judge, found = Judge(POLICY), []
    judge.sits({1: "1, a CREATE"})
    for turn in range(40):
        if turn == 20:
            judge.sits({1: "1, a CREATE", 2: "2, a CREATE"})  # of someone else
        if turn == 21:
            judge.sits({1: "3, a CREATE", 2: "2, a CREATE"})
        one = worker(turn, 0.9, 1.0, running=True)
        found += [turn for _ in judge.judge(Look(turn * 15.0, [one]))]
    assert found == []


def test_the_guard_counts_anew_when_the_jobs_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(configured(tmp_path), dry_run=True)
    left = []
    for who in ("1, a CREATE", "1, a CREATE", "2, a CREATE"):
        guard.judge.living.tracks[1] = Track(over_seconds=250)
        monkeypatch.setattr(guard._sittings, "ask", lambda who=who: Sittings({1: who}, {}, frozenset()))
        guard._look_at_sessions(0, always=True)
        left.append(1 in guard.judge.living.tracks)
    assert left == [True, True, False]


def test_a_guard_that_is_started_late_guesses_nothing() -> None:
    assert found(lambda now: [seen(7, cpu_seconds=90_000.0, age_seconds=100_000 + now, threads=64)], 1) == {}


@pytest.mark.parametrize(
    ("cores", "on", "off"), [(64, 220, 345), (64, 100, 160), (64, 60, 500), (4, 240, 330), (8, 100, 250)]
)
def test_all_cores_with_pauses_are_found(cores: float, on: float, off: float) -> None:
    def pulsing(now: float) -> list[Seen]:
        cycles, rest = divmod(now, on + off)
        return [seen(7, cpu_seconds=cores * (cycles * on + min(rest, on)), age_seconds=1000 + now)]

    assert found(pulsing, 3)["cpu"] <= 1.5 * HOUR
