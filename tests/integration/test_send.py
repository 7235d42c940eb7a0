"""Handing mails over: to a Maildir, and to a real SMTP server."""

from __future__ import annotations

import mailbox
import os
import socket
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support import free_port
from wodmail.config import Settings
from wodmail.errors import ConfigError, Failed, Temporary
from wodmail.mail.send import Sender

TO = "person@example.org"


def a_mail(
    identity: str = "<wodmail.1.0.result@backend.example.org>", text: str = "First line.\n.\nFrom here\n"
) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "wodadmin@backend.example.org", TO, "Re: CREATE 1 0: done"
    mail["Message-ID"] = identity
    mail.set_content(text)
    return mail


def outbox(folder: Path) -> Sender:
    return Sender(Settings(WODOUTBOX=folder))


class Recorder:
    """A mail server's handler: keeps what it gets, answers what it is told to."""

    def __init__(self) -> None:
        self.mails: list[Envelope] = []
        self.answers = {"RCPT": "250 fine", "DATA": "250 kept"}

    async def handle_RCPT(  # noqa: N802 - the name that aiosmtpd calls
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.answers["RCPT"].startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answers["RCPT"]

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        self.mails.append(envelope)
        return self.answers["DATA"]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def sender(recorder: Recorder) -> Iterator[Sender]:
    controller = Controller(recorder, hostname="127.0.0.1", port=free_port(), ready_timeout=60)
    controller.start()
    yield Sender(Settings(WODSMTPURL=f"smtp://127.0.0.1:{controller.port}"))
    controller.stop()


def test_a_mail_server_gets_it_with_a_null_sender(sender: Sender, recorder: Recorder) -> None:
    sender.send(a_mail(), f"<{TO}>")
    (envelope,) = recorder.mails
    assert envelope.mail_from == "<>"  # what aiosmtpd makes of the null sender
    assert envelope.rcpt_tos == [TO]
    assert isinstance(envelope.content, bytes)
    assert envelope.content.endswith(b"\r\n\r\nFirst line.\r\n.\r\nFrom here\r\n")
    assert b"\n" not in envelope.content.replace(b"\r\n", b"")
    assert b"Message-ID: <wodmail.1.0.result@backend.example.org>\r\n" in envelope.content


@pytest.mark.parametrize(
    ("command", "answer", "error"),
    [
        ("RCPT", "550 5.1.1 no such user", Failed),
        ("RCPT", "450 4.2.0 greylisted", Temporary),
        ("DATA", "554 5.6.0 not that", Failed),
        ("DATA", "452 4.3.1 disk full", Temporary),
    ],
)
def test_refusals_of_a_mail_server(
    sender: Sender, recorder: Recorder, command: str, answer: str, error: type[Failed]
) -> None:
    recorder.answers[command] = answer
    with pytest.raises(error) as raised:
        sender.send(a_mail(), TO)
    assert answer in raised.value.operator


def test_a_server_that_is_not_there_is_temporary() -> None:
    with pytest.raises(Temporary, match="can't be reached"):
        Sender(Settings(WODSMTPURL=f"smtp://127.0.0.1:{free_port()}")).send(a_mail(), TO)


def test_a_server_that_never_answers_is_temporary() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(WODSMTPURL=f"smtp://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(Temporary, match="can't be reached"):
            Sender(settings, timeout=0.2).send(a_mail(), TO)


@pytest.mark.parametrize(
    "url", ["", "localhost:25", "http://localhost:25", "smtp://:25", "smtp://u:p@h:25", "smtp://h:x", "smtp://a..b:1"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="WODSMTPURL"):
        Sender(Settings(WODSMTPURL=url))


@pytest.mark.parametrize("address", ["", "a b", "a@b\r\nRCPT TO:<x@y>", "a@b,c@d", "-oQ/tmp", "é@b"])
def test_addresses_that_are_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(Failed, match="no address"):
        outbox(tmp_path / "outbox").send(a_mail(), address)
    assert not (tmp_path / "outbox" / "new").exists()


def test_an_outbox_is_a_maildir(tmp_path: Path) -> None:
    outbox(tmp_path / "outbox").send(a_mail(), TO)
    (mail,) = mailbox.Maildir(tmp_path / "outbox", create=False)
    assert mail["Subject"] == "Re: CREATE 1 0: done"
    assert mail.get_payload() == "First line.\n.\nFrom here\n"
    (file,) = (tmp_path / "outbox" / "new").iterdir()
    assert b"\r" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "outbox").stat().st_mode & 0o777 == 0o700
    assert not list((tmp_path / "outbox" / "tmp").iterdir())


def test_a_repeat_replaces_and_does_not_double(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.send(a_mail(text="before the crash\n"), TO)
    box.send(a_mail(text="after the crash\n"), TO)
    box.send(a_mail(text="a copy\n"), "ops@example.org")
    box.send(a_mail("<wodmail.2.0.result@backend.example.org>"), TO)
    texts = sorted(mail.get_payload() for mail in mailbox.Maildir(tmp_path, create=False))
    assert texts == ["First line.\n.\nFrom here\n", "a copy\n", "after the crash\n"]


def test_a_mail_that_was_read_meanwhile_is_not_delivered_again(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.send(a_mail(), TO)
    (file,) = (tmp_path / "new").iterdir()
    file.rename(tmp_path / "cur" / f"{file.name}:2,S")
    box.send(a_mail(), TO)
    assert not list((tmp_path / "new").iterdir())


def test_what_a_crash_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.send(a_mail(), TO)
    (file,) = (tmp_path / "new").iterdir()
    file.rename(tmp_path / "tmp" / file.name)
    os.truncate(tmp_path / "tmp" / file.name, 10)
    box.send(a_mail(), TO)
    assert file.read_bytes().endswith(b"From here\n")
    assert not list((tmp_path / "tmp").iterdir())


def test_an_outbox_that_can_not_be_written_is_temporary(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Temporary, match="outbox"):
        outbox(tmp_path / "file" / "outbox").send(a_mail(), TO)
