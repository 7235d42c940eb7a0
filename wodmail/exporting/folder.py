"""All notebooks of a workshop's folder exported into it, each beside its notebook."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wodmail.errors import Failed
from wodmail.exporting.convert import LARGEST_NOTEBOOK, Form, document_of

MODE = 0o644
MOST = 200
DEEPEST = 8
SKIPPED = frozenset({".ipynb_checkpoints", "__pycache__", "node_modules"})


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of one notebook.

    Args:
        notebook: its path within the folder.
        document: the document's path within the folder, "" when there is none.
        size: the document's size in bytes.
        error: why there is none, in words for whoever asked.
        cause: the same for the operator.
    """

    notebook: str
    document: str = ""
    size: int = 0
    error: str = ""
    cause: str = ""


def notebooks(folder: Path) -> list[str]:
    """The notebooks of a folder and of those below it, as paths within it; links and checkpoints are passed over.

    Args:
        folder: the workshop's folder.

    Raises:
        Failed: it can't be read, or holds too many.
    """
    found: list[str] = []

    def told(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise Failed(f"The folder {folder} can't be read: {error.strerror}.", str(error)) from error

    for where, folders, names in os.walk(folder, onerror=told):
        inside = os.path.relpath(where, folder)
        depth = 0 if inside == "." else inside.count("/") + 1
        folders[:] = sorted(
            name for name in folders if name not in SKIPPED and not name.startswith(".") and depth < DEEPEST
        )
        paths = [name if inside == "." else f"{inside}/{name}" for name in sorted(names) if name.endswith(".ipynb")]
        found += [path for path in paths if stat.S_ISREG((folder / path).lstat().st_mode)]
        if len(found) > MOST:
            raise Failed(f"There are more than {MOST} notebooks in {folder}.", str(folder))
    return found


def export(folder: Path, form: Form) -> Iterator[Exported]:
    """Export every notebook of a folder; one that fails stops no other.

    Args:
        folder: the workshop's folder; the caller's rights decide what can be read and written.
        form: PDF or Word.

    Yields:
        What became of each, in alphabetical order.

    Raises:
        Failed: the folder can't be read.
    """
    for path in notebooks(folder):
        where, _, name = path.rpartition("/")
        stem = name.removesuffix(".ipynb")
        target = f"{where}/{stem}.{form}" if where else f"{stem}.{form}"
        try:
            data = document_of(_read(folder / path), form, folder, where, stem)
            _write(folder / target, data)
        except Failed as error:
            yield Exported(path, error=error.sender, cause=error.operator)
        except OSError as error:
            yield Exported(path, error=f"It could not be read or written: {error.strerror}.", cause=str(error))
        else:
            yield Exported(path, target, len(data))


def _read(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(LARGEST_NOTEBOOK + 1)


def _write(path: Path, data: bytes) -> None:
    """Write a document whole or not at all; what was there, a link too, is replaced."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), MODE)
        fresh.replace(path)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
