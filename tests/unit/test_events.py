"""The names of log events: what is logged is in `logs.Event`, and what is there is logged."""

from __future__ import annotations

import re
from pathlib import Path

from wodmail.logs import Event

SOURCE = Path(__file__).resolve().parents[2] / "wodmail"


def test_events_are_those_that_are_logged() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py") if file.name != "logs.py")
    direct = set(re.findall(r'\b_?log\.(?:info|warning|error|exception)\(\s*"([a-z][a-z-]*)"', text))
    names = {event.value for event in Event}
    assert direct - names == set()
    assert {name for name in names if f'"{name}"' not in text} == set()
