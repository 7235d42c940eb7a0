"""The dialects as pure functions."""

from __future__ import annotations

import ipaddress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wodmail.mail import dialect

stream = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"Subject: x", b"DATA"]), max_size=40).map(
    b"".join
)


@given(data=stream, cuts=st.lists(st.integers(0, 60), max_size=12))
def test_the_pieces_of_a_stream_do_not_matter(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    ends = dialect.LineEnds()
    pieces = b"".join(ends.feed(data[a:b]) for a, b in pairwise(edges))
    assert pieces == dialect.LineEnds().feed(data)
    assert pieces.replace(b"\r\n", b"").count(b"\n") == 0
    assert pieces.replace(b"\r\n", b"\n") == data.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    ("argument", "strict", "lenient"),
    [
        ("FROM:<a@b>", ("a@b", []), ("a@b", [])),
        ("from:<a@b> SIZE=3 BODY=8BITMIME", ("a@b", ["SIZE=3", "BODY=8BITMIME"]), ("a@b", ["SIZE=3", "BODY=8BITMIME"])),
        ("FROM:<>", ("", []), ("", [])),
        ("FROM: a@b", None, ("a@b", [])),
        ("FROM: <a@b>", None, ("a@b", [])),
        ("FROM:a@b SIZE=3", None, ("a@b", ["SIZE=3"])),
        ("FROM : wodadmin", None, ("wodadmin", [])),
        ("FROM:", None, None),
        ("FROM: <a@b", None, None),
        ("TO:<a@b>", None, None),
        (None, None, None),
    ],
)
def test_path(argument: str | None, strict: object, lenient: object) -> None:
    assert dialect.path("FROM", argument, lenient=False) == strict
    assert dialect.path("FROM", argument, lenient=True) == lenient


@pytest.mark.parametrize(
    ("options", "size"),
    [([], 0), (["SIZE=77"], 77), (["body=7bit", "SMTPUTF8", "AUTH=<>"], 0), (["SIZE=x"], None), (["RET=FULL"], None)],
)
def test_announced_size(options: list[str], size: int | None) -> None:
    assert dialect.announced_size(options) == size


@pytest.mark.parametrize(
    ("mail", "has"),
    [
        (b"", False),
        (b"\n \n\t\n", False),
        (b"From: a@b\nTo: c@d\n\n", False),
        (b"Subject:\n\n", False),
        (b"Subject: \n\n \n", False),
        (b"Subject: CREATE 1\n", True),
        (b"subject:\n CREATE 1\n", True),
        (b"From: a@b\n\nbody\n", True),
        (b"\nbody\n", True),
        (b"Subject: CREATE 12 57\nWKSHP-Demo101\n", True),
        (b"From: a@b\nWKSHP-Demo101\n", True),
        (b"Subject:", False),
    ],
)
def test_has_content(mail: bytes, has: bool) -> None:
    assert dialect.has_content(mail) is has


@given(data=stream, limit=st.integers(0, 60))
def test_a_whole_mail_is_what_its_lines_are(data: bytes, limit: int) -> None:
    length = dialect.whole_mail(data, limit)
    lines = data.split(b"\r\n")[:-1]
    if b"." not in lines[1:] or lines[0] == b".":
        assert length == 0
        return
    mail = lines[: lines.index(b".")]
    full = len(b"".join(line + b"\r\n" for line in [*mail, b"."]))
    assert length == (full if full <= limit else 0)
    assert dialect.without_dots(data[:full]) == b"".join(line.removeprefix(b".") + b"\r\n" for line in mail)


def test_bare_line_ends() -> None:
    assert not dialect.has_bare_line_end(b"a\r\n.b\r\n")
    for mail in (b"a\nb\r\n", b"a\rb\r\n", b"a\r\r\n", b"\n.\n"):
        assert dialect.has_bare_line_end(mail)


def test_addresses() -> None:
    loopback = [ipaddress.ip_network("127.0.0.0/8")]
    assert dialect.address(("::ffff:127.0.0.1", 5, 0, 0)) == "127.0.0.1"
    assert dialect.address(("fe80::1%eth0", 5, 0, 0)) == "fe80::1"
    assert dialect.address(None) == ""
    assert dialect.within("127.9.9.9", loopback)
    assert not dialect.within("", loopback) and not dialect.within("::1", loopback)
    assert dialect.is_loopback("::1") and not dialect.is_loopback("10.0.0.1") and not dialect.is_loopback("")
