"""One run of a playbook through ansible-runner: private folder, launcher, time limit, events read into outcomes.

The job, which holds secrets, goes to ansible-playbook's standard input through memory; nothing of it is on a command
line, in the environment or in a file.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ansible_runner  # noqa: F401 - whole and first: two threads that import parts of it at once get it half made
from ansible_runner.config.runner import RunnerConfig
from ansible_runner.runner import Runner
from ansible_runner.utils import OutputEventFilter

from wodmail import paths, processes
from wodmail.copyfolder import handover
from wodmail.copyfolder.job import Job
from wodmail.errors import Failed
from wodmail.schema import Settings

# All that ansible-playbook inherits; ansible-runner writes a run's environment into its folder.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSH_AUTH_SOCK")
TAIL_LINES = 30
FINISHED = (0, 2)


class Launcher(Protocol):
    """What is asked of `wodmail.children.Children`."""

    def prefix(self, job: int) -> tuple[list[str], dict[str, str]]:
        """What goes in front of a program's argv, and into its environment."""
        ...

    def end_started(self, env: Mapping[str, str]) -> int:
        """End what is left of a program started so."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one student.

    Args:
        files: how many files the workshop has, or how many programs were made.
        expanded: how many of them were templates.
        note: one line for the transcript.
        lines: lines for the trace.
        error: the sender's words when it failed, else "".
        cause: the operator's words when it failed.
        output: tail of the playbook's output when that tells more.
    """

    files: int = 0
    expanded: int = 0
    note: str = ""
    lines: tuple[str, ...] = ()
    error: str = ""
    cause: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What ansible-runner saw: exit status, whether the time limit passed, the events, the printed text."""

    status: int
    timed_out: bool
    events: Sequence[Mapping[str, Any]]
    text: str


def play(job: Job, settings: Settings, children: Launcher, number: int) -> dict[int, Outcome]:
    """Run a job's playbook (`Job.playbook`) for its students.

    Args:
        job: what to do.
        settings: the configuration.
        children: the launcher.
        number: number of the job it belongs to, 0 for a run of several.

    Returns:
        An outcome for each student.

    Raises:
        Failed: nothing could be started.
    """
    try:
        folder = _folder(settings)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = tempfile.mkdtemp(prefix=_mark(), dir=folder)
    except OSError as error:
        raise Failed("there is no room for a playbook's temporary folder", str(error)) from error
    try:
        run = _run(job, settings, children, number, Path(private))
    except OSError as error:
        raise Failed("ansible-playbook could not be started", str(error)) from error
    finally:
        shutil.rmtree(private, ignore_errors=True)
    if run.timed_out:
        doing = "compiling" if job.scripts else "copying"
        words = f"{doing} took longer than {settings.WODSTEPTIMEOUT:g} s and was ended"
        return dict.fromkeys(job.students, Outcome(error=words, cause=words, output=_tail(run.text, job)))
    return outcomes(job, run)


def sweep(settings: Settings) -> None:
    """Remove the private folders of runs whose server was killed; those of living processes stay."""
    folder = _folder(settings)
    for path in folder.iterdir() if folder.is_dir() else ():
        pid, start, *_ = [*path.name.split("-"), ""]
        living = processes.lookup(int(pid)) if pid.isdigit() else None
        # The start time tells a process from a later one of that number (in a container it is often the same).
        if living is None or (start.isdigit() and living.start != int(start)):
            shutil.rmtree(path, ignore_errors=True)


def _mark() -> str:
    """The beginning of a private folder's name: whose it is."""
    own = processes.lookup(os.getpid())
    return f"{os.getpid()}-{own.start if own else ''}-"


def _folder(settings: Settings) -> Path:
    return settings.WODSTATEDIR / "runs"


def _run(job: Job, settings: Settings, children: Launcher, number: int, private: Path) -> Run:
    argv, marks = children.prefix(number)
    own = paths.share("ansible")
    config = RunnerConfig(
        str(private), playbook=str(own / f"{job.playbook}.yml"), inventory=inventories(settings), quiet=True
    )
    config.prepare()
    limit = _limit(settings)
    arguments = [*config.command[1:-1], *limit, config.command[-1]]
    config.command = [*argv, program(), *arguments]
    config.env = {**_environment(private, own), **runners_own(config.env), **marks}
    config.cwd = str(private)
    config.suppress_output_file = True
    config.runner_mode = "subprocess"
    config.subprocess_timeout = settings.WODSTEPTIMEOUT
    events: list[dict[str, Any]] = []

    def keep(event: dict[str, Any]) -> bool:
        events.append(event)
        return False  # not into a file as well

    with _memory(job.to_json()) as given, _memory() as printed:
        # Output goes to memory and not through a pipe: a daemon left by a private task file can't hold the run up.
        config.input_fd, config.output_fd, config.error_fd = given.fileno(), printed.fileno(), printed.fileno()
        runner = Runner(config, event_handler=keep)
        try:
            runner.run()
        finally:
            children.end_started(marks)
        printed.seek(0)
        text = printed.read().decode(errors="replace")
        plain = io.StringIO()
        reader = OutputEventFilter(plain, runner.event_callback, True)
        reader.write(text)
        printed_text = plain.getvalue()
        reader.close()
    return Run(runner.rc, runner.timed_out, events, printed_text)


def _memory(text: str = "") -> io.BufferedRandom:
    """An anonymous file in memory with that text in it, read from its start."""
    file = os.fdopen(os.memfd_create("wodmail-copy"), "w+b")
    file.write(text.encode())
    file.seek(0)
    return file


