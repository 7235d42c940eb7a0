"""Run playbooks through ansible-runner, many students in one run where they come in a burst.

Group commit: a lone request starts at once. While a run for a workshop is busy, requests for the same workshop gather
and go into its next run together; different workshops run side by side, as many as there are cores.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wodmail import ansible_run, vaultkeys
from wodmail.ansible_run import Launcher, Outcome
from wodmail.copyfolder.request import from_settings
from wodmail.errors import Failed
from wodmail.model import JobSpec
from wodmail.schema import Settings

MAX_GROUP = 100


class Accounts(Protocol):
    """What is asked of the students' accounts here."""

    def writer_argv(self) -> list[str]:
        """How the action plugin reaches the tree writer; empty to write directly."""
        ...


@dataclass(frozen=True, slots=True)
class CopyResult:
    """A personalised workshop, or compiled scripts.

    Args:
        files: how many files the workshop has, or how many programs were made.
        expanded: how many of them were templates.
        note: one line for the transcript.
    """

    files: int
    expanded: int
    note: str


@dataclass(frozen=True, slots=True)
class _Work:
    """What requests have in common that go into one run.

    Args:
        workshop: the workshop as mailed.
        scripts: scripts to compile; none to copy the workshop.
    """

    workshop: str
    scripts: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Want:
    """One request in its queue."""

    job: int
    student: int
    pass_file: Path | None
    on_line: Callable[[str], None]
    turn: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    outcome: Outcome | Failed | None = None


TOGETHER = 0.15  # seconds


class Playbooks:
    """Runs copy_folder.yml and compile_scripts.yml; safe to use from many threads.

    Args:
        settings: the configuration.
        children: starts programs so that they can be ended whole, see `wodmail.children`.
        accounts: tells how homes are written.
    """

    def __init__(self, settings: Settings, children: Launcher, accounts: Accounts) -> None:
        self._settings = settings
        self._children = children
        self._accounts = accounts
        self._lock = threading.Lock()
        self._queues: dict[_Work, list[_Want]] = {}
        ansible_run.sweep(settings)
        self._slots = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))

    def copy_folder(
        self, spec: JobSpec, student: int, pass_file: Path | None, on_line: Callable[[str], None]
    ) -> CopyResult:
        """Personalise the job's workshop into a student's home; returns when that is done.

        Args:
            spec: the job; its workshop is what is copied.
            student: the student's number.
            pass_file: the student's own variable file, None for the usual place.
            on_line: called with lines for the trace, in the calling thread.

        Raises:
            Failed: names the file, line and variable of a template error, or what else went wrong.
        """
        return self._do(_Work(spec.workshop), spec, _Want(spec.job, student, pass_file, on_line))

    def compile_scripts(
        self,
        spec: JobSpec,
        student: int,
        scripts: tuple[str, ...],
        pass_file: Path | None,
        on_line: Callable[[str], None],
    ) -> CopyResult:
        """Compile scripts and put the programs into a student's home; returns when that is done.

        Args:
            spec: the job; its workshop's variables are filled in.
            student: whose home.
            scripts: "a.sh" and so on, see `compiling.find`.
            pass_file: as for `copy_folder`.
            on_line: as for `copy_folder`.

        Raises:
            Failed: a script, a variable of it or the compiler is missing, or what the compiler says.
        """
        return self._do(_Work(spec.workshop, scripts), spec, _Want(spec.job, student, pass_file, on_line))

    def _do(self, work: _Work, spec: JobSpec, want: _Want) -> CopyResult:
        with self._lock:
            busy = work in self._queues
            self._queues.setdefault(work, []).append(want)
        if busy:
            want.turn.wait()
        if not busy or want.leads:
            self._lead(work, spec)
        return _result(want)

    def _lead(self, work: _Work, spec: JobSpec) -> None:
        """Run everything that waits for this work, then let the first of those that came meanwhile lead."""
        batch: list[_Want] = []
        try:
            if spec.attempt > 1:  # interrupted copies come back side by side; one run lets all of them get on
                time.sleep(TOGETHER)
            with self._slots:
                with self._lock:
                    queue = self._queues[work]
                    batch, queue[:] = queue[:MAX_GROUP], queue[MAX_GROUP:]
                self._run(work, batch)
        finally:
            self._pass_on(work)
            for want in batch:
                want.turn.set()

    def _pass_on(self, work: _Work) -> None:
        with self._lock:
            queue = self._queues[work]
            if not queue:
                del self._queues[work]
                return
            queue[0].leads = True
            queue[0].turn.set()

    def _run(self, work: _Work, batch: Sequence[_Want]) -> None:
        try:
            outcomes = self._play(work, batch)
        except Failed as error:
            outcomes = {}
            for want in batch:
                want.outcome = error
        for want in batch:
            want.outcome = outcomes.get(want.student, want.outcome)

    def _play(self, work: _Work, batch: Sequence[_Want]) -> Mapping[int, Outcome]:
        settings = self._settings
        named = {want.student: str(want.pass_file) for want in batch if want.pass_file is not None}
        job = from_settings(
            settings,
            students=tuple(want.student for want in batch),
            challenge=work.workshop,
            scripts=work.scripts,
            writer=tuple(self._accounts.writer_argv()),
            secrets=vaultkeys.known(settings),
            pass_files=named,
        )
        # A run for several belongs to none of their jobs: ending one job must not end the others' copy.
        number = batch[0].job if len(batch) == 1 else 0
        return ansible_run.play(job, settings, self._children, number)


def _result(want: _Want) -> CopyResult:
    """The outcome of a request, its lines told."""
    outcome = want.outcome
    if isinstance(outcome, Failed):
        # A new one: several threads raise it, each with a traceback of its own.
        raise Failed(outcome.sender, outcome.operator, output=outcome.output)
    if outcome is None:
        raise Failed("the playbook run ended without saying what became of this student")
    for line in outcome.lines:
        want.on_line(line)
    if outcome.error:
        raise Failed(outcome.error, outcome.cause, output=outcome.output)
    return CopyResult(outcome.files, outcome.expanded, outcome.note)
