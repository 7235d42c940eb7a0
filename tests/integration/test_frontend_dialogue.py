"""The real server between a frontend and an API-DB: what it writes there for each mail, in which order, when nothing.

The API-DB is the stand-in; what was written is read from its request log.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apidb.frontend import Frontend, Participant, Phase
from tests.apidb.site import ApiDbSite
from tests.apidb.state import shown
from tests.e2e.harness import Deployment, step_of
from tests.support import wait_until

pytestmark = pytest.mark.xdist_group("frontend-dialogue")  # one server for all of it

BASE = 1000
CREATED = ["student password", "customer active=True"]
CLEANED = ["student password", "customer completionPercentage=0", "student assigned=False", "customer cleaned=True"]
KEPT = [
    *("student password", "customer completionPercentage=0", "student assigned=True", "customer active=False"),
    "customer cleaned=True",
]
RESET = ["student assigned=False"]
PURGED = ["student password", "student assigned=False"]

Put = tuple[str, dict[str, Any]]


class World:
    """A backend, its API-DB, and the frontend, whose checks the tests call."""

    def __init__(self, folder: Path) -> None:
        self.api = ApiDbSite(folder, base=BASE)
        self.backend = Deployment(folder, WODMONITOR="monitor@localhost", WODREPLYBUDGET=1000, **self.api.keys)
        self.frontend = Frontend(self.api, self.backend.port)
        self._workshop("WKSHP-Test", [1, 20])
        self._workshop("WKSHP-Again", [21, 40], reset=True)
        self.backend.script("reset-WKSHP-Again.sh", 'echo "reset $stdid for $userid"\n')
        self._workshop("WKSHP-Fails", [41, 50])
        self.backend.script("create-WKSHP-Fails.sh", "exit 7\n")
        self.api.add_students(range(1, 51))
        self.api.start()
        self.backend.start()

    def _workshop(self, name: str, span: list[int], **meta: Any) -> None:
        self.backend.workshop(name, range=span, **meta)
        self.api.add_workshop(name, range=span, **meta)

    def close(self) -> None:
        self.backend.close()
        self.api.stop()

    def until(self, one: Participant, phase: Phase) -> None:
        """The frontend checks every quarter of a second until the participant is in the phase and no job is left."""
        checked = 0.0

        def there() -> bool:
            nonlocal checked
            if time.monotonic() - checked > 0.25:
                self.frontend.tick()
                checked = time.monotonic()
            return one.phase is phase

        wait_until(there, what=f"{one} to be {phase.name}")
        self.backend.ended(1)

    def all_of(self, *mails: tuple[str, str]) -> list[dict[str, Any]]:
        """Send mails (subject, first line), wait until all their requests have ended; in the same order."""
        before = len(self.backend.requests())
        for subject, word in mails:
            assert self.backend.mail(subject, word).startswith("250 ")
        rows = self.backend.ended(before + len(mails))[before:]
        return [next(row for row in rows if row["subject"] == subject) for subject, _ in mails]

    def working(self, word: str) -> Participant:
        """A participant with credentials."""
        one = self.frontend.register(word)
        self.until(one, Phase.WORKING)
        return one

    def puts(self, one: Participant, since: int = 0) -> list[str]:
        """What was written about a participant and the seat, in order."""
        paths = (f"/student/{one.student + BASE}", f"/customer/{one.number}")
        return [said(put) for put in self.api.puts(since) if put[0] in paths]

    def requests(self, one: Participant, action: str) -> list[dict[str, Any]]:
        """The requests about a participant, duplicates left out."""
        return [
            row
            for row in self.backend.requests()
            if (row["number"], row["action"]) == (one.number, action) and row["state"] != "duplicate"
        ]


def said(put: Put) -> str:
    """A PUT in words: whose row, which field, which value; a password's value is left out."""
    path, body = put
    fields = " ".join(name if name == "password" else f"{name}={value}" for name, value in body.items())
    return f"{path.split('/')[1]} {fields}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all tests; each has participants of its own."""
    made = World(tmp_path_factory.mktemp("dialogue"))
    yield made
    made.close()


def test_a_session_from_registration_to_the_free_seat(world: World) -> None:
    one = world.working("WKSHP-Test")
    assert world.puts(one) == CREATED
    [row] = world.requests(one, "CREATE")
    assert row["state"] == "done"
    assert re.search(
        rf"student {one.student} \(passwd {one.password}\)", (world.backend.state / ".mail/from").read_text()
    )
    assert (f"/student/{one.student + BASE}", {"password": shown(one.password)}) in world.api.puts()
    before = world.api.mark()
    world.frontend.expire(one)
    world.until(one, Phase.OVER)
    assert world.puts(one, before) == CLEANED
    customer, student = world.api.customer(one.number), world.api.student(one.student)
    assert (customer["active"], customer["cleaned"], student["assigned"]) == (False, True, False)
    assert student["password"] != one.password
    assert one.credentials == 1


def test_a_challenge(world: World) -> None:
    before = world.api.mark()
    one = world.working("CHLG-Test")
    [row] = world.requests(one, "CREATE")
    assert (row["workshop"], row["state"]) == ("CHLG-Test", "done")
    assert world.puts(one, before) == CREATED


def test_a_session_of_a_workshop_with_reset(world: World) -> None:
    """CLEANUP keeps the seat, the RESET (whose subject is broken) gives it back."""
    one = world.working("WKSHP-Again")
    assert world.puts(one) == CREATED
    before = world.api.mark()
    world.frontend.expire(one)
    world.until(one, Phase.OVER)
    assert f"RESET [object Promise] {one.number}" in world.frontend.subjects()
    assert world.puts(one, before) == [*KEPT, *RESET]
    [row] = world.requests(one, "RESET")
    assert (row["state"], row["students"]) == ("done", [one.student])
    assert step_of(row, "reset-script")["state"] == "done"
    assert "[object Promise]" in reply_of(world, row)
    assert f"participant {one.number} has student {one.student}" in reply_of(world, row)


