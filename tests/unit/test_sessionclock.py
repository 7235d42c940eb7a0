"""The session clock: real time that passes, whatever is done to the machine's clock."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from wodmail.sessionclock import LONGEST_GAP, Reading, advance, dumped, loaded, reading

BEGUN = Reading("one", 100.0, 1_000_000.0)
STEPS = st.lists(st.tuples(st.floats(0, 1e5), st.floats(-1e7, 1e7)), max_size=20)


@given(STEPS)
def test_setting_the_clock_changes_nothing(steps: list[tuple[float, float]]) -> None:
    """While the machine runs only time that passes counts."""
    mark, seen, passed = advance(None, BEGUN), BEGUN, 0.0
    for seconds, jump in steps:
        seen = Reading("one", seen.uptime + seconds, seen.wall + seconds + jump)
        mark, passed = advance(mark, seen), passed + seconds
        assert abs(mark.now - (BEGUN.wall + passed)) < 1e-3
        assert loaded(dumped(mark)) == mark


@given(st.floats(-1e9, 1e9))
def test_over_a_restart_it_goes_by_the_wall_clock_within_reason(gap: float) -> None:
    """Not backwards, and not by more than a day."""
    mark = advance(advance(None, BEGUN), Reading("two", 3.0, BEGUN.wall + gap))
    assert mark.now == BEGUN.wall + min(max(gap, 0.0), LONGEST_GAP)
    assert advance(mark, Reading("two", 10.0, 0.0)).now == mark.now + 7.0


def test_what_is_not_understood_begins_anew() -> None:
    """A stored text of another kind, a machine that names no life."""
    assert loaded(None) is loaded("{") is loaded('{"now": 1}') is loaded("[]") is None
    nameless = replace(BEGUN, boot="")
    assert advance(advance(None, nameless), replace(nameless, uptime=500.0)).now == BEGUN.wall


def test_the_machine_is_read() -> None:
    """Twice in one life: the same name, and time does not go back."""
    first, second = reading(), reading()
    assert first.boot == second.boot != ""
    assert 0 < first.uptime <= second.uptime
