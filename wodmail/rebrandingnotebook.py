"""Rebranding in a notebook: in the texts that people read, so that it stays the notebook that it was.

What programs read (cell types, ids, kernels, names of languages, of attachments and of kinds of data) is never touched,
and the layout of the file stays, so that a diff shows what was changed.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import nbformat

from wodmail.rebrandingplace import NOWHERE, Place, Span
from wodmail.rebrandingrules import Rule, rebranded

TEXT = "text"
_OUTPUT: Mapping[str, Any] = {"text": TEXT, "data": {"text/*": TEXT}, "evalue": TEXT, "traceback": [TEXT]}
# Where texts are in nbformat 4, and in nbformat 3 (worksheets).
PLACES: Mapping[str, Any] = {
    "cells": [{"source": TEXT, "outputs": [_OUTPUT], "attachments": {"*": {"text/*": TEXT}}}],
    "metadata": {
        **dict.fromkeys(("title", "subtitle", "description", "abstract"), TEXT),
        "authors": [{"name": TEXT}],
        "keywords": [TEXT],
    },
    "worksheets": [{"cells": [{"source": TEXT, "input": TEXT, "outputs": [{"text": TEXT, "html": TEXT}]}]}],
}
_DECODER = json.JSONDecoder()
_GAP = re.compile(r"[ \t\r\n]*[,:]?[ \t\r\n]*")


class BrokenError(ValueError):
    """The notebook would be none afterwards."""


def in_notebook(text: str, rules: Sequence[Rule], place: Place = NOWHERE) -> tuple[str, int]:
    """A notebook with the rules applied to the texts in it, and how many places were replaced.

    Args:
        text: the notebook's JSON.
        rules: the rules.
        place: where it stands; it learns which names of files are lost.

    Raises:
        UnstableError: see `rebranded`.
        BrokenError: it was a valid notebook and would be none.
        ValueError: it is no JSON.
    """
    json.loads(text)
    parts, total, last = [], 0, 0
    for first, end in _texts(text, _skip(text, 0), PLACES):
        value = _DECODER.raw_decode(text, first)[0]
        old = "".join(value) if isinstance(value, list) else value
        new, count = rebranded(old, rules, place)
        if count:
            place.compare(old, new)
            literal = text[first:end]
            parts += [text[last:first], _literal(new, literal) if isinstance(value, str) else _lines(new, literal)]
            last, total = end, total + count
    result = "".join([*parts, text[last:]])
    if total and _complaint(text) is None and (words := _complaint(result)) is not None:
        raise BrokenError(f"it would be no valid notebook any more: {words}")
    return result, total


def _texts(text: str, start: int, wanted: object) -> Iterator[Span]:
    """Where in the JSON the texts are that `wanted`, a part of PLACES, names; an array of lines is one text."""
    if wanted == TEXT:
        value, end = _DECODER.raw_decode(text, start)
        if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(e, str) for e in value)):
            yield start, end
    elif isinstance(wanted, list) and text[start] == "[":
        for _, (first, _) in _children(text, start):
            yield from _texts(text, first, wanted[0])
    elif isinstance(wanted, Mapping) and text[start] == "{":
        for key, (first, _) in _children(text, start):
            for pattern, inner in wanted.items():
                if fnmatchcase(key, pattern):
                    yield from _texts(text, first, inner)


def _children(text: str, start: int) -> Iterator[tuple[str, Span]]:
    """Names (empty in an array) and places of what is in the array or object that begins there."""
    at = _skip(text, start + 1)
    while text[at] not in "]}":
        key = ""
        if text[start] == "{":
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
        _, end = _DECODER.raw_decode(text, at)
        yield key, (at, end)
        at = _skip(text, end)


def _skip(text: str, at: int) -> int:
    gap = _GAP.match(text, at)
    return gap.end() if gap else at


def _literal(value: str, like: str) -> str:
    return json.dumps(value, ensure_ascii=like.isascii())


def _lines(new: str, literal: str) -> str:
    """A text as an array of lines, laid out like the array that was there."""
    lines = new.splitlines(keepends=True)
    spans = [span for _, span in _children(literal, 0)]
    if len(lines) != len(spans):
        before, after = literal[: spans[0][0]], literal[spans[-1][1] :]
        between = literal[spans[0][1] : spans[1][0]] if len(spans) > 1 else f",{before[1:]}"
        return f"{before}{between.join(_literal(line, literal) for line in lines)}{after}" if lines else "[]"
    parts, last = [], 0
    for line, (first, end) in zip(lines, spans, strict=True):
        kept = json.loads(literal[first:end]) == line
        parts += [literal[last:first], literal[first:end] if kept else _literal(line, literal)]
        last = end
    return "".join([*parts, literal[last:]])


def _complaint(text: str) -> str | None:
    """What is wrong with a notebook; None when it is valid."""
    book = json.loads(text)
    if not all(isinstance(book.get(name), int) for name in ("nbformat", "nbformat_minor")):
        return "it doesn't tell the version of its format"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ids that older notebooks lack
            nbformat.validate(book)
    except nbformat.ValidationError as error:
        return str(error).partition("\n")[0]
    return None
