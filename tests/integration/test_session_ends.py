"""The ends of sessions against what else happens to a seat, step by step: no server, jobs end when a test says so."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import databases
from tests.e2e.harness import SENDER, Deployment
from wodmail import requests, sessionends, sessions, store
from wodmail.catalog import Catalog
from wodmail.errors import Failed, Refused
from wodmail.intake import Intake
from wodmail.jobs import steps
from wodmail.jobs.plan import PlannedStep
from wodmail.jobs.services import StepContext
from wodmail.logs import Masker
from wodmail.mail.send import Sender
from wodmail.mail.spool import Spool
from wodmail.model import Action, JobSpec, State
from wodmail.outbox import Outbox
from wodmail.registry.embedded import EmbeddedRegistry
from wodmail.server import build_services
from wodmail.sessionclock import reading
from wodmail.sessionends import Ends
from wodmail.sessions import Sessions

UNDONE = ("waiting", "running")


class Desk:
    """A backend without its server: mails are taken in, jobs don't run, time passes when it is told."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.site = Deployment(folder, url, WODMONITOR="ops@example.org", WODREPLYBUDGET=1000)
        self.folder = self.site.workshop("WKSHP-Test")
        self.site.workshop("WKSHP-Again", reset=True)
        self.site.script("reset-WKSHP-Again.sh", "exit 0\n")
        self.services = build_services(self.site.settings, Masker())
        self.services.store.migrate()
        self.store = self.services.store
        self.spool = Spool(self.site.settings.WODSTATEDIR / "spool")
        parts = (self.site.settings, self.spool, self.store, self.services.registry)
        self.intake = Intake(*parts, kick=lambda: None, describe=lambda *_: [])
        self.clock = reading()
        self._marks = itertools.count()

    def close(self) -> None:
        self.services.registry.close()
        self.store.close()
        self.site.close()

    def keeper(self, **settings: Any) -> Sessions:
        """As after each restart."""
        known = self.site.settings.model_copy(update=settings)
        seats = EmbeddedRegistry(known, Catalog(known.WODNOBO))
        return Sessions(known, self.store, seats, self.spool, lambda: self.clock)

    def look(self, hours: float = 0.0) -> None:
        self.clock = replace(self.clock, uptime=self.clock.uptime + hours * 3600, wall=self.clock.wall + hours * 3600)
        self.keeper().look()

    def post(self, subject: str, workshop: str = "WKSHP-Test") -> None:
        """A mail that lies in the spool."""
        text = f"Subject: {subject}\nMessage-ID: <{next(self._marks)}@example.org>\n\n{workshop}\n"
        self.spool.store(text.encode(), peer="127.0.0.1", sender=SENDER, door="listener")

    def take_in(self) -> list[tuple[str, str]]:
        """Take in what lies there; all requests, as subject and state."""
        while self.intake.run():
            continue
        return [(row["subject"], row["state"]) for row in self.site.requests()]

    def finish(self, subject: str, state: State = State.DONE, *, active: bool | None = None) -> int:
        """The oldest unfinished request with that subject does what it does, and ends; returns its job."""
        row = next(row for row in self.site.requests() if row["subject"] == subject and row["state"] in UNDONE)
        student = row["students"][0]
        if active if active is not None else row["action"] == "CREATE" and state is State.DONE:
            self.services.registry.assign(student, row["workshop"])
            self.services.registry.set_active(0, student)
        elif row["action"] != "CREATE" and state is State.DONE:
            self.services.registry.free_seat(student)
        requests.finish_job(self.services, row["jobs"][0]["id"], state)
        return int(row["jobs"][0]["id"])

    def begin(self, student: int, workshop: str = "WKSHP-Test") -> int:
        """A session begins."""
        self.post(f"CREATE {student} 0", workshop)
        self.take_in()
        job = self.finish(f"CREATE {student} 0")
        self.look()
        return job

    def left(self, student: int) -> float | None:
        """Hours that are left, None when no session goes on."""
        found = sessions.running(self.store, lambda: self.clock)
        return next((round(each.left / 3600, 2) for each in found if each.student == student), None)

    def states(self, student: int) -> list[str]:
        """The student's sessions, oldest first."""
        table = store.sessions
        return [
            row["state"] for row in self.store.rows(sa.select(table).order_by(table.c.job)) if row["student"] == student
        ]

    def cleanups(self, student: int) -> list[str]:
        """The states of the CLEANUPs that the backend sent itself, all taken in."""
        self.take_in()
        own = [row for row in self.site.requests() if ".cleanup@" in row["message_id"]]
        return [row["state"] for row in own if row["students"] == [student] or not row["students"]]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=databases.KINDS)
