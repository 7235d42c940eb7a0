"""From a notebook to a document: pandoc makes a tree of its HTML and writes, typst sets the pages; both confined.

pandoc runs in its sandbox, where it reads nothing but its standard input. typst reads nothing outside a folder that
holds one text and its pictures; no package can be asked for, because nothing raw of a notebook reaches it, and none
would come: the places for packages are empty, and the way to other machines leads nowhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import nbformat
import pypandoc
import typst
from nbformat import converter, reader
from PIL import Image

from wodmail.errors import Failed
from wodmail.exporting import cells, document, letters, longwords, markup, pictures, word
from wodmail.exporting.apart import NO_MEMORY, Limits, apart, end_with_parent, words_of_end
from wodmail.exporting.below import Folder
from wodmail.exporting.marks import MARK
from wodmail.exporting.pictures import Picture, UnfitError

STYLE = Path(__file__).with_name("style.typ")
_NO_WAY_OUT = dict.fromkeys(
    ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:1"
)
_HEAP = (2, 251)
"""Statuses of a Haskell program that has used up its memory: rts/RtsFlags, `EXIT_HEAPOVERFLOW`, and a stack's."""
LARGEST_NOTEBOOK = 64 * 1024 * 1024


class Form(StrEnum):
    """What a notebook becomes."""

    PDF = "pdf"
    WORD = "docx"


@dataclass(frozen=True, slots=True)
class Made:
    """A document.

    Args:
        data: its bytes.
        note: what is to be said of it, "" when there is nothing.
    """

    data: bytes
    note: str = ""


def document_of(
    data: bytes, form: Form, folder: Folder, where: str = "", title: str = "", limits: Limits | None = None
) -> bytes:
    """A notebook as a document; see `made_of`."""
    return made_of(data, form, folder, where, title, limits).data


def made_of(
    data: bytes, form: Form, folder: Folder, where: str = "", title: str = "", limits: Limits | None = None
) -> Made:
    """A notebook as a document, made by a process of its own.

    Args:
        data: the notebook; not trusted.
        form: PDF or Word.
        folder: the workshop's folder, the only place that pictures are taken from.
        where: the notebook's own folder, relative to it.
        title: stands at the top of each page of a PDF.
        limits: how much time and memory it may take; those of `Limits` when none are given.

    Raises:
        Failed: it is no notebook, or could not be converted within the limits; the words say which.
    """
    prepare()
    # Made here: a child that is killed cleans nothing up.
    with tempfile.TemporaryDirectory(prefix="wod-export-") as work:
        said = apart(lambda: _said(_made(data, form, folder, where, title, Path(work))), limits or Limits())
    note, _, made = said.partition(b"\0")
    return Made(made, note.decode())


def _said(made: Made) -> bytes:
    return made.note.encode() + b"\0" + made.data


@cache
def prepare() -> None:
    """Load what each conversion needs: once for all, and while this process may still read python's own files."""
    pypandoc.get_pandoc_path()  # tries it, and remembers
    nbformat.validate({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})  # has the rules translated
    Image.init()
    markup.page(cells.ready({"cells": [{"cell_type": "markdown", "source": "x"}]}).notebook)


def _made(data: bytes, form: Form, folder: Folder, where: str, title: str, work: Path) -> Made:
    ready = cells.ready(_read(data))
    page = markup.page(ready.notebook).encode()
    tree = document.mark_printed(json.loads(_pandoc(["-f", "html", "-t", "json"], page)))

    def find(url: str, cell: str) -> Picture:
        return _found(url, cell, ready, folder, where)

    if form is Form.WORD:
        whole = document.with_pictures(tree, find, lambda picture: picture.url)
        mark = {"t": "MetaInlines", "c": [{"t": "Str", "c": MARK}]}
        whole["meta"] = {"keywords": {"t": "MetaList", "c": [mark]}}
        return Made(word.without_copies(_pandoc(["-f", "json", "-t", "docx", "-o", "-"], _dumped(whole))))
    return _pdf(tree, find, title, ready.language, work)


def _read(data: bytes) -> Mapping[str, Any]:
    read: Callable[[str], Any] = reader.reads
    convert: Callable[[Any, int], Any] = converter.convert
    if len(data) > LARGEST_NOTEBOOK:
        raise Failed(f"It is larger than {LARGEST_NOTEBOOK // 2**20} MiB.", f"{len(data)} bytes")
    try:
        notebook = convert(read(data.decode()), 4)
        nbformat.validate(notebook)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, nbformat.ValidationError) as error:
        cause = str(error).partition("\n")[0][:300]
        raise Failed("It is no valid notebook.", f"{type(error).__name__}: {cause}") from error
    return dict(notebook)


