"""Password hashes and the file of users."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from wodmail.errors import ConfigError
from wodmail.mail import auth


def test_a_hash_fits_its_password_alone_and_is_never_the_same() -> None:
    first, second = auth.hash_password("pâss"), auth.hash_password("pâss")
    assert first != second
    assert auth.verify_password("pâss", first) and auth.verify_password("pâss", second)
    assert not auth.verify_password("pass", first)
    assert "pâss" not in first and ":" not in first


def test_an_empty_password_has_no_hash() -> None:
    with pytest.raises(ValueError, match="empty"):
        auth.hash_password("")


@pytest.mark.parametrize(
    "text", ["", "plain", "$scrypt$ln=99,r=8,p=1$AAAA$AAAA", "$md5$ln=14,r=8,p=1$AA$AA", "$scrypt$ln=14$AA$AA", "$a$b"]
)
def test_what_is_no_hash_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="wodmail auth hash"):
        auth.verify_password("x", text)


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"# users\n\nann:{auth.hash_password('one')}\n")
    users = auth.AuthFile(file)
    assert users.verify("ann", "one")
    assert not users.verify("ann", "two") and not users.verify("bob", "one") and not users.verify("", "")
    file.write_text(f"ann:{auth.hash_password('two')}\n")
    os.utime(file, (1, 1))
    assert users.verify("ann", "two") and not users.verify("ann", "one")
    file.unlink()
    with pytest.raises(ConfigError):
        users.verify("ann", "two")


def test_all_wrong_lines_are_named(tmp_path: Path) -> None:
    file = tmp_path / "users"
    good = auth.hash_password("one")
    file.write_text(f"ann:{good}\nbob:plain\nann:{good}\nnothing\n")
    with pytest.raises(ConfigError) as caught:
        auth.AuthFile(file)
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert all(f"line {number}" in text for number in (2, 3, 4))
    assert "plain" not in text.replace("explain", "")


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="WODAUTHFILE"):
        auth.AuthFile(tmp_path / "none")


def test_the_command_hashes_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("werty123\n"))
    assert auth.main() == 0
    assert auth.verify_password("werty123", capsys.readouterr().out.strip())
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert auth.main() == 64
    assert "no password" in capsys.readouterr().err
