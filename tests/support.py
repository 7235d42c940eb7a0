"""Small helpers that several test files share."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")


_held: list[IO[str]] = []


def free_port() -> int:
    """A TCP port on loopback that nobody uses and no other test process will get while this one lives.

    It lies below the range from which the kernel gives ports to clients.
    """
    folder = Path(tempfile.gettempdir()) / f"wodmail-test-ports-{os.geteuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        port = random.randint(20000, 32000)  # noqa: S311 - any will do
        mark = (folder / str(port)).open("w", encoding="ascii")
        with socket.socket() as probe:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                probe.bind(("127.0.0.1", port))
            except OSError:
                mark.close()
                continue
        _held.append(mark)
        return port


def wait_until(ask: Callable[[], T], *, seconds: float = 60.0, what: str = "the condition", every: float = 0.02) -> T:
    """Ask again and again until the answer is true, and return it; fails after the deadline with what was awaited.

    Args:
        ask: the question.
        seconds: the deadline; long, as only a failure waits it out and a machine may stall.
        what: for the message.
        every: seconds between two looks; more where asking costs others their time.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what}; last answer: {answer!r}")
        time.sleep(every)
