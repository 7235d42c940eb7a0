"""Pandoc's document tree: pictures put in or explained away, everything raw and every attribute left out (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wodmail.exporting.cells import CELL, language
from wodmail.exporting.markup import PRINTED
from wodmail.exporting.pictures import Picture, UnfitError

Node = dict[str, Any]
Find = Callable[[str, str], Picture]
"""Gives the picture for a URL in a cell of that name; raises `UnfitError`."""
Place = Callable[[Picture], str]
"""Puts a picture where the writer finds it, and says under which URL."""

_NODES = """
Plain Para LineBlock CodeBlock BlockQuote OrderedList BulletList DefinitionList Header HorizontalRule Table Figure Div
Str Emph Underline Strong Strikeout Superscript Subscript SmallCaps Quoted Cite Code Space SoftBreak LineBreak Math
Link Image Note Span
AlignLeft AlignRight AlignCenter AlignDefault ColWidth ColWidthDefault SingleQuote DoubleQuote DisplayMath InlineMath
DefaultStyle Example Decimal LowerRoman UpperRoman LowerAlpha UpperAlpha DefaultDelim Period OneParen TwoParens
"""
_KNOWN = frozenset(_NODES.split())
"""What gets into a document (pandoc-types, Text.Pandoc.Definition): all but what is raw, and what is not known yet."""
WIDEST = 100.0
_LINKS = ("http://", "https://", "mailto:")


def with_pictures(tree: Mapping[str, Any], find: Find, place: Place) -> dict[str, Any]:
    """The same document with its pictures found and placed; those that can't be had become a few words.

    Args:
        tree: a document as `pandoc -t json` writes it.
        find: see `Find`.
        place: see `Place`.
    """
    return {**tree, "meta": {}, "blocks": _walk(tree["blocks"], "", find, place)}


def _walk(value: Any, cell: str, find: Find, place: Place) -> Any:
    if isinstance(value, list):
        if _is_attributes(value):
            return _nothing()
        return [_walk(each, cell, find, place) for each in value if not isinstance(each, dict) or _known(each)]
    if not isinstance(value, dict):
        return value
    match value.get("t"):
        case "Image":
            return _image(value, cell, find, place)
        case "Link" if not (value["c"][1] and value["c"][2][0].startswith(_LINKS)):
            # Also within the document: what it would lead to need not be there.
            return {"t": "Span", "c": [_nothing(), _walk(value["c"][1], cell, find, place)]}
        case "Cite":
            return {"t": "Span", "c": [_nothing(), _walk(value["c"][1], cell, find, place)]}
        case "CodeBlock" | "Code":
            (_, classes, _), text = value["c"]
            spoken = [name for name in map(language, classes[:1]) if name]
            return {"t": value["t"], "c": [["", spoken, []], str(text)]}
        case "Div" | "Span":
            (name, _, _), inner = value["c"]
            inside = name if name.startswith(f"{CELL}-") else cell
            return {"t": value["t"], "c": [_nothing(), _walk(inner, inside, find, place)]}
    return {key: _walk(inner, cell, find, place) for key, inner in value.items()}


def _known(node: Node) -> bool:
    return node.get("t") in _KNOWN


def _nothing() -> list[Any]:
    """Attributes without anything: writers make code, styles and names of them."""
    return ["", [], []]


def _is_attributes(value: list[Any]) -> bool:
    """Whether a list is pandoc's Attr, wherever it stands: a name, classes, and pairs; nothing else looks like that."""
    return (
        len(value) == 3
        and isinstance(value[0], str)
        and isinstance(value[1], list)
        and isinstance(value[2], list)
        and all(isinstance(each, str) for each in value[1])
    )


def _image(node: Node, cell: str, find: Find, place: Place) -> Node:
    (_, _, attributes), words, (url, title) = node["c"]
    try:
        picture = find(url, cell)
    except UnfitError as error:
        return _told(url, words, str(error))
    sizes = [[key, size] for key, size in attributes if key == "width" and _sensible(size)]
    return {"t": "Image", "c": [["", [], sizes], _plain(words), [place(picture), title]]}


def _sensible(size: str) -> bool:
    """Whether a width is one that fits a page: 1 to 100 %, or up to 600 pixels."""
    number, unit = (size[:-1], "%") if size.endswith("%") else (size.removesuffix("px"), "px")
    try:
        return 1 <= float(number) <= (WIDEST if unit == "%" else 600)
    except ValueError:
        return False


def _told(url: str, words: list[Node], reason: str) -> Node:
    """Words in a picture's place: what it shows, and where it would be."""
    far = url.startswith(("http://", "https://"))
    text = _text(words) or (url if len(url) <= 80 else url[:77] + "...")
    said: Node = {"t": "Str", "c": f"[picture: {text}]" if far else f"[picture: {text}; not included: {reason}]"}
    if far:
        return {"t": "Link", "c": [_nothing(), [said], [url, ""]]}
    return {"t": "Emph", "c": [said]}


def _text(words: list[Node]) -> str:
    return "".join(str(each.get("c", "")) if each.get("t") == "Str" else " " for each in words).strip()


def _plain(words: list[Node]) -> list[Node]:
    text = _text(words)
    return [{"t": "Str", "c": text}] if text else []


def mark_printed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The document with code told apart from what it printed: a class `output` on all code that stands in outputs.

    Args:
        tree: a document whose outputs are in divisions of class `PRINTED`.
    """
    return {**tree, "blocks": [_marked(block, False) for block in tree["blocks"]]}


def _marked(block: Node, printed: bool) -> Node:
    if block.get("t") == "Div":
        (name, classes, rest), blocks = block["c"]
        inside = printed or PRINTED in classes
        return {"t": "Div", "c": [[name, classes, rest], [_marked(each, inside) for each in blocks]]}
    if printed and block.get("t") == "CodeBlock":
        return {"t": "CodeBlock", "c": [["", ["output"], []], block["c"][1]]}
    return block
