"""What is the API-DB registry's own: how rows are read, the list of workshops, whose seat it is, what scripts ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.apidb.site import ApiDbSite
from wodmail import registry as registries
from wodmail.catalog import Catalog
from wodmail.cli.root import root
from wodmail.errors import Away, Failed, Refused
from wodmail.registry import apidb as module
from wodmail.registry import rows
from wodmail.registry.apidb import ApiDbRegistry
from wodmail.schema import Settings
from wodmail.wodyml import Workshop

BASE = 1000


class World:
    """A stand-in, folders of workshops, and the registry."""

    def __init__(self, folder: Path, api: ApiDbSite) -> None:
        self.api, self.folder = api, folder
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir()
        self.values: dict[str, Any] = {
            "WODSTATEDIR": str(folder / "state"),
            "WODNOBO": str(self.notebooks),
            "WODUSERMIN": 1,
            "WODUSERMAX": 20,
            "WODAPIDBTIMEOUT": 20,
            "WODAPIDBRETRIES": 0,
            **api.keys,
        }
        found = registries.for_settings(Settings(**self.values))
        assert isinstance(found, ApiDbRegistry)
        self.registry = found

    def workshop(self, name: str, row: dict[str, Any] | None = None, **meta: Any) -> None:
        """A workshop's folder, and its row unless that is None."""
        folder = self.notebooks / name
        folder.mkdir()
        (folder / "wod.yml").write_text(yaml.safe_dump({"name": name, "range": [1, 6], "capacity": 5, **meta}))
        if row is not None:
            self.api.add_workshop(name, **row)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ApiDbSite(tmp_path, base=BASE) as api:
        made = World(tmp_path, api)
        yield made
        made.registry.close()


# -- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "scripts"),
    [
        (None, ()),
        ("", ()),
        ("false", ()),
        (False, ()),
        ("a.sh,b.sh", ("a.sh", "b.sh")),
        (" a.sh , b.sh ", ("a.sh", "b.sh")),
        (["a.sh"], ("a.sh",)),
    ],
)
def test_every_form_of_compile(value: object, scripts: tuple[str, ...]) -> None:
    found = rows.workshop(Workshop("WKSHP-One", title="One", compile=("old.sh",)), {"id": 1, "compile": value})
    assert (found.compile, found.problems[1:]) == (scripts, ())


@pytest.mark.parametrize("value", [[7, 9], ["7", "9"], "[7,9]", "7,9", " [7, 9] "])
def test_every_form_of_range(value: object) -> None:
    assert rows.workshop(Workshop("WKSHP-One", title="One"), {"id": 1, "range": value}).range == (7, 9)


@pytest.mark.parametrize("value", ["[96-149]", "7", "[[", {"min": 1}, [1], "[" * 5000])
def test_a_range_that_is_none(value: object) -> None:
    found = rows.workshop(Workshop("WKSHP-One", title="One"), {"id": 1, "range": value})
    assert found.range is None
    assert any(problem.startswith("range:") for problem in found.problems)


def test_what_a_row_leaves_out_is_as_the_folder_says(tmp_path: Path) -> None:
    local = Workshop("WKSHP-One", title="One", range=(1, 6), reset=True, capacity=5, compile=("a.sh",), folder=tmp_path)
    found = rows.workshop(local, {"id": "12", "notebook": "WKSHP-One", "capacity": None, "varpass": "true"})
    assert (found.id, found.range, found.capacity, found.reset, found.compile) == (12, (1, 6), 5, True, ("a.sh",))
    assert (found.varpass, found.folder, found.problems) == (True, tmp_path, ())
    said = rows.workshop(local, {"id": 12, "reset": "false", "range": [2, 3], "capacity": "2", "name": "Eins"})
    assert (said.reset, said.range, said.capacity, said.title) == (False, (2, 3), 2, "Eins")


@pytest.mark.parametrize(
    ("value", "meant"), [(7, 7), ("7", 7), (" 7 ", 7), (None, 0), ("x", 0), (-1, 0), (True, 0), ("9" * 30, 0), ("²", 0)]
)
def test_numbers(value: object, meant: int) -> None:
    assert rows.number(value) == meant


def test_of_two_rows_of_one_notebook_the_active_one_counts() -> None:
    found = rows.by_notebook(
        [
            {"id": 1, "notebook": "WKSHP-One", "active": "false"},
            {"id": 3, "notebook": "WKSHP-One", "active": "true"},
            {"id": 2, "notebook": "WKSHP-One", "active": True},
            {"id": 4, "notebook": "../etc"},
            {"id": 5},
        ]
    )
    assert {name: row["id"] for name, row in found.items()} == {"WKSHP-One": 2}


# -- workshops ------------------------------------------------------------------------------------------------------


def test_the_list_of_workshops_is_asked_for_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.workshop("WKSHP-One", {"id": 4, "capacity": 9})
    for _ in range(5):
        assert world.registry.workshop("WKSHP-One").capacity == 9
        assert world.registry.workshop_by_id(4).name == "WKSHP-One"
    assert len(world.api.log()) == 1
    world.api.update("workshops", 4, capacity=3)
    monkeypatch.setattr(module, "WORKSHOPS_AGE", 0.0)
    assert world.registry.workshop("WKSHP-One").capacity == 3


