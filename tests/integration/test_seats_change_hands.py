"""Mails that come late or again, with an API-DB: a seat that was given to somebody else, or is free, is not touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apidb.site import ApiDbSite
from tests.e2e.harness import Deployment

pytestmark = pytest.mark.xdist_group("seats-change-hands")  # one server for all


class World:
    """A backend and its API-DB; the test is the frontend."""

    def __init__(self, folder: Path) -> None:
        self.api = ApiDbSite(folder, base=1000)
        self.backend = Deployment(folder, WODREPLYBUDGET=1000, **self.api.keys)
        for name, reset in (("WKSHP-Plain", False), ("WKSHP-Again", True)):
            self.backend.workshop(name, range=[1, 20], reset=reset)
            self.api.add_workshop(name, range=[1, 20], reset=reset)
        self.backend.script("reset-WKSHP-Again.sh", "true\n")
        self.api.add_students(range(1, 21))
        self.api.start()
        self.backend.start()

    def states(self, *subjects: str, workshop: str) -> list[str]:
        """Send mails one after the other; how each request ended."""
        return [self.backend.one(subject, workshop)["state"] for subject in subjects]

    def assigned(self, student: int) -> bool:
        """Whether the seat is taken."""
        return bool(self.api.student(student)["assigned"])

    def work(self, student: int) -> Path:
        """Something that a student has made."""
        file = self.backend.home(student) / "work.txt"
        file.write_text("mine")
        return file


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("seats"))
    yield made
    made.backend.close()
    made.api.stop()


def test_a_cleanup_that_comes_again_after_the_reset_leaves_the_seat_free(world: World) -> None:
    one = world.api.add_customer("WKSHP-Again", 1)
    subjects = (f"CREATE 1 {one}", f"CLEANUP 1 {one}", f"RESET 1 {one}")
    assert world.states(*subjects, workshop="WKSHP-Again") == ["done"] * 3
    assert not world.assigned(1)
    before = world.api.mark()
    row = world.backend.one(f"CLEANUP 1 {one}", "WKSHP-Again")
    assert row["state"] == "refused"
    assert "nothing to clean up" in row["reason"]
    assert world.api.puts(before) == []
    assert not world.assigned(1)


@pytest.mark.parametrize(
    ("student", "workshop", "late"),
    [(2, "WKSHP-Plain", "CLEANUP"), (3, "WKSHP-Again", "RESET"), (4, "WKSHP-Plain", "PURGE")],
)
def test_a_late_mail_about_the_one_before_touches_nothing(world: World, student: int, workshop: str, late: str) -> None:
    """Also while the new one is registered and not active yet."""
    one = world.api.add_customer(workshop, student)
    assert world.states(f"CREATE {student} {one}", f"CLEANUP {student} {one}", workshop=workshop) == ["done"] * 2
    if world.assigned(student):
        assert world.states(f"RESET {student} {one}", workshop=workshop) == ["done"]
    other = world.api.add_customer(workshop, student)
    file = world.work(student)
    before = world.api.mark()
    row = world.backend.one(f"{late} {student} {one}", workshop)
    assert row["state"] == "refused"
    assert str(other) in row["reason"]
    assert world.api.puts(before) == []
    assert file.exists()
    assert world.assigned(student)


def test_whoever_was_purged_does_not_keep_the_next_one_out(world: World) -> None:
    one = world.api.add_customer("WKSHP-Plain", 5)
    assert world.states(f"CREATE 5 {one}", "PURGE 5 0", workshop="WKSHP-Plain") == ["done"] * 2
    assert world.api.customer(one)["active"], "nobody has told the frontend"
    other = world.api.add_customer("WKSHP-Plain", 5)
    assert world.states(f"CREATE 5 {other}", workshop="WKSHP-Plain") == ["done"]
    assert world.api.customer(other)["active"]
    row = world.backend.one(f"CLEANUP 5 {one}", "WKSHP-Plain")
    assert row["state"] == "refused"
    assert f"participant {other}, who is active" in row["reason"]
    assert world.states(f"CLEANUP 5 {other}", workshop="WKSHP-Plain") == ["done"]
    assert not world.assigned(5)
