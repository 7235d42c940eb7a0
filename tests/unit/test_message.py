"""Raw mails of any shape; the real-shaped ones are in the corpus (test_mail_corpus.py)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wodmail.errors import Refused
from wodmail.mail import message
from wodmail.mail.reply import no_reply_reason
from wodmail.model import Action

PIECES = (
    b"Subject: |=?utf-8?q?|?=|=?x?b?AA|\n|\r\n|\n\n|Content-Type: text/html; charset=|utf-7|CREATE 1 0|From |--b--|"
    b"\0|\xff\xfe|Content-Type: multipart/mixed; boundary=b\n\n--b\n|Content-Transfer-Encoding: base64\n|"
    b"; charset*=a'b'%ff|Content-Type: message/rfc822\n\n|<p>|<![|&#x"
).split(b"|")


@given(st.binary(max_size=400) | st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))
def test_anything_can_be_read(raw: bytes) -> None:
    mail = message.read(raw)
    for text in (mail.subject, mail.workshop_line, mail.message_id, *(value for _, value in mail.headers)):
        assert text.encode("utf-8").decode("utf-8") == text
        assert "\0" not in text
    assert mail.workshop_line == mail.workshop_line.strip()
    assert isinstance(no_reply_reason(mail, "a@example.org"), str)


def test_parts_within_parts_without_end() -> None:
    deep = b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (level, level) for level in range(3000)
    )
    mail = message.read(b"Subject: CREATE 1 0\n" + deep + b"\nWKSHP-API101\n")
    assert mail.subject == "CREATE 1 0"


@pytest.mark.parametrize("header", [b"Content-Type: text/plain" + b";a" * 2**19, b"Subject: " + b"=?x?q?" * 2**17])
def test_headers_without_end(header: bytes) -> None:
    mail = message.read(b"X-First: here\n" + header + b"\n\nWKSHP-API101\n")
    assert mail.header("x-first") == "here"
    assert mail.workshop_line == ""


def test_the_text_comes_before_large_attachments() -> None:
    part = (
        b"--b\nContent-Type: text/plain\n\nWKSHP-API101\n--b\nContent-Type: image/png\n\n" + b"A" * 2**20 + b"\n--b--\n"
    )
    mail = message.read(b"Subject: CREATE 1 0\nContent-Type: multipart/mixed; boundary=b\n\n" + part)
    assert mail.workshop_line == "WKSHP-API101"


def test_headers_are_found_in_any_case() -> None:
    mail = message.read(b"MESSAGE-ID:  <a@b> \nX-A: 1\nx-a: 2\n\n")
    assert mail.message_id == "<a@b>"
    assert mail.all("X-a") == ["1", "2"]
    assert mail.header("missing") == ""


@pytest.mark.parametrize("opening", ["<!--", "<?", "<a ", "<", "<![CDATA["])
def test_html_that_nothing_closes(opening: str) -> None:
    page = "<p>WKSHP-API101</p>" + opening * 20_000
    assert message.read(f"Content-Type: text/html\n\n{page}".encode()).workshop_line == "WKSHP-API101"


def test_html_text_after_the_last_tag() -> None:
    page = "<!-- c --><style>x</style><br>WKSHP-API101 <!-- open"
    assert message.read(f"Content-Type: text/html\n\n{page}".encode()).workshop_line == "WKSHP-API101   open"


def test_characters_split_between_encoded_words() -> None:
    assert message.read(b"Subject: =?utf-8?q?=C3?= =?utf-8?q?=A9?= x\n\n").subject == "é x"
    assert message.read(b"Subject: a =?utf-8?q?b?= c =?utf-8?q?_d?=\n\n").subject == "a b c  d"
    assert message.read("Subject: é =?utf-8?q?b?=\n\n".encode()).subject == "é b"
    assert message.read(b"Subject: \\u0031 =?utf-8?q?b?=\n\n").subject == "\\u0031 b"


def test_an_empty_mail_is_known_as_such() -> None:
    assert message.read(b"").empty
    assert message.read(b"From: a@b\n\n\n").empty
    assert not message.read(b"\n\nSubject: x\n").empty
    assert not message.read(b"X: y\n\ntext\n").empty


@pytest.mark.parametrize("name", ["WKSHP-API101", "CHLG-a", "WKSHP-0.9_b-c", "WKSHP-" + "x" * 64])
def test_workshops(name: str) -> None:
    assert message.workshop(name, Action.CREATE) == name


@pytest.mark.parametrize(
    "name",
    ["", "WKSHP-", "wkshp-API101", "WKSHP-.x", "WKSHP-a/b", "WKSHP-a b", "WKSHP-" + "x" * 65, "WKSHP-x\n", "VOID"],
)
def test_no_workshops(name: str) -> None:
    with pytest.raises(Refused, match="A correct text: WKSHP-API101"):
        message.workshop(name, Action.CREATE)


def test_purge_and_ping_need_no_workshop() -> None:
    assert message.workshop("VOID", Action.PURGE) == "VOID"
    assert message.workshop("", Action.PURGE) == "VOID"
    assert message.workshop("anything goes", Action.PURGE) == "anything"
    assert message.workshop("\x1b[0m", Action.PURGE) == "VOID"
    assert message.workshop("regards", Action.PING) == ""


@pytest.mark.parametrize(
    ("headers", "sender", "words"),
    [
        ("", "", "sender is empty"),
        ("", "<>", "sender is empty"),
        ("", "a@b c@d", "no plain address"),
        ("", "MAILER-DAEMON@example.org", "mail system"),
        ("Auto-Submitted: auto-replied (vacation)\n", "a@b", "of its own accord"),
        ("X-Wod-Loop: anything\n", "a@b", "ours"),
        ("Precedence: BULK\n", "a@b", "bulk"),
        ("List-Unsubscribe: <mailto:x@y>\n", "a@b", "bulk"),
        ("Content-Type: multipart/report; report-type=delivery-status\n", "a@b", "delivery report"),
        ("Return-Path: <>\n", "a@b", "delivery report"),
    ],
)
def test_mails_that_are_never_answered(headers: str, sender: str, words: str) -> None:
    mail = message.read(f"{headers}Subject: CREATE 1 0\n\n".encode())
    assert words in no_reply_reason(mail, sender)


def test_a_persons_mail_is_answered() -> None:
    mail = message.read(b"Auto-Submitted: no\nSubject: CREATE 1 0\n\n")
    assert no_reply_reason(mail, "<Person@example.org>") == ""
    assert no_reply_reason(mail, "wodadmin") == ""
