"""The tree of one student: the workshop's files and what JupyterLab is given beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from wodmail.students.treewriter import Entry

READ_ME = "0-ReadMeFirst.ipynb"
# JupyterLab looks for its default workspace under this name: a slug and the first 4 digits of sha256("default")
WORKSPACE = ".jupyter/lab/workspaces/default-37a8.jupyterlab-workspace"
PDF_SCRIPT = "wod-generate-pdf.sh"


def removals(folder: str) -> list[str]:
    """What an earlier run left of a workshop, relative to the home.

    Args:
        folder: name of the workshop's folder in the home.
    """
    return [folder, WORKSPACE]


def tree(folder: str, files: Iterable[Entry], pdf_script: bytes) -> list[Entry]:
    """Everything that is written into the home.

    Args:
        folder: name of the workshop's folder in the home.
        files: the workshop's entries, expanded, paths relative to the workshop's folder.
        pdf_script: the text of wod-generate-pdf.sh.
    """
    entries = [Entry(folder, "dir", 0o755)]
    entries += [Entry(f"{folder}/{file.path}", file.kind, file.mode, file.data, file.target) for file in files]
    first = next((entry for entry in entries if entry.path == f"{folder}/{READ_ME}" and entry.kind == "file"), None)
    if first is not None:
        saved = f"{folder}/.ipynb_checkpoints/{READ_ME.removesuffix('.ipynb')}-checkpoint.ipynb"
        entries.append(Entry(saved, "file", 0o644, first.data))
        entries.append(Entry(WORKSPACE, "file", 0o644, workspace(f"{folder}/{READ_ME}")))
    entries.append(Entry(f"{folder}/{PDF_SCRIPT}", "file", 0o755, pdf_script))
    return entries


def workspace(path: str) -> bytes:
    """A JupyterLab workspace whose only and current tab is that notebook (path relative to the home)."""
    tab = f"notebook:{path}"
    dock = {"type": "tab-area", "currentIndex": 0, "widgets": [tab]}
    left = {"collapsed": False, "current": "filebrowser", "widgets": ["filebrowser"]}
    layout = {"main": {"dock": dock, "current": tab}, "left": left}
    data = {
        "layout-restorer:data": layout,
        "file-browser-filebrowser:cwd": {"path": path.rpartition("/")[0]},
        tab: {"data": {"path": path, "factory": "Notebook"}},
    }
    return json.dumps({"data": data, "metadata": {"id": "default"}}, indent=1).encode()
