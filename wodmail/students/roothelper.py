"""The root helper: the few things about students' accounts that need root, and nothing else.

Runs as root under `sudo`, in a python of its own (`-I`, standard library alone), from a root-owned copy that
`wodmail helper install` makes. It reads requests from its standard input, one JSON object a line, some followed by a
payload, and answers in the same form; docs/accounts.md describes both. Each request is served by a forked worker that
takes the student's rights before it looks at the home, and has a deadline. What it may do at all is in a root-owned
file of limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from wodmail.students.rootlimits import HelperError, Limits, read_limits
from wodmail.students.rootwork import Answer, Request, perform

MAX_LINE = 1024 * 1024
MAX_PAYLOAD = 256 * 1024 * 1024
MAX_WORKERS = 8
WORKER_SECONDS = 300.0
LAST_SECONDS = 5.0
_ALARM_SECONDS = 10  # after the deadline, should the helper itself be gone by then
# It ends when its input ends, so that what it has begun for a stopping server is finished first.
_IGNORED = (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _encode(number: object, answer: Answer) -> bytes:
    line = {"id": number, "ok": True, **answer.fields, "bytes": len(answer.payload)}
    return json.dumps(line).encode() + b"\n" + answer.payload


def encode_error(number: object, error: HelperError) -> bytes:
    """An error as an answer."""
    line = {"id": number, "ok": False, "kind": error.kind, "error": error.words, "cause": error.cause, "bytes": 0}
    return json.dumps(line).encode() + b"\n"


def _work(limits: Limits, request: Request, out: int) -> NoReturn:
    """Serve one request in the forked worker and end."""
    number = request.fields.get("id")
    try:
        for each in _IGNORED:
            signal.signal(each, signal.SIG_DFL)
        signal.alarm(int(WORKER_SECONDS) + _ALARM_SECONDS)
        data = _encode(number, perform(limits, request))
    except HelperError as error:
        data = encode_error(number, error)
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        data = encode_error(number, HelperError("failed", "The root helper failed.", repr(error)))
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]
    os._exit(0)


@dataclass(slots=True)
class _Worker:
    """A worker, which leads a process group of its own, and what it has said so far."""

    pid: int
    number: object
    until: float
    said: bytearray = field(default_factory=bytearray)

    def kill(self) -> None:
        """End it and what it has started, also when they are stopped."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Server:
    """Reads requests from one descriptor, serves up to eight at once, writes answers to another.

    Args:
        limits: what may be touched.
        source: descriptor of the requests.
        target: descriptor of the answers.
    """

    def __init__(self, limits: Limits, source: int, target: int) -> None:
        self._limits = limits
        self._source = source
        self._target = target
        self._buffer = b""
        self._ended = False
        self._workers: dict[int, _Worker] = {}
        self._dying: set[int] = set()

    def serve(self) -> None:
        """Serve until the requests end, then give the workers a few seconds and end what is left of them."""
        while not self._ended:
            while b"\n" in self._buffer and len(self._workers) < MAX_WORKERS and not self._ended:
                self._take()
            if not self._ended:
                self._wait(None, listen=len(self._workers) < MAX_WORKERS and b"\n" not in self._buffer)
        end = time.monotonic() + LAST_SECONDS
        while self._workers and (left := end - time.monotonic()) > 0:
            self._wait(left, listen=False)
        for worker in self._workers.values():
            worker.kill()

    def _wait(self, seconds: float | None, *, listen: bool) -> None:
        """Wait for a request, for what a worker says, or for the first deadline."""
        now = time.monotonic()
        limits = [worker.until - now for worker in self._workers.values()] + ([] if seconds is None else [seconds])
        listened = [*self._workers, *([self._source] if listen else [])]
        ready, _, _ = select.select(listened, [], [], max(0.0, min(limits)) if limits else None)
        for descriptor in ready:
            if descriptor == self._source:
                self._read()
            else:
                self._collect(descriptor)
        self._end_overdue()
        self._dying -= {pid for pid in self._dying if os.waitpid(pid, os.WNOHANG)[0]}

    def _read(self) -> None:
        data = os.read(self._source, 1 << 20)
        self._buffer += data
        self._ended = not data or (b"\n" not in self._buffer and len(self._buffer) > MAX_LINE)

    def _take(self) -> None:
        """Take one request off the input and start its worker."""
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            fields = json.loads(line)
            size = int(fields.get("bytes", 0))
        except (ValueError, AttributeError, TypeError, RecursionError):
            size, fields = -1, {}
        if not 0 <= size <= MAX_PAYLOAD:
            # Where the next request begins is not known any more.
            self._send(encode_error(None, HelperError("refused", "The request was not understood.", "no JSON line")))
            self._ended = True
            return
        parts = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        missing = size - len(parts[0])
        while missing > 0:
            part = os.read(self._source, min(missing, 1 << 20))
            if not part:
                self._ended = True
                return
            parts.append(part)
            missing -= len(part)
        self._start(Request(fields, b"".join(parts)))

    def _start(self, request: Request) -> None:
        source, target = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                for descriptor in (source, self._source, self._target, *self._workers):
                    os.close(descriptor)
                _work(self._limits, request, target)
            finally:
                os._exit(70)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # whichever of the two comes first
        os.close(target)
        self._workers[source] = _Worker(pid, request.fields.get("id"), time.monotonic() + WORKER_SECONDS)

    def _collect(self, descriptor: int) -> None:
        """Take what a worker says; when it has ended, pass its answer on whole."""
        worker = self._workers[descriptor]
        part = os.read(descriptor, 1 << 20)
        if part:
            worker.said += part
            return
        os.close(descriptor)
        del self._workers[descriptor]
        _, status = os.waitpid(worker.pid, 0)
        if status == 0:
            self._send(bytes(worker.said))
        else:
            self._interrupted(worker, f"worker ended with {os.waitstatus_to_exitcode(status)}")

    def _end_overdue(self) -> None:
        """End the workers whose deadline has come, and answer for them; one that is slow to die is not waited for."""
        now = time.monotonic()
        for descriptor, worker in list(self._workers.items()):
            if worker.until <= now:
                worker.kill()
                os.close(descriptor)
                del self._workers[descriptor]
                self._dying.add(worker.pid)
                self._interrupted(worker, f"worker was ended after {WORKER_SECONDS} s")

    def _interrupted(self, worker: _Worker, cause: str) -> None:
        self._send(encode_error(worker.number, HelperError("temporary", "The root helper was interrupted.", cause)))

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._target, view) :]
        except BrokenPipeError:
            self._ended = True


def main(limits_file: str) -> int:
    """Serve requests from standard input until it ends.

    Args:
        limits_file: path of the root-owned file of limits.

    Returns:
        The exit status: 0, or 77 when it is not installed rightly.
    """
    os.chdir("/")
    os.umask(0o022)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        limits = read_limits(Path(limits_file))
    except HelperError as error:
        sys.stdout.buffer.write(encode_error(None, error))
        sys.stderr.write(f"{error.cause}\n")
        return 77
    Server(limits, 0, 1).serve()
    return 0
