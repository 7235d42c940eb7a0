"""The listener's two SMTP dialects as pure functions: RFC 5321 to the letter, and what trusted peers really send."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_STRICT_PATH = re.compile(r"(?P<word>FROM|TO):<(?P<address>[^<>]*)>(?P<options>(?: +\S+)*) *", re.IGNORECASE)
_LENIENT_PATH = re.compile(
    r"(?P<word>FROM|TO)\s*:\s*(?:<(?P<address>[^<>]*)>|(?P<bare>[^<>\s]+))(?P<options>(?:\s+\S+)*)\s*", re.IGNORECASE
)
_KNOWN_OPTION = re.compile(r"SIZE=(?P<size>\d{1,19})|BODY=(?:7BIT|8BITMIME)|SMTPUTF8|AUTH=\S+", re.IGNORECASE)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
_END = b"\r\n.\r\n"


class LineEnds:
    """Turns bare LF into CRLF in a stream that comes in pieces; whatever the pieces, the result is the same."""

    def __init__(self) -> None:
        self._after_cr = False

    def feed(self, data: bytes) -> bytes:
        """The next piece, bare LFs made CRLF."""
        if not data:
            return data
        fixed = _BARE_LF.sub(b"\r\n", data)
        if self._after_cr and data.startswith(b"\n"):
            fixed = fixed[1:]
        self._after_cr = data.endswith(b"\r")
        return fixed


def path(word: str, argument: str | None, *, lenient: bool) -> tuple[str, list[str]] | None:
    """Address and options of a MAIL or RCPT command, None when the syntax is wrong.

    Args:
        word: FROM or TO.
        argument: what follows the command's name.
        lenient: whether blanks around the colon and a missing pair of angle brackets are let pass.
    """
    found = (_LENIENT_PATH if lenient else _STRICT_PATH).fullmatch(argument or "")
    if found is None or found["word"].upper() != word:
        return None
    parts = found.groupdict()
    return str(parts["address"] if parts["address"] is not None else parts["bare"]), found["options"].split()


def announced_size(options: Sequence[str]) -> int | None:
    """The SIZE (RFC 1870) among MAIL's options, 0 when it is absent; None when an option is unknown."""
    size = 0
    for option in options:
        known = _KNOWN_OPTION.fullmatch(option)
        if known is None:
            return None
        size = max(size, int(known["size"] or 0))
    return size


def whole_mail(unread: bytes | bytearray, limit: int) -> int:
    """The length of the mail that these bytes begin with, its final dot included.

    Args:
        unread: what has come after the 354.
        limit: bytes.

    Returns:
        0 when its end has not come yet, when it is empty, and when it is longer than the limit: read it by lines then.
    """
    found = unread.find(_END)
    length = found + len(_END)
    return length if found >= 0 and length <= limit and not unread.startswith(_END[2:]) else 0


def without_dots(mail: bytes) -> bytes:
    """A mail without its final dot and without the dots put before lines that begin with one (RFC 5321 section 4.5.2).

    Args:
        mail: as it came, as long as `whole_mail` says.
    """
    text = mail[1:] if mail.startswith(b".") else mail
    return text[: 2 - len(_END)].replace(b"\r\n.", b"\r\n")


def has_bare_line_end(mail: bytes) -> bool:
    """Whether a CR or LF stands alone, which RFC 5321 section 2.3.8 forbids and mail smuggling needs."""
    return bool(_BARE_LF.search(mail) or _BARE_CR.search(mail))


def has_content(mail: bytes) -> bool:
    """Whether a mail (LF line ends) has a subject or a body; text right after the headers counts as body, too."""
    lines = [*mail.split(b"\n"), b""]
    for number, line in enumerate(lines):
        if not line.strip():
            return any(rest.strip() for rest in lines[number:])
        if line[:1] in (b" ", b"\t"):
            continue
        name, colon, value = line.partition(b":")
        if not colon or b" " in name.strip():
            return True
        if name.strip().lower() == b"subject" and (value.strip() or _folded_text(lines[number + 1])):
            return True
    return False


def _folded_text(line: bytes) -> bool:
    return line[:1] in (b" ", b"\t") and bool(line.strip())


def address(peername: Any) -> str:
    """The client's IP address as text, "" when it is unknown; an IPv4 address that came through IPv6 as IPv4.

    Args:
        peername: a transport's peername, a tuple that begins with the address, or None.
    """
    if not peername:
        return ""
    found = _parsed(str(peername[0]).partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def within(peer: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Whether the address is in one of the networks; never when it is unknown ("")."""
    return bool(peer) and any(_parsed(peer) in network for network in networks)


@lru_cache(maxsize=256)
def _parsed(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(peer)


def is_loopback(peer: str) -> bool:
    """Whether the address is this machine's own."""
    return bool(peer) and _parsed(peer).is_loopback
