"""Kept writes that must not be delivered, or can't be: what the frontend has gone on without, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import databases
from tests.office import WORD, Office, opened
from tests.support import wait_until
from wodmail import breaker, delivery, requests, store, writes
from wodmail.delivery import BEHIND, NOTE, UNREAD
from wodmail.errors import Failed, Overtaken
from wodmail.jobs.atwork import at_work
from wodmail.logs import Masker
from wodmail.mail.send import Sender
from wodmail.mail.spool import Spool
from wodmail.model import State
from wodmail.outbox import Outbox
from wodmail.server import Server, build_services


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(delivery, "EVERY", 0.05)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with opened("sqlite", tmp_path) as made:
        yield made


@pytest.fixture(params=databases.KINDS)
def any_office(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Office]:
    """On each database: for tests of what is asked of the tables."""
    with opened(request.param, tmp_path) as made:
        yield made


def keep_both(office: Office) -> None:
    """Participant 53 set active and the seat of student 3 freed, while the API-DB is away."""
    office.api.stop()
    with office.at_work(3) as (_, job):
        assert office.registry.set_active(53, 3) == NOTE
        assert office.registry.free_seat(3) == BEHIND
    requests.finish_job(office.services, job, State.DONE)
    office.api.start()


def values_put(office: Office) -> list[Any]:
    return [value for _, body in office.api.puts() for value in body.values()]


def delivered(office: Office) -> None:
    office.deliver_until(lambda: not writes.kept(office.services.store))


def told_monitor(office: Office) -> list[tuple[str, str]]:
    """Subject and text of each mail to WODMONITOR about a write."""
    Outbox(office.services, Sender(office.site.settings)).run()
    mails = [(" ".join(str(mail["Subject"]).split()), mail) for mail in office.site.outbox()]
    about = [(subject, mail) for subject, mail in mails if "a write to the API-DB" in subject]
    assert all(mail["To"] == "monitor@localhost" for _, mail in about)
    return [(subject, str(mail.get_payload(decode=True), "utf-8")) for subject, mail in about]


@pytest.mark.parametrize(
    ("action", "student", "participant", "sent"),
    [
        ("CLEANUP", 3, 53, [False]),
        ("PURGE", 3, 53, [False]),
        ("CLEANUP", 3, 54, [True, False]),
        ("CREATE", 3, 54, [True]),
        ("CREATE", 3, 0, [True, False]),
        ("CREATE", 4, 54, [True, False]),
    ],
)
def test_what_the_frontend_has_gone_on_without_is_not_delivered(
    office: Office, action: str, student: int, participant: int, sent: list[bool]
) -> None:
    """Late, active=true would undo the frontend's giving up, and assigned=false would free a seat given out again."""
    keep_both(office)
    _, job = office.mail(action, student, participant)
    office.validated(job, State.DONE)
    requests.finish_job(office.services, job, State.DONE)
    delivered(office)
    assert values_put(office) == sent


@pytest.mark.parametrize(
    ("action", "participant", "workshop"), [("CREATE", 53, "WKSHP-Test"), ("CLEANUP", 53, "WKSHP-Other")]
)
def test_a_mail_that_was_refused_overtakes_nothing(
    any_office: Office, action: str, participant: int, workshop: str
) -> None:
    office = any_office
    keep_both(office)
    _, job = office.mail(action, 3, participant, workshop)
    office.validated(job, State.FAILED, refused=True)
    requests.finish_job(office.services, job, State.FAILED)
    delivered(office)
    assert values_put(office) == [True, False]
    assert told_monitor(office) == []


