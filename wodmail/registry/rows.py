"""What rows of the API-DB mean: numbers and truth values as they come, workshops with what is known of them here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wodmail import wodyml
from wodmail.catalog import Workshop, folder_name

Row = dict[str, Any]


def number(value: object) -> int:
    """A row's number, also when it came as text; 0 when it is none."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal() and len(value) < 19:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def truth(value: object) -> bool:
    """A truth value, also as text; False when it is neither."""
    return bool(wodyml.boolean(value))


def moment(value: object) -> float | None:
    """A moment as the API-DB writes it, ISO 8601 with or without a zone (then UTC), as seconds since 1970."""
    try:
        found = datetime.fromisoformat(str(value or "").strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True)
class Customer:
    """A participant as its row says.

    Args:
        id: the participant's number.
        student_id: the student's id in the API-DB, 0 for none.
        workshop: WKSHP-Name; empty when it has none.
        active: works there now.
        cleaned: its CLEANUP has ended.
        ends: when its time is over, seconds since 1970; None when its row doesn't say.
    """

    id: int
    student_id: int
    workshop: str
    active: bool
    cleaned: bool
    ends: float | None = None

    @classmethod
    def of(cls, row: Row) -> Customer:
        """Read a row of the table of customers."""
        notebook = str(row.get("notebook") or "")
        return cls(
            id=number(row.get("id")),
            student_id=number(row.get("studentId")),
            workshop=folder_name(notebook) or notebook[:80],
            active=truth(row.get("active")),
            cleaned=truth(row.get("cleaned")),
            ends=moment(row.get("endDate")),
        )


def by_notebook(rows: Iterable[Row]) -> dict[str, Row]:
    """Rows of the table of workshops by their WKSHP-Name.

    Of several with one notebook an active one counts, else the one with the lowest number.
    """
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (not truth(row.get("active")), number(row.get("id")))):
        name = folder_name(str(row.get("notebook") or ""))
        if name is not None:
            found.setdefault(name, row)
    return found


def workshop(local: Workshop, row: Row) -> Workshop:
    """A workshop as its row describes it; what the row leaves out is taken from the folder's wod.yml.

    Args:
        local: as wod.yml describes it.
        row: of the table of workshops.
    """
    here: dict[object, object] = {
        key: getattr(local, key) for key in (*wodyml.BOOLEANS, "capacity", "duration") if key != "beta"
    }
    here |= {"name": local.title, "range": list(local.range) if local.range else None, "compile": list(local.compile)}
    here |= {
        key: value
        for key, value in row.items()
        if value is not None or key not in ("name", "range", "capacity", "duration")
    }
    here["range"] = _range(here["range"])
    return wodyml.describe(local.name, here, folder=local.folder, id_=number(row.get("id")))


def _range(value: object) -> object:
    """A range that came as text ("[1,6]" or "1,6") as a list; everything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value if value.strip().startswith("[") else f"[{value}]")
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, list) else value
