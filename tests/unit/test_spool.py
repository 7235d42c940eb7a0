"""The spool: order, durability, metadata that can't be forged."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wodmail.errors import Failed, Temporary
from wodmail.mail import pipe
from wodmail.mail.spool import FolderSync, MailGone, MailUnreadable, Spool

MAIL = b"Subject: CREATE 12 0\n\nWKSHP-Demo101\n"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "state" / "spool")


def put(spool: Spool, raw: bytes = MAIL, sender: str = "a@b.test") -> str:
    return spool.store(raw, peer="127.0.0.1", sender=sender, door="listener")


def test_a_stored_mail_is_read_as_it_was(spool: Spool) -> None:
    key = spool.store(MAIL, peer="10.1.2.3", sender="a@b.test", authenticated=True, door="listener")
    mail = spool.read(key)
    assert (mail.key, mail.raw, mail.peer, mail.sender) == (key, MAIL, "10.1.2.3", "a@b.test")
    assert (mail.authenticated, mail.door) == (True, "listener")
    assert abs(mail.stored - (spool.folder / "new" / key).stat().st_mtime) < 60


@given(
    raw=st.binary(max_size=2000),
    sender=st.text(st.characters(codec="utf-8"), max_size=60),
    authenticated=st.booleans(),
)
def test_frame_and_unframe_are_inverse_whatever_the_mail(raw: bytes, sender: str, authenticated: bool) -> None:
    values, mail = pipe.unframe(pipe.frame(raw, "::1", sender, authenticated, "pipe"))
    assert mail == raw
    assert values["X-WOD-Peer"] == "::1"
    assert values["X-WOD-Auth"] == ("yes" if authenticated else "no")
    if sender.isprintable():
        assert values["X-WOD-Sender"] == sender


def test_headers_in_the_mail_forge_nothing(spool: Spool) -> None:
    forged = b"X-WOD-Peer: 127.0.0.1\nX-WOD-Sender: boss@x\nX-WOD-Auth: yes\nX-WOD-Door: pipe\nX-WOD-Stored: 1\n" + MAIL
    mail = spool.read(spool.store(forged, peer="192.0.2.9", sender="evil@x", door="listener"))
    assert (mail.peer, mail.sender, mail.authenticated, mail.door) == ("192.0.2.9", "evil@x", False, "listener")
    assert mail.raw == forged
    assert mail.stored > 1_000_000


def test_a_sender_with_line_ends_adds_no_header(spool: Spool) -> None:
    mail = spool.read(put(spool, sender="a@b\nX-WOD-Auth: yes\r\n\n"))
    assert not mail.authenticated
    assert mail.raw == MAIL
    assert "\n" not in mail.sender


def test_a_file_that_no_door_has_written_has_no_rights(spool: Spool) -> None:
    (spool.folder / "new" / "1.by-hand").write_bytes(MAIL)
    mail = spool.read("1.by-hand")
    assert (mail.raw, mail.peer, mail.sender, mail.authenticated, mail.door) == (MAIL, "", "", False, "")


def test_settled_mails_are_not_new_but_can_be_read(spool: Spool) -> None:
    first, second = put(spool), put(spool)
    spool.settle(first)
    spool.settle(first)
    assert spool.new() == [second]
    assert spool.read(first).raw == MAIL
    assert (spool.folder / "cur" / f"{first}:2,S").exists()


def test_a_mail_that_its_door_took_back_is_gone(spool: Spool) -> None:
    key = put(spool)
    (spool.folder / "new" / key).unlink()
    with pytest.raises(MailGone):
        spool.read(key)
    spool.settle(key)
    assert list((spool.folder / "cur").iterdir()) == []


def test_a_mail_that_can_not_be_moved_is_not_settled(spool: Spool) -> None:
    key = put(spool)
    (spool.folder / "cur").rmdir()
    with pytest.raises(Temporary):
        spool.settle(key)
    (spool.folder / "new" / key).unlink()
    with pytest.raises(Temporary):
        spool.settle(key)


def no_mail(place: Path, what: str) -> None:
    """Put something that is no mail into a spool's new/."""
    match what:
        case "directory":
            place.mkdir()
        case "dangling link":
            place.symlink_to("nowhere")
        case "link to a file":
            place.symlink_to("/etc/hostname")
        case "link to itself":
            place.symlink_to(place.name)
        case "fifo":
            os.mkfifo(place)
        case "socket":
            with socket.socket(socket.AF_UNIX) as door:
                door.bind(str(place))


