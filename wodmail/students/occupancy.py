"""Whose seats are in use, asked of everybody who could know, so that no account is changed under its student.

A seat is in use when the student's processes run, when the root helper works on it, when a job for it is not finished,
or when the registry says that it is taken. The last two are asked with WODUSER's rights, because the database and the
registry are WODUSER's: root neither makes files there nor follows what lies there.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import os
import pwd
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import sqlalchemy as sa

from wodmail import registry
from wodmail.becoming import as_user
from wodmail.errors import Failed, Temporary, WodmailError
from wodmail.lanes import UNFINISHED
from wodmail.registry.embedded import FILE
from wodmail.schema import Settings
from wodmail.store import Store, jobs, lanes, open_store
from wodmail.students.rootlimits import HelperError, try_hold

WORKING = "its student's processes run"
HELPER = "the root helper works on it"
JOB = "job {} is not finished"
TAKEN = "the registry says that it is taken"


@contextlib.contextmanager
def kept_from_helper(names: Mapping[int, str]) -> Iterator[set[int]]:
    """Hold the root helper's locks of students while the block runs: meanwhile it works on none of them.

    Args:
        names: the accounts' names by student; a few hundred, each costs a descriptor.

    Yields:
        The students whose locks we have; on the others the helper works now.

    Raises:
        Failed: the folder of the locks is not root's own.
    """
    with contextlib.ExitStack() as stack:
        held = set()
        for student, name in names.items():
            try:
                lock = try_hold(name)
            except HelperError as error:
                raise Failed(error.words, error.cause) from error
            if lock is not None:
                stack.callback(os.close, lock)
                held.add(student)
        yield held


def at_work(uids: Mapping[int, int]) -> set[int]:
    """The students who have a process, by one look at all processes.

    Args:
        uids: students by their uid; any uid of a process counts, also the effective one alone.
    """
    with os.scandir("/proc") as entries:
        pids = [entry.name for entry in entries if entry.name.isdigit()]
    found: set[int] = set()
    for pid in pids:
        found |= {uids[uid] for uid in _uids_of(pid) if uid in uids}
    return found


def _uids_of(pid: str) -> set[int]:
    """The uids of a process; none when it is dead."""
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().split(b"\n")
    except (FileNotFoundError, ProcessLookupError):
        return set()
    status = dict(line.split(b":\t", 1) for line in lines if line.startswith((b"State:", b"Uid:", b"Threads:")))
    if status.get(b"State", b"X")[:1] in b"ZX" and int(status.get(b"Threads", b"0")) <= 1:
        return set()
    return set(map(int, status[b"Uid"].split()))


def engaged(settings: Settings) -> dict[int, str]:
    """The students for whom a job is unfinished or whose seat is taken, and which of it, asked as WODUSER.

    Args:
        settings: WODUSER, WODSTATEDIR, WODDATABASEURL and the keys of the API-DB are used.

    Raises:
        Temporary: the database or the registry is away.
        Failed: it clearly says no.
    """
    answer = _asked_as(settings.WODUSER, settings)
    if "error" in answer:
        kind = Temporary if answer.get("temporary") else Failed
        raise kind(str(answer["error"]), str(answer.get("cause", answer["error"])))
    return {int(student): str(why) for student, why in answer["engaged"].items()}


def _asked_as(user: str, settings: Settings) -> dict[str, dict[str, str]]:
    """What `ask` says in a child that is that user and no longer root."""
    # What is loaded when it is first used, while python's own folders can surely be read.
    open_store(settings).close()
    codecs.lookup("idna")
    if settings.apidb:
        importlib.import_module("wodmail.registry.apidb")
    try:
        account = pwd.getpwnam(user) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        answer: dict[str, dict[str, str]] = as_user(account, lambda: _told(settings), umask=0o077)
    except (KeyError, Failed) as error:
        cause = error.operator if isinstance(error, Failed) else f"there is no user {user}"
        raise Failed("It could not be found out which seats are in use; nothing was changed.", cause) from error
    return answer


def _told(settings: Settings) -> dict[str, object]:
    try:
        return {"engaged": ask(settings)}
    except WodmailError as error:
        return {"error": error.sender, "cause": error.operator, "temporary": isinstance(error, Temporary)}
    except (OSError, ImportError) as error:  # what lies in WODSTATEDIR, or wodmail itself, is not WODUSER's to read
        return {"error": f"{settings.WODUSER} can't ask which seats are in use: {error}"}


def ask(settings: Settings) -> dict[int, str]:
    """The same with the caller's own rights.

    Raises:
        WodmailError: the database or the registry can't be asked.
    """
    found = dict.fromkeys(_taken(settings), TAKEN)
    store = open_store(settings)
    try:
        found |= {student: JOB.format(job) for student, job in _unfinished(store).items()}
    finally:
        store.close()
    return found


def _taken(settings: Settings) -> Collection[int]:
    if not settings.apidb and not (settings.WODSTATEDIR / FILE).exists():
        return ()  # no seat was ever given; asking would make the file
    seats = registry.for_settings(settings)
    try:
        return seats.taken()
    finally:
        seats.close()


def _unfinished(store: Store) -> dict[int, int]:
    """The newest unfinished job of each student who has one."""
    if store.url.startswith("sqlite:///") and not Path(store.url.removeprefix("sqlite:///")).exists():
        return {}
    query = (
        sa.select(lanes.c.student, lanes.c.job)
        .join(jobs, jobs.c.id == lanes.c.job)
        .where(jobs.c.backend == store.backend, jobs.c.state.in_(UNFINISHED))
        .order_by(lanes.c.job)
    )
    return {row["student"]: row["job"] for row in store.rows(query)} if store.made() else {}
