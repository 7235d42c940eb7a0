"""The vocabulary of the root helper: each thing that can be asked of it, one function each.

Standard library alone: the root helper carries a copy of this file. Every function that touches a home first takes the
student's rights in place of root's, for good; the worker that it runs in ends with its answer.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wodmail.students import exports, homes, rootexport, treewriter
from wodmail.students.rootidentity import become
from wodmail.students.rootlimits import Account, HelperError, Limits, account_of, hold, locked, opened_home
from wodmail.students.rootprocesses import GRACE, end_processes, processes_of

VERSION = 4
_WORKSHOP = re.compile(r"WKSHP-[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PASSWORD = re.compile(r"[!-9;-~]{1,128}")


@dataclass
class Request:
    """One request: its fields and its payload."""

    fields: dict[str, Any]
    payload: bytes = b""


@dataclass
class Answer:
    """One answer: its fields and its payload."""

    fields: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""


# What can be asked. Each of these runs in a worker of its own.


def ping(limits: Limits) -> Answer:
    """Say that the helper works and what it may touch."""
    return Answer({"version": VERSION, "limits": vars(limits)})


def forget(_limits: Limits) -> Answer:
    """Nothing is remembered about a student, so there is nothing to do."""
    return Answer()


def set_password(_limits: Limits, request: Request, account: Account) -> Answer:
    """Set the account's password through chpasswd; the password goes through a pipe and is never shown."""
    password = request.fields.get("password")
    if not isinstance(password, str) or not _PASSWORD.fullmatch(password):
        raise HelperError("refused", "That password can't be set.", "1 to 128 printable ASCII, no blank, no colon")
    with locked("passwd"):
        done = subprocess.run(
            ["chpasswd"],
            input=f"{account.name}:{password}\n".encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").replace(password, "********").strip()[-500:]
        raise HelperError("failed", "The new password could not be set.", f"chpasswd: {done.returncode}: {said}")
    return Answer()


def check(_limits: Limits, _request: Request, account: Account) -> Answer:
    """See that account and home are what they should be."""
    become(account)
    with opened_home(account):
        return Answer()


def end_all(_limits: Limits, _request: Request, account: Account) -> Answer:
    """End everything that runs as the student."""
    return Answer({"ended": end_processes(account)})


def erase(limits: Limits, request: Request, account: Account) -> Answer:
    """End the student's processes, empty the home and unpack the payload (skel and keys) into it."""
    user = _uid_of(limits.user)
    ended = end_processes(account)
    with _service_at_hand(limits, account) as open_up:
        become(account)
        with opened_home(account) as home, _home_trouble(account, "emptied and filled anew"):
            homes.share_folder(home, user, 0o700)
            _empty(home, open_up)
    with opened_home(account) as home, _home_trouble(account, "emptied and filled anew"):
        count = treewriter.install(home, [], list(inside(treewriter.unpack(request.payload))))
        homes.show_folder(home, ".ssh", user)
    return Answer({"ended": ended, "files": count})


def _empty(home: int, open_up: Callable[[], None]) -> None:
    try:
        homes.empty(home)
    except homes.NotEmptyError:
        open_up()
        homes.empty(home)


@contextlib.contextmanager
def _service_at_hand(limits: Limits, account: Account) -> Iterator[Callable[[], None]]:
    """A process that takes WODUSER's rights when called: workshop scripts leave shut folders of its in homes."""
    service = pwd.getpwnam(limits.user)
    waiting, calling = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(calling)
            if os.read(waiting, 1):
                become(Account(limits.user, service.pw_uid, service.pw_gid, account.home, account.guard))
                with opened_home(account) as home:
                    homes.open_up(home, service.pw_uid)
        finally:
            os._exit(0)
    os.close(waiting)

    def call() -> None:
        os.write(calling, b"1")
        os.waitpid(pid, 0)
        called.append(pid)

    called: list[int] = []
    try:
        yield call
    finally:
        os.close(calling)
        if not called:
            os.waitpid(pid, 0)


def verify_erased(_limits: Limits, request: Request, account: Account) -> Answer:
    """See that nothing runs as the student and that nothing but the paths listed is in the home."""
    allowed = request.fields.get("allowed")
    if not isinstance(allowed, list):
        raise HelperError("failed", "The request was not understood.", "allowed must be a list of paths")
    end = time.monotonic() + GRACE
    while (alive := processes_of(account.uid)) and time.monotonic() < end:
        time.sleep(0.01)  # what was ended may be on its way out
    if alive:
        raise HelperError("failed", f"Processes of {account.name} still run.", f"pids {sorted(alive)[:10]}")
    become(account)
    with opened_home(account) as home, _home_trouble(account, "looked through"):
        left = homes.unexpected(home, {str(path) for path in allowed})
    if left:
        raise HelperError("failed", f"The home of {account.name} is not empty.", f"left: {homes.NotEmptyError(left)}")
    return Answer()


def install_tree(limits: Limits, request: Request, account: Account) -> Answer:
    """Replace a workshop in the home by the payload, give everything u+rwX and wodmail's account its ACL."""
    workshop = request.fields.get("workshop")
    remove = request.fields.get("remove", [workshop])
    if not isinstance(workshop, str) or not _WORKSHOP.fullmatch(workshop) or not isinstance(remove, list):
        raise HelperError("refused", "That is no workshop's folder.", f"workshop {workshop!r}, remove {remove!r}")
    user = _uid_of(limits.user)
    become(account)
    with opened_home(account) as home, _home_trouble(account, "written to"):
        entries = list(inside(treewriter.unpack(request.payload)))
        count = treewriter.install(home, [str(path) for path in remove], entries)
        treewriter.adopt(home, workshop)
        homes.share_tree(home, workshop, user)
        for entry in entries:
            if entry.path.split("/")[0] != workshop:
                homes.share_tree(home, entry.path, user, depth=0)
    return Answer({"files": count})


def install_programs(_limits: Limits, request: Request, account: Account) -> Answer:
    """Put the payload's programs into the home itself: the student's, mode 0700, nobody else's."""
    become(account)
    with opened_home(account) as home, _home_trouble(account, "written to"):
        count = treewriter.put_programs(home, treewriter.unpack(request.payload))
    return Answer({"files": count})


def read_notebooks(_limits: Limits, request: Request, account: Account) -> Answer:
    """The notebooks of a workshop, packed as a tar archive."""
    workshop = request.fields.get("workshop")
    if not isinstance(workshop, str) or not _WORKSHOP.fullmatch(workshop):
        raise HelperError("refused", "That is no workshop's folder.", f"workshop {workshop!r}")
    become(account)
    with opened_home(account) as home, _home_trouble(account, "read"):
        found = homes.notebooks(home, workshop)
    return Answer({}, treewriter.pack(treewriter.Entry(path, "file", data=data) for path, data in found))


def export_documents(limits: Limits, request: Request, account: Account) -> Answer:
    """Have the notebooks of a workshop exported as the student; the documents, packed as a tar archive."""
    workshop, form = request.fields.get("workshop"), request.fields.get("form")
    if not isinstance(workshop, str) or not _WORKSHOP.fullmatch(workshop) or form not in exports.FORMS:
        raise HelperError("refused", "That is no workshop's folder, or no form.", f"{workshop!r} as {form!r}")
    report, ended = rootexport.run(account, limits.exporter, workshop, str(form))
    become(account)
    with opened_home(account) as home, _home_trouble(account, "read"):
        folder = os.open(workshop, treewriter.FOLDER_FLAGS, dir_fd=home)
    try:
        found = exports.taken(folder, report, str(form), ended)
    except ValueError as error:
        words = f"The notebooks of {account.name} could not be exported."
        raise HelperError("failed", words, f"{limits.exporter}: {error}") from error
    if not found:
        raise HelperError("refused", exports.no_notebooks(account.name, workshop))
    rows, payload = exports.packed(found)
    return Answer({"documents": rows}, payload)


ANYBODY: dict[str, Callable[[Limits], Answer]] = {"ping": ping, "forget": forget}
"""Requests that are about no student."""

STUDENT: dict[str, Callable[[Limits, Request, Account], Answer]] = {
    "check": check,
    "set_password": set_password,
    "end_processes": end_all,
    "erase": erase,
    "verify_erased": verify_erased,
    "install_tree": install_tree,
    "install_programs": install_programs,
    "read_notebooks": read_notebooks,
    "export_documents": export_documents,
}
"""Requests about one student; they run with the student's lock held."""


def perform(limits: Limits, request: Request) -> Answer:
    """Do what a request asks for, if the vocabulary has it and the limits allow it.

    Raises:
        HelperError: what was wrong.
    """
    name = str(request.fields.get("op"))
    if name in ANYBODY:
        return ANYBODY[name](limits)
    if name not in STUDENT:
        cause = f"op {name[:40]!r}; after an update of wodmail run `wodmail helper install` as root"
        raise HelperError("refused", "The root helper doesn't do that.", cause)
    account = account_of(limits, request.fields.get("student"))
    # Held until this worker has ended, so that another never works on what it has half done.
    hold(account.name)
    return STUDENT[name](limits, request, account)


def inside(entries: Iterator[treewriter.Entry]) -> Iterator[treewriter.Entry]:
    """Pass the entries on; a symbolic link that points out of the home is refused.

    Raises:
        HelperError: such a link.
    """
    for entry in entries:
        if entry.kind == "link":
            path = os.path.normpath(f"{entry.path}/../{entry.target}" if entry.target[:1] != "/" else entry.target)
            if path.startswith(("/", "../")) or path == "..":
                raise HelperError("refused", f"The link {entry.path} leads out of the home.", f"to {entry.target!r}")
        yield entry


def _uid_of(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise HelperError("failed", "The root helper's limits are impossible.", f"no user {user}") from None


@contextlib.contextmanager
def _home_trouble(account: Account, doing: str) -> Iterator[None]:
    try:
        yield
    except (OSError, homes.NotEmptyError, ValueError, tarfile.TarError) as error:
        words = f"The home of {account.name} could not be {doing}."
        raise HelperError("failed", words, f"{account.home}: {error}") from error
