"""Finding the line and the variable behind a template's error."""

from __future__ import annotations

import jinja2
import pytest

from wodmail.copyfolder import blame
from wodmail.copyfolder.blame import Blame


def render(text: str) -> str:
    """What Jinja says when it renders the text with one variable, "" when all is well."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    try:
        environment.from_string(text).render(known={"inner": 1}, mode="A")
    except (jinja2.TemplateError, TypeError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("one\n{{ missing }}\n", Blame(2, "missing")),
        ("{% if mode == 'B' %}{{ missing }}{% endif %}\n\n{{ missing }}\n", Blame(3, "missing")),
        ("missing\n{# missing #}\n'missing'\n{{ missing }}", Blame(4, "missing")),
        ("{% raw %}{{ missing }}{% endraw %}\n{{ missing | upper }}", Blame(2, "missing")),
        ("\n\n{{ known.outer }}", Blame(3, "outer")),
        ("\n{{ known['a-b'] }}", Blame(2, "a-b")),
        ("\n{% for x in missing %}{{ x }}{% endfor %}", Blame(2, "missing")),
        ("\n{{ 1 + 'x' }}\n", Blame(2, "")),
    ],
)
def test_line_and_variable(text: str, wanted: Blame) -> None:
    message = render(text)
    assert message
    assert blame.find(text, message, render) == wanted


def test_a_syntax_error_has_a_line() -> None:
    found = blame.syntax("\n\n{% if x %}")
    assert found is not None
    assert found[0] == 3
    assert blame.syntax("{{ fine }}") is None
