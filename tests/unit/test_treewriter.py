"""The tree writer: links planted in a home lead nowhere, what was there before is replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wodmail.students import treewriter
from wodmail.students.treewriter import BadPathError, Entry


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("untouched")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "homes" / "student7"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def handle(home: Path) -> Iterator[int]:
    opened = treewriter.open_home(str(home.parent), home.name)
    yield opened
    os.close(opened)


def test_writes_files_folders_links_and_modes(home: Path, handle: int) -> None:
    entries = [
        Entry("WKSHP-X", "dir", 0o755),
        Entry("WKSHP-X/run.sh", "file", 0o4755, b"#!/bin/sh\n"),
        Entry("WKSHP-X/deep/er/data.bin", "file", 0o000, bytes(range(256))),
        Entry("WKSHP-X/latest", "link", target="run.sh"),
    ]
    assert treewriter.install(handle, [], entries) == 2
    assert (home / "WKSHP-X/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (home / "WKSHP-X/deep/er/data.bin").read_bytes() == bytes(range(256))
    assert (home / "WKSHP-X/deep/er/data.bin").stat().st_mode & 0o777 == 0o600
    assert (home / "WKSHP-X/latest").readlink() == Path("run.sh")


def test_a_home_that_is_a_link_is_not_opened(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "student8").symlink_to(outside)
    with pytest.raises(OSError, match="student8"):
        treewriter.open_home(str(tmp_path), "student8")
    with pytest.raises(BadPathError):
        treewriter.open_home(str(tmp_path), "../outside")


@pytest.mark.parametrize("planted", ["WKSHP-X", "WKSHP-X/Pictures", "WKSHP-X/Pictures/precious", ".jupyter"])
def test_a_planted_link_leads_nowhere(home: Path, handle: int, outside: Path, planted: str) -> None:
    link = home / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / "precious" if planted.endswith("precious") else outside)
    entries = [Entry("WKSHP-X/Pictures/precious", "file", 0o644, b"new"), Entry(".jupyter/lab/x", "file", data=b"y")]
    treewriter.install(handle, [], entries)
    assert (outside / "precious").read_text() == "untouched"
    assert sorted(path.name for path in outside.iterdir()) == ["precious"]
    assert (home / "WKSHP-X/Pictures/precious").read_text() == "new"
    assert not (home / "WKSHP-X").is_symlink()


def test_removing_takes_the_link_and_not_its_target(home: Path, handle: int, outside: Path) -> None:
    (home / "WKSHP-X").mkdir()
    (home / "WKSHP-X" / "inner").symlink_to(outside)
    (home / ".jupyter").symlink_to(outside)
    treewriter.install(handle, ["WKSHP-X", ".jupyter/precious", "was-never-there/x"], [])
    assert (outside / "precious").read_text() == "untouched"
    assert not (home / "WKSHP-X").exists()


def test_folders_shut_by_the_student_are_removed(home: Path, handle: int) -> None:
    shut = home / "WKSHP-X" / "shut"
    shut.mkdir(parents=True)
    (shut / "file").write_text("x")
    shut.chmod(0o000)
    treewriter.remove_tree(handle, "WKSHP-X")
    assert list(home.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_gives_way(home: Path, handle: int) -> None:
    (home / "WKSHP-X" / "0-ReadMeFirst.ipynb" / "deep").mkdir(parents=True)
    treewriter.install(handle, [], [Entry("WKSHP-X/0-ReadMeFirst.ipynb", "file", data=b"{}")])
    assert (home / "WKSHP-X/0-ReadMeFirst.ipynb").read_bytes() == b"{}"
    assert [path.name for path in (home / "WKSHP-X").iterdir()] == ["0-ReadMeFirst.ipynb"]


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/.", "a\0b", "/".join("a" * 70)])
def test_paths_that_leave_the_home_are_refused(handle: int, path: str) -> None:
    with pytest.raises(BadPathError):
        treewriter.install(handle, [], [Entry(path, "file", data=b"x")])
    with pytest.raises(BadPathError):
        treewriter.remove_tree(handle, path)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.dictionaries(NAMES.filter(lambda name: name not in (".", "..")), st.binary(max_size=50), max_size=6))
def test_packing_and_unpacking_gives_the_same(files: dict[str, bytes]) -> None:
    entries = [Entry(f"folder/{name}", "file", 0o640, data) for name, data in files.items()]
    assert list(treewriter.unpack(treewriter.pack(entries))) == entries


def test_names_that_are_no_unicode_survive_packing() -> None:
    entries = [Entry(os.fsdecode(b"WKSHP-X/caf\xe9\n"), "file", 0o600, b"x"), Entry("a", "link", 0o644, target="b")]
    assert list(treewriter.unpack(treewriter.pack(entries))) == entries
