"""A workshop's description: its wod.yml, or the same keys from elsewhere.

Mistakes in it are named and never stop anything: the workshop then runs with the default of that key
(docs/catalog.md lists keys and defaults).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

SCRIPT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\.sh")
FILE = "wod.yml"
MAX_BYTES = 256 * 1024
HOURS = 4.0
"""How long a session lasts when a workshop doesn't say."""
LONGEST_HOURS = 720.0
BOOLEANS = ("active", "reset", "ldap", "varpass", "monoappliance", "multiappliance", "beta")
INFORMATION = (
    "description",
    "priority",
    "replayId",
    "workshopImg",
    "badgeImg",
    "category",
    "presenter",
    "role",
    "avatar",
    "replayLink",
)
KEYS = frozenset({"name", "capacity", "range", "compile", "duration", *BOOLEANS, *INFORMATION})
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "": False}


@dataclass(frozen=True, slots=True)
class Workshop:
    """A workshop as its wod.yml (or the API-DB) describes it.

    Args:
        name: the folder's name, WKSHP-Name.
        id: its number in the registry, 0 when it has none.
        title: the name that people read.
        range: first and last student number, both included; None when not given or not understood.
        reset: seats are handed back by a RESET after the CLEANUP.
        ldap: students' passwords go into the directory too.
        varpass: templates may use PASSSTU.
        compile: scripts that are compiled for the student.
        monoappliance: one appliance for all.
        multiappliance: an appliance a student.
        capacity: seats offered, 0 or more.
        active: whether it is offered.
        duration: how long a session lasts, in hours, more than 0 and at most 720.
        folder: where its files are; None when only a registry knows it.
        problems: what is wrong with its description, one line each.
    """

    name: str
    id: int = 0
    title: str = ""
    range: tuple[int, int] | None = None
    reset: bool = False
    ldap: bool = False
    varpass: bool = False
    compile: tuple[str, ...] = ()
    monoappliance: bool = False
    multiappliance: bool = False
    capacity: int = 0
    active: bool = True
    duration: float = HOURS
    folder: Path | None = None
    problems: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Students in its range, 0 without one."""
        return self.range[1] - self.range[0] + 1 if self.range else 0


def boolean(value: object) -> bool | None:
    """A truth value as wod.yml files and the API-DB write it: also "true", "No", 1, nothing; None when neither."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def describe(name: str, data: Mapping[object, object], *, folder: Path | None = None, id_: int = 0) -> Workshop:
    """Make a workshop of a wod.yml's keys (or of an API-DB row), defaults in place of what can't be understood.

    Args:
        name: WKSHP-Name.
        data: the keys; unknown ones are left to `lint_keys`.
        folder: where its files are.
        id_: its number in the registry.
    """
    problems: list[str] = []
    truth = {key: _boolean(data, key, problems) for key in BOOLEANS}
    title = data.get("name")
    if title is not None and not isinstance(title, str):
        problems.append(f"name: {_shown(title)} is no text; put it in quotes")
        title = name
    elif title is None or not title.strip():
        problems.append("name: missing; write the title that people shall read")
        title = name
    workshop = Workshop(
        name=name,
        id=id_,
        title=title.strip(),
        range=_range(data.get("range"), problems),
        reset=truth["reset"],
        ldap=truth["ldap"],
        varpass=truth["varpass"],
        compile=_compile(data.get("compile"), problems),
        monoappliance=truth["monoappliance"],
        multiappliance=truth["multiappliance"],
        capacity=_capacity(data.get("capacity"), problems),
        active=truth["active"] if "active" in data else True,
        duration=_duration(data.get("duration"), problems),
        folder=folder,
    )
    return replace(workshop, problems=(*problems, *_disagreements(workshop)))


def _duration(value: object, problems: list[str]) -> float:
    if value is None or value == "":
        return HOURS
    try:
        hours = float(str(value))
    except ValueError:
        hours = 0.0
    if 0 < hours <= LONGEST_HOURS:
        return hours
    problems.append(
        f"duration: {_shown(value)} is no number of hours above 0 and up to {LONGEST_HOURS:g}; read as {HOURS:g}"
    )
    return HOURS