@pytest.mark.parametrize(
    ("action", "participant", "workshop", "sent"),
    [
        ("CREATE", 999, "WKSHP-Test", [True, False]),
        ("CREATE", 54, "WKSHP-Test", [True, False]),
        ("CREATE", 53, "WKSHP-Other", [True, False]),
        ("CREATE", 53, "CHLG-Test", [True]),
        ("CLEANUP", 53, "WKSHP-Other", [True, False]),
        ("RESET", 53, "WKSHP-Test", [False]),
        ("PURGE", 53, "VOID", [False]),
    ],
)
@pytest.mark.parametrize("validation", [None, State.FAILED])
def test_of_a_mail_that_is_not_judged_yet_the_api_db_is_asked(
    office: Office, action: str, participant: int, workshop: str, sent: list[bool], validation: State | None
) -> None:
    """Not waited for: its job may itself wait for these writes. A validation that found nothing out doesn't count."""
    keep_both(office)
    _, job = office.mail(action, 3, participant, workshop)
    if validation is not None:
        office.validated(job, validation)
        requests.finish_job(office.services, job, validation)
    delivered(office)
    assert values_put(office) == sent


def test_while_the_api_db_does_not_say_it_stays_kept(office: Office) -> None:
    keep_both(office)
    office.mail("CLEANUP", 3, 53)
    office.api.fault("error", status=418, method="GET", path="^/customers/53$")
    office.deliver_until(lambda: office.kept()[0]["tries"])
    assert writes.kept(office.services.store) == 2
    assert values_put(office) == []
    office.api.clear_faults()
    office.writes.begin()
    delivered(office)
    assert values_put(office) == [False]


def test_the_monitor_is_told_of_one_that_was_overtaken(any_office: Office) -> None:
    office = any_office
    keep_both(office)
    number, _ = office.mail("CLEANUP", 3, 53)
    delivered(office)
    ((subject, text),) = told_monitor(office)
    assert subject.endswith("a write to the API-DB was out of date")
    assert "PUT /customer/53 (active)" in text
    assert f"the CLEANUP of request {number} came since" in " ".join(text.split())
    (row,) = writes.of_request(office.services.store, office.kept()[0]["request"])
    assert row["state"] == "overtaken"


def test_one_that_can_not_be_delivered_for_an_hour_is_told_once(any_office: Office) -> None:
    office = any_office
    assert 3400 < sum(writes.pause_after(tries) for tries in range(1, writes.STUCK_AFTER)) < 3700
    keep_both(office)
    office.api.fault("error", status=500, method="PUT")
    with office.services.store.transaction() as connection:
        connection.execute(store.writes.update().values(tries=writes.STUCK_AFTER - 2))
    told = []
    for tries in range(writes.STUCK_AFTER - 1, writes.STUCK_AFTER + 3):

        def tried(tries: int = tries) -> bool:
            return bool(office.kept()[0]["tries"] >= tries)

        office.writes.begin()
        office.deliver_until(tried)
        told.append(len(told_monitor(office)))
    assert told == [0, 1, 1, 1]
    ((subject, text),) = told_monitor(office)
    assert subject.endswith("a write to the API-DB can't be delivered")
    assert "PUT /customer/53 (active)" in text
    assert f"in {writes.STUCK_AFTER} tries" in text


# -- a password that was refused --------------------------------------------------------------------------------------


def refuse_the_password(office: Office) -> None:
    office.api.start()
    office.api.fault("error", status=422, method="PUT", path="^/student/1003$")


def test_without_its_password_nobody_is_set_active(any_office: Office) -> None:
    """The frontend would mail the old password."""
    office = any_office
    office.api.stop()
    with office.at_work(3) as (_, job):
        office.registry.set_password(3, office.services.passwords.reference(job, 3))
        assert office.registry.set_active(53, 3) == BEHIND
    refuse_the_password(office)
    delivered(office)
    assert office.api.puts() == []
    assert [row["state"] for row in office.kept()] == ["failed", "failed"]
    assert "wrong password" in office.kept()[1]["error"]
    assert len(told_monitor(office)) == 2


