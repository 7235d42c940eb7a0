"""All notebooks of a workshop's folder exported into it, each beside its notebook."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wodmail.errors import Failed
from wodmail.exporting import below, marks
from wodmail.exporting.apart import Limits
from wodmail.exporting.below import Folder
from wodmail.exporting.convert import LARGEST_NOTEBOOK, Form, made_of

MOST = 200
DEEPEST = 8
SKIPPED = frozenset({".ipynb_checkpoints", "__pycache__", "node_modules"})
_LEAST_SECONDS = 1.0
_NOT_DONE = "There was no time left for it. Export fewer notebooks at once, or ask the operator."


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of one notebook.

    Args:
        notebook: its path within the folder.
        document: the document's path within the folder, "" when there is none.
        size: the document's size in bytes.
        error: why there is none, in words for whoever asked.
        cause: the same for the operator.
        note: what else is to be said of the document, "" when there is nothing.
    """

    notebook: str
    document: str = ""
    size: int = 0
    error: str = ""
    cause: str = ""
    note: str = ""


def notebooks(folder: Folder) -> list[str]:
    """The notebooks of a folder and of those below it, as paths within it; links and checkpoints are passed over.

    Args:
        folder: the workshop's folder.

    Raises:
        Failed: it can't be read, or holds too many.
    """
    try:
        with below.above(folder, ".") as (handle, _):
            return _found(handle)
    except OSError as error:
        raise Failed(f"The folder can't be read: {error.strerror}.", f"{folder}: {error}") from error


def _found(handle: int) -> list[str]:
    found: list[str] = []

    def told(error: OSError) -> None:
        if error.filename == ".":
            raise error

    for where, folders, names, inner in os.fwalk(".", onerror=told, dir_fd=handle):
        inside = where.removeprefix(".").removeprefix("/")
        depth = inside.count("/") + 1 if inside else 0
        folders[:] = sorted(
            name for name in folders if name not in SKIPPED and not name.startswith(".") and depth < DEEPEST
        )
        fitting = sorted(name for name in names if name.endswith(".ipynb") and _is_file(name, inner))
        found += [f"{inside}/{name}" if inside else name for name in fitting]
        if len(found) > MOST:
            raise Failed(f"There are more than {MOST} notebooks in the folder.")
    return found


def _is_file(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def export(
    folder: Folder,
    form: Form,
    paths: Sequence[str] | None = None,
    limits: Limits | None = None,
    seconds: float = float("inf"),
) -> Iterator[Exported]:
    """Export notebooks of a folder; one that fails, however it does, stops no other.

    Args:
        folder: the workshop's folder; the caller's rights decide what can be read and written.
        form: PDF or Word.
        paths: which; all that `notebooks` finds when none are given.
        limits: what each may take.
        seconds: for all; those for which none are left fail.

    Yields:
        What became of each, in the order of their paths.

    Raises:
        Failed: the folder can't be read.
    """
    each = limits or Limits()
    end = time.monotonic() + seconds
    for path in notebooks(folder) if paths is None else paths:
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            yield Exported(path, error=_NOT_DONE, cause=f"{seconds:g} s for all are over")
            continue
        try:
            yield _exported(folder, form, path, Limits(min(each.seconds, left), each.memory, each.file))
        except Failed as error:
            yield Exported(path, error=error.sender, cause=error.operator)
        except OSError as error:
            yield Exported(path, error=f"It could not be read or written: {error.strerror}.", cause=str(error))


def _exported(folder: Folder, form: Form, path: str, limits: Limits) -> Exported:
    where, _, name = path.rpartition("/")
    stem = name.removesuffix(".ipynb")
    target, note = _target(folder, path.removesuffix(".ipynb"), form)
    made = made_of(_read(folder, path), form, folder, where, stem, limits)
    below.write(folder, target, made.data)
    return Exported(path, target, len(made.data), note=" ".join(filter(None, (note, made.note))))


def _target(folder: Folder, stem: str, form: Form) -> tuple[str, str]:
    """Where a document goes without replacing what others made, and what is to be said of that."""
    first, second = f"{stem}.{form}", f"{stem}.wodmail.{form}"
    if marks.is_free(folder, first):
        return first, ""
    kept = f"{first.rpartition('/')[2]} was not made by an export and is left as it is."
    if marks.is_free(folder, second):
        return second, kept
    other = second.rpartition("/")[2]
    raise Failed(f"{kept} Neither was {other}: there is no name left for its document.", f"{first} and {second}")


def _read(folder: Folder, path: str) -> bytes:
    with below.opened(folder, path) as handle, os.fdopen(os.dup(handle), "rb") as file:
        return file.read(LARGEST_NOTEBOOK + 1)
