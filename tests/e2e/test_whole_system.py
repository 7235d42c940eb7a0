"""Registration to free seat, many people, every part real: once undisturbed, once with every part killed at random.

The frontend mails as the Node one does; its check, every 20 s in reality, comes every second. CONTRIBUTING.md says how
this is run by hand.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.apidb.frontend import Phase
from tests.linux_students import BASE as UIDS
from tests.linux_students import logs_in, running
from tests.support import wait_until
from tests.whole import Whole, whole_system
from tests.wholestory import Killer, Person, Story, people
from wodmail.store import mails, writes
from wodmail.students import base

pytestmark = pytest.mark.root
SKEL = {".ssh", ".ssh/id_ed25519", ".ssh/id_ed25519.pub"}

# The 10 minutes that the frontend gives a deployment, compressed; less than its check is, as a hub takes as long as
# ever to come back.
PATIENCE = 60.0

# With parts killed, these steps may fail when their part was dead for longer than they try, and no others may.
# A CREATE is repeated by the frontend's next check, or given up after its patience: then the person registers anew.
# Every other action goes on past such a step, WODMONITOR is told, and an operator says `wodmail retry`.
MAY_FAIL = {
    "ldap-password": {"slapd"},
    "create-script": {"appliance", "cable"},
    "reset-script": {"appliance", "cable"},
    "hub-stop": {"hub", "hub and proxy"},
    "hub-start": {"hub", "hub and proxy"},
}
# The frontend repeats CLEANUP, RESET and PURGE of which nothing came, as a mail may die with a server that has not read
# it. When the first did arrive after all, the seat may be another's by then, and the second must be refused.
MAY_BE_REFUSED = re.compile(r"now belongs to participant \d+|there is nothing to clean up")


# -- the end state ---------------------------------------------------------------------------------------------------


def rest(whole: Whole) -> list[dict[str, Any]]:
    """Wait until nothing is left to do; the requests."""
    whole.frontend.stop()
    rows = whole.site.ended(1, seconds=120)
    store = whole.site.store
    wait_until(lambda: not store.rows(mails.select().where(mails.c.state == "due")), what="all mails to be out")
    wait_until(lambda: not store.rows(writes.select().where(writes.c.state == "kept")), seconds=70, what="the writes")
    return rows


def failed_steps(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a request that failed."""
    return [step for job in row["jobs"] for step in job["steps"] if step["state"] == "failed"]


def check_people(whole: Whole, persons: list[Person]) -> None:
    """Everybody worked once, was told once, got the ratio of what was executed, and is cleaned."""
    began = defaultdict[int, int](int)
    for change in whole.api.rows("history"):
        began[change["customer"]] += change["active"]
    customers = {row["id"]: row for row in whole.api.rows("customers")}
    for person in persons:
        *given_up, last = person.tries
        row = customers[last.number]
        assert (began[last.number], last.credentials) == (1, 1), f"{last} was active {began[last.number]} times"
        assert row["completionPercentage"] == person.percent, f"{last}: {row}"
        assert all(one.phase is Phase.OVER and one.credentials == 0 for one in given_up), given_up
        for one in person.tries:
            assert (customers[one.number]["active"], customers[one.number]["cleaned"]) == (False, True), one
            assert began[one.number] <= 1, f"{one} was active {began[one.number]} times"
    assert len(customers) == sum(len(person.tries) for person in persons)


def check_nobody_was_beside_another(whole: Whole) -> None:
    """At no moment two participants were active at one seat."""
    at = defaultdict[int, set[int]](set)
    for change in whole.api.rows("history"):
        there = at[change["studentId"]]
        (there.add if change["active"] else there.discard)(change["customer"])
        assert len(there) <= 1, f"participants {there} were active together"
    assert not any(at.values())


def check_seats(whole: Whole, persons: list[Person]) -> None:
    """Every seat is free: in the API-DB, on disk, in the hub, among the processes, in LDAP, at the appliance."""
    expected = SKEL | {entry.path for entry in base.skel(whole.site.settings)}
    assert [row["id"] for row in whole.api.rows("students") if row["assigned"]] == []
    for student in whole.students:
        home = whole.site.home(student)
        assert {str(path.relative_to(home)) for path in home.rglob("*")} == expected, f"student {student}"
    for student in whole.students:
        wait_until(
            lambda name=f"student{student}": not whole.hub.server(name), seconds=60, what=f"hub: {student}", every=0.25
        )
    assert running(*(UIDS + student for student in whole.students)) == []
    ended = [person.now for person in persons]
    assert whole.hub.login(f"student{ended[0].student}", ended[0].password) is None
    with ThreadPoolExecutor(len(ended)) as pool:  # a wrong password is answered late
        assert not any(pool.map(lambda one: logs_in(one.student, one.password), ended))
    assert not [one for one in ended if one.word == "WKSHP-Ldap" and whole.slapd.opens(one.password, one.student)]
    keys = "for home in /home/student*; do [ ! -e $home/.ssh ] || echo $home; done"
    assert whole.lab.shell(whole.lab.base, keys) == ""


