"""A notebook made ready for conversion: every cell named, pictures taken out of outputs and attachments (pure)."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

CELL = "wodcell"
OUTPUT = "wodoutput"
ATTACHED = "attachment"
"""Begins the URLs of pictures that are attached to a cell."""
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml")
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,30}")
_SAID_OTHERWISE = {"c++": "cpp", "c#": "cs", "f#": "fs"}
LONGEST_OUTPUT = 20_000
LONGEST_RICH = 200_000


@dataclass(slots=True)
class Ready:
    """A notebook for the converter.

    Args:
        notebook: the notebook, version 4, without pictures.
        outputs: pictures of outputs by the name that stands in their place: base64, or the text of a drawing.
        attachments: pictures attached to cells, by cell name and file name: base64 or text.
        language: the language of its code cells, "" when it isn't said.
    """

    notebook: dict[str, Any]
    outputs: dict[str, str] = field(default_factory=dict)
    attachments: dict[tuple[str, str], str] = field(default_factory=dict)
    language: str = ""


def ready(notebook: Mapping[str, Any]) -> Ready:
    """Make a notebook ready.

    Args:
        notebook: a valid notebook of version 4, as nbformat gives it.
    """
    metadata = notebook.get("metadata", {})
    said = metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get("language") or ""
    found = Ready({"nbformat": 4, "nbformat_minor": 5, "metadata": {}}, language=language(str(said)))
    found.notebook["metadata"] = {"kernelspec": {"name": "x", "display_name": "x", "language": found.language}}
    found.notebook["cells"] = [
        _cell(cell, f"{CELL}-{number}", found)
        for number, cell in enumerate(notebook.get("cells", []), 1)
        if cell.get("outputs") or text_of(cell.get("source", "")).strip()  # an empty one would be a grey bar
    ]
    return found


def language(name: str) -> str:
    """The name of a programming language as both writers may be given it; "" for what is none.

    Args:
        name: what a notebook says; writers put it out as it is, so it holds letters, digits, `-` and `_` alone.
    """
    plain = _SAID_OTHERWISE.get(name.lower(), name)
    return plain if _LANGUAGE.fullmatch(plain) else ""


def text_of(value: object) -> str:
    """A multiline text of a notebook, one text or a list of lines; halves of letters, which JSON may hold, replaced."""
    text = "".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cell(cell: Mapping[str, Any], name: str, found: Ready) -> dict[str, Any]:
    for file, bundle in (cell.get("attachments") or {}).items():
        for kind in _PICTURES:
            if kind in bundle:
                found.attachments[name, file] = text_of(bundle[kind])
                break
    kind, source = str(cell.get("cell_type")), _clean(text_of(cell.get("source", "")))
    if kind == "raw":
        return _code(name, source, [])
    if kind == "code":
        return _code(name, source, list(_outputs(cell.get("outputs", []), name, found)))
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def _code(name: str, source: str, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": "code", "id": name, "metadata": {}, "execution_count": None}
    return {**cell, "source": source, "outputs": outputs}


def _outputs(outputs: Sequence[Mapping[str, Any]], cell: str, found: Ready) -> Iterator[dict[str, Any]]:
    """What a document can hold of outputs; nothing for those with nothing of the kind."""
    for number, output in enumerate(_joined(outputs), 1):
        match output.get("output_type"):
            case "stream":
                yield from _stream(text_of(output.get("text", "")))
            case "error":
                lines = output.get("traceback") or [f"{output.get('ename')}: {output.get('evalue')}"]
                yield from _stream("\n".join(map(text_of, lines)))
            case "display_data" | "execute_result":
                yield from _shown(output.get("data", {}), f"{OUTPUT}:{cell}:{number}", found)


def _joined(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Outputs, with streams of a name that follow one another in one: a line may begin here and be replaced there."""
    for (kind, name), each in groupby(outputs, lambda output: (output.get("output_type"), output.get("name"))):
        if kind == "stream":
            yield {"output_type": kind, "name": name, "text": [text_of(output.get("text", "")) for output in each]}
        else:
            yield from each


def _stream(text: str) -> Iterator[dict[str, Any]]:
    plain = _clean("\n".join(map(_left, text.split("\n"))))
    if plain.strip():
        yield {"output_type": "stream", "name": "stdout", "text": _short(plain)}


def _left(line: str) -> str:
    """What a terminal shows of a line that was written again and again, as progress is."""
    return line.rstrip("\r").rpartition("\r")[2]


def _shown(data: Mapping[str, Any], name: str, found: Ready) -> Iterator[dict[str, Any]]:
    """The richest form that a document can hold."""
    for kind in _PICTURES:
        if kind in data:
            found.outputs[name] = text_of(data[kind])
            yield _rich("text/html", f'<img src="{html.escape(name)}">')
            return
    for kind in ("text/html", "text/markdown", "text/latex"):
        text = _clean(text_of(data.get(kind, "")))
        if text and len(text) <= LONGEST_RICH:
            yield _rich(kind, text)
            return
    yield from _stream(text_of(data.get("text/plain", "")))


def _rich(kind: str, text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": {kind: text}}


def _clean(text: str) -> str:
    """Without colours and other orders to a terminal."""
    return _CONTROL.sub("", _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def _short(text: str) -> str:
    if len(text) <= LONGEST_OUTPUT:
        return text
    return text[: LONGEST_OUTPUT // 2] + "\n[... shortened ...]\n" + text[-LONGEST_OUTPUT // 2 :]
