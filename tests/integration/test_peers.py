"""The peers with their real programs, node and both netcats; a server killed after its 250; a full disk."""

from __future__ import annotations

import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.doors import read_until, running
from tests.parts import require
from tests.support import free_port, wait_until
from wodmail.mail.spool import Spool

ROOT = Path(__file__).resolve().parents[2]
MAILS = 1000
NETCAT = (
    "MAIL FROM: wodadmin@backend.test\nRCPT TO: wodadmin@backend.test\nDATA\n"
    "Subject: CREATE {number} 0\n\nWKSHP-Demo101\n.\nQUIT\n"
)


def numbers(raws: list[bytes]) -> list[int]:
    """The students in the subjects, sorted."""
    return sorted(int(found[1]) for raw in raws if (found := re.search(rb"Subject: CREATE (\d+) ", raw)))


def test_node_loses_no_mail(tmp_path: Path) -> None:
    node = require("node")
    program = [node, str(ROOT / "tests" / "data" / "frontend.js")]
    with running(tmp_path) as door:
        subprocess.run([*program, str(door.port), str(MAILS), "20"], check=True, timeout=120)
        wait_until(lambda: len(door.spool.new()) >= MAILS, what="all mails of the node client")
        assert numbers(door.raws()) == list(range(1, MAILS + 1))
        assert {mail.sender for mail in door.mails()} == {"frontend@wod.test"}
        assert door.raws()[0].endswith(b" 57 user@example.org\nWKSHP-Demo101\n")


def test_node_loses_no_mail_while_others_are_turned_away(tmp_path: Path) -> None:
    node = require("node")
    program = [node, str(ROOT / "tests" / "data" / "frontend.js")]
    with running(tmp_path, limit=2) as door:
        subprocess.run([*program, str(door.port), "100", "50"], check=True, timeout=120)
        wait_until(lambda: len(door.spool.new()) >= 100, what="all mails of the node client")
        assert numbers(door.raws()) == list(range(1, 101))


@pytest.mark.parametrize("part", ["nc", "nc-traditional"])
def test_netcat_loses_no_mail(tmp_path: Path, part: str) -> None:
    netcat = require(part)
    with running(tmp_path) as door:

        def send(number: int) -> bytes:
            talk = NETCAT.format(number=number).encode()
            done = subprocess.run([netcat, "127.0.0.1", str(door.port)], input=talk, capture_output=True, timeout=60)
            return done.stdout

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(send, range(1, MAILS + 1)))
        assert numbers(door.raws()) == list(range(1, MAILS + 1))
        assert all(b"250 2.0.0 stored as" in answer and b"\r\n221 " in answer for answer in answers)


SERVER = """
import sys, time
from pathlib import Path
from wodmail.config import Settings
from wodmail.mail.listener import Listener
from wodmail.mail.spool import Spool
listener = Listener(Settings(WODPOSTPORT=int(sys.argv[2])), Spool(Path(sys.argv[1])), lambda: None,
                    peer_allowed=lambda *_: True, sender_allowed=lambda *_: True)
listener.start()
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_mail_is_in_the_spool_when_the_server_is_killed_right_after_its_250(tmp_path: Path) -> None:
    keys = []
    for number in range(5):
        port = free_port()
        command = [sys.executable, "-c", SERVER, str(tmp_path / "spool"), str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(NETCAT.format(number=number).encode().replace(b"QUIT\n", b""))
                answer = read_until(client, b"stored as ")
                server.send_signal(signal.SIGKILL)
                answer += client.recv(1000) if not answer.endswith(b"\r\n") else b""
        keys.append(answer.split()[-1].decode())
    spool = Spool(tmp_path / "spool")
    assert spool.new() == keys
    assert numbers([spool.read(key).raw for key in keys]) == list(range(5))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require("root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "wodmail-test", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """A file that takes the rest of the disk."""
    file = place / "filler"
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return file


@pytest.mark.root
def test_a_full_disk_refuses_for_now_and_loses_nothing(small_disk: Path) -> None:
    pipe = [sys.executable, "-I", str(ROOT / "wodmail" / "mail" / "pipe.py"), "--spool", str(small_disk / "spool")]
    mail = b"Subject: CREATE 7 0\n\nWKSHP-Demo101\n"
    with running(small_disk) as door:
        talk = NETCAT.format(number=1).encode()
        assert b"250 2.0.0 stored" in door.talk(talk)
        filler = fill(small_disk)
        for _ in range(3):
            with smtplib.SMTP("127.0.0.1", door.port, timeout=20) as client:
                with pytest.raises(smtplib.SMTPDataError) as caught:
                    client.sendmail("a@b.test", ["x@y"], mail)
                assert caught.value.smtp_code == 451 and caught.value.smtp_error.startswith(b"4.3.0")
            refused = subprocess.run(pipe, input=mail, capture_output=True)
            assert refused.returncode == 75 and b"No space left" in refused.stderr
        assert len(door.spool.new()) == 1
        assert list((small_disk / "spool" / "tmp").iterdir()) == []
        filler.unlink()
        assert b"250 2.0.0 stored" in door.talk(talk)
        assert subprocess.run(pipe, input=mail).returncode == 0
        assert numbers(door.raws()) == [1, 1, 7]


@pytest.mark.root
def test_the_frontends_mail_outlives_a_full_disk(small_disk: Path) -> None:
    node = require("node")
    with running(small_disk) as door:
        filler = fill(small_disk)
        subprocess.run([node, str(ROOT / "tests" / "data" / "frontend.js"), str(door.port), "5", "5"], check=True)
        wait_until(lambda: door.listener.waiting == 5, what="five mails held in memory")
        filler.unlink()
        wait_until(lambda: len(door.spool.new()) == 5, what="five mails in the spool")
        assert numbers(door.raws()) == [1, 2, 3, 4, 5]
        assert list((small_disk / "spool" / "tmp").iterdir()) == []
