"""wodmail in the place of an existing backend: its trees, its private scripts, its recipes, its frontend's mails."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.appliances import Appliances, appliances
from tests.e2e.dropinsite import BASE_ID, CONTENT, FIFTH, WORDS, DropIn, drop_in, participant
from tests.linux_students import BASE, FIRST, SERVICE
from tests.support import wait_until

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("drop-in")]
PLAIN, QUEST, LOCKER, BOX, INNER = WORDS


@pytest.fixture(scope="module")
def site() -> Iterator[DropIn]:
    """The deployment, installed; nothing runs yet."""
    with drop_in() as made:
        yield made
        print(made.log() if (made.folder / "server.log").exists() else "no server was started")


@pytest.fixture(scope="module")
def lab(site: DropIn) -> Iterator[Appliances]:
    """The appliance; with it everything is installed and runs."""
    with appliances(1, [BOX], site.key_pair()) as made:
        site.group_vars(made.base)
        site.install()
        site.start_all()
        yield made


def commanded(site: DropIn, action: str) -> dict[int, dict[str, Any]]:
    """One mail a workshop, all at once, and what became of each; the first comes by way of Postfix and procmail."""
    before = len(site.requests())
    for student, word in WORDS.items():
        who = "[object Promise]" if action == "PURGE" and student in (BOX, INNER) else str(student)
        subject = f"{action} {who} {participant(student)}" + (" ada@example.org" if action == "CREATE" else "")
        (site.by_postfix if student == PLAIN else site.by_node)(subject, word)
    rows = site.ended(before + len(WORDS), 120)[before:]
    found = {row["students"][0]: row for row in rows if row["students"]}
    assert sorted(found) == sorted(WORDS), rows
    for student, row in found.items():
        assert row["state"] == "done", (site.trace(), row)
        assert last_line(site, student, action), f"no last line for student {student}"
        assert replied(site, row["id"]) == [f"Re: {row['subject']}: done"]
    return found


def replied(site: DropIn, request: int) -> list[str]:
    """Wait for the reply to a request; the subjects of all that there are."""
    mails = wait_until(lambda: site.replies(request), what=f"the reply of request {request}")
    return [str(mail["Subject"]).replace("\n", "") for mail in mails]


def last_line(site: DropIn, student: int, action: str) -> str:
    """The line that operators look for; empty when it isn't there."""
    what = f"with workshop {WORDS[student]} with action {action} at"
    found = re.search(rf"^end of procmail-action for student {student} \(passwd \S+\) {what} \S.*$", site.trace(), re.M)
    return found.group() if found else ""


def lands(student: int, address: str, home: str) -> str:
    """Where the student's key leads to on the appliance; empty when it is refused."""
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
    argv = ["ssh", *options, "-i", f"{home}/.ssh/id_rsa", f"student{student}@{address}", "id -un"]
    ids: dict[str, Any] = {"user": BASE + student, "group": BASE + student, "extra_groups": []}
    done = subprocess.run(argv, env={"HOME": home}, cwd="/", capture_output=True, text=True, check=False, **ids)
    return done.stdout.strip() if done.returncode == 0 else ""


def lines(site: DropIn, student: int, begin: str) -> list[str]:
    """What the scripts of a student printed, of the lines that begin so."""
    return re.findall(rf"^\[\d+ student{student}\] {begin} (.*)$", site.trace(), re.M)


# -- as before -------------------------------------------------------------------------------------------------------


def test_five_workshops_as_before(site: DropIn, lab: Appliances) -> None:
    held(site)
    commanded(site, "CREATE")
    seats(site, active=True)
    given(site)
    answered(site)
    assert lands(BOX, lab.base, str(site.home(BOX))) == f"student{BOX}"
    work(site)
    commanded(site, "CLEANUP")
    kept = expired(site)
    commanded(site, "RESET")
    assert lands(BOX, lab.base, str(kept)) == ""
    reset(site)
    commanded(site, "PURGE")
    seats(site, active=False)
    empty(site)
    no_secret_is_told(site)


def held(site: DropIn) -> None:
    """Between the backends Postfix keeps what comes; the recipes of old, back in place, hand it over."""
    site.by_postfix(f"PLAN CREATE {PLAIN} {participant(PLAIN)}", WORDS[PLAIN])
    wait_until(site.deferred, what="Postfix keeping the mail")
    assert site.requests() == []
    site.recipes((CONTENT / "procmailrc").read_text())
    site.postfix("postqueue", "-f")
    row = site.ended(1)[0]
    assert replied(site, row["id"]) == [f"Re: {row['subject']}: the plan; nothing was changed"]
    wait_until(lambda: "Mail queue is empty" in site.postfix("postqueue", "-p"), what="an empty queue")


def seats(site: DropIn, *, active: bool) -> None:
    """What the frontend sees, and whether the password that it would mail is the one that logs in."""
    action = "CREATE" if active else "PURGE"
    for student in WORDS:
        row, customer = site.api.student(student), site.api.customer(participant(student))
        assert (row["id"], row["password"]) == (student + BASE_ID, site.password(student, action))
        assert (customer["active"], customer["cleaned"], row["assigned"]) == (active, not active, active), student
        assert site.logs_in(student, row["password"])


