"""Read a workshop's folder: what is copied as it is and what is expanded as a template."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from wodmail.errors import Failed
from wodmail.students.treewriter import Entry

EXPANDED = re.compile(r"(?s).*\.(ipynb|yaml|py|sh|src|tf|env)|Variables\.ps1")
KEPT = re.compile(r"(?s).*-checkpoint\.ipynb|.*\.j2")
MARKS = re.compile(rb"\{\{|\{%|\{#")
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Source:
    """A workshop's folder as read.

    Args:
        folder: where it was read from.
        entries: folders, links and files in a stable order; paths relative to the folder.
        skipped: names of what isn't copied: sockets, pipes, devices, links that lead out of the home.
    """

    folder: Path
    entries: tuple[Entry, ...]
    skipped: tuple[str, ...]

    def templates(self) -> list[Entry]:
        """The files that are expanded and hold a template mark at all."""
        return [entry for entry in self.entries if is_template(entry)]


def is_expanded(name: str) -> bool:
    """Whether a file of that name is expanded as a template (docs/copy-folder.md, "Which files are expanded")."""
    return EXPANDED.fullmatch(name) is not None and KEPT.fullmatch(name) is None


def is_template(entry: Entry) -> bool:
    """Whether the entry is a file to expand that has anything to expand."""
    name = entry.path.rpartition("/")[2]
    return entry.kind == "file" and is_expanded(name) and MARKS.search(entry.data) is not None


def find(workshop: str, public: str, private: str) -> Path:
    """The workshop's folder: the public one, else the private one.

    Args:
        workshop: the folder's name, e.g. "WKSHP-API101".
        public: folder of the public notebooks (WODNOBO) or "".
        private: folder of the private notebooks (WODPRIVNOBO) or "".

    Raises:
        Failed: in neither of them, or the name is no plain name.
    """
    if "/" in workshop or workshop in ("", ".", ".."):
        raise Failed(f"{workshop!r} is no name of a workshop")
    for parent in (public, private):
        if parent and (Path(parent) / workshop).is_dir():
            return Path(parent) / workshop
    places = " or ".join(place for place in (public, private) if place) or "WODNOBO (which is not set)"
    raise Failed(f"there is no folder {workshop} in {places}; deliver the workshop's notebooks there")


def read(folder: Path) -> Source:
    """Read the whole folder into memory; symbolic links are kept as links and never followed, which is why those that
    lead out of the home are left out.

    Raises:
        Failed: something can't be read, or it is larger than 1 GiB.
    """
    entries: list[Entry] = []
    skipped: list[str] = []
    total = 0
    try:
        for path in sorted(_walk(os.fspath(folder))):
            relative = os.path.relpath(path, folder)
            entry = _entry(path, relative, MAX_BYTES - total)
            if entry is None:
                skipped.append(relative)
                continue
            total += len(entry.data)
            entries.append(entry)
    except _TooLargeError as error:
        raise Failed(f"the workshop's folder {folder.name} holds more than 1 GiB", f"{folder} is too large") from error
    except OSError as error:
        raise Failed(f"a file of {folder.name} can't be read: {error.strerror}", f"{error}") from error
    return Source(folder, tuple(entries), tuple(skipped))


def _walk(folder: str) -> list[str]:
    """All paths below a folder, folders too; links to folders are listed and not entered."""
    found: list[str] = []
    for item in os.scandir(folder):
        found.append(item.path)
        if item.is_dir(follow_symlinks=False):
            found.extend(_walk(item.path))
    return found


def _leads_out(relative: str, target: str) -> bool:
    """Whether a link, once in the workshop's folder in a home, leads out of that home."""
    end = os.path.normpath(f"workshop/{relative}/../{target}")
    return target.startswith("/") or end == ".." or end.startswith("../")


class _TooLargeError(Exception):
    """A file is larger than what is left."""


def _entry(path: str, relative: str, left: int) -> Entry | None:
    """What is at a path; None for what isn't copied.

    Args:
        path: where it is.
        relative: the same below the workshop's folder.
        left: bytes that it may have; a larger one isn't read first.
    """
    status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode) & 0o755
    if stat.S_ISLNK(status.st_mode):
        target = str(Path(path).readlink())
        return None if _leads_out(relative, target) else Entry(relative, "link", target=target)
    if stat.S_ISDIR(status.st_mode):
        return Entry(relative, "dir", mode | 0o700)
    if not stat.S_ISREG(status.st_mode):
        return None
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        data = file.read() if status.st_size <= left else b""
        if status.st_size > left or len(data) > left:
            raise _TooLargeError
        return Entry(relative, "file", mode | 0o600, data)
