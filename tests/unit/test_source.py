"""Which files are expanded, and what is read of a workshop's folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wodmail.copyfolder import source
from wodmail.errors import Failed


@pytest.mark.parametrize(
    "name", ["a.ipynb", "b.yaml", "c.py", "d.sh", "e.src", "f.tf", "g.env", "Variables.ps1", ".env", "odd\nname.py"]
)
def test_expanded_names(name: str) -> None:
    assert source.is_expanded(name)


@pytest.mark.parametrize(
    "name",
    [
        "a-checkpoint.ipynb",
        "b.yml",
        "c.pyc",
        "d.sh.j2",
        "e.j2",
        "Other.ps1",
        "variables.ps1",
        "x.IPYNB",
        "py",
        "f.tf.txt",
    ],
)
def test_kept_names(name: str) -> None:
    assert not source.is_expanded(name)


def test_links_are_kept_and_never_followed(tmp_path: Path) -> None:
    folder = tmp_path / "WKSHP-Links101"
    (folder / "real").mkdir(parents=True)
    (folder / "real" / "a.py").write_text("1")
    (tmp_path / "secret").write_text("the server's own")
    for name, target in {"in": "real", "near": "../WKSHP-Other", "out": "../../../etc", "abs": "/etc/passwd"}.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    read = source.read(folder)
    assert [(entry.path, entry.kind) for entry in read.entries] == [
        ("in", "link"),
        ("near", "link"),
        ("real", "dir"),
        ("real/a.py", "file"),
    ]
    assert read.skipped == ("abs", "out", "pipe")


def test_public_before_private_and_a_clear_word_when_it_is_nowhere(tmp_path: Path) -> None:
    for name in ("public/WKSHP-A", "private/WKSHP-A", "private/WKSHP-B"):
        (tmp_path / name).mkdir(parents=True)
    public, private = str(tmp_path / "public"), str(tmp_path / "private")
    assert source.find("WKSHP-A", public, private) == tmp_path / "public/WKSHP-A"
    assert source.find("WKSHP-B", public, private) == tmp_path / "private/WKSHP-B"
    with pytest.raises(Failed, match="no folder WKSHP-C"):
        source.find("WKSHP-C", public, private)
    with pytest.raises(Failed, match="no name"):
        source.find("../private/WKSHP-B", public, private)
