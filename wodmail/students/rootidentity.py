"""How the root helper becomes a student: with the student's rights on files, and out of the student's reach.

Standard library alone: the root helper carries a copy of this file. A process that has the student's uid as its real or
saved one could be killed or stopped by whatever runs as the student (kill(2)), and with the effective one slowed down
(sched_setscheduler(2), setpriority(2)). So a worker takes the student's uid for files only (setfsuid(2)) and lends the
other three from a guard: a uid that no account has, another one for each student.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from wodmail.students.rootlimits import Account, HelperError

# linux/prctl.h, linux/capability.h
_KEEPCAPS, _NO_NEW_PRIVS = 8, 38
_CAPABILITIES_V3, _CAP_SETUID = 0x20080522, 7
_WITHOUT = ("CapInh", "CapPrm", "CapEff", "CapAmb")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.capset.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.setfsuid.argtypes = (ctypes.c_uint,)


def become(account: Account) -> None:
    """Give this process the student's rights on files, for good, and no others.

    Its real, effective and saved uid are the guard's then, the one for files the student's, all its groups the
    student's; it has no capabilities and can't get any.

    Raises:
        HelperError: that isn't what it has become.
        OSError: the system refused a part of it.
    """
    os.setgroups([account.gid])
    os.setresgid(account.gid, account.gid, account.gid)
    # The one for files goes with the effective uid, so it comes last, by a capability kept until then.
    _prctl(_KEEPCAPS)
    os.setresuid(account.guard, account.guard, account.guard)
    _keep_capabilities(1 << _CAP_SETUID)
    _libc.setfsuid(account.uid)
    _keep_capabilities(0)
    _prctl(_NO_NEW_PRIVS)
    require((account.guard,) * 3 + (account.uid,), (account.gid,) * 4)


def turn_into(account: Account) -> None:
    """Make this process the student's own, for good, to run a program that is to have no more than the student has.

    The student's other processes can reach it then, so nothing may be in it that they must not have.

    Raises:
        HelperError: that isn't what it has become.
        OSError: the system refused a part of it.
    """
    os.setgroups([account.gid])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    _prctl(_NO_NEW_PRIVS)
    require((account.uid,) * 4, (account.gid,) * 4)


def become_sender(account: Account) -> None:
    """Turn this process into one that may signal the student's processes and no others, for good.

    Its effective uid is the student's, which is what counts for the sender; the real and saved one, which count for
    the receiver, are the guard's.

    Raises:
        HelperError: that isn't what it has become; it must not signal anything then.
        OSError: the system refused a part of it.
    """
    os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.guard, account.uid, account.guard)
    require((account.guard, account.uid, account.guard, account.uid), (account.gid,) * 4)


def require(uids: tuple[int, ...], gids: tuple[int, ...]) -> None:
    """See that this process is what it should be: nothing of root's is left in it.

    Args:
        uids: real, effective, saved uid and the one for files.
        gids: the same of groups.

    Raises:
        HelperError: it is something else.
    """
    text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    found = tuple(tuple(map(int, status[key].split())) for key in ("Uid", "Gid"))
    powers = {key: status[key] for key in _WITHOUT if int(status.get(key, "0"), 16)}
    if found != (uids, gids) or 0 in uids or powers:
        cause = f"uids and gids {found}, must be {uids} and {gids}; capabilities {powers}"
        raise HelperError("failed", "The root helper could not become the student.", cause)


def _prctl(option: int) -> None:
    if _libc.prctl(option, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _keep_capabilities(kept: int) -> None:
    """Have these capabilities, of those that are permitted, and no others."""
    header = struct.pack("=Ii", _CAPABILITIES_V3, 0)
    if _libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)) != 0:
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")
