"""What is read of a home that somebody filled to keep us busy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wodmail.students import homes


@pytest.mark.parametrize(("limit", "read"), [(1000, 30), (33, 30), (13, 10), (3, 0)])
def test_countless_names_are_not_all_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, read: int
) -> None:
    monkeypatch.setattr(homes, "MAX_NAMES", limit)
    for folder in (tmp_path / "WKSHP-Try101" / name for name in "abc"):
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / f"{number}.ipynb").touch()
    home = os.open(tmp_path, os.O_RDONLY)
    try:
        assert len(homes.notebooks(home, "WKSHP-Try101")) == read
    finally:
        os.close(home)
