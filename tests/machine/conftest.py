"""Machines that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.machine import Machine


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a fresh Debian; one for each module."""
    folder: Path = tmp_path_factory.mktemp("machine")
    with Machine(folder) as machine:
        yield machine
