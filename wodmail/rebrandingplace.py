"""What rebranding leaves alone in a text: pictures written into it, attachments, and what names a file that is there.

Files keep their names, so a changed link to one would lead nowhere. What is changed all the same and is a file's name
further away is told (`Place.lost`).
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

Span = tuple[int, int]
LONGEST = 4096
_BASE64 = "A-Za-z0-9+/"
# A picture may be wrapped: a line goes on in the next one only if it is long, and that is long or ends the picture.
_INLINE = re.compile(
    rf"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,[{_BASE64}]*"
    rf"(?:(?<=[{_BASE64}]{{40}})\r?\n[ \t]*(?:[{_BASE64}]{{40,}}|[{_BASE64}]+(?:(?=[\"')>])|(?==+(?:[\"')>\s]|\Z)))))*"
    r"={0,2}"
)
_ATTACHED = re.compile(r"\battachment:(?:[^\s()<>\"']|\([^\s()]*\))+")
# A target is limited in its length, so that no text can make the search for one long.
_TARGETS = (
    re.compile(r"\]\([ \t]*(?:<([^>\n]{0,4096})>|((?:[^()\s\\]|\\.|\([^()\s]{0,255}\)){1,4096}))"),  # [text](target)
    re.compile(r"^ {0,3}\[[^\]\n]{1,999}\]:[ \t]*(?:<([^>\n]{0,4096})>|(\S{1,4096}))", re.MULTILINE),  # [text]: target
    re.compile(  # HTML
        r"\b(?:src|href|poster|data|background|action)\s{0,9}=\s{0,9}"
        r"(?:\"([^\"]{0,4096})\"|'([^']{0,4096})'|([^\s\"'>]{1,4096}))",
        re.IGNORECASE,
    ),
    re.compile(r"\burl\(\s{0,9}[\"']?([^\"')\n]{1,4096})"),
)
# Path-like words in running text or code: quoted, when there may be spaces in them, or plain.
_QUOTED = re.compile(r"(?=([\"'`])((?:(?!\1)[^\n\\]){1,255})\1)")
_PLAIN = re.compile(r"[\w./%+-]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class Place:
    """Where a text stands.

    Args:
        folder: the folder that its links are relative to; None when there is none.
        base: the folder that is rebranded; paths may also be relative to this one.
        names: of files and folders below `base` that the rules would change.
    """

    def __init__(self, folder: Path | None = None, base: Path | None = None, names: Collection[str] = ()) -> None:
        self._folders = [str(each) for each in (folder, base) if each is not None]
        self._there: Callable[[str], bool] = functools.cache(self._look)
        spelled = sorted({*names, *map(quote, names)}, key=len, reverse=True)
        self._names = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, spelled))})(?![\w-])") if names else None
        self._lost: Counter[str] = Counter()

    def left_alone(self, text: str) -> list[Span]:
        """What in a text isn't changed, as spans in their order that don't overlap."""
        found = [match.span() for pattern in (_INLINE, _ATTACHED) for match in pattern.finditer(text)]
        if self._folders:
            for first, last in (*_targets(text), *_words(text)):
                target = text[first:last]
                if self._there(target):
                    # A heading's name after # changes as the heading itself does.
                    found.append((first, last if "#" not in target else first + target.index("#")))
        return _merged(found)

    def compare(self, old: str, new: str) -> None:
        """Look which names of files a text has lost; see `lost`."""
        if self._names is not None and old != new:
            counts = [Counter(map(unquote, self._names.findall(text))) for text in (old, new)]
            self._lost += counts[0] - counts[1]

    @property
    def lost(self) -> tuple[str, ...]:
        """Names that files or folders have and texts don't name any more."""
        return tuple(sorted(self._lost))

    def _look(self, target: str) -> bool:
        """Whether a link leads to a file or folder that is there, or to an attachment."""
        if scheme := _SCHEME.match(target):
            return scheme.group(0) == "attachment:"
        plain = re.split(r"[#?]", target, maxsplit=1)[0]
        spellings = {each for each in (target, plain, unquote(plain)) if each.strip("/")}
        paths = (os.path.join(folder, each.lstrip("/")) for folder in self._folders for each in spellings)  # noqa: PTH118
        return any(map(os.path.lexists, paths))


def _targets(text: str) -> Iterator[Span]:
    for pattern in _TARGETS:
        for match in pattern.finditer(text):
            if match.lastindex:
                yield match.span(match.lastindex)


def _words(text: str) -> Iterator[Span]:
    """What looks like a path: it has a slash or a dot within; a single word may be the brand itself."""
    for match in _QUOTED.finditer(text):
        if _is_pathlike(match.group(2)):
            yield match.span(2)
    for match in _PLAIN.finditer(text):
        word = match.group(0).rstrip(".")
        if _is_pathlike(word):
            yield match.start(), match.start() + len(word)


def _is_pathlike(word: str) -> bool:
    return len(word) <= LONGEST and ("/" in word or "." in word)


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        elif first < last:
            merged.append((first, last))
    return merged


NOWHERE = Place()
