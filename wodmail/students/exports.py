"""Documents made of a student's notebooks: how the exporter is called, how its documents are taken out of the home.

Standard library alone: the root helper carries a copy of this file. The exporter may run as the student, so what it
says is not believed: documents are looked for where it says, below the workshop's folder, and no link is followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from wodmail.students.treewriter import FOLDER_FLAGS, Entry, pack, unpack

FORMS = ("pdf", "docx")
SECONDS = 240.0
WORK_SECONDS = 220.0
"""What the exporter itself stops at, in time to say what it has not done."""
MAX_DOCUMENTS = 200
MAX_BYTES = 64 * 1024 * 1024
MAX_REPORT = 1024 * 1024
MAX_WORDS = 500
CPU_SECONDS, MEMORY, FILE = 600, 4 * 1024**3, 256 * 1024**2
SOME_FAILED = 3
ENDED_WELL = (0, SOME_FAILED)
"""Statuses of an exporter that has said what became of each notebook; python's own for a program that broke is 1."""
FOR_ANOTHER = "WODMAIL_EXPORT"
"""Set where nobody waits for the exporter but the process that started it: it ends with that."""
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/",
    "LC_ALL": "C.UTF-8",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    FOR_ANOTHER: "1",
}
_NOT_REACHED = "It was not reached: the export was ended before. Send the mail again, or ask the operator."
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Document:
    """What became of one notebook.

    Args:
        notebook: its path within the workshop's folder.
        path: the document's path within it, "" when there is none.
        size: the document's size in bytes.
        data: the document; None when there is none, or when all together would be more than 64 MiB.
        error: why there is none, in the sender's words.
        cause: the same for the operator.
        note: what else is to be said of the document, "" when there is nothing.
    """

    notebook: str
    path: str = ""
    size: int = 0
    data: bytes | None = None
    error: str = ""
    cause: str = ""
    note: str = ""


def argv(exporter: str, form: str) -> list[str]:
    """How the exporter is called; it works on the folder that it is started in."""
    return [exporter, "--json-lines", *(["--word"] if form == "docx" else [])]


def no_folder(student: str, workshop: str) -> str:
    """The words for a student without the workshop's folder."""
    return f"{student} has no folder {workshop}, so there is nothing to export. Send a CREATE first."


def no_notebooks(student: str, workshop: str) -> str:
    """The words for a folder without notebooks."""
    return f"There is no notebook in {workshop} of {student}, so there is nothing to export."


def taken(folder: int, report: bytes, form: str, ended: str = "") -> list[Document]:
    """The documents that an exporter says it has made.

    Args:
        folder: descriptor of the workshop's folder, where it was started.
        report: what it has printed: a line {"version": 1, "notebooks": [path, ...]}, then a line for each notebook as
            it was done. The last line may be torn.
        form: pdf or docx.
        ended: why it did not come to its end, in the operator's words; "" when it did.

    Returns:
        What became of each notebook, of those too that it has said nothing of.

    Raises:
        ValueError: that isn't a report.
    """
    if len(report) > MAX_REPORT:
        raise ValueError("the exporter said too much")
    names, rows = _rows(report, ended)
    found: list[Document] = []
    left = MAX_BYTES
    for row in rows[:MAX_DOCUMENTS]:
        each = _document(folder, row, form, left)
        left -= len(each.data or b"")
        found.append(each)
    told = {each.notebook for each in found}
    missing = [name for name in names if name not in told][: MAX_DOCUMENTS - len(found)]
    return found + [Document(name, error=_NOT_REACHED, cause=ended or "the exporter did not tell") for name in missing]


def _rows(report: bytes, ended: str) -> tuple[list[str], list[dict[str, Any]]]:
    """The notebooks that were to be exported, and what was said of each."""
    first, *others = report.split(b"\n")[: None if report.endswith(b"\n") or not ended else -1] or [b""]
    if not first:
        raise ValueError(ended or "the exporter said nothing")
    head = json.loads(first)
    names = head.get("notebooks") if isinstance(head, dict) and head.get("version") == 1 else None
    rows = [json.loads(line) for line in others if line]
    if not isinstance(names, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("the exporter's report is not understood")
    return [str(name)[:MAX_WORDS] for name in names], rows


def _document(folder: int, row: dict[str, Any], form: str, left: int) -> Document:
    notebook, path, error, cause, note = (str(row.get(key, ""))[:MAX_WORDS] for key in _WORDS)
    if not path:
        return Document(notebook, error=error or "It was not exported.", cause=cause)
    try:
        size, data = _read(folder, path, form, left)
    except (OSError, ValueError) as trouble:
        return Document(notebook, error="Its document could not be read.", cause=f"{path!r}: {trouble}")
    return Document(notebook, path, size, data, note=note)


_WORDS = ("notebook", "document", "error", "cause", "note")


def _read(folder: int, path: str, form: str, left: int) -> tuple[int, bytes | None]:
    """Size and content of a document below a folder, reached name by name; no content when it is larger than `left`."""
    parts = path.split("/")
    if not path.endswith(f".{form}") or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError("no path below the folder")
    with contextlib.ExitStack() as stack:
        for part in parts[:-1]:
            folder = os.open(part, FOLDER_FLAGS, dir_fd=folder)
            stack.callback(os.close, folder)
        file = stack.enter_context(os.fdopen(os.open(parts[-1], _FILE, dir_fd=folder), "rb"))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no file")
        data = file.read(left + 1) if status.st_size <= left else None
        return status.st_size, data if data is None or len(data) <= left else None


_FIELDS = ("notebook", "path", "size", "error", "cause", "note")


def packed(found: Iterable[Document]) -> tuple[list[dict[str, Any]], bytes]:
    """Documents as an answer of the root helper: rows for its line, and an archive of what they hold."""
    rows, entries = [], []
    for number, each in enumerate(found):
        rows.append({key: getattr(each, key) for key in _FIELDS})
        if each.data is not None:
            entries.append(Entry(str(number), "file", data=each.data))
    return rows, pack(entries)


def unpacked(rows: object, payload: bytes) -> list[Document]:
    """Documents out of an answer of the root helper.

    Raises:
        ValueError, TypeError, KeyError, IndexError: that is none.
    """
    listed = rows if isinstance(rows, list) else []
    found = [_row(row) for row in listed]
    for entry in unpack(payload):
        number = int(entry.path)
        found[number] = replace(found[number], data=entry.data)
    return found


def _row(row: dict[str, Any]) -> Document:
    note = str(row.get("note", ""))  # a helper that was installed earlier says none
    size, error, cause = int(row["size"]), str(row["error"]), str(row["cause"])
    return Document(str(row["notebook"]), str(row["path"]), size, None, error, cause, note)
