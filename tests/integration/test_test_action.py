"""wod-test-action against a real listener on a port of its own: usage, dialogue, signature, refusals, --wait."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.contract.accounts_contract import notebook
from tests.parts import require
from tests.support import free_port
from wodmail import exporting, store, submit
from wodmail.cli import test_action
from wodmail.config import Settings, load
from wodmail.mail import message, trust
from wodmail.mail.command import Limits, parse
from wodmail.mail.listener import Listener
from wodmail.mail.spool import Spool
from wodmail.model import Command

KEY = "0123456789abcdef0123456789abcdef"
SYNTAX = "Syntax: wod-test-action <CREATE|CLEANUP|RESET|PURGE|PDF|WORD> WKSHOP [MIN[,MAX]]"


def configure(folder: Path, **more: object) -> Path:
    """A sandbox configuration in the folder, with one workshop that has a range."""
    workshop = folder / "notebooks" / "WKSHP-Tea101"
    workshop.mkdir(parents=True, exist_ok=True)
    (workshop / "wod.yml").write_text("%YAML 1.1\n# Tea\n---\nname: Tea\nrange: [4, 6]\n", encoding="ascii")
    values = {"WODSANDBOX": True, "WODSTATEDIR": "state", "WODNOBO": "notebooks", "WODPOSTPORT": free_port(), **more}
    file = folder / "wod.yml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@contextmanager
def listening(file: Path) -> Iterator[Spool]:
    """A listener without a worker; gives its spool."""
    settings = load(file, files=False)
    settings.WODSTATEDIR.mkdir()
    spool = Spool(settings.WODSTATEDIR / "spool")
    listener = Listener(settings, spool, lambda: None)
    listener.start()
    try:
        yield spool
    finally:
        listener.stop()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[Path, Spool]]:
    """A listener with signing keys: its configuration and its spool."""
    (tmp_path / "keys").write_text(f"{KEY}\n", encoding="ascii")
    (tmp_path / "keys").chmod(0o600)
    file = configure(tmp_path, WODSIGNKEYFILE="keys")
    with listening(file) as spool:
        yield file, spool


def act(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], list[str]]:
    """Run the command; gives its status and the lines of stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        test_action.main(argv)
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.splitlines(), err.splitlines()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "ACTION is mandatory"),
        (["CREATE"], "WKSHOP is mandatory"),
        (["DELETE", "WKSHP-Tea101", "1"], "ACTION must be one of"),
        (["CREATE", "Tea101", "1"], "WKSHOP must be WKSHP-Name or CHLG-Name"),
        (["CREATE", "WKSHP-Tea101\nWKSHP-Other", "1"], "WKSHOP must be WKSHP-Name or CHLG-Name"),
        (["CREATE", "WKSHP-Unknown"], "MIN is mandatory"),
        (["PURGE", "VOID"], "MIN is mandatory"),
        (["PURGE", "VOID", "1,3"], "PURGE takes one student, no range"),
        (["CREATE", "WKSHP-Tea101", "01"], "leading zero"),
        (["CREATE", "WKSHP-Tea101", "3,1"], "ends at 1, before it begins"),
        (["CREATE", "WKSHP-Tea101", "2001"], "not between 1 and 2000"),
        (["CREATE", "WKSHP-Tea101", "1 5"], "is no plain e-mail address"),
        (["CREATE", "WKSHP-Tea101", "1", "2"], "unrecognized arguments: 2"),
        (["CREATE", "WKSHP-Tea101", "1", "--timeout", "soon"], "--timeout"),
        (["CREATE", "WKSHP-Tea101", "1", "--timeout", "0"], "--timeout"),
    ],
)
def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str) -> None:
    status, out, err = act(capsys, *words, "--config", str(configure(tmp_path)))
    assert (status, out, err[0]) == (64, [], SYNTAX)
    assert complaint in "\n".join(err[1:])


def test_dialogue_is_shown_as_received(door: tuple[Path, Spool], capsys: pytest.CaptureFixture[str]) -> None:
    file, spool = door
    status, out, err = act(capsys, "create", "WKSHP-Tea101", "121", "--config", str(file))
    (key,) = spool.new()
    assert (status, err) == (0, [])
    assert out[:4] == [
        "Action: CREATE",
        "We are working on WKSHP-Tea101",
        "Student range: 121",
        "Sending a mail to CREATE student 121 for workshop WKSHP-Tea101",
    ]
    assert [line[:4] for line in out[4:]] == ["220 ", "250 ", "250 ", "250 ", "354 ", "250 ", "221 "]
    assert key in out[-2]


def test_mail_says_what_was_asked_and_is_signed(door: tuple[Path, Spool], capsys: pytest.CaptureFixture[str]) -> None:
    file, spool = door
    status, _, _ = act(capsys, "RESET", "CHLG-Tea101", "1,40", "--config", str(file))
    (key,) = spool.new()
    stored = spool.read(key)
    mail = message.read(stored.raw)
    settings = load(file, files=False).model_copy(update={"WODREQUIRESIGNATURE": True})
    command = parse(mail.subject, limits=Limits.of(settings))
    assert isinstance(command, Command)
    assert (status, mail.subject, mail.workshop_line) == (0, "RESET 1,40 0", "CHLG-Tea101")
    assert stored.sender == "wodadmin@localhost"
    assert mail.message_id.startswith("<") and mail.message_id.endswith("@localhost>")
    assert trust.verify(settings, [KEY.encode()], mail, command, "CHLG-Tea101", stored.stored) is not None


