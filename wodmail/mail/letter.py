"""An outgoing mail as an object: headers that nobody can inject into, and who must never be answered. Pure."""

from __future__ import annotations

import email.policy
import hashlib
import re
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime

from wodmail.config import Settings
from wodmail.mail.grammar import is_address, visible
from wodmail.mail.message import Message

LOOP_HEADER = "X-WOD-Loop"
MAX_REFERENCES = 10
_LOCAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}")
_MESSAGE_ID = re.compile(r"<[!-;=@-~]{1,250}>")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_POLICY = email.policy.SMTP.clone(max_line_length=78)


def no_reply_reason(message: Message, sender: str) -> str:
    """Why a mail must not be answered (RFC 3834 sections 2 and 4), empty when it may be.

    Args:
        message: the mail.
        sender: its envelope sender; the only address that is ever answered.
    """
    address = bare(sender)
    if not address:
        return "its sender is empty"
    if not deliverable(address):
        return "its sender is no plain address"
    if address.partition("@")[0].lower() in ("mailer-daemon", "postmaster"):
        return "its sender is a mail system"
    if message.all(LOOP_HEADER):
        return "it is a mail of ours"
    if message.auto_submitted:
        return "a program sent it of its own accord"
    if message.delivery_report:
        return "it is a delivery report"
    if message.bulk:
        return "it is list or bulk mail"
    return ""


def should_reply(message: Message, sender: str) -> bool:
    """Whether a mail may be answered; see `no_reply_reason`."""
    return not no_reply_reason(message, sender)


def bare(address: str) -> str:
    """An envelope address without blanks and angle brackets around it."""
    return address.strip().removeprefix("<").removesuffix(">").strip()


def deliverable(address: str) -> bool:
    """Whether mail can be sent to it: one plain address, or the name of a local user."""
    return is_address(address) or _LOCAL_NAME.fullmatch(address) is not None


def message_id(settings: Settings, request: int, kind: str, received: datetime, turn: int = 1) -> str:
    """The Message-ID of an outgoing mail: the same whenever the same mail is made again.

    Args:
        settings: name the backend.
        request: the request's number.
        kind: what the mail is, for example `result`.
        received: when the request came in: tells apart the requests of two lives of a state folder.
        turn: 1, one more after each retry, whose result is another mail.
    """
    stamp = f"{int(received.timestamp()):x}"
    again = f".{turn}" if turn > 1 else ""
    return f"<wodmail.{request}.{stamp}.{kind}{again}@{host(settings)}>"


def host(settings: Settings) -> str:
    """WODBEFQDN when it can stand in a header, else localhost."""
    return settings.WODBEFQDN if _HOST.fullmatch(settings.WODBEFQDN) else "localhost"


def letter(
    settings: Settings,
    *,
    to: str,
    subject: str,
    text: str,
    identity: str,
    at: datetime,
    automatic: str = "auto-replied",
    in_reply_to: str = "",
    references: str = "",
) -> EmailMessage:
    """Make a mail.

    Args:
        settings: name the sender and the backend.
        to: the recipient; see `deliverable`.
        subject: made visible and cut to 200 characters.
        text: the body; whatever does not print is written as an escape.
        identity: the Message-ID.
        at: the date; with a time zone.
        automatic: the Auto-Submitted header, `auto-replied` or `auto-generated` (RFC 3834 section 5).
        in_reply_to: Message-ID of the mail that it answers; empty for none.
        references: the References header of that mail.
    """
    mail = EmailMessage(policy=_POLICY)
    name = settings.WODUSER if _LOCAL_NAME.fullmatch(settings.WODUSER) else "wodmail"
    mail["From"] = f"Workshops-on-Demand <{name}@{host(settings)}>"
    mail["To"] = bare(to) if deliverable(bare(to)) else "undisclosed-recipients:;"
    # an encoded word that was text until now would be decoded on the way into the header
    mail["Subject"] = visible(subject, 200).replace("=?", "= ?")
    mail["Date"] = format_datetime(at)
    mail["Message-ID"] = identity
    mail["Auto-Submitted"] = automatic
    mail[LOOP_HEADER] = host(settings)
    mail["X-Auto-Response-Suppress"] = "All"
    _thread(mail, in_reply_to, references)
    body = printable(text).rstrip("\n") + "\n"
    # long lines of plain ASCII stay as they are, so that the mail in the outbox can be searched
    plain = body.isascii() and max(map(len, body.splitlines())) < 998
    mail.set_content(body, cte="7bit" if plain else "quoted-printable")
    return mail


def printable(text: str) -> str:
    """The text with everything that does not print, except line ends and tabs, as escapes."""
    return "\n".join(visible(line, len(line)).replace("\\t", "\t").rstrip() for line in text.splitlines())


def file_name(mail: EmailMessage, to: str) -> str:
    """A name for the mail in a folder: the same for the same Message-ID and recipient."""
    digest = hashlib.sha256(f"{mail['Message-ID']}\n{to}".encode()).hexdigest()
    return f"wodmail.{digest[:40]}"


def _thread(mail: EmailMessage, in_reply_to: str, references: str) -> None:
    """Thread a reply under the mail that it answers (RFC 5322 section 3.6.4); malformed identifiers are left out."""
    if not _MESSAGE_ID.fullmatch(in_reply_to):
        return
    known = [one for one in _MESSAGE_ID.findall(references) if one != in_reply_to]
    mail["In-Reply-To"] = in_reply_to
    mail["References"] = " ".join([*known[:1], *known[1:][-MAX_REFERENCES:], in_reply_to])
