"""Whose processes run, and ending a student's: as root, so that nothing of the student's can hinder it.

Standard library alone: the root helper carries a copy of this file.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from wodmail.students.rootidentity import become_sender
from wodmail.students.rootlimits import LOWEST_UID, Account, HelperError

GRACE = 1.0
_END_SECONDS = 20.0
_SENDER_SECONDS = 1.0
_PAUSE = 0.01


def processes_of(uid: int) -> set[int]:
    """The pids of what runs as a uid, without the dead."""
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    return {pid for pid in pids if runs_as(pid, uid)}


def runs_as(pid: int, uid: int) -> bool:
    """Whether a process is alive and a student's: by its real or saved uid, as for kill(2).

    An effective uid alone counts as well, unless the process is root's: that is a service which has a look as the
    student, such as sshd at a key. A process whose first thread has ended looks dead, but others of it may run.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().split(b"\n")
    except (FileNotFoundError, ProcessLookupError):
        return False
    status = dict(line.split(b":\t", 1) for line in lines if line.startswith((b"State:", b"Uid:", b"Threads:")))
    if status.get(b"State", b"X")[:1] in b"ZX" and int(status.get(b"Threads", b"0")) <= 1:
        return False
    real, effective, saved = map(int, status[b"Uid"].split()[:3])
    return uid in (real, saved) or (uid == effective and 0 not in (real, saved))


def end_processes(account: Account) -> int:
    """End everything that runs as a student: TERM, a second later all of it at once by KILL, until nothing is left.

    To be called as root.

    Returns:
        How many there were.

    Raises:
        HelperError: something still runs after 20 seconds.
    """
    uid = account.uid
    if os.geteuid() != 0 or uid < LOWEST_UID:
        cause = f"uid {uid}, called by {os.geteuid()}"
        raise HelperError("failed", "The root helper refused to end processes.", cause)
    seen = found = processes_of(uid)
    if found:
        _send_all(account, signal.SIGTERM, signal.SIGCONT)
        soon = time.monotonic() + GRACE
        while (found := processes_of(uid)) and time.monotonic() < soon:
            time.sleep(_PAUSE)
    end = time.monotonic() + _END_SECONDS
    while found and time.monotonic() < end:
        seen = seen | found
        _send_all(account, signal.SIGSTOP, signal.SIGKILL)
        _send_each(uid, found, signal.SIGKILL)
        time.sleep(_PAUSE)
        found = processes_of(uid)
    if found:
        raise HelperError("failed", "Some of the student's processes can't be ended.", f"pids {sorted(found)[:10]}")
    return len(seen)


def _send_all(account: Account, *signals: int) -> None:
    """Signal all that the student runs in one go, also what is born meanwhile: `kill(-1, …)` by a child of ours."""
    pid = os.fork()
    if pid == 0:
        try:
            become_sender(account)
            for number in signals:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, number)
            os._exit(0)
        finally:
            os._exit(70)
    # Out of reach for signals, but the student may slow it down; then _send_each has to do.
    ended = os.pidfd_open(pid)
    select.select([ended], [], [], _SENDER_SECONDS)
    os.close(ended)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) > 0:
        cause = f"no process of its could become one that may signal {account.name}'s"
        raise HelperError("failed", "The student's processes could not be ended.", cause)


def _send_each(uid: int, pids: Iterable[int], number: int) -> None:
    """Signal processes one by one, as root; a pid that has become somebody else's is passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                # Looked at once more now that its number can't mislead: what is signalled is what was opened.
                if runs_as(pid, uid):
                    signal.pidfd_send_signal(process, number)
            finally:
                os.close(process)
