"""Which appliances there are: the machines of workshops with monoappliance or multiappliance (docs/appliances.md)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wodmail import variables
from wodmail.catalog import Catalog, folder_name, near, unknown
from wodmail.errors import Failed, Problem, Refused
from wodmail.schema import Settings
from wodmail.wodyml import Workshop

NO_ADDRESS = "x.y.z.t"
_ADDRESS = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}")


@dataclass(frozen=True, slots=True)
class Use:
    """What one workshop uses an appliance for.

    Args:
        workshop: WKSHP-Name.
        students: first and last student number who work there, None when its wod.yml has no range.
    """

    workshop: str
    students: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Appliance:
    """One machine and the workshops that run there.

    Args:
        address: its address or host name.
        uses: one or more, in the order of the workshops.
    """

    address: str
    uses: tuple[Use, ...]

    @property
    def workshops(self) -> tuple[str, ...]:
        """The names of the workshops that run there."""
        return tuple(use.workshop for use in self.uses)

    @property
    def students(self) -> tuple[int, ...]:
        """The numbers of the students who work there, in order, each once."""
        spans = [use.students for use in self.uses if use.students is not None]
        return tuple(sorted({number for first, last in spans for number in range(first, last + 1)}))


def base_address(settings: Settings, w: str) -> str:
    """The group variable IP-<w> (private before public; a challenge may use its workshop's).

    Args:
        settings: the configuration; names the folders of group_vars.
        w: the workshop as mailed, WKSHP-Name or CHLG-Name.

    Raises:
        Failed: it is missing, still the placeholder x.y.z.t, or no address.
    """
    known = variables.for_group(settings)
    ws = "WKSHP-" + w.partition("-")[2]
    value = str(known.get(f"IP-{w}") or known.get(f"IP-{ws}") or "").strip()
    if not value or value == NO_ADDRESS:
        advice = f"set IP-{w} in group_vars/{settings.WODGROUP} (it is {value or 'missing'})"
        raise Failed(f"The address of the appliance of {w} is not configured: {advice}.", advice)
    if _ADDRESS.fullmatch(value) is None:
        advice = f"IP-{w} in group_vars/{settings.WODGROUP} is neither an address nor a host name"
        raise Failed(f"The address of the appliance of {w} is not usable: {advice}.", advice)
    return value


def target(settings: Settings, workshop: Workshop, w: str, student: int) -> str | None:
    """The address of the appliance that a student works on; None for workshops without one.

    Args:
        settings: see `base_address`.
        workshop: the workshop.
        w: its name as mailed.
        student: the student's number.

    Raises:
        Failed: the group variable IP-<w> is missing or no address, or the student is outside the range.
    """
    if workshop.multiappliance:
        return nth(w, base_address(settings, w), student, workshop.range)
    return base_address(settings, w) if workshop.monoappliance else None


def nth(w: str, base: str, student: int, span: tuple[int, int] | None) -> str:
    """The base address with its last number raised by the student's place in the workshop's range (pure).

    Args:
        w: the workshop as mailed, for the words.
        base: an IPv4 address.
        student: the student's number.
        span: the workshop's range; it counts from 1 without one.

    Raises:
        Failed: the base is no IPv4 address, or there is no such address in its /24.
    """
    first = span[0] if span else 1
    try:
        address = ipaddress.IPv4Address(base)
    except ValueError as error:
        advice = f"IP-{w} in group_vars must be an IPv4 address to count from, it is {base!r}"
        raise Failed(f"The address of the appliances of {w} is not usable: {advice}.", advice) from error
    last = int(address) & 0xFF
    number = last + student - first
    if not 0 < number < 255 or student < first:
        cause = f"IP-{w} is {base}, the range begins at {first}: the last number would be {number}"
        raise Failed(f"There is no appliance for student {student} of {w}: {cause}.", cause)
    return str(ipaddress.IPv4Address(int(address) - last + number))


def choose(settings: Settings, names: Sequence[str] = ()) -> list[Workshop]:
    """The workshops with appliances: those named, or all that there are.

    Args:
        settings: names the folders of workshops.
        names: WKSHP-Name or CHLG-Name.

    Raises:
        Refused: one named is no workshop, or has no appliance.
    """
    catalog = Catalog(settings.WODNOBO, settings.WODPRIVNOBO)
    if not names:
        return [each for each in catalog.all() if each.monoappliance or each.multiappliance]
    found = []
    for name in names:
        workshop = catalog.find(folder_name(name) or name)
        if workshop is None:
            raise Refused(unknown("there is no workshop {} here", catalog.names(), name))
        if not (workshop.monoappliance or workshop.multiappliance):
            raise Refused(f"{workshop.name} has no appliance; say monoappliance or multiappliance in its wod.yml")
        if workshop not in found:
            found.append(workshop)
    return found


def plan(settings: Settings, workshops: Iterable[Workshop]) -> tuple[list[Appliance], list[Problem]]:
    """The appliances of workshops, each address once, and what keeps others from having one.

    Students outside WODUSERMIN … WODUSERMAX are not on this backend, so they need no account there.

    Args:
        settings: the configuration.
        workshops: as `choose` gives them.
    """
    found: dict[str, list[Use]] = {}
    problems = []
    for workshop in workshops:
        try:
            for address, use in _uses(settings, workshop):
                found.setdefault(address, []).append(use)
        except Failed as error:
            problems.append(Problem(workshop.name, error.sender))
        if workshop.range is None:
            problems.append(Problem(workshop.name, "it has no range in its wod.yml: who works there is not known"))
    machines = [Appliance(address, tuple(uses)) for address, uses in found.items()]
    return sorted(machines, key=lambda machine: _order(machine.address)), problems


def only(machines: Sequence[Appliance], address: str) -> list[Appliance]:
    """The one with this address.

    Raises:
        Refused: no workshop runs there.
    """
    known = [machine.address for machine in machines]
    if address not in known:
        close = near(address, known) or known[:10]
        told = ", ".join(close) or "none at all"
        raise Refused(f"no workshop asked for runs on {address}; there are: {told}")
    return [machine for machine in machines if machine.address == address]


def _uses(settings: Settings, workshop: Workshop) -> list[tuple[str, Use]]:
    """All or nothing: a workshop with one address that can't be made is told, and none of its machines is touched."""
    span = _here(settings, workshop.range)
    if workshop.multiappliance and span is not None:
        numbers = range(span[0], span[1] + 1)
        base = base_address(settings, workshop.name)
        return [(nth(workshop.name, base, n, workshop.range), Use(workshop.name, (n, n))) for n in numbers]
    return [(base_address(settings, workshop.name), Use(workshop.name, span))]


def _here(settings: Settings, span: tuple[int, int] | None) -> tuple[int, int] | None:
    if span is None:
        return None
    first, last = max(span[0], settings.WODUSERMIN), min(span[1], settings.WODUSERMAX)
    return (first, last) if first <= last else None


def _order(address: str) -> tuple[int, str]:
    try:
        return int(ipaddress.ip_address(address)), ""
    except ValueError:
        return -1, address
