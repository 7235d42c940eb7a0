"""What is wrong with a wod.yml, with the line of the key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from wodmail import yamlfile
from wodmail.catalog import Catalog
from wodmail.errors import Problem
from wodmail.lint import Finding, Severity, problem
from wodmail.schema import Settings
from wodmail.wodyml import FILE, MAX_BYTES, Workshop

WARNINGS = re.compile(r"name: missing|range: missing|.*: unknown key|.*: is written twice|.* is written twice")
TEXTS = ("description", "workshopImg", "badgeImg", "presenter", "role", "avatar", "replayLink")
NUMBERS = ("priority", "replayId")
ADVICE = {
    "capacity": "offer at most as many seats as the range has students",
    "range": "give each workshop student numbers of its own",
    "monoappliance": "keep the one that is meant",
    "unknown": "remove it, or correct its name (docs/catalog.md lists the keys)",
    FILE: "write one as docs/catalog.md shows",
}


def overlaps(settings: Settings) -> tuple[Problem, ...]:
    """Every mistake in the catalogue that concerns two workshops."""
    found = Catalog(settings.WODNOBO, settings.WODPRIVNOBO).problems()
    return tuple(each for each in found if each.message.startswith("range: ") and " overlaps " in each.message)


def look(settings: Settings, workshop: Workshop, overlapping: tuple[Problem, ...]) -> Iterator[Finding]:
    """All that is wrong with one workshop's wod.yml.

    Args:
        settings: WODUSERMIN and WODUSERMAX.
        workshop: as read from its folder.
        overlapping: see `overlaps`.
    """
    if workshop.folder is None:
        return
    file = workshop.folder / FILE
    lines, data = _keys(file)
    texts = [*workshop.problems, *_types(data), *_numbers(settings, workshop)]
    texts += [each.message for each in overlapping if Path(each.path) == file]
    if data:
        texts += [each.message for each in yamlfile.read_mapping(file)[1] if " is written twice" in each.message]
    for text in texts:
        key = text.split(":")[0].split(",")[0].split(" ")[0].strip("'\"")
        severity = Severity.WARNING if WARNINGS.match(text) or key in (*TEXTS, *NUMBERS, "category") else Severity.ERROR
        told = problem(workshop, Problem(str(file), text), severity, _line(text, key, lines))
        advice = told.advice or ADVICE.get("unknown" if "unknown key" in text else key, "correct it")
        yield Finding(told.workshop, told.file, told.line, told.severity, told.text, advice)


def _line(text: str, key: str, lines: Mapping[str, int]) -> int:
    named = re.search(r"\bline (\d+):", text)
    return int(named[1]) if named else lines.get(key, 0)


def _keys(file: Path) -> tuple[dict[str, int], dict[Any, Any]]:
    """The line of each key, and the values; nothing when it can't be read, which the workshop's problems say."""
    try:
        with file.open("rb") as source:
            text = source.read(MAX_BYTES).decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, ValueError, RecursionError, OverflowError):
        return {}, {}
    if not isinstance(node, yaml.MappingNode) or not isinstance(data, dict):
        return {}, {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in node.value}, data


def _types(data: Mapping[Any, Any]) -> Iterator[str]:
    """Keys that only the site that shows the workshop uses."""
    for key in TEXTS:
        if data.get(key) is not None and not isinstance(data[key], str):
            yield f"{key}: {_kind(data[key])} is no text; put it in quotes"
    for key in NUMBERS:
        value = data.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value not in (None, "") and not number and not re.fullmatch(r"[0-9]+(\.[0-9]+)?", str(value).strip()):
            yield f"{key}: {_kind(value)} is no number; write a number"
    value = data.get("category")
    words = value if isinstance(value, list) else [] if value is None else [value]
    if any(not isinstance(word, str) for word in words):
        yield "category: it is no list of texts; write category: ['One', 'Two']"


def _kind(value: object) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def _numbers(settings: Settings, workshop: Workshop) -> Iterator[str]:
    """Student numbers that this backend doesn't have."""
    if workshop.range is None:
        return
    first, last = workshop.range
    low, high = settings.WODUSERMIN, settings.WODUSERMAX
    if first < low or last > high:
        words = f"range: [{first},{last}] has students that this backend doesn't have, it has {low} to {high}"
        yield f"{words}; change the range, or WODUSERMIN and WODUSERMAX"
