"""What every directory must do; an LDAP directory runs this class with a server that knows student 1."""

from __future__ import annotations

import traceback

import pytest

from wodmail.directory import Directory
from wodmail.errors import Failed, WodmailError

PASSWORD = "s3cretPW"


class DirectoryContract:
    """Run by every implementation; a subclass gives a `directory` fixture that knows student 1 and not 1999."""

    def test_is_a_directory(self, directory: Directory) -> None:
        assert isinstance(directory, Directory)

    def test_set_twice_when_there_is_one(self, directory: Directory) -> None:
        if directory.enabled:
            assert [directory.set_password(1, PASSWORD), directory.set_password(1, PASSWORD)] == [None, None]
        else:
            with pytest.raises(Failed, match="LDAP"):
                directory.set_password(1, PASSWORD)

    def test_failure_is_clear_and_holds_no_password(self, directory: Directory) -> None:
        with pytest.raises(Failed) as caught:
            directory.set_password(1999, PASSWORD)
        error: WodmailError = caught.value
        told = error.sender + error.operator + "".join(traceback.format_exception_only(error))
        assert "1999" in told
        assert PASSWORD not in told
