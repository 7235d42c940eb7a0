"""Notebooks as PDF and Word documents (docs/export.md). What is in a notebook is not trusted here.

This file imports nothing that only `wodmail[export]` brings.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from wodmail.errors import Failed, Refused
from wodmail.model import Action

NEEDED = ("pypandoc", "typst", "PIL", "nbformat", "markdown_it", "linkify_it", "nh3")
PROGRAM = "wod-generate-pdf"
FORMS = {Action.PDF: "pdf", Action.WORD: "docx"}
"""What the two actions make of a notebook: the document's ending."""


def installed() -> bool:
    """Whether documents can be made here."""
    return all(find_spec(name) is not None for name in NEEDED)


def require() -> None:
    """See that documents can be made.

    Raises:
        Refused: what to install.
    """
    if not installed():
        raise Refused(
            "PDF and WORD are not installed on this backend. Nothing was changed. The operator has to install them "
            "with: pip install 'wodmail[export]'",
            f"one of {', '.join(NEEDED)} is missing; install wodmail[export], then `wodmail helper install` as root",
        )


def program() -> Path:
    """The exporter that was installed with this wodmail.

    Raises:
        Refused: see `require`.
        Failed: the program isn't beside the python that runs.
    """
    require()
    found = Path(sys.executable).with_name(PROGRAM)
    if not found.is_file():
        raise Failed("PDF and WORD can't be made here; the operator has to look at it.", f"{found} is missing")
    return found
