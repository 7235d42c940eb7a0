"""The embedded registry: a model of seats beside it, and what is its own."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wodmail.catalog import Catalog
from wodmail.config import Settings
from wodmail.errors import Failed, Refused, Temporary
from wodmail.registry.embedded import EmbeddedRegistry

WORKSHOPS = ("WKSHP-One", "WKSHP-Two")


def make(folder: Path) -> EmbeddedRegistry:
    for name in WORKSHOPS:
        place = folder / "notebooks" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "wod.yml").write_text(f"name: {name}\nrange: [1,4]\n")
    settings = Settings(WODSTATEDIR=folder / "state", WODUSERMIN=1, WODUSERMAX=4)
    return EmbeddedRegistry(settings, Catalog(folder / "notebooks"))


STUDENTS = st.integers(1, 4)
PARTICIPANTS = st.integers(1, 5)


class Seats(RuleBasedStateMachine):
    """The same calls on the registry and on plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.registry = make(Path(self.folder.name))
        self.seats: dict[int, tuple[str, int, bool]] = {}
        self.people: dict[int, tuple[int, str, bool]] = {}

    def teardown(self) -> None:
        self.registry.close()
        self.folder.cleanup()

    def agrees(self, participant: int, student: int, workshop: str) -> bool:
        known = self.people.get(participant)
        if known and not known[2] and known[:2] != (student, workshop):
            return False
        seat = self.seats.get(student)
        return not (seat and seat[2] and seat[1] not in (0, participant))

    @rule(student=STUDENTS, participant=st.just(0) | PARTICIPANTS, workshop=st.sampled_from(WORKSHOPS))
    def assign(self, student: int, participant: int, workshop: str) -> None:
        if participant and not self.agrees(participant, student, workshop):
            with pytest.raises(Refused):
                self.registry.assign(student, workshop, participant)
            with pytest.raises(Refused):
                self.registry.check_participant(participant, student, workshop)
            return
        self.registry.assign(student, workshop, participant)
        if participant and (participant not in self.people or self.people[participant][2]):
            self.people[participant] = (student, workshop, False)
        if self.seats.get(student, ("", -1))[:2] != (workshop, participant):
            self.seats[student] = (workshop, participant, False)

    @rule(participant=PARTICIPANTS)
    def activate(self, participant: int) -> None:
        self.registry.set_active(participant)
        for student, seat in list(self.seats.items()):
            if seat[1] == participant:
                self.seats[student] = (*seat[:2], True)

    @rule(student=STUDENTS)
    def free(self, student: int) -> None:
        self.registry.free_seat(student)
        self.seats.pop(student, None)

    @rule(student=STUDENTS, participant=PARTICIPANTS)
    def check(self, student: int, participant: int) -> None:
        if self.agrees(participant, student, WORKSHOPS[0]):
            assert self.registry.check_participant(participant, student, WORKSHOPS[0]) is None
        else:
            with pytest.raises(Refused):
                self.registry.check_participant(participant, student, WORKSHOPS[0])

    @rule(participant=PARTICIPANTS)
    def clean(self, participant: int) -> None:
        self.registry.set_cleaned(participant)
        if participant in self.people:
            self.people[participant] = (*self.people[participant][:2], True)
        for student, seat in list(self.seats.items()):
            if seat[1] == participant:
                self.seats[student] = (*seat[:2], False)

    @invariant()
    def same(self) -> None:
        for student in range(1, 5):
            seat = self.registry.seat(student)
            expected = self.seats.get(student)
            assert seat.assigned == (expected is not None)
            if expected is not None:
                assert (seat.workshop, seat.participant, seat.active) == expected
            else:
                assert not seat.active
        for participant in range(1, 6):
            known = self.people.get(participant)
            assert self.registry.is_clean(participant) == (known is None or known[2])
            if known:
                assert self.registry.participant_student(participant) == known[0]


Seats.TestCase.settings = hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)
TestSeats = Seats.TestCase