def given(site: DropIn) -> None:
    """Each home has its workshop, personalised, and the skeleton."""
    assert f"Lab of Tests: student {PLAIN} in Testville" in site.read(PLAIN, "WKSHP-Plain101/0-ReadMeFirst.ipynb")
    quest = site.read(QUEST, "WKSHP-Quest101/0-ReadMeFirst.ipynb")
    assert f"The challenge of student {QUEST}" in quest and "https://survey.example.org/challenge" in quest
    locker = site.read(LOCKER, "WKSHP-Locker101/0-ReadMeFirst.ipynb")
    assert f"Your password is {site.password(LOCKER)}, student {LOCKER}" in locker
    assert list((site.top / "wod-private/ansible/production/pass").glob("*.yml")) == []
    assert f"Desk {INNER} in Testville has the key brass-42" in site.read(INNER, "WKSHP-Inner101/0-ReadMeFirst.ipynb")
    assert site.read(INNER, "WKSHP-Inner101/desk.txt") == f"Desk {INNER} in Testville\n"
    key = f"Lab of Tests production Testville desk@example.org student{INNER}\n"
    assert site.read(INNER, "WKSHP-Inner101/key.txt") == key
    for student in WORDS:
        assert site.read(student, "welcome.txt") == "Welcome to the lab\n"
        notebook = site.home(student) / ("WKSHP-" + WORDS[student].partition("-")[2]) / "0-ReadMeFirst.ipynb"
        assert notebook.stat().st_uid == BASE + student


def answered(site: DropIn) -> None:
    """What the private scripts were told by the functions and by their environment."""
    ids = {row["notebook"]: row["id"] for row in site.api.rows("workshops")}
    number = ids["WKSHP-Plain101"]
    assert lines(site, PLAIN, "plain") == [
        f"reset=false id={number} wid={number} dbstdid={PLAIN + BASE_ID} userid={participant(PLAIN)}"
    ]
    assert lines(site, QUEST, "quest") == [
        f"w=CHLG-Quest101 ws=WKSHP-Quest101 mode=CHLG action=CREATE user={SERVICE}",
        "ldap=false varpass=false compile=false",
    ]
    assert lines(site, LOCKER, "locker") == ["new=8", "found=1"]
    assert lines(site, BOX, "box") == ["mono=true multi=false", "sudo as root"]
    assert lines(site, INNER, "inner") == ["id_rsa", "id_rsa.pub"]


def work(site: DropIn) -> None:
    """The first student runs one of the two cells; when the time is over the frontend ends what has no reset."""
    file = site.home(PLAIN) / "WKSHP-Plain101" / "1-Work.ipynb"
    notebook = json.loads(file.read_text())
    notebook["cells"][0]["execution_count"] = 1
    file.write_text(json.dumps(notebook))
    for student in (PLAIN, LOCKER):
        site.api.update("customers", participant(student), active=False)


def expired(site: DropIn) -> Path:
    """After the CLEANUP; gives a copy of the appliance's student's key, as the student may have made one."""
    assert lines(site, PLAIN, "plain")[1:] == [f"ratio=50 cleaned=false in {site.home(PLAIN)}"]
    assert site.api.customer(participant(PLAIN))["completionPercentage"] == 50
    for student in WORDS:
        row, customer = site.api.student(student), site.api.customer(participant(student))
        has_reset = student in (QUEST, BOX, INNER)
        assert (row["assigned"], customer["active"], customer["cleaned"]) == (has_reset, False, True), student
        assert row["password"] == site.password(student, "CLEANUP") != site.password(student)
        assert (site.home(student) / "welcome.txt").exists()
        assert any(site.home(student).glob("WKSHP-*")) == has_reset
    kept = site.folder / "kept"
    shutil.copytree(site.home(BOX) / ".ssh", kept / ".ssh")
    for path in (kept / ".ssh", *(kept / ".ssh").iterdir()):
        shutil.chown(path, BASE + BOX)
    return kept


def reset(site: DropIn) -> None:
    """After the RESET, which only workshops with one have."""
    assert lines(site, QUEST, "quest")[2:] == [f"reset {QUEST}"]
    assert lines(site, INNER, "inner")[2:] == [f"WKSHP-Inner101 range {FIRST}-{FIFTH}"]
    for student in WORDS:
        assert site.api.student(student)["assigned"] is False
    empty(site)


def empty(site: DropIn) -> None:
    """No home holds anything of a workshop."""
    for student in WORDS:
        assert (site.home(student) / "welcome.txt").exists()
        assert not any(site.home(student).glob("WKSHP-*"))


def no_secret_is_told(site: DropIn) -> None:
    """Passwords are in the last lines of the trace alone."""
    given = set(re.findall(r"\(passwd (\S+)\)", site.trace())) - {"-"}
    assert len(given) >= 3 * len(WORDS)
    log, mails = site.log(), "".join(mail.as_string() for mail in site.outbox())
    rest = re.sub(r"^end of procmail-action .*$", "", site.trace(), flags=re.M)
    assert [word for word in given if word in log or word in mails or word in rest] == []


# -- existing callers ------------------------------------------------------------------------------------------------


def test_a_program_that_sources_wod_sh(site: DropIn, lab: Appliances) -> None:
    """A cron job of the site: the configuration and the functions, without a job around it."""
    text = f'. {site.top}/wod-backend/scripts/wod.sh; echo "$WODGROUP $WODINSDIR $WODUSERMIN"; wod_get_reset_status 2'
    done = site.as_service("bash", "-euc", text)
    row = next(row for row in site.api.rows("workshops") if row["id"] == 2)
    assert done.stdout.splitlines() == [
        f"production {site.top}/wod-install/install {FIRST}",
        str(row["reset"]).lower(),
    ], done.stderr


def test_a_mail_by_hand(site: DropIn, lab: Appliances) -> None:
    """The first mails of a takeover: the answer goes to whoever is named as the sender."""
    before = len(site.requests())
    argv = ["env", f"SENDER={site.sender}", str(site.top / "wod-backend/scripts/procmail-action.sh")]
    done = site.as_service(*argv, text="Subject: PING\n")
    assert done.returncode == 0, done.stderr
    row = site.ended(before + 1)[-1]
    assert replied(site, row["id"]) == ["Re: PING: pong"]