def test_a_deployment_that_is_given_up(world: World) -> None:
    """The CREATE fails, nobody is told that it is active; then CLEANUP, RESET (nothing to do) and PURGE."""
    one = world.frontend.register("WKSHP-Fails")
    wait_until(lambda: [row for row in world.requests(one, "CREATE") if row["finished"]], what="the CREATE")
    assert [row["state"] for row in world.requests(one, "CREATE")] == ["failed"]
    assert world.puts(one) == []
    one.since -= 601
    world.until(one, Phase.OVER)
    wait_until(lambda: [row for row in world.requests(one, "PURGE") if row["finished"]], what="the PURGE")
    assert world.puts(one) == [*CLEANED, *PURGED]
    assert [row["state"] for row in world.requests(one, "RESET")] == ["done"]
    [purge] = world.requests(one, "PURGE")
    assert (purge["state"], purge["students"]) == ("done", [one.student])
    assert "[object Promise]" in reply_of(world, purge)
    assert world.api.customer(one.number)["active"] is False


def test_a_purge_that_names_its_student(world: World) -> None:
    one = world.working("WKSHP-Test")
    world.api.update("customers", one.number, cleaned=True)
    before = world.api.mark()
    row = world.backend.one(f"PURGE {one.student} {one.number}", "VOID")
    assert row["state"] == "done"
    assert world.puts(one, before) == PURGED
    world.api.update("customers", one.number, active=False)


def test_a_reset_over_a_range(world: World) -> None:
    """The capacity first, then each seat; no participant, no broken subject."""
    before = world.api.mark()
    row = world.backend.one("RESET 35,37 0", "WKSHP-Again")
    assert row["state"] == "done"
    puts = world.api.puts(before)
    number = next(row["id"] for row in world.api.rows("workshops") if row["notebook"] == "WKSHP-Again")
    assert puts[0] == (f"/workshop/{number}", {"capacity": 3})
    assert puts[1:] == [(f"/student/{BASE + student}", {"assigned": False}) for student in (35, 36, 37)]


def test_a_second_create_after_the_first_is_done_writes_nothing(world: World) -> None:
    one = world.working("WKSHP-Test")
    (world.backend.home(one.student) / "mine").write_text("work")
    before = world.api.mark()
    count = len(world.backend.requests())
    world.backend.mail(f"CREATE {one.student} {one.number} {one.email}")
    assert world.backend.ended(count + 1)[-1]["state"] == "duplicate"
    assert world.api.puts(before, all_of_them=True) == []
    assert (world.backend.home(one.student) / "mine").exists()


def test_a_participant_of_another_student_is_refused(world: World) -> None:
    """Whatever is asked: the words name the participant and both students, and nothing is written anywhere."""
    one = world.working("WKSHP-Test")
    before, other = world.api.mark(), 20
    for row in world.all_of(*((f"{do} {other} {one.number}", "WKSHP-Test") for do in ("CREATE", "CLEANUP", "PURGE"))):
        assert row["state"] == "refused"
        for words in (row["reason"], reply_of(world, row)):
            assert re.search(rf"participant {one.number} has student {one.student}, not student {other}", words)
    assert world.api.puts(before, all_of_them=True) == []
    assert not (world.backend.home(other) / "WKSHP-Test").exists()
    assert (world.backend.home(one.student) / "WKSHP-Test").exists()


def test_a_participant_of_another_workshop_is_refused(world: World) -> None:
    one = world.working("WKSHP-Test")
    before = world.api.mark()
    [row] = world.all_of((f"CLEANUP {one.student} {one.number}", "WKSHP-Again"))
    assert row["state"] == "refused"
    assert "WKSHP-Test" in row["reason"]
    assert "WKSHP-Again" in row["reason"]
    assert world.api.puts(before, all_of_them=True) == []
    assert (world.backend.home(one.student) / "WKSHP-Test").exists()


def test_a_participant_that_is_none_is_refused(world: World) -> None:
    before = world.api.mark()
    subjects = ("CREATE 19 9999", "RESET [object Promise] 9999", "PURGE [object Promise] 0")
    for row in world.all_of(*((subject, "WKSHP-Test") for subject in subjects)):
        assert row["state"] == "refused"
        assert "9999" in row["reason"] or "NUMBER 0" in row["reason"]
    assert world.api.puts(before, all_of_them=True) == []


def test_one_login_and_no_secret_in_any_log(world: World) -> None:
    """The server logs in when it must, not for each call; neither its password nor a token is in its log."""
    world.working("WKSHP-Test")
    logins = [line for line in world.api.log() if line["path"] == "/api/login"]
    assert 1 <= len(logins) <= 2
    assert {line["status"] for line in world.api.log() if line["method"] == "PUT"} == {200}
    assert world.api.password not in world.backend.log()
    assert "eyJ" not in world.backend.log()


def reply_of(world: World, row: dict[str, Any]) -> str:
    """The text of the mail that answers a request."""
    mail = wait_until(lambda: world.backend.replies(row["id"]), what=f"the reply of request {row['id']}")[0]
    parts = [part for part in mail.walk() if part.get_content_type() == "text/plain"]
    payload = parts[0].get_payload(decode=True)
    assert isinstance(payload, bytes)
    return re.sub(r"\s+", " ", payload.decode())
