"""The guard at work: one cycle looks, judges, acts and tells; the service does that again and again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from wodmail import processes
from wodmail.config import Settings
from wodmail.errors import ConfigError, Refused, WodmailError
from wodmail.guard import evidence, files, policy, purge
from wodmail.guard.judge import Finding, Judge, Look
from wodmail.guard.ladder import Cases, Step
from wodmail.guard.letters import Letters
from wodmail.guard.load import Alarm, Facts, Gpu, GpuError, Smi, facts
from wodmail.guard.policy import Rung
from wodmail.guard.sockets import connections
from wodmail.guard.stop import Stopped, stop
from wodmail.guard.watch import Seen, Students, Watcher
from wodmail.mail.grammar import visible
from wodmail.systemd import notify_systemd

log = structlog.get_logger("wodmail.guard")

GPU_EVERY = 60.0
SWEEP_EVERY = 3600.0
PURGE_EVERY = 60.0
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


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
        self._smi = smi or Smi()
        self._gpus: tuple[Gpu, ...] = ()
        self._gpu_trouble = ""
        self._next_gpu = self._next_sweep = self._next_purge = float("-inf")
        self._by_pid: dict[int, Seen] = {}
        self._boot = processes.boot_id()

    # -- one cycle --------------------------------------------------------------------------------------------

    def cycle(self) -> Cycle:
        """Look once and do what follows from it."""
        begun = time.perf_counter()
        now = time.monotonic()
        look = self._look(now)
        found = [*self.judge.judge(look), *self._hidden(look)]
        cycle = Cycle(found, processes=len(look.processes), scan_seconds=time.perf_counter() - begun)
        self._by_pid = {seen.pid: seen for seen in look.processes}
        for step in self.cases.look(found, now, time.time()):
            cycle.done += self._open(step) if step.kind == "open" else self._stop(step)
        cycle.done += self._purges(now)
        cycle.facts = facts(self._gpus, self._gpu_trouble)
        cycle.done += self._load(cycle.facts, now)
        if not self.dry_run:
            self._tell()
            self.letters.send()
            self._write(cycle)
            self._sweep(now)
        return cycle

    def measure(self) -> None:
        """Look without doing anything about it, so that the next cycle knows how busy each process is."""
        self.judge.judge(self._look(time.monotonic()))

    def _look(self, now: float) -> Look:
        students = self.watcher.students
        by_process = None
        if now >= self._next_gpu:
            self._next_gpu = now + GPU_EVERY
            try:
                self._gpus = self._smi.gpus()
                by_process = self._smi.by_process() if self._gpus else None
                self._gpu_trouble = ""
            except GpuError as error:
                self._gpu_trouble = visible(str(error), 300)
                log.warning("guard-gpu-trouble", cause=self._gpu_trouble)
        ports = self.policy.connections.ports
        return Look(now, self.watcher.scan(), connections(students, ports), by_process)

    def _hidden(self, look: Look) -> list[Finding]:
        """Processes whose command line never came."""
        found: dict[int, list[Seen]] = {}
        for seen in look.processes:
            if seen.key in self.watcher.hidden:
                found.setdefault(seen.student, []).append(seen)
        words = "hides its command line, so that whoever reads it waits for ever"
        return [
            Finding(student, "hidden", self.policy.denied.then, f"process {each[0].pid} {words}", tuple(each))
            for student, each in found.items()
        ]

    # -- the rungs --------------------------------------------------------------------------------------------

    def _open(self, step: Step) -> list[str]:
        """Keep the evidence of a new case while its processes run."""
        case, found = step.case, step.finding
        if not self.dry_run:
            data = evidence.collect(case, found, self._by_pid, self.judge.tracks, self.policy.evidence)
            data["then"] = found.then.word
            self._keep(lambda: self.evidence.keep(case, data))
            log.warning("guard-found", case=case.name, student=case.student, rule=case.rule, words=found.words)
        return [f"{'would warn' if self.dry_run else 'warned'}: student{case.student}: {found.words}"]

    def _stop(self, step: Step) -> list[str]:
        """Stop what was found; when that is not enough, the seat is purged."""
        case, found = step.case, step.finding
        who = f"student{case.student} ({case.rule})"
        if self.dry_run:
            due = self.cases.stopped(step, time.monotonic(), left=False)
            return [f"would stop {len(found.processes)} process(es) of {who}", *([f"would purge {who}"] if due else [])]
        spared = [] if found.rule == "hidden" else [seen.key for seen in found.processes]
        result = stop(self.watcher, case.student, found.processes, lambda seen: self._spared(seen, spared))
        self._note_stop(step, result)
        due = self.cases.stopped(step, time.monotonic(), left=bool(result.left))
        words = f"stopped {result.ended} process(es) of {who}"
        if result.left:
            words += f"; {len(result.left)} still run(s)"
        return [words, *([f"{who}: the seat is to be purged"] if due else [])]

    def _spared(self, seen: Seen, chosen: list[tuple[int, int]]) -> bool:
        return seen.key not in chosen and self.judge.programs.allowed(seen) is not None

    def _note_stop(self, step: Step, result: Stopped) -> None:
        case = step.case
        left = [seen.pid for seen in result.left]
        log.warning("guard-stopped", case=case.name, student=case.student, ended=result.ended, left=left[:20])
        self._keep(lambda: self.evidence.note(case, "stop", f"{result.ended} ended, {len(left)} left"))

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
        outcome = "could not be asked for" if trouble else "is purged"
        self.letters.write(
            "purge",
            f"{name}.{'trouble' if trouble else 'purge'}",
            f"student{student}: the seat {outcome}",
            student=student,
            case=name,
            words=case.words if case else "",
            trouble=trouble,
            folder=self.folder / "evidence",
        )

    # -- telling ----------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Make the mails due about cases that WODMONITOR doesn't know."""
        for case in self.cases.untold():
            data = files.read(self.evidence.file(case)) or {}
            then = data.get("then", Rung.WARN.word)
            shown = {"processes": data.get("processes", []), "processes_found": data.get("processes_found", 0)}

            def done(case: Any = case) -> None:
                case.told = True

            if case.name not in self.letters.waiting:
                self.letters.write(
                    "finding",
                    case.name,
                    f"student{case.student}: {case.words}",
                    done,
                    case=case,
                    finding={"words": case.words},
                    found=evidence.iso(case.at),
                    evidence=self.evidence.file(case),
                    data=shown,
                    then=then,
                    ladder=self.policy.ladder,
                )

    def _load(self, found: Facts, now: float) -> list[str]:
        """Tell of a load that has been too high for too long."""
        due = self.alarm.look(found, now)
        if not due:
            return []
        if not self.dry_run:
            log.warning("guard-load", over=list(due.values()))
            busiest = sorted(self.judge.rates().items(), key=lambda item: -item[1])[:5]
            self.letters.write(
                "load",
                f"load.{os.getpid()}.{now:.0f}",
                f"too much to do: {'; '.join(due.values())}",
                over=list(due.values()),
                busiest=[pair for pair in busiest if pair[1] > 0.005],
                window=self.policy.cpu.window_seconds,
                policy=self.policy.load,
            )
        self.alarm.told(due, now)
        return [f"{'would tell' if self.dry_run else 'told'} WODMONITOR: {words}" for words in due.values()]

    # -- files ------------------------------------------------------------------------------------------------

    def _keep(self, write: Any) -> None:
        """Write evidence; a full disk must not keep the guard from its work."""
        try:
            write()
        except OSError as error:
            log.error("guard-evidence-failed", cause=str(error))  # noqa: TRY400 - an expected error

    def _write(self, cycle: Cycle) -> None:
        """Write what `status` shows, and what a restart needs."""
        self._keep(lambda: files.write(self.folder / "status.json", self._status(cycle)))
        state = {"boot": self._boot, **self.cases.dump(), "over_seconds": self._over()}
        self._keep(lambda: files.write(self.folder / "state.json", state))

    def _over(self) -> list[list[float]]:
        """Processes that are on their way to be found: pid, start, seconds beyond the limit."""
        tracks = self.judge.tracks.items()
        return [[key[0], key[1], track.over_seconds] for key, track in tracks if track.over_seconds > 0]

    def restore(self) -> None:
        """Go on where the last guard of this boot ended; what it kept of another boot means nothing."""
        data = files.read(self.folder / "state.json")
        if data is None or data.get("boot") != self._boot:
            return
        try:
            self.cases.restore(data)
            self.judge.restore({(int(pid), int(start)): float(over) for pid, start, over in data["over_seconds"]})
        except (KeyError, TypeError, ValueError) as error:
            log.warning("guard-state-unreadable", cause=repr(error))
            self.cases = Cases(self.policy.ladder)

    def _status(self, cycle: Cycle) -> dict[str, Any]:
        return {
            "at": time.time(),
            "when": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "pid": os.getpid(),
            "interval_seconds": self.policy.interval_seconds,
            "policy": [str(file) for file in policy.files(self.settings)],
            **self.report(cycle),
        }

    def report(self, cycle: Cycle) -> dict[str, Any]:
        """A cycle and the open cases as plain data."""
        return {
            "processes": cycle.processes,
            "scan_seconds": round(cycle.scan_seconds, 4),
            "findings": [_finding_data(finding, self.judge) for finding in cycle.findings],
            "cases": self.cases.dump()["cases"],
            "purges_waiting": sorted(self.cases.wanted()),
            "cores_by_student": {str(student): round(cores, 3) for student, cores in self.judge.rates().items()},
            "load": cycle.facts.data() if cycle.facts else {},
        }

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


