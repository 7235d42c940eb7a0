"""Sessions end by themselves: reminder, CLEANUP, RESET; with an API-DB they are watched."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from tests.apidb.site import ApiDbSite
from tests.e2e.harness import Deployment
from tests.support import wait_until
from wodmail import registry, sessionends, sessions
from wodmail import store as tables
from wodmail.cli.main import run
from wodmail.cli.root import root
from wodmail.errors import Refused
from wodmail.mail import notice
from wodmail.mail.spool import Spool
from wodmail.model import State
from wodmail.overdue import Overdue
from wodmail.requests import NewRequest, accept
from wodmail.sessionclock import reading
from wodmail.sessionends import Ends
from wodmail.sessions import Sessions

pytestmark = pytest.mark.xdist_group("sessions")  # one server for all


class World:
    """A backend that is at work, and somebody who looks after its sessions with a clock of their own."""

    def __init__(self, folder: Path) -> None:
        self.backend = Deployment(folder, WODREPLYBUDGET=1000)
        self.backend.workshop("WKSHP-Test", range=[1, 20], duration=2)
        self.backend.workshop("WKSHP-Again", range=[21, 40], duration=0.5, reset=True)
        self.backend.script("reset-WKSHP-Again.sh", "exit 0\n")
        # Only the tests look, with clocks of their own.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WODMAIL_TEST_SESSIONS_EVERY", "inf")
            self.backend.start(module="tests.sessionserver")
        self.clock = reading()

    def keeper(self) -> Sessions:
        """As after each restart: nothing is remembered but what is in the database."""
        settings = self.backend.settings
        seats = registry.for_settings(settings)
        return Sessions(settings, self.backend.store, seats, Spool(settings.WODSTATEDIR / "spool"), lambda: self.clock)

    def pass_time(self, hours: float) -> None:
        """Time passes, and is looked at."""
        self.clock = replace(self.clock, uptime=self.clock.uptime + hours * 3600, wall=self.clock.wall + hours * 3600)
        self.keeper().look()

    def left(self, student: int) -> float | None:
        """Hours that are left of a session, None when there is none."""
        found = sessions.running(self.backend.store, lambda: self.clock)
        return next((round(each.left / 3600, 2) for each in found if each.student == student), None)

    def begin(self, student: int, workshop: str = "WKSHP-Test") -> dict[str, Any]:
        """A session begins."""
        row = self.backend.one(f"CREATE {student} 0", workshop)
        assert row["state"] == "done"
        self.keeper().look()
        return row

    def cleanups(self, student: int) -> list[str]:
        """The states of the student's CLEANUPs, oldest first."""
        rows = self.backend.requests()
        return [row["state"] for row in rows if row["action"] == "CLEANUP" and row["students"] == [student]]

    def reminders(self, student: int) -> int:
        """How many reminders went out."""
        return sum(f"CREATE {student} 0: the session ends" in subject for subject in self.backend.subjects())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("sessions"))
    yield made
    made.backend.close()


def test_a_session_is_reminded_of_and_ends(world: World) -> None:
    world.begin(1)
    assert world.left(1) == 2.0
    world.pass_time(0.9)
    assert (world.reminders(1), world.cleanups(1)) == (0, [])
    world.pass_time(0.2)
    wait_until(lambda: world.reminders(1), what="the reminder")
    world.pass_time(0.2)
    assert (world.left(1), world.cleanups(1)) == (0.7, [])
    world.pass_time(0.8)
    wait_until(lambda: world.cleanups(1) == ["done"], what="the CLEANUP")
    assert not world.backend.seat(1).active and world.left(1) is None
    world.pass_time(5)
    assert (world.reminders(1), world.cleanups(1)) == (1, ["done"])


def test_a_reminder_goes_to_the_participant_else_to_who_sent_the_create(world: World) -> None:
    address = "somebody@participants.example.org"
    assert world.backend.one(f"CREATE 8 0 {address}", "WKSHP-Test")["state"] == "done"
    sent = world.begin(9)
    world.keeper().look()
    world.pass_time(1.1)

    def told() -> dict[int, str]:
        reminders = [mail for mail in world.backend.outbox() if "the session ends" in str(mail["Subject"])]
        found = [(each, mail) for mail in reminders for each in (8, 9) if f"CREATE {each} 0" in str(mail["Subject"])]
        return {student: str(mail["To"]) for student, mail in found}

    wait_until(lambda: len(told()) == 2, what="both reminders")
    assert told() == {8: address, 9: sent["sender"]}
    for student in (8, 9):
        assert world.backend.one(f"CLEANUP {student} 0")["state"] == "done"


