"""The guard at work: one cycle looks, judges, acts and tells."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from wodmail.config import Settings
from wodmail.errors import ConfigError, Refused, Temporary, WodmailError
from wodmail.guard import evidence, files, policy, purge, records
from wodmail.guard.judge import Finding, Judge
from wodmail.guard.ladder import Case, Cases, Step
from wodmail.guard.letters import Letters
from wodmail.guard.load import Alarm, Facts, GpuWatch, Smi, facts
from wodmail.guard.policy import Rung
from wodmail.guard.scan import Watcher
from wodmail.guard.sittings import Asker, Beside
from wodmail.guard.sockets import connections
from wodmail.guard.stop import stop
from wodmail.guard.tracks import Look
from wodmail.guard.watch import Seen, Students
from wodmail.mail.grammar import visible

log = structlog.get_logger("wodmail.guard")

SWEEP_EVERY = 3600.0
SESSIONS_EVERY = 60.0
PURGE_EVERY = 60.0


@dataclass
class Cycle:
    """What one cycle did.

    Args:
        findings: of this look.
        done: what was done, or with dry run would be, in words.
        processes: how many of students were seen.
        scan_seconds: how long the look took.
        facts: the load.
    """

    findings: list[Finding]
    done: list[str] = field(default_factory=list)
    processes: int = 0
    scan_seconds: float = 0.0
    facts: Facts | None = None


class Guard:
    """Watches the students of a backend.

    Args:
        settings: the configuration.
        dry_run: only look and say; nothing is sent, signalled or written.
        smi: asks the GPUs.

    Raises:
        Refused: there are no Linux students.
        ConfigError: the policy can't be used.
        Failed: the guard's folder can't be made.
    """

    def __init__(self, settings: Settings, *, dry_run: bool = False, smi: Smi | None = None) -> None:
        if settings.WODSANDBOX:
            raise Refused("The sandbox's students are folders; there are no processes to watch.")
        self.settings, self.dry_run = settings, dry_run
        self._stamp = policy.stamp(settings)
        self.policy = policy.load(settings)
        self.folder = settings.WODSTATEDIR / "guard" if dry_run else files.folder(settings.WODSTATEDIR)
        self.watcher = Watcher(Students.of(settings))
        self.judge = Judge(self.policy)
        self.cases = Cases(self.policy.ladder)
        self.letters = Letters(settings, self.policy.ladder.mails_an_hour)
        self.evidence = evidence.Store(self.folder, settings.WODRETENTION)
        self.alarm = Alarm(self.policy.load)
        self._sittings = Beside(Asker(settings).ask)
        self.judge.sessions_known = False
        self._gpus = GpuWatch(smi or Smi())
        self._next_sweep = self._next_purge = self._next_sessions = float("-inf")
        self._by_pid: dict[int, Seen] = {}
        records.restore(self.folder, self.cases, self.judge, self.watcher)

    # -- one cycle --------------------------------------------------------------------------------------------

    def cycle(self) -> Cycle:
        """Look once and do what follows from it."""
        begun = time.perf_counter()
        now = time.monotonic()
        look = self._look(now)
        known = bool(self.cases.cases or self.cases.seats)
        self._look_at_sessions(now, always=known)
        found = [*self.judge.judge(look), *self._hidden(look)]
        if found and not known:  # a case is of whoever sits there now
            self._look_at_sessions(now, always=True)
        cycle = Cycle(found, processes=len(look.processes), scan_seconds=time.perf_counter() - begun)
        self._by_pid = {seen.pid: seen for seen in look.processes}
        for step in self.cases.look(found, now, time.time()):
            cycle.done += self._open(step) if step.kind == "open" else self._stop(step, now)
            self.watcher.beat()
        cycle.done += self._purges(now)
        cycle.facts = facts(self._gpus.gpus, self._gpus.trouble)
        cycle.done += self._load(cycle.facts, now)
        if not self.dry_run:
            self._tell()
            self.watcher.beat()
            self.letters.send(self.watcher.beat)
            self._write(cycle)
            self._sweep(now)
        return cycle

    def _look_at_sessions(self, now: float, *, always: bool) -> None:
        """Learn who sits where: whose session goes on, and of whom nothing counts any more.

        Args:
            now: monotonic seconds.
            always: also when it was done a short while ago.
        """
        if now < self._next_sessions and not always:
            return
        self._next_sessions = now + SESSIONS_EVERY
        try:
            found = self._sittings.ask()
        except Temporary as error:  # what was known last stays true enough
            log.warning("service-away", cause=error.operator)
            return
        self.judge.sessions_known = True
        if found is not None:
            self.judge.in_session, self.judge.limits = found.going_on, found.limits
            self.judge.sits(found.who)
            for student in self.cases.changed(found.who):
                self.judge.stopped(student)

    def measure(self) -> None:
        """Look without doing anything about it, so that the next cycle knows how busy each process is."""
        self.judge.judge(self._look(time.monotonic()))

    def _look(self, now: float) -> Look:
        found = connections(self.watcher.students, self.policy.connections.ports)
        self.watcher.search = self.judge.programs.search
        return Look(now, self.watcher.scan(), found, self._gpus.look(now))

    def _hidden(self, look: Look) -> list[Finding]:
        """Processes whose command line or program never came."""
        found: dict[int, list[Seen]] = {}
        for seen in look.processes:
            if seen.key in self.watcher.hidden:
                found.setdefault(seen.student, []).append(seen)
        words = "hides its command line or program, so that whoever reads it waits for ever"
        return [
            Finding(
                student,
                "hidden",
                min(self.policy.denied.then, Rung.STOP),
                f"process {each[0].pid} {words}",
                tuple(each),
            )
            for student, each in found.items()
        ]

    # -- the rungs --------------------------------------------------------------------------------------------

    def _open(self, step: Step) -> list[str]:
        """Keep the evidence of a new case while its processes run."""
        case, found = step.case, step.finding
        if not self.dry_run:
            data = evidence.collect(case, found, self._by_pid, self.judge.tracks, self.policy.evidence)
            data |= {"then": found.then.word, "again": found.again.word}
            self._keep(lambda: self.evidence.keep(case, data))
            log.warning("guard-found", case=case.name, student=case.student, rule=case.rule, words=found.words)
        return [f"{'would warn' if self.dry_run else 'warned'}: student{case.student}: {found.words}"]

    def _stop(self, step: Step, now: float) -> list[str]:
        """Stop what was found; when that is not enough, the seat is purged."""
        case, found = step.case, step.finding
        who = f"student{case.student} ({case.rule})"
        if self.dry_run:
            due = self.cases.stopped(step, now, left=False, ended=len(found.processes))
            return [f"would stop {len(found.processes)} process(es) of {who}", *([f"would purge {who}"] if due else [])]
        spared = [] if found.rule == "hidden" else [seen.key for seen in found.processes]
        result = stop(self.watcher, case.student, found.processes, lambda seen: self._spared(seen, spared))
        left = [seen.pid for seen in result.left]
        if result.ended and not left:
            self.judge.stopped(case.student)
        log.warning("guard-stopped", case=case.name, student=case.student, ended=result.ended, left=left[:20])
        which = ", ".join(f"{seen.pid} {visible(seen.exe, 100)}" for seen in found.processes[:5])
        told = f"{result.ended} ended, {len(left)} left; found: {which}"
        self._keep(lambda: self.evidence.note(case, "stop", told))
        due = self.cases.stopped(step, now, left=bool(left), ended=result.ended)
        words = f"stopped {result.ended} process(es) of {who}" + (f"; {len(left)} still run(s)" if left else "")
        return [words, *([f"{who}: the seat is to be purged"] if due else [])]

    def _spared(self, seen: Seen, chosen: list[tuple[int, int]]) -> bool:
        return seen.key not in chosen and self.judge.allowed(seen) is not None

    def _purges(self, now: float) -> list[str]:
        """Send the PURGE mails that are due; one that can't be sent is tried again a minute later."""
        wanted = self.cases.wanted()
        if self.dry_run or not wanted or now < self._next_purge:
            return []
        told = []
        for student, name in wanted.items():
            trouble = ""
            try:
                identity = purge.send(self.settings, student)
                log.warning("guard-purged", student=student, case=name, mail=identity)
                self.cases.purged(student, now)
            except WodmailError as error:
                trouble = error.sender
                self._next_purge = now + PURGE_EVERY
                log.error("guard-purge-failed", student=student, case=name, cause=error.operator)  # noqa: TRY400
            told.append(f"PURGE {student} 0: {trouble or 'sent'}")
            self._tell_purge(student, name, trouble)
            self.watcher.beat()
        return told

    def _tell_purge(self, student: int, name: str, trouble: str) -> None:
        """Tell WODMONITOR: once that it was sent, once that it could not be."""
        case = next((case for case in self.cases.cases.values() if case.name == name), None)
        seat = self.cases.seats.get(student)
        if case is not None:
            self._keep(lambda: self.evidence.note(case, "purge", visible(trouble, 300) or "the mail was sent"))
        if trouble and seat is not None and seat.troubled:
            return
        if seat is not None:
            seat.troubled = bool(trouble)
        self.cases.tell(student, name, case.words if case else "", trouble)

    # -- telling ----------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Make the mails due about cases and PURGEs that WODMONITOR doesn't know."""
        for kind, words in list(self.cases.letters.items()):
            if kind not in self.letters.waiting:
                done = functools.partial(self.cases.letters.pop, kind, None)
                self.letters.purge(kind, words, self.folder / "evidence", done)
        for case in self.cases.untold():
            if case.name not in self.letters.waiting:
                file = self.evidence.file(case)
                self.letters.finding(case, files.read(file) or {}, self.policy.ladder, file, _teller(case))

    def _load(self, found: Facts, now: float) -> list[str]:
        """Tell of a load that has been too high for too long."""
        due = self.alarm.look(found, now)
        if not due or any(kind.startswith("load-") for kind in self.letters.waiting):
            return []
        if not self.dry_run:
            log.warning("guard-load", over=list(due.values()))
            told = functools.partial(self.alarm.told, list(due), now)
            self.letters.load(due, self.judge.rates(), self.policy.cpu.window_seconds, self.policy.load, told)
        else:
            self.alarm.told(due, now)
        return [f"{'would tell' if self.dry_run else 'told'} WODMONITOR: {words}" for words in due.values()]

    # -- files ------------------------------------------------------------------------------------------------

    def _keep(self, write: Callable[[], None]) -> None:
        """Write evidence; a full disk must not keep the guard from its work."""
        try:
            write()
        except OSError as error:
            log.error("guard-evidence-failed", cause=str(error))  # noqa: TRY400 - an expected error

    def _write(self, cycle: Cycle) -> None:
        """Write what `status` shows, and what a restart needs."""
        names = policy.files(self.settings)
        self._keep(lambda: records.write_status(self.folder, self.policy.interval_seconds, names, self.report(cycle)))
        self._keep(lambda: records.write_state(self.folder, self.cases, self.judge, self.watcher))

    def report(self, cycle: Cycle) -> dict[str, Any]:
        """A cycle and the open cases as plain data."""
        counted = {"processes": cycle.processes, "scan_seconds": round(cycle.scan_seconds, 4)}
        return {**counted, **records.report(cycle.findings, self.cases, self.judge, cycle.facts)}

    def _sweep(self, now: float) -> None:
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_EVERY
        try:
            removed = self.evidence.sweep(time.time())
        except OSError as error:
            log.error("guard-evidence-failed", cause=str(error))  # noqa: TRY400 - an expected error
            return
        if removed:
            log.info("guard-swept", files=removed)

    # -- the policy -------------------------------------------------------------------------------------------

    def reload(self, *, always: bool = False) -> bool:
        """Read the policy again when its files have changed; one that can't be used changes nothing.

        Args:
            always: also when they look the same.
        """
        stamp = policy.stamp(self.settings)
        if stamp == self._stamp and not always:
            return False
        self._stamp = stamp
        try:
            self.policy = policy.load(self.settings)
        except ConfigError as error:
            log.error("guard-policy-refused", cause=error.sender)  # noqa: TRY400 - an expected error
            return False
        self.judge.replace(self.policy)
        self.cases.ladder = self.policy.ladder
        self.letters.most = self.policy.ladder.mails_an_hour
        self.alarm.policy = self.policy.load
        log.info("guard-policy-loaded", files=[str(file) for file in policy.files(self.settings)])
        return True


def _teller(case: Case) -> Callable[[], None]:
    """What notes that WODMONITOR was told of a case."""

    def done() -> None:
        case.told = True

    return done
