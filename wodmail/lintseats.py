"""What keeps the seats of a workshop from working: its file in conf/containers/ against wod.yml and group_vars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wodmail import appliances, containers, containerscripts
from wodmail.catalog import Catalog
from wodmail.containers import Definition
from wodmail.errors import Failed
from wodmail.lint import Finding, Severity, line_of
from wodmail.schema import Settings
from wodmail.wodyml import FILE, Workshop


@dataclass(frozen=True, slots=True)
class Seat:
    """A student's port on an appliance.

    Args:
        workshop: WKSHP-Name.
        port: the variable that names it, such as HTTPPORT.
        student: the student's number.
    """

    workshop: str
    port: str
    student: int


@dataclass(frozen=True, slots=True)
class Clash:
    """Two students who have the same port of the same appliance.

    Args:
        address: the appliance.
        number: the port.
        first: who has it.
        second: who has it, too.
    """

    address: str
    number: int
    first: Seat
    second: Seat


def look(
    settings: Settings, workshop: Workshop, group: Mapping[str, Any] | None, clashes: tuple[Clash, ...]
) -> Iterator[Finding]:
    """All that is wrong with one workshop's seats; nothing for a workshop without.

    Args:
        settings: folders of definitions and of workshops.
        workshop: as its wod.yml describes it.
        group: the group's variables; None when they can't be read.
        clashes: see `clashing`.
    """
    file = containerscripts.file_of(settings, workshop.name)
    if (way := containerscripts.gives_way(settings, workshop.name)) is not None:
        severity = Severity.WARNING if way.made else Severity.NOTE
        yield Finding(workshop.name, way.own, 0, severity, way.words, way.advice(settings))
    if file is None or workshop.folder is None:
        return
    definition, problems = containers.read(file)
    for each in problems:
        advice = "correct it (docs/container-workshops.md)"
        yield Finding(workshop.name, Path(each.path), 0, Severity.ERROR, each.message, advice)
    if definition is None:
        return
    yield from _described(workshop, workshop.folder / FILE, file, definition)
    if group is not None:
        yield from _rendered(settings, workshop, file, definition, group)
        yield from _clashes(workshop, file, clashes)


def clashing(settings: Settings, group: Mapping[str, Any]) -> tuple[Clash, ...]:
    """Ports that two students have on one appliance: the first of each pair of workshops and variables.

    Args:
        settings: folders of definitions and of workshops.
        group: the group's variables: addresses, first ports.
    """
    taken: dict[tuple[str, int], Seat] = {}
    found: dict[tuple[str, str, str, str], Clash] = {}
    for workshop in Catalog(settings.WODNOBO, settings.WODPRIVNOBO).all():
        for address, number, seat in _seats(settings, workshop, group):
            first = taken.setdefault((address, number), seat)
            if first is not seat:
                pair = (first.workshop, first.port, seat.workshop, seat.port)
                found.setdefault(pair, Clash(address, number, first, seat))
    return tuple(found.values())


def _seats(settings: Settings, workshop: Workshop, group: Mapping[str, Any]) -> Iterator[tuple[str, int, Seat]]:
    """Every port of every student; nothing for a workshop that has another finding."""
    file = containerscripts.file_of(settings, workshop.name)
    definition = containers.read(file)[0] if file is not None else None
    alone = not workshop.monoappliance and not workshop.multiappliance
    if definition is None or workshop.range is None or alone:
        return
    ws, (begin, end) = workshop.name, workshop.range
    try:
        base = appliances.base_address(settings, ws)
        firsts = {name: containerscripts.first_port(name, ws, definition, group) for name in definition.ports}
        for student in range(begin, min(end, begin + definition.seats - 1) + 1):
            address = appliances.nth(ws, base, student, workshop.range) if workshop.multiappliance else base
            for name, first in firsts.items():
                yield address, first + student - begin, Seat(ws, name, student)
    except Failed:
        return


def _described(workshop: Workshop, wod: Path, file: Path, definition: Definition) -> Iterator[Finding]:
    """What wod.yml must say for a workshop with seats."""
    name, short = workshop.name, containerscripts.FOLDER / file.name
    if not workshop.monoappliance and not workshop.multiappliance:
        words = f"{short} gives it seats on an appliance, but wod.yml names none: each CREATE ends with status 64"
        advice = f"write monoappliance: true (or multiappliance: true), and IP-{name} in group_vars"
        yield Finding(name, wod, line_of(wod, "monoappliance"), Severity.ERROR, words, advice)
    if not workshop.reset:
        words = f"reset: false, but {short} gives it seats on an appliance: only a RESET locks students out there"
        yield Finding(name, wod, line_of(wod, "reset"), Severity.ERROR, words, "write reset: true")
    if definition.container is None:
        return
    if workshop.range is None:
        words = "range: missing, but a student's port is counted from its first: each CREATE fails"
        yield Finding(name, wod, 0, Severity.ERROR, words, "write range: [FIRST,LAST]")
    elif workshop.size > definition.seats:
        begin, end = workshop.range
        words = f"range: {workshop.size} students, but {short} keeps ports for {definition.seats}"
        words += f": no CREATE for students {begin + definition.seats} to {end}"
        advice = f"write seats: {workshop.size} into {file}, or a shorter range"
        yield Finding(name, wod, line_of(wod, "range"), Severity.ERROR, words, advice)


def _rendered(
    settings: Settings, workshop: Workshop, file: Path, definition: Definition, group: Mapping[str, Any]
) -> Iterator[Finding]:
    """What making the scripts would say, as a job does it."""
    try:
        containerscripts.scripts_of(workshop.name, definition, group)
    except Failed as error:
        advice = f"correct it in group_vars/{settings.WODGROUP}.yml, or leave it out"
        line = line_of(file, "ports")
        yield Finding(workshop.name, file, line, Severity.ERROR, error.sender, advice)


def _clashes(workshop: Workshop, file: Path, clashes: tuple[Clash, ...]) -> Iterator[Finding]:
    for clash in clashes:
        one, two = clash.first, clash.second
        if two.workshop == workshop.name:
            words = f"ports: {two.port} of student {two.student} is {clash.number} on {clash.address}, "
            words += f"as is {one.port} of student {one.student} of {one.workshop}"
            advice = f"give it another first port, here or as {two.port}-{two.workshop} in group_vars"
            line = line_of(file, "ports")
            yield Finding(workshop.name, file, line, Severity.ERROR, words, advice)
