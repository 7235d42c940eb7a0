"""Which rights the guard works with: WODUSER's, and three of root's.

Started by root, it takes WODUSER's rights for good, so that what it writes below WODSTATEDIR is WODUSER's and no link
there can lead root anywhere. It keeps what its work needs: looking at others' processes (CAP_SYS_PTRACE), reading the
programs that they run (CAP_DAC_READ_SEARCH), signals to them (CAP_KILL).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
from pathlib import Path

from wodmail.config import Settings
from wodmail.errors import Failed

# linux/capability.h, linux/prctl.h
CAPABILITIES = {"CAP_DAC_READ_SEARCH": 2, "CAP_KILL": 5, "CAP_SYS_PTRACE": 19}
_V3 = 0x20080522
_KEEPCAPS = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.capset.argtypes = (ctypes.c_char_p, ctypes.c_char_p)


def take(settings: Settings) -> None:
    """As root become WODUSER with the three capabilities, when WODUSER owns the state; else stay what this process is.

    Raises:
        Failed: WODUSER is no account, or the system refused.
    """
    state = settings.WODSTATEDIR
    if os.geteuid() != 0 or (state.exists() and state.stat().st_uid == 0):
        return
    try:
        user = pwd.getpwnam(settings.WODUSER)
    except KeyError:
        raise Failed(f"There is no user {settings.WODUSER}; make it, or set WODUSER.") from None
    if user.pw_uid == 0:
        return
    try:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        _checked(_libc.prctl(_KEEPCAPS, 1, 0, 0, 0))
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
        bits = sum(1 << number for number in CAPABILITIES.values())
        header = struct.pack("=Ii", _V3, 0)
        _checked(_libc.capset(header, struct.pack("=6I", bits, bits, 0, 0, 0, 0)))
    except OSError as error:
        raise Failed(f"The guard could not take {settings.WODUSER}'s rights.", str(error)) from error


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def missing() -> list[str]:
    """Which of the three capabilities this process has not."""
    text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    effective = int(text.partition("\nCapEff:\t")[2].split("\n")[0] or "0", 16)
    return [name for name, number in CAPABILITIES.items() if not effective & 1 << number]
