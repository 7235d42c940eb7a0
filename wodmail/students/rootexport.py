"""How the root helper has a student's notebooks exported: by the exporter, run as the student.

Standard library alone: the root helper carries a copy of this file. The exporter is a process of the student's own,
who can do with it what can be done with any other; so it is given nothing, and what it says is not believed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from wodmail.students import exports
from wodmail.students.rootidentity import turn_into
from wodmail.students.rootlimits import Account, HelperError, opened_home, trusted
from wodmail.students.treewriter import FOLDER_FLAGS

NO_FOLDER, NO_HOME = 66, 67
_NEWNET, _PDEATHSIG = 0x40000000, 1
_MAX_COMPLAINT = 4096
_NOT_INSTALLED = "PDF and WORD are not installed on this backend; the operator has to look at it."


def run(account: Account, exporter: str, workshop: str, form: str) -> tuple[bytes, str]:
    """Export the notebooks of a workshop in the student's home, as the student; to be called as root.

    Args:
        account: the student's.
        exporter: absolute path of the program; believed only when nobody but root can change it.
        workshop: name of the workshop's folder in the home.
        form: pdf or docx.

    Returns:
        What the exporter has printed, not to be believed, and why it did not come to its end, "" when it did.

    Raises:
        HelperError: there is no exporter or no such folder, or it said too much.
    """
    if not exporter:
        cause = "no exporter in the limits: pip install 'wodmail[export]', then `wodmail helper install` as root"
        raise HelperError("refused", _NOT_INSTALLED, cause)
    try:
        trusted(Path(exporter))
    except HelperError as error:
        raise HelperError("failed", _NOT_INSTALLED, error.cause) from error
    except OSError as error:
        raise HelperError("failed", _NOT_INSTALLED, f"{exporter}: {error.strerror}") from error
    libc = ctypes.CDLL(None, use_errno=True)
    libc.unshare(_NEWNET)  # where root may not, the exporter tries it in a namespace of users

    def begin() -> None:
        _begin(libc, account, workshop)

    status, said, complaint, late = _run(exports.argv(exporter, form), begin)
    if status == NO_FOLDER:
        raise HelperError("refused", exports.no_folder(account.name, workshop), "no such folder in the home")
    if status == NO_HOME:
        words, _, cause = complaint.decode(errors="replace").partition("\n")
        raise HelperError("failed", words[: exports.MAX_WORDS], cause)
    if late:
        return said, f"{exporter}: not done after {exports.SECONDS:.0f} s"
    if status not in exports.ENDED_WELL:
        return said, f"{exporter} ended with {status}: {complaint.decode(errors='replace').strip()[-1000:]}"
    return said, ""


def _begin(libc: ctypes.CDLL, account: Account, workshop: str) -> None:
    """What becomes the exporter: limits, then the student, then into the workshop's folder."""
    for which, value in (
        (resource.RLIMIT_CPU, exports.CPU_SECONDS),
        (resource.RLIMIT_AS, exports.MEMORY),
        (resource.RLIMIT_FSIZE, exports.FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (value, value))
    turn_into(account)
    libc.prctl(_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    try:
        with opened_home(account) as home:
            folder = os.open(workshop, FOLDER_FLAGS, dir_fd=home)
            os.fchdir(folder)
            os.close(folder)
    except HelperError as error:
        os.write(2, f"{error.words}\n{error.cause}".encode())
        os._exit(NO_HOME)
    except OSError:
        os._exit(NO_FOLDER)


def _run(argv: list[str], begin: Callable[[], None]) -> tuple[int, bytes, bytes, bool]:
    """Its status, what it has printed, the end of its complaints, and whether it was ended when its time was over.

    Raises:
        HelperError: it could not be started, or said too much.
    """
    try:
        child = subprocess.Popen(  # the worker has one thread, so `begin` is safe
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=exports.ENVIRONMENT,
            preexec_fn=begin,
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HelperError("failed", "The exporter could not be started.", f"{argv[0]}: {error}") from error
    try:
        said, complaint, late = _heard(child)
        if late:
            _end(child)
        return child.wait(), said, complaint, late
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _heard(child: subprocess.Popen[bytes]) -> tuple[bytes, bytes, bool]:
    """Read both its outputs to their ends, or until its time is over; no more is kept than a report can be."""
    end = time.monotonic() + exports.SECONDS
    said, complaint = b"", b""
    with selectors.DefaultSelector() as selector:
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = end - time.monotonic()
            if len(said) > exports.MAX_REPORT:
                raise HelperError("failed", "The export went wrong, and was ended.", "its report is too long")
            if left <= 0:
                return said, complaint, True
            for key, _ in selector.select(left):
                part = os.read(key.fd, 65536)
                if not part:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    said += part
                else:
                    complaint = (complaint + part)[-_MAX_COMPLAINT:]
    _close(child.stdout, child.stderr)
    return said, complaint, False


def _close(*pipes: IO[bytes] | None) -> None:
    for pipe in pipes:
        if pipe is not None:
            pipe.close()
