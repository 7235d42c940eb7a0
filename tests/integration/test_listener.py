"""The listener over real sockets: both dialects, the table of replies, limits, the end of a server."""

from __future__ import annotations

import contextlib
import select
import smtplib
import socket
import struct
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doors import STRICT, read_all, read_until, running
from tests.support import wait_until
from wodmail.config import Settings
from wodmail.errors import ConfigError, Failed, Temporary
from wodmail.mail import pipe
from wodmail.mail.listener import Listener
from wodmail.mail.spool import Spool

NODE = b"HELO front\nMAIL FROM: a@b.test\nRCPT TO: wodadmin@backend\nDATA\nSubject: CREATE 12 57\nWKSHP-Demo101\n.\n"
NODE_MAIL = b"Subject: CREATE 12 57\nWKSHP-Demo101\n"
BODY = b"Subject: CREATE 12 0\r\n\r\nWKSHP-Demo101\r\n"
OPENING = b"EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<wodadmin@backend>\r\nDATA\r\n"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: close sends RST


def test_a_correct_client(tmp_path: Path) -> None:
    with running(tmp_path, **STRICT) as door, smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client:
        assert client.ehlo()[0] == 250
        assert client.esmtp_features["size"] == "1048576"
        assert "auth" not in client.esmtp_features and "starttls" not in client.esmtp_features
        client.mail("a@b.test")
        client.rcpt("wodadmin@backend")
        code, text = client.data(BODY + b"..two dots\r\n")
        [mail] = door.mails()
        assert (code, text.decode()) == (250, f"2.0.0 stored as {mail.key}")
        assert mail.raw == BODY.replace(b"\r\n", b"\n") + b"..two dots\n"
        assert (mail.peer, mail.sender, mail.door, mail.authenticated) == ("127.0.0.1", "a@b.test", "listener", False)
        wait_until(lambda: door.signals == [1], what="the signal")
        for number in range(3):
            client.sendmail("a@b.test", ["x@y"], b"Subject: PING %d\r\n" % number)
        assert door.raws()[1:] == [b"Subject: PING %d\n" % number for number in range(3)]


@pytest.mark.parametrize(
    "talk",
    [
        NODE,
        NODE.replace(b"HELO front\n", b""),
        NODE.replace(b"\n", b"\r\n"),
        NODE[:-1],
        NODE + b"QUIT\n",
        NODE.replace(b"a@b.test", b"<a@b.test> SIZE=77"),
        NODE.replace(b"DATA\n", b"data\r\n"),
    ],
)
def test_the_lenient_dialect_of_trusted_peers(tmp_path: Path, talk: bytes) -> None:
    with running(tmp_path) as door:
        answer = door.talk(talk)
        assert door.raws() == [NODE_MAIL]
        assert b"250 2.0.0 stored as " in answer
        assert door.mails()[0].sender == "a@b.test"


def test_strangers_get_no_lenient_dialect(tmp_path: Path) -> None:
    with running(tmp_path, **STRICT) as door:
        assert b"500 5.5.2" in door.talk(NODE)
        for old, new in ((b"<a@b.test>", b" a@b.test"), (b"<a@b.test>", b" <a@b.test>"), (b"<wodadmin@backend>", b"x")):
            assert b"\r\n501 5.5.4" in door.talk(OPENING.replace(old, new) + BODY + b".\r\n")
        assert b"503" in door.talk(OPENING.partition(b"\r\n")[2] + BODY + b".\r\n")
        assert door.mails() == []


