"""What is wrong in the catalogue of workshops, before a student meets it (docs/catalog.md, "Lint").

This module goes through the folders; `lintdescription` looks at a wod.yml, `lintsite` at what the backend must have for
a workshop, `lintseats` at its seats on appliances, `lintfiles` at its files and templates. Nothing is changed and no
Ansible is started.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from wodmail import paths
from wodmail.catalog import NAME
from wodmail.errors import Problem
from wodmail.schema import Settings
from wodmail.wodyml import FILE, Workshop, read

MAX_BYTES = 20 * 1024 * 1024


class Severity(StrEnum):
    """How bad a finding is: an error is something that a student or an operator runs into; a note is no mistake."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        workshop: WKSHP-Name; "" for what concerns them all.
        file: the file or folder.
        line: the line in it, from 1; 0 when there is none.
        severity: see `Severity`.
        text: what is wrong.
        advice: what to do about it.
    """

    workshop: str
    file: Path
    line: int
    severity: Severity
    text: str
    advice: str = ""

    @property
    def where(self) -> str:
        """file:line, beginning at the workshop's folder where it is in there."""
        parts = self.file.parts
        inside = self.workshop in parts[:-1] and self.workshop != ""
        shown = "/".join(parts[parts.index(self.workshop) :]) if inside else str(self.file)
        return f"{shown}:{self.line}" if self.line else shown


@dataclass(frozen=True, slots=True)
class Report:
    """All that was looked at.

    Args:
        workshops: the names of those that were looked at.
        findings: sorted by workshop, file and line.
    """

    workshops: tuple[str, ...]
    findings: tuple[Finding, ...]
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        counted = Counter(finding.severity for finding in self.findings)
        made = {"workshops": len(self.workshops), "errors": counted[Severity.ERROR]}
        object.__setattr__(self, "counts", {**made, "warnings": counted[Severity.WARNING]})

    def status(self, *, strict: bool) -> int:
        """The exit status: 1 with errors, with `strict` also with warnings."""
        return int(self.counts["errors"] > 0 or (strict and self.counts["warnings"] > 0))


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with workshops.

    Args:
        name: WODNOBO or WODPRIVNOBO.
        folder: where it is.
    """

    name: str
    folder: Path


def look(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    max_bytes: int = MAX_BYTES,
    on_workshop: Callable[[str], None] | None = None,
) -> Report:
    """Look at the workshops, public and private.

    Args:
        settings: the configuration: folders, variables, student numbers.
        names: WKSHP-Names to look at; all when empty. Ranges are compared with all others either way.
        max_bytes: a file larger than this is an error, at least 1.
        on_workshop: called before each workshop, with its name.
    """
    # Imported late: they bring Ansible's template engine.
    from wodmail import lintdescription, lintfiles, lintseats, lintsite

    findings = [] if names else list(_places(settings))
    folders = [folder for folder in _folders(settings) if not names or folder.name in names]
    expander = lintfiles.Templates(settings)
    findings += expander.problems
    overlaps = lintdescription.overlaps(settings)
    clashes = lintseats.clashing(settings, expander.group) if expander.group is not None else ()
    for folder in folders:
        if on_workshop is not None:
            on_workshop(folder.name)
        workshop = read(folder)
        findings += lintdescription.look(settings, workshop, overlaps)
        findings += lintsite.look(settings, workshop, expander.group)
        findings += lintseats.look(settings, workshop, expander.group, clashes)
        findings += lintfiles.look(workshop, expander, max_bytes)
        findings += _hidden(settings, folder)
    order = sorted(set(findings), key=lambda each: (each.workshop, str(each.file), each.line, each.severity, each.text))
    return Report(tuple(sorted({folder.name for folder in folders})), tuple(order))


@contextmanager
def own_configuration() -> Iterator[None]:
    """Ansible takes the configuration that jobs have; one in the folder that it is started in could name programs."""
    before = os.environ.get("ANSIBLE_CONFIG")
    os.environ["ANSIBLE_CONFIG"] = str(paths.share("ansible") / "ansible.cfg")
    try:
        yield
    finally:
        if before is None:
            del os.environ["ANSIBLE_CONFIG"]
        else:
            os.environ["ANSIBLE_CONFIG"] = before


def places(settings: Settings) -> list[Place]:
    """The folders with workshops that are configured, public first."""
    made = [("WODNOBO", settings.WODNOBO), ("WODPRIVNOBO", settings.WODPRIVNOBO)]
    return [Place(name, folder) for name, folder in made if folder is not None]


def _folders(settings: Settings) -> Iterator[Path]:
    """Every workshop's folder, also those that another one hides."""
    for place in places(settings):
        if place.folder.is_dir():
            for entry in sorted(place.folder.iterdir()):
                if entry.name.startswith("WKSHP-") and NAME.fullmatch(entry.name) and entry.is_dir():
                    yield entry


def _places(settings: Settings) -> Iterator[Finding]:
    """What is wrong with the folders themselves."""
    for place in places(settings):
        if not place.folder.is_dir():
            if place.name == "WODNOBO" or place.name in settings.model_fields_set:
                words, advice = f"{place.name} is no folder", "make it, or correct the setting"
                yield Finding("", place.folder, 0, Severity.ERROR, words, advice)
            continue
        for entry in sorted(place.folder.iterdir()):
            upper = entry.name.upper()
            if not entry.is_dir() or not upper.startswith(("WKSHP", "CHLG")):
                if entry.is_dir() and (entry / FILE).is_file():
                    yield _misnamed(entry)
            elif not (entry.name.startswith("WKSHP-") and NAME.fullmatch(entry.name)):
                yield _misnamed(entry)


def _misnamed(entry: Path) -> Finding:
    words = "this folder is no workshop: its name is not WKSHP- and at most 64 letters, digits, . _ -"
    if entry.name.startswith("CHLG-"):
        words = "this folder is never used: a challenge CHLG-Name is the folder WKSHP-Name"
    return Finding("", entry, 0, Severity.WARNING, words, "rename it to WKSHP-Name")


def _hidden(settings: Settings, folder: Path) -> Iterator[Finding]:
    """A private workshop of a public one's name is never used."""
    public = places(settings)[0].folder / folder.name
    if folder.parent != public.parent and public.is_dir():
        words = f"never used: there is a public workshop {folder.name}, and the public one wins"
        yield Finding(folder.name, folder, 0, Severity.WARNING, words, "rename or remove one of them")


def problem(workshop: Workshop, found: Problem, severity: Severity, line: int = 0) -> Finding:
    """A finding out of a problem: its text says what is wrong, and after a semicolon what to do."""
    text, _, advice = found.message.partition("; ")
    return Finding(workshop.name, Path(found.path), line, severity, text, advice)


def line_of(file: Path, key: str) -> int:
    """The line of a key at the left edge of a YAML file; 0 when it isn't found.

    Args:
        file: a wod.yml or the like; may be missing.
        key: its name.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return next((number for number, line in enumerate(lines, 1) if re.match(rf"[\"']?{key}[\"']?\s*:", line)), 0)
