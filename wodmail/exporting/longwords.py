"""Words that may be longer than a line of a PDF, handed to our own style, which lets them end a line anywhere (pure).

No letter is put into them, so that what is copied out of the document is what was written; and a word is broken only
where it really is longer than the line or the column, which typst alone can measure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wodmail.exporting.document import Node

LONG, LONG_IN_TABLES = 25, 4
"""In letters: shorter ones fit into a line, or a column of a table with many columns."""


def marked(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The same document, its long words as what `style.typ` measures.

    Args:
        tree: a document as `document.with_pictures` leaves it. What is put in is the only raw thing in it: a text
            literal, in which every letter that could be code is a number.
    """
    return {**tree, "blocks": _walk(tree["blocks"], LONG)}


def _walk(value: Any, long: int) -> Any:
    if isinstance(value, list):
        return [each for inner in value for each in _walked(inner, long)]
    if not isinstance(value, dict) or value.get("t") in ("Image", "Math"):
        return value
    if value.get("t") == "Table":
        long = LONG_IN_TABLES
    return {key: _walk(inner, long) for key, inner in value.items()}


def _walked(value: Any, long: int) -> list[Any]:
    """What stands for one thing of a list: words of a text apart, when there are long ones."""
    if not isinstance(value, dict) or value.get("t") != "Str" or len(value["c"]) < long:
        return [_walk(value, long)]
    parts = re.split(rf"(\S{{{long},}})", value["c"])
    return [_word(part) if number % 2 else {"t": "Str", "c": part} for number, part in enumerate(parts) if part]


def _word(text: str) -> Node:
    literal = "".join(letter if letter.isalnum() else f"\\u{{{ord(letter):x}}}" for letter in text)
    return {"t": "RawInline", "c": ["typst", f'#metadata("{literal}");']}