@pytest.mark.parametrize("end", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r"])
def test_no_mail_is_smuggled(tmp_path: Path, end: bytes) -> None:
    inner = b"MAIL FROM:<boss@b.test>\r\nRCPT TO:<x@y>\r\nDATA\r\nSubject: PURGE 1 0\r\n.\r\n"
    with running(tmp_path, **STRICT) as door:
        answer = door.talk(OPENING + BODY + b"text" + end + inner + b"QUIT\r\n")
        assert b"554 5.6.0" in answer
        assert b"stored as" not in answer
        assert door.mails() == []


def test_bare_line_feeds_in_a_mail_of_a_stranger_are_refused(tmp_path: Path) -> None:
    with running(tmp_path, **STRICT) as door:
        assert b"554 5.6.0 lines must end" in door.talk(OPENING + BODY + b"a\nb\r\n.\r\n")
        assert door.mails() == []


def test_a_refused_mail_of_an_early_talker_is_not_read_as_commands(tmp_path: Path) -> None:
    body = b"MAIL FROM:<a@b.test>\nRCPT TO:<x@y>\nDATA\nSubject: PURGE 1 0\n.\n"
    with running(tmp_path, senders=("a@b.test",)) as door:
        answer = door.talk(b"MAIL FROM:<evil@x>\nRCPT TO:<x@y>\nDATA\n" + body)
        assert b"550 5.7.1" in answer and b"503 5.5.1" in answer
        assert door.mails() == []


def test_who_may_not_command_is_told_so(tmp_path: Path) -> None:
    with running(tmp_path, senders=("a@b.test",), **STRICT) as door:
        assert b"\r\n550 5.7.1 this sender" in door.talk(OPENING.replace(b"a@b.test", b"evil@x"))
        assert b"\r\n550 5.7.1 this sender" in door.talk(OPENING.replace(b"a@b.test", b""))
        assert b"stored as" in door.talk(OPENING + BODY + b".\r\n")
    with running(tmp_path / "2", peers=False) as door:
        assert b"\r\n550 5.7.1 your address" in door.talk(OPENING + BODY + b".\r\n")
        assert door.mails() == []


def test_the_null_sender_is_stored_as_such_where_it_is_allowed(tmp_path: Path) -> None:
    with running(tmp_path, **STRICT) as door:
        assert b"stored as" in door.talk(OPENING.replace(b"a@b.test", b"") + BODY + b".\r\n")
        assert door.mails()[0].sender == ""


def test_large_mails_and_long_lines(tmp_path: Path) -> None:
    with running(tmp_path, WODMAILSIZE=100_000, **STRICT) as door:
        long_header = b"Subject: CREATE 1 0\r\nX-Long: " + b"x" * 90_000 + b"\r\n"
        assert b"stored as" in door.talk(OPENING + long_header + b".\r\n")
        assert door.raws() == [long_header.replace(b"\r\n", b"\n")]
        for body in (b"x" * 99_999 + b"\r\n", b"y\r\n" * 40_000, b"x" * 500_000 + b"\r\n"):
            answer = door.talk(OPENING + BODY + body + b".\r\nNOOP\r\n")
            assert b"\r\n552 5.3.4" in answer and answer.endswith(b"250 OK\r\n")
        assert b"\r\n552 5.3.4" in door.talk(b"EHLO x\r\nMAIL FROM:<a@b> SIZE=100001\r\n")
        assert b"\r\n555" in door.talk(b"EHLO x\r\nMAIL FROM:<a@b> RET=FULL\r\n")
        assert len(door.mails()) == 1


@pytest.mark.parametrize("body", [b"", b"\r\n", b" \r\n\r\n", b"From: a@b\r\nTo: c@d\r\n\r\n"])
def test_data_with_neither_subject_nor_body(tmp_path: Path, body: bytes) -> None:
    with running(tmp_path, **STRICT) as door:
        assert b"\r\n554 5.6.0 the mail has neither" in door.talk(OPENING + body + b".\r\n")
        assert door.mails() == []


def test_a_mail_that_was_cut_off_is_no_mail(tmp_path: Path) -> None:
    with running(tmp_path) as door:
        for talk in (NODE[:-2], NODE[:-3], NODE[:-12], NODE.partition(b"Subject")[0]):
            assert b"stored as" not in door.talk(talk)
        assert door.mails() == []


def test_a_client_that_resets_the_connection_after_its_mail_loses_nothing(tmp_path: Path) -> None:
    # As large as fits the first TCP window: what a reset finds still unsent has never reached us.
    large = NODE.replace(b"WKSHP-Demo101\n", b"WKSHP-Demo101\n" + b"text\n" * 8_000)
    with running(tmp_path) as door:
        for talk in [NODE, large] * 20:
            with door.connect() as client:
                client.sendall(talk)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        wait_until(lambda: len(door.spool.new()) == 40, what="40 mails")
        assert sorted(door.raws(), key=len)[:20] == [NODE_MAIL] * 20
        wait_until(lambda: len(door.signals) == 40, what="40 signals")


def test_several_mails_of_one_connection_keep_their_order(tmp_path: Path) -> None:
    with running(tmp_path) as door:
        talk = b"".join(NODE.replace(b"CREATE 12", b"CREATE %d" % number) for number in range(1, 30))
        with door.connect() as client:
            client.sendall(talk)
        wait_until(lambda: len(door.spool.new()) == 29, what="29 mails")
        assert door.raws() == [NODE_MAIL.replace(b"12", b"%d" % number) for number in range(1, 30)]


def test_mails_of_a_client_that_waits_for_no_answer_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old frontend takes the greeting for success and sends the next mail while this one is being written."""
    written, original = threading.Event(), pipe.write_temporary

    def slow_for_the_first(folder: str, content: bytes) -> str:
        if b"CLEANUP" in content:
            assert written.wait(10)
        made = original(folder, content)
        if b"RESET" in content:
            written.set()
        return made

    monkeypatch.setattr(pipe, "write_temporary", slow_for_the_first)
    with running(tmp_path) as door:
        door.listener._door.stores_quickly = False  # as on a busy disk: threads store
        for action in (b"CLEANUP", b"RESET", b"PURGE"):
            with door.connect() as client:
                client.sendall(NODE.replace(b"CREATE", action))
                assert client.recv(1)
        wait_until(lambda: len(door.raws()) == 3, what="three mails")
        assert [raw.split()[1] for raw in door.raws()] == [b"CLEANUP", b"RESET", b"PURGE"]


def test_forged_metadata_is_just_text(tmp_path: Path) -> None:
    forged = (
        b"X-WOD-Peer: 10.0.0.1\r\nX-WOD-Sender: boss@b\r\nX-WOD-Auth: yes\r\nX-WOD-Door: pipe\r\nX-WOD-Stored: 1\r\n"
    )
    with running(tmp_path, **STRICT) as door:
        door.talk(OPENING + forged + BODY + b".\r\n")
        [mail] = door.mails()
        assert (mail.peer, mail.sender, mail.authenticated, mail.door) == ("127.0.0.1", "a@b.test", False, "listener")


class FullSpool(Spool):
    """A spool whose disk is full until `full` is made false."""

    full = True

    def store(self, raw: bytes, *, peer: str, sender: str, authenticated: bool = False, door: str, **more: Any) -> str:
        """Fail while full."""
        if self.full:
            raise Temporary("the mail could not be stored, please send it again later", "No space left on device")
        return super().store(raw, peer=peer, sender=sender, authenticated=authenticated, door=door, **more)


def test_spool_trouble_is_told_and_the_next_mail_is_stored(tmp_path: Path) -> None:
    spool = FullSpool(tmp_path / "spool")
    with running(tmp_path, spool=spool, **STRICT) as door, door.connect() as client:
        client.sendall(OPENING)
        read_until(client, b"354 ")
        client.sendall(BODY + b".\r\n")
        assert b"451 4.3.0 the mail could not be stored" in read_until(client, b"451 4.3.0 ")
        spool.full = False
        client.sendall(OPENING + BODY + b".\r\n")
        read_until(client, b"stored as")
        assert len(door.mails()) == 1


class GatedSpool(Spool):
    """A spool on a disk that hangs from the second mail on, until the gate is opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()
        self.calls = 0

    def store(self, raw: bytes, *, peer: str, sender: str, authenticated: bool = False, door: str, **more: Any) -> str:
        self.calls += 1
        assert self.calls == 1 or self.gate.wait(20)
        return super().store(raw, peer=peer, sender=sender, authenticated=authenticated, door=door, **more)


def test_a_slow_disk_holds_up_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wodmail.mail.session.QUICK", 0.0)
    spool = GatedSpool(tmp_path / "spool")
    with running(tmp_path, spool=spool) as door, door.connect() as first:
        first.sendall(NODE)
        read_until(first, b"stored as")
        first.sendall(NODE)
        wait_until(lambda: spool.calls == 2, what="the second mail at the disk")
        with door.connect() as second:
            read_until(second, b"220 ")
            assert len(door.mails()) == 1
        spool.gate.set()
        read_until(first, b"stored as")
        assert len(door.mails()) == 2


def test_the_mail_of_a_client_that_is_gone_waits_for_the_repair(tmp_path: Path) -> None:
    spool = FullSpool(tmp_path / "spool")
    with running(tmp_path, spool=spool) as door:
        with door.connect() as client:
            client.sendall(NODE)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        wait_until(lambda: door.listener.waiting == 1, what="the mail being held")
        spool.full = False
        wait_until(lambda: len(door.spool.new()) == 1, what="the mail in the repaired spool")
        assert door.raws() == [NODE_MAIL]


def test_unknown_commands_end_the_session(tmp_path: Path) -> None:
    with running(tmp_path) as door:
        answer = door.talk(b"GET / HTTP/1.0\r\n" * 50)
        assert answer.count(b"\r\n500 ") == 20 and b"\r\n421 4.7.0" in answer
        assert b"500 5.5.6" in door.talk(b"NOOP " + b"x" * 3000 + b"\r\n")


def test_odd_orders_of_commands(tmp_path: Path) -> None:
    with running(tmp_path, **STRICT) as door:
        answer = door.talk(b"RCPT TO:<a@b>\r\nHELO x\r\nRCPT TO:<a@b>\r\nDATA\r\n")
        assert [line[:3] for line in answer.splitlines()] == [b"220", b"503", b"250", b"503", b"503"]
        answer = door.talk(
            b"HELO x\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b>\r\nDATA x\r\nQUIT\r\n"
        )
        assert [line[:3] for line in answer.splitlines()] == [
            b"220",
            b"250",
            b"250",
            b"503",
            b"250",
            b"250",
            b"501",
            b"221",
        ]
        many = b"HELO x\r\nMAIL FROM:<a@b>\r\n" + b"RCPT TO:<a@b>\r\n" * 101
        assert door.talk(many).count(b"452 4.5.3") == 1


def test_a_silent_client_is_sent_away(tmp_path: Path) -> None:
    with running(tmp_path, timeout=0.2) as door, door.connect() as client:
        assert b"421 4.4.2" in read_all(client)


def test_each_command_starts_the_time_anew(tmp_path: Path) -> None:
    with running(tmp_path, timeout=1.0) as door:

        def anew() -> bool:
            came = time.monotonic()
            with door.connect() as client:
                read_until(client, b"220 ")
                select.select([client], [], [], 0.6)  # silence, unless it is sent away
                asked, said = time.monotonic(), b""
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"MAIL FROM:<a@b.test>\r\n")
                    said = read_all(client)
                if b"250 2.1.0" not in said:
                    # Only a machine that stalled for the rest of that second may let the command come too late.
                    assert time.monotonic() - came > 0.9
                    return False
                assert b"421 4.4.2" in said
                assert time.monotonic() - asked > 0.9
                return True

        assert any(anew() for _ in range(10))


