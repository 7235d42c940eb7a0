"""Who is stopped for the same again and again is purged, also when what was found is a thing that may be busy."""

from __future__ import annotations

import json
import re

from tests.guards import BUILDERS, builder, policy, seen
from wodmail.config import Settings
from wodmail.guard.judge import Finding, Judge
from wodmail.guard.ladder import Cases
from wodmail.guard.policy import Rung
from wodmail.guard.programs import path_pattern
from wodmail.guard.tracks import Look

POLICY = policy(Settings(), BUILDERS)


def long_build(student: int = 1) -> Finding:
    return Finding(student, "cpu-long", Rung.STOP, "words", (seen(),), Rung.PURGE)


def stops(cases: Cases, moments: list[float], finding: Finding | None = None) -> list[bool]:
    """Whether each stop for the finding, a minute after it is found anew, makes a PURGE due."""
    due = []
    for now in moments:
        cases.look([finding or long_build()], now - 60, now - 60)
        (step,) = (step for step in cases.look([finding or long_build()], now, now) if step.kind == "stop")
        due.append(cases.stopped(step, now, left=False))
    return due


def test_who_is_stopped_a_third_time_for_an_allowed_program_is_purged() -> None:
    cases, later = Cases(POLICY.ladder), Cases(POLICY.ladder)
    assert stops(cases, [1900, 3700]) == [False, False]
    later.restore(json.loads(json.dumps(cases.dump())))
    assert (stops(later, [5500]), list(later.wanted())) == ([True], [1])
    later.purged(1, 5500)
    assert stops(later, [7300, 9100]) == [False, False]


def test_what_is_no_third_time() -> None:
    assert not any(stops(Cases(POLICY.ladder), [1900, 9000, 16_400, 23_500]))  # never three in four hours
    assert not any(stops(Cases(POLICY.ladder), [1900, 1960, 2020, 3700]))  # three at a time are one
    old_kernel = Finding(1, "kernel-age", Rung.STOP, "words", (seen(),))
    assert not any(stops(Cases(POLICY.ladder), [1900, 3700, 5500, 7300], old_kernel))
    cases = Cases(POLICY.ladder)
    stops(cases, [1900, 3700])
    assert cases.changed({1: "another"}) == {1}  # somebody else sits there
    assert stops(cases, [5500]) == [False]


def test_all_cores_in_an_allowed_program_are_purged_in_the_end() -> None:
    judge, cases, begun, told = Judge(POLICY), Cases(POLICY.ladder), 0.0, []
    for turn in range(400):
        now = turn * 15.0
        loaded = seen(7, start=int(begun), cpu_seconds=64 * (now - begun), age_seconds=now - begun, **builder())
        for step in cases.look(judge.judge(Look(now, [loaded])), now, now):
            if step.kind == "stop":
                begun = now  # the student starts it again at once
                judge.stopped(1)
                told.append(cases.stopped(step, now, left=False))
    assert told[:3] == [False, False, True]


def test_what_runs_any_code_is_no_compiler() -> None:
    builders = next(each for each in policy(Settings()).allowed if each.what == "compilers and builders")
    allowed = re.compile("|".join(map(path_pattern, builders.exe)))
    tools = ["clang", "clang-14", "ld.lld", "lld", "llc", "opt", "lli", "lldb", "lli-child-target", "lldb-server"]
    assert [each for each in tools if allowed.fullmatch(f"/usr/lib/llvm-14/bin/{each}")] == tools[:6]
