"""Limits that a process puts on itself before it opens a notebook that it doesn't trust."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

from wodmail.students.exports import FOR_ANOTHER

CPU_SECONDS = 600
MEMORY = 4 * 1024**3
FILE = 256 * 1024**2
_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_PDEATHSIG = 1


def confine() -> bool:
    """Limit this process and all that it starts: processor time, memory, size of files, and no network.

    Returns:
        Whether the network is shut off as well; some kernels let nobody but root do that. Nothing that is started here
        asks for the network, so it is the second of two locks.
    """
    _lower(resource.RLIMIT_CPU, CPU_SECONDS)
    _lower(resource.RLIMIT_AS, MEMORY)
    _lower(resource.RLIMIT_FSIZE, FILE)
    _lower(resource.RLIMIT_CORE, 0)
    alone = _without_network()
    if os.environ.get(FOR_ANOTHER):  # last: a new namespace may forget it
        ctypes.CDLL(None, use_errno=True).prctl(_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return alone


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY or hard > value:
        resource.setrlimit(which, (value, value))


def _without_network() -> bool:
    """An empty network namespace; as another user one of users as well, in which everybody stays who they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        return bool(libc.unshare(_NEWNET) == 0)
    user, group = os.geteuid(), os.getegid()
    # Some kernels let a namespace of users be made that nobody can be put into: tried by a process that ends.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if _alone(libc, user, group) else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and _alone(libc, user, group)


def _alone(libc: ctypes.CDLL, user: int, group: int) -> bool:
    if libc.unshare(_NEWUSER | _NEWNET) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - a file of the kernel's
            file.write(text)
    return True