def test_state_survives_reopening(tmp_path: Path) -> None:
    first = make(tmp_path)
    number = first.workshop("WKSHP-Two").id
    first.assign(2, "WKSHP-Two", 9)
    first.close()
    again = make(tmp_path)
    assert again.workshop_by_id(number).name == "WKSHP-Two"
    assert again.seat(2).participant == 9
    again.close()


def test_no_password_and_no_reference_on_disk(tmp_path: Path) -> None:
    registry = make(tmp_path)
    registry.assign(2, "WKSHP-Two")
    registry.set_password(2, "secret:5/Werty123")
    content = b"".join(file.read_bytes() for file in (tmp_path / "state").iterdir())
    assert b"WKSHP-Two" in content
    assert b"Werty123" not in content
    registry.close()


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    registry = make(tmp_path)
    registry.assign(2, "WKSHP-Two")
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "state").iterdir()}
    assert modes["registry.sqlite"] == 0o600
    assert set(modes.values()) == {0o600}
    registry.close()


def test_students_outside_are_refused(tmp_path: Path) -> None:
    registry = make(tmp_path)
    for student in (0, -1, 5, 10**12):
        with pytest.raises(Refused, match="1 to 4"):
            registry.seat(student)
        with pytest.raises(Refused, match="1 to 4"):
            registry.free_seat(student)
    registry.close()


def test_many_threads_assign_each_seat_once(tmp_path: Path) -> None:
    registry = make(tmp_path)

    def take(participant: int) -> bool:
        try:
            registry.assign(1, "WKSHP-One", participant)
            registry.check_participant(participant, 1, "WKSHP-One")
            registry.set_active(participant)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(take, range(1, 17)))
    seat = registry.seat(1)
    assert taken >= 1
    assert seat.active
    registry.close()


def test_two_processes_write_at_the_same_time(tmp_path: Path) -> None:
    registry = make(tmp_path)
    program = (
        "import sys; from pathlib import Path; from tests.unit.test_registry_embedded import make\n"
        "r = make(Path(sys.argv[1]))\n"
        "for _ in range(50): r.assign(3, 'WKSHP-One'); r.free_seat(3)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[2]) as other:
        for _ in range(50):
            registry.assign(4, "WKSHP-One")
            registry.free_seat(4)
        assert other.wait(60) == 0
    assert not registry.seat(3).assigned
    registry.close()


def test_a_busy_file_is_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wodmail.registry.embedded.BUSY_SECONDS", 0.05)
    registry = make(tmp_path)
    other = sqlite3.connect(tmp_path / "state" / "registry.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Temporary, match="busy"):
        registry.free_seat(1)
    other.execute("ROLLBACK")
    other.close()
    registry.free_seat(1)
    assert not registry.seat(1).assigned
    registry.close()


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path).close()
    database = sqlite3.connect(tmp_path / "state" / "registry.sqlite")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(Failed, match="newer"):
        make(tmp_path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "registry.sqlite").write_bytes(b"no database at all, " * 100)
    with pytest.raises(Failed, match="broken"):
        make(tmp_path)


@pytest.mark.parametrize("percent", [-1, 101])
def test_completion_outside_percent(tmp_path: Path, percent: int) -> None:
    registry = make(tmp_path)
    with pytest.raises(Failed):
        registry.set_completion(1, percent)
    registry.close()


def test_completion_is_kept(tmp_path: Path) -> None:
    registry = make(tmp_path)
    registry.assign(1, "WKSHP-One", 7)
    registry.set_completion(7, 66)
    assert registry.completion(7) == 66
    assert registry.completion(8) is None
    registry.close()


def test_unknown_workshops_are_listed_when_none_is_near(tmp_path: Path) -> None:
    registry = make(tmp_path)
    with pytest.raises(Refused, match="there are: WKSHP-One, WKSHP-Two"):
        registry.workshop("xyzzy")
    registry.close()
