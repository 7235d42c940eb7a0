"""Intake: every mail becomes one request; duplicates and replays are told apart; a crash in between repeats nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tests import databases
from wodmail.catalog import Catalog
from wodmail.intake import Intake
from wodmail.mail import command as commands
from wodmail.mail import trust
from wodmail.mail.grammar import Broken, Limits
from wodmail.mail.spool import Spool
from wodmail.model import State
from wodmail.registry.embedded import EmbeddedRegistry
from wodmail.schema import Settings
from wodmail.store import Store, jobs, lanes, mails, requests

SENDER = "wodadmin@localhost"
KEY = b"0123456789abcdef0123456789abcdef"


class Desk:
    """An intake with everything real around it but the engine."""

    def __init__(self, url: str, folder: Path, **extra: Any) -> None:
        notebooks = folder / "notebooks"
        for name in ("WKSHP-Test", "WKSHP-Other"):
            (notebooks / name).mkdir(parents=True)
            (notebooks / name / "wod.yml").write_text(yaml.safe_dump({"name": name, "range": [1, 50], "capacity": 50}))
        self.settings = Settings(
            WODSANDBOX=True, WODSTATEDIR=folder / "state", WODNOBO=notebooks, WODSENDER=SENDER, **extra
        )
        self.registry = EmbeddedRegistry(self.settings, Catalog(notebooks))
        self.spool = Spool(folder / "state" / "spool")
        self.store = Store(url.replace("postgresql://", "postgresql+psycopg://"), "here")
        self.store.migrate()
        self.kicked = 0
        self.intake = Intake(
            self.settings, self.spool, self.store, self.registry, self.kick, lambda _spec, step: [step.what]
        )

    def kick(self) -> None:
        """Count the calls."""
        self.kicked += 1

    def take(self, subject: str, body: str = "WKSHP-Test", *, sender: str = SENDER, **headers: str) -> dict[str, Any]:
        """Store a mail, take it in, and return its request."""
        head = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in headers.items())
        raw = f"Subject: {subject}\n{head}\n{body}\n".encode()
        key = self.spool.store(raw, peer="127.0.0.1", sender=sender, door="listener")
        number = self.intake.take(key)
        assert number is not None
        return self.store.describe([number])[0]

    def ended(self, number: int, state: State = State.DONE, ago: float = 0.0) -> None:
        """Say that a request has ended."""
        with self.store.transaction() as connection:
            moment = time.time() - ago
            connection.execute(
                requests.update().where(requests.c.id == number).values(state=state.value, finished_at=moment)
            )
            connection.execute(jobs.update().where(jobs.c.request == number).values(state=state.value))

    def due(self) -> list[tuple[int, str, str]]:
        """Request, kind and recipient of every mail that is due."""
        return [(row["request"], row["kind"], row["recipient"]) for row in self.store.rows(sa.select(mails))]


@pytest.fixture(params=databases.KINDS)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """A desk on each database."""
    with databases.fresh(request.param, tmp_path) as url:
        made = Desk(url, tmp_path, WODMAXCOUNT=10)
        yield made
        made.store.close()


def test_a_mail_becomes_a_request_with_a_job_a_student(desk: Desk) -> None:
    row = desk.take("CREATE 7 3")
    assert (row["state"], row["students"], row["number"]) == ("waiting", [7, 8, 9], 3)
    assert [job["students"] for job in row["jobs"]] == [[7], [8], [9]]
    assert [found["student"] for found in desk.store.rows(sa.select(lanes).order_by(lanes.c.student))] == [7, 8, 9]
    assert desk.kicked == 1
    assert desk.spool.new() == []


def test_the_same_spool_file_again_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    raw = b"Subject: CREATE 7 0\n\nWKSHP-Test\n"
    key = desk.spool.store(raw, peer="127.0.0.1", sender=SENDER, door="listener")
    assert desk.intake.take(key) is not None
    (settled,) = (tmp_path / "state" / "spool" / "cur").iterdir()
    settled.rename(tmp_path / "state" / "spool" / "new" / key)
    assert desk.intake.take(key) is None
    assert len(desk.store.recent(0)) == 1
    assert desk.spool.new() == []


def test_a_reset_over_a_range_is_one_job_on_all_lanes(desk: Desk) -> None:
    row = desk.take("RESET 1,40 0")
    assert len(row["jobs"]) == 1
    assert len(desk.store.rows(sa.select(lanes))) == 40


@pytest.mark.parametrize("second", ["CREATE 7 0", "create  7  0", "CREATE 7"])
def test_the_same_command_while_it_is_at_work_is_a_duplicate(desk: Desk, second: str) -> None:
    first = desk.take("CREATE 7 0")
    again = desk.take(second)
    assert (again["state"], again["jobs"]) == ("duplicate", [])
    assert again["reason"] == f"already in hand as request {first['id']}"
    assert desk.due() == [(again["id"], "duplicate", SENDER)]


def test_what_differs_is_no_duplicate(desk: Desk) -> None:
    subjects = ["CREATE 7 0", "CREATE 7 2", "CREATE 7 0 a@example.org", "CLEANUP 7 0", "CREATE 8 0", "CREATE 7 0"]
    assert [desk.take(subject)["state"] for subject in subjects] == ["waiting"] * len(subjects)
    assert desk.take("CREATE 7 0", "WKSHP-Other")["state"] == "waiting"


def test_only_the_newest_request_of_the_student_counts(desk: Desk) -> None:
    assert desk.take("CREATE 7 0")["state"] == "waiting"
    assert desk.take("CLEANUP 5,9 0")["state"] == "waiting"
    assert desk.take("CREATE 7 0")["state"] == "waiting"
    assert desk.take("CREATE 7 0")["state"] == "duplicate"


def test_a_create_that_ended_may_come_again_with_a_count(desk: Desk) -> None:
    desk.ended(desk.take("CREATE 7 0")["id"])
    assert desk.take("CREATE 7 0")["state"] == "waiting"


def test_the_same_message_id_is_a_duplicate_whatever_became_of_the_first(desk: Desk) -> None:
    first = desk.take("CREATE 700000 0", Message_ID="<one@x>")
    assert first["state"] == "refused"
    assert desk.take("CREATE 7 0", Message_ID="<one@x>")["state"] == "duplicate"
    assert desk.take("CREATE 7 0", Message_ID="<one@x>", sender="wodadmin@other.example")["state"] == "refused"


def test_a_mail_of_a_program_is_worked_on_and_not_answered(desk: Desk) -> None:
    row = desk.take("CREATE 700000 0", Auto_Submitted="auto-generated")
    assert row["state"] == "refused"
    assert desk.due() == []


def test_a_stranger_gets_no_mail(desk: Desk) -> None:
    row = desk.take("CREATE 7 0", sender="mallory@example.org")
    assert (row["state"], row["jobs"]) == ("refused", [])
    assert desk.due() == []


def test_strict_range(tmp_path: Path) -> None:
    desk = Desk(f"sqlite:///{tmp_path / 'x.sqlite'}", tmp_path, WODSTRICTRANGE=True)
    row = desk.take("CREATE 51 0")
    assert row["state"] == "refused"
    assert "1-50" in row["reason"]


# -- participants -------------------------------------------------------------------------------------------------


@pytest.fixture
def hosts(tmp_path: Path) -> Desk:
    """A desk that reads NUMBER as the participant."""
    return Desk(f"sqlite:///{tmp_path / 'x.sqlite'}", tmp_path, WODSUBJECTNUMBER="participant")


def test_a_frontends_second_create_after_done_changes_nothing(hosts: Desk) -> None:
    first = hosts.take("CREATE 7 825")
    hosts.ended(first["id"], ago=20)
    assert hosts.take("CREATE 7 825")["state"] == "duplicate"
    hosts.ended(first["id"], ago=16 * 60)
    assert hosts.take("CREATE 7 825")["state"] == "waiting"


def test_a_failed_create_may_come_again(hosts: Desk) -> None:
    hosts.ended(hosts.take("CREATE 7 825")["id"], State.FAILED)
    assert hosts.take("CREATE 7 825")["state"] == "waiting"


def test_create_cleanup_create_of_a_participant(hosts: Desk) -> None:
    for subject in ("CREATE 7 825", "CLEANUP 7 825", "CREATE 7 825"):
        row = hosts.take(subject)
        assert row["state"] == "waiting"
        hosts.ended(row["id"])


def test_object_promise_is_repaired(hosts: Desk) -> None:
    hosts.registry.assign(9, "WKSHP-Test", 825)
    row = hosts.take("PURGE [object Promise] 825", "VOID")
    assert (row["state"], row["students"]) == ("waiting", [9])
    assert "[object Promise]" in row["notes"]["reading"]
    assert hosts.take("PURGE [object Promise] 826", "VOID")["state"] == "refused"


# -- signatures ---------------------------------------------------------------------------------------------------


@pytest.fixture
def signed(tmp_path: Path) -> Desk:
    """A desk that demands signatures."""
    keys = tmp_path / "keys"
    keys.write_bytes(KEY + b"\n")
    keys.chmod(0o600)
    return Desk(
        f"sqlite:///{tmp_path / 'x.sqlite'}", tmp_path, WODSIGNKEYFILE=keys, WODREQUIRESIGNATURE=True, WODBEFQDN="here"
    )


def signature(desk: Desk, subject: str, nonce: str, age: float = 0.0) -> str:
    """What a client would put into X-WOD-Signature."""
    parsed = commands.parse(subject, limits=Limits.of(desk.settings))
    assert not isinstance(parsed, Broken)
    return trust.sign(KEY, "here", parsed, "WKSHP-Test", int(time.time() - age), nonce)


_numbers = itertools.count()


def nonce() -> str:
    """A word not used before."""
    return f"nonce-nonce-nonce-{next(_numbers)}"


def test_a_signed_mail_passes_and_an_unsigned_one_gets_no_answer(signed: Desk) -> None:
    mail = "CREATE 7 0"
    assert signed.take(mail, X_WOD_Signature=signature(signed, mail, nonce()))["state"] == ("waiting")
    assert signed.take("CREATE 8 0")["state"] == "refused"
    assert signed.take("FROBNICATE 8 0")["state"] == "refused"
    assert signed.due() == []


def test_a_replay_is_a_duplicate_and_a_tampered_one_is_refused(signed: Desk) -> None:
    word, mail = nonce(), "CREATE 7 0"
    header = signature(signed, mail, word)
    first = signed.take(mail, X_WOD_Signature=header)
    signed.ended(first["id"])
    again = signed.take(mail, X_WOD_Signature=header)
    assert (again["state"], again["notes"]["first"]) == ("duplicate", first["id"])
    other = signed.take("CLEANUP 7 0", X_WOD_Signature=signature(signed, "CLEANUP 7 0", word))
    assert (other["state"], other["jobs"]) == ("refused", [])


def test_an_old_signature_is_refused(signed: Desk) -> None:
    header = signature(signed, "CREATE 7 0", nonce(), age=400)
    assert signed.take("CREATE 7 0", X_WOD_Signature=header)["state"] == "refused"


def test_a_signature_for_another_student_is_refused(signed: Desk) -> None:
    header = signature(signed, "CREATE 7 0", nonce())
    assert signed.take("CREATE 8 0", X_WOD_Signature=header)["state"] == "refused"
