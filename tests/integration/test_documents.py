"""Documents between a job's end and its mail: kept, attached within a budget, gone when the mail is out."""

from __future__ import annotations

import email
import email.policy
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope

from tests.e2e.harness import SENDER, Deployment
from tests.support import free_port
from wodmail import documents, requests, store
from wodmail.documents import Documents
from wodmail.errors import Failed, Temporary
from wodmail.jobs.services import Services
from wodmail.logs import Masker
from wodmail.mail.send import Sender, TooLarge
from wodmail.model import State
from wodmail.outbox import Outbox
from wodmail.requests import NewRequest, accept
from wodmail.server import build_services
from wodmail.students.exports import Document

MIB = 1024 * 1024


class Taken(Sender):
    """Keeps what it is given; `says` may refuse it."""

    def __init__(self, says: Callable[[EmailMessage], None] = lambda _mail: None) -> None:
        self.mails: list[EmailMessage] = []
        self._says = says

    def largest(self) -> int | None:
        """As much as anybody wants."""
        return None

    def send(self, mail: EmailMessage, to: str) -> None:
        """Keep it."""
        self._says(mail)
        assert to
        self.mails.append(mail)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """Parts without a server."""
    site = Deployment(tmp_path, WODMONITOR="monitor@localhost")
    found = build_services(site.settings, Masker())
    found.store.migrate()
    return found


def ended(services: Services, students: tuple[int, ...], state: State = State.DONE) -> list[int]:
    """A PDF whose jobs have each made two documents and ended; gives the jobs."""
    new = NewRequest(
        spool_key="key",
        state=State.WAITING,
        received_at=time.time(),
        action="PDF",
        students=students,
        workshop="WKSHP-Test",
        subject="PDF 3,4 0",
        sender=SENDER,
        reply_to=SENDER,
    )
    with services.store.transaction() as connection:
        request = accept(connection, services.store.backend, new)
    rows = services.store.rows(sa.select(store.jobs.c.id).where(store.jobs.c.request == request))
    found = [Document("1 é/a.ipynb", "1 é/a.pdf", 5, b"12345"), Document("b.ipynb", "b.pdf", 3, b"678")]
    for student, row in zip(students, rows, strict=True):
        services.documents.put(row["id"], student, [*found, Document("c.ipynb", error="No.")])
    for row in rows:
        requests.finish_job(services, row["id"], state)
    return [row["id"] for row in rows]


def attached(mail: EmailMessage) -> dict[str, bytes]:
    """The documents in a mail."""
    return {
        str(part.get_filename()): part.get_content()
        for part in mail.iter_attachments()
        if part.get_filename() != "result.json"
    }


