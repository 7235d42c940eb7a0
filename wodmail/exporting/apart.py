"""Work on one notebook in a process of its own, with limits of its own: whatever ends it fails that notebook alone."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import selectors
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from wodmail.errors import Failed

NO_MEMORY = "It needs more memory than a conversion may have, or breaks the converter."
_NO_TIME = "It was not converted in the time that a conversion may take."
_TOO_LARGE = "Its document, or a part of it, would be larger than it may be."
_TOO_DEEP = "Something in it is nested too deeply."
_NOT_CONVERTED = "It could not be converted."
_PDEATHSIG = 1
_DONE, _FAILED = b"d", b"f"
_COMPLAINT = 1000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the conversion of one notebook may take; every program that it starts has the same for itself.

    Args:
        seconds: of time that passes, and of processor time.
        memory: bytes of address space.
        file: bytes of each file that it writes, and of the document.
    """

    seconds: float = 60.0
    memory: int = 2 * 1024**3
    file: int = 256 * 1024**2


def apart(work: Callable[[], bytes], limits: Limits) -> bytes:
    """Do something in a process of its own.

    Args:
        work: done in a child process, which may fail in any way.
        limits: what it may take.

    Returns:
        What `work` returned.

    Raises:
        Failed: what `work` raised of that kind, or how the process has ended.
    """
    reading, writing = os.pipe()
    complaints = os.memfd_create("complaints")
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            _child(work, limits, parent, writing, complaints)
        os.close(writing)
        end = time.monotonic() + limits.seconds
        said, late = b"", True
        try:
            said, late = _heard(reading, end, limits.file)
        finally:
            if late:
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        return _answer(said, late, os.waitstatus_to_exitcode(status), complaints, limits)
    finally:
        os.close(reading)
        os.close(complaints)


def words_of_end(number: int) -> str:
    """Why a signal has ended a conversion, in words for whoever asked (pure).

    Args:
        number: the signal's.
    """
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return _NO_TIME
    if number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS):
        return NO_MEMORY
    return _TOO_LARGE if number == signal.SIGXFSZ else _NOT_CONVERTED


def end_with_parent() -> None:
    """Have this process killed when the one that started it ends, however that ends."""
    _libc.prctl(_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _heard(reading: int, end: float, most: int) -> tuple[bytes, bool]:
    """What a child says until it has ended, and whether it has to be ended: it was late, or said too much."""
    parts: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while size <= most + 1:
            left = end - time.monotonic()
            if left <= 0 or not selector.select(left):
                return b"", True
            part = os.read(reading, 1 << 20)
            if not part:
                return b"".join(parts), False
            parts.append(part)
            size += len(part)
    return _FAILED + json.dumps([_TOO_LARGE, f"more than {most} bytes"]).encode(), True


def _answer(said: bytes, late: bool, status: int, complaints: int, limits: Limits) -> bytes:
    if said[:1] == _DONE and status == 0:
        return said[1:]
    if said[:1] == _FAILED:
        sender, operator = json.loads(said[1:])
        raise Failed(sender, operator)
    if late:
        raise Failed(_NO_TIME, f"ended after {limits.seconds:g} s")
    size = os.fstat(complaints).st_size
    told = os.pread(complaints, _COMPLAINT, max(0, size - _COMPLAINT)).decode(errors="replace").strip()
    if status < 0:
        raise Failed(words_of_end(-status), f"the conversion was ended by {signal.Signals(-status).name}: {told}")
    raise Failed(_NOT_CONVERTED, f"the conversion ended with {status}: {told}")


def _child(work: Callable[[], bytes], limits: Limits, parent: int, writing: int, complaints: int) -> NoReturn:
    status = 70
    try:
        end_with_parent()
        if os.getppid() == parent:
            os.dup2(complaints, 2)
            _limit(limits)
            _write(writing, _outcome(work))
            status = 0
    finally:
        try:
            if status:
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)


def _outcome(work: Callable[[], bytes]) -> bytes:
    try:
        return _DONE + work()
    except Failed as error:
        words, cause = error.sender, error.operator
    except RecursionError as error:
        words, cause = _TOO_DEEP, str(error)
    except MemoryError:
        words, cause = NO_MEMORY, "MemoryError"
    except OSError as error:
        words, cause = _TOO_LARGE if error.errno == errno.EFBIG else _NOT_CONVERTED, str(error)
    return _FAILED + json.dumps([words, cause]).encode()


def _limit(limits: Limits) -> None:
    seconds = max(1, round(limits.seconds))
    # The soft one first: its signal tells a limit from whatever else may kill.
    _lower(resource.RLIMIT_CPU, seconds, seconds + 2)
    _lower(resource.RLIMIT_AS, limits.memory, limits.memory)
    _lower(resource.RLIMIT_FSIZE, limits.file, limits.file)
    _lower(resource.RLIMIT_CORE, 0, 0)


def _lower(which: int, soft: int, hard: int) -> None:
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def _write(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