def check_nothing_is_left(whole: Whole) -> None:
    """No write is lost, no mail waits, no secret lies about."""
    assert whole.site.store.rows(writes.select()) == []
    assert list((whole.site.state / "spool" / "new").iterdir()) == []
    assert list((whole.site.state / "secrets").rglob("password-*")) == []
    assert list(whole.site.folder.glob("private/ansible/*/pass/*")) == []
    trouble = [line for line in whole.site.log().splitlines() if re.search(r"step-crashed|server-fault|fault\b", line)]
    assert trouble == []


def check_all(whole: Whole, persons: list[Person]) -> None:
    """The end state, the same however it was reached."""
    check_people(whole, persons)
    check_nobody_was_beside_another(whole)
    check_seats(whole, persons)
    check_nothing_is_left(whole)


# -- undisturbed -----------------------------------------------------------------------------------------------------


def undisturbed(participants: int, seats: int, seconds: float) -> None:
    """Nothing fails, nothing is refused, nothing comes twice."""
    with whole_system(seats, patience=seconds) as whole:
        persons = people(participants)
        Story(whole, persons).play(seconds)
        rows = rest(whole)
        wrong = [(row["subject"], row["state"], row["reason"]) for row in rows if row["state"] not in OVER]
        assert wrong == []
        assert not [mail for mail in whole.frontend.mails if not mail.arrived]
        assert [len(person.tries) for person in persons] == [1] * participants
        check_all(whole, persons)
        told = [mail["Subject"] for mail in whole.site.outbox() if mail["To"] == "monitor@localhost"]
        assert told == []
        accepted = [row["action"] for row in rows if row["state"] == "done"]
        again = sum(person.now.reset for person in persons)
        assert (accepted.count("CREATE"), accepted.count("CLEANUP")) == (participants, participants)
        assert (accepted.count("RESET"), accepted.count("PURGE")) == (again, 0)
        assert len({person.now.student for person in persons}) < participants, "no seat was used twice"


OVER = ("done", "duplicate")


# -- parts killed ----------------------------------------------------------------------------------------------------


def disturbed(participants: int, seats: int, rounds: int, seconds: float) -> None:
    """Every part dies at random moments; what may come of it is MAY_FAIL and MAY_BE_REFUSED, the end is the same."""
    seed = int(os.environ.get("WODMAIL_TEST_SEED") or int.from_bytes(os.urandom(2)))
    print(f"WODMAIL_TEST_SEED={seed}")
    with whole_system(seats, patience=PATIENCE, insist=10.0) as whole:
        persons = people(participants)
        with Killer(whole, seed, rounds) as killer:
            Story(whole, persons, patient=True).play(seconds)
        print(f"killed: {', '.join(killer.kills)}")
        print(f"registered more than once: {sum(len(person.tries) > 1 for person in persons)}")
        rows = rest(whole)
        check_requests(rows, set(killer.kills))
        operator_retries(whole, rows)
        check_all(whole, persons)
        assert set(killer.kills) == set(killer.parts), "some part was never killed"


def check_requests(rows: list[dict[str, Any]], killed: set[str]) -> None:
    """Only what may fail has failed, and only where its part was killed."""
    for row in rows:
        named = f"{row['id']} {row['subject']}: {row['reason']}"
        assert row["state"] in ("done", "duplicate", "failed", "refused"), named
        if row["state"] == "refused":
            assert row["action"] != "CREATE" and MAY_BE_REFUSED.search(row["reason"]), named
        if row["state"] == "failed":
            for step in failed_steps(row):
                assert MAY_FAIL.get(step["name"], set()) & killed, f"{named} {step}"


def operator_retries(whole: Whole, rows: list[dict[str, Any]]) -> None:
    """What an operator does about the failed ones; where a newer request has mended it, wodmail says so."""
    for row in rows:
        if row["state"] == "failed" and row["action"] != "CREATE":
            done = whole.site.command("retry", str(row["id"]))
            assert done.returncode == 0 or "newer" in done.stderr, done.stderr
    retried = [row for row in rest(whole) if row["state"] == "failed" and row["action"] != "CREATE"]
    newest = {student: row["id"] for row in rows for student in row["students"] if row["state"] != "duplicate"}
    assert not [row for row in retried if row["id"] in newest.values()], retried


# -- the two lengths -------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_people_come_work_and_go() -> None:
    undisturbed(5, seats=4, seconds=400)


@pytest.mark.timeout(900)
def test_people_come_work_and_go_while_every_part_is_killed() -> None:
    disturbed(5, seats=4, rounds=1, seconds=400)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_thirty_people() -> None:
    undisturbed(30, seats=12, seconds=600)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_thirty_people_while_every_part_is_killed() -> None:
    disturbed(30, seats=12, rounds=4, seconds=900)
