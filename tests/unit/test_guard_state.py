"""What a guard kept is understood by the next one as far as possible, whichever version either is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.guards import configured, seen
from wodmail import processes
from wodmail.guard import files, records
from wodmail.guard.judge import Finding
from wodmail.guard.ladder import Case, Seat
from wodmail.guard.lineage import Origin
from wodmail.guard.policy import Rung
from wodmail.guard.work import Guard

CASE = {"name": "a-case", "student": 4, "rule": "cpu", "words": "busy", "opened": 1.0, "seen": 2.0, "at": 3.0}
LETTER = {"student": 4, "case": "a-case", "words": "busy", "trouble": ""}
OLDER: dict[str, Any] = {
    "cases": [CASE],
    "seats": {"4": {"stops": [1.0], "wanted": "a-case", "wanted_at": 5.0}},
    "over_seconds": [[7, 70, 120.0]],
}
NEWER: dict[str, Any] = {
    "cases": [{**CASE, "stops": 1, "sitting": "7", "mood": "grim"}],
    "seats": {"4": {"wanted": "a-case", "sitting": "7", "moods": ["grim"]}},
    "letters": {"a-case.purge": {**LETTER, "language": "en"}},
    "over_seconds": [[7, 70, 120.0, "more"]],
    "hidden": [[8, 80, 4, "more"]],
    "origins": [[9, 90, "server", "more"], [10, 100, "cousin"]],
    "weather": "rain",
}
BAD: dict[str, Any] = {
    "cases": [{"name": "no more"}, "words", None, {**CASE, "rule": "name", "opened": "early"}, CASE],
    "seats": {"four": {}, "5": [], "6": {"stops": "many"}, "4": {"wanted": "a-case"}},
    "letters": {"a": {}, "b": [], "a-case.purge": LETTER},
    "over_seconds": [[1], None, [7, 70, "long"], [7, 70, 120.0]],
    "hidden": [[8, "x", 4], [8, 80, 4]],
    "origins": {"9": 90},
}


@pytest.fixture
def restored(request: pytest.FixtureRequest, tmp_path: Path) -> Guard:
    """A guard that starts with what another one kept."""
    settings = configured(tmp_path)
    state = {"boot": processes.boot_id(), **request.param}
    files.write(files.folder(settings.WODSTATEDIR) / records.STATE, state)
    return Guard(settings)


def known(guard: Guard) -> tuple[object, ...]:
    over = {key: track.over_seconds for key, track in guard.judge.tracks.items()}
    return guard.cases.cases, guard.cases.seats, guard.cases.letters, over


@pytest.mark.parametrize("restored", [OLDER], indirect=True)
def test_an_older_ones(restored: Guard) -> None:
    seats = {4: Seat(stops=[1.0], wanted="a-case")}
    assert known(restored) == ({(4, "cpu"): Case(**CASE)}, seats, {}, {(7, 70): 120.0})
    assert restored.cases.wanted() == {4: "a-case"}


@pytest.mark.parametrize("restored", [NEWER], indirect=True)
def test_a_newer_ones(restored: Guard) -> None:
    case, seat = Case(**CASE, stops=1, sitting="7"), Seat(wanted="a-case", sitting="7")
    assert known(restored) == ({(4, "cpu"): case}, {4: seat}, {"a-case.purge": LETTER}, {(7, 70): 120.0})
    assert (restored.watcher.hidden, restored.judge.lineage.origins) == ({(8, 80): 4}, {(9, 90): Origin.SERVER})


@pytest.mark.parametrize("restored", [BAD], indirect=True)
def test_a_bad_entry_loses_only_itself(restored: Guard) -> None:
    seats = {4: Seat(wanted="a-case")}
    assert known(restored) == ({(4, "cpu"): Case(**CASE)}, seats, {"a-case.purge": LETTER}, {(7, 70): 120.0})
    assert (restored.watcher.hidden, restored.judge.lineage.origins) == ({(8, 80): 4}, {})


@pytest.mark.parametrize("restored", [{"cases": 5, "seats": [], "origins": [[9, 90, "server"]]}], indirect=True)
def test_what_is_no_list_loses_only_itself(restored: Guard) -> None:
    assert known(restored) == ({}, {}, {}, {})
    assert restored.judge.lineage.origins == {(9, 90): Origin.SERVER}


FINDING = Finding(4, "cpu", Rung.PURGE, "words", (seen(student=4),))


@pytest.mark.parametrize("rebooted", [False, True])
@pytest.mark.parametrize(("answer", "wanted"), [("7, a CREATE", [4]), ("8, a CLEANUP", [])])
def test_a_purge_waits_on_when_the_database_was_away_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rebooted: bool, answer: str, wanted: list[int]
) -> None:
    settings = configured(tmp_path)
    before = Guard(settings)
    before.cases.changed({4: "7, a CREATE"})
    records.write_state(before.folder, before.cases, before.judge, before.watcher)
    if rebooted:
        monkeypatch.setattr(processes, "boot_id", lambda: "another")
    guard = Guard(settings)
    for step in [*guard.cases.look([FINDING], 0, 0), *guard.cases.look([FINDING], 60, 60)]:
        if step.kind == "stop":
            assert guard.cases.stopped(step, 60, left=True)
    assert list(guard.cases.wanted()) == [4]
    guard.cases.changed({4: answer})
    assert list(guard.cases.wanted()) == wanted


def test_what_is_found_before_any_answer_is_nobodys(tmp_path: Path) -> None:
    guard = Guard(configured(tmp_path))
    guard.cases.look([FINDING], 0, 0)
    assert (guard.cases.changed({4: "7, a CREATE"}), guard.cases.cases) == ({4}, {})
