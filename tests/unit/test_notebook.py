"""The quick notebook check agrees with nbformat on what it judges."""

from __future__ import annotations

import copy
import json
from typing import Any

import nbformat
import pytest

from tests.copying import WORKSHOPS
from wodmail.copyfolder import notebook

GOOD: dict[str, Any] = {
    "nbformat": 4,
    "nbformat_minor": 4,
    "metadata": {},
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": ["a\n", "b"]},
        {"cell_type": "raw", "metadata": {}, "source": "r"},
        {
            "cell_type": "code",
            "metadata": {},
            "source": "1",
            "execution_count": 1,
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": "x"},
                {"output_type": "execute_result", "data": {}, "metadata": {}, "execution_count": 1},
                {"output_type": "error", "ename": "E", "evalue": "v", "traceback": []},
            ],
        },
    ],
}


def changed(*path: Any, value: Any = None, drop: bool = False) -> dict[str, Any]:
    book = copy.deepcopy(GOOD)
    place: Any = book
    for part in path[:-1]:
        place = place[part]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return book


BAD = [
    changed("metadata", drop=True),
    changed("nbformat_minor", drop=True),
    changed("cells", value={}),
    changed("cells", 0, "cell_type", value="poem"),
    changed("cells", 0, "source", drop=True),
    changed("cells", 0, "source", value=[1]),
    changed("cells", 0, "metadata", value=[]),
    changed("cells", 1, value="text"),
    changed("cells", 2, "outputs", drop=True),
    changed("cells", 2, "outputs", value="none"),
    changed("cells", 2, "execution_count", drop=True),
    changed("cells", 2, "execution_count", value="1"),
    changed("cells", 2, "outputs", 0, "text", drop=True),
    changed("cells", 2, "outputs", 1, "output_type", value="sound"),
]


def test_a_good_notebook_passes_both() -> None:
    nbformat.validate(GOOD)
    assert notebook.problem(json.dumps(GOOD)) is None


@pytest.mark.parametrize("book", BAD, ids=range(len(BAD)))
def test_what_nbformat_refuses_is_refused(book: dict[str, Any]) -> None:
    with pytest.raises((nbformat.ValidationError, KeyError, AttributeError, TypeError)):
        nbformat.validate(book)
    assert notebook.problem(json.dumps(book))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"nbformat": NaN}', '{"nbformat": true, "metadata": {}}', "[" * 9999]
)
def test_other_json_is_no_notebook(text: str) -> None:
    assert notebook.problem(text)


def test_broken_json_is_told_with_its_line() -> None:
    assert "line 3" in str(notebook.problem('{\n "a": 1,\n "b": "say "it""\n}'))


def test_the_workshops_of_the_tests_are_notebooks_before_they_are_expanded() -> None:
    books = [path for path in WORKSHOPS.rglob("*.ipynb") if "checkpoint" not in path.name]
    assert len(books) >= 8
    assert [path for path in books if notebook.problem(path.read_text())] == []