def any_desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """On each database: for tests of what is asked of the tables."""
    with databases.fresh(request.param, tmp_path) as url:
        made = Desk(tmp_path, url)
        yield made
        made.close()


def test_no_cleanup_goes_behind_a_create_that_waits(any_desk: Desk) -> None:
    """The next class is on its way when the old session's time is over: in the lane, or still in the spool."""
    desk = any_desk
    desk.begin(1)
    desk.begin(2)
    desk.post("CLEANUP 1 0")
    desk.post("CREATE 1 0")
    desk.take_in()
    desk.post("CREATE 2 0")
    desk.look(4.1)
    assert (desk.states(1), desk.states(2)) == (["on"], ["on"])  # who has to wait may still be given more time
    assert (desk.cleanups(1), desk.cleanups(2), desk.spool.new()) == ([], [], [])
    desk.look()  # the CREATE of 2 waits now, and its session's CLEANUP with it
    assert desk.cleanups(2) == []
    for subject in ("CLEANUP 1 0", "CREATE 1 0", "CREATE 2 0"):
        desk.finish(subject)
        desk.look()
    assert (desk.states(1), desk.states(2)) == (["over", "on"], ["over", "on"])
    assert (desk.left(1), desk.cleanups(1), desk.cleanups(2)) == (4.0, [], [])


def test_after_a_create_that_failed_the_old_session_ends(desk: Desk) -> None:
    desk.begin(1)
    desk.post("CREATE 1 0")
    desk.take_in()
    desk.look(4.1)
    assert desk.cleanups(1) == []
    desk.finish("CREATE 1 0", State.FAILED)
    desk.look()
    assert desk.cleanups(1) == ["waiting"]


