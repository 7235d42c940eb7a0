"""Installing the root helper: a root-owned copy, its limits, and one line for sudo.

The copy is a zip archive that python runs: the modules that are standard library alone, and nothing from where
wodmail itself is installed, so that who can change wodmail can't change what runs as root.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
import re
import secrets
import shutil
import subprocess
import zipfile
from pathlib import Path

from wodmail import exporting
from wodmail.config import Settings
from wodmail.errors import ConfigError, Failed, Problem, WodmailError
from wodmail.students.helperclient import HelperClient
from wodmail.students.rootlimits import HelperError, read_limits, trusted
from wodmail.students.rootwork import VERSION

SUDOERS = Path("/etc/sudoers.d/wodmail")
PYTHONS = (Path("/usr/bin/python3"), Path("/usr/local/bin/python3"))
MODULES = (
    "exports",
    "homes",
    "rootexport",
    "roothelper",
    "rootidentity",
    "rootlimits",
    "rootprocesses",
    "rootwork",
    "treewriter",
)
_PLAIN = re.compile(r"/[A-Za-z0-9._/-]+")
_MAIN = """import sys

from wodmail.students.roothelper import main

sys.exit(main({limits!r}))
"""
_CHECK_SECONDS = 20.0


def limits_file(helper: Path) -> Path:
    """Where a helper finds its limits: beside it."""
    return helper.with_name(helper.name + ".json")


def limits_of(settings: Settings) -> dict[str, object]:
    """The limits that a configuration asks for, as the file of limits holds them."""
    return {
        "lowest": settings.WODUSERMIN,
        "highest": settings.WODUSERMAX,
        "uidbase": settings.UIDBASE,
        "gidbase": settings.GIDBASE,
        "studdir": str(settings.WODSTUDDIR),
        "user": settings.WODUSER,
        "exporter": exporter(),
    }


def exporter() -> str:
    """The program that the helper runs as a student to export notebooks; "" when there is none that only root changes.

    It is the one beside the python that runs, so that `wodmail helper install` and the service agree on it.
    """
    try:
        found = exporting.program()
        trusted(found)
    except (WodmailError, HelperError, OSError):
        return ""
    return str(found)


def sudoers_line(settings: Settings) -> str:
    """The one line that lets WODUSER start the helper, and start it without arguments only."""
    return f'{settings.WODUSER} ALL=(root) NOPASSWD: {settings.WODHELPER} ""\n'


def build(interpreter: Path, limits: Path) -> bytes:
    """The helper as one executable file; the same bytes for the same wodmail, python and place.

    Args:
        interpreter: the python that runs it; root's own.
        limits: path of its file of limits.
    """
    here = Path(__file__).parent
    files = {
        "__main__.py": _MAIN.format(limits=str(limits)),
        "wodmail/__init__.py": "",
        "wodmail/students/__init__.py": "",
    }
    files |= {f"wodmail/students/{name}.py": (here / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return f"#!{interpreter} -I\n".encode() + buffer.getvalue()


def install_helper(settings: Settings, *, sudoers: Path = SUDOERS) -> list[str]:
    """Install or renew the root helper; to be called as root, and again whenever its limits change.

    Args:
        settings: WODHELPER, WODUSER and the limits of students.
        sudoers: the file that the one line goes into.

    Returns:
        What was done, one line each.

    Raises:
        ConfigError: what stands against it; nothing was changed.
        Failed: a program that is needed said no.
    """
    if os.geteuid() != 0:
        raise ConfigError([Problem(str(settings.WODHELPER), "only root can install it; call it with sudo")])
    interpreter = python()
    helper, limits = settings.WODHELPER, limits_file(settings.WODHELPER)
    problems = _problems(settings, sudoers)
    if interpreter is None:
        problems.append(Problem(", ".join(map(str, PYTHONS)), "no python3 that belongs to root alone; install one"))
    if problems or interpreter is None:
        raise ConfigError(problems)
    _check_sudoers(sudoers_line(settings))
    helper.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        trusted(helper.parent)
    except HelperError as error:
        raise ConfigError([Problem(str(helper.parent), error.cause)]) from error
    _put(limits, json.dumps(limits_of(settings), indent=2).encode() + b"\n", 0o644)
    _put(helper, build(interpreter, limits), 0o755)
    _put(sudoers, sudoers_line(settings).encode(), 0o440)
    return [f"{helper}: the helper, run by {interpreter}", f"{limits}: its limits", f"{sudoers}: one line for sudo"]


def check_helper(settings: Settings) -> list[Problem]:
    """What is wrong with the installed helper, as far as the calling user can see; empty when it works.

    Args:
        settings: as given to `install_helper`.
    """
    helper, limits = settings.WODHELPER, limits_file(settings.WODHELPER)
    again = "run `wodmail helper install` as root"
    try:
        trusted(helper)
        found = vars(read_limits(limits))
        current = helper.read_bytes()
    except (OSError, HelperError) as error:
        return [Problem(str(helper), f"{getattr(error, 'cause', error)}; {again}")]
    problems = []
    if found != limits_of(settings):
        problems.append(Problem(str(limits), f"its limits are not those of the configuration; {again}"))
    interpreter = Path(current.partition(b" -I\n")[0].removeprefix(b"#!").decode(errors="replace"))
    if current != build(interpreter, limits):
        problems.append(Problem(str(helper), f"it is of another version of wodmail; {again}"))
    return problems + _try(settings)


def _try(settings: Settings) -> list[Problem]:
    """Start it as the server would, and ask."""
    argv = [str(settings.WODHELPER)] if os.geteuid() == 0 else ["sudo", "-n", str(settings.WODHELPER)]
    client = HelperClient(argv, timeout=_CHECK_SECONDS)
    try:
        version = client.call("ping").fields.get("version")
    except WodmailError as error:
        return [Problem(str(settings.WODHELPER), error.operator)]
    finally:
        client.close()
    return [] if version == VERSION else [Problem(str(settings.WODHELPER), f"it speaks version {version} of {VERSION}")]


def python() -> Path | None:
    """A python that belongs to root alone, to run the helper; None when there is none."""
    for path in PYTHONS:
        with contextlib.suppress(OSError, HelperError):
            real = path.resolve(strict=True)
            trusted(real)
            return real
    return None


def _problems(settings: Settings, sudoers: Path) -> list[Problem]:
    """What can be seen to be wrong before anything is touched."""
    found = []
    for path in (settings.WODHELPER, settings.WODSTUDDIR):
        if not _PLAIN.fullmatch(str(path)):
            found.append(Problem(str(path), "it must be an absolute path of letters, digits, dots, dashes and slashes"))
    try:
        if pwd.getpwnam(settings.WODUSER).pw_uid == 0:
            found.append(Problem("WODUSER", "wodmail must not run as root; name another user"))
    except KeyError:
        found.append(Problem("WODUSER", f"there is no user {settings.WODUSER}; make it first"))
    if not sudoers.parent.is_dir():
        found.append(Problem(str(sudoers.parent), "there is no such folder; install sudo"))
    if settings.WODUSERMIN > settings.WODUSERMAX:
        found.append(Problem("WODUSERMIN", "it is above WODUSERMAX"))
    return found


def _check_sudoers(line: str) -> None:
    visudo = shutil.which("visudo", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if visudo is None:
        raise ConfigError([Problem("visudo", "it is not here; install sudo")])
    done = subprocess.run([visudo, "-c", "-f", "-"], input=line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed("The line for sudo is not valid.", f"visudo about {line!r}: {(done.stderr + done.stdout).strip()}")


def _put(path: Path, data: bytes, mode: int) -> None:
    """Write a root-owned file whole or not at all."""
    # The dot in its name makes sudo pass over a file that a crash left in sudoers.d.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
