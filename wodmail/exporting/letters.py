"""Fonts for letters that typst's own don't have, and what is said of letters that are in no font at all."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

FONTS = ("manimgx_fonts", "manimgx_fonts_cjk")
"""Packages of the extra `fonts`: Noto for the world's scripts, symbols and emoji; for Chinese, Japanese and Korean."""
_MISSING = re.compile(r'^error: .*: the text `"(?P<text>.+?)"` could not be displayed', re.MULTILINE)
_ESCAPED = re.compile(r"\\(u\{(?P<number>[0-9a-f]+)\}|(?P<itself>.))")
"""How typst writes letters that can't be printed, and some that can."""
_NAMED = 10


def folders() -> list[Path]:
    """Where the fonts are that were installed with this wodmail."""
    found = [find_spec(name) for name in FONTS]
    return [Path(spec.origin).parent for spec in found if spec is not None and spec.origin is not None]


def missing(diagnostic: str) -> list[str]:
    """The texts that no font can show, out of what typst says of a document that has to show all (pure).

    Args:
        diagnostic: typst's complaint. Lines of the document stand in it behind their numbers.
    """
    return [_ESCAPED.sub(_letter, found["text"]) for found in _MISSING.finditer(diagnostic)]


def _letter(found: re.Match[str]) -> str:
    return chr(int(found["number"], 16)) if found["number"] else found["itself"]


def told(texts: list[str]) -> str:
    """A remark that names letters which are boxes in a document, "" when there are none (pure)."""
    if not texts:
        return ""
    letters = list(dict.fromkeys(letter for text in texts for letter in text))
    names = ", ".join(map(_name, letters[:_NAMED]))
    more = f" and {len(letters) - _NAMED} more" if len(letters) > _NAMED else ""
    return f"No font has these letters, they are boxes: {names}{more}."


def _name(letter: str) -> str:
    number = f"U+{ord(letter):04X}"
    return f"{letter} ({number})" if letter.isprintable() else number
