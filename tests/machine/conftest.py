"""Machines that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.installed import Installed, install, kept, repository
from tests.machine.machine import Machine


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a fresh Debian; one for each module."""
    folder: Path = tmp_path_factory.mktemp("machine")
    with Machine(folder) as machine:
        yield machine


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A backend made of a fresh Debian, stopped; a test's machine begins with it: `Machine(..., below=[...folder])`."""
    found = kept()
    if found is not None:
        return found
    tree = repository(tmp_path_factory.mktemp("tree") / "wodmail")
    return install(tmp_path_factory.mktemp("installed"), tree)