def test_too_many_connections(tmp_path: Path) -> None:
    with running(tmp_path, limit=1, **STRICT) as door, door.connect() as first:
        read_until(first, b"220 ")
        with door.connect() as second:
            assert read_all(second).startswith(b"421 4.7.0")
        first.sendall(b"QUIT\r\n")
        read_all(first)
        wait_until(lambda: door.talk(b"QUIT\r\n").startswith(b"220 "), what="a free place")


def test_an_early_talker_loses_no_mail_where_others_are_turned_away(tmp_path: Path) -> None:
    with running(tmp_path, limit=1) as door, door.connect() as first:
        read_until(first, b"220 ")
        with door.connect() as second:
            second.sendall(NODE)
            assert second.recv(1) == b"4"
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        wait_until(lambda: len(door.spool.new()) == 1, what="the early talker's mail")
        assert door.raws() == [NODE_MAIL]
        with door.connect() as polite:
            read_until(polite, b"421 ")
            polite.sendall(b"MAIL FROM:<a@b.test>\r\n")
            assert b"421 " in read_all(polite)


def test_draining(tmp_path: Path) -> None:
    with running(tmp_path) as door, door.connect() as in_data, door.connect() as idle:
        in_data.sendall(OPENING)
        read_until(in_data, b"354 ")
        read_until(idle, b"220 ")
        door.listener.stop_accepting()
        wait_until(lambda: door.talk(b"").startswith(b"421 4.3.2"), what="421 for new clients")
        idle.sendall(b"HELO x\r\nMAIL FROM:<a@b.test>\r\n")
        assert b"421 4.3.2" in read_all(idle)
        in_data.sendall(BODY + b".\r\nQUIT\r\n")
        assert b"250 2.0.0 stored as" in read_all(in_data)
        assert len(door.mails()) == 1


