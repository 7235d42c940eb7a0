"""Programs of this checkout run as an unprivileged user, as in production, from tests that run as root."""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.parts import missing, require

ROOT = Path(__file__).resolve().parents[1]
_TRY = "import importlib.util, wodmail; assert importlib.util.find_spec('dbos')"


def prefix(user: str) -> list[str]:
    """What goes in front of an argv to run it as that user; the process stays the same one."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]


def environment(user: str) -> dict[str, str]:
    """What that user's login would set, and the folder of this Python's programs on the PATH."""
    own = str(Path(sys.executable).parent)
    path = f"{own}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": pwd.getpwnam(user).pw_dir, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8"}


@contextmanager
def reachable(user: str) -> Iterator[None]:
    """This Python and this checkout, within that user's reach, also when they are below a shut folder such as /root.

    The user, who exists for a test alone, gets the right to pass through such folders, not to read them, and loses it
    at the end.

    Args:
        user: an account's name.
    """
    require("setfacl")
    shut = _shut_folders()
    try:
        for folder in shut:
            _setfacl("-m", f"u:{user}:--x", folder)
        _prove(user)
        yield
    finally:
        for folder in shut:
            # The mask goes with the last named user; while another test's user is named, it has to stay.
            if not _setfacl("-x", f"u:{user},m", folder):
                _setfacl("-x", f"u:{user}", folder)


def _shut_folders() -> list[Path]:
    """The folders that not everybody may pass through, on the way to Python and to the checkout."""
    ways = {Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix), ROOT}
    ways |= {way.resolve() for way in ways} | set(_link_steps(Path(sys.executable)))
    folders = {folder for way in ways for folder in (way, *way.parents) if folder.is_dir()}
    return sorted(folder for folder in folders if not folder.stat().st_mode & stat.S_IXOTH)


def _link_steps(file: Path) -> Iterator[Path]:
    """Where a link leads, and where that leads."""
    while file.is_symlink():
        file = file.parent / file.readlink()
        yield file


def _setfacl(change: str, entry: str, folder: Path) -> bool:
    with Path("/var/tmp/wodmail-tests-acl.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["setfacl", change, entry, str(folder)], capture_output=True, check=False)
    return done.returncode == 0


def _prove(user: str) -> None:
    command = [*prefix(user), sys.executable, "-c", _TRY]
    done = subprocess.run(command, cwd="/", env=environment(user), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        missing("python", f"{sys.executable} and {os.fspath(ROOT)} can't be made readable for {user}: {done.stderr}")