def test_a_seat_with_reset_is_reset_after_its_cleanup(world: World) -> None:
    world.begin(21, "WKSHP-Again")
    world.pass_time(0.3)
    wait_until(lambda: world.reminders(21), what="the reminder, at half time of a short session")
    world.pass_time(0.3)
    done = wait_until(
        lambda: [row for row in world.backend.requests() if row["action"] == "RESET" and row["state"] == "done"],
        what="the RESET",
    )
    assert done[0]["students"] == [21] and world.cleanups(21) == ["done"]
    assert not world.backend.seat(21).assigned


def test_more_time(world: World) -> None:
    """Before the end, and after the reminder: there is another one."""
    world.begin(2)
    world.pass_time(1.5)
    wait_until(lambda: world.reminders(2) == 1, what="the first reminder")
    assert round(sessions.extend(world.backend.store, 2, 3, lambda: world.clock).left / 3600, 2) == 3.5
    world.pass_time(2)
    assert (world.left(2), world.cleanups(2)) == (1.5, [])
    world.pass_time(1)
    wait_until(lambda: world.reminders(2) == 2, what="the second reminder")
    world.pass_time(0.6)
    wait_until(lambda: world.cleanups(2) == ["done"], what="the CLEANUP")
    with pytest.raises(Refused, match="no session that goes on"):
        sessions.extend(world.backend.store, 2, 1)


def test_by_command(world: World) -> None:
    world.begin(3)
    config = ["--config", str(world.backend.file)]
    told = CliRunner().invoke(root, ["extend", *config, "--json", "3", "1.5"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["session"]["student"] == 3
    assert world.left(3) == 3.5
    listed = json.loads(CliRunner().invoke(root, ["sessions", *config, "--json"]).output)["sessions"]
    assert [each["workshop"] for each in listed if each["student"] == 3] == ["WKSHP-Test"]
    table = CliRunner().invoke(root, ["sessions", *config]).output
    assert "WKSHP-Test" in table and "3:30 h" in table.replace("3:29 h", "3:30 h")
    assert CliRunner().invoke(root, ["extend", *config, "3", "0"]).exit_code == 2
    assert world.backend.one("CLEANUP 3 0")["state"] == "done"


def test_a_crash_before_the_record_ends_a_session_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail is stored, then everything ends; later looks find the CLEANUP in hand, or done."""
    world.begin(4)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ends, "move", crash)
        with pytest.raises(KeyboardInterrupt):
            world.pass_time(2.1)
    world.pass_time(0)
    wait_until(lambda: world.cleanups(4) == ["done"], what="the CLEANUP")
    world.pass_time(0.1)
    assert (world.cleanups(4), world.backend.seat(4).active, world.left(4)) == (["done"], False, None)


def test_the_same_cleanup_twice_is_one(world: World) -> None:
    """The spool's view of that crash: one Message-ID."""
    world.begin(5)
    settings = world.backend.settings
    spool = Spool(settings.WODSTATEDIR / "spool")
    for _ in range(2):
        sessionends.clean(settings, spool, 5, 0, "WKSHP-Test", "session-once")
    wait_until(lambda: sorted(world.cleanups(5)) == ["done", "duplicate"], what="one CLEANUP and its duplicate")


def test_who_is_cleaned_by_hand_has_no_session_any_more(world: World) -> None:
    """Neither a reminder nor another CLEANUP comes; a new CREATE begins anew."""
    world.begin(6)
    assert world.backend.one("CLEANUP 6 0")["state"] == "done"
    world.pass_time(1.2)
    assert (world.reminders(6), world.cleanups(6), world.left(6)) == (0, ["done"], None)
    world.begin(6)
    world.pass_time(1.0)
    assert world.left(6) == 1.0
    world.pass_time(1.1)
    wait_until(lambda: world.cleanups(6) == ["done", "done"], what="the second CLEANUP")


def test_the_clock_is_set_and_the_machine_restarts(world: World) -> None:
    """A jump of the wall clock ends nobody's session; a restart takes the time it took."""
    world.begin(7)
    world.clock = replace(world.clock, wall=world.clock.wall + 86400 * 30)
    world.pass_time(0.25)
    assert world.left(7) == 1.75
    world.clock = replace(world.clock, boot="another life", uptime=5.0, wall=world.clock.wall + 1800)
    world.pass_time(0)
    assert (world.left(7), world.cleanups(7)) == (1.25, [])
    world.clock = replace(world.clock, boot="a third", uptime=2.0, wall=0.0)
    world.pass_time(0)
    assert world.left(7) == 1.25
    world.pass_time(1.3)
    wait_until(lambda: world.cleanups(7) == ["done"], what="the CLEANUP")


def test_the_server_itself_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of some seconds ends without anybody's doing, the server being killed meanwhile."""
    monkeypatch.setenv("WODMAIL_TEST_SESSIONS_EVERY", "0.1")
    backend = Deployment(tmp_path)
    try:
        backend.workshop("WKSHP-Short", range=[1, 20], duration=0.002)
        first = backend.start(module="tests.sessionserver")
        assert backend.one("CREATE 1 0", "WKSHP-Short")["state"] == "done"
        # Its row, for a session of seconds may be over when a slow machine asks what goes on.
        wait_until(lambda: backend.store.rows(sa.select(tables.sessions)), what="the session")
        first.kill()
        first.wait()
        backend.start(module="tests.sessionserver")
        told = wait_until(lambda: [row for row in backend.requests() if row["action"] == "CLEANUP"], what="the CLEANUP")
        wait_until(lambda: not backend.seat(1).active, what="the end of the CLEANUP")
        assert len(told) == 1
    finally:
        backend.close()


def test_with_an_api_db_it_is_watched(tmp_path: Path) -> None:
    """Told once, an hour after the end; cleaned when that is wanted, and with the participant's number."""
    api = ApiDbSite(tmp_path, base=1000)
    backend = Deployment(tmp_path, WODREPLYBUDGET=1000, WODMONITOR="ops@example.org", WODSELFCLEAN=True, **api.keys)
    try:
        backend.workshop("WKSHP-Plain", range=[1, 20])
        api.add_workshop("WKSHP-Plain", range=[1, 20])
        api.add_students(range(1, 5))
        api.start()
        backend.start()
        now = time.time()
        people = {student: api.add_customer("WKSHP-Plain", student) for student in (1, 2, 3)}
        for student, hours in ((1, 2.0), (2, 0.5), (3, 2.0)):
            assert backend.one(f"CREATE {student} {people[student]}", "WKSHP-Plain")["state"] == "done"
            ends = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now - hours * 3600))
            api.update("customers", people[student], endDate=ends)
        assert backend.one(f"CLEANUP 3 {people[3]}", "WKSHP-Plain")["state"] == "done"
        settings = backend.settings
        seats = registry.for_settings(settings, backend.store)
        watch = Overdue(settings, backend.store, seats, Spool(settings.WODSTATEDIR / "spool"))
        assert [seat.student for seat in watch.look(now)] == [1]
        told = [mail for mail in backend.outbox() if "overdue" in str(mail["Subject"])]
        assert len(told) == 1 and f"participant {people[1]}" in str(told[0].get_payload(decode=True))
        last = wait_until(lambda: backend.ended(5)[-1], what="the CLEANUP")
        assert (last["action"], last["students"], last["number"], last["state"]) == ("CLEANUP", [1], people[1], "done")
        assert watch.look(now) == []
        assert [seat.student for seat in watch.look(now + 3600)] == [2]
    finally:
        backend.close()
        api.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["wodmail", "sessions", "--config", str(backend.file)])
        assert run(root, "wodmail") == 1


