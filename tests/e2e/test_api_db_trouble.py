"""The API-DB in trouble, seen from outside: down at the start, down in the middle, never letting in, answering pages.

Each time the sender is told what and what to do, the seat's rows are what they should be, and no secret is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.apidb.site import ApiDbSite
from tests.e2e.harness import Deployment, step_of
from tests.e2e.watching import watching
from tests.support import wait_until

PATIENCE = 1.5
TOKEN = "eyJhbGciOi"
BASE = 100
HOLD = "echo begun >>{0}/begun-$stdid\nwhile [ -e {0}/hold-$stdid ]; do sleep 0.02; done\n"
WAITS = """set -e
. "$WODFUNCTIONS"
echo "cleaned: $(wod_get_cleaned_status {0})"
wod_wait_till_clean {0}
echo "cleaned: $(wod_get_cleaned_status {0})"
"""


class World:
    """A backend and its API-DB, neither of them started."""

    def __init__(self, folder: Path, **extra: Any) -> None:
        self.api = ApiDbSite(folder, base=BASE)
        more = {"WODMONITOR": "monitor@localhost", "WODREPLYBUDGET": 1000, "WODAPIDBTIMEOUT": 20, **extra}
        self.backend = Deployment(folder, **more, **self.api.keys)
        self.backend.workshop("WKSHP-Test", range=[1, 20])
        self.backend.script("create-WKSHP-Test.sh", HOLD.format(folder))
        self.folder = folder
        self.api.add_workshop("WKSHP-Test", range=[1, 20])
        self.api.add_students(range(1, 21))

    def participant(self, student: int) -> int:
        """Register one; returns the number."""
        return self.api.add_customer("WKSHP-Test", student)

    def seat(self, student: int, participant: int) -> tuple[bool, bool, bool]:
        """Student assigned, participant active, participant cleaned."""
        customer = self.api.customer(participant)
        return self.api.student(student)["assigned"], customer["active"], customer["cleaned"]

    def begun(self, student: int) -> None:
        """Wait until the student's create script has begun."""
        wait_until(lambda: (self.folder / f"begun-{student}").exists(), what="the create script")

    def told(self, request: int) -> str:
        """The text of all mails about a request."""
        wait_until(lambda: len(self.backend.replies(request)) == 2, what="the mails to sender and monitor")
        texts = []
        for mail in self.backend.replies(request):
            part = next(each for each in mail.walk() if each.get_content_type() == "text/plain")
            texts.append(part.get_payload(decode=True).decode())  # type: ignore[union-attr]
        return "\n".join(texts)

    def close(self) -> None:
        """End both."""
        self.backend.close()
        self.api.stop()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes the one world of a test, and has it watched for secrets from then on to the end."""
    with ExitStack() as stack:

        def build(**extra: Any) -> World:
            world = World(tmp_path, **extra)
            stack.callback(world.close)
            # Each token begins so, by which it would be found on a command line, in a log, a mail or a file.
            secrets = {"WODAPIDBUSERPWD": world.api.password, "token": TOKEN}
            stack.enter_context(watching(world.backend, secrets))
            return world

        yield build


def test_down_at_the_start_then_back(make: Callable[..., World]) -> None:
    """The server starts, takes the mail, the job waits without a worker, and goes on when the API-DB is there."""
    world = make(WODWORKERS=1)
    seven, eight = world.participant(7), world.participant(8)
    world.backend.start()
    for student, number in ((7, seven), (8, eight)):
        assert world.backend.mail(f"CREATE {student} {number}", "WKSHP-Test").startswith("250 ")

    def both_wait() -> bool:
        rows = world.backend.requests()
        notes = [step["note"] for row in rows for job in row["jobs"] for step in job["steps"] if step["note"]]
        return len(notes) == 2 and all("API-DB" in note for note in notes)

    wait_until(both_wait, what="both jobs to wait, though there is one worker")
    world.api.start()
    assert [row["state"] for row in world.backend.ended(2)] == ["done", "done"]
    assert world.seat(7, seven) == world.seat(8, eight) == (True, True, False)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (None, ("API-DB",)),
        ("html", ("API-DB", "WODAPIDBEXTURL")),
        ("unauthorized", ("API-DB", "WODAPIDBUSER")),
        ("error", ("API-DB",)),
    ],
)
def test_never_of_use(make: Callable[..., World], fault: str | None, words: tuple[str, ...]) -> None:
    """Down, answering pages, answering 401 or 503 for ever: failed with clear words, nothing was changed."""
    world = make(WODAPIDBPATIENCE=PATIENCE)
    number = world.participant(7)
    if fault:
        world.api.start()
        world.api.fault(fault, path="^/(student|customer)" if fault == "unauthorized" else "")
    world.backend.start()
    row = world.backend.one(f"CREATE 7 {number}", "WKSHP-Test")
    assert row["state"] == "failed"
    text = world.told(row["id"])
    assert all(word in text for word in words), text
    assert "What to do next" in text
    assert not world.backend.home(7).exists() or not list(world.backend.home(7).iterdir())
    if fault:
        world.api.clear_faults()
    assert world.seat(7, number) == (True, False, False), "as the frontend left it"
    assert world.api.puts() == []


def test_down_in_the_middle_writes_are_kept_in_order(make: Callable[..., World]) -> None:
    """The job ends, its reply says what is kept, a restart loses nothing, and everything arrives in order."""
    world = make()
    world.api.start()
    server = world.backend.start()
    number = world.participant(7)
    (world.folder / "hold-7").touch()
    world.backend.mail(f"CREATE 7 {number}", "WKSHP-Test")
    world.begun(7)
    world.api.stop()
    (world.folder / "hold-7").unlink()
    row = world.backend.ended(1)[0]
    assert row["state"] == "done"
    assert "kept" in step_of(row, "registry-password")["note"]
    assert "kept" in step_of(row, "registry-active")["note"]
    server.kill()
    server.wait()
    world.backend.start()
    world.api.start()
    puts = world.api.await_puts(2)
    assert [path for path, _ in puts] == [f"/student/{7 + BASE}", f"/customer/{number}"]
    assert world.seat(7, number) == (True, True, False)
    row = world.backend.one(f"CLEANUP 7 {number}", "WKSHP-Test")
    assert row["state"] == "done"
    # Behind what was kept these are kept as well, where that was not struck off yet.
    wait_until(lambda: world.seat(7, number) == (False, True, True), what="the seat; active is the frontend's to end")


def test_whoever_was_given_up_is_not_set_active(make: Callable[..., World]) -> None:
    """The frontend gives up a CREATE that takes too long; the CREATE ends all the same, and says what it left out."""
    world = make()
    world.api.start()
    world.backend.start()
    number = world.participant(7)
    (world.folder / "hold-7").touch()
    world.backend.mail(f"CREATE 7 {number}", "WKSHP-Test")
    world.begun(7)
    for subject, word in ((f"CLEANUP 7 {number}", "WKSHP-Test"), (f"PURGE [object Promise] {number}", "VOID")):
        world.backend.mail(subject, word)
    wait_until(lambda: len(world.backend.requests()) == 3, what="the mails to be taken in")
    (world.folder / "hold-7").unlink()
    rows = world.backend.ended(3)
    assert [row["state"] for row in rows] == ["done", "done", "done"]
    step = step_of(rows[0], "registry-active")
    assert step["state"] == "skipped"
    assert "was not told active=true" in step["warnings"][0]
    assert f"the CLEANUP of request {rows[1]['id']} came since" in step["warnings"][0]
    assert world.seat(7, number) == (False, False, True)
    assert not [body for _, body in world.api.puts() if "active" in body]


def test_a_server_that_goes_down_waits_for_no_next_try(make: Callable[..., World]) -> None:
    world = make(WODDRAIN=0.1)
    world.api.start()
    world.api.fault("busy", method="GET", path="^/customers/", seconds=10)
    server = world.backend.start()
    number = world.participant(7)
    world.backend.mail(f"CREATE 7 {number}", "WKSHP-Test")
    wait_until(lambda: [row for row in world.api.log() if row["status"] == 429], what="a call that will be repeated")
    began = time.monotonic()
    world.backend.stop(server)
    assert time.monotonic() - began < 9, "Retry-After is 10 s"
    world.api.clear_faults()
    world.backend.start()
    assert world.backend.ended(1)[0]["state"] == "done"


def test_a_token_that_ends_in_the_middle_is_renewed(make: Callable[..., World]) -> None:
    """Failing 10 of the original: the token is older than the job when the last calls are made."""
    world = make()
    world.api.start()
    world.backend.start()
    number = world.participant(7)
    (world.folder / "hold-7").touch()
    world.backend.mail(f"CREATE 7 {number}", "WKSHP-Test")
    world.begun(7)
    world.api.expire_tokens()
    (world.folder / "hold-7").unlink()
    assert world.backend.ended(1)[0]["state"] == "done"
    assert world.seat(7, number) == (True, True, False)
    assert len([line for line in world.api.log() if line["path"].endswith("/login")]) == 2


def test_many_jobs_share_one_login(make: Callable[..., World]) -> None:
    world = make(WODMAXCOUNT=20)
    world.api.start()
    world.backend.start()
    numbers = {student: world.participant(student) for student in range(1, 11)}
    for student, number in numbers.items():
        world.backend.mail(f"CREATE {student} {number}", "WKSHP-Test")
    assert {row["state"] for row in world.backend.ended(10, seconds=180)} == {"done"}
    assert len([line for line in world.api.log() if line["path"].endswith("/login")]) == 1
    assert all(world.seat(student, number) == (True, True, False) for student, number in numbers.items())


def test_a_script_waits_until_a_participant_is_cleaned(make: Callable[..., World]) -> None:
    world = make()
    world.api.start()
    world.backend.start()
    seven, eight = world.participant(7), world.participant(8)
    world.backend.script("create-WKSHP-Test.sh", WAITS.format(eight))
    begun = world.api.mark()
    world.backend.mail(f"CREATE 7 {seven}", "WKSHP-Test")
    asked = f"/api/customers/{eight}"
    wait_until(lambda: [row["path"] for row in world.api.log(begun)].count(asked) >= 2, what="the script to wait")
    world.api.update("customers", eight, cleaned=True)
    row = world.backend.ended(1)[0]
    assert row["state"] == "done", step_of(row, "create-script")
    told = [line.partition("] ")[2] for line in world.backend.trace().splitlines() if "cleaned: " in line]
    assert told == ["cleaned: false", "cleaned: true"]


def test_what_the_api_db_does_not_know_is_no_success(make: Callable[..., World]) -> None:
    """Failing 5 of the original: a workshop that the API does not know ends well."""
    world = make()
    world.api.start()
    world.backend.start()
    world.backend.workshop("WKSHP-Unlisted")
    number = world.participant(7)
    row = world.backend.one(f"CREATE 7 {number}", "WKSHP-Unlisted")
    assert row["state"] == "refused"
    assert "WKSHP-Unlisted" in row["reason"]
    other = world.participant(8)
    row = world.backend.one(f"CREATE 7 {other}", "WKSHP-Test")
    assert row["state"] == "refused"
    assert str(other) in row["reason"] and "8" in row["reason"]
    row = world.backend.one("CREATE 7 4711", "WKSHP-Test")
    assert row["state"] == "refused"
    assert "4711" in row["reason"]
    assert world.api.puts() == []
