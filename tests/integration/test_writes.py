"""Writes to the API-DB while it is away: kept, in order, delivered, refused, and what they keep alive meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests import databases
from tests.apidb.state import shown
from tests.office import WORD, Office, opened
from tests.support import wait_until
from wodmail import breaker, delivery, requests, writes
from wodmail.cli.root import root
from wodmail.delivery import BEHIND, NOTE, Writes
from wodmail.errors import Away, Failed, Refused
from wodmail.mail.send import Sender
from wodmail.model import State, Write
from wodmail.outbox import Outbox
from wodmail.server import Server


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


def impatient(office: Office, monkeypatch: pytest.MonkeyPatch, path: str = "") -> None:
    """PUTs that hang are waited for 0.4 s; all other calls as long as a busy machine takes."""
    made = office.registry.api._wire._client
    build = made.build_request

    def hurried(method: str, url: str, **more: Any) -> Any:
        return build(method, url, **more, **({"timeout": 0.4} if method == "PUT" and url.endswith(path) else {}))

    monkeypatch.setattr(made, "build_request", hurried)


def expected(student: int) -> list[tuple[str, dict[str, Any]]]:
    """The PUTs of `Office.cleanup`, as the stand-in logs them."""
    return [
        (f"/student/{1000 + student}", {"password": shown(WORD)}),
        (f"/customer/{50 + student}", {"completionPercentage": 83}),
        (f"/student/{1000 + student}", {"assigned": False}),
        (f"/customer/{50 + student}", {"cleaned": True}),
    ]


def test_writes_go_straight_out(office: Office) -> None:
    _, job = office.job(3)
    assert office.cleanup(3, job) == [""] * 4
    assert office.api.puts() == expected(3)
    assert office.kept() == []


def test_what_can_not_be_sent_is_kept_and_delivered_in_order(any_office: Office) -> None:
    office = any_office
    office.api.stop()
    with office.at_work(3) as (request, job):
        assert office.cleanup(3, job) == [NOTE, BEHIND, BEHIND, BEHIND]
    assert {(row["request"], row["job"], row["lane"]) for row in office.kept()} == {(request, job, "student 3")}
    assert writes.kept(office.services.store) == writes.kept(office.services.store, request) == 4
    office.api.start()
    office.deliver_until(lambda: not office.kept())
    assert office.api.puts() == expected(3)
    assert office.api.student(3)["password"] == WORD


def test_new_writes_wait_for_older_ones_of_their_lane_alone(office: Office) -> None:
    office.api.stop()
    assert office.registry.free_seat(3) == NOTE
    office.api.start()
    office.await_back()
    assert office.registry.free_seat(4) == ""
    assert office.registry.set_password(3, office.services.passwords.reference(office.job(3)[1], 3)) == BEHIND
    assert office.registry.set_capacity("WKSHP-Test", 7) == ""
    office.deliver_until(lambda: not office.kept())
    told = [(path, list(body)) for path, body in office.api.puts() if path == "/student/1003"]
    assert told == [("/student/1003", ["assigned"]), ("/student/1003", ["password"])]


def test_the_same_write_again_is_kept_once(office: Office) -> None:
    office.api.stop()
    assert [office.registry.free_seat(3), office.registry.free_seat(3)] == [NOTE, BEHIND]
    assert len(office.kept()) == 1
    assert office.registry.keep_seat(3, 53) == BEHIND
    assert [json.loads(row["body"]) for row in office.kept()] == [
        {"assigned": False},
        {"assigned": True},
        {"active": False},
    ]


def test_no_password_in_the_database(office: Office, tmp_path: Path) -> None:
    office.api.stop()
    with office.at_work(3) as (_, job):
        office.cleanup(3, job)
    assert WORD not in repr(office.kept())
    assert office.kept()[0]["password"] == f"secret:{job}/password-3"
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.parent.parent.name != "secrets"]
    assert [file for file in files if WORD.encode() in file.read_bytes()] == []


def test_secrets_and_requests_stay_while_writes_need_them(any_office: Office) -> None:
    office = any_office
    office.api.stop()
    with office.at_work(3) as (request, job):
        office.cleanup(3, job)
    services, database = office.services, office.services.store
    requests.finish_job(services, job, State.DONE)
    assert requests.jobs_with_passwords(database) == {job}
    services.passwords.sweep(requests.jobs_with_passwords(database))
    assert requests.purge(database, time.time() + 60) == ([], 0)
    assert services.passwords.get(job, 3) == WORD
    office.api.start()
    office.start()
    wait_until(lambda: not office.kept(), what="the delivery")
    wait_until(lambda: not services.passwords.get(job, 3), what="the password to be forgotten")
    assert office.api.puts() == expected(3)
    assert requests.purge(database, time.time() + 60) == ([job], 1)
    assert database.describe([request]) == []


def test_a_refused_one_is_told_and_holds_nothing_up(any_office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office = any_office
    impatient(office, monkeypatch, "/customer/999")
    office.api.stop()
    with office.at_work(3) as (request, job):
        assert office.registry.set_cleaned(999, 3) == NOTE
        assert office.registry.free_seat(3) == BEHIND
    requests.finish_job(office.services, job, State.DONE)
    office.api.start()
    office.deliver_until(lambda: writes.kept(office.services.store) == 0)
    assert office.api.puts() == [("/student/1003", {"assigned": False})]
    (row,) = office.kept()
    assert (row["state"], row["path"], row["request"]) == ("failed", "/customer/999", request)
    assert "Customer Not Found" in row["error"]
    Outbox(office.services, Sender(office.site.settings)).run()
    (mail,) = [mail for mail in office.site.outbox() if mail["To"] == "monitor@localhost"]
    text = str(mail.get_payload(decode=True), "utf-8")
    assert "a write to the API-DB was refused" in " ".join(str(mail["Subject"]).split())
    assert "PUT /customer/999 (cleaned)" in text
    assert "Customer Not Found" in text
    assert requests.purge(office.services.store, time.time() + 60) == ([job], 1)
    assert office.kept() == []


def test_a_forgotten_password_is_refused(office: Office) -> None:
    request, job = office.job(3)
    office.services.passwords.forget(job)
    reference = office.services.passwords.reference(job, 3)
    with pytest.raises(Failed, match=r"not known any more.*retry"):
        office.registry.set_password(3, reference)
    assert office.api.puts() == []
    assert request


def test_a_login_that_is_refused_loses_nothing(any_office: Office) -> None:
    office = any_office
    office.api.stop()
    assert office.registry.free_seat(3) == NOTE
    office.api.start()
    office.api.set_account(office.api.user, "another")
    # The next try is a second away; where the machine stalls that long, there is one more before this one looks.
    office.deliver_until(lambda: office.kept()[0]["tries"] and office.writes.idle())
    assert "WODAPIDBUSERPWD" not in office.kept()[0]["error"]
    assert "Invalid Password" in office.kept()[0]["error"]
    office.api.set_account(office.api.user, office.api.password)
    office.start()  # a new life tries at once
    wait_until(lambda: not office.kept(), what="the delivery")
    assert office.api.puts() == [("/student/1003", {"assigned": False})]


def test_one_that_hangs_holds_up_no_other_lane(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(office, monkeypatch, "/student/1001")
    office.api.stop()
    for student in range(1, 10):
        office.registry.free_seat(student)
    office.api.start()
    office.api.fault("hang", method="PUT", path="^/student/1001$")
    office.start()
    office.api.await_puts(8)
    # A write is struck off after the API-DB has logged it.
    wait_until(lambda: [row["lane"] for row in office.kept()] == ["student 1"], what="the others to be struck off")
    assert office.registry.set_cleaned(59, 9) == ""
    assert [row["lane"] for row in office.kept()] == ["student 1"]
    office.api.clear_faults()
    office.api.await_puts(10)
    wait_until(lambda: not office.kept(), what="the last one to be struck off")


def test_killed_between_sending_and_striking_off(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.api.stop()
    with office.at_work(3) as (_, job):
        office.cleanup(3, job)
    office.api.start()
    send = Writes._send

    class Killed(BaseException):
        pass

    def killed(made: Writes, write: Write, tries: int | None) -> None:
        send(made, write, tries)
        raise Killed

    monkeypatch.setattr(Writes, "_send", killed)

    def dies() -> bool:
        try:
            office.deliver()
        except Killed:
            return True
        return False

    wait_until(dies, what="a delivery")
    monkeypatch.setattr(Writes, "_send", send)
    assert len(office.kept()) == 4
    assert office.registry.set_active(53, 3) == BEHIND, "the next life delivers what the last one left first"
    office.deliver_until(lambda: not office.kept())
    assert office.api.puts() == [expected(3)[0], *expected(3), ("/customer/53", {"active": True})]


def test_reads_do_not_believe_a_seat_that_has_writes_to_come(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(office, monkeypatch)
    office.api.add_customer("WKSHP-Test", 3, id=70, active=True)
    with pytest.raises(Refused, match="70, who is active"):
        office.registry.check_participant(53, 3, "WKSHP-Test")
    office.api.fault("hang", method="PUT", times=1)
    assert office.registry.keep_seat(3, 70) == BEHIND
    assert office.registry.set_cleaned(70, 3) == BEHIND
    with pytest.raises(Away, match="student 3"):
        office.registry.check_participant(53, 3, "WKSHP-Test")
    with pytest.raises(Away, match="student 3"):
        office.registry.seat(3)
    office.deliver_until(lambda: not office.kept())
    office.registry.check_participant(53, 3, "WKSHP-Test")
    assert not office.registry.seat(3).active


def test_without_a_store_nothing_is_kept(office: Office) -> None:
    alone = Writes(office.registry.api, office.writes._secrets, None)
    assert alone.write(Write("student 3", "/student/1003", {"assigned": False})) == ""
    office.api.stop()
    with pytest.raises(Away):
        alone.write(Write("student 3", "/student/1003", {"assigned": True}))
    assert office.kept() == []


def test_show_and_ping_tell_of_them(office: Office) -> None:
    office.api.stop()
    with office.at_work(3) as (request, job):
        office.cleanup(3, job)
    arguments = ["show", "--config", str(office.site.file), str(request)]
    told = CliRunner().invoke(root, arguments, env={"COLUMNS": "300"}).output
    assert "/student/1003 (password) kept since" in told
    assert "Connection refused" in told
    data = json.loads(CliRunner().invoke(root, [*arguments, "--json"]).output)
    assert [write["fields"] for write in data["request"]["writes"]] == [
        ["password"],
        ["completionPercentage"],
        ["assigned"],
        ["cleaned"],
    ]
    server = Server(office.site.settings, lambda: office.services, door=False)
    server.lock.release()
    assert server._facts()["writes kept"] == 4
    assert WORD not in told + json.dumps(data)
    assert "secret:" not in told + json.dumps(data)
