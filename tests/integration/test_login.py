"""STARTTLS and AUTH on the listener, with smtplib as the client."""

from __future__ import annotations

import base64
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doors import STRICT, Running, read_until, running
from wodmail.mail.auth import hash_password

MAIL = b"Subject: PING\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=backend.test"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def door(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Running]:
    users = tmp_path / "users"
    users.write_text(f"ann:{hash_password('werty123')}\n")
    cert, key = certificate
    values = {"WODAUTHFILE": users, "WODTLSCERT": cert, "WODTLSKEY": key}
    with running(tmp_path, peers=False, **values, **STRICT) as made:
        yield made


def client_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.check_hostname = False
    return context


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_login_under_tls_counts_as_an_allowed_peer(
    door: Running, certificate: tuple[Path, Path], mechanism: str
) -> None:
    with smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client:
        client.starttls(context=client_context(certificate))
        client.ehlo()
        assert "starttls" not in client.esmtp_features
        assert client.mail("a@b.test")[0] == 550
        client.user, client.password = "ann", "werty123"
        client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
        client.sendmail("a@b.test", ["x@y"], MAIL)
    [mail] = door.mails()
    assert mail.authenticated and mail.sender == "a@b.test"


def test_a_wrong_password_or_user_does_not(door: Running, certificate: tuple[Path, Path]) -> None:
    for user, password in (("ann", "werty124"), ("bob", "werty123"), ("", "")):
        with smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client:
            client.starttls(context=client_context(certificate))
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                client.login(user, password)
            assert caught.value.smtp_code == 535
            assert client.mail("a@b.test")[0] == 550
    assert door.mails() == []


def test_guessing_is_cut_short(door: Running) -> None:
    wrong = base64.b64encode(b"\0ann\0no").decode()
    with smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client:
        client.ehlo()
        assert [client.docmd("AUTH", f"PLAIN {wrong}")[0] for _ in range(4)] == [535, 535, 535, 421]


def test_loopback_may_log_in_without_tls(door: Running) -> None:
    with smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client:
        client.login("ann", "werty123")
        client.sendmail("a@b.test", ["x@y"], MAIL)
    assert [mail.authenticated for mail in door.mails()] == [True]


def test_elsewhere_a_login_needs_tls(door: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wodmail.mail.dialect.is_loopback", lambda _peer: False)
    with smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.docmd("AUTH", "PLAIN " + base64.b64encode(b"\0ann\0werty123").decode())[0] == 538


def test_there_is_no_login_without_a_file_of_users(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with (
        running(tmp_path, WODTLSCERT=cert, WODTLSKEY=key) as door,
        smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client,
    ):
        client.starttls(context=client_context(certificate))
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.docmd("AUTH", "PLAIN AAAA")[0] == 502
        client.sendmail("a@b.test", ["x@y"], MAIL)
        assert len(door.mails()) == 1


def test_what_was_sent_before_tls_does_not_count_under_tls(door: Running, certificate: tuple[Path, Path]) -> None:
    # Commands that a man in the middle put behind STARTTLS (CVE-2011-0411).
    with door.connect() as plain:
        read_until(plain, b"220 ")
        plain.sendall(b"EHLO x\r\n")
        read_until(plain, b"250 ")
        plain.sendall(b"STARTTLS\r\nNOOP injected\r\n")
        read_until(plain, b"220 ")
        context = client_context(certificate)
        with context.wrap_socket(plain) as secure:
            secure.sendall(b"EHLO x\r\n")
            assert read_until(secure, b"250 ").startswith(b"250-backend.test")


def test_no_password_reaches_a_log(
    door: Running, certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client:
        client.login("ann", "werty123")
        client.docmd("AUTH", "PLAIN " + base64.b64encode(b"\0ann\0werty123").decode())
    secrets = ["werty123", base64.b64encode(b"werty123").decode(), base64.b64encode(b"\0ann\0werty123").decode()]
    assert not any(secret in caplog.text for secret in secrets)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