def test_a_cleanup_that_comes_behind_a_create_all_the_same_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CREATE comes in the very moment; no RESET either, and the session isn't lost when the CREATE fails."""
    desk.begin(1, "WKSHP-Again")
    send = sessionends.clean

    def late(*args: Any, **more: Any) -> str:
        desk.post("CREATE 1 0", "WKSHP-Again")
        return send(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(sessionends, "clean", late)
        desk.look(4.1)
    assert desk.take_in()[1:] == [("CREATE 1 0", "waiting"), ("CLEANUP 1 0", "refused")]
    desk.look()
    desk.look()
    assert desk.cleanups(1) == ["refused"]
    desk.finish("CREATE 1 0", State.FAILED)
    desk.look()
    assert desk.cleanups(1) == ["refused", "waiting"]
    assert [row["subject"] for row in desk.site.requests()][3:] == ["CLEANUP 1 0", "RESET 1 0"]


def test_its_validation_refuses_it_too(desk: Desk) -> None:
    """An operator lets an old CREATE run again before it; and its RESET, which would wipe as well, doesn't run."""
    first = desk.begin(1, "WKSHP-Again")
    desk.post("CREATE 1 0", "WKSHP-Again")
    desk.take_in()
    desk.finish("CREATE 1 0", State.FAILED)
    desk.look(4.1)
    assert desk.cleanups(1) == ["waiting"]
    rows = desk.site.requests()
    cleanup = rows[2]["jobs"][0]["id"]
    spec = JobSpec(rows[2]["id"], cleanup, Action.CLEANUP, (1,), "WKSHP-Again")
    context = StepContext(desk.services, spec, PlannedStep("validate", "validate", 1), None, {})
    assert steps.validate(context).state is State.DONE
    requests.retry(desk.store, rows[1]["id"], force=True)
    desk.finish("CREATE 1 0")
    with pytest.raises(Refused, match="newer CREATE") as caught:
        steps.validate(context)
    assert f"after job {first}" in caught.value.operator
    step = {"job": cleanup, "position": 1, "name": "validate", "state": "failed", "started_at": time.time()}
    with desk.store.transaction() as connection:
        connection.execute(store.steps.insert(), {**step, "result": '{"data": {"refused": true}}'})
    requests.finish_job(desk.services, cleanup, State.FAILED)
    assert desk.take_in()[2:] == [("CLEANUP 1 0", "refused"), ("RESET 1 0", "aborted")]


def test_who_sends_no_session_with_a_cleanup_is_obeyed(desk: Desk) -> None:
    """As ever: what a person sends after a CREATE is done after it."""
    desk.begin(1)
    desk.post("CREATE 1 0")
    desk.post("CLEANUP 1 0")
    assert desk.take_in()[1:] == [("CREATE 1 0", "waiting"), ("CLEANUP 1 0", "waiting")]


@pytest.mark.parametrize("stored", [False, True])
def test_a_crash_ends_a_session_once(desk: Desk, monkeypatch: pytest.MonkeyPatch, *, stored: bool) -> None:
    """Before its CLEANUP is stored, or before that is recorded."""
    desk.begin(1)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if stored:
            patch.setattr(Ends, "move", crash)
        else:
            patch.setattr(sessionends, "clean", crash)
        with pytest.raises(KeyboardInterrupt):
            desk.look(4.1)
    assert (desk.states(1), len(desk.spool.new())) == (["ending"], int(stored))
    desk.look()
    assert desk.cleanups(1) == ["waiting"]
    desk.look()
    desk.finish("CLEANUP 1 0", State.DONE)
    desk.look()
    assert (desk.cleanups(1), len(desk.states(1))) == (["done"], 1)
    assert desk.states(1)[0] == ("over" if stored else "ended")


def test_a_cleanup_that_was_sent_is_not_sent_again_while_it_waits(desk: Desk) -> None:
    """Also when the record is lost meanwhile; and after its failure a second one is a duplicate of the first."""
    desk.begin(1)
    desk.look(4.1)
    lost = store.sessions.update().values(state="ending", mail="")
    for taken_in in (False, True):
        if taken_in:
            desk.take_in()
        with desk.store.transaction() as connection:
            connection.execute(lost)
        desk.look()
        assert len(desk.spool.new()) == int(not taken_in)
    desk.finish("CLEANUP 1 0", State.FAILED)
    desk.look()
    assert desk.cleanups(1) == ["failed", "duplicate"]
    desk.look(30)
    assert (desk.cleanups(1), desk.states(1)) == (["failed", "duplicate"], ["ended"])


def test_a_cleanup_that_somebody_took_out_of_the_spool_is_sent_again(desk: Desk) -> None:
    desk.begin(1)
    desk.look(4.1)
    desk.look()
    (key,) = desk.spool.new()
    (desk.spool.folder / "new" / key).unlink()
    desk.look()
    assert desk.cleanups(1) == ["waiting"]


def test_one_bad_row_does_not_stop_the_others(desk: Desk) -> None:
    """The site has fewer students than before."""
    desk.begin(20)
    desk.begin(1)
    desk.post("CREATE 21 0")
    desk.take_in()
    desk.finish("CREATE 21 0")
    desk.clock = replace(desk.clock, uptime=desk.clock.uptime + 5 * 3600)
    desk.keeper(WODUSERMAX=10).look()
    assert (desk.states(20), desk.states(21), desk.states(1)) == (["over"], ["over"], ["sent"])
    assert desk.cleanups(1) == ["waiting"]


def test_the_trouble_of_one_is_not_the_others_(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.begin(1)
    desk.begin(2)
    send = sessionends.clean

    def refuse(settings: Any, spool: Spool, student: int, *args: Any, **more: Any) -> str:
        if student == 1:
            raise Failed("no")
        return send(settings, spool, student, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(sessionends, "clean", refuse)
        desk.look(4.1)
    assert (desk.cleanups(1), desk.cleanups(2)) == ([], ["waiting"])
    desk.look()
    assert desk.cleanups(1) == ["waiting"]


def test_a_cleanup_that_is_refused_is_told_once_and_sent_again(any_desk: Desk) -> None:
    """Its workshop's folder is gone for two hours."""
    desk = any_desk
    desk.begin(1)
    away = desk.folder.rename(desk.site.folder / "away")
    desk.look(4.1)
    desk.take_in()
    for hours, count in ((0, 1), (0.9, 1), (0.2, 2), (0, 2), (1.9, 2)):
        desk.look(hours)
        assert desk.cleanups(1) == ["refused"] * count
    Outbox(desk.services, Sender(desk.site.settings)).run()
    told = [mail for mail in desk.site.outbox() if mail["To"] == "ops@example.org"]
    assert [" ".join(str(mail["Subject"]).split()) for mail in told] == ["Re: CLEANUP 1 0: a session can't be ended"]
    text = str(told[0].get_payload(decode=True), "utf-8")
    assert "there is no workshop WKSHP-Test here" in text and "PURGE" in text
    shutil.move(away, desk.folder)
    desk.look(0.2)
    assert desk.cleanups(1) == ["refused", "refused", "waiting"]
    desk.finish("CLEANUP 1 0")
    desk.look()
    assert (desk.states(1), desk.left(1)) == (["ended"], None)


def test_a_session_that_is_longer_than_the_retention_ends(desk: Desk) -> None:
    """Its request stays, for the reminder; that of a session that is over does not."""
    job = desk.begin(1)
    desk.begin(2)
    desk.post("CLEANUP 2 0")
    desk.take_in()
    desk.finish("CLEANUP 2 0")
    desk.look(3.1)
    Outbox(desk.services, Sender(desk.site.settings)).run()
    gone, _ = requests.purge(desk.store, time.time() + 60)
    assert job not in gone and len(gone) == 2
    assert desk.cleanups(2) == []
    desk.look(0.5)
    assert (desk.left(1), desk.states(2)) == (0.4, ["over"])
    for state in ("over", "on"):  # as an older wodmail would have it, which deleted its CREATE
        with desk.store.transaction() as connection:
            connection.execute(store.sessions.update().values(state=state).where(store.sessions.c.job == job))
        requests.purge(desk.store, time.time() + 60)
    desk.begin(3)
    assert (desk.left(1), desk.states(2)) == (0.4, [])
    desk.look(0.5)
    assert desk.cleanups(1) == ["waiting"]


def test_more_time_in_the_moment_of_the_look(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gets more time has it; who comes too late is told so, not promised anything."""
    desk.begin(1)
    real = sessionends.coming_to

    def coming(*parts: Any) -> set[int]:
        sessions.extend(desk.store, 1, 2, lambda: desk.clock)
        return real(*parts)

    with monkeypatch.context() as patch:
        patch.setattr(sessionends, "coming_to", coming)
        desk.look(4.1)
    assert (desk.left(1), desk.cleanups(1)) == (2.0, [])
    send, told = sessionends.clean, []

    def clean(*args: Any, **more: Any) -> str:
        with pytest.raises(Refused) as caught:
            sessions.extend(desk.store, 1, 2, lambda: desk.clock)
        told.append(caught.value.sender)
        return send(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(sessionends, "clean", clean)
        desk.look(2.1)
    assert (desk.left(1), desk.cleanups(1), len(told)) == (None, ["waiting"], 1)


def test_more_time_for_many_while_somebody_looks(any_desk: Desk) -> None:
    """Each of them has more time, or a CLEANUP; nobody has both, nobody neither."""
    desk = any_desk
    students = range(1, 9)
    for student in students:
        desk.begin(student)
    desk.clock = replace(desk.clock, uptime=desk.clock.uptime + 4.1 * 3600)
    looking = threading.Thread(target=desk.keeper().look)
    looking.start()
    for student in students:
        with suppress(Refused):
            sessions.extend(desk.store, student, 2, lambda: desk.clock)
    looking.join()
    found = [(desk.left(student), desk.cleanups(student)) for student in students]
    assert [each for each in found if each not in ((2.0, []), (None, ["waiting"]))] == []


def test_a_workshop_that_does_not_say_lasts_four_hours(desk: Desk) -> None:
    desk.begin(1)
    assert desk.left(1) == 4.0


def test_more_time_in_the_moment_of_the_reminder(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has more time is reminded an hour before the new end, not now."""
    desk.begin(1)
    seated = Sessions._seated

    def extended(keeper: Sessions, row: Any) -> bool:
        sessions.extend(desk.store, 1, 2, lambda: desk.clock)
        return seated(keeper, row)

    def reminded() -> int:
        return len(desk.store.rows(sa.select(store.mails).where(store.mails.c.kind == sessions.REMINDER)))

    with monkeypatch.context() as patch:
        patch.setattr(Sessions, "_seated", extended)
        desk.look(3.1)
    assert (desk.left(1), reminded()) == (2.9, 0)
    desk.look(2.0)
    assert (desk.left(1), reminded()) == (0.9, 1)
