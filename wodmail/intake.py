"""From the spool to a request with its jobs: read, judge, and write everything in one transaction.

Every mail of the spool becomes a request, a refused one too. A crash between any two lines here repeats the mail,
and the spool key makes the repetition harmless.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog

from wodmail import duplicates, exporting
from wodmail.catalog import Catalog, Workshop, unknown
from wodmail.config import Settings
from wodmail.errors import Away, Failed, Refused, Temporary
from wodmail.jobs.earlier import SESSION_NOTE, newer_create, too_late
from wodmail.jobs.plan import PlannedStep, plan
from wodmail.mail import command as commands
from wodmail.mail import message as messages
from wodmail.mail import reply, trust
from wodmail.mail.grammar import Broken, Limits
from wodmail.mail.message import Message
from wodmail.mail.spool import MailGone, MailUnreadable, Spool, StoredMail
from wodmail.model import Action, Command, JobSpec, State
from wodmail.registry.base import Registry
from wodmail.requests import NewRequest, accept
from wodmail.store import Store, requests

log = structlog.get_logger("wodmail.intake")

SUBJECT_KEPT = 998
MESSAGE_ID_KEPT = 998  # bytes: with the sender it is indexed, and PostgreSQL indexes no more than 2704
LOGGED = 300
NO_TEXT = "\ufffd"  # what the spool puts in place of bytes that are no text
BATCH = 50
LATER = 5.0  # seconds until a mail is looked at again that only the API-DB can explain, while that is away


R = TypeVar("R")


class _Untrusted(Refused):
    """The signature is missing or wrong: no reply, whoever sent it."""


@dataclass(frozen=True, slots=True)
class Understood:
    """What a mail that passed commands.

    Args:
        command: as parsed (and repaired).
        meaning: which students and which participant.
        workshop: as mailed.
        found: the workshop, None for an action that concerns none.
        repaired: how a broken subject was mended, empty when it was not.
    """

    command: Command
    meaning: commands.Interpretation
    workshop: str
    found: Workshop | None
    repaired: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A mail's request to be.

    Args:
        new: accepted, or refused for what the mail says or for who has sent it.
        verdict: what its signature proved, None when there was none that counts.
        trusted: whether it came from somebody who may command; others are not even told of duplicates.
    """

    new: NewRequest
    verdict: trust.Verdict | None = None
    trusted: bool = True


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
        self._catalog = Catalog(settings.WODNOBO, settings.WODPRIVNOBO)
        self._broken: set[str] = set()
        self._later: dict[str, float] = {}
        self._away: Away | None = None  # found in this round; one mail finds it for all
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
        except Temporary:
            raise
        except Exception:  # a fault of ours with one mail must not hold up the others
            log.exception("intake-fault", keys=len(keys))
            for key in keys:
                self._take_guarded(key)
        return len(keys)

    def waiting(self) -> list[str]:
        """The keys of the mails to take in now, in order; without those set aside or to be looked at later."""
        keys = self._spool.new()
        self._broken.intersection_update(keys)
        now = time.monotonic()
        self._later = {key: due for key, due in self._later.items() if key in keys}
        return [key for key in keys if key not in self._broken and self._later.get(key, 0.0) <= now]

    @property
    def held(self) -> int:
        """How many mails wait for the API-DB before they can be understood."""
        return len(self._later)

    def _take_guarded(self, key: str) -> None:
        try:
            self._take_all([key])
        except Temporary:
            raise
        except Exception:  # it stays in new/, for a wodmail that can read it
            self._broken.add(key)
            log.exception("mail-set-aside", key=commands.visible(key, LOGGED))

    def _set_aside(self, key: str, why: str) -> None:
        self._broken.add(key)
        log.error("mail-set-aside", key=commands.visible(key, LOGGED), cause=why)

    def _read(self, keys: list[str]) -> list[StoredMail]:
        """The mails with these keys, without those that nobody can read and those that are no longer there."""
        found = []
        for key in keys:
            try:
                found.append(self._spool.read(key))
            except MailGone:  # its door took it back, and told the sender to come again
                continue
            except MailUnreadable as error:
                self._set_aside(key, error.operator)
        return found

    def _take_all(self, keys: list[str]) -> None:
        """Take in mails in one transaction: requests and jobs stand or fall together."""
        judged = self._judge_all(keys)
        if not judged:
            return
        written: list[tuple[int, NewRequest]] = []
        with self._store.transaction() as connection:
            query = sa.select(requests.c.spool_key).where(
                requests.c.backend == self._store.backend,
                requests.c.spool_key.in_([mail.key for mail, _ in judged]),
            )
            known = set(connection.execute(query).scalars())
            for mail, found in judged:
                if mail.key not in known:
                    written.append(self._take(connection, mail, found))
        for number, new in written:
            _tell(number, new)
        if any(new.state is State.WAITING for _, new in written):
            self._kick()
        for mail, _ in judged:
            self._spool.settle(mail.key)

    def _judge_all(self, keys: list[str]) -> list[tuple[StoredMail, Judged]]:
        """Judge mails before the transaction begins: the registry may take its time to answer, or be away."""
        judged = []
        self._away = None
        for mail in self._read(keys):
            try:
                judged.append((mail, self._judge(mail, messages.read(mail.raw))))
            except Away as error:
                self._later[mail.key] = time.monotonic() + LATER
                log.warning("mail-held", key=mail.key, cause=error.operator)
            else:
                self._later.pop(mail.key, None)
        return judged

    def _take(self, connection: sa.Connection, mail: StoredMail, judged: Judged) -> tuple[int, NewRequest]:
        new = self._without_duplicates(connection, judged) if judged.trusted else judged.new
        number = accept(connection, self._store.backend, new)
        if judged.verdict is not None:
            duplicates.remember_nonce(connection, judged.verdict, number, mail.stored)
        return number, new

    # -- judging ----------------------------------------------------------------------------------------------

    def _judge(self, mail: StoredMail, message: Message) -> Judged:
        """What the request will look like, before the database is asked about duplicates."""
        base: dict[str, Any] = {
            "spool_key": mail.key,
            "received_at": mail.stored,
            "subject": message.subject[:SUBJECT_KEPT],
            "sender": mail.sender,
            "message_id": _within(message.message_id, MESSAGE_ID_KEPT),
            "references": message.header("references")[:SUBJECT_KEPT],
        }
        try:
            self._may_command(mail)
        except Refused as error:  # who may not command gets no mail
            log.warning("sender-rejected", key=mail.key, cause=error.operator)
            return Judged(NewRequest(state=State.REFUSED, reason=error.operator, **base), trusted=False)
        reply_to = mail.sender if reply.should_reply(message, mail.sender) else ""
        verdict = None
        try:
            command, repaired = self._command_in_time(message.subject, mail.stored)
            workshop = messages.workshop(message.workshop_line, command.action)
            verdict = self._verified(mail, message, command, workshop)
            understood = self._understood(command, workshop, repaired)
        except _Untrusted as error:
            return Judged(NewRequest(state=State.REFUSED, reason=error.operator, **base), trusted=False)
        except Refused as error:
            unproved = verdict is None and trust.signature_demanded(self._settings, mail.peer)
            refused = NewRequest(
                state=State.REFUSED,
                reason=error.sender,
                **self._spoken(message),
                reply_to="" if unproved else reply_to,
                reply_kind="refusal",
                **base,
            )
            return Judged(refused, verdict, trusted=not unproved)
        return Judged(_of_session(self._request(understood, reply_to, base), message), verdict)

    def _may_command(self, mail: StoredMail) -> None:
        trust.may_command(
            self._settings,
            peer=mail.peer,
            sender=mail.sender,
            authenticated=mail.authenticated,
            piped=mail.door == "pipe",
        )
        if NO_TEXT in mail.sender:  # also where everybody may command
            raise Refused("This sender may not send commands here.", f"envelope sender {mail.sender!r} is no text")

    def _command_in_time(self, subject: str, stored: float) -> tuple[Command, str]:
        """The command; a mail that only the API-DB can explain is not held for ever.

        Raises:
            Away: it has to be looked at again later.
        """
        try:
            return self._command(subject)
        except Away as error:
            patience = self._settings.WODAPIDBPATIENCE
            if time.time() - stored < patience:
                raise
            raise Refused(
                "The subject says [object Promise] for the student, and the API-DB, which knows the participant's "
                f"student, is away for {patience:.0f} s. Nothing was changed. Send it again with the student's number.",
                error.operator,
            ) from error

    def _student_of(self, participant: int) -> int:
        return self._asked(lambda: self._registry.participant_student(participant))

    def _command(self, subject: str) -> tuple[Command, str]:
        parsed = commands.parse(subject, limits=self._limits)
        if not isinstance(parsed, Broken):
            return parsed, ""
        reading = commands.reading(self._settings)
        try:
            repaired, note = commands.repair(parsed, self._student_of, reading, self._limits)
        except Failed as error:  # it clearly says no, and will not say anything else by itself
            raise Refused(f"{error.sender} Nothing was changed. Send the mail again then.", error.operator) from error
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

    def _verified(self, mail: StoredMail, message: Message, command: Command, workshop: str) -> trust.Verdict | None:
        try:
            return trust.verify(self._settings, self._keys, message, command, workshop, mail.stored, peer=mail.peer)
        except Refused as error:
            raise _Untrusted(error.sender, error.operator) from error

    def _understood(self, command: Command, workshop: str, repaired: str) -> Understood:
        meaning = commands.interpret(command, commands.reading(self._settings), self._limits)
        if command.action in exporting.FORMS:
            exporting.require()
        found = None
        if command.action not in (Action.PING, Action.PURGE):
            found = self._workshop(workshop)
            self._check_range(found, meaning)
        return Understood(command, meaning, workshop, found, repaired)

    def _workshop(self, name: str) -> Workshop:
        """What is known of a workshop; what the API-DB says of it is looked at again when the job begins."""
        try:
            return self._asked(lambda: self._registry.workshop(name))
        except (Away, Failed) as error:
            found = self._catalog.find(name)
            if found is None:
                words = unknown("there is no workshop {} here", self._catalog.names(), name)
                raise Refused(words, error.operator) from error
            log.warning("service-away", cause=error.operator)
            return found

    def _asked(self, ask: Callable[[], R]) -> R:
        """What the registry says; once it was found away, it isn't asked again in this round."""
        if self._away is not None:
            raise self._away
        try:
            return ask()
        except Away as error:
            self._away = error
            raise

    def _check_range(self, workshop: Workshop, meaning: commands.Interpretation) -> None:
        if workshop.range is None or not self._settings.WODSTRICTRANGE:
            return
        low, high = workshop.range
        outside = [student for student in meaning.students if not low <= student <= high]
        if outside:
            raise Refused(
                f"Student {outside[0]} is outside the range {low}-{high} of {workshop.name}. Nothing was changed. "
                f"Name a student of that range, for example {low}."
            )

    def _request(self, judged: Understood, reply_to: str, base: dict[str, Any]) -> NewRequest:
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
            then_reset=self._then_reset(judged),
            notes=notes,
            **base,
        )

    def _then_reset(self, judged: Understood) -> bool:
        """With the embedded registry nobody else sends the RESET that such a workshop needs after a CLEANUP."""
        found = judged.found
        wanted = judged.command.action is Action.CLEANUP and found is not None and found.reset
        return wanted and not self._settings.apidb

    def _planned(self, judged: Understood) -> list[dict[str, object]]:
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

    def _without_duplicates(self, connection: sa.Connection, judged: Judged) -> NewRequest:
        """The request, or what becomes of it when it repeats an earlier one, also one that was refused."""
        new = judged.new
        try:
            first = duplicates.first_of(connection, self._store.backend, new, judged.verdict, time.time())
        except Refused as error:
            return replace(new, state=State.REFUSED, reason=error.operator, reply_to="", reply_kind="")
        if first is None:
            return self._of_a_session_that_goes_on(connection, new)
        return replace(
            new,
            state=State.DUPLICATE,
            reason=f"already in hand as request {first}",
            reply_kind="duplicate",
            notes={**new.notes, "first": first},
        )

    def _of_a_session_that_goes_on(self, connection: sa.Connection, new: NewRequest) -> NewRequest:
        """The request; refused when it ends a session and a newer CREATE has come before it."""
        session = new.notes.get(SESSION_NOTE, 0)
        if new.state is not State.WAITING or not session:
            return new
        for student in new.students:
            if newer_create(connection, self._store.backend, session, student) is not None:
                return replace(new, state=State.REFUSED, reason=too_late(student), reply_to="", reply_kind="")
        return new


def _of_session(new: NewRequest, message: Message) -> NewRequest:
    """With the session that a CLEANUP ends among its notes, when its mail names one."""
    session = message.header(messages.SESSION_HEADER)
    if new.action != Action.CLEANUP.value or re.fullmatch(r"[1-9][0-9]{0,17}", session) is None:
        return new
    return replace(new, notes={**new.notes, SESSION_NOTE: int(session)})


def _within(text: str, size: int) -> str:
    """The text cut to so many bytes of UTF-8."""
    return text.encode("utf-8")[:size].decode("utf-8", "ignore")


def _tell(number: int, new: NewRequest) -> None:
    event = {State.REFUSED: "request-refused", State.DUPLICATE: "request-duplicate"}.get(new.state, "request-accepted")
    log.info(event, request=number, subject=commands.visible(new.subject), reason=new.reason)
