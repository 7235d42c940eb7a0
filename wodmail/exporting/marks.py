"""The mark of documents that were made here: nothing else beside a notebook is ever replaced."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from typing import BinaryIO

from wodmail.exporting import below
from wodmail.exporting.below import Folder

MARK = "wod-generate-pdf"
"""Stands among the keywords of a document: of XMP in a PDF, of the core properties in a Word document."""
_PIECE = 1 << 20
_LARGEST_PROPERTIES = 1 << 16


def is_free(folder: Folder, path: str) -> bool:
    """Whether a document may be written there: there is nothing, or a document of ours.

    Args:
        folder: the workshop's folder.
        path: a path within it, ending in .pdf or .docx.

    Raises:
        OSError: the way to it, or the file, can't be read.
    """
    with below.above(folder, path) as (handle, name):
        try:
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if not stat.S_ISREG(status.st_mode):
            return False
        with below.opened(handle, name) as file, os.fdopen(os.dup(file), "rb") as source:
            return _in_word(source) if path.endswith(".docx") else _in_pdf(source)


def _in_pdf(source: BinaryIO) -> bool:
    if source.read(5) != b"%PDF-":
        return False
    mark = f">{MARK}<".encode()
    before = b""
    while piece := source.read(_PIECE):
        if mark in before + piece:
            return True
        before = piece[-len(mark) :]
    return False


def _in_word(source: BinaryIO) -> bool:
    try:
        with zipfile.ZipFile(source) as archive, archive.open("docProps/core.xml") as properties:
            return f"<cp:keywords>{MARK}</cp:keywords>".encode() in properties.read(_LARGEST_PROPERTIES)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError):
        return False