def _found(url: str, cell: str, ready: cells.Ready, folder: Folder, where: str) -> Picture:
    """A picture by its URL: of an output, of an attachment, in the text itself, or a file of the workshop."""
    if url in ready.outputs:
        return _stored(ready.outputs[url])
    kind, _, rest = url.partition(":")
    if kind == cells.ATTACHED:
        rest = unquote(rest)
        if (cell, rest) not in ready.attachments:
            raise UnfitError("no such attachment")
        return _stored(ready.attachments[cell, rest])
    if kind in ("http", "https"):
        raise UnfitError("it lies on another machine")
    inline = pictures.from_url(url)
    return inline if inline is not None else pictures.from_folder(folder, where, url)


def _stored(text: str) -> Picture:
    """A picture as notebooks store them: a drawing as text, else base64."""
    return pictures.fit(text.encode()) if text.lstrip().startswith("<") else pictures.from_base64(text)


def typst_text(tree: Mapping[str, Any], find: document.Find, place: document.Place, head: str = "") -> str:
    """The text that typst sets.

    Args:
        tree: a document as `pandoc -t json` writes it.
        find: see `document.Find`.
        place: see `document.Place`.
        head: what comes first, our own words alone.
    """
    whole = longwords.marked(document.with_pictures(tree, find, place))
    return head + _pandoc(["-f", "json", "-t", "typst"], _dumped(whole)).decode()


def _pdf(tree: Mapping[str, Any], find: document.Find, title: str, language: str, work: Path) -> Made:
    text, packages = work / "text", work / "packages"
    text.mkdir()
    packages.mkdir(mode=0o500)

    def place(picture: Picture) -> str:
        file = text / f"picture{sum(1 for _ in text.iterdir())}.{picture.ending}"
        file.write_bytes(picture.data)
        return file.name

    settings = f"title: {_quoted(title)}, language: {_quoted(language)}, mark: {_quoted(MARK)}"
    head = f'#import "style.typ": *\n#show: pages.with({settings})\n'
    written = typst_text(tree, find, place, head)
    (text / "style.typ").write_bytes(STYLE.read_bytes())
    (text / "main.typ").write_text(written, encoding="utf-8")
    os.environ.update(_NO_WAY_OUT)
    try:
        return _set(text / "main.typ", packages)
    except (typst.TypstError, RuntimeError) as error:
        raise Failed("It could not be set as pages.", f"typst: {str(error)[:500]}") from error


def _set(main: Path, packages: Path) -> Made:
    """The pages; made so that they are to show all letters, and else with a note of those that they can't show."""
    try:
        return Made(_compiled(main, packages, "a-2b"))
    except typst.TypstError as error:
        missing = letters.missing(str(error.diagnostic))
    return Made(_compiled(main, packages, None), letters.told(missing))


def _compiled(main: Path, packages: Path, standard: Literal["a-2b"] | None) -> bytes:
    """The pages as PDF; as PDF/A-2 (ISO 19005-2, 6.2.11.8) they hold no box in place of a letter that no font has."""
    return bytes(
        typst.compile(
            main,
            root=main.parent,
            font_paths=[*letters.folders()],
            pdf_standards=standard,
            package_path=packages,
            package_cache_path=packages,
        )
    )


def _quoted(text: str) -> str:
    """A text literal of typst; its escapes are those of JSON for what may occur here."""
    plain = "".join(letter for letter in text if letter.isprintable())
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _dumped(data: object) -> bytes:
    return json.dumps(data).encode()


def _pandoc(options: Sequence[str], data: bytes) -> bytes:
    argv = [pypandoc.get_pandoc_path(), "--sandbox", *options]
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        argv, input=data, capture_output=True, check=False, env=environment, cwd="/", preexec_fn=end_with_parent
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        cause = f"pandoc: {done.returncode}: {said}"
        if done.returncode < 0:
            raise Failed(words_of_end(-done.returncode), cause)
        raise Failed(NO_MEMORY if done.returncode in _HEAP else "It could not be converted.", cause)
    return done.stdout
