"""The workshops there are: folders WKSHP-Name in the public and private notebooks, each with a wod.yml."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from wodmail.errors import Problem
from wodmail.wodyml import FILE, Workshop, read

__all__ = ["Catalog", "Workshop", "folder_name", "near", "unknown"]

NAME = re.compile(r"(WKSHP|CHLG)-[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def folder_name(name: str) -> str | None:
    """The folder that belongs to a workshop's name: WKSHP-Name also for CHLG-Name; None when it is no such name."""
    if NAME.fullmatch(name) is None:
        return None
    return "WKSHP-" + name.partition("-")[2]


def near(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """At most three names that look like this one, the nearest first; upper and lower case count as alike."""
    known = {other.lower(): other for other in names}
    return tuple(known[match] for match in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5))


def unknown(missing: str, names: Sequence[str], name: str, *, listed: str = "there are") -> str:
    """The words for a workshop that there is not.

    Args:
        missing: how it is said, with `{}` for the name, e.g. "there is no workshop {} here".
        names: the workshops that there are.
        name: the one that was asked for; shown cut.
        listed: what introduces those that there are, when none looks like it.
    """
    shown = name if len(name) <= 80 else name[:77] + "..."
    close = near(shown, names)
    if close:
        return f"{missing.format(shown)}; did you mean {' or '.join(close)}?"
    few = ", ".join(names[:10]) + (" and more" if len(names) > 10 else "")
    return f"{missing.format(shown)}; {listed}: {few or 'none'}"


_Stamp = tuple[int, int, int] | None


def _stamp(file: Path) -> _Stamp:
    """What changes when the file does; None when there is no file."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Catalog:
    """The workshops of a public and a private notebooks folder; the public one wins when both have a name.

    A wod.yml is read again when it has changed, so nothing has to be told. Safe for several threads.

    Args:
        public: the folder that holds WKSHP-Name folders; None or absent counts as empty.
        private: the second such folder, or None.
    """

    def __init__(self, public: Path | None, private: Path | None = None) -> None:
        self.trees = tuple(tree for tree in (public, private) if tree is not None)
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[_Stamp, Workshop]] = {}

    def find(self, name: str) -> Workshop | None:
        """The workshop of that name, or None.

        Args:
            name: WKSHP-Name, or CHLG-Name for the same folder; anything else is nowhere, and the disk isn't asked.
        """
        wanted = folder_name(name)
        if wanted is None:
            return None
        folders = (tree / wanted for tree in self.trees)
        return next((self._cached(folder) for folder in folders if folder.is_dir()), None)

    def names(self) -> tuple[str, ...]:
        """The names of all workshops, in alphabetical order."""
        return tuple(sorted(self._folders()))

    def all(self) -> tuple[Workshop, ...]:
        """All workshops, in alphabetical order of their names."""
        folders = self._folders()
        return tuple(self._cached(folders[name]) for name in sorted(folders))

    def problems(self) -> tuple[Problem, ...]:
        """Every mistake in the catalogue: each workshop's own, and ranges that overlap."""
        workshops = self.all()
        found = [Problem(f"{w.folder}/{FILE}", text) for w in workshops for text in w.problems]
        for one, two in combinations([w for w in workshops if w.range], 2):
            if one.range and two.range and one.range[0] <= two.range[1] and two.range[0] <= one.range[1]:
                text = f"range: {_span(one)} overlaps {_span(two)}: one student would get two workshops' files"
                found.append(Problem(f"{two.folder}/{FILE}", text))
        return tuple(found)

    def _folders(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for tree in self.trees:
            for entry in _folders_in(tree):
                if entry.name.startswith("WKSHP-") and NAME.fullmatch(entry.name):
                    found.setdefault(entry.name, entry)
        return found

    def _cached(self, folder: Path) -> Workshop:
        stamp = _stamp(folder / FILE)
        with self._lock:
            known = self._read.get(folder)
            if known is None or known[0] != stamp or stamp is None:
                known = self._read[folder] = (stamp, read(folder))
            return known[1]


def _folders_in(tree: Path) -> list[Path]:
    """The folders in a folder; none when it is absent or may not be read."""
    try:
        return [entry for entry in tree.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _span(workshop: Workshop) -> str:
    first, last = workshop.range or (0, 0)
    return f"[{first},{last}] of {workshop.name}"
