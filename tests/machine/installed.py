"""A machine that became a backend by the words of README.md, for tests that begin with one."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.machine.machine import Machine

TREE = Path(__file__).resolve().parents[2]
HEADING = "## Install it"
REPOSITORY = "<this repository>"
PRINTED = "printed"
SENDER = "operator@example.org"
INSTALL = 1500  # seconds; about five minutes on two cores that have nothing else to do


@dataclass(frozen=True)
class Installed:
    """A stopped machine with a backend.

    Args:
        folder: what it changed; for `Machine(..., below=[folder])`.
        printed: what the installation printed.
    """

    folder: Path
    printed: str


def repository(folder: Path) -> Path:
    """This tree, with what isn't committed yet, as a repository of its own.

    Args:
        folder: where to put it.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TREE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [name for name in listed.split("\0") if name and (TREE / name).is_file()]
    folder.mkdir(mode=0o755)
    packed = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-"],
        cwd=TREE,
        input="\0".join(names).encode(),
        capture_output=True,
        check=True,
    ).stdout
    subprocess.run(["tar", "--extract", "--no-same-owner"], cwd=folder, input=packed, check=True)
    who = ["-c", "user.name=tests", "-c", f"user.email={SENDER}", "-c", "core.excludesFile="]
    for words in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message", "this tree"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def words() -> str:
    """What README.md says under its heading: the lines of the first block."""
    text = (TREE / "README.md").read_text(encoding="utf-8").partition(HEADING)[2]
    block = re.search(r"(?:^ {4}\S.*\n)+", text, re.MULTILINE)
    assert block is not None, f"README.md has no block under {HEADING!r}"
    return block.group()


def install(folder: Path, tree: Path) -> Installed:
    """Make a machine a backend, and stop it.

    Args:
        folder: an empty folder for what the machine changes.
        tree: the repository that is cloned.
    """
    said = words()
    assert REPOSITORY in said
    with Machine(folder, binds={tree: "/srv/wodmail"}) as machine:
        printed = machine.shell(said.replace(REPOSITORY, "/srv/wodmail"), timeout=INSTALL)
    (folder / PRINTED).write_text(printed, encoding="utf-8")
    return Installed(folder, printed)


def kept() -> Installed | None:
    """An installation of an earlier run, named by WODMAIL_TEST_INSTALLED to save the time for another one."""
    named = os.environ.get("WODMAIL_TEST_INSTALLED")
    return Installed(Path(named), (Path(named) / PRINTED).read_text(encoding="utf-8")) if named else None
