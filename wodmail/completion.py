"""How far a student got: executed code cells of the workshop's notebooks, read with nbformat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

MAX_NOTEBOOK = 16 * 1024 * 1024
MAX_NOTEBOOKS = 500
MAX_TOTAL = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Completion:
    """What was counted.

    Args:
        executed: code cells whose execution_count is not null.
        cells: all code cells of the notebooks that could be read.
        problems: one line for each notebook that was left out, with the reason.
    """

    executed: int
    cells: int
    problems: tuple[str, ...] = ()

    @property
    def percent(self) -> int:
        """Executed cells in percent of all, rounded down; 0 when there are no cells."""
        return self.executed * 100 // self.cells if self.cells else 0


def ratio(notebooks: Iterable[tuple[str, bytes]]) -> int:
    """The completion percentage alone; see `completion`."""
    return completion(notebooks).percent


def completion(notebooks: Iterable[tuple[str, bytes]]) -> Completion:
    """Count the code cells and the executed ones over all notebooks.

    The content is the student's, so anything may be in it: what can't be read is left out and named, never an error.

    Args:
        notebooks: file name and content of each; Jupyter's own checkpoint copies are passed over. At most 500
            notebooks, 16 MiB each, 128 MiB together.

    Returns:
        the counts, and what was left out.
    """
    executed = cells = seen = total = 0
    problems: list[str] = []
    for name, content in notebooks:
        if ".ipynb_checkpoints" in name or name.endswith("-checkpoint.ipynb"):
            continue
        seen, total = seen + 1, total + len(content)
        if seen > MAX_NOTEBOOKS or total > MAX_TOTAL:
            problems.append(f"{name}: left out with all after it: more than {MAX_NOTEBOOKS} notebooks or too large")
            break
        counted = _count(content)
        if isinstance(counted, str):
            problems.append(f"{name}: {counted}")
        else:
            executed, cells = executed + counted[0], cells + counted[1]
    return Completion(executed, cells, tuple(problems))


def _count(content: bytes) -> tuple[int, int] | str:
    """Executed and all code cells of one notebook, or why it can't be read."""
    if len(content) > MAX_NOTEBOOK:
        return f"larger than {MAX_NOTEBOOK // 1024 // 1024} MiB"
    try:
        counts = _execution_counts(content.decode("utf-8-sig"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"no notebook that can be read ({type(error).__name__})"
    return sum(count is not None for count in counts), len(counts)


def _execution_counts(text: str) -> list[Any]:
    """The code cells' execution_count, None where never executed, whichever notebook format they were written in."""
    # imported here: it takes 0.2 s and only CLEANUP needs it
    from nbformat import ValidationError, converter, reader

    read: Callable[[str], Any] = reader.reads
    convert: Callable[[Any, int], Any] = converter.convert
    try:
        cells = convert(read(text), 4)["cells"]
    except ValidationError as error:
        raise ValueError("the notebook lacks what its format demands") from error
    return [cell.get("execution_count") for cell in cells if cell["cell_type"] == "code"]