def program() -> str:
    """The program that belongs to this Python, else the one on the PATH."""
    beside = Path(sys.executable).with_name("ansible-playbook")
    return str(beside) if beside.is_file() else "ansible-playbook"


def _environment(private: Path, own: Path) -> dict[str, str]:
    made = {
        "ANSIBLE_CONFIG": str(own / "ansible.cfg"),
        "ANSIBLE_HOME": str(private / "home"),
        "ANSIBLE_LOCAL_TEMP": str(private / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(private / "tmp"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "1",
        # Group variables are the action plugin's business: their order is ours, and they may be in a vault.
        "ANSIBLE_VARS_ENABLED": "wod_students",
        "PYTHONUTF8": "1",
        handover.MARK: "stdin",
    }
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}  # the process' own, no settings
    if "HOME" in inherited:  # what private task files may use stays where it is, although ANSIBLE_HOME has moved
        for kind in ("COLLECTIONS", "ROLES"):
            below = f"ansible/{kind.lower()}"
            made[f"ANSIBLE_{kind}_PATH"] = f"{inherited['HOME']}/.{below}:/usr/share/{below}:/etc/{below}"
    return {"PATH": os.defpath, **inherited, **made}


def runners_own(environment: Mapping[str, str]) -> dict[str, str]:
    """What ansible-runner added for its callback plugin, without what it copied from our environment."""
    names = ("ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "AWX_ISOLATED_DATA_DIR", "RUNNER_")
    return {name: value for name, value in environment.items() if name.startswith(names)}


def inventories(settings: Settings) -> list[str]:
    """Inventory files: the public inventory, else our own; and the private one when there is one."""
    public = (settings.WODANSIBLEDIR or paths.share("ansible")) / "inventory"
    found = [str(public if public.exists() else paths.share("ansible") / "inventory")]
    private = settings.WODANSIBLEPRIVDIR / "inventory" if settings.WODANSIBLEPRIVDIR else None
    return [*found, str(private)] if private is not None and private.exists() else found


def _limit(settings: Settings) -> list[str]:
    """`--limit` with this host's name when an inventory file lists it; other hosts of the group are not ours."""
    line = re.compile(rf"^\s*{re.escape(settings.WODBEFQDN)}(?=[\s:]|$)", re.MULTILINE)
    for name in inventories(settings):
        path = Path(name)
        if path.is_file() and line.search(path.read_text(encoding="utf-8", errors="replace")):
            return ["--limit", f"{settings.WODBEFQDN},wod_students"]
    return []


def outcomes(job: Job, run: Run) -> dict[int, Outcome]:
    """Read what became of each student out of a run's events."""
    found: dict[int, Outcome] = {}
    for event in run.events:
        data = event.get("event_data", {})
        if event.get("event") not in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            continue
        result = data.get("res", {})
        for each in result.get("wod_students", []):
            found[each["student"]] = _outcome(each, job.playbook)
        if event["event"] != "runner_on_ok" and "wod_students" not in result and not data.get("ignore_errors"):
            _blame_event(found, data, result, job, run)
    if run.status not in FINISHED:
        words = "the playbook run ended before it was finished"
        lost = Outcome(error=words, cause=f"ansible-playbook: exit status {run.status}", output=_tail(run.text, job))
        return {student: found[student] if _failed(found, student) else lost for student in job.students}
    nothing = Outcome(
        error="the playbook run did nothing for this student",
        cause="no result in its events; does the inventory have a host in the group WODGROUP?",
        output=_tail(run.text, job),
    )
    return {student: found.get(student, nothing) for student in job.students}


def _outcome(each: Mapping[str, Any], playbook: str) -> Outcome:
    if each["ok"]:
        return Outcome(each["files"], each["expanded"], each["note"], lines=(f"{playbook}: {each['note']}",))
    lines = (f"{playbook}: {each['cause']}",)
    return Outcome(error=each["error"], cause=each["cause"], lines=lines, output=each.get("output", ""))


def _blame_event(
    found: dict[int, Outcome], data: Mapping[str, Any], result: Mapping[str, Any], job: Job, run: Run
) -> None:
    """Put a failed task down to the student whose host it ran on, or to all of them."""
    message = str(result.get("msg") or result.get("stderr") or "it gave no reason")
    named = re.fullmatch(r"student(\d+)", str(data.get("host", "")))
    students = (int(named.group(1)),) if named else job.students
    words = result.get("wod_error") or f"the private task {data.get('task')!r} failed: {_first(message)}"
    failure = Outcome(
        error=str(words), cause=message, lines=(f"{job.playbook}: {message}",), output=_tail(run.text, job)
    )
    for student in students:
        found[student] = replace(found.get(student, Outcome()), **_as_failure(failure))


def _as_failure(failure: Outcome) -> dict[str, Any]:
    return {"error": failure.error, "cause": failure.cause, "lines": failure.lines, "output": failure.output}


def _failed(found: Mapping[int, Outcome], student: int) -> bool:
    return student in found and bool(found[student].error)


def _first(text: str) -> str:
    return text.splitlines()[0] if text.splitlines() else text


def _tail(text: str, job: Job) -> str:
    """The last lines of the output, without the vault's password should a task have printed it."""
    tail = "\n".join(text.splitlines()[-TAIL_LINES:])
    for secret in job.secrets:
        tail = tail.replace(secret, "******")
    return tail
