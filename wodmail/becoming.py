"""Work that root has done with somebody else's rights: in a child that is that user for good."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from typing import Any

from wodmail.errors import Failed, WodmailError

_DESCRIPTORS = 1 << 16


def as_user(user: pwd.struct_passwd, work: Callable[[], object], *, umask: int = 0o022) -> Any:
    """Do something as another user.

    Args:
        user: whose rights; a caller that isn't root keeps its own.
        work: done in a child process, which has none of our open files, so that no database may be open here that it
            opens; what it returns must be JSON.
        umask: the child's.

    Returns:
        What `work` returned.

    Raises:
        Failed: it, or the system, did not let it be done; the operator's words tell why.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(user, work, writing, umask)
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as source:
            text = source.read()
    finally:
        _, ended = os.waitpid(pid, 0)  # also when we are cut off: what comes next finds it done or not done
    if ended != 0:
        words = f"What had to be done as {user.pw_name} could not be done."
        raise Failed(words, text or f"the child ended with {os.waitstatus_to_exitcode(ended)}")
    return json.loads(text)


def _child(user: pwd.struct_passwd, work: Callable[[], object], writing: int, umask: int) -> None:
    status = 70
    try:
        # Nothing of ours goes with it, neither root's descriptors nor locks that would outlive us.
        os.closerange(3, writing)
        os.closerange(writing + 1, _DESCRIPTORS)
        with os.fdopen(writing, "w", encoding="utf-8") as out:
            try:
                become(user, umask)
                os.chdir("/")
                json.dump(work(), out)
                status = 0
            except WodmailError as error:
                out.write(error.operator)
            except (OSError, ValueError) as error:
                out.write(f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def become(user: pwd.struct_passwd, umask: int = 0o022) -> None:
    """Be another user from now on, and never again who one was; whoever isn't root stays who that is.

    Args:
        user: whose rights, with all groups of that user.
        umask: for what is made from now on.

    Raises:
        OSError: the system does not let it be done.
    """
    if os.geteuid() == 0:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    os.umask(umask)
