"""A student's public key, read from a home in which the student may have put anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.parts import require
from wodmail.errors import Failed
from wodmail.students import keys, publickey

NAME = "student7"


@pytest.fixture
def ssh(tmp_path: Path) -> Path:
    """The .ssh folder of a home, with a new pair of either kind."""
    folder = tmp_path / NAME / ".ssh"
    folder.mkdir(parents=True)
    for kind in ("rsa", "ed25519"):
        for entry in keys.new_pair("rsa" if kind == "rsa" else "ed25519", "student7@here")[1:]:
            (folder.parent / entry.path).write_bytes(entry.data)
    return folder


def test_type_and_data_in_one_line(tmp_path: Path, ssh: Path) -> None:
    assert publickey.read(tmp_path, NAME, "ed25519").split(" ")[0] == "ssh-ed25519"
    line = publickey.read(tmp_path, NAME, "rsa")
    assert line == " ".join((ssh / "id_rsa.pub").read_text().split()[:2])
    asked = [require("ssh-keygen"), "-l", "-f", "-"]
    assert subprocess.run(asked, input=line, text=True, capture_output=True, check=False).returncode == 0
    (ssh / "id_rsa.pub").unlink()
    assert publickey.read(tmp_path, NAME, "rsa").startswith("ssh-ed25519 "), "the other kind, of before"


@pytest.mark.parametrize(
    "trap",
    ["link", "folder-link", "pipe", "folder", "hard", "huge", "two", "options", "newline", "return", "binary", "words"],
)
def test_what_is_no_key_is_refused(tmp_path: Path, ssh: Path, trap: str) -> None:
    file, good = ssh / "id_rsa.pub", (ssh / "id_rsa.pub").read_bytes()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "id_rsa.pub").write_bytes(good)
    file.unlink()
    contents = {
        "huge": good.rstrip() + b" x" * publickey.MAX_BYTES,
        "two": good + good,
        "options": b'command="id" ' + good,
        "newline": b"\n" + good,
        "return": good.replace(b" ", b"\r", 1).rstrip() + b"\rssh-rsa",
        "binary": b"\xff\x00" + good,
        "words": b"ssh-rsa AAAA\n",
    }
    if trap == "link":
        file.symlink_to(outside / "id_rsa.pub")
    elif trap == "folder-link":
        ssh.rename(outside / "ssh")
        ssh.symlink_to(outside)
    elif trap == "hard":
        os.link(outside / "id_rsa.pub", file)
    elif trap == "pipe":
        os.mkfifo(file)
    elif trap == "folder":
        file.mkdir()
    else:
        file.write_bytes(contents[trap])
    with pytest.raises(Failed) as error:
        publickey.read(tmp_path, NAME, "rsa")
    assert str(file) in error.value.operator
    assert good.split()[1].decode() not in error.value.operator + error.value.sender


def test_none_at_all(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(Failed, match="has no public ssh key") as error:
        publickey.read(tmp_path, NAME, "rsa")
    assert "id_rsa.pub" in error.value.operator
