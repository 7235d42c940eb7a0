"""Where mathematics is in a text, by Jupyter's rules (pure).

Jupyter takes formulas out of a Markdown cell before it is rendered (`removeMath` of @jupyterlab/rendermime), so that
neither `_` nor `|` means anything in them, and puts them back afterwards; MathJax, set to Jupyter's signs, looks at
texts of HTML. Both are here, but for money and variables of a shell: Jupyter makes a formula of what is between the
signs of `$5 and $6`, which nobody means.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Signs:
    """What formulas begin and end with.

    Args:
        opening: finds what begins one, and what only looks so, escaped signs.
        ends: for each beginning a pattern of its end; environments, which end by their own name, aside.
        stop: no formula goes beyond this.
    """

    opening: re.Pattern[str]
    ends: Mapping[str, str]
    stop: str = "(?!)"


_HIDDEN = "\0"
"""In the place of each letter of code; no text of a notebook has it any more."""
_DOLLARS = {"$": r"\$", "$$": r"\$\$"}
_SLASHES = {r"\(": r"\\\)", r"\[": r"\\\]"}
_ENVIRONMENT = r"\\begin\{(?P<name>[A-Za-z]+\*?)\}"
MARKDOWN = Signs(
    re.compile(rf"\\[{{}}$]|\$\$?|\\\\[(\[]|{_ENVIRONMENT}"),
    _DOLLARS | {r"\\(": r"\\\\\)", r"\\[": r"\\\\\]"},
    stop=rf"\n[ \t>]*\n|</[A-Za-z]|{_HIDDEN}",  # a paragraph; an element that ends, as in <td>$5</td>; code
)
"""Of a cell: the backslash before a bracket is doubled, because Markdown takes one away."""
HTML = Signs(re.compile(rf"\\[\\$]|\$\$?|\\[(\[]|{_ENVIRONMENT}"), _DOLLARS | _SLASHES)
"""Of HTML and LaTeX that a program has printed."""
RAW = Signs(re.compile(r"\\\\|\\[(\[]"), _SLASHES)
"""Of HTML that was written into a cell; other signs are found before it is rendered."""

_MONEY_BEFORE = re.compile(r"(?<=\d)\$(?=[\s,.;:)])")
"""A sign behind a price, as in `5$ or 6$`: begins nothing."""
_ANOTHER = re.compile(r'(?:(?<=[\s(\[=:/"])|(?<=\*\*))\$(?=[\w{(\\])')
"""A sign that rather begins something than ends it: a price, a variable, the next formula."""
_TRIES = 20
"""So many formulas that never end are looked for; then, as Jupyter always does, the rest of a paragraph is let be."""
_PRICE = re.compile(r"\$\d")
_QUOTED = re.compile(r"[ \t]*(?:>[ \t]?)+")
_CODE = re.compile(r"(?<![\\`])(`+)(?!`)[^\n]*?[^`\n]\1(?!`)|<(pre|code)\b[^>]*>.*?</\2>", re.DOTALL | re.IGNORECASE)
_PIECE = re.compile(r'<(?P<close>/?)(?P<name>[A-Za-z0-9]+)(?P<rest>(?:[^">]|"[^"]*")*+)>|[^<]+')
IGNORED = "tex2jax_ignore"
"""Class of an element that says of itself that no mathematics is in it; pandas has it for tables."""
_NOT_IN = ("pre", "code")


@dataclass(frozen=True, slots=True)
class Formula:
    """Mathematics in a text.

    Args:
        start: where it begins in the text, with its sign.
        end: where it ends, behind its sign.
        latex: what it is.
        displayed: whether it stands on a line of its own.
    """

    start: int
    end: int
    latex: str
    displayed: bool


@dataclass(slots=True)
class Taken:
    """Formulas that were taken out of a text.

    Args:
        sign: stands around the number of each in its place; nowhere else in the text.
        formulas: each as an element that pandoc reads, and as it was written.
    """

    sign: str
    formulas: list[tuple[str, str]] = field(default_factory=list)


def find(text: str, signs: Signs, hidden: str = "") -> Iterator[Formula]:
    """The formulas in a text.

    Args:
        text: the text.
        signs: what they begin and end with.
        hidden: the same text, with other letters in the place of those that aren't to be looked at.
    """
    seen, at, tries = hidden or text, 0, _TRIES
    while opened := signs.opening.search(seen, at):
        at = opened.end()
        name = opened.groupdict().get("name")
        end = rf"\\end\{{{re.escape(name)}\}}" if name else signs.ends.get(opened[0])
        if end is None or (opened[0] == "$" and _MONEY_BEFORE.match(seen, opened.start())):
            continue
        closed = _closed(seen, at, end, signs.stop)
        if closed is None or closed["end"] is None:
            tries -= 1
            at = at if tries > 0 else closed.start() if closed else len(text)
            continue
        if opened[0] == "$" and _is_another(seen, opened, closed):
            continue
        latex = text[opened.start() : closed.end()] if name else text[at : closed.start()]
        if latex.strip():
            yield Formula(opened.start(), closed.end(), latex.strip(), bool(name) or opened[0].endswith(("$$", "[")))
            at = closed.end()


def _closed(text: str, at: int, end: str, stop: str) -> re.Match[str] | None:
    """Where a formula ends that begins there, not within braces; else where it has to stop."""
    depth = 0
    for found in re.compile(rf"(?P<end>{end})|(?P<stop>{stop})|\\.|[{{}}]").finditer(text, at):
        if found["stop"] is not None or (found["end"] is not None and not depth):
            return found
        depth = max(0, depth + {"{": 1, "}": -1}.get(found[0], 0))
    return None


def _is_another(text: str, opened: re.Match[str], closed: re.Match[str]) -> bool:
    """Whether the second of two single signs begins something of its own."""
    prices = _PRICE.match(text, opened.start()) and _PRICE.match(text, closed.start())
    return bool(prices or _ANOTHER.match(text, closed.start()))


def hidden_code(markdown: str, blocks: list[tuple[int, int]]) -> str:
    """The same text, as long, with nothing in the place of code.

    Args:
        markdown: the text.
        blocks: from which line to before which there is code, as Markdown reads it.
    """
    lines = markdown.split("\n")
    for first, last in blocks:
        lines[first:last] = [_HIDDEN * len(line) for line in lines[first:last]]
    return _CODE.sub(lambda found: re.sub(r"[^\n]", _HIDDEN, found[0]), "\n".join(lines))


def take_out(markdown: str, hidden: str) -> tuple[str, Taken]:
    """A text with signs in the place of its formulas, and these.

    Args:
        markdown: the text.
        hidden: see `hidden_code`.
    """
    taken = Taken("@@")
    while taken.sign in markdown:
        taken.sign += "@"
    parts, at = [], 0
    for number, formula in enumerate(find(markdown, MARKDOWN, hidden)):
        parts += [markdown[at : formula.start], f"{taken.sign}{number}{taken.sign}"]
        at = formula.end
        taken.formulas.append((_element(_unquoted(markdown, formula), formula.displayed), markdown[formula.start : at]))
    return "".join([*parts, markdown[at:]]), taken


def _unquoted(markdown: str, formula: Formula) -> str:
    """A formula in a quotation, without the signs of that before its lines."""
    if not _QUOTED.match(markdown, markdown.rfind("\n", 0, formula.start) + 1):
        return formula.latex
    return re.sub(rf"(?m)^{_QUOTED.pattern}", "", formula.latex).strip()


def _element(latex: str, displayed: bool) -> str:
    """A formula as pandoc reads it; by signs around it, code that has the same signs would be one too."""
    mode = "; mode=display" if displayed else ""
    return f'<script type="math/tex{mode}">{latex.replace("</", "< /")}</script>'  # which would end it


def put_in(page: str, signs: Signs, taken: Taken | None = None) -> str:
    """HTML with its formulas as elements.

    Args:
        page: well-formed HTML, sanitised: what is put in isn't any more.
        signs: which formulas are looked for in its texts; none are in code.
        taken: formulas that were taken out before; in code and attributes they become again what was written.
    """
    made, within, depth = [], "", 0
    for found in _PIECE.finditer(page):
        name = found["name"]
        if name is None and not within:
            made.append(_typeset(found[0], signs, taken))
            continue
        made.append(_again(found[0], taken))
        if name and not within and not found["close"] and (name in _NOT_IN or IGNORED in found["rest"]):
            within, depth = name, 1
        elif name and name == within:
            depth += -1 if found["close"] else 1
            within = within if depth else ""
    return "".join(made)


def _again(piece: str, taken: Taken | None) -> str:
    if taken is None:
        return piece
    return _numbers(taken).sub(lambda found: html.escape(_numbered(found, taken)[1]), piece)


def _typeset(piece: str, signs: Signs, taken: Taken | None) -> str:
    """A text of HTML."""
    if taken is None:
        return _searched(piece, signs)
    made, at = [], 0
    for found in _numbers(taken).finditer(piece):
        made += [_searched(piece[at : found.start()], signs), _numbered(found, taken)[0]]
        at = found.end()
    return "".join([*made, _searched(piece[at:], signs)])


def _numbers(taken: Taken) -> re.Pattern[str]:
    return re.compile(rf"{taken.sign}([0-9]{{1,9}}){taken.sign}")


def _numbered(found: re.Match[str], taken: Taken) -> tuple[str, str]:
    number = int(found[1])
    return taken.formulas[number] if number < len(taken.formulas) else (found[0], found[0])


def _searched(piece: str, signs: Signs) -> str:
    text, made, at = html.unescape(piece), [], 0
    for formula in find(text, signs):
        made += [html.escape(text[at : formula.start], quote=False), _element(formula.latex, formula.displayed)]
        at = formula.end
    return "".join([*made, html.escape(text[at:], quote=False)]) if made else piece
