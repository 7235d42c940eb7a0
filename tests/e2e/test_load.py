"""Many mails at once: order within each student, never two jobs at one student, failures kept apart."""

from __future__ import annotations

import json
import random
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.e2e.harness import SENDER, Deployment, step_of
from tests.support import wait_until


@pytest.fixture(params=databases.KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment on each database."""
    with databases.fresh(request.param, tmp_path) as url:
        made = Deployment(tmp_path, "" if request.param == "sqlite" else url, WODREPLYBUDGET=1000)
        made.workshop("WKSHP-Test", reset=True)
        made.script("reset-WKSHP-Test.sh", "true\n")
        made.workshop("WKSHP-Other")
        made.start()
        yield made
        made.close()


def send_all(site: Deployment, mails: list[tuple[str, str]]) -> None:
    """Send mails over one connection, in order."""
    with smtplib.SMTP("127.0.0.1", site.port, timeout=60) as client:
        for subject, body in mails:
            assert client.sendmail(SENDER, ["wod@localhost"], f"Subject: {subject}\r\n\r\n{body}\r\n") == {}


def check_lanes(site: Deployment) -> int:
    """Assert from the server's log that each student's jobs came in order and never two at once; returns how many."""
    at_work: dict[int, int] = {}
    last: dict[int, int] = {}
    students_of: dict[int, list[int]] = {}
    for line in site.log().splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        job = event.get("job")
        if event.get("event") == "job-started":
            students_of[job] = event["students"]
            for student in event["students"]:
                assert student not in at_work, f"jobs {at_work.get(student)} and {job} at once at student {student}"
                assert last.get(student, 0) < job, f"job {job} of student {student} after {last[student]}"
                at_work[student] = last[student] = job
        elif event.get("event") == "job-ended" and job in students_of:
            for student in students_of[job]:
                assert at_work.pop(student) == job
    return len(students_of)


def mixed(count: int, seed: int) -> list[tuple[str, str]]:
    """Mails for students 1 to 10, ranges among them, no two neighbours alike."""
    dice = random.Random(seed)  # noqa: S311 - the same dice each time
    mails: list[tuple[str, str]] = []
    while len(mails) < count:
        action = dice.choice(["CREATE", "CLEANUP", "RESET", "PURGE"])
        first = dice.randint(1, 10)
        wide = action != "PURGE" and dice.random() < 0.15
        span = f"{first},{dice.randint(first, 10)}" if wide else str(first)
        mail = (f"{action} {span} 0", "WKSHP-Test")
        if not mails or mails[-1] != mail:
            mails.append(mail)
    return mails


def check_mixed(site: Deployment, count: int, seconds: float) -> None:
    """Send them, wait, and check."""
    send_all(site, mixed(count, seed=count))
    rows = site.ended(count, seconds)
    wrong = [(row["subject"], row["state"], row["reason"]) for row in rows if row["state"] not in ("done", "duplicate")]
    assert not wrong
    assert check_lanes(site) >= count - sum(row["state"] == "duplicate" for row in rows)


def test_actions_in_random_order_for_ten_students(site: Deployment) -> None:
    check_mixed(site, 24, seconds=200)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_hundred_mails_for_ten_students(site: Deployment) -> None:
    check_mixed(site, 200, seconds=800)


def check_burst(site: Deployment, students: int, seconds: float) -> None:
    """CREATEs at once, one of which fails, and one of another workshop among them."""
    (site.notebooks / "WKSHP-Test" / "odd.py").write_text(
        "x = {% if STDID == '3' or STDID == 3 %}{{ NOSUCH }}{% endif %}"
    )
    mails = [(f"CREATE {student} 0", "WKSHP-Test") for student in range(1, students + 1)]
    mails.insert(students // 2, ("CREATE 99 0", "WKSHP-Other"))
    send_all(site, mails)
    rows = site.ended(students + 1, seconds)
    failed = [row for row in rows if row["state"] != "done"]
    assert [row["students"] for row in failed] == [[3]]
    assert "NOSUCH" in step_of(failed[0], "copy-folder")["error"]
    for row in rows:
        if row["state"] == "done":
            home = site.home(row["students"][0]) / row["workshop"]
            assert f"student {row['students'][0]}" in (home / "0-ReadMeFirst.ipynb").read_text()
    wait_until(lambda: len(site.outbox()) >= students + 1, what="a result mail each")


def test_a_burst_with_one_bad_student_and_another_workshop(site: Deployment) -> None:
    check_burst(site, students=6, seconds=100)


@pytest.mark.soak
def test_a_burst_of_fifty(site: Deployment) -> None:
    check_burst(site, students=50, seconds=500)
