"""Is this text a notebook? The structure that Jupyter needs, checked without importing nbformat (0.2 s a process)."""

from __future__ import annotations

import json
from typing import NoReturn

NEEDED = {"code": ("metadata", "source", "outputs"), "markdown": ("metadata", "source"), "raw": ("metadata", "source")}
OUTPUTS = {
    "execute_result": ("data", "metadata"),
    "display_data": ("data", "metadata"),
    "stream": ("name", "text"),
    "error": ("ename", "evalue", "traceback"),
}


def problem(text: str) -> str | None:
    """What is wrong with a notebook, with its line where JSON itself is broken; None when it is a notebook.

    Formats 3 and 4 of nbformat are known; of format 4 every cell and output is looked at. Keys that the format does
    not know are let pass, as Jupyter does.
    """
    try:
        book = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return f"line {error.lineno} is not valid JSON ({error.msg})"
    except ValueError as error:
        return f"it is not valid JSON ({error})"
    except RecursionError:
        return "it is nested too deeply"
    if not isinstance(book, dict) or not _whole(book.get("nbformat")):
        return "it holds JSON, but no nbformat number"
    if not isinstance(book.get("metadata"), dict):
        return 'it has no "metadata"'
    if book["nbformat"] == 3 and isinstance(book.get("worksheets"), list):
        return None
    if book["nbformat"] != 4 or not _whole(book.get("nbformat_minor")):
        return f"its nbformat {book['nbformat']}.{book.get('nbformat_minor')} is unknown"
    if not isinstance(book.get("cells"), list):
        return 'it has no list of "cells"'
    for number, cell in enumerate(book["cells"], 1):
        wrong = _cell_problem(cell)
        if wrong:
            return f"cell {number} {wrong}"
    return None


def _cell_problem(cell: object) -> str | None:
    if not isinstance(cell, dict):
        return "is no object"
    kind = cell.get("cell_type")
    if not isinstance(kind, str) or kind not in NEEDED:
        return f"has the unknown cell_type {kind!r}"
    for key in NEEDED[kind]:
        if key not in cell:
            return f'has no "{key}"'
    if not isinstance(cell["metadata"], dict):
        return 'has a "metadata" that is no object'
    if not _is_text(cell["source"]):
        return 'has a "source" that is no text'
    return _code_problem(cell) if kind == "code" else None


def _code_problem(cell: dict[str, object]) -> str | None:
    count = cell.get("execution_count", "missing")
    if count is not None and not _whole(count):
        return 'has no "execution_count"' if count == "missing" else 'has an "execution_count" that is no number'
    outputs = cell["outputs"]
    if not isinstance(outputs, list):
        return 'has "outputs" that are no list'
    for output in outputs:
        kind = output.get("output_type") if isinstance(output, dict) else None
        if not isinstance(kind, str) or kind not in OUTPUTS:
            return f"has an output of the unknown type {kind!r}"
        missing = [key for key in OUTPUTS[kind] if key not in output]
        if missing:
            return f'has an output ({kind}) without "{missing[0]}"'
    return None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
