"""The stand-in's frontend against a sink: what it mails, when, and what it notes in the rows."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apidb.frontend import Frontend, NoSeat, Participant, Phase, send
from tests.apidb.site import ApiDbSite
from tests.support import free_port, wait_until


class Sink:
    """Takes mails as our listener does from such a peer: reads to the lone dot, then greets. Keeps the bytes."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.mails: list[bytes] = []
        self._server: socketserver.ThreadingTCPServer | None = None

    def start(self) -> None:
        mails = self.mails

        class Session(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                read = b""
                while not read.endswith(b"\n.\n"):
                    more = self.request.recv(65536)
                    if not more:
                        return
                    read += more
                mails.append(read)
                self.request.sendall(b"220 sink\r\n")
                self.request.recv(1)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Session)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class World:
    """Rows, sink, frontend and a clock that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.site = ApiDbSite(folder)
        self.site.add_workshop("WKSHP-One", range=[1, 3])
        self.site.add_workshop("WKSHP-Again", range=[4, 40], reset=True)
        self.site.add_students(range(1, 41))
        self.sink = Sink(free_port())
        self.now = 1_000_000.0
        self.frontend = Frontend(self.site, self.sink.port, clock=lambda: self.now)

    def later(self, seconds: float) -> list[str]:
        """Let time pass, check once; the subjects that this mailed."""
        self.now += seconds
        before = len(self.frontend.subjects())
        self.frontend.tick()
        return self.frontend.subjects()[before:]

    def backend(self, one: Participant, password: str = "", **customer: Any) -> None:
        """What wodmail would write."""
        if password:
            self.site.update("students", one.student, password=password)
        self.site.update("customers", one.number, **customer)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """With the stand-in and the sink at work."""
    made = World(tmp_path)
    made.sink.start()
    with made.site:
        yield made
    made.sink.stop()


def test_the_dialect() -> None:
    sink = Sink(free_port())
    sink.start()
    assert send(sink.port, "CREATE 12 57 user@example.org", "WKSHP-Demo101", "frontend@wod.test")
    sink.stop()
    assert sink.mails == [
        b"HELO front.test\nMAIL FROM: frontend@wod.test\nRCPT TO: wodadmin@backend.test\nDATA\n"
        b"Subject: CREATE 12 57 user@example.org\nWKSHP-Demo101\n.\n"
    ]
    assert not send(sink.port, "CREATE 12 57", "WKSHP-Demo101")


def test_a_registration(world: World) -> None:
    one = world.frontend.register("WKSHP-One", life=7200)
    assert (one.number, one.student) == (1, 1)
    row = world.site.customer(1)
    assert (row["studentId"], row["notebook"], row["active"], row["hours"]) == (1, "WKSHP-One", False, 2)
    assert (row["lastEmailSent"], row["startDate"]) == ("welcome", "1970-01-12T13:46:40.000Z")
    assert world.site.student(1)["assigned"] is True
    assert world.frontend.subjects() == ["CREATE 1 1 participant1@example.org"]
    second = world.frontend.register("CHLG-One", email="two@example.org")
    assert (second.student, second.word, world.site.customer(2)["sessionType"]) == (2, "CHLG-One", "Coding-Challenges")
    world.frontend.register("WKSHP-One")
    with pytest.raises(NoSeat, match="WKSHP-One"):
        world.frontend.register("WKSHP-One")


def test_create_again_until_the_credentials_are_there(world: World) -> None:
    one = world.frontend.register("WKSHP-One", life=600)
    assert world.later(20) == ["CREATE 1 1 participant1@example.org"]
    world.backend(one, "werty123")
    assert world.later(20) == ["CREATE 1 1 participant1@example.org"]
    world.backend(one, active=True)
    assert world.later(20) == []
    assert (one.phase, one.password, one.credentials) == (Phase.WORKING, "werty123", 1)
    row = world.site.customer(1)
    assert (row["lastEmailSent"], row["endDate"]) == ("credentials", "1970-01-12T13:57:40.000Z")


def test_expiry_without_reset(world: World) -> None:
    one = world.frontend.register("WKSHP-One", life=600)
    world.backend(one, "werty123", active=True)
    world.later(20)
    assert world.later(599) == []
    assert world.later(1) == ["CLEANUP 1 1"]
    row = world.site.customer(1)
    assert (row["active"], row["lastEmailSent"]) == (False, "expired")
    assert world.later(20) == []
    world.backend(one, cleaned=True)
    world.site.update("students", 1, assigned=False)
    assert world.later(20) == []
    assert one.phase is Phase.OVER
    assert world.frontend.register("WKSHP-One").student == 1


def test_expiry_with_reset(world: World) -> None:
    one = world.frontend.register("WKSHP-Again")
    world.backend(one, "werty123", active=True)
    world.later(20)
    world.frontend.expire(one)
    assert world.later(0) == ["CLEANUP 4 1", "RESET [object Promise] 1"]
    assert world.site.customer(1)["active"] is True  # the backend says so
    world.backend(one, cleaned=True, active=False)
    assert world.later(20) == []
    assert world.frontend.of(Phase.EXPIRED) == [one]
    world.site.update("students", 4, assigned=False)
    world.later(20)
    assert one.phase is Phase.OVER


def test_given_up(world: World) -> None:
    one = world.frontend.register("WKSHP-One")
    for _ in range(30):
        assert world.later(20) == ["CREATE 1 1 participant1@example.org"]
    assert world.later(20) == ["CLEANUP 1 1", "RESET [object Promise] 1", "PURGE [object Promise] 1"]
    assert one.phase is Phase.GIVEN_UP
    assert world.site.customer(1)["lastEmailSent"] == "welcome"


def test_a_frontend_without_the_bug(world: World) -> None:
    world.frontend.bug = False
    world.frontend.patience = 0
    world.frontend.register("WKSHP-One")
    assert world.later(20) == ["CLEANUP 1 1", "RESET 1 1", "PURGE 1 1"]


def test_a_listener_that_is_away(world: World) -> None:
    """What could not be mailed is mailed at the next check, and only that."""
    one = world.frontend.register("WKSHP-Again")
    world.sink.stop()
    assert world.later(20) == []
    world.backend(one, "werty123", active=True)
    world.later(20)
    world.frontend.expire(one)
    assert world.later(20) == []
    assert one.due == ["CLEANUP", "RESET"]
    world.sink.start()
    assert world.later(20) == ["CLEANUP 4 1", "RESET [object Promise] 1"]
    assert world.later(20) == []


def test_insisting(world: World) -> None:
    world.frontend.insist = 30
    one = world.frontend.register("WKSHP-Again")
    world.backend(one, "werty123", active=True)
    world.later(20)
    world.frontend.expire(one)
    world.later(0)
    assert world.later(20) == []
    assert world.later(10) == ["CLEANUP 4 1", "RESET [object Promise] 1"]
    world.backend(one, cleaned=True)
    assert world.later(30) == ["RESET [object Promise] 1"]


def test_thirty_participants_in_a_thread(world: World) -> None:
    """Driven by its own thread, the stand-in restarted meanwhile."""
    frontend = Frontend(world.site, world.sink.port, every=0.02)
    with frontend:
        for _ in range(30):
            frontend.register("WKSHP-Again")
        assert len({one.student for one in frontend.participants.values()}) == 30
        world.site.restart()
        for one in list(frontend.participants.values()):
            world.backend(one, f"word{one.number}", active=True)
        frontend.await_all(Phase.WORKING)
        for one in list(frontend.participants.values()):
            frontend.expire(one)
        wait_until(lambda: len(frontend.subjects("RESET")) == 30, what="the RESET mails")
        for one in list(frontend.participants.values()):
            world.backend(one, cleaned=True, active=False)
            world.site.update("students", one.student, assigned=False)
        frontend.await_all(Phase.OVER)
    assert sorted(one.password for one in frontend.participants.values()) == sorted(f"word{n}" for n in range(1, 31))
    assert {one.credentials for one in frontend.participants.values()} == {1}
    assert len(frontend.subjects("CLEANUP")) == 30
    assert frontend.troubles == []
