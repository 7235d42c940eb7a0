"""Child processes that never outlive their purpose: recorded before they start, ended whole, found after a crash.

Every program that wodmail starts (workshop scripts, ansible-playbook) goes through a small launcher. It makes the
program the leader of a session of its own, writes pid and start time to `<state folder>/children/`, and only then
becomes the program. The program and all its descendants carry `WODMAIL_CHILD` in their environment, so that also
those that moved to sessions of their own (daemons, ansible's workers) are found and ended. docs/scripts.md tells what
that means for a script.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from wodmail import processes
from wodmail.errors import Failed
from wodmail.processes import Process

MARKER = "WODMAIL_CHILD"
TAIL_BYTES = 16 * 1024
_LINE_BYTES = 64 * 1024
_CHUNK = 64 * 1024
_LAST_READS = 64
_GRACE = 2.0

# The record is written by the process that becomes the program: there is no moment at which it runs unrecorded.
# `setsid` keeps the pid here, because it forks only for a group leader. The mask is what programs are used to; the
# server's own may be stricter.
_LAUNCHER = """
record=$1; shift
read -r pid comm state parent group session rest <"/proc/$$/stat" || exit 70
printf '%s\\n' "$pid $comm $state $parent $group $session $rest" >"$record" || exit 70
umask 022
if [ "$session" = "$$" ] || [ "$group" = "$$" ]; then exec "$@"; fi
exec setsid "$@"
"""

_log = structlog.get_logger("wodmail.children")


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended.

    Args:
        status: its exit status, negative for the signal that ended it.
        timed_out: its time limit passed and it was ended.
        tail: the last 16 KiB of what it printed, decoded as UTF-8 with replacements.
        leftovers: how many of its descendants were still alive and had to be ended.
        aborted: it was ended by `Children.end_job`.
    """

    status: int
    timed_out: bool
    tail: str
    leftovers: int = 0
    aborted: bool = False


@dataclass(slots=True, eq=False)
class _Run:
    job: int
    marker: str
    record: Path
    aborted: bool = False
    lines: _Lines = field(default_factory=lambda: _Lines(None))


