"""A raw mail, from any of the peers that send commands, as headers, a subject and a workshop line. Pure.

Python's parser is used for the structure only (headers, parts, transfer encodings). Its decoding of header values is
not: hostile mails make that raise all sorts of errors, and here no input may raise anything but a refusal.
"""

from __future__ import annotations

import binascii
import contextlib
import email
import email.message
import email.policy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

from wodmail.errors import Refused
from wodmail.mail.grammar import visible
from wodmail.model import Action

MAX_READ = 256 * 1024  # of a mail; Python's parser takes quadratic time for some, e.g. 16 s for 1 MiB of Content-Type
MAX_TEXT = 64 * 1024  # the workshop is the first line; what comes after this much of a part is not looked at
SESSION_HEADER = "X-WOD-Session"  # of the backend's own CLEANUPs (docs/sessions.md); it can only make one do less
VOID = "VOID"  # what stands for the workshop where none is needed
_MBOX_LINE = re.compile(rb">?From [^\n]*\n")
_ENCODED = re.compile(r"=\?(?P<charset>[^?\s]*)\?(?P<how>[qQbB])\?(?P<text>[^?\s]*)\?=")
_QUOTED_BYTE = re.compile(rb"=([0-9A-Fa-f]{2})")
_WORKSHOP = re.compile(r"(?:WKSHP|CHLG)-[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ANY_WORD = re.compile(r"[!-~]{1,64}")
_SLOW_CODECS = frozenset({"idna", "punycode"})  # quadratic in Python: no charset of any mail
_LIST_HEADERS = ("list-id", "list-unsubscribe", "list-post", "list-help")
_BLOCKS = frozenset({"address", "blockquote", "br", "div", "h1", "h2", "h3", "h4", "hr", "li", "p", "pre", "td", "tr"})
_UNSHOWN = frozenset({"head", "script", "style", "title"})


@dataclass(frozen=True, slots=True)
class Message:
    """A mail as read.

    Args:
        headers: lower-case name and decoded, unfolded value of each header, in their order.
        workshop_line: the first line of the text that is not empty, without blanks around it; empty when there is none.
    """

    headers: tuple[tuple[str, str], ...]
    workshop_line: str

    def header(self, name: str) -> str:
        """The first header of that name in any letter case; empty when there is none."""
        return next(iter(self.all(name)), "")

    def all(self, name: str) -> list[str]:
        """Every header of that name in any letter case."""
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def subject(self) -> str:
        """The subject, decoded. Several Subject headers come joined by line breaks, which no command holds."""
        return "\n".join(self.all("subject")).strip(" \t")

    @property
    def message_id(self) -> str:
        """The Message-ID as the sender wrote it, at most 998 characters; empty when there is none."""
        return self.header("message-id").strip()[:998]

    @property
    def empty(self) -> bool:
        """Whether there is neither a subject nor a text."""
        return not self.subject and not self.workshop_line

    @property
    def auto_submitted(self) -> bool:
        """Whether a program sent it of its own accord (RFC 3834 section 5: anything but `no`)."""
        value = self.header("auto-submitted").partition(";")[0].strip().lower()
        return value not in ("", "no")

    @property
    def bulk(self) -> bool:
        """Whether a mailing list or a bulk mailer sent it."""
        precedence = self.header("precedence").strip().lower()
        return precedence in ("bulk", "junk", "list") or any(self.all(name) for name in _LIST_HEADERS)

    @property
    def delivery_report(self) -> bool:
        """Whether it is a report about the delivery of another mail (RFC 3464), or says that it answers nobody."""
        kind = self.header("content-type").partition(";")[0].strip().lower()
        return kind == "multipart/report" or self.header("return-path").replace(" ", "") == "<>"


def read(raw: bytes) -> Message:
    """Read a mail, whatever its shape; never raises.

    Args:
        raw: the mail as sent: CRLF or bare LF, with or without an mbox `From ` line, with or without an empty line
            between the headers and the text. What comes after the first 256 KiB is not looked at.
    """
    lines = raw[:MAX_READ].replace(b"\r\n", b"\n").replace(b"\r", b"\n").lstrip(b"\n")
    mbox_line = _MBOX_LINE.match(lines)
    if mbox_line:
        lines = lines[mbox_line.end() :]
    try:
        parsed = email.message_from_bytes(lines, policy=email.policy.compat32)
        text = _text(parsed)
    except RecursionError:  # thousands of parts within parts; no person's mail, so only its headers count
        parsed = email.message_from_bytes(lines.partition(b"\n\n")[0], policy=email.policy.compat32)
        text = ""
    headers = tuple((name.lower(), _decoded(str(value))) for name, value in parsed.raw_items())
    return Message(headers, _first_line(text))


def workshop(text: str, action: Action | None = None) -> str:
    """Check the workshop line of a mail.

    Args:
        text: the first line of the mail's text that is not empty.
        action: the action that it is for. PURGE takes any word there, `VOID` when there is none that prints; PING
            needs none, its workshop is always empty.

    Returns:
        The workshop as mailed, for example `WKSHP-API101` or `CHLG-API101`.

    Raises:
        Refused: the line is missing or is no workshop's name.
    """
    if action is Action.PING:
        return ""
    if action is Action.PURGE:
        word = next(iter(text.split()), "")
        return word if _ANY_WORD.fullmatch(word) else VOID
    if _WORKSHOP.fullmatch(text):
        return text
    what = f'its first line is "{visible(text)}"' if text else "it is empty"
    raise Refused(
        f"The text of the mail must begin with the workshop's name alone on its line, but {what}. "
        "Nothing was changed.\nA correct text: WKSHP-API101 (or CHLG-API101 for its challenge)"
    )


def _as_text(raw: bytes, charset: str) -> str:
    """Decode with the charset when it is one, else as UTF-8, else as Latin-1, which takes every byte.

    The text can be stored anywhere: no NUL, which PostgreSQL does not take, and no lone surrogates.
    """
    for name in (charset, "utf-8", "latin-1"):
        if name.lower() in _SLOW_CODECS:
            continue
        try:
            text = raw.decode(name)
        except (LookupError, ValueError):  # no such charset, or not these bytes
            continue
        return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    raise AssertionError("Latin-1 decodes all bytes")


def _decoded(value: str) -> str:
    """A header's value unfolded (RFC 5322 section 2.2.3), its raw bytes and encoded words (RFC 2047) decoded."""
    raw = value.encode("utf-8", "surrogateescape")
    text = re.sub(r"\n(?=[ \t])", "", _as_text(raw, "utf-8")).rstrip("\n")
    decoded, end = "", 0
    pending, pending_charset = b"", ""
    for word in _ENCODED.finditer(text):
        between = text[end : word.start()]
        content = _word_bytes(word["how"], word["text"])
        charset = word["charset"].partition("*")[0]  # RFC 2231 section 5: charset*language
        if pending and (between.strip() or charset != pending_charset):
            decoded, pending = decoded + _as_text(pending, pending_charset), b""
        if between.strip() or not end:  # blanks between two encoded words belong to neither
            decoded += between
        # words of one charset are joined first: mailers split characters between them
        pending, pending_charset, end = pending + content, charset, word.end()
    return decoded + _as_text(pending, pending_charset or "utf-8") + text[end:]


def _word_bytes(how: str, text: str) -> bytes:
    """The bytes of an encoded word, B or Q; of broken base64 what was written."""
    written = text.encode("utf-8")
    if how in "qQ":
        return _QUOTED_BYTE.sub(lambda found: bytes([int(found[1], 16)]), written.replace(b"_", b" "))
    try:
        return binascii.a2b_base64(written + b"===")
    except binascii.Error:
        return written


def _parts(part: email.message.Message) -> Iterator[email.message.Message]:
    """The leaves of a mail; not those of mails that are attached to it."""
    if not part.is_multipart():
        yield part
    elif part.get_content_maintype() == "multipart":
        for inner in part.get_payload():
            if isinstance(inner, email.message.Message):
                yield from _parts(inner)


def _text(mail: email.message.Message) -> str:
    """The text of the first text/plain part, else that of the first text/html part."""
    leaves = [part for part in _parts(mail) if part.get_content_disposition() != "attachment"]
    for part in leaves:
        if part.get_content_type() == "text/plain":
            return _payload(part)
    for part in leaves:
        if part.get_content_type() == "text/html":
            return _html_text(_payload(part))
    return ""


def _payload(part: email.message.Message) -> str:
    raw = part.get_payload(decode=True)
    return _as_text(raw[:MAX_TEXT], _charset(part)) if isinstance(raw, bytes) else ""


def _charset(part: email.message.Message) -> str:
    try:
        return part.get_content_charset("utf-8")
    except (LookupError, ValueError):  # a charset parameter in RFC 2231 form that itself has a wrong charset
        return "utf-8"


def _first_line(text: str) -> str:
    lines = (line.strip().strip("\ufeff\u200b").strip() for line in text.splitlines())
    return next((line for line in lines if line), "")


class _Html(HTMLParser):
    """Collects what a reader of the page sees, a line a block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.unshown = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs  # the name of the tag is all that counts
        self.unshown += tag in _UNSHOWN
        self.handle_block(tag)

    def handle_endtag(self, tag: str) -> None:
        self.unshown = max(0, self.unshown - (tag in _UNSHOWN))
        self.handle_block(tag)

    def handle_block(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.unshown:
            self.text.append(data.replace("\n", " "))


def _closed(page: str) -> str:
    """The page without openings of tags and comments that nothing closes; the parser searches to the end for each."""
    for opening, end in (("<!--", "-->"), ("<", ">")):
        last = page.rfind(end) + 1
        page = page[:last] + page[last:].replace(opening, " ")
    return page


def _html_text(page: str) -> str:
    reader = _Html()
    # Python's parser asserts on declarations such as <![x; what was read until there counts
    with contextlib.suppress(AssertionError):
        reader.feed(_closed(page))
        reader.close()
    return "".join(reader.text)