class Watched:
    """A backend beside an API-DB, without its server: two participants at work, whose time is over."""

    def __init__(self, folder: Path) -> None:
        self.api = ApiDbSite(folder, base=1000)
        self.backend = Deployment(folder, WODMONITOR="ops@example.org", **self.api.keys)
        self.backend.workshop("WKSHP-Plain")
        self.api.add_workshop("WKSHP-Plain")
        self.api.add_students(range(1, 5))
        self.now = time.time()
        self.people = {student: self.api.add_customer("WKSHP-Plain", student) for student in (1, 2)}
        for student in self.people:
            self.ends(student, 2.0)
        self.api.start()
        self.backend.store.migrate()
        self.spool = Spool(self.backend.settings.WODSTATEDIR / "spool")

    def ends(self, student: int, hours: float) -> None:
        """The student's participant is at work, and the time was over so long ago."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(self.now - hours * 3600))
        self.api.update("customers", self.people[student], active=True, endDate=moment)

    def look(self, **settings: Any) -> list[int]:
        """As after each restart; the students that are newly overdue."""
        known = self.backend.settings.model_copy(update=settings)
        seats = registry.for_settings(known, self.backend.store)
        try:
            return [seat.student for seat in Overdue(known, self.backend.store, seats, self.spool).look(self.now)]
        finally:
            seats.close()

    def sent(self) -> list[str]:
        """The subjects of the CLEANUPs that lie in the spool."""
        raws = [self.spool.read(key).raw.decode() for key in self.spool.new()]
        return sorted(line for raw in raws for line in raw.splitlines() if line.startswith("Subject: "))

    def told(self) -> list[str]:
        """The texts of the mails to WODMONITOR."""
        return [str(mail.get_payload(decode=True), "utf-8") for mail in self.backend.outbox()]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.backend.close()
    made.api.stop()


def test_without_selfclean_it_only_watches_and_cleans_once_that_is_on(watched: Watched) -> None:
    """As its own mail says; those that were told before, too, and each once."""
    assert (watched.look(), watched.sent(), len(watched.told())) == ([1, 2], [], 1)
    assert "would do it itself" in watched.told()[0]
    assert (watched.look(), watched.sent()) == ([], [])
    both = [f"Subject: CLEANUP {student} {watched.people[student]}" for student in (1, 2)]
    for _ in range(2):
        assert watched.look(WODSELFCLEAN=True) == []
        assert (watched.sent(), len(watched.told())) == (both, 1)


def test_an_end_that_is_moved_and_passes_again_is_told_and_cleaned_again(watched: Watched) -> None:
    assert watched.look(WODSELFCLEAN=True) == [1, 2]
    raws = [watched.spool.read(key).raw for key in watched.spool.new()]
    for key in watched.spool.new():
        watched.spool.settle(key)  # taken in; what lies in the spool is on its way to the seat
    watched.ends(1, 0.5)
    assert watched.look(WODSELFCLEAN=True) == []
    watched.ends(1, 1.5)
    assert watched.look(WODSELFCLEAN=True) == [1]
    raws += [watched.spool.read(key).raw for key in watched.spool.new()]
    assert (len(raws), len(watched.told())) == (3, 2)
    assert len({line for raw in raws for line in raw.splitlines() if line.startswith(b"Message-ID")}) == 3


def test_what_was_cleaned_is_told_after_a_crash_and_a_mail_server_that_was_away(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the seats are clean, and the API-DB says nothing of them any more."""

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Overdue, "_tell", crash)
        with pytest.raises(KeyboardInterrupt):
            watched.look(WODSELFCLEAN=True)
    for participant in watched.people.values():
        watched.api.update("customers", participant, active=False, cleaned=True)
    with monkeypatch.context() as patch:
        patch.setattr(notice, "tell", lambda *_: "the mail server is away")
        assert watched.look(WODSELFCLEAN=True) == []
    assert (len(watched.sent()), watched.told()) == (2, [])
    for _ in range(2):
        assert watched.look() == []
        (text,) = watched.told()
        assert text.count("(cleaned by the backend)") == 2 and "would do it itself" not in text