def test_stop_lets_a_mail_under_way_finish_and_hangs_up_on_the_idle(tmp_path: Path) -> None:
    with running(tmp_path) as door, door.connect() as in_data, door.connect() as idle:
        in_data.sendall(OPENING)
        read_until(in_data, b"354 ")
        read_until(idle, b"220 ")
        port = door.port
        with ThreadedStop(door.listener):
            assert b"421 4.3.2" in read_all(idle)
            in_data.sendall(BODY + b".\r\nQUIT\r\n")
            assert b"250 2.0.0 stored as" in read_all(in_data)
        assert len(door.mails()) == 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        assert door.port == 0


class ThreadedStop:
    """Stops a listener beside the block."""

    def __init__(self, listener: Listener) -> None:
        self._thread = threading.Thread(target=listener.stop)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_a_mail_that_is_never_finished_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with running(tmp_path) as door, door.connect() as client:
        client.sendall(OPENING)
        read_until(client, b"354 ")
        door.listener.stop(grace=0.1)
        assert read_all(client) == b""
        assert door.mails() == []


def test_a_port_in_use_fails_clearly(tmp_path: Path) -> None:
    with running(tmp_path) as door:
        judges = {"peer_allowed": lambda *_: True, "sender_allowed": lambda *_: True}
        second = Listener(Settings(WODPOSTPORT=door.port), door.spool, lambda: None, **judges)
        with pytest.raises(Failed, match=f"port {door.port}"):
            second.start()


