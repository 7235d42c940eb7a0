"""From a notebook to a document: pandoc reads and writes, typst sets the pages; both confined.

pandoc runs in its sandbox, where it reads nothing but its standard input. typst reads nothing outside a folder that
holds one text and its pictures; no package can be asked for, because nothing raw of a notebook reaches it.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
import pypandoc
import typst
from nbformat import converter, reader

from wodmail.errors import Failed
from wodmail.exporting import cells, document, pictures
from wodmail.exporting.pictures import Picture, UnfitError

SECONDS = 120
STYLE = Path(__file__).with_name("style.typ")
LARGEST_NOTEBOOK = 64 * 1024 * 1024


class Form(StrEnum):
    """What a notebook becomes."""

    PDF = "pdf"
    WORD = "docx"


def document_of(data: bytes, form: Form, folder: Path, where: str = "", title: str = "") -> bytes:
    """A notebook as a document.

    Args:
        data: the notebook; not trusted.
        form: PDF or Word.
        folder: the workshop's folder, the only place that pictures are taken from.
        where: the notebook's own folder, relative to it.
        title: stands at the top of each page of a PDF.

    Raises:
        Failed: it is no notebook, or could not be converted; the words say which.
    """
    ready = cells.ready(_read(data))
    html = _pandoc(["-f", "ipynb", "-t", "html", "--mathjax", "--syntax-highlighting=none"], _dumped(ready.notebook))
    tree = json.loads(_pandoc(["-f", "html+tex_math_single_backslash", "-t", "json"], html))
    tree = document.mark_cells(tree)

    def find(url: str, cell: str) -> Picture:
        return _found(url, cell, ready, folder, where)

    if form is Form.WORD:
        whole = document.with_pictures(tree, find, lambda picture: picture.url)
        return _pandoc(["-f", "json", "-t", "docx", "-o", "-"], _dumped(whole))
    return _pdf(tree, find, title, ready.language)


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


def _found(url: str, cell: str, ready: cells.Ready, folder: Path, where: str) -> Picture:
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


def _pdf(tree: Mapping[str, Any], find: document.Find, title: str, language: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="wod-export-") as name:
        work = Path(name)

        def place(picture: Picture) -> str:
            file = work / f"picture{sum(1 for _ in work.iterdir())}.{picture.ending}"
            file.write_bytes(picture.data)
            return file.name

        whole = document.with_pictures(tree, find, place)
        body = _pandoc(["-f", "json", "-t", "typst"], _dumped(whole)).decode()
        head = f'#import "style.typ": *\n#show: pages.with(title: {_quoted(title)}, language: {_quoted(language)})\n'
        (work / "style.typ").write_bytes(STYLE.read_bytes())
        (work / "main.typ").write_text(head + body, encoding="utf-8")
        try:
            return bytes(typst.compile(work / "main.typ", root=work, package_path=work, package_cache_path=work))
        except (typst.TypstError, RuntimeError) as error:
            raise Failed("It could not be set as pages.", f"typst: {str(error)[:500]}") from error


def _quoted(text: str) -> str:
    """A text literal of typst; its escapes are those of JSON for what may occur here."""
    plain = "".join(letter for letter in text if letter.isprintable())
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _dumped(data: object) -> bytes:
    return json.dumps(data).encode()


def _pandoc(options: Sequence[str], data: bytes) -> bytes:
    argv = [pypandoc.get_pandoc_path(), "--sandbox", *options]
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    try:
        done = subprocess.run(
            argv, input=data, capture_output=True, check=False, timeout=SECONDS, env=environment, cwd="/"
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"It was not converted within {SECONDS} s.", "pandoc was ended") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise Failed("It could not be converted.", f"pandoc: {done.returncode}: {said}")
    return done.stdout
