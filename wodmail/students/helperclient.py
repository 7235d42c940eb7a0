"""The other end of the root helper: starts it, keeps it running, matches answers to requests; for many threads."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import IO

from wodmail.errors import Failed, Refused, Temporary

_COMPLAINT_BYTES = 4096
_CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class HelperAnswer:
    """What the helper answered.

    Args:
        fields: the answer's own fields, by operation (docs/accounts.md).
        payload: the bytes that followed it.
    """

    fields: dict[str, object]
    payload: bytes


class _GoneError(Exception):
    """The helper ended before it answered; carries what it complained about."""


@dataclass(slots=True, eq=False)
class _Helper:
    """One running helper and the requests that wait for its answers."""

    process: subprocess.Popen[bytes]
    waiting: dict[int, Future[HelperAnswer]] = field(default_factory=dict)
    complaint: bytes = b""
    gone: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, number: int) -> Future[HelperAnswer]:
        future: Future[HelperAnswer] = Future()
        with self.lock:
            if self.gone:
                raise _GoneError(self.reason())
            self.waiting[number] = future
        return future

    def forget(self, number: int) -> None:
        with self.lock:
            self.waiting.pop(number, None)

    def reason(self) -> str:
        return self.complaint.decode(errors="replace").strip() or f"it ended with {self.process.poll()}"

    def read_complaints(self, pipe: IO[bytes]) -> None:
        with pipe:
            while part := pipe.read1(_COMPLAINT_BYTES):  # type: ignore[attr-defined]
                self.complaint = (self.complaint + part)[-_COMPLAINT_BYTES:]

    def read_answers(self, pipe: IO[bytes], complaints: threading.Thread) -> None:
        with pipe:
            while line := pipe.readline():
                try:
                    fields = json.loads(line)
                    payload = pipe.read(int(fields.get("bytes", 0)))
                except (ValueError, AttributeError, TypeError):
                    self.complaint = line[-_COMPLAINT_BYTES:]
                    break
                self._settle(fields, payload)
        # Without input it ends by itself; it is root's, so a signal from here might not reach it.
        if self.process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.close()
        self.process.wait()
        complaints.join()
        with self.lock:
            self.gone = True
            left = list(self.waiting.values())
            self.waiting.clear()
        for future in left:
            future.set_exception(_GoneError(self.reason()))

    def _settle(self, fields: dict[str, object], payload: bytes) -> None:
        number = fields.get("id")
        with self.lock:
            future = self.waiting.pop(number, None) if isinstance(number, int) else None
        if future is not None:
            future.set_result(HelperAnswer(fields, payload))
        elif not fields.get("ok"):
            self.complaint = str(fields.get("cause", "")).encode()[-_COMPLAINT_BYTES:]


class HelperClient:
    """Speaks to one root helper, which is started at the first call and again when it has died.

    Args:
        argv: how it is started, e.g. ["sudo", "-n", "/usr/local/libexec/wodmail-helper"].
        timeout: seconds that one call may take.
    """

    def __init__(self, argv: Sequence[str], *, timeout: float) -> None:
        self._argv = list(argv)
        self._timeout = timeout
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._helper: _Helper | None = None

    def call(self, operation: str, payload: bytes = b"", **fields: object) -> HelperAnswer:
        """Ask for one operation and wait for its answer; asked once more when the helper dies meanwhile.

        Every operation is safe to do twice.

        Args:
            operation: a word of the vocabulary.
            payload: bytes that follow the request.
            fields: the request's fields; may hold a password, which goes through the pipe alone.

        Raises:
            Refused: the helper's limits don't allow it.
            Failed: it could not be done, or the helper can't be started.
            Temporary: no answer in time, or the helper died twice.
        """
        try:
            answer = self._try(operation, payload, fields)
        except _GoneError:
            try:
                answer = self._try(operation, payload, fields)
            except _GoneError as error:
                raise self._unreachable(str(error)) from error
        if answer.fields.get("ok"):
            return answer
        words, cause = str(answer.fields.get("error")), f"root helper, {operation}: {answer.fields.get('cause')}"
        match answer.fields.get("kind"):
            case "refused":
                raise Refused(words, cause)
            case "temporary":
                raise Temporary(words, cause)
            case _:
                raise Failed(words, cause)

    def close(self) -> None:
        """End the helper by closing its input; it ends its workers."""
        with self._lock:
            helper, self._helper = self._helper, None
        if helper is not None and helper.process.stdin is not None:
            with contextlib.suppress(OSError):
                helper.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.process.wait(_CLOSE_SECONDS)

    def _try(self, operation: str, payload: bytes, fields: dict[str, object]) -> HelperAnswer:
        number = next(self._numbers)
        line = json.dumps({**fields, "id": number, "op": operation, "bytes": len(payload)}).encode() + b"\n"
        with self._lock:
            helper = self._running()
            future = helper.expect(number)
            pipe = helper.process.stdin
            try:
                if pipe is None:
                    raise _GoneError("it has no input")
                pipe.write(line + payload)
                pipe.flush()
            except (OSError, ValueError) as error:  # ValueError: it has ended, and its input was closed meanwhile
                self._helper = None
                with contextlib.suppress(FutureTimeoutError, _GoneError):
                    return future.result(_CLOSE_SECONDS)
                raise _GoneError(helper.reason()) from error
        try:
            return future.result(self._timeout)
        except FutureTimeoutError as error:
            helper.forget(number)
            words = "The students' accounts could not be reached in time."
            raise Temporary(words, f"root helper: no answer to {operation} in {self._timeout} s") from error

    def _running(self) -> _Helper:
        if self._helper is None or self._helper.gone:
            self._helper = self._start()
        return self._helper

    def _start(self) -> _Helper:
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,  # a Ctrl-C at the terminal is the server's to handle
            )
        except OSError as error:
            raise self._unreachable(str(error)) from error
        helper = _Helper(process)
        if process.stdout is None or process.stderr is None:
            raise self._unreachable("it has no output")
        complaints = threading.Thread(target=helper.read_complaints, args=(process.stderr,), daemon=True)
        answers = threading.Thread(target=helper.read_answers, args=(process.stdout, complaints), daemon=True)
        complaints.start()
        answers.start()
        return helper

    def _unreachable(self, reason: str) -> Failed:
        cause = f"{' '.join(self._argv)}: {reason}; run `wodmail helper install` as root, then `wodmail helper check`"
        return Failed("The students' accounts can't be reached; the operator has to look at it.", cause)
