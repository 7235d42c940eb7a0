"""The process table as wodmail needs it: who descends from what, identified so that a reused pid is never ended.

A process is its pid *and* its start time (clock ticks since boot, proc(5) field 22); a signal goes through a pidfd
that was opened first and checked after, so that it can't reach a stranger who got the pid in between.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table.

    Args:
        pid: process id.
        start: start time in clock ticks since boot.
        parent: pid of its parent.
        group: id of its process group.
        session: id of its session.
        dead: it is a zombie: nothing of it runs any more.
    """

    pid: int
    start: int
    parent: int
    group: int
    session: int
    dead: bool


def parse_stat(line: str) -> Process:
    """Read one /proc/<pid>/stat line.

    Raises:
        ValueError: the line is cut or no stat line.
    """
    front, found, rest = line.rpartition(")")
    fields = rest.split()
    if not found or len(fields) < 20:
        raise ValueError("not a /proc stat line")
    pid = int(front.partition("(")[0])
    parent, group, session = (int(field) for field in fields[1:4])
    return Process(pid, int(fields[19]), parent, group, session, fields[0] in "ZX")


def _read(path: str) -> bytes:
    # The table is read whole at the end of every child: plain calls, several times as fast as file objects.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = part = os.read(descriptor, 65536)
        while len(part) == 65536:
            part = os.read(descriptor, 65536)
            data += part
        return data
    finally:
        os.close(descriptor)


def lookup(pid: int) -> Process | None:
    """The process with that pid, or None when there is none."""
    try:
        return parse_stat(_read(f"/proc/{pid}/stat").decode(errors="replace"))
    except (OSError, ValueError):
        return None


def table() -> list[Process]:
    """Every process that can be seen and is not dead."""
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    return [process for process in map(lookup, pids) if process is not None and not process.dead]


def boot_id() -> str:
    """The kernel's name for this boot; start times mean something only within it."""
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def lives(pid: int, start: int) -> bool:
    """Whether exactly that process still runs; a zombie and a reused pid don't count."""
    process = lookup(pid)
    return process is not None and process.start == start and not process.dead


def ended(pid: int, start: int) -> bool:
    """Whether exactly that process surely runs no more; one that the system hides from us counts as running."""
    process = lookup(pid)
    if process is not None:
        return process.start != start or process.dead
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def environment_value(pid: int, name: bytes) -> bytes | None:
    """The value that a variable had when the process was started; None when unset or not ours to read."""
    try:
        block = b"\0" + _read(f"/proc/{pid}/environ")
    except OSError:
        return None
    _, found, rest = block.partition(b"\0" + name + b"=")
    return rest.partition(b"\0")[0] if found else None


def descendants(everyone: Iterable[Process], roots: Iterable[Process]) -> set[Process]:
    """The roots and everything below them in the table given."""
    children: dict[int, list[Process]] = {}
    for process in everyone:
        children.setdefault(process.parent, []).append(process)
    found: set[Process] = set()
    todo = list(roots)
    while todo:
        process = todo.pop()
        if process not in found:
            found.add(process)
            todo.extend(children.get(process.pid, ()))
    return found


def send(process: Process, *signals: int) -> bool:
    """Send signals to exactly that process.

    Returns:
        False when it is gone (or its pid belongs to another by now) or may not be signalled.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not lives(process.pid, process.start):
            return False
        for number in signals:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def terminate(process: Process) -> bool:
    """Ask exactly that process to end, also when it is stopped; False when it can't be reached."""
    return send(process, signal.SIGTERM, signal.SIGCONT)


def wait_gone(processes: Iterable[Process], timeout: float) -> bool:
    """Wait until none of the processes runs any more.

    Args:
        timeout: seconds to wait at most.

    Returns:
        Whether all are gone.
    """
    end = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        poller = select.poll()
        open_ones: dict[int, Process] = {}
        for process in processes:
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(process.pid)
                stack.callback(os.close, descriptor)
                if lives(process.pid, process.start):
                    open_ones[descriptor] = process
                    poller.register(descriptor, select.POLLIN)
        while open_ones and (left := end - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(left * 1000):
                poller.unregister(descriptor)
                del open_ones[descriptor]
        return not open_ones


def end(find: Callable[[], Iterable[Process]], grace: float) -> int:
    """End every process that `find` names: TERM, then after `grace` seconds KILL, until it names no more.

    What spawns faster than it is killed is first stopped as a whole (STOP), then killed.

    Args:
        find: looks again at each call.
        grace: seconds between TERM and KILL; 0 kills at once.

    Returns:
        How many different processes had to be signalled.
    """
    seen: set[tuple[int, int]] = set()
    if grace > 0:
        found = list(find())
        seen.update((each.pid, each.start) for each in found)
        reached = [each for each in found if terminate(each)]
        wait_gone(reached, grace)
    for _ in range(_ROUNDS):
        found = list(find())
        if not found:
            break
        seen.update((each.pid, each.start) for each in found)
        reached = [each for each in found if send(each, signal.SIGSTOP)]
        for process in reached:
            send(process, signal.SIGKILL)
        if not reached:
            break
        wait_gone(reached, 1.0)
    return len(seen)
