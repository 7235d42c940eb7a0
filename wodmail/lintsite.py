"""What a workshop needs of its backend: scripts, an appliance's address."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wodmail import appliances, compiling, containerscripts, lintoutside, rendering
from wodmail.errors import Failed
from wodmail.lint import Finding, Severity, line_of
from wodmail.schema import Settings
from wodmail.wodyml import FILE, Workshop

KINDS = ("create", "post-copy", "cleanup", "reset", "setup")
ADDS = (
    re.compile(r"\bwod_add_variable\s+[\"']?([A-Za-z_]\w*)"),
    re.compile(r"\bquery\s+variable\s+\S+\s+\S+\s+[\"']?([A-Za-z_]\w*)"),
    re.compile(r"\b(?:echo|printf)\s+(?:-\w+\s+)?[\"']?([A-Za-z_]\w*):\s"),
)
"""How a create script gives the notebooks a variable (docs/variables.md)."""


def look(settings: Settings, workshop: Workshop, group: Mapping[str, Any] | None) -> Iterator[Finding]:
    """All that is wrong around one workshop.

    Args:
        settings: folders of scripts.
        workshop: as its wod.yml describes it.
        group: the group's variables; None when they can't be read.
    """
    if workshop.folder is None:
        return
    file = workshop.folder / FILE
    if workshop.reset and not scripts(settings, "reset", workshop.name):
        words = f"reset: true, but there is no reset-{workshop.name}.sh.j2"
        yield Finding(workshop.name, file, line_of(file, "reset"), Severity.ERROR, words, _into(settings))
    yield from _compiled(settings, workshop)
    if group is not None:
        yield from _appliance(settings, workshop)
        for kind in KINDS:
            for script in scripts(settings, kind, workshop.name):
                if script.suffix == ".j2":
                    yield from _template(workshop, script, group)


def scripts(settings: Settings, kind: str, ws: str) -> list[Path]:
    """The files that a workshop's scripts of a kind are made from, public then private (docs/scripts.md).

    Args:
        settings: WODSCRIPTDIR and WODSCRIPTPRIVDIR.
        kind: one of `KINDS`.
        ws: WKSHP-Name.
    """
    found = []
    for folder in (settings.WODSCRIPTDIR, settings.WODSCRIPTPRIVDIR):
        names = [folder / f"{kind}-{ws}.sh.j2", folder / f"{kind}-{ws}.sh"] if folder is not None else []
        found += [file for file in names if file.is_file() and not containerscripts.was_made(file)][:1]
    if not found and (file := containerscripts.file_of(settings, ws)) is not None:
        found = [file]
    return found


def given(settings: Settings, workshop: Workshop) -> frozenset[str]:
    """The variables of a student that exist only once a job runs: the password, what create scripts add.

    Args:
        settings: folders of scripts.
        workshop: as its wod.yml describes it.
    """
    found = {"PASSSTU"} if workshop.varpass or workshop.ldap else set()
    for file in scripts(settings, "create", workshop.name):
        if file.suffix != ".yml":
            text = file.read_text(encoding="utf-8", errors="replace")
            found.update(name for pattern in ADDS for name in pattern.findall(text))
    if (file_ := containerscripts.file_of(settings, workshop.name)) is not None:
        try:
            definition = containerscripts.load(file_)
        except Failed:  # a finding of its own
            return frozenset(found)
        found |= {*definition.ports, *definition.tokens}
    return frozenset(found)


def _compiled(settings: Settings, workshop: Workshop) -> Iterator[Finding]:
    """Scripts that are to be compiled must be there."""
    file = (workshop.folder or Path()) / FILE
    for name in workshop.compile:
        try:
            compiling.find([name], *compiling.folders(settings))
        except Failed as error:
            words = error.sender.partition("; ")[0]
            yield Finding(workshop.name, file, line_of(file, "compile"), Severity.ERROR, words, f"write {name}.j2")


def _appliance(settings: Settings, workshop: Workshop) -> Iterator[Finding]:
    """An appliance has an address; with one a student, every student of the range has one."""
    if not workshop.monoappliance and not workshop.multiappliance:
        return
    file = (workshop.folder or Path()) / FILE
    line = line_of(file, "multiappliance" if workshop.multiappliance else "monoappliance")
    students = (workshop.range[0], workshop.range[1]) if workshop.range else (settings.WODUSERMIN,)
    for student in students:
        try:
            appliances.target(settings, workshop, workshop.name, student)
        except Failed as error:
            advice = f"set IP-{workshop.name} in group_vars/{settings.WODGROUP}.yml"
            yield Finding(workshop.name, file, line, Severity.ERROR, error.sender, advice)
            return


def _template(workshop: Workshop, script: Path, group: Mapping[str, Any]) -> Iterator[Finding]:
    found: list[Finding] = []
    with lintoutside.kept() as outside:
        try:
            rendering.render(script, group, sandbox=True)
        except rendering.Broken as error:
            name = error.variable
            advice = f"define {name} in group_vars or in the configuration" if name else "correct the template"
            found.append(Finding(workshop.name, script, error.line, Severity.ERROR, error.reason, advice))
    wanted = outside.taken()
    yield from lintoutside.told(workshop.name, script, wanted)
    for each in found:
        sure = " is undefined" in each.text or not (wanted or " is unsafe" in each.text)
        yield each if sure else lintoutside.doubtful(each)


def _into(settings: Settings) -> str:
    private = f" or {settings.WODSCRIPTPRIVDIR}" if settings.WODSCRIPTPRIVDIR is not None else ""
    return f"write one into {settings.WODSCRIPTDIR}{private}, or say reset: false"