def test_without_a_key_the_mail_is_unsigned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configure(tmp_path, WODSIGNKEYFILE="absent")
    with listening(file) as spool:
        status, _, _ = act(capsys, "CREATE", "WKSHP-Tea101", "1", "--config", str(file))
        (key,) = spool.new()
        assert status == 0
        assert message.read(spool.read(key).raw).all(trust.SIGNATURE_HEADER) == []


@pytest.mark.parametrize(
    ("words", "subjects"),
    [
        (["CREATE", "WKSHP-Tea101", "1,3"], ["CREATE 1 0", "CREATE 2 0", "CREATE 3 0"]),
        (["CLEANUP", "WKSHP-Tea101"], ["CLEANUP 4 0", "CLEANUP 5 0", "CLEANUP 6 0"]),
        (["RESET", "WKSHP-Tea101"], ["RESET 4,6 0"]),
        (["PURGE", "VOID", "7"], ["PURGE 7 0"]),
    ],
)
def test_ranges(
    door: tuple[Path, Spool], capsys: pytest.CaptureFixture[str], words: list[str], subjects: list[str]
) -> None:
    file, spool = door
    status, out, _ = act(capsys, *words, "--config", str(file))
    sent = [message.read(spool.read(key).raw) for key in spool.new()]
    assert (status, [mail.subject for mail in sent]) == (0, subjects)
    assert len({mail.message_id for mail in sent}) == len(subjects)
    assert sum(line.startswith("Sending a mail to ") for line in out) == len(subjects)


def test_exports_are_done_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configure(tmp_path)
    folder = load(file, files=False).WODSTUDDIR / "student5" / "WKSHP-Tea101"
    folder.mkdir(parents=True)
    (folder / "a.ipynb").write_text(notebook("hello"))
    (folder / "b.ipynb").write_text("{")
    status, out, err = act(capsys, "word", "CHLG-Tea101", "5,6", "--config", str(file))
    assert status == 1
    assert [line.partition("  ")[0] for line in out if line.startswith("/")] == [str(folder / "a.docx")]
    assert (folder / "a.docx").read_bytes().startswith(b"PK")
    assert err == [
        "b.ipynb: It is no valid notebook.",
        "student6 has no folder WKSHP-Tea101, so there is nothing to export. Send a CREATE first.",
    ]


def test_a_pdf_is_made_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configure(tmp_path)
    folder = load(file, files=False).WODSTUDDIR / "student5" / "WKSHP-Tea101"
    folder.mkdir(parents=True)
    (folder / "a.ipynb").write_text(notebook("hello"))
    status, out, err = act(capsys, "pdf", "WKSHP-Tea101", "5", "--config", str(file))
    assert (status, err) == (0, [])
    assert [line.partition("  ")[0] for line in out if line.startswith("/")] == [str(folder / "a.pdf")]
    words = subprocess.run([require("pdftotext"), folder / "a.pdf", "-"], capture_output=True, text=True, check=True)
    assert "hello" in words.stdout


@pytest.mark.parametrize("action", ["PDF", "WORD"])
def test_exports_that_are_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(exporting, "NEEDED", ("no_such_module",))
    status, _, err = act(capsys, action, "WKSHP-Tea101", "5", "--config", str(configure(tmp_path)))
    assert status == 1
    assert "pip install 'wodmail[export]'" in err[0]


def test_refusal_of_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configure(tmp_path, WODALLOWEDSENDERS=["somebody@example.org"])
    with listening(file) as spool:
        status, out, err = act(capsys, "CREATE", "WKSHP-Tea101", "1", "--config", str(file))
        assert (status, spool.new()) == (1, [])
        assert any(line.startswith("550 ") for line in out)
        assert "refused" in err[0]


def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configure(tmp_path)
    status, _, err = act(capsys, "CREATE", "WKSHP-Tea101", "1", "--config", str(file))
    assert status == 69
    assert "No mail server answers at 127.0.0.1 port" in err[0]


def test_bad_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = act(capsys, "CREATE", "WKSHP-Tea101", "1", "--config", str(configure(tmp_path, WODPOSTPORT="x")))
    assert status == 78
    assert "WODPOSTPORT: must be a whole number" in "\n".join(err)


def test_wait_gives_up_after_its_time(door: tuple[Path, Spool], capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = door
    database = store.open_store(load(file))
    database.migrate()
    database.close()
    words = ["CREATE", "WKSHP-Tea101", "1", "--wait", "--timeout", "0.3"]
    status, _, err = act(capsys, *words, "--config", str(file))
    assert status == 75
    assert "Not ended after 0.3 s" in err[0]


def test_wait_without_a_database(door: tuple[Path, Spool], capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = door
    status, _, err = act(capsys, "CREATE", "WKSHP-Tea101", "1", "--wait", "--config", str(file))
    assert status == 69
    assert "wodmail serve" in err[0]


def test_which_server() -> None:
    assert submit.server(Settings(WODLISTEN="127.0.0.9", WODBEFQDN="b.example.org")) == "127.0.0.9"
    for wildcard in ("0.0.0.0", "::", "*"):  # noqa: S104
        assert submit.server(Settings(WODLISTEN=wildcard, WODBEFQDN="b.example.org")) == "b.example.org"
