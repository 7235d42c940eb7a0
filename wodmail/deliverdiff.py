"""What differs between a delivered file and what it is to be, without the secrets in either. Pure.

A secret that has been replaced is known to nobody any more, but it stands in the old file. So of a file that others may
not read, old lines are shown only where they are like a new line whose secrets are masked.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from wodmail.logs import Masker

HIDDEN = "**** (a line that may have held a secret)"
MASK = "****"
MOST_LINES = 400
Content = tuple[bytes, int]
"""Bytes and permission bits of a file; -1 for what is no plain file."""


def diff(target: Path, old: Content | None, new: Content, masker: Masker) -> str:
    """A unified diff, after it the modes when they differ; "" when nothing does.

    Args:
        target: the file that it is about.
        old: what is there; None when there is nothing.
        new: what is to be there.
        masker: hides the secrets of today.
    """
    if old == new:
        return ""
    before, after = _lines(old), _lines(new)
    shut = old is not None and old[1] & 0o004 == 0
    likely = [_pattern(line, masker) for line in after if shut and masker.mask(line) != line]
    was = [_old(line, after, likely, masker) if shut else masker.mask(line) for line in before]
    found = list(
        difflib.unified_diff(
            was,
            [masker.mask(line) for line in after],
            fromfile=str(target) if old is not None else "/dev/null",
            tofile=str(target),
            lineterm="",
        )
    )
    if len(found) > MOST_LINES:
        found = [*found[:MOST_LINES], f"... {len(found) - MOST_LINES} more lines"]
    if not found and old is not None and old[0] != new[0]:
        found.append(f"{target}: only lines that hold secrets differ")
    if old is not None and old[1] != new[1]:
        found.append(f"{target}: mode {'of another kind of file' if old[1] < 0 else f'{old[1]:04o}'} -> {new[1]:04o}")
    return "\n".join(found)


def _lines(content: Content | None) -> list[str]:
    return content[0].decode("utf-8", "replace").splitlines() if content is not None else []


def _pattern(line: str, masker: Masker) -> tuple[re.Pattern[str], str]:
    """What an older form of this line looked like: the same around other secrets; and how it is shown."""
    masked = masker.mask(line)
    return re.compile(".+".join(re.escape(part) for part in masked.split(MASK))), masked


def _old(line: str, after: list[str], likely: list[tuple[re.Pattern[str], str]], masker: Masker) -> str:
    """An old line as it may be shown."""
    if line in after or not line.strip():
        return masker.mask(line)
    return next((shown for pattern, shown in likely if pattern.fullmatch(line)), HIDDEN)
