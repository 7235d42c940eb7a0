"""Nothing hides behind the room that the guard has for command lines."""

from __future__ import annotations

import pytest

from tests.guards import policy, seen
from wodmail.config import Settings
from wodmail.guard import lines
from wodmail.guard.lines import Lines
from wodmail.guard.programs import Programs
from wodmail.guard.watch import Seen

POLICY = policy(Settings())
MINER = ("./a", "--threads", "2", "--cpu", "50", "--nice", "19", "-o", "stratum+tcp://pool:443")
MORE = tuple(f"{number:030}" for number in range(247))  # with which it has no room any more


def full(programs: Programs, known: dict[tuple[int, int], Seen] | None = None) -> Lines:
    """Lines of a student with more idle processes of many words than there is room for."""
    made = Lines(known or {}, programs.search)
    idle = [made.keep(seen(number, argv=("sh", *(str(each) for each in range(255))))) for number in range(200)]
    assert (len(idle[0].argv), len(idle[-1].argv)) == (256, 6)
    return made


def test_what_is_cut_is_searched_as_a_whole() -> None:
    programs = Programs(POLICY)
    kept = full(programs).keep(seen(999, argv=(*MINER, *MORE)))
    assert (kept.argv, programs.denied(kept)) == (MINER[:6], ("command-line", "stratum+tcp://"))
    harmless = full(programs).keep(seen(998, argv=(*MINER[:8], *MORE)))
    assert (harmless.argv, programs.denied(harmless)) == (MINER[:6], ("", ""))
    named = full(programs).keep(seen(997, argv=("/student/student1/" + "a" * 200 + "/xmrig", *MORE)))
    assert programs.denied(named) == ("name", "xmrig")
    assert full(programs).keep(seen(999, student=2, argv=MINER)).argv == MINER  # another's room


def test_what_is_cut_is_searched_again_only_when_it_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_KEPT", 0)
    searched: list[str] = []

    def search(line: str) -> None:
        searched.append(line)

    one = seen(argv=MINER)
    known = {one.key: Lines({}, search).keep(one)}
    assert Lines(known, search).keep(one) == known[one.key]
    assert Lines(known, search).keep(known[one.key]) is known[one.key]  # it was not read this time
    assert searched == [one.command_line]
    programs = Programs(POLICY)
    assert programs.denied(Lines(known, programs.search).keep(one))[0] == "command-line"  # another policy


def test_other_words_behind_the_same_beginning_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_KEPT", 0)
    programs, argv = Programs(POLICY), (*MINER[:7], "example.org")
    before = Lines({}, programs.search).keep(seen(argv=argv))
    assert programs.denied(before) == ("", "")
    after = Lines({before.key: before}, programs.search).keep(seen(argv=MINER))
    assert (after.argv, programs.denied(after)[0]) == (before.argv, "command-line")
