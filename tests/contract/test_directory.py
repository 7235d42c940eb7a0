"""The directory contract where there is no directory, and on a real slapd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.directory_contract import DirectoryContract
from tests.slapdsite import Slapd, slapd
from wodmail import directory as directories
from wodmail.directory import Directory, NoDirectory
from wodmail.schema import Settings


class TestNoDirectory(DirectoryContract):
    @pytest.fixture
    def directory(self) -> Directory:
        return directories.for_settings(Settings(WODSANDBOX=True))

    def test_is_none(self, directory: Directory) -> None:
        assert isinstance(directory, NoDirectory)


@pytest.fixture(scope="module")
def server() -> Iterator[Slapd]:
    with slapd() as made:
        yield made


class TestLdap(DirectoryContract):
    @pytest.fixture
    def directory(self, server: Slapd) -> Directory:
        return directories.for_settings(server.settings())

    def test_is_one(self, directory: Directory) -> None:
        assert directory.enabled