def test_kept_for_us_alone_and_attached_after_a_restart(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is for the mail, whoever's documents these are; what is left out is named."""
    folder = services.settings.WODSTATEDIR / "documents"
    jobs = ended(services, (3, 4))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    files = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert (modes, files) == ({0o700}, {0o600})
    monkeypatch.setattr(documents, "MOST", 11)
    taken = Taken()
    Outbox(build_services(services.settings, Masker()), taken).run()
    (mail,) = taken.mails
    assert attached(mail) == {"student3-1 é-a.pdf": b"12345", "student3-b.pdf": b"678", "student4-b.pdf": b"678"}
    assert {part.get_content_type() for part in mail.iter_attachments()} == {"application/json", "application/pdf"}
    text = next(mail.iter_parts()).get_content()
    assert "  student4: 1 é/a.pdf, 1 KiB: left out\n" in text
    assert "What is left out is in the workshop's folder." in text
    assert [services.documents.get(job) for job in jobs] == [[], []]
    assert list(folder.iterdir()) == []


def test_a_failed_request_brings_its_documents_to_the_sender_alone(services: Services) -> None:
    """WODMONITOR is told, and gets nobody's work."""
    ended(services, (3,), State.FAILED)
    taken = Taken()
    Outbox(services, taken).run()
    found = {str(mail["To"]): attached(mail) for mail in taken.mails}
    assert found == {SENDER: {"1 é-a.pdf": b"12345", "b.pdf": b"678"}, "monitor@localhost": {}}


def test_a_mail_that_is_too_large_for_the_server_comes_without_documents(services: Services) -> None:
    """552 of a server with a limit must not lose the result."""

    def refuse(mail: EmailMessage) -> None:
        if attached(mail):
            raise Failed("The mail server refused the mail.", "552 too large")

    (job,) = ended(services, (3,))
    taken = Taken(refuse)
    Outbox(services, taken).run()
    (mail,) = taken.mails
    assert "student3: b.pdf, 1 KiB: left out" in mail.as_string()
    assert "The mail server did not take them" in mail.as_string()
    assert services.documents.get(job) == []


def test_a_server_that_refuses_the_size_gets_what_is_smaller(services: Services) -> None:
    """552 without having said how much it takes: half of it is tried, once; the small documents are kept."""
    refused = []

    def refuse(mail: EmailMessage) -> None:
        if len(attached(mail)) > 1:
            refused.append(mail)
            raise TooLarge("The mail server refused the mail.", "552 too large")

    ended(services, (3,))
    taken = Taken(refuse)
    Outbox(services, taken).run()
    (mail,) = taken.mails
    assert (len(refused), attached(mail)) == (1, {"b.pdf": b"678"})
    assert "student3: 1 é/a.pdf, 1 KiB: left out" in next(mail.iter_parts()).get_content()
    assert "The mail server takes no larger mails." in next(mail.iter_parts()).get_content()


@pytest.mark.parametrize("told", [True, False])
def test_documents_reach_a_real_server_with_a_limit(
    services: Services, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """One that says its limit beforehand (SIZE), and one that only refuses with 552: what fits comes."""
    (job,) = ended(services, (3,))
    found = [Document("a", "a.pdf", 60_000, os.urandom(60_000)), Document("b", "b.pdf", 3, b"678")]
    services.documents.put(job, 3, [*found, Document("c", "c.pdf", 20_000, os.urandom(20_000))])
    with mail_server(60_000, told) as (port, received):
        settings = services.settings.model_copy(
            update={"WODOUTBOX": None, "WODSMTPURL": f"smtp://127.0.0.1:{port}", "WODMONITOR": ""}
        )
        sender = Sender(settings)
        assert sender.largest() == (60_000 if told else None)
        Outbox(services, sender).run()
    (raw,) = received
    assert len(raw) <= 60_000
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    assert {name: len(data) for name, data in attached(mail).items()} == {"b.pdf": 3, "c.pdf": 20_000}
    assert "a.pdf, 59 KiB: left out" in next(mail.iter_parts()).get_content()


@contextmanager
def mail_server(limit: int, told: bool) -> Iterator[tuple[int, list[bytes]]]:
    """A mail server that takes mails of that size; gives its port and what it has taken."""
    received: list[bytes] = []

    class Handler:
        async def handle_DATA(self, _server: SMTP, _session: object, envelope: Envelope) -> str:  # noqa: N802
            content = envelope.content
            assert isinstance(content, bytes)
            if len(content) > limit:
                return "552 5.3.4 Message size exceeds fixed limit"
            received.append(content)
            return "250 OK"

    size = limit if told else None
    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port(), data_size_limit=size, ready_timeout=60)
    controller.start()
    try:
        yield controller.port, received
    finally:
        controller.stop()


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 5_000, 100_000])
def test_room_is_never_too_much(size: int) -> None:
    """As many bytes as there is room for are, encoded, no more than the server takes."""
    mail = EmailMessage(policy=email.policy.SMTP)
    mail.set_content("text")
    others = len(mail.as_bytes())
    mail.add_attachment(bytes(documents.room(size, others, 1)), maintype="application", subtype="pdf", filename="a")
    assert documents.room(size, others, 1) == 0 or len(mail.as_bytes()) <= size


def test_they_stay_until_the_mail_is_out(services: Services) -> None:
    """While the mail server is away, a sweep included."""

    def away(_mail: EmailMessage) -> None:
        raise Temporary("The mail server can't be reached.")

    (job,) = ended(services, (3,))
    Outbox(services, Taken(away)).run()
    services.documents.sweep(requests.jobs_with_passwords(services.store))
    assert [each.data for each in services.documents.get(job)] == [b"12345", b"678"]


def test_sweep_removes_what_a_crash_left(tmp_path: Path) -> None:
    """Jobs that ended, and what was being written an hour ago."""
    kept = Documents(tmp_path / "documents")
    assert kept.sweep(()) == 0
    for job in (1, 2):
        kept.put(job, 3, [Document("a.ipynb", "a.pdf", 1, b"a")])
    torn, fresh = tmp_path / "documents" / ".1.torn", tmp_path / "documents" / ".2.fresh"
    torn.mkdir()
    fresh.mkdir()
    os.utime(torn, (1, 1))
    assert kept.sweep({2}) == 2
    assert sorted(path.name for path in (tmp_path / "documents").iterdir()) == [".2.fresh", "2"]


def test_more_than_a_mail_holds_is_not_kept_but_known(tmp_path: Path) -> None:
    """10 MiB; a smaller one after a large one still fits."""
    kept = Documents(tmp_path / "documents")
    large = Document("a.ipynb", "a.pdf", 11 * MIB, bytes(11 * MIB))
    kept.put(1, 3, [large, Document("b.ipynb", "b.pdf", 70 * MIB), Document("c.ipynb", "c.pdf", 1, b"c")])
    assert [(each.path, each.size, each.data) for each in kept.get(1)] == [
        *(("a.pdf", 11 * MIB, None), ("b.pdf", 70 * MIB, None), ("c.pdf", 1, b"c"))
    ]
    assert sum(path.stat().st_size for path in (tmp_path / "documents").rglob("*")) < MIB