def test_a_cleanup_that_waits_in_the_spool_has_come(watched: Watched) -> None:
    settings, people = watched.backend.settings, watched.people
    key = sessionends.clean(settings, watched.spool, 1, people[1], "WKSHP-Plain", "the-frontends")
    assert (watched.look(WODSELFCLEAN=True), len(watched.sent())) == ([2], 2)
    assert [f"participant {people[each]}" in watched.told()[0] for each in (1, 2)] == [False, True]
    watched.spool.settle(key)  # taken in, and no request of a CLEANUP has come of it
    assert watched.look() == [1]
    assert "no CLEANUP has come" in watched.told()[1]


def test_a_cleanup_that_came_and_did_nothing_is_named(watched: Watched) -> None:
    """The newest since the CREATE, of this participant or of whoever sits there."""

    def came(action: str, student: int, number: int, state: State) -> int:
        with watched.backend.store.transaction() as connection:
            new = NewRequest(
                spool_key=f"{action}-{student}-{number}-{state}",
                state=state,
                received_at=watched.now,
                action=action,
                students=(student,),
                number=number,
            )
            return accept(connection, watched.backend.store.backend, new)

    one, two = watched.people.values()
    came("CLEANUP", 1, one - 1, State.REFUSED)  # somebody else's
    came("CREATE", 1, one, State.DONE)
    refused = came("CLEANUP", 1, one, State.REFUSED)
    came("CLEANUP", 1, one, State.DUPLICATE)
    came("CLEANUP", 2, two, State.FAILED)
    came("CREATE", 2, two, State.DONE)
    assert watched.look() == [1, 2]
    (mail,) = watched.backend.outbox()
    (text,) = watched.told()
    assert "no CLEANUP came" not in str(mail["Subject"])
    assert f"CLEANUP came as request {refused} and was refused: `wodmail show {refused}`" in text
    assert text.count("came as request") == text.count("no CLEANUP has come") == 1


def test_the_server_itself_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WODMAIL_TEST_SESSIONS_EVERY", "0.1")
    watched = Watched(tmp_path)
    try:
        watched.backend.start(module="tests.sessionserver")
        (text,) = wait_until(watched.told, what="the mail to WODMONITOR")
        assert f"participant {watched.people[1]}" in text and "would do it itself" in text
        assert watched.backend.requests() == []
    finally:
        watched.backend.close()
        watched.api.stop()
