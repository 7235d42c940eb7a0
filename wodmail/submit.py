"""Sending a command to a backend by mail: built, signed when the key is at hand, sent by SMTP."""

from __future__ import annotations

import ipaddress
import os
import secrets
import smtplib
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid

from wodmail.config import Settings
from wodmail.errors import Refused, Temporary
from wodmail.mail import trust
from wodmail.model import Command

CONNECT_SECONDS = 30


class _Dialogue(smtplib.SMTP):
    """An SMTP client that shows every reply as it is received."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(timeout=CONNECT_SECONDS)
        self._show = show

    def getreply(self) -> tuple[int, bytes]:
        code, message = super().getreply()
        lines = message.decode("utf-8", "replace").split("\n")
        for number, line in enumerate(lines, 1):
            self._show(f"{code}{'-' if number < len(lines) else ' '}{line}".rstrip())
        return code, message


def build(settings: Settings, command: Command, subject: str, workshop: str) -> EmailMessage:
    """The mail that carries a command.

    Args:
        settings: whose backend it is for; signed with the newest key of WODSIGNKEYFILE when that may be read.
        command: what `subject` means.
        subject: the subject.
        workshop: WKSHP-Name, CHLG-Name, or for PURGE any word.
    """
    mail = EmailMessage(policy=SMTP)
    mail["From"] = settings.test_sender
    mail["To"] = recipient(settings)
    mail["Subject"] = subject
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=settings.WODBEFQDN)
    key = _key(settings)
    if key is not None:
        nonce = secrets.token_urlsafe(18)
        value = trust.sign(key, settings.WODBEFQDN, command, workshop, int(time.time()), nonce)
        mail[trust.SIGNATURE_HEADER] = value
    mail.set_content(f"{workshop}\n")
    return mail


def recipient(settings: Settings) -> str:
    """The address that commands are sent to; the backend looks at the subject alone."""
    return f"{settings.WODUSER}@{settings.WODBEFQDN}"


def server(settings: Settings) -> str:
    """Where the backend's SMTP server is: WODLISTEN when that is one address, else WODBEFQDN."""
    try:
        wildcard = ipaddress.ip_address(settings.WODLISTEN).is_unspecified
    except ValueError:
        wildcard = settings.WODLISTEN == "*"
    return settings.WODBEFQDN if wildcard else settings.WODLISTEN


def send(settings: Settings, mail: EmailMessage, show: Callable[[str], None]) -> None:
    """Send a mail to the backend.

    Args:
        settings: see `build`.
        mail: what `build` gave.
        show: is given each of the server's replies, a line at a time.

    Raises:
        Temporary: there is no server, or it takes no mail now.
        Refused: the server refuses the mail.
    """
    host, port = server(settings), settings.WODPOSTPORT
    client = _Dialogue(show)
    try:
        code, _ = client.connect(host, port)
        if code != 220:
            raise Temporary(f"The server at {host} port {port} takes no mail now; try again later.")
        client.helo()
        client.sendmail(settings.test_sender, [recipient(settings)], mail.as_bytes())
        client.quit()
    except smtplib.SMTPServerDisconnected as error:
        raise Temporary(f"The server at {host} port {port} hung up; is it shutting down?", str(error)) from error
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPResponseException) as error:
        raise Refused("The server refused the mail; its last reply says why.", str(error)) from error
    except OSError as error:
        words = f"No mail server answers at {host} port {port} ({error.strerror or error})."
        raise Temporary(f"{words} Start `wodmail serve`, or check WODLISTEN and WODPOSTPORT.", str(error)) from error
    finally:
        client.close()


def _key(settings: Settings) -> bytes | None:
    """The newest signing key when there is a file of them that this account may read."""
    file = settings.WODSIGNKEYFILE
    if file is None or not os.access(file, os.R_OK):
        return None
    return trust.read_keys(file)[0]
