"""The service: cycles again and again, until a signal ends it."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping

import structlog

from wodmail.guard.watch import Students
from wodmail.guard.work import Guard
from wodmail.systemd import notify_systemd

log = structlog.get_logger("wodmail.guard")

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


def serve(guard: Guard, notify_address: str | None = None) -> None:
    """Run cycles until SIGTERM or SIGINT; SIGHUP reads the policy again at once.

    Args:
        guard: the guard.
        notify_address: systemd's socket.
    """
    # Signals wait until a cycle is over: nothing is ever half done.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    guard.watcher.beat = lambda: notify_systemd("WATCHDOG=1", notify_address)
    log.info("guard-started", students=vars_of(guard.watcher.students), dry_run=guard.dry_run)
    notify_systemd("READY=1", notify_address)
    while True:
        begun = time.monotonic()
        cycle = guard.cycle()
        if guard.dry_run:
            for words in cycle.done:
                log.warning("guard-dry-run", words=words)
        guard.watcher.beat()
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