def test_nor_when_the_password_is_refused_before_active_is_written(office: Office) -> None:
    office.api.stop()
    request, job = office.mail("CREATE", 3, 53)
    office.services.passwords.put(job, 3, WORD)
    with at_work(request, job):
        office.registry.set_password(3, office.services.passwords.reference(job, 3))
        refuse_the_password(office)
        delivered(office)
        with pytest.raises(Failed, match="refused the student's new password"):
            office.registry.set_active(53, 3)
    with at_work(*office.mail("CREATE", 3, 53)):  # another job of that student
        assert office.registry.set_active(53, 3) == ""
    step = {"job": job, "position": 9, "name": "registry-password", "state": "running"}
    with office.services.store.transaction() as connection:  # a retry, which tells it anew
        settled = connection.execute(sa.select(store.writes.c.settled_at)).scalar_one()
        connection.execute(store.steps.insert(), {**step, "started_at": settled + 1})
    with at_work(request, job):
        assert office.registry.set_active(53, 3) == ""


# -- when it is asked -------------------------------------------------------------------------------------------------


def test_active_is_asked_about_right_before_it_is_sent(office: Office) -> None:
    with office.at_work(3):
        assert office.registry.set_active(53, 3) == ""
        number, _ = office.mail("PURGE", 3, 53)
        with pytest.raises(Overtaken, match=rf"not told active=true .*the PURGE of request {number} came since"):
            office.registry.set_active(53, 3)
    assert values_put(office) == [True]
    assert office.kept() == []


def test_a_new_life_reads_its_mails_first(any_office: Office) -> None:
    """assigned=false had arrived after all; the frontend's CREATE for whoever got the seat lies in the spool."""
    office = any_office
    office.api.stop()
    with office.at_work(3) as (_, job):
        assert office.registry.free_seat(3) == NOTE
        assert office.registry.set_completion(53, 40, 3) == BEHIND
    requests.finish_job(office.services, job, State.DONE)
    settings = office.site.settings
    raw = b"Subject: CREATE 3 53\n\nWKSHP-Test\n"
    Spool(settings.WODSTATEDIR / "spool").store(raw, peer="127.0.0.1", sender="wodadmin@localhost", door="pipe")
    office.api.start()
    office.api.update("students", 1003, assigned=True)
    server = Server(settings, lambda: build_services(settings, Masker()), door=False)
    couriers = server.couriers
    assert couriers is not None
    taken_in = server.intake.run
    looks: list[bool] = []

    def take_in(stop: Callable[[], bool]) -> int:
        looks.append(couriers._started)
        if couriers._started:  # give them the time they need to do harm
            wait_until(lambda: office.api.puts() or not writes.kept(office.services.store), what="the couriers")
        return taken_in(stop)

    server.intake.run = take_in  # type: ignore[method-assign]
    server.start()
    try:
        server.run(server.idle)
    finally:
        server.drain()
    assert looks[:2] == [False, False], "a mail, then none"
    puts = office.api.puts()
    assert ("/student/1003", {"assigned": False}) not in puts
    assert ("/customer/53", {"completionPercentage": 40}) in puts
    assert office.api.student(3)["assigned"]
    assert office.api.customer(53)["active"]


def test_until_the_mails_are_read_active_is_kept(office: Office) -> None:
    office.writes.hold()
    with office.at_work(3):
        assert office.registry.set_active(53, 3) == UNREAD
        assert office.registry.free_seat(4) == ""
    office.mail("CLEANUP", 3, 53)
    office.writes.begin()
    delivered(office)
    assert values_put(office) == [False]
    assert [row["state"] for row in office.kept()] == ["overtaken"]


def test_work_until_empty_tries_what_the_last_life_has_put_off(office: Office) -> None:
    keep_both(office)
    with office.services.store.transaction() as connection:
        connection.execute(store.writes.update().values(next_try=time.time() + 60))
    assert office.writes.idle()
    settings = office.site.settings
    server = Server(settings, lambda: build_services(settings, Masker()), door=False)
    server.start()
    try:
        server.run(server.idle)
    finally:
        server.drain()
    assert values_put(office) == [True, False]