def test_a_new_workshop_is_found_at_once(world: World) -> None:
    world.workshop("WKSHP-One", {})
    world.registry.workshop("WKSHP-One")
    world.workshop("WKSHP-Two", {"id": 44})
    assert world.registry.workshop("WKSHP-Two").id == 44
    world.api.add_workshop("WKSHP-Three", id=45)
    with pytest.raises(Refused, match="folder is not on this backend"):
        world.registry.workshop_by_id(45)


def test_an_old_list_serves_while_the_api_db_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.workshop("WKSHP-One", {"capacity": 9})
    world.registry.workshop("WKSHP-One")
    world.api.stop()
    monkeypatch.setattr(module, "WORKSHOPS_AGE", 0.0)
    assert world.registry.workshop("CHLG-One").capacity == 9
    with pytest.raises(Away):
        world.registry.workshop("WKSHP-Unknown")


def test_without_any_list_the_api_db_is_away(world: World) -> None:
    world.workshop("WKSHP-One", {})
    world.api.stop()
    with pytest.raises(Away, match="can't be reached"):
        world.registry.workshop("WKSHP-One")


def test_a_folder_that_the_api_db_does_not_know(world: World) -> None:
    world.workshop("WKSHP-One", {})
    world.workshop("WKSHP-Own")
    with pytest.raises(Refused, match="the API-DB has no workshop WKSHP-Own"):
        world.registry.workshop("WKSHP-Own")
    with pytest.raises(Refused, match="it has: WKSHP-One"):
        world.registry.workshop("WKSHP-Xyzzy1234567")


# -- participants and seats -----------------------------------------------------------------------------------------


def test_a_student_of_another_backend(world: World) -> None:
    world.api.add_customer("WKSHP-One", 21, id=57)
    world.api.add_customer("WKSHP-One", -5, id=58)
    world.api.add_customer("WKSHP-One", None, id=59)
    for participant, words in ((57, "not of this backend"), (58, "not of this backend"), (59, "has no student")):
        with pytest.raises(Refused, match=words):
            world.registry.participant_student(participant)
        with pytest.raises(Refused, match="not student 3"):
            world.registry.check_participant(participant, 3, None)


def test_a_participant_that_is_gone(world: World) -> None:
    assert world.registry.is_clean(57)
    with pytest.raises(Refused, match=r"knows no participant 57.*write 0"):
        world.registry.check_participant(57, 3, "WKSHP-One")


def test_who_registered_last_has_the_seat(world: World) -> None:
    world.api.add_student(3)
    for number in (57, 58):
        world.api.add_customer("WKSHP-One", 3, id=number, active=True)
    seat = world.registry.seat(3)
    assert (seat.participant, seat.active, seat.workshop, seat.assigned) == (58, True, "WKSHP-One", True)
    world.api.update("customers", 57, active=False)
    world.api.update("customers", 58, active=False, cleaned=True)
    assert (world.registry.seat(3).participant, world.registry.seat(3).active) == (57, False)
    with pytest.raises(Refused, match=r"no student 4 \(id 1004\)"):
        world.registry.seat(4)
    with pytest.raises(Refused, match="numbered 1 to 20"):
        world.registry.seat(21)


@pytest.mark.parametrize("percent", [-1, 101])
def test_ratios_that_make_no_sense(world: World, percent: int) -> None:
    with pytest.raises(Failed, match="makes no sense"):
        world.registry.set_completion(57, percent, 3)
    assert world.api.log() == []


# -- what scripts ask -----------------------------------------------------------------------------------------------


def test_queries_of_scripts(world: World) -> None:
    world.workshop("WKSHP-One", {"id": 4, "reset": True, "compile": "a.sh", "range": [2, 5]})
    world.api.add_customer("WKSHP-One", 3, id=57)
    file = world.folder / "wod.yml"
    file.write_text(yaml.safe_dump(world.values))

    def ask(*words: str) -> str:
        done = CliRunner().invoke(root, ["query", "--config", str(file), *words])
        return done.stdout.strip() if done.exit_code == 0 else f"error {done.exception}"

    assert ask("workshop-id", "CHLG-One") == "4"
    assert [ask("workshop", "4", field) for field in ("name", "reset", "compile", "range-max")] == [
        "WKSHP-One",
        "true",
        "a.sh",
        "5",
    ]
    assert ask("cleaned", "57") == "false"
    assert ask("wait-cleaned", "57", "--timeout", "0") == "error participant 57 is not cleaned after 0 s"
    world.api.update("customers", 57, cleaned=True)
    assert ask("wait-cleaned", "57") == ""
    assert len(ask("session-token").split(".")) == 3
    world.api.stop()
    assert ask("cleaned", "57").startswith("error The API-DB is away")
    assert ask("wait-cleaned", "57", "--timeout", "0") == "error participant 57 is not cleaned after 0 s"


def test_a_catalogue_without_api_db_keys_is_embedded(tmp_path: Path) -> None:
    found = registries.for_settings(Settings(WODSTATEDIR=tmp_path, WODNOBO=tmp_path))
    assert not isinstance(found, ApiDbRegistry)
    assert isinstance(getattr(found, "catalog", None), Catalog)
