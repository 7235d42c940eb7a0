"""Root's plays on this machine: by the wodmail that came with the playbooks, and one at a time (docs/check.md)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wodmail import installingfacts
from wodmail.config import Settings
from wodmail.errors import ConfigError, Failed, Problem, Temporary
from wodmail.lock import acquired

PATIENCE = 1800.0
"""Seconds for which another play is waited for; an installation that builds kernels takes longer, and is told."""
MEMORY = Path("/run")
BUILD = "build"
"""What scripts/wod-install.sh leaves in the environments that it makes."""


def demand_own_code(settings: Settings) -> None:
    """See that root plays no newer playbooks with older code: after a `git pull` without an installation, say.

    Args:
        settings: WODBEDIR is the checkout.

    Raises:
        ConfigError: the checkout has another wodmail than this program.
    """
    checkout = settings.WODBEDIR
    found = installingfacts.other_code(checkout) if os.geteuid() == 0 and not settings.WODSANDBOX else ()
    if found:
        raise ConfigError([Problem(str(checkout), refusal(checkout, found))])


def refusal(checkout: Path, found: Sequence[str]) -> str:
    """What is to be done about a checkout that has another wodmail than this program.

    Args:
        checkout: where it is.
        found: names of the modules that differ, one at least.
    """
    words = f"{checkout} has another wodmail than this program ({len(found)} modules differ, such as {found[0]})"
    if (Path(sys.prefix) / BUILD).is_file():
        return f"{words}: call {checkout}/scripts/wod-install.sh, which installs that one first; nothing was changed"
    # Of a machine that was set up by hand it would make a whole backend: limits, firewall, Postfix, JupyterHub.
    return f"{words}: install that one first, see docs/operations.md, An update by hand; nothing was changed"


def lock_file(config: Path) -> Path:
    """Where the lock is; scripts/wod-install.sh and docs/operations.md say it, too.

    Args:
        config: see `alone`.
    """
    return MEMORY / f"wodmail-plays{str(config.absolute()).replace('/', '-')}.lock"


@contextmanager
def alone(
    config: Path, what: str, *, waiting: Callable[[str], None] = lambda _: None, patience: float = PATIENCE
) -> Iterator[None]:
    """Keep other plays of root's on this machine out, and wait for the one that is at work.

    Args:
        config: the configuration's file: a machine has one, tests have many.
        what: the program, for those who wait.
        waiting: told once whom we wait for.
        patience: seconds to wait.

    Raises:
        Temporary: the other one goes on.
        Failed: the lock can't be made.
    """
    if os.geteuid() != 0 or not os.access(MEMORY, os.W_OK):
        yield
        return
    file = lock_file(config)
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Failed(f"The lock {file} can't be made.", str(error)) from error
    try:
        _acquire(descriptor, waiting, patience)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{what} (process {os.getpid()})".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, waiting: Callable[[str], None], patience: float) -> None:
    end, told = time.monotonic() + patience, False
    while not acquired(descriptor):  # which asks for half a second
        other = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another program"
        if time.monotonic() > end:
            raise Temporary(f"{other} is at work on this machine as root. Try again when it has ended.")
        if not told:
            waiting(f"waiting for {other}, which is at work on this machine as root")
            told = True
