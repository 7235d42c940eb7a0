"""The frontend's side of a deployment: registers participants in the stand-in's rows and mails as the Node one does.

Its check runs every 20 s in reality, and after 10 minutes without credentials it gives a deployment up; tests give
shorter times.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from tests.apidb.site import ApiDbSite
from tests.apidb.state import Row
from tests.support import wait_until

BUG = "[object Promise]"


class NoSeat(Exception):
    """Every seat of the workshop is taken."""


class Phase(StrEnum):
    """Where a participant is."""

    WAITING = "waiting for credentials"
    WORKING = "has credentials"
    EXPIRED = "expired, to be cleaned"
    GIVEN_UP = "given up, to be cleaned"
    OVER = "cleaned, seat free"


@dataclass
class Participant:
    """One who registered.

    Args:
        number: the customer row's id.
        student: the student's number.
        word: the workshop as mailed, WKSHP-Name or CHLG-Name.
        email: the address.
        since: when registered, seconds since 1970.
        life: seconds from the credentials to the end.
        reset: whether the workshop says `reset`.
    """

    number: int
    student: int
    word: str
    email: str
    since: float
    life: float
    reset: bool
    phase: Phase = Phase.WAITING
    ends: float = 0.0
    password: str = ""
    credentials: int = 0
    asked: float = 0.0
    due: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sent:
    """A mail that was tried: its subject and first line, and whether the server said anything."""

    subject: str
    word: str
    arrived: bool


def send(port: int, subject: str, word: str, sender: str = "wodadmin@localhost", timeout: float = 30.0) -> bool:
    """One mail as the Node frontend sends it: everything at once with bare LF, no blank line after the Subject, and
    the socket destroyed at the first byte that comes back.

    Returns:
        Whether a byte came back, which is what the frontend takes for success. A refused connection, one that ends
        without a byte and one that stays silent are none.
    """
    lines = ("HELO front.test", f"MAIL FROM: {sender}", "RCPT TO: wodadmin@backend.test", "DATA")
    text = "\n".join([*lines, f"Subject: {subject}", word, ".", ""])
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.sendall(text.encode())
            return bool(connection.recv(65536))
    except OSError:
        return False


class Frontend:
    """Registers, mails, watches. Its `tick` is one check; `start` repeats it in a thread until `stop`.

    Args:
        site: the API-DB whose rows it changes (behind the API, not in the request log).
        port: of the SMTP listener on loopback.
        every: seconds between checks.
        patience: seconds after which it gives up a deployment without credentials.
        insist: seconds after which CLEANUP, RESET and PURGE are mailed again while nothing came of them; 0 for never
            (a mail that reaches a server which is killed before it reads is otherwise lost for good). Longer than
            the backend may take, or it gets commands for a seat that is free already.
        bug: whether RESET and PURGE say `[object Promise]` for the student, as the stock one does.
        sender: the envelope sender.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        site: ApiDbSite,
        port: int,
        *,
        every: float = 20.0,
        patience: float = 600.0,
        insist: float = 0.0,
        bug: bool = True,
        sender: str = "wodadmin@localhost",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.site, self.port, self.every, self.patience = site, port, every, patience
        self.insist, self.bug, self.sender = insist, bug, sender
        self.participants: dict[int, Participant] = {}
        self.mails: list[Sent] = []
        self.troubles: list[str] = []
        self._clock = clock
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Frontend:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Check every `every` seconds."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="frontend", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the checks; a check that is at work ends first."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._ending.wait(self.every):
            self.tick()

    # -- participants -----------------------------------------------------------------------------------------

    def register(self, word: str, *, life: float = 4 * 3600.0, email: str = "", name: str = "") -> Participant:
        """Give the workshop's first free seat to a new participant and ask for its deployment.

        Args:
            word: WKSHP-Name or CHLG-Name.
            life: seconds from the credentials to the expiry.
            email: the address; made from the number when empty.
            name: the person's.

        Raises:
            NoSeat: none is free.
        """
        with self._lock:
            notebook = "WKSHP-" + word.partition("-")[2]
            workshop = next(row for row in self.site.rows("workshops") if row["notebook"] == notebook)
            student = self._free_student(workshop)
            number = max([0, *(row["id"] for row in self.site.rows("customers"))]) + 1
            address = email or f"participant{number}@example.org"
            about = {"name": name or f"Participant {number}", "email": address, "hours": max(1, round(life / 3600))}
            kind = "Coding-Challenges" if word.startswith("CHLG-") else "Workshops-on-Demand"
            about |= {"sessionName": workshop["name"], "sessionType": kind, "lastEmailSent": "welcome"}
            self.site.add_customer(word, student, id=number, startDate=iso(self._clock()), **about)
            made = Participant(number, student, word, address, self._clock(), life, workshop["reset"] in (True, "true"))
            self.participants[number] = made
            self._mail(made, "CREATE")
            return made

    def _free_student(self, workshop: Row) -> int:
        low, high = workshop["range"]
        base = self.site.base
        for row in self.site.rows("students"):
            if low <= row["id"] - base <= high and not row["assigned"]:
                student: int = row["id"] - base
                for earlier in self.participants.values():
                    if earlier.student == student:
                        earlier.phase = Phase.OVER
                return student
        raise NoSeat(f"no seat of {workshop['notebook']} is free")

    def expire(self, participant: Participant) -> None:
        """Let a participant's time end now; the next check sees it."""
        with self._lock:
            participant.life = 0.0
            if participant.phase is Phase.WORKING:
                participant.ends = self._clock()
                self.site.update("customers", participant.number, endDate=iso(participant.ends))

    def of(self, phase: Phase) -> list[Participant]:
        """The participants that are in a phase."""
        with self._lock:
            return [participant for participant in self.participants.values() if participant.phase is phase]

    def await_all(self, phase: Phase, seconds: float = 60.0) -> None:
        """Wait until every participant is in a phase; what fails says where each one is."""
        try:
            wait_until(lambda: len(self.of(phase)) == len(self.participants), seconds=seconds, what=phase.name)
        except AssertionError as late:
            raise AssertionError(f"{late}; {self.summary()}; {self.troubles[-3:]}") from late

    def summary(self) -> dict[str, list[int]]:
        """The participants' numbers by phase."""
        return {phase.name: [participant.number for participant in self.of(phase)] for phase in Phase}

    # -- the check --------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One check of everybody. What can't be done now is tried at the next."""
        for number in list(self.participants):
            with self._lock:
                if self._ending.is_set():
                    return
                try:
                    self._check(self.participants[number])
                except (OSError, http.client.HTTPException) as trouble:
                    self.troubles.append(f"participant {number}: {trouble!r}")

    def _check(self, one: Participant) -> None:
        if one.phase is Phase.OVER:
            return
        now, customer, student = self._clock(), self.site.customer(one.number), self.site.student(one.student)
        if one.phase is Phase.WAITING:
            self._look_for_credentials(one, now, customer, student)
        elif one.phase is Phase.WORKING:
            if now >= one.ends:
                one.phase = Phase.EXPIRED
                one.due = ["CLEANUP", "RESET"] if one.reset else ["CLEANUP"]
        elif not one.due:
            self._look_for_the_end(one, now, customer, student)
        self._mail_what_is_due(one, now)

    def _look_for_credentials(self, one: Participant, now: float, customer: Row, student: Row) -> None:
        if student["password"] and customer["active"]:
            one.phase, one.password, one.ends = Phase.WORKING, student["password"], now + one.life
            one.credentials += 1
            dates = {"startDate": iso(now), "endDate": iso(one.ends)}
            self.site.update("customers", one.number, lastEmailSent="credentials", **dates)
        elif now - one.since > self.patience:
            one.phase, one.due = Phase.GIVEN_UP, ["CLEANUP", "RESET", "PURGE"]
        else:
            self._mail(one, "CREATE")

    def _look_for_the_end(self, one: Participant, now: float, customer: Row, student: Row) -> None:
        if customer["cleaned"] and not student["assigned"]:
            one.phase = Phase.OVER
        elif self.insist and now - one.asked >= self.insist:
            if one.phase is Phase.GIVEN_UP:
                one.due = ["CLEANUP", "PURGE"]
            else:
                again = [] if customer["cleaned"] and one.reset else ["CLEANUP"]
                one.due = [*again, "RESET"] if one.reset else again

    def _mail_what_is_due(self, one: Participant, now: float) -> None:
        """In order; where the server is away the rest waits for the next check."""
        while one.due and self._mail(one, one.due[0]):
            if one.due.pop(0) == "CLEANUP":
                ended: Row = {"lastEmailSent": "expired"} if one.phase is Phase.EXPIRED else {}
                if not one.reset:
                    ended["active"] = False
                self.site.update("customers", one.number, **ended)
            one.asked = now

    def _mail(self, one: Participant, action: str) -> bool:
        student = BUG if self.bug and action in ("RESET", "PURGE") else str(one.student)
        subject = f"{action} {student} {one.number}" + (f" {one.email}" if action == "CREATE" else "")
        arrived = send(self.port, subject, one.word, self.sender)
        self.mails.append(Sent(subject, one.word, arrived))
        return arrived

    def subjects(self, action: str = "") -> list[str]:
        """The subjects of the mails that arrived, in order; of one action when named."""
        return [mail.subject for mail in list(self.mails) if mail.arrived and mail.subject.startswith(action)]


def iso(seconds: float) -> str:
    """A time as the API-DB writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