@pytest.mark.parametrize("what", ["directory", "dangling link", "link to a file", "link to itself", "fifo", "socket"])
def test_what_is_no_regular_file_is_no_mail(spool: Spool, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(spool.folder / "new")  # the path of a socket must be short
    no_mail(Path("1.odd"), what)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MailUnreadable, match="can't be read") as caught:
        spool.read("1.odd")
    assert "1.odd" in caught.value.operator
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_name_that_is_no_text_is_no_mail(spool: Spool) -> None:
    (spool.folder / "new" / os.fsdecode(b"1.\xff")).write_bytes(MAIL)
    (key,) = spool.new()
    with pytest.raises(MailUnreadable) as caught:
        spool.read(key)
    assert caught.value.operator.isascii()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE])
def test_trouble_of_the_disk_or_of_ours_is_temporary(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    key = put(spool)
    with monkeypatch.context() as patch:
        patch.setattr("wodmail.mail.spool.os.open", raising(number))
        with pytest.raises(Temporary):
            spool.read(key)
    assert spool.read(key).raw == MAIL


def raising(number: int) -> Callable[..., int]:
    """An os function that fails."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_closed_to_us_concerns_itself_and_a_closed_folder_all(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put(spool)
    monkeypatch.setattr("wodmail.mail.spool.os.open", raising(errno.EACCES))
    with pytest.raises(MailUnreadable):
        spool.read(key)
    monkeypatch.setattr("wodmail.mail.spool.Path.stat", raising(errno.EACCES))
    with pytest.raises(Temporary):
        spool.read(key)


@pytest.mark.parametrize("sender", [b"a\xff@b.test", b"a\0@b.test", b"\xed\xa0\x80@b.test", "ä".encode() * 4000])
def test_metadata_is_text_that_every_database_takes(spool: Spool, sender: bytes) -> None:
    head = b"X-WOD-Peer: 10.0.0.\xff\nX-WOD-Sender: %b\nX-WOD-Auth: no\nX-WOD-Door: pipe\nX-WOD-Stored: 5.5\n" % sender
    (spool.folder / "new" / "1.odd").write_bytes(head + MAIL)
    mail = spool.read("1.odd")
    assert (mail.raw, mail.door, mail.stored, mail.peer) == (MAIL, "pipe", 5.5, "10.0.0.\ufffd")
    assert "\0" not in mail.sender
    assert len(mail.sender.encode("utf-8")) <= 998
    assert ("\ufffd" in mail.sender) == (len(sender) < 998)


@pytest.mark.parametrize("stored", ["nan", "inf", "-1", "1e300", "soon", ""])
def test_a_damaged_time_gives_way_to_that_of_the_file(spool: Spool, stored: str) -> None:
    place = spool.folder / "new" / "1.odd"
    head = f"X-WOD-Peer: \nX-WOD-Sender: a\nX-WOD-Auth: no\nX-WOD-Door: pipe\nX-WOD-Stored: {stored}\n"
    place.write_bytes(head.encode() + MAIL)
    os.utime(place, (7, 7))
    assert spool.read("1.odd").stored == 7


def test_purge_takes_old_settled_mails_alone(spool: Spool) -> None:
    old, young, unsettled = put(spool), put(spool), put(spool)
    spool.settle(old)
    spool.settle(young)
    for path in (spool.folder / "cur" / f"{old}:2,S", spool.folder / "new" / unsettled):
        os.utime(path, (1, 1))
    stale = spool.folder / "tmp" / "crashed"
    stale.write_bytes(b"half")
    os.utime(stale, (1, 1))
    odd = spool.folder / "cur" / "odd"
    odd.mkdir()
    os.utime(odd, (1, 1))
    assert spool.purge(3600) == 1
    assert spool.new() == [unsettled]
    assert spool.read(young).raw == MAIL
    assert not stale.exists()


@settings(max_examples=25, deadline=None)
@given(jumps=st.lists(st.integers(-(10**9), 10**6), min_size=2, max_size=12))
def test_keys_sort_by_arrival_even_when_the_clock_jumps(jumps: list[int]) -> None:
    moment = 1_700_000_000_000_000_000
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        spool = Spool(Path(folder) / "spool")
        patch.setattr(pipe.time, "time_ns", lambda: moment)
        keys = []
        for jump in jumps:
            moment += jump * 1000
            keys.append(put(spool, b"Subject: %d\n" % len(keys)))
        assert spool.new() == keys
        assert [spool.read(key).raw for key in keys] == [b"Subject: %d\n" % number for number in range(len(keys))]


def test_a_damaged_sequence_file_is_no_obstacle(spool: Spool) -> None:
    (spool.folder / ".sequence").write_bytes(b"garbage\x00")
    keys = [put(spool), put(spool)]
    assert spool.new() == keys


def test_many_threads_and_processes_lose_nothing_and_keep_their_order(spool: Spool) -> None:
    program = (
        "import sys; from pathlib import Path; from wodmail.mail.spool import Spool; s = Spool(Path(sys.argv[1]))\n"
        "for n in range(40): s.store(b'Subject: %d\\n' % n, peer='', sender=sys.argv[2], door='pipe')"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(spool.folder), f"p{name}"]) for name in range(2)]

    def deliver(name: str) -> None:
        for number in range(40):
            put(spool, b"Subject: %d\n" % number, name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deliver, [f"t{name}" for name in range(4)]))
    assert [other.wait(60) for other in others] == [0, 0]
    mails = [spool.read(key) for key in spool.new()]
    assert len(mails) == 6 * 40
    for sender in {mail.sender for mail in mails}:
        assert [mail.raw for mail in mails if mail.sender == sender] == [b"Subject: %d\n" % n for n in range(40)]


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
def test_a_failing_disk_leaves_nothing_behind(spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    kept = put(spool)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pipe.os, call, fail)
        with pytest.raises(Temporary) as caught:
            put(spool)
    assert "No space left" in caught.value.operator
    assert "No space left" not in caught.value.sender
    assert spool.new() == [kept]
    assert list((spool.folder / "tmp").iterdir()) == []


def test_a_mail_whose_folder_could_not_be_synced_is_not_stored(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spool._new = FolderSync(str(spool.folder / "new"), fail)
    with pytest.raises(Temporary):
        put(spool)
    assert spool.new() == []


def test_a_folder_that_can_not_be_made_fails_clearly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed):
        Spool(tmp_path / "file" / "spool")


class SlowSync:
    """An fsync that waits for a signal; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.fail_first = False

    def __call__(self, _path: str) -> None:
        self.calls += 1
        first = self.calls == 1
        self.begun.set()
        assert self.go_on.wait(20)
        if first and self.fail_first:
            raise OSError(errno.EIO, "Input/output error")


def test_waiting_deliveries_share_one_folder_sync() -> None:
    slow = SlowSync()
    group = FolderSync("new", slow)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(group.wait)
        assert slow.begun.wait(20)
        rest = [pool.submit(group.wait) for _ in range(8)]
        while group._asked < 9:
            threading.Event().wait(0.001)
        # They asked while the first fsync was under way, which may have missed their renames: none may be let go by it.
        slow.go_on.set()
        for future in [first, *rest]:
            future.result(20)
    assert slow.calls == 2


def test_a_failed_folder_sync_is_reported_to_one_and_repeated_for_the_others() -> None:
    slow = SlowSync()
    slow.fail_first = True
    group = FolderSync("new", slow)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(group.wait)
        assert slow.begun.wait(20)
        rest = [pool.submit(group.wait) for _ in range(2)]
        while group._asked < 3:
            threading.Event().wait(0.001)
        slow.go_on.set()
        with pytest.raises(OSError, match="Input/output"):
            first.result(20)
        for future in rest:
            future.result(20)
    assert slow.calls == 2