def serve(guard: Guard, notify_address: str | None = None) -> None:
    """Run cycles until SIGTERM or SIGINT; SIGHUP reads the policy again at once.

    Args:
        guard: the guard.
        notify_address: systemd's socket.
    """
    # Signals wait until a cycle is over: nothing is ever half done.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    guard.restore()
    log.info("guard-started", students=vars_of(guard.watcher.students), dry_run=guard.dry_run)
    notify_systemd("READY=1", notify_address)
    while True:
        begun = time.monotonic()
        cycle = guard.cycle()
        if guard.dry_run:
            for words in cycle.done:
                log.warning("guard-dry-run", words=words)
        notify_systemd("WATCHDOG=1", notify_address)
        # Never more than a third of the time is spent looking, however many processes there are.
        spent = time.monotonic() - begun
        got = signal.sigtimedwait(_SIGNALS, max(guard.policy.interval_seconds - spent, 2 * cycle.scan_seconds))
        if got is not None and got.si_signo != signal.SIGHUP:
            break
        guard.reload(always=got is not None)
    notify_systemd("STOPPING=1", notify_address)
    log.info("guard-ended")


def vars_of(students: Students) -> Mapping[str, int]:
    """The uids that are watched, for the log."""
    return {"lowest_uid": students.base + students.lowest, "highest_uid": students.base + students.highest}


def _finding_data(finding: Finding, judge: Judge) -> dict[str, Any]:
    return {
        "student": finding.student,
        "rule": finding.rule,
        "then": finding.then.word,
        "words": finding.words,
        "processes": [
            {
                "pid": seen.pid,
                "exe": seen.exe,
                "command_line": seen.command_line[:500],
                "cpu_rate_cores": round(judge.tracks[seen.key].rate_cores, 3) if seen.key in judge.tracks else 0.0,
            }
            for seen in finding.processes[:20]
        ],
    }


def status(settings: Settings) -> tuple[dict[str, Any] | None, Path]:
    """What the running guard wrote last, and the file; None when there is none.

    Raises:
        OSError: it can't be read.
    """
    file = settings.WODSTATEDIR / "guard" / "status.json"
    return files.read(file), file
