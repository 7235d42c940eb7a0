"""The completion ratio over notebooks as students leave them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wodmail import completion as module
from wodmail.completion import completion, ratio


def notebook(*counts: int | None, markdown: int = 1) -> bytes:
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "metadata": {}, "source": "x"}] * markdown
    cells = [
        *cells,
        *({"cell_type": "code", "metadata": {}, "source": "", "outputs": [], "execution_count": n} for n in counts),
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}).encode()


@pytest.mark.parametrize(
    ("counts", "percent"),
    [((), 0), ((None,), 0), ((1,), 100), ((1, None, None), 33), ((1, 2, None), 66), ((0,), 100)],
)
def test_rounded_down(counts: tuple[int | None, ...], percent: int) -> None:
    assert ratio([("a.ipynb", notebook(*counts))]) == percent


def test_over_all_notebooks() -> None:
    found = completion([("a.ipynb", notebook(1, None)), ("b.ipynb", notebook(3, 4))])
    assert (found.executed, found.cells, found.percent, found.problems) == (3, 4, 75, ())


def test_checkpoints_are_not_counted() -> None:
    files = [("a.ipynb", notebook(1)), (".ipynb_checkpoints/a-checkpoint.ipynb", notebook(None, None))]
    assert completion(files).cells == 1


def test_the_word_in_the_text_does_not_count() -> None:
    data = json.loads(notebook(None))
    data["cells"][0]["source"] = '"execution_count": 7'
    assert ratio([("a.ipynb", json.dumps(data).encode())]) == 0


def test_format_three() -> None:
    cells = [
        {"cell_type": "code", "input": "", "outputs": [], "language": "python", "prompt_number": 4, "metadata": {}}
    ]
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]}
    assert ratio([("a.ipynb", json.dumps(old).encode())]) == 100


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"nbformat": 4}',
        b'{"nbformat": 99, "cells": []}',
        b'{"nbformat": [], "cells": []}',
        b'{"nbformat": 4, "nbformat_minor": 4, "cells": 5}',
        b'{"nbformat": 4, "nbformat_minor": 4, "cells": [5]}',
        b'{"nbformat": 3, "worksheets": 5}',
        b'{"nbformat": 4, "cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_malformed_ones_are_left_out_and_named(content: bytes) -> None:
    found = completion([("bad.ipynb", content), ("good.ipynb", notebook(1))])
    assert (found.percent, found.cells, len(found.problems)) == (100, 1, 1)
    assert found.problems[0].startswith("bad.ipynb: ")


def test_sizes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NOTEBOOK", 2000)
    monkeypatch.setattr(module, "MAX_NOTEBOOKS", 3)
    big = notebook(*[None] * 100)
    found = completion([("big.ipynb", big), *[(f"{n}.ipynb", notebook(1)) for n in range(5)]])
    assert (found.executed, found.cells) == (2, 2)
    assert [line.split(":")[0] for line in found.problems] == ["big.ipynb", "2.ipynb"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8))
def test_any_cells_are_survived(cells: Any) -> None:
    content = json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}).encode()
    assert 0 <= ratio([("a.ipynb", content)]) <= 100
