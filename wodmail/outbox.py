"""Mails that are due: rendered from the database, handed over, and only then recorded as sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import sqlalchemy as sa
import structlog

from wodmail import alarms, documents, drained, exporting, sessionends, sessions
from wodmail.errors import Failed, Refused, Temporary
from wodmail.jobs.services import Services
from wodmail.mail import reply
from wodmail.mail.reply import CredentialsData, DocumentReport, JobReport, PlanStep, ReplyData, StepReport
from wodmail.mail.send import Sender, TooLarge
from wodmail.model import State
from wodmail.requests import forget_secrets
from wodmail.store import mails, requests
from wodmail.writes import TOLD, described

log = structlog.get_logger("wodmail.outbox")

HOUR = 3600.0
DAY = 24 * HOUR
BUDGETED = ("refusal", "duplicate", "ping")
CREDENTIALS_A_DAY = 20
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 15 * 60.0
GIVE_UP_AFTER = 5 * DAY
_NOT_TAKEN = "The mail server did not take them with this mail. They are in the workshop's folder."
_SERVER_TAKES = "The mail server takes no larger mails. What is left out is in the workshop's folder."


def pause_after(tries: int) -> float:
    """Seconds until a mail that could not be handed over is tried again (pure): 2, 4, 8 … at most 900."""
    return float(min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE))


class Outbox:
    """Sends what is due.

    Args:
        services: the parts around the jobs.
        sender: hands mails over.
        stop: asked before each mail.
    """

    def __init__(self, services: Services, sender: Sender, stop: Callable[[], bool] = lambda: False) -> None:
        self._services, self._sender, self._stop = services, sender, stop
        self._store, self._settings = services.store, services.settings

    def run(self) -> int:
        """Send every mail whose time has come; returns how many were handed over."""
        query = (
            sa.select(mails)
            .where(mails.c.backend == self._store.backend, mails.c.state == "due", mails.c.next_try <= time.time())
            .order_by(mails.c.id)
        )
        sent = 0
        for row in self._store.rows(query):
            if self._stop():
                break
            try:
                sent += self._send(row)
            except Temporary:
                raise
            except Exception as error:  # a fault of ours with one mail must not hold up the others
                log.exception("reply-fault", request=row["request"], kind=row["kind"])
                self._settle(row, "failed", f"{type(error).__name__}: {error}")
        return sent

    def _send(self, row: dict[str, Any]) -> bool:
        request = self._store.describe([row["request"]])[0]
        full = self._store.row(sa.select(requests).where(requests.c.id == row["request"])) or {}
        verdict = self._budget(row)
        if verdict == "withheld":
            self._settle(row, "withheld", "over the budget of replies to this address")
            return False
        kind = "budget" if verdict == "notice" else row["kind"]
        try:
            self._hand_over(kind, row, request, full)
        except Temporary as error:
            self._again(row, error)
            return False
        except (Failed, Refused) as error:
            log.warning("reply-failed", request=row["request"], kind=row["kind"], cause=error.operator)
            self._settle(row, "failed", error.operator)
            return False
        self._settle({**row, "kind": kind}, "sent", "")
        log.info("reply-sent", request=row["request"], kind=kind, to=row["recipient"])
        return True

    def _hand_over(self, kind: str, row: dict[str, Any], request: dict[str, Any], full: dict[str, Any]) -> None:
        """Render a mail and hand it over; one with documents that is not taken goes without them."""
        data = self._data(row, request, full)
        if kind != "result" or request["action"] not in exporting.FORMS:
            self._sender.send(self._render(kind, row, request, data), row["recipient"])
            return
        data = self._fitting(row, request, self._with_documents(request, data))
        try:
            try:
                self._sender.send(self._render(kind, row, request, data), row["recipient"])
            except TooLarge as error:
                # The server did not say how much it takes: half of it, once.
                log.warning("reply-with-fewer-documents", request=request["id"], cause=error.operator)
                data = _with_less(data, sum(len(each.data or b"") for each in data.documents) // 2, _SERVER_TAKES)
                self._sender.send(self._render(kind, row, request, data), row["recipient"])
        except Failed as error:
            if all(each.data is None for each in data.documents):
                raise
            log.warning("reply-without-documents", request=request["id"], cause=error.operator)
            self._sender.send(self._render(kind, row, request, _with_less(data, 0, _NOT_TAKEN)), row["recipient"])

    def _fitting(self, row: dict[str, Any], request: dict[str, Any], data: ReplyData) -> ReplyData:
        """With no more documents than the mail server says it takes."""
        sizes = [len(each.data) for each in data.documents if each.data is not None]
        largest = self._sender.largest() if sizes else None
        if largest is None:
            return data
        bare = self._render("result", row, request, _with_less(data, 0, _NOT_TAKEN))
        room = documents.room(largest, len(bare.as_bytes(policy=bare.policy.clone(linesep="\r\n"))), len(sizes))
        return data if sum(sizes) <= room else _with_less(data, room, _SERVER_TAKES)

    def _with_documents(self, request: dict[str, Any], data: ReplyData) -> ReplyData:
        """With what the request's jobs have made, in all no more than a mail may hold."""
        found = documents.within(
            (each for job in request["jobs"] for each in self._services.documents.get(job["id"])), documents.MOST
        )
        reports = tuple(map(_reported, found))
        most = f"{documents.MOST / 2**20:g} MiB"
        words = f"This mail holds {most} of documents at most. What is left out is in the workshop's folder."
        return replace(data, documents=reports, left_out=words if any(each.data is None for each in found) else "")

    def _settle(self, row: dict[str, Any], state: str, error: str) -> None:
        with self._store.transaction() as connection:
            connection.execute(
                mails.update()
                .where(mails.c.id == row["id"])
                .values(state=state, kind=row["kind"], sent_at=time.time(), error=error, tries=row["tries"] + 1)
            )
        forget_secrets(self._services, row["request"])

    def _again(self, row: dict[str, Any], error: Temporary) -> None:
        tries = row["tries"] + 1
        waited = pause_after(tries)
        if tries * LONGEST_PAUSE > GIVE_UP_AFTER:
            self._settle(row, "failed", error.operator)
            return
        with self._store.transaction() as connection:
            connection.execute(
                mails.update()
                .where(mails.c.id == row["id"])
                .values(tries=tries, next_try=time.time() + waited, error=error.operator)
            )
        log.warning("reply-deferred", request=row["request"], cause=error.operator, again_in=waited)

    # -- budgets ----------------------------------------------------------------------------------------------

    def _budget(self, row: dict[str, Any]) -> str:
        """Whether this mail is sent, held back, or is the one that says so: "", "withheld" or "notice"."""
        if row["kind"] == "credentials":
            return "withheld" if self._sent(row, ("credentials",), DAY) >= CREDENTIALS_A_DAY else ""
        if row["kind"] not in BUDGETED:
            return ""
        if self._sent(row, BUDGETED, HOUR) < self._settings.WODREPLYBUDGET:
            return ""
        return "withheld" if self._sent(row, ("budget",), HOUR) else "notice"

    def _sent(self, row: dict[str, Any], kinds: tuple[str, ...], window: float) -> int:
        query = sa.select(sa.func.count().label("n")).where(
            mails.c.recipient == row["recipient"],
            mails.c.backend == self._store.backend,
            mails.c.kind.in_(kinds),
            mails.c.state == "sent",
            mails.c.sent_at > time.time() - window,
        )
        found = self._store.row(query)
        return int(found["n"]) if found else 0

    # -- rendering --------------------------------------------------------------------------------------------

    def _render(self, kind: str, row: dict[str, Any], request: dict[str, Any], data: ReplyData) -> EmailMessage:
        notes = request["notes"]
        if kind == "refusal":
            return reply.render_refusal(self._settings, data)
        if kind == "duplicate":
            return reply.render_duplicate(self._settings, data, int(notes["first"]))
        if kind == "ping":
            return reply.render_ping(self._settings, data, notes["facts"])
        if kind == "plan":
            return reply.render_plan(self._settings, data, _plan_of(notes["plan"]))
        if kind == "budget":
            return reply.render_budget_notice(self._settings, data, datetime.fromtimestamp(time.time() + HOUR, UTC))
        if kind == alarms.KIND:
            words = drained.current(self._store).words()
            return reply.render_late(self._settings, data, round(alarms.LATE_AFTER / 60), words)
        if kind == sessions.REMINDER:
            return reply.render_reminder(self._settings, data, self._left(row["job"]))
        if kind == sessionends.TOLD:
            return reply.render_session_refused(self._settings, data, row["job"])
        if kind in TOLD:
            return reply.render_write(self._settings, data, kind, described(self._store, row["round"]))
        if kind == "credentials":
            return self._credentials(row, request, data)
        return reply.render_result(self._settings, data)

    def _left(self, job: int) -> float:
        found = next((each.left for each in sessions.running(self._store) if each.job == job), None)
        if found is None:
            raise Failed("The session has ended before its reminder went out.", f"job {job} is no session that goes on")
        return found

    def _data(self, row: dict[str, Any], request: dict[str, Any], full: dict[str, Any]) -> ReplyData:
        return ReplyData(
            request=request["id"],
            to=row["recipient"],
            subject=request["subject"],
            action=request["action"],
            state=State(request["state"]),
            received=_moment(request["received"]),
            finished=_moment(request["finished"]) if request["finished"] else None,
            reason=self._services.masker.mask(request["reason"]),
            students=tuple(request["students"]),
            workshop=request["workshop"],
            number=request["number"],
            number_note=request["notes"].get("reading", ""),
            jobs=tuple(self._job(job) for job in request["jobs"]),
            turn=row["round"],
            in_reply_to=request["message_id"],
            references=full.get("reply_references", ""),
        )

    def _job(self, job: dict[str, Any]) -> JobReport:
        password = None
        if self._settings.WODREPLYCREDENTIALS and job["student"] is not None:
            password = self._services.passwords.get(job["id"], job["student"]) or None
        failed = next((step for step in job["steps"] if step["state"] == State.FAILED.value), None)
        return JobReport(
            students=tuple(job["students"]),
            state=State(job["state"]),
            steps=tuple(
                StepReport(step["name"], State(step["state"]), step["seconds"], step["note"], step["error"])
                for step in job["steps"]
            ),
            warnings=tuple(warning for step in job["steps"] for warning in step["warnings"]),
            output=failed["output"] if failed else "",
            password=password,
        )

    def _credentials(self, row: dict[str, Any], request: dict[str, Any], data: ReplyData) -> EmailMessage:
        student = request["students"][0]
        password = self._services.passwords.get(row["job"], student)
        if not password:
            raise Failed("The credentials are not known any more.", f"no password kept for job {row['job']}")
        told = CredentialsData(
            request=request["id"],
            email=row["recipient"],
            student=student,
            login=f"student{student}",
            password=password,
            workshop=request["workshop"],
            received=data.received,
            at=data.finished or data.received,
            url=f"{self._settings.WODBEPROTO}://{self._settings.WODBEEXTFQDN}:{self._settings.WODBEPORT}",
            turn=row["round"],
        )
        return reply.render_credentials(self._settings, told)


def _reported(kept: documents.Kept) -> DocumentReport:
    return DocumentReport(kept.student, kept.path, kept.size, kept.data)


def _with_less(data: ReplyData, most: int, words: str) -> ReplyData:
    """With no more bytes of documents than that, and why."""
    found = documents.within((documents.Kept(e.student, e.path, e.size, e.data) for e in data.documents), most)
    return replace(data, documents=tuple(map(_reported, found)), left_out=words)


def _plan_of(jobs: list[dict[str, Any]]) -> list[tuple[tuple[int, ...], list[PlanStep]]]:
    return [
        (tuple(job["students"]), [PlanStep(step["name"], tuple(step["does"])) for step in job["steps"]]) for job in jobs
    ]


def _moment(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))
