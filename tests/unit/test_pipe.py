"""The pipe as a program: exit codes, envelope sender, start-up time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wodmail.mail import pipe
from wodmail.mail.spool import Spool

PROGRAM = Path(pipe.__file__)
MAIL = b"Subject: CREATE 12 0\n\nWKSHP-Demo101\n"
FROM = b"From frontend@wod.test  Fri Mar  3 09:08:35 2023\n"


def run(
    *arguments: str, mail: bytes = MAIL, program: Path = PROGRAM, sender: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    environ = {name: value for name, value in os.environ.items() if name != "SENDER"}
    if sender is not None:
        environ["SENDER"] = sender
    command = [sys.executable, "-I", str(program), *arguments]
    return subprocess.run(command, input=mail, capture_output=True, env=environ, timeout=60)


def test_it_stores_what_the_listener_stores(tmp_path: Path) -> None:
    done = run("--spool", str(tmp_path / "spool"), mail=FROM + MAIL)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    spool = Spool(tmp_path / "spool")
    [key] = spool.new()
    mail = spool.read(key)
    assert (mail.raw, mail.sender, mail.peer, mail.door) == (MAIL, "frontend@wod.test", "", "pipe")
    assert (spool.folder / "new" / key).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("head", "environ", "sender"),
    [
        (FROM, None, "frontend@wod.test"),
        (FROM, "other@wod.test", "frontend@wod.test"),
        (b"", "env@wod.test", "env@wod.test"),
        (b"", None, ""),
        (b"From MAILER-DAEMON  Fri Mar  3 09:08:35 2023\n", None, ""),
        (b'From "a b"@wod.test  Fri Mar  3 09:08:35 2023\n', None, '"a b"@wod.test'),
        (b"From x@y\r\n", None, "x@y"),
    ],
)
def test_the_envelope_sender(tmp_path: Path, head: bytes, environ: str | None, sender: str) -> None:
    assert run(f"--spool={tmp_path}/spool", mail=head + MAIL, sender=environ).returncode == 0
    spool = Spool(tmp_path / "spool")
    mail = spool.read(spool.new()[0])
    assert (mail.sender, mail.raw) == (sender, MAIL)


@pytest.mark.parametrize("mail", [b"", b"\n\n", FROM, FROM + b" \n"])
def test_empty_input_is_65(tmp_path: Path, mail: bytes) -> None:
    done = run("--spool", str(tmp_path / "spool"), mail=mail)
    assert done.returncode == 65 and b"empty" in done.stderr
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize("arguments", [(), ("--spool",), ("--spool=",), ("--wrong", "x"), ("--spool", "a", "b")])
def test_wrong_arguments_are_75(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 75 and b"usage" in done.stderr


def test_a_spool_that_can_not_be_used_is_75(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "spool", tmp_path / "none" / "spool"):
        done = run("--spool", str(place))
        assert done.returncode == 75 and b"will be tried again" in done.stderr
    assert run("--spool", "/proc/spool").returncode == 75


def test_a_crash_inside_is_75(tmp_path: Path) -> None:
    broken = tmp_path / "pipe.py"
    broken.write_text(
        PROGRAM.read_text().replace("def _read_stdin() -> bytes:\n", "def _read_stdin() -> bytes:\n    1 / 0\n")
    )
    done = run("--spool", str(tmp_path / "spool"), program=broken)
    assert done.returncode == 75 and b"ZeroDivisionError" in done.stderr


def test_a_file_size_limit_is_75_and_leaves_nothing(tmp_path: Path) -> None:
    Spool(tmp_path / "spool")
    command = f'ulimit -f 1; exec "{sys.executable}" -I "{PROGRAM}" --spool "{tmp_path}/spool"'
    done = subprocess.run(["bash", "-c", command], input=MAIL + b"x" * 100_000, capture_output=True)
    assert done.returncode == 75, done.stderr
    assert [list((tmp_path / "spool" / name).iterdir()) for name in ("tmp", "new")] == [[], []]


def test_it_imports_next_to_nothing() -> None:
    script = f"import sys; before = set(sys.modules); sys.path.insert(0, {str(PROGRAM.parent)!r}); import pipe; " + (
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__future__", "fcntl", "pipe", "time"}
