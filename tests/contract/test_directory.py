"""The directory contract where there is no directory."""

from __future__ import annotations

import pytest

from tests.contract.directory_contract import DirectoryContract
from wodmail.directory import Directory, NoDirectory


class TestNoDirectory(DirectoryContract):
    @pytest.fixture
    def directory(self) -> Directory:
        return NoDirectory()