def _boolean(data: Mapping[object, object], key: str, problems: list[str]) -> bool:
    value = boolean(data.get(key))
    if value is None:
        problems.append(f"{key}: {_shown(data[key])} is neither true nor false; read as {key == 'active'}")
        return key == "active"
    return value


def _shown(value: object) -> str:
    """The beginning of a value for a message; made from its type when it is a structure (it may be huge)."""
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def _whole(value: object) -> int | None:
    """A whole number of at most nine digits, also when written as text; None for everything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip(), re.ASCII):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
        return value
    return None


def _range(value: object, problems: list[str]) -> tuple[int, int] | None:
    if value is None:
        problems.append("range: missing; write range: [FIRST,LAST], for example range: [1,20]")
        return None
    numbers = [_whole(part) for part in value] if isinstance(value, list) and len(value) == 2 else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        shown = ", ".join(_shown(part) for part in value[:3]) if isinstance(value, list) else _shown(value)
        problems.append(f"range: {shown} isn't two numbers; write range: [FIRST,LAST], for example range: [96,149]")
        return None
    first, last = numbers[0], numbers[1]
    if first < 1 or last < first:
        problems.append(f"range: [{first},{last}] has no student; the first is 1 or more and not after the last")
        return None
    return first, last


def _capacity(value: object, problems: list[str]) -> int:
    number = 0 if value is None else _whole(value)
    if number is None:
        problems.append(f"capacity: {_shown(value)} is no number of seats; read as 0")
    return number or 0


def _compile(value: object, problems: list[str]) -> tuple[str, ...]:
    """The scripts to compile; false, null, "" and "false" mean none."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = ",".join(value)
    if boolean(value) is False:
        return ()
    if not isinstance(value, str):
        problems.append(f'compile: {_shown(value)} is no list of scripts; write compile: "a.sh,b.sh" or false')
        return ()
    names = [part.strip() for part in value.split(",") if part.strip()]
    for bad in [name for name in names if SCRIPT.fullmatch(name) is None]:
        problems.append(f"compile: {_shown(bad)} is no script's name (letters, digits, . _ - and .sh); left out")
    return tuple(name for name in names if SCRIPT.fullmatch(name))


def _disagreements(workshop: Workshop) -> list[str]:
    found = []
    if workshop.range and workshop.capacity > workshop.size:
        found.append(f"capacity: {workshop.capacity} seats, but the range has {workshop.size} students")
    if workshop.monoappliance and workshop.multiappliance:
        found.append("monoappliance, multiappliance: both are true; one of them has to go")
    return found


def lint_keys(data: Mapping[object, object]) -> tuple[str, ...]:
    """One line for each key that no wod.yml has, with the nearest that one may have."""
    lines = []
    for key in data:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key)[:60], KEYS, n=1)
            lines.append(f"{_shown(key)}: unknown key" + (f"; did you mean {close[0]}?" if close else ""))
    return tuple(lines)


def read(folder: Path) -> Workshop:
    """Read one workshop folder; everything that is wrong is in the `problems` of what comes back.

    Args:
        folder: the workshop's folder, named WKSHP-Name.
    """
    try:
        with (folder / FILE).open("rb") as source:
            content = source.read(MAX_BYTES + 1)
    except OSError as error:
        reason = f"{FILE}: {error.strerror or 'unreadable'}; every key has its default"
        return Workshop(folder.name, title=folder.name, folder=folder, problems=(reason,))
    try:
        data = _parse(content)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        reason = f"{FILE}: can't be read: {_first_line(error)}; every key has its default"
        return Workshop(folder.name, title=folder.name, folder=folder, problems=(reason,))
    if not isinstance(data, dict):
        reason = f"{FILE}: holds {_shown(data)} instead of keys and values; every key has its default"
        return Workshop(folder.name, title=folder.name, folder=folder, problems=(reason,))
    workshop = describe(folder.name, data, folder=folder)
    return replace(workshop, problems=(*workshop.problems, *lint_keys(data)))


def _parse(content: bytes) -> object:
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES // 1024} KiB")
    data: object = yaml.safe_load(content.decode("utf-8-sig"))
    return data


def _first_line(error: Exception) -> str:
    """What a parser complains about, with the line when it says one."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
