"""Where in a template did it go wrong? Finds line and variable of an error that Ansible reports without them.

The template is rendered again with its parts told apart, which only happens once something has failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jinja2 import Environment, TemplateSyntaxError

Render = Callable[[str], str]
"""Renders a template's text; returns "" when that went well, else the error's text."""

UNDEFINED = re.compile(r"'([^'\n]+)' is undefined|has no (?:attribute|element) '?([^'\n]+?)'?(?=$|[\s.,;:'])")
MARK = "__wod_line_"


@dataclass(frozen=True, slots=True)
class Blame:
    """What was found out: the line (from 1, 0 when unknown) and the variable ("" when it is none)."""

    line: int
    variable: str


def syntax(text: str) -> tuple[int, str] | None:
    """Line and message of the first syntax error of a template, None when there is none."""
    try:
        Environment(autoescape=False, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]).parse(text)  # noqa: S701
    except TemplateSyntaxError as error:
        return error.lineno, error.message or "syntax error"
    return None


def find(text: str, message: str, render: Render) -> Blame:
    """Line and variable behind an error.

    Args:
        text: the template.
        message: the error's text.
        render: renders a text with the same variables.
    """
    named = UNDEFINED.search(message)
    variable = (named.group(1) or named.group(2)) if named else ""
    tokens = list(_tokens(text))
    if variable:
        line = _line_of(variable, tokens, render)
        if line:
            return Blame(line, variable)
    return Blame(_line_by_parts(tokens, message, render), variable)


def _tokens(text: str) -> Iterator[tuple[int, str, str]]:
    """Tokens of a template as (line, kind, value); their values joined are the text again."""
    try:
        yield from Environment(autoescape=False, trim_blocks=True, keep_trailing_newline=True).lex(text)  # noqa: S701
    except TemplateSyntaxError:
        return


def _line_of(variable: str, tokens: list[tuple[int, str, str]], render: Render) -> int:
    """The line that asked for the variable: each mention gets a name of its own, and the error tells which it was."""

    def marked(line: int, kind: str, value: str) -> str:
        if kind == "name" and value == variable:
            return f"{value}{MARK}{line}"
        if kind == "string" and value[1:-1] == variable:
            return f"{value[:-1]}{MARK}{line}{value[-1]}"
        return value

    renamed = [marked(*token) for token in tokens]
    found = re.search(re.escape(variable + MARK) + r"(\d+)", render("".join(renamed)))
    if found:
        return int(found.group(1))
    mentions = [line for line, kind, value in tokens if kind in ("name", "string") and value.strip("\"'") == variable]
    return mentions[0] if mentions else 0


def _line_by_parts(tokens: list[tuple[int, str, str]], message: str, render: Render) -> int:
    """The first line whose expression alone fails with the same words."""
    part: list[str] = []
    start = 0
    for line, kind, value in tokens:
        if kind == "variable_begin":
            part, start = [], line
        part.append(value)
        if kind == "variable_end" and start:
            error = render("".join(part))
            if error and (error in message or message in error):
                return start
            start = 0
    return 0
