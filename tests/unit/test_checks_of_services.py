"""What a configuration is warned of when it works with secrets of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.copying import settings_for
from wodmail import checks
from wodmail.errors import Problem

LDAP = {"WODLDAPDMN": "dc=example,dc=org", "WODLDAPPWD": "s3cret-4711"}


def advice(folder: Path, **values: object) -> list[Problem]:
    """What is advised, but for the open file itself."""
    file = folder / "wod.yml"
    file.touch(0o600)
    return [each for each in checks.advice(settings_for(folder, **values), file) if each.path != str(file)]


@pytest.mark.parametrize(
    ("host", "tls", "told"),
    [
        ("ldap.example.org", "off", True),
        ("ldap.example.org", "starttls", False),
        ("ldap.example.org", "ldaps", False),
        ("localhost", "off", False),
        ("127.0.0.1", "off", False),
    ],
)
def test_passwords_in_clear_on_a_network(tmp_path: Path, host: str, tls: str, told: bool) -> None:
    found = advice(tmp_path, **LDAP, WODLDAPSRVNAME=host, WODLDAPTLS=tls)
    assert [each.path for each in found] == (["WODLDAPTLS"] if told else [])
    assert "4711" not in str(found)


def test_a_folder_of_variable_files_that_all_may_enter(tmp_path: Path) -> None:
    folder = tmp_path / "private" / "production" / "pass"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    assert ["chmod 0700" in each.message for each in advice(tmp_path)] == [True]
    folder.chmod(0o700)
    assert advice(tmp_path) == []
