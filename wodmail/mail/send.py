"""Mail out: into a Maildir (WODOUTBOX) or to a mail server (WODSMTPURL), always with the null envelope sender."""

from __future__ import annotations

import contextlib
import os
import smtplib
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

from wodmail.config import Settings
from wodmail.errors import ConfigError, Failed, Problem, Temporary
from wodmail.mail.grammar import visible
from wodmail.mail.letter import bare, deliverable, file_name, host

_TOO_LARGE = 552  # RFC 5321 section 4.2.3, RFC 1870 section 6
TIMEOUT = 30.0  # seconds without an answer of the mail server


class TooLarge(Failed):
    """The server takes no mail of that size."""


class Sender:
    """Delivers finished mails.

    Args:
        settings: WODOUTBOX, a Maildir that is made when it isn't there, or without it WODSMTPURL, smtp://host:port.
        timeout: how long to wait for each answer of the mail server, seconds.

    Raises:
        ConfigError: WODSMTPURL is needed and is no such URL.
    """

    def __init__(self, settings: Settings, *, timeout: float = TIMEOUT) -> None:
        self._outbox = settings.WODOUTBOX
        self._timeout = timeout
        self._name = host(settings)  # smtplib would ask the DNS for our name
        self._host, self._port = ("", 0) if self._outbox else _server(settings.WODSMTPURL)

    def send(self, mail: EmailMessage, to: str) -> None:
        """Hand one mail over; when this returns, it is durable at the other side.

        Args:
            mail: the mail; handing it over again with the same Message-ID and recipient replaces it in a Maildir.
            to: the recipient's address.

        Raises:
            Temporary: the network, the server (4xx) or the disk has trouble; the same mail may pass later.
            TooLarge: the server takes no mail of that size (552).
            Failed: the address is none, or the server refused for good (another 5xx).
        """
        address = bare(to)
        if not deliverable(address):
            raise Failed(f'"{visible(to)}" is no address that mail can be sent to')
        if self._outbox is not None:
            _into_maildir(self._outbox, mail, address)
        else:
            self._by_smtp(mail, address)

    def largest(self) -> int | None:
        """How many bytes a mail may have, as the server's answer to EHLO says (RFC 1870); None when nothing is said.

        Raises:
            Temporary: the server can't be reached.
        """
        if self._outbox is not None:
            return None
        server = smtplib.SMTP(local_hostname=self._name, timeout=self._timeout)
        try:
            server.connect(self._host, self._port)
            server.ehlo()
            said = server.esmtp_features.get("size", "")
        except OSError as error:
            raise Temporary("The mail server can't be reached.", f"{self._host}:{self._port}: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                server.quit()
            server.close()
        return int(said) or None if said.isascii() and said.isdecimal() else None

    def _by_smtp(self, mail: EmailMessage, to: str) -> None:
        where = f"{self._host}:{self._port}"
        server = smtplib.SMTP(local_hostname=self._name, timeout=self._timeout)
        try:
            server.connect(self._host, self._port)
            server.sendmail("", [to], mail.as_bytes(policy=mail.policy.clone(linesep="\r\n")))
        except smtplib.SMTPRecipientsRefused as error:
            raise _refused(where, *next(iter(error.recipients.values()))) from error
        except smtplib.SMTPResponseException as error:
            raise _refused(where, error.smtp_code, error.smtp_error) from error
        except OSError as error:  # smtplib's other errors, a lost connection among them, are OSErrors as well
            raise Temporary("The mail server can't be reached.", f"{where}: {error}") from error
        finally:
            # the mail is accepted or not by now; how the goodbye goes must not make it look lost
            with contextlib.suppress(OSError):
                server.quit()
            server.close()


def _server(url: str) -> tuple[str, int]:
    problem = "must be smtp://host:port"
    try:
        parts = urlsplit(url)
        port = parts.port or 25
        (parts.hostname or "").encode("idna")  # what the resolver does, which is no place to fail
    except ValueError as error:
        raise ConfigError([Problem("WODSMTPURL", f"{problem}: {error}")]) from error
    if parts.scheme != "smtp" or not parts.hostname or parts.path not in ("", "/") or parts.username:
        raise ConfigError([Problem("WODSMTPURL", problem)])
    return parts.hostname, port


def _refused(where: str, code: int, answer: bytes | str) -> Temporary | Failed:
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    cause = f"{where} answered {code} {visible(text, 300)}"
    if code == _TOO_LARGE:
        return TooLarge("The mail server refused the mail: it is too large.", cause)
    if 500 <= code <= 599:
        return Failed("The mail server refused the mail.", cause)
    return Temporary("The mail server can't take the mail now.", cause)


def _into_maildir(folder: Path, mail: EmailMessage, to: str) -> None:
    """Write the mail into new/: temporary file, fsync, rename, fsync of the folder.

    The name comes from the Message-ID, so a repeat after a crash replaces its first copy; one that a mail program has
    moved to cur/ since then was delivered and is left alone.
    """
    name = file_name(mail, to)
    content = mail.as_bytes(policy=mail.policy.clone(linesep="\n"))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in ("tmp", "new", "cur"):
            (folder / part).mkdir(exist_ok=True, mode=0o700)
        if any(path.name.partition(":")[0] == name for path in (folder / "cur").iterdir()):
            return
        temporary = folder / "tmp" / name
        try:
            _write(temporary, content)
            temporary.replace(folder / "new" / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(folder / "new")
    except OSError as error:
        raise Temporary("The outbox can't be written.", f"{folder}: {error}") from error


def _write(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
