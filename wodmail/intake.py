"""From the spool to a request with its jobs: read, judge, and write everything in one transaction.

Every mail of the spool becomes a request, a refused one too. A crash between any two lines here repeats the mail,
and the spool key makes the repetition harmless.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
import structlog

from wodmail import duplicates
from wodmail.catalog import Workshop
from wodmail.config import Settings
from wodmail.errors import Refused, WodmailError
from wodmail.jobs.plan import PlannedStep, plan
from wodmail.mail import command as commands
from wodmail.mail import message as messages
from wodmail.mail import reply, trust
from wodmail.mail.grammar import Broken, Limits
from wodmail.mail.message import Message
from wodmail.mail.spool import Spool, StoredMail
from wodmail.model import Action, Command, JobSpec, State
from wodmail.registry.base import Registry
from wodmail.requests import NewRequest, accept
from wodmail.store import Store, requests

log = structlog.get_logger("wodmail.intake")

SUBJECT_KEPT = 998
BATCH = 50


class _Untrusted(Refused):
    """The signature is missing or wrong: no reply, whoever sent it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A mail that passed: what it commands, and what its signature proved.

    Args:
        command: as parsed (and repaired).
        meaning: which students and which participant.
        workshop: as mailed.
        verdict: the signature's, None when there was none that counts.
        warnings: for the reply.
        repaired: how a broken subject was mended, empty when it was not.
    """

    command: Command
    meaning: commands.Interpretation
    workshop: str
    verdict: trust.Verdict | None
    warnings: tuple[str, ...] = ()
    repaired: str = ""
    found: Workshop | None = field(default=None)


class Intake:
    """Judges the mails of a spool.

    Args:
        settings: the rules.
        spool: where the mails are.
        store: where the requests go.
        registry: knows workshops and participants.
        kick: called when jobs were added.
        describe: says what a step would do, for PLAN.
        facts: what a PING answer tells, asked when one is due.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        store: Store,
        registry: Registry,
        kick: Callable[[], object],
        describe: Callable[[JobSpec, PlannedStep], list[str]],
        facts: Callable[[], dict[str, object]] = dict,
    ) -> None:
        self._settings, self._spool, self._store, self._registry = settings, spool, store, registry
        self._kick, self._describe, self._facts = kick, describe, facts
        self._limits = Limits.of(settings)
        self._broken: set[str] = set()
        self._keys = trust.read_keys(settings.WODSIGNKEYFILE) if settings.WODSIGNKEYFILE else ()

    def run(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Take in what is new, at most BATCH mails; returns how many that were.

        Args:
            stop: a server that goes down leaves the rest in the spool.

        Raises:
            Temporary: the database or the spool has trouble; the mails stay where they are.
        """
        keys = self.waiting()[:BATCH]
        if not keys or stop():
            return 0
        try:
            self._take_all(keys)
        except WodmailError:
            raise
        except Exception:  # a fault of ours with one mail must not hold up the others
            log.exception("intake-fault", keys=len(keys))
            for key in keys:
                self._take_guarded(key)
        return len(keys)

    def waiting(self) -> list[str]:
        """The keys of the mails to take in, in order; without those that were set aside."""
        return [key for key in self._spool.new() if key not in self._broken]

    def _take_guarded(self, key: str) -> None:
        try:
            self._take_all([key])
        except WodmailError:
            raise
        except Exception:  # it stays in new/, for a wodmail that can read it
            log.exception("mail-set-aside", key=key)
            self._broken.add(key)

    def take(self, key: str) -> int | None:
        """Take in one mail.

        Returns:
            The number of its request; None when it had been taken in before.

        Raises:
            Temporary: the database or the spool has trouble; the mail stays where it is.
        """
        return self._take_all([key])[0]

    def _take_all(self, keys: list[str]) -> list[int | None]:
        """Take in mails in one transaction: requests and jobs stand or fall together."""
        read = [self._spool.read(key) for key in keys]
        parsed = [(mail, messages.read(mail.raw)) for mail in read]
        numbers: list[int | None] = []
        written: list[tuple[int, NewRequest]] = []
        with self._store.transaction() as connection:
            query = sa.select(requests.c.spool_key).where(
                requests.c.backend == self._store.backend, requests.c.spool_key.in_(keys)
            )
            known = set(connection.execute(query).scalars())
            for mail, message in parsed:
                if mail.key in known:
                    numbers.append(None)
                    continue
                number, new = self._take(connection, mail, message)
                numbers.append(number)
                written.append((number, new))
        if any(new.state is State.WAITING for _, new in written):
            self._kick()
        for key in keys:
            self._spool.settle(key)
        for number, new in written:
            _tell(number, new)
        return numbers

    def _take(self, connection: sa.Connection, mail: StoredMail, message: Message) -> tuple[int, NewRequest]:
        new, judged = self._judge(mail, message)
        if judged is not None:
            new = self._without_duplicates(connection, new, judged)
        number = accept(connection, self._store.backend, new)
        if judged is not None and judged.verdict is not None:
            duplicates.remember_nonce(connection, judged.verdict, number, mail.stored)
        return number, new

    # -- judging ----------------------------------------------------------------------------------------------

    def _judge(self, mail: StoredMail, message: Message) -> tuple[NewRequest, Judged | None]:
        """What the request will look like, before the database is asked about duplicates."""
        base: dict[str, Any] = {
            "spool_key": mail.key,
            "received_at": mail.stored,
            "subject": message.subject[:SUBJECT_KEPT],
            "sender": mail.sender,
            "message_id": message.message_id,
            "references": message.header("references")[:SUBJECT_KEPT],
        }
        try:
            trust.may_command(
                self._settings,
                peer=mail.peer,
                sender=mail.sender,
                authenticated=mail.authenticated,
                piped=mail.door == "pipe",
            )
        except Refused as error:  # who may not command gets no mail
            log.warning("sender-rejected", key=mail.key, cause=error.operator)
            return NewRequest(state=State.REFUSED, reason=error.operator, **base), None
        reply_to = mail.sender if reply.should_reply(message, mail.sender) else ""
        try:
            command, repaired = self._command(message.subject)
            judged = self._checked(mail, message, command, repaired)
        except _Untrusted as error:
            return NewRequest(state=State.REFUSED, reason=error.operator, **base), None
        except Refused as error:
            unproved = trust.signature_demanded(self._settings, mail.peer)
            refused = NewRequest(
                state=State.REFUSED,
                reason=error.sender,
                **self._spoken(message),
                reply_to="" if unproved else reply_to,
                reply_kind="refusal",
                **base,
            )
            return refused, None
        return self._request(judged, reply_to, base), judged

    def _command(self, subject: str) -> tuple[Command, str]:
        parsed = commands.parse(subject, limits=self._limits)
        if not isinstance(parsed, Broken):
            return parsed, ""
        reading = commands.reading(self._settings)
        repaired, note = commands.repair(parsed, self._registry.participant_student, reading, self._limits)
        log.warning("mail-repaired", subject=commands.visible(subject), note=note)
        return repaired, note

    def _spoken(self, message: Message) -> dict[str, Any]:
        """What of a refused mail was understood, for the list of requests."""
        said: dict[str, Any] = {}
        try:
            command = commands.parse(message.subject, limits=self._limits)
            said["action"] = command.action.value
            said["workshop"] = messages.workshop(message.workshop_line, command.action)
            if not isinstance(command, Broken):
                meaning = commands.interpret(command, commands.reading(self._settings), self._limits)
                said |= {"students": meaning.students, "number": command.number}
        except Refused:
            return said
        return said

    def _checked(self, mail: StoredMail, message: Message, command: Command, repaired: str) -> Judged:
        workshop = messages.workshop(message.workshop_line, command.action)
        try:
            verdict = trust.verify(self._settings, self._keys, message, command, workshop, mail.stored, peer=mail.peer)
        except Refused as error:
            raise _Untrusted(error.sender, error.operator) from error
        meaning = commands.interpret(command, commands.reading(self._settings), self._limits)
        if command.action in (Action.PDF, Action.WORD):
            raise commands.not_available(command)
        found = None
        if command.action not in (Action.PING, Action.PURGE):
            found = self._registry.workshop(workshop)
        return Judged(command, meaning, workshop, verdict, self._range(found, meaning), repaired, found)

    def _range(self, workshop: Workshop | None, meaning: commands.Interpretation) -> tuple[str, ...]:
        if workshop is None or workshop.range is None or not self._settings.WODSTRICTRANGE:
            return ()
        low, high = workshop.range
        outside = [student for student in meaning.students if not low <= student <= high]
        if outside:
            raise Refused(
                f"Student {outside[0]} is outside the range {low}-{high} of {workshop.name}. Nothing was changed. "
                f"Name a student of that range, for example {low}."
            )
        return ()

    def _request(self, judged: Judged, reply_to: str, base: dict[str, Any]) -> NewRequest:
        command, meaning = judged.command, judged.meaning
        notes: dict[str, Any] = {"reading": meaning.note}
        if judged.repaired:
            notes["reading"] = f"{judged.repaired}; {meaning.note}"
        state, kind = State.WAITING, ""
        action = command.action.value
        if command.action is Action.PING:
            state, kind = State.DONE, "ping"
            notes["facts"] = {"text": command.text, **self._facts()} if command.text else self._facts()
        elif command.plan:
            state, kind, action = State.DONE, "plan", f"PLAN {action}"
            notes["plan"] = self._planned(judged)
        return NewRequest(
            state=state,
            action=action,
            students=meaning.students,
            workshop=judged.workshop,
            number=command.number,
            participant=meaning.participant,
            email=command.email,
            reply_to=reply_to,
            reply_kind=kind,
            one_job=meaning.one_job,
            notes=notes,
            **base,
        )

    def _planned(self, judged: Judged) -> list[dict[str, object]]:
        """The jobs that the action would make, each with its steps and what they would do."""
        command, meaning = judged.command, judged.meaning
        groups = [meaning.students] if meaning.one_job else [(student,) for student in meaning.students]
        planned = []
        for students in groups:
            spec = JobSpec(0, 0, command.action, students, judged.workshop, meaning.participant, command.email)
            steps = [{"name": step.name, "does": self._describe(spec, step)} for step in plan(spec, judged.found)]
            planned.append({"students": list(students), "steps": steps})
        return planned

    # -- duplicates -------------------------------------------------------------------------------------------

    def _without_duplicates(self, connection: sa.Connection, new: NewRequest, judged: Judged) -> NewRequest:
        try:
            first = duplicates.first_of(connection, self._store.backend, new, judged.verdict, time.time())
        except Refused as error:
            return replace(new, state=State.REFUSED, reason=error.operator, reply_to="", reply_kind="")
        if first is None:
            return new
        return replace(
            new,
            state=State.DUPLICATE,
            reason=f"already in hand as request {first}",
            reply_kind="duplicate",
            notes={**new.notes, "first": first},
        )


def _tell(number: int, new: NewRequest) -> None:
    event = {State.REFUSED: "request-refused", State.DUPLICATE: "request-duplicate"}.get(new.state, "request-accepted")
    log.info(event, request=number, subject=commands.visible(new.subject), reason=new.reason)