def test_half_a_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    judges = {"peer_allowed": lambda *_: True, "sender_allowed": lambda *_: True}
    for values in ({"WODTLSCERT": "/none"}, {"WODTLSCERT": "/none", "WODTLSKEY": "/none"}):
        with pytest.raises(ConfigError, match="WODTLS"):
            Listener(Settings(**values), Spool(tmp_path / "spool"), lambda: None, **judges)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 2000), max_size=8),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=1, max_size=5),
    bodies=st.lists(st.sampled_from([b"WKSHP-A", b"..x", b"", b".", b"X-A: b"]), min_size=1, max_size=5),
)
def test_the_pieces_in_which_a_mail_comes_do_not_matter(
    cuts: list[int], ends: list[bytes], bodies: list[bytes]
) -> None:
    lines = [*NODE.splitlines()[:-1], *(b"." + body if body.startswith(b".") else body for body in bodies), b"."]
    talk = b"".join(line + ends[number % len(ends)] for number, line in enumerate(lines * 2))
    edges = [0, *sorted(min(cut, len(talk)) for cut in cuts), len(talk)]
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as door:
        with door.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start, end in pairwise(edges):
                client.sendall(talk[start:end])
            client.shutdown(socket.SHUT_WR)
            read_all(client)
        assert door.raws() == [NODE_MAIL + b"".join(body + b"\n" for body in bodies)] * 2


def test_an_early_talker_that_still_listens_is_told_of_spool_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wodmail.mail.session.GONE_NOTICE", 0.3)
    with running(tmp_path, spool=FullSpool(tmp_path / "spool")) as door:
        answer = door.talk(NODE)
        assert b"\r\n451-4.3.0 " in answer and b"\r\n451 4.3.0 " in answer
        assert door.listener.waiting == 0