class _Lines:
    """Cuts output into lines for a listener and keeps its tail; bounded whatever the child prints."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._rest = b""
        self._tail = bytearray()

    def feed(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        if self._on_line is None:
            return
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > _LINE_BYTES:
            lines.append(rest[:_LINE_BYTES])
            rest = rest[_LINE_BYTES:]
        self._rest = rest
        for line in lines:
            self._on_line(line.rstrip(b"\r").decode(errors="replace"))

    def close(self) -> str:
        rest, self._rest = self._rest, b""
        if rest and self._on_line is not None:
            self._on_line(rest.decode(errors="replace"))
        return self._tail.decode(errors="replace")


class Children:
    """Starts and ends the child processes of one state folder; safe to use from many threads.

    Args:
        statedir: WODSTATEDIR; records live in its folder `children`.
    """

    def __init__(self, statedir: Path) -> None:
        self._folder = statedir / "children"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._instance = hashlib.sha256(bytes(self._folder.resolve())).hexdigest()[:12]
        self._closing = False
        self._boot = processes.boot_id()[:8]
        me = processes.lookup(os.getpid())
        if me is None:
            raise Failed("This system shows no processes.", "/proc is not mounted; wodmail can't guard its children")
        self._owner = (me.pid, me.start)
        self._numbers = itertools.count(1)
        self._runs: set[_Run] = set()
        self._lock = threading.Lock()
        # Fifty threads that read the process table at once take four times as long as one after another.
        self._scanning = threading.Lock()

    def run(
        self,
        argv: Sequence[str],
        *,
        job: int,
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
        on_line: Callable[[str], None] | None = None,
        stdin: bytes = b"",
    ) -> Finished:
        """Run a program to its end and leave nothing of it behind.

        Args:
            argv: the program and its arguments; no secret belongs here, any user can read it.
            job: number of the job it works for, 0 for none; `end_job` finds it by that.
            env: its whole environment.
            cwd: its working directory.
            timeout: seconds after which all of it is ended.
            on_line: called in this thread with each line printed (stdout and stderr in one).
            stdin: what it reads; nothing by default.

        Raises:
            Failed: it could not be started at all. A program that is not found ends with status 127.
        """
        run = self._new_run(job)
        run.lines = _Lines(on_line)
        with self._lock:
            self._runs.add(run)
        try:
            return self._run(run, argv, env, cwd, timeout, stdin)
        finally:
            with self._lock:
                self._runs.discard(run)
            run.record.unlink(missing_ok=True)

    def _run(
        self, run: _Run, argv: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float, stdin: bytes
    ) -> Finished:
        deadline = time.monotonic() + timeout
        child = self._start(run, argv, env, cwd, feed=bool(stdin))
        timed_out = False
        leftovers = 0
        ended = False
        try:
            with _Pump(child, stdin, run.lines) as pump:
                if run.aborted:
                    self._end_run(run, child.pid, 0)
                timed_out = not pump.until(deadline)
                if timed_out:
                    self._signal_run(run, child.pid)
                    pump.until(time.monotonic() + _GRACE)
                # The leader is still unreaped here, so its session id can't have become a stranger's.
                leftovers = self._end_run(run, child.pid, 0 if timed_out or run.aborted else _GRACE)
                ended = True
                pump.rest()
        finally:
            if not ended:
                self._end_run(run, child.pid, 0)
            status = child.wait()
        return Finished(status, timed_out and not run.aborted, run.lines.close(), leftovers, run.aborted)

    def _start(
        self, run: _Run, argv: Sequence[str], env: Mapping[str, str], cwd: Path, *, feed: bool
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self._launcher(run), *argv],
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**env, MARKER: run.marker},
                start_new_session=True,
            )
        except OSError as error:
            raise Failed("A program of this step could not be started.", f"{argv[0]} in {cwd}: {error}") from error

    def prefix(self, job: int) -> tuple[list[str], dict[str, str]]:
        """The launcher for a program that somebody else starts (ansible-runner).

        Args:
            job: number of the job it works for, 0 for none.

        Returns:
            What goes in front of the program's argv, and what goes into its environment. Give the latter to
            `end_started` when the program has ended.
        """
        run = self._new_run(job)
        return self._launcher(run), {MARKER: run.marker}

    def end_started(self, env: Mapping[str, str], grace: float = _GRACE) -> int:
        """End what is left of a program started with `prefix` and drop its record.

        Args:
            env: the environment that `prefix` returned.
            grace: seconds between TERM and KILL.

        Returns:
            How many processes were still alive.
        """
        marker = env[MARKER]
        record = self._folder / self._record_name(marker)
        count = processes.end(lambda: self._find(lambda found: found == marker, [record]), grace)
        record.unlink(missing_ok=True)
        return count

    def end_job(self, job: int) -> int:
        """End everything that runs for a job, from any thread; its `run` returns with `aborted` set.

        Args:
            job: number of the job, above 0.

        Returns:
            How many processes were ended.
        """
        with self._lock:
            for run in self._runs:
                run.aborted = run.aborted or run.job == job
        return self._end_owned(f"{job}:")

    def end_all(self) -> int:
        """End everything that this life has started, and start nothing more: the server goes down.

        Returns:
            How many processes were ended.
        """
        with self._lock:
            self._closing = True
            for run in self._runs:
                run.aborted = True
        return self._end_owned("")

    def _end_owned(self, rest: str) -> int:
        prefix = f"{self._instance}:{self._owner[0]}:{self._owner[1]}:{rest}"
        pattern = self._record_name(prefix)
        records = [path for path in self._folder.iterdir() if path.name.startswith(pattern)]
        return processes.end(lambda: self._find(lambda found: found.startswith(prefix), records), _GRACE)

    def end_orphans(self) -> int:
        """End everything that an earlier life of this state folder left behind; to be called before work resumes.

        Children of another process that still lives (a command run beside the server) are left alone.

        Returns:
            How many processes were ended.
        """
        records = [path for path in self._folder.iterdir() if self._is_orphan(path.name.partition(":")[2])]

        def orphan(marker: str) -> bool:
            instance, _, rest = marker.partition(":")
            return instance == self._instance and self._is_orphan(rest)

        count = processes.end(lambda: self._find(orphan, records), _GRACE)
        for record in records:
            record.unlink(missing_ok=True)
        if count:
            _log.warning("children-ended", processes=count)
        return count

    def _is_orphan(self, rest: str) -> bool:
        """Whether `<owner pid>:<owner start>:…` names an owner that runs no more."""
        fields = rest.split(":")
        if len(fields) < 3 or not (fields[0].isdigit() and fields[1].isdigit()):
            return False
        return not processes.lives(int(fields[0]), int(fields[1]))

    def _new_run(self, job: int) -> _Run:
        if self._closing:
            raise Failed("The server is going down; the step runs again when it is back.")
        marker = f"{self._instance}:{self._owner[0]}:{self._owner[1]}:{job}:{next(self._numbers)}"
        return _Run(job, marker, self._folder / self._record_name(marker))

    def _record_name(self, marker: str) -> str:
        # Start times count from boot: with the boot in the name a record of before means nothing afterwards.
        return self._boot + ":" + marker.partition(":")[2]

    @staticmethod
    def _launcher(run: _Run) -> list[str]:
        return ["/bin/sh", "-c", _LAUNCHER, "wodmail-child", str(run.record)]

    def _signal_run(self, run: _Run, leader: int) -> None:
        # The leader first: a script whose child ends before it would take that for the child's own end and go on.
        for process in sorted(self._find_run(run, leader), key=lambda found: (found.pid != leader, found.start)):
            processes.terminate(process)

    def _end_run(self, run: _Run, leader: int, grace: float) -> int:
        return processes.end(lambda: self._find_run(run, leader), grace)

    def _find_run(self, run: _Run, leader: int) -> set[Process]:
        first = processes.lookup(leader)
        oldest = first.start if first else 0
        with self._scanning:
            everyone = [each for each in processes.table() if each.start >= oldest]
            mine = {each for each in everyone if each.session == leader or _marker(each) == run.marker}
        return processes.descendants(everyone, mine)

    def _find(self, wanted: Callable[[str], bool], records: Sequence[Path]) -> set[Process]:
        """The processes that carry a wanted marker, or belong to the session of a recorded leader that lives."""
        everyone = processes.table()
        leaders = {(each.pid, each.start) for each in self._recorded(records)}
        sessions = {each.pid for each in everyone if (each.pid, each.start) in leaders}
        found = {each for each in everyone if each.session in sessions or each.pid in sessions}
        found |= {each for each in everyone if each not in found and wanted(_marker(each) or "")}
        return {each for each in processes.descendants(everyone, found) if each.pid != self._owner[0]}

    def _recorded(self, records: Sequence[Path]) -> Iterator[Process]:
        for record in records:
            if not record.name.startswith(self._boot + ":"):
                continue
            with contextlib.suppress(OSError, ValueError):
                yield processes.parse_stat(record.read_text(encoding="utf-8"))


def _marker(process: Process) -> str | None:
    value = processes.environment_value(process.pid, MARKER.encode())
    return None if value is None else value.decode(errors="replace")


class _Pump:
    """Moves a child's input and output until it ends; never waits for a pipe that somebody else holds open."""

    def __init__(self, child: subprocess.Popen[bytes], stdin: bytes, lines: _Lines) -> None:
        self._child = child
        self._input = memoryview(stdin)
        self._lines = lines
        self._selector = selectors.DefaultSelector()
        self._pidfd = os.pidfd_open(child.pid)

    def __enter__(self) -> _Pump:
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        for pipe, event in ((self._child.stdout, selectors.EVENT_READ), (self._child.stdin, selectors.EVENT_WRITE)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, event)
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        os.close(self._pidfd)
        for pipe in (self._child.stdout, self._child.stdin):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def until(self, deadline: float) -> bool:
        """Pump until the child has ended (True) or the monotonic time `deadline` has come (False)."""
        while (left := deadline - time.monotonic()) > 0:
            ended = False
            for key, _ in self._selector.select(left):
                if key.fd == self._pidfd:
                    ended = True
                elif key.fileobj is self._child.stdin:
                    self._write(self._child.stdin)
                else:
                    self._read(self._child.stdout)
            if ended:
                return True
        return False

    def rest(self) -> None:
        """Read what the pipe still holds, without waiting for more; bounded, should an unkillable one write on."""
        stdout = self._child.stdout
        for _ in range(_LAST_READS):
            if stdout is None or stdout.closed or not self._read(stdout):
                return

    def _read(self, pipe: IO[bytes] | None) -> bool:
        if pipe is None:
            return False
        try:
            data = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if data:
            self._lines.feed(data)
            return True
        self._close(pipe)
        return False

    def _write(self, pipe: IO[bytes] | None) -> None:
        if pipe is None:
            return
        try:
            self._input = self._input[os.write(pipe.fileno(), self._input) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._input = memoryview(b"")
        if not self._input:
            self._close(pipe)

    def _close(self, pipe: IO[bytes]) -> None:
        self._selector.unregister(pipe)
        pipe.close()
