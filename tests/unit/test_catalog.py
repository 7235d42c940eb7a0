"""wod.yml as people write it, mistakes included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.parts import missing, shared_notebooks
from wodmail.catalog import Catalog, Workshop, folder_name, near
from wodmail.wodyml import boolean, describe

HEAD = "%YAML 1.1\n# Meta data for the workshop\n---\n"
GOOD = "name: 'A good one'\nrange: [1,20]\ncapacity: 20\nreset: false\n"


def workshop(tmp_path: Path, text: str | bytes, name: str = "WKSHP-Test101") -> Workshop:
    folder = tmp_path / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wod.yml").write_bytes(text if isinstance(text, bytes) else (HEAD + text).encode())
    found = Catalog(tmp_path).find(name)
    assert found is not None
    return found


def test_good_one(tmp_path: Path) -> None:
    found = workshop(tmp_path, GOOD + "ldap: true\ncompile: 'a.sh, b.sh'\nactive: false\ncategory: ['Open Source']\n")
    assert found.problems == ()
    assert (found.title, found.range, found.size, found.capacity) == ("A good one", (1, 20), 20, 20)
    assert (found.reset, found.ldap, found.active, found.compile) == (False, True, False, ("a.sh", "b.sh"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: X\nrange: [96-149]\n", "range: '96-149' isn't two numbers"),
        ("name: X\nrange: [9]\n", "range: 9 isn't two numbers"),
        ("name: X\nrange: 9\n", "range: 9 isn't two numbers"),
        ("name: X\nrange: [a, b]\n", "range: 'a', 'b' isn't"),
        ("name: X\nrange: [true, 5]\n", "isn't two numbers"),
        ("name: X\nrange: [9, 3]\n", "range: [9,3] has no student"),
        ("name: X\nrange: [0, 3]\n", "range: [0,3] has no student"),
        ("name: X\n", "range: missing"),
        ("range: [1,2]\n", "name: missing"),
        ("name: ''\nrange: [1,2]\n", "name: missing"),
        ("name: 5\nrange: [1,2]\n", "name: 5 is no text; put it in quotes"),
        ("name: X\nrange: [1,2]\ncapacity: 3\n", "capacity: 3 seats, but the range has 2"),
        ("name: X\nrange: [1,2]\ncapacity: many\n", "capacity: 'many' is no number"),
        ("name: X\nrange: [1,2]\nreset: perhaps\n", "reset: 'perhaps' is neither true nor false"),
        ("name: X\nrange: [1,2]\ncompile: ../../x.sh\n", "compile: '../../x.sh' is no script's name"),
        ("name: X\nrange: [1,2]\ncompile: 7\n", "compile: 7 is no list"),
        ("name: X\nrange: [1,2]\nmonoappliance: true\nmultiappliance: true\n", "both are true"),
        ("name: X\nrange: [1,2]\nrest: true\n", "did you mean reset?"),
        ("name: [\n", "can't be read: line"),
        ("name: X\nrange: [1,2]\nwhen: 2023-13-45\n", "can't be read"),
        ("just words\n", "instead of keys"),
        ("a: !!python/object/apply:os.system [id]\n", "can't be read"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, problem: str) -> None:
    found = workshop(tmp_path, text)
    assert any(problem in line for line in found.problems), found.problems


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"\x00", b"a: " + b"[" * 5000, b"# " + b"x" * 300_000, b"- 1\n- 2\n"]
)
def test_what_is_no_yaml_gives_defaults_and_a_problem(tmp_path: Path, content: bytes) -> None:
    found = workshop(tmp_path, content)
    assert (found.name, found.range, found.reset) == ("WKSHP-Test101", None, False)
    assert len(found.problems) == 1


def test_broken_range_is_not_guessed(tmp_path: Path) -> None:
    assert workshop(tmp_path, "name: X\nrange: [96-149]\n").range is None


def test_absent_wod_yml(tmp_path: Path) -> None:
    (tmp_path / "WKSHP-Bare").mkdir()
    found = Catalog(tmp_path).find("WKSHP-Bare")
    assert found is not None
    assert (found.title, found.active, len(found.problems)) == ("WKSHP-Bare", True, 1)
    assert "wod.yml" in found.problems[0]


@pytest.mark.parametrize(("text", "value"), [("true", True), ("Yes", True), ("False", False), ("", False), ("x", None)])
def test_booleans_as_strings(text: str, value: bool | None) -> None:
    assert boolean(text) is value


@pytest.mark.parametrize("value", [None, False, "false", "", "False", []])
def test_nothing_to_compile(value: Any) -> None:
    found = describe("WKSHP-X", {"name": "X", "range": [1, 2], "compile": value})
    assert (found.compile, found.problems) == ((), ())


def test_public_wins_and_private_adds(tmp_path: Path) -> None:
    workshop(tmp_path / "public", GOOD, "WKSHP-Both")
    workshop(tmp_path / "private", "name: hidden\nrange: [30,40]\n", "WKSHP-Both")
    workshop(tmp_path / "private", "name: own\nrange: [30,40]\n", "WKSHP-Own")
    catalog = Catalog(tmp_path / "public", tmp_path / "private")
    assert [(found.name, found.title) for found in catalog.all()] == [
        ("WKSHP-Both", "A good one"),
        ("WKSHP-Own", "own"),
    ]
    own = catalog.find("WKSHP-Own")
    assert own is not None
    assert own.folder == tmp_path / "private" / "WKSHP-Own"


def test_challenge_is_the_same_folder(tmp_path: Path) -> None:
    workshop(tmp_path, GOOD)
    found = Catalog(tmp_path).find("CHLG-Test101")
    assert found is not None
    assert found.name == "WKSHP-Test101"


@pytest.mark.parametrize(
    "name", ["WKSHP-../x", "WKSHP-a/b", "../WKSHP-Test101", "WKSHP-Test101\n", "WKSHP-", "wkshp-Test101", "WKSHP-ä", ""]
)
def test_hostile_names_are_nowhere(tmp_path: Path, name: str) -> None:
    workshop(tmp_path / "notebooks", GOOD)
    (tmp_path / "x").mkdir()
    assert folder_name(name) is None
    assert Catalog(tmp_path / "notebooks").find(name) is None


def test_no_trees() -> None:
    assert Catalog(None).all() == ()
    assert Catalog(Path("/nowhere/at/all")).find("WKSHP-A") is None


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    workshop(tmp_path, GOOD)
    catalog = Catalog(tmp_path)
    first = catalog.find("WKSHP-Test101")
    assert catalog.find("WKSHP-Test101") is first
    file = tmp_path / "WKSHP-Test101" / "wod.yml"
    file.write_text(HEAD + "name: other\nrange: [1,3]\n")
    os.utime(file, (1, 1))
    second = catalog.find("WKSHP-Test101")
    assert second is not None
    assert second.range == (1, 3)


def test_overlapping_ranges_are_named(tmp_path: Path) -> None:
    for name, span in (("WKSHP-A", "[1,10]"), ("WKSHP-B", "[10,20]"), ("WKSHP-C", "[21,30]")):
        workshop(tmp_path, f"name: {name}\nrange: {span}\n", name)
    found = [str(problem) for problem in Catalog(tmp_path).problems()]
    assert len(found) == 1
    assert "WKSHP-A" in found[0]
    assert "WKSHP-B/wod.yml" in found[0]


def test_near_names() -> None:
    assert near("WKSHP-api101", ["WKSHP-API101", "WKSHP-Git101", "WKSHP-Zebra"])[0] == "WKSHP-API101"


def test_real_workshops() -> None:
    folder = shared_notebooks()
    if folder is None:
        missing("notebooks", "no real workshops beside the checkout")
        return
    found = {each.name: each for each in Catalog(folder).all()}
    assert found["WKSHP-API101"].range == (1, 6)
    assert found["WKSHP-API101"].problems == ("capacity: 20 seats, but the range has 6 students",)
    assert found["WKSHP-Ansible101"].reset
    assert any("overlaps" in problem.message for problem in Catalog(folder).problems())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=5))
def test_any_value_of_any_key_is_survived(value: Any) -> None:
    keys = ("name", "range", "capacity", "compile", "reset", "active", "ldap")
    found = describe("WKSHP-X", dict.fromkeys(keys, value))
    assert found.range is None or 1 <= found.range[0] <= found.range[1]
    assert found.capacity >= 0
    assert found.problems


@given(st.text(max_size=200))
def test_any_text_is_survived(text: str) -> None:
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        data = None
    if isinstance(data, dict):
        assert describe("WKSHP-X", data).name == "WKSHP-X"
