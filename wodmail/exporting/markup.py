"""A notebook as one page of HTML, as Jupyter would show it: Markdown rendered, raw HTML sanitised (pure).

Markdown is CommonMark with tables, struck text, plain links and mathematics, as in Jupyter: what stands between lines
of raw HTML is Markdown too, which pandoc's own reader doesn't see. Each cell's HTML ends within the cell. What makes
content safe is `document`, whatever comes through here.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from functools import cache
from typing import Any

import nh3
from linkify_it import LinkifyIt
from markdown_it import MarkdownIt
from markdown_it.token import Token

from wodmail.exporting import formulas
from wodmail.exporting.cells import ATTACHED, OUTPUT

PRINTED = "wodprinted"
"""Class of the division that holds a code cell's outputs."""
_DEEPEST = 100
_ELEMENTS = nh3.ALLOWED_TAGS | {"big", "font", "section", "tfoot"}  # not main: pandoc would read that alone
_WITHOUT_CONTENT = {"script", "style", "title", "textarea", "template", "iframe", "noembed", "noframes", "select"}
_ATTRIBUTES = {
    "*": {"align", "style"},
    "a": {"href", "title"},
    "code": {"class"},
    "img": {"src", "alt", "title", "width"},
    "ol": {"start", "type"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan"},
}
_SCHEMES = {"http", "https", "mailto", "data", "file", ATTACHED, OUTPUT}
"""Of URLs; whether a picture is taken from there, and what is said when not, is for `document`."""


def page(notebook: Mapping[str, Any]) -> str:
    """A notebook as HTML: a division for each cell, named by it, and in that one for what code has printed.

    Args:
        notebook: as `cells.ready` gives it.
    """
    language = notebook["metadata"]["kernelspec"]["language"]
    return "\n".join(_cell(cell, language) for cell in notebook["cells"])


def _cell(cell: Mapping[str, Any], language: str) -> str:
    if cell["cell_type"] == "markdown":
        return _division(f'id="{cell["id"]}"', _rendered(cell["source"]))
    code = _preformatted(cell["source"], language) if cell["source"].strip() else ""
    printed = "".join(_output(output) for output in cell["outputs"])
    return _division(f'id="{cell["id"]}"', code + (_division(f'class="{PRINTED}"', printed) if printed else ""))


def _division(attributes: str, inner: str) -> str:
    return f"<div {attributes}>\n{inner}\n</div>"


def _preformatted(text: str, language: str = "") -> str:
    return f'<pre class="{language}"><code>{html.escape(text)}</code></pre>\n'


def _output(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _preformatted(output["text"])
    ((kind, text),) = output["data"].items()
    if kind == "text/markdown":
        return _rendered(text)
    # LaTeX is a text with formulas, to Jupyter as well.
    return formulas.put_in(tidied(text if kind == "text/html" else html.escape(text)), formulas.HTML)


def _rendered(markdown: str) -> str:
    hidden = formulas.hidden_code(markdown, _code_blocks(markdown)) if "$" in markdown or "\\" in markdown else ""
    text, taken = formulas.take_out(markdown, hidden)
    return formulas.put_in(tidied(str(_renderer().render(text))), formulas.RAW, taken)


def _code_blocks(markdown: str) -> list[tuple[int, int]]:
    """From which line to before which there is code."""
    tokens: list[Token] = []
    _renderer().block.parse(markdown, _renderer(), {}, tokens)
    return [(each.map[0], each.map[1]) for each in tokens if each.type in ("fence", "code_block") and each.map]


@cache
def _renderer() -> MarkdownIt:
    """CommonMark as Jupyter has it."""
    made = MarkdownIt("commonmark", {"html": True, "linkify": True, "maxNesting": _DEEPEST})
    made.enable(["table", "strikethrough", "linkify"])
    # Nothing without its scheme: main.py is no site in Paraguay.
    made.linkify = LinkifyIt(options={"fuzzy_link": False, "fuzzy_email": False, "fuzzy_ip": False})
    made.validateLink = lambda url: True  # type: ignore[method-assign]  # noqa: ARG005 - `document` looks at all
    usual = made.normalizeLink
    made.normalizeLink = lambda url: url if url.startswith("data:") else usual(url)  # type: ignore[method-assign]
    return made


def tidied(text: str) -> str:
    """HTML read as a browser reads it: what was left open ends, and what a sanitiser takes out is out.

    Args:
        text: HTML as somebody has written it.
    """
    return nh3.clean(
        text,
        tags=_ELEMENTS,
        clean_content_tags=_WITHOUT_CONTENT,
        attributes=_ATTRIBUTES,
        allowed_classes={"table": {formulas.IGNORED}, "div": {formulas.IGNORED}},
        filter_style_properties={"text-align"},
        url_schemes=_SCHEMES,
        link_rel=None,
    )
