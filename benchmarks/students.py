"""2000 students' accounts and homes by `wod-students`: from nothing, again when nothing changes, removed.

In a mount namespace with a copy of /etc, so the machine's accounts stay as they are.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, spread, timed
from benchmarks.site import program

MAKE = """
set -e
cp -a /etc/. "$1/etc"
printf %s "$2" > "$1/etc/wod.yml"
chmod 640 "$1/etc/wod.yml"
mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /run
useradd --system --user-group -M wodadmin
chown root:wodadmin /etc/wod.yml
chown wodadmin "$1/state"
echo ready
exec cat
"""
CONFIGURATION = """\
WODUSERMIN: 1
WODUSERMAX: {count}
UIDBASE: 200000
GIDBASE: 200000
WODSTUDDIR: {folder}/students
WODSTATEDIR: {folder}/state
WODSENDER: frontend@example.org
"""


def students(folder: Path, stick: float, count: int, rounds: int) -> list[Figure]:
    """Make, make again, remove.

    Args:
        folder: for the namespace and the homes; made.
        stick: the yardstick's seconds.
        count: how many students.
        rounds: how often.
    """
    reason = _why_not()
    if reason:
        return [Figure(f"{count} students' accounts and homes", None, "x", detail=reason)]
    for name in ("etc", "state"):
        (folder / name).mkdir(parents=True)
    found: dict[str, list[float]] = {"made": [], "unchanged": [], "removed": []}
    with _namespace(folder, count) as enter:
        for _ in range(rounds):
            for what, argv in (("made", ["ensure"]), ("unchanged", ["ensure"]), ("removed", ["remove", "--yes"])):
                command = [*enter, program("wod-students"), *argv]
                found[what].append(timed(partial(_run, command)))
    title = f"{count} students' accounts and homes"
    made, unchanged, removed = (statistics.median(times) for times in found.values())
    return [
        Figure(f"{title} from nothing", made / stick, "x", 12, detail=spread(found["made"])),
        Figure(f"{title} when nothing changes", unchanged / stick, "x", 1, detail=spread(found["unchanged"])),
        Figure(f"{title} removed", removed / stick, "x", detail=spread(found["removed"])),
    ]


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root"
    lacks = [name for name in ("unshare", "nsenter", "useradd") if shutil.which(name) is None]
    return f"needs {', '.join(lacks)}" if lacks else ""


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[-2:]} ended with {done.returncode}: {done.stdout}{done.stderr}")


@contextmanager
def _namespace(folder: Path, count: int) -> Iterator[list[str]]:
    """Gives what goes in front of an argv to run it inside."""
    text = CONFIGURATION.format(folder=folder, count=count)
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "--", "bash", "-c", MAKE, "bash", str(folder), text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if holder.stdout is None or holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"no namespace: {holder.communicate()[1].strip()}")
        yield ["nsenter", f"--target={holder.pid}", "--mount", "--"]
    finally:
        holder.kill()
        holder.communicate()
