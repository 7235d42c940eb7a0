"""Programs of the scripts that a workshop lists under `compile`: found, compiled with `shc` (docs/compile.md).

Plain Python; what fills in their variables is `copyfolder/programs.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wodmail.errors import Failed
from wodmail.wodyml import SCRIPT

if TYPE_CHECKING:  # inside Ansible nobody needs it, and it takes a while to import
    from wodmail.schema import Settings

# One argument of a program may have 128 KiB; a compiled script runs as one, behind 4 KiB of blanks that shc puts there.
MAX_BYTES = 120_000
SAID_LINES = 15
_NEEDED = (("shc", "shc"), ("cc", "gcc and libc6-dev"))
_NOT_GIVEN = frozenset({"CC", "CFLAGS", "LDFLAGS"})


@dataclass(frozen=True, slots=True)
class Script:
    """A script to compile.

    Args:
        name: as it is listed, e.g. "train.sh".
        where: "public" or "private".
        file: the script, or the template that it is made from.
    """

    name: str
    where: str
    file: Path

    @property
    def program(self) -> str:
        """The program's name in the home."""
        return self.name.removesuffix(".sh")

    @property
    def template(self) -> bool:
        """Whether variables are filled in; a plain script is taken as it is (`${#name}` is shell, not a mark)."""
        return self.file.suffix == ".j2"


def folders(settings: Settings) -> tuple[str, str]:
    """The folders of scripts as `find` wants them, "" for one that isn't set."""
    return str(settings.WODSCRIPTDIR), str(settings.WODSCRIPTPRIVDIR or "")


def find(names: Sequence[str], public: str, private: str) -> list[Script]:
    """The scripts of that list, each once, in its order; of two the private one, and a template before a script.

    Args:
        names: as wod.yml lists them: "a.sh".
        public: folder of the public scripts (WODSCRIPTDIR), "" for none.
        private: folder of the private scripts (WODSCRIPTPRIVDIR), "" for none.

    Raises:
        Failed: names every script that is in neither folder, or that is no script's name.
    """
    wrong = [name for name in names if not SCRIPT.fullmatch(name)]
    if wrong:
        raise Failed(f"{', '.join(map(repr, wrong))} can't be compiled: it is no script's name; write a.sh")
    found = {name: _find(name, public, private) for name in names}
    missing = [name for name, script in found.items() if script is None]
    if missing:
        one = missing[0]
        words = f"{', '.join(missing)} can't be compiled: there is no such script; write {one}.j2 or {one} into"
        raise Failed(f"{words} {public or 'WODSCRIPTDIR (not set)'} or {private or 'WODSCRIPTPRIVDIR (not set)'}")
    return [script for script in found.values() if script is not None]


def _find(name: str, public: str, private: str) -> Script | None:
    for where, folder in (("private", private), ("public", public)):
        for file in (Path(folder, f"{name}.j2"), Path(folder, name)) if folder else ():
            if file.is_file():
                return Script(name, where, file)
    return None


def check_tools() -> None:
    """See that what compiles is installed.

    Raises:
        Failed: names the program and the Debian package that has it.
    """
    for program, package in _NEEDED:
        if shutil.which(program) is None:
            words = f"scripts can't be compiled here: there is no {program}; install it (Debian: apt-get install"
            raise Failed(f"{words} {package})", f"{program} is not on the PATH {os.environ.get('PATH', '')!r}")


def build(script: Script, text: bytes, above: str) -> bytes:
    """Compile a script.

    Everything happens in a folder of its own (0700) that is removed whatever happens: the text with its variables
    filled in, the C source made of it, the compiler's own files.

    Args:
        script: names it.
        text: its text, variables filled in; at most 120 000 bytes.
        above: an existing folder; what a killed process leaves there has to be removed by whoever made it.

    Returns:
        The program: an executable for this kind of machine, which runs the shell that the first line names.

    Raises:
        Failed: it can't be compiled; `output` is what shc said, which may quote the script's first line.
    """
    if len(text) > MAX_BYTES:
        raise Failed(f"{script.name} can't be compiled: {len(text)} bytes, a compiled script may have {MAX_BYTES}")
    check_tools()
    try:
        with tempfile.TemporaryDirectory(prefix="compile-", dir=above) as folder:
            return _build(script, text, Path(folder))
    except OSError as error:
        raise Failed(f"{script.name} can't be compiled: {error.strerror}", str(error)) from error


def _build(script: Script, text: bytes, folder: Path) -> bytes:
    source, program = folder / script.name, folder / f"{script.name}.program"
    with os.fdopen(os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(text)
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_GIVEN}
    # -r: it runs elsewhere too, and after the shell itself was updated.
    ended = subprocess.run(
        ["shc", "-r", "-f", str(source), "-o", str(program)],
        cwd=folder,
        env={**inherited, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if ended.returncode or not program.is_file():
        said = _said(ended.stdout.decode(errors="replace").replace(f"{folder}/", ""))
        hint = "; its first line must name the shell: #!/bin/bash" if not text.startswith(b"#!") else ""
        words = f"{script.name} can't be compiled{hint}; shc says: {said.splitlines()[0]}"
        raise Failed(words, f"{script.file}: shc: exit status {ended.returncode}", output=said)
    return program.read_bytes()


def _said(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and line.strip() != "shc: Success"]
    return "\n".join(lines[:SAID_LINES]) or "nothing"
