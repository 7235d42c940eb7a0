"""Intake: every mail becomes one request; duplicates and replays are told apart; a crash in between repeats nothing."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
import yaml

from tests import databases
from wodmail import exporting
from wodmail.catalog import Catalog
from wodmail.errors import Failed, Temporary
from wodmail.intake import Intake
from wodmail.mail import command as commands
from wodmail.mail import message as messages
from wodmail.mail import pipe, trust
from wodmail.mail.grammar import Broken, Limits
from wodmail.mail.spool import Spool
from wodmail.model import State
from wodmail.registry.embedded import EmbeddedRegistry
from wodmail.schema import Settings
from wodmail.store import Store, jobs, lanes, mails, requests

SENDER = "wodadmin@localhost"
MAIL = b"Subject: CREATE %b 0\n%b\nWKSHP-Test\n"
KEY = b"0123456789abcdef0123456789abcdef"


class Desk:
    """An intake with everything real around it but the engine."""

    def __init__(self, url: str, folder: Path, **extra: Any) -> None:
        notebooks = folder / "notebooks"
        for name in ("WKSHP-Test", "WKSHP-Other"):
            (notebooks / name).mkdir(parents=True)
            (notebooks / name / "wod.yml").write_text(yaml.safe_dump({"name": name, "range": [1, 50], "capacity": 50}))
        values = {"WODSANDBOX": True, "WODSTATEDIR": folder / "state", "WODNOBO": notebooks, "WODSENDER": SENDER}
        self.settings = Settings(**{**values, **extra})
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
        assert self.intake.run() == 1
        return self.request(key)

    def request(self, key: str) -> dict[str, Any]:
        """The one request of a mail."""
        (row,) = self.store.rows(sa.select(requests.c.id).where(requests.c.spool_key == key))
        return self.store.describe([row["id"]])[0]

    def pipe(self, raw: bytes) -> str:
        """Store a mail as procmail does; returns its key."""
        return pipe.store(str(self.spool.folder), raw, SENDER)

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
    assert desk.intake.run() == 1
    (settled,) = (tmp_path / "state" / "spool" / "cur").iterdir()
    settled.rename(tmp_path / "state" / "spool" / "new" / key)
    assert desk.intake.run() == 1
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


def test_a_pdf_repeats_its_like_and_makes_nothing_between_it_new(desk: Desk) -> None:
    """A client that repeats its CREATE does not get a second one because there was a PDF in between."""
    subjects = ["CREATE 7 0", "PDF 7 0", "WORD 7 0", "WORD 7 0", "CREATE 7 0", "PDF 7 0"]
    states = [desk.take(subject)["state"] for subject in subjects]
    assert states == ["waiting"] * 3 + ["duplicate"] * 3


@pytest.mark.parametrize("subject", ["PDF 7 0", "WORD 7 0", "PLAN PDF 7 0"])
def test_exports_that_are_not_installed_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch, subject: str) -> None:
    monkeypatch.setattr(exporting, "NEEDED", ("no_such_module",))
    row = desk.take(subject)
    assert (row["state"], row["jobs"]) == ("refused", [])
    assert "pip install 'wodmail[export]'" in row["reason"]


def test_a_create_that_ended_may_come_again_with_a_count(desk: Desk) -> None:
    desk.ended(desk.take("CREATE 7 0")["id"])
    assert desk.take("CREATE 7 0")["state"] == "waiting"


def test_the_same_message_id_is_a_duplicate_whatever_became_of_the_first(desk: Desk) -> None:
    first = desk.take("CREATE 700000 0", Message_ID="<one@x>")
    assert first["state"] == "refused"
    assert desk.take("CREATE 7 0", Message_ID="<one@x>")["state"] == "duplicate"
    assert desk.take("CREATE 7 0", Message_ID="<one@x>", sender="wodadmin@other.example")["state"] == "refused"


def test_a_refused_mail_again_is_a_duplicate(desk: Desk) -> None:
    first = desk.take("CREATE 700000 0", Message_ID="<one@x>")
    again = desk.take("CREATE 700000 0", Message_ID="<one@x>")
    assert (first["state"], again["state"]) == ("refused", "duplicate")
    assert again["reason"] == f"already in hand as request {first['id']}"
    assert again["notes"]["first"] == first["id"]
    assert [kind for _, kind, _ in desk.due()] == ["refusal", "duplicate"]


def test_who_may_not_command_is_not_told_of_duplicates(desk: Desk) -> None:
    rows = [desk.take("CREATE 700000 0", Message_ID="<one@x>", sender="mallory@example.org") for _ in range(2)]
    assert [row["state"] for row in rows] == ["refused", "refused"]
    assert desk.due() == []


def test_events_tell_what_became_of_each_mail(desk: Desk) -> None:
    with structlog.testing.capture_logs() as logged:
        numbers = [desk.take(subject)["id"] for subject in ("CREATE 7 0", "CREATE 7 0", "CREATE 700000 0")]
    told = [found for found in logged if found["event"].startswith("request-")]
    assert [(found["event"], found["request"], found["subject"]) for found in told] == [
        ("request-accepted", numbers[0], "CREATE 7 0"),
        ("request-duplicate", numbers[1], "CREATE 7 0"),
        ("request-refused", numbers[2], "CREATE 700000 0"),
    ]
    assert told[1]["reason"] == f"already in hand as request {numbers[0]}"
    assert "700000" in told[2]["reason"]


# -- what is wrong with one mail does not hold up the others ------------------------------------------------------


def test_a_mail_that_vanishes_after_it_was_listed_is_skipped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = desk.pipe(MAIL % (b"6", b""))
    kept = desk.pipe(MAIL % (b"7", b""))
    keys = desk.spool.new()
    (desk.spool.folder / "new" / gone).unlink()
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logged:
        patch.setattr(desk.spool, "new", lambda: keys)
        desk.intake.run()
    assert desk.request(kept)["state"] == "waiting"
    assert [found["event"] for found in logged] == ["request-accepted"]
    assert desk.intake.run() == 0


def test_a_mail_taken_back_while_it_is_taken_in_holds_up_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [desk.pipe(MAIL % (b"6", b"")), desk.pipe(MAIL % (b"7", b""))]
    settle = desk.spool.settle

    def taken_back(key: str) -> None:
        if key == keys[0]:
            (desk.spool.folder / "new" / key).unlink()
        settle(key)

    monkeypatch.setattr(desk.spool, "settle", taken_back)
    desk.intake.run()
    assert [desk.request(key)["state"] for key in keys] == ["waiting", "waiting"]
    assert desk.spool.new() == []


def test_what_is_no_mail_is_set_aside_once(desk: Desk) -> None:
    new = desk.spool.folder / "new"
    (new / "1.directory").mkdir()
    (new / "2.link").symlink_to("nowhere")
    os.mkfifo(new / "3.fifo")
    (new / os.fsdecode(b"4.\xff")).write_bytes(b"Subject: PING\n\n")
    key = desk.pipe(MAIL % (b"7", b""))
    with structlog.testing.capture_logs() as logged:
        desk.intake.run()
        assert desk.intake.run() == 0
    assert desk.request(key)["state"] == "waiting"
    aside = [found["key"] for found in logged if found["event"] == "mail-set-aside"]
    assert aside == ["1.directory", "2.link", "3.fifo", "4.\\udcff"]
    assert {found["event"] for found in logged} == {"mail-set-aside", "request-accepted"}
    assert desk.intake.waiting() == []
    assert len(desk.spool.new()) == 4


def test_a_name_that_was_set_aside_counts_again_when_it_is_replaced(desk: Desk) -> None:
    place = desk.spool.folder / "new" / "1.odd"
    place.mkdir()
    desk.intake.run()
    place.rmdir()
    assert desk.intake.waiting() == []
    place.write_bytes(MAIL % (b"7", b""))
    assert desk.intake.run() == 1
    assert desk.request("1.odd")["state"] == "refused"


def test_trouble_of_the_disk_leaves_all_mails_where_they_are(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    key = desk.pipe(MAIL % (b"7", b""))

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("wodmail.mail.spool.os.open", fail)
        with pytest.raises(Temporary):
            desk.intake.run()
    assert desk.intake.run() == 1
    assert desk.request(key)["state"] == "waiting"


def test_a_fault_with_one_mail_sets_that_one_aside(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [desk.pipe(MAIL % (student, b"")) for student in (b"6", b"7", b"8")]
    read = messages.read

    def fault(raw: bytes) -> messages.Message:
        if b"CREATE 7" in raw:
            raise Failed("a fault", "of which nobody has thought")
        return read(raw)

    monkeypatch.setattr(messages, "read", fault)
    assert desk.intake.run() == 3
    assert [desk.request(key)["state"] for key in (keys[0], keys[2])] == ["waiting", "waiting"]
    assert desk.spool.new() == [keys[1]]
    assert desk.intake.run() == 0


def test_a_sender_that_is_no_text_is_refused(desk: Desk) -> None:
    broken = desk.pipe(b"From wod\xff@x  Fri Mar  3 09:08:35 2023\n" + MAIL % (b"6", b""))
    key = desk.pipe(MAIL % (b"7", b""))
    with structlog.testing.capture_logs() as logged:
        desk.intake.run()
    row = desk.request(broken)
    assert (row["state"], row["sender"], row["jobs"]) == ("refused", "wod\ufffd@x", [])
    assert desk.request(key)["state"] == "waiting"
    assert "intake-fault" not in {found["event"] for found in logged}
    assert desk.spool.new() == []


def test_a_sender_with_a_nul_is_refused(desk: Desk) -> None:
    head = b"X-WOD-Peer: \nX-WOD-Sender: wod\0@x\nX-WOD-Auth: no\nX-WOD-Door: pipe\nX-WOD-Stored: 5.5\n"
    (desk.spool.folder / "new" / "1.odd").write_bytes(head + MAIL % (b"7", b""))
    desk.intake.run()
    assert desk.request("1.odd")["sender"] == "wod\ufffd@x"


def test_where_everybody_may_command_a_sender_must_be_text(tmp_path: Path) -> None:
    desk = Desk(f"sqlite:///{tmp_path / 'x.sqlite'}", tmp_path, WODSENDER="")
    key = desk.pipe(b"From wod\xff@x  Fri Mar  3 09:08:35 2023\n" + MAIL % (b"6", b""))
    desk.intake.run()
    assert desk.request(key)["state"] == "refused"


def test_a_sender_and_a_message_id_too_long_for_an_index(desk: Desk) -> None:
    # letters without a pattern, because PostgreSQL compresses what it indexes
    long = "".join(chr(0x4E00 + 64 * byte) for byte in hashlib.shake_256(b"").digest(990)).encode()
    from_line = b"From %b  Fri Mar  3 09:08:35 2023\n" % (long * 3)
    mails = [from_line + MAIL % (b"6", b""), from_line + MAIL % (b"6", b"Message-ID: <" + long + b">\n")]
    keys = [desk.pipe(mail) for mail in mails]
    desk.intake.run()
    assert [desk.request(key)["state"] for key in keys] == ["refused", "refused"]
    row = desk.take("CREATE 7 0", Message_ID=f"<{long.decode()}>")
    assert row["state"] == "waiting"


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


def signature(desk: Desk, subject: str, nonce: str, age: float = 0.0, workshop: str = "WKSHP-Test") -> str:
    """What a client would put into X-WOD-Signature."""
    parsed = commands.parse(subject, limits=Limits.of(desk.settings))
    assert not isinstance(parsed, Broken)
    return trust.sign(KEY, "here", parsed, workshop, int(time.time() - age), nonce)


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


def test_a_signed_mail_that_is_refused_is_answered_and_its_nonce_remembered(signed: Desk) -> None:
    word, subject = nonce(), "CREATE 7 0"
    header = signature(signed, subject, word, workshop="WKSHP-Later")
    first = signed.take(subject, "WKSHP-Later", X_WOD_Signature=header)
    assert first["state"] == "refused"
    assert signed.due() == [(first["id"], "refusal", SENDER)]
    again = signed.take(subject, "WKSHP-Later", X_WOD_Signature=header)
    assert (again["state"], again["notes"]["first"]) == ("duplicate", first["id"])


def test_an_unsigned_mail_again_gets_no_answer(signed: Desk) -> None:
    rows = [signed.take("FROBNICATE 8 0", Message_ID="<one@x>") for _ in range(2)]
    assert [row["state"] for row in rows] == ["refused", "refused"]
    assert signed.due() == []


def test_an_old_signature_is_refused(signed: Desk) -> None:
    header = signature(signed, "CREATE 7 0", nonce(), age=400)
    assert signed.take("CREATE 7 0", X_WOD_Signature=header)["state"] == "refused"


def test_a_signature_for_another_student_is_refused(signed: Desk) -> None:
    header = signature(signed, "CREATE 7 0", nonce())
    assert signed.take("CREATE 8 0", X_WOD_Signature=header)["state"] == "refused"
