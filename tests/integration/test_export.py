"""Notebooks as PDF and Word: what is in them, what never gets in, what is refused."""

from __future__ import annotations

import base64
import io
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from PIL import Image

from tests.parts import require
from wodmail.errors import Failed
from wodmail.exporting import folder as exporting
from wodmail.exporting.cells import ready
from wodmail.exporting.convert import Form, document_of
from wodmail.exporting.pictures import UnfitError, fit

SECRET = "the-line-of-another-user"
V4 = nbformat.v4


def png(size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind)
    return out.getvalue()


def book(*cells: Any) -> bytes:
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}}
    return str(nbformat.writes(V4.new_notebook(cells=list(cells), metadata=metadata))).encode()


def said(*words: str) -> bytes:
    return book(*(V4.new_markdown_cell(word) for word in words))


def pdf_text(data: bytes) -> str:
    argv = [require("pdftotext"), "-layout", "-", "-"]
    return subprocess.run(argv, input=data, capture_output=True, check=True).stdout.decode()


def pictures_in_pdf(data: bytes) -> list[tuple[int, int]]:
    """Width and height, in pixels, of each picture."""
    argv = [require("pdfimages"), "-list", "-"]
    done = subprocess.run(argv, input=data, capture_output=True, check=True)
    rows = [line.split() for line in done.stdout.decode().splitlines()[2:]]
    return [(int(row[3]), int(row[4])) for row in rows]


def svg(inner: str) -> bytes:
    """A drawing with that in it."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} width="20" height="10">{inner}</svg>'.encode()


def pictures_in(docx: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(docx)) as archive:
        return [archive.read(name) for name in archive.namelist() if name.startswith("word/media/")]


def word_text(docx: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(docx)) as archive:
        return archive.read("word/document.xml").decode()


def test_text_code_outputs_tables_and_pictures_are_in_both(tmp_path: Path) -> None:
    """The kinds of things that notebooks hold."""
    (tmp_path / "Pictures").mkdir()
    (tmp_path / "Pictures" / "a b.png").write_bytes(png())
    encoded = base64.b64encode(png((50, 20))).decode()
    outputs = [
        V4.new_output("stream", text="\x1b[31mred alert\x1b[0m\n"),
        V4.new_output("display_data", {"image/png": encoded, "text/plain": "<Figure>"}),
        V4.new_output("execute_result", {"text/html": "<table><tr><td>pandas</td></tr></table>", "text/plain": "x"}),
        V4.new_output("error", ename="ValueError", evalue="boom", traceback=["\x1b[0;31mValueError\x1b[0m: boom"]),
    ]
    attached = V4.new_markdown_cell("![att](attachment:c.gif)")
    attached["attachments"] = {"c.gif": {"image/gif": base64.b64encode(png((9, 9), "GIF")).decode()}}
    data = book(
        V4.new_markdown_cell("# Grüße 日本 ✓\n\n| a | b |\n|---|---|\n| one | two |\n\nmath $x^2$ **strong**"),
        V4.new_markdown_cell('![local](Pictures/a%20b.png) and <img src="Pictures/a b.png" width="30%">'),
        V4.new_code_cell("print('hello')", outputs=outputs),
        attached,
        V4.new_markdown_cell("<ul><li>raw <b>html</b></li></ul>"),
    )
    pdf = document_of(data, Form.PDF, tmp_path, title="The Title")
    text = pdf_text(pdf)
    assert {(40, 30), (50, 20), (9, 9)} <= set(pictures_in_pdf(pdf))
    for words in (
        "Grüße",
        "日本",
        "✓",
        "one",
        "two",
        "print('hello')",
        "red alert",
        "pandas",
        "boom",
        "raw html",
        "The Title",
    ):
        assert words in text, words
    assert "[31m" not in text and "Figure" not in text
    word = document_of(data, Form.WORD, tmp_path)
    assert len(pictures_in(word)) >= 3 and png() in pictures_in(word)
    assert all(words in word_text(word) for words in ("Grüße", "日本", "red alert", "pandas", "boom"))


@pytest.mark.parametrize(
    "source",
    [
        "![x](../secret.png)",
        "![x](..%2Fsecret.png)",
        "![x]({absolute})",
        "![x](file://{absolute})",
        "![x](link.png)",
        "![x](linked/secret.png)",
        '<img src="../secret.png">',
        '<object data="../secret.png"></object><embed src="../secret.png"><iframe src="../secret.png"></iframe>',
        '```{{=typst}}\n#read("/etc/hostname") #image("../secret.png")\n```',
        '`#read("../secret.txt")`{{=typst}}',
        '#include "../secret.txt"',
        "\\input{{../secret.txt}} \\includegraphics{{../secret.png}}",
        "<!-- -->\n<xi:include href='../secret.txt' xmlns:xi='http://www.w3.org/2001/XInclude'/>",
        ".. include:: ../secret.txt",
    ],
)
def test_nothing_outside_the_folder_gets_in(tmp_path: Path, source: str) -> None:
    """However a notebook asks for it."""
    inside = tmp_path / "WKSHP-X"
    inside.mkdir()
    stranger = png((61, 17))
    (tmp_path / "secret.png").write_bytes(stranger)
    (tmp_path / "secret.txt").write_text(SECRET)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "linked").symlink_to(tmp_path)
    data = said("before", source.format(absolute=tmp_path / "secret.png"), "after")
    word = document_of(data, Form.WORD, inside)
    assert pictures_in(word) == []
    assert SECRET not in word_text(word)
    text = pdf_text(document_of(data, Form.PDF, inside))
    assert "before" in text and "after" in text and SECRET not in text


def test_empty_cells_leave_no_trace() -> None:
    """The last cell of most notebooks is one."""
    notebook = V4.new_notebook(cells=[V4.new_code_cell("1"), V4.new_code_cell(" \n"), V4.new_markdown_cell("")])
    assert [cell["source"] for cell in ready(notebook).notebook["cells"]] == ["1"]


def test_pictures_of_other_machines_become_links(tmp_path: Path) -> None:
    """Nothing is fetched; the reader can."""
    data = said("![a view](https://pictures.example.org/a.png)")
    assert "[picture: a view]" in pdf_text(document_of(data, Form.PDF, tmp_path))
    word = document_of(data, Form.WORD, tmp_path)
    assert pictures_in(word) == [] and "[picture: a view]" in word_text(word)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"MZ\x90", "no picture"),
        (png()[:60], "broken"),
        (svg('<image href="/etc/passwd"/>'), "outside itself"),
        (svg('<image xlink:href="file:///etc/passwd"/>'), "outside itself"),
        (svg('<use href="http://example.org/a.svg#a"/>'), "outside itself"),
        (svg('<image href="data:image/svg+xml;base64,AAAA"/>'), "outside itself"),
        (svg('<style>@import "http://example.org/a.css";</style>'), "outside itself"),
        (svg("<style>a { fill: u\\72l(http://example.org/a) }</style>"), "outside itself"),
        (svg('<rect fill="url( http://example.org/a#b )"/>'), "outside itself"),
        (svg("<rect style=\"fill: url('other.svg#g')\"/>"), "outside itself"),
        (b'<svg xmlns="x"/>', "no drawing"),
        (svg("<rect>"), "broken"),
        (b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>', "no picture"),
        (b"\x89PNG\r\n" + b"x" * 21 * 2**20, "larger"),
        (png((9000, 9000)), "no picture|million"),
    ],
)
def test_unfit_pictures_are_not_taken(data: bytes, words: str) -> None:
    """Each with its reason."""
    with pytest.raises(UnfitError, match=words):
        fit(data)


def test_of_drawings_what_draws_is_taken() -> None:
    """References within stay; what loads, moves or runs something, and other vocabularies, are left out."""
    doctype = b'<!DOCTYPE svg SYSTEM "http://example.org/a.dtd">'
    inner = """
    <defs><linearGradient id="g"><stop offset="0"/></linearGradient></defs><style>* { stroke: red }</style>
    <rect fill="url('#g')" style='stroke: url("#g")' onclick="kept()" xml:base="http://example.org/"/>
    <use xlink:href="#g"/><image href="data:image/png;base64,AAAA"><set attributeName="href" to="http://example.org/"/>
    <animate attributeName="href" values="http://example.org/"/></image><text xml:space="preserve">Grüße</text>
    <script href="http://example.org/a.js">kept()</script><foreignObject><p>kept</p></foreignObject>
    <other xmlns="http://example.org/other" href="http://example.org/"/>
    """
    taken = fit(b'<?xml version="1.0"?>' + doctype + svg(inner)).data.decode()
    for words in (
        "url('#g')",
        'url("#g")'.replace('"', "&quot;"),
        'xlink:href="#g"',
        "data:image/png",
        "stroke: red",
        "Grüße",
    ):
        assert words in taken, words
    for words in ("example.org", "kept", "DOCTYPE", "animate", "<set"):
        assert words not in taken, words


def test_an_unfit_picture_spoils_no_document(tmp_path: Path) -> None:
    """A few words stand in its place."""
    (tmp_path / "a.png").write_bytes(png()[:60])
    (tmp_path / "b.webp").write_bytes(png(kind="WEBP"))
    text = pdf_text(document_of(said("![torn](a.png)\n\n![web](b.webp)"), Form.PDF, tmp_path))
    assert "[picture: torn; not included: broken" in " ".join(text.split())
    assert "web;" not in text


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"cells": 5, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', b"\xff"]
)
def test_what_is_no_notebook_is_told(tmp_path: Path, data: bytes) -> None:
    """In words, for its file alone."""
    (tmp_path / "bad.ipynb").write_bytes(data)
    (tmp_path / "good.ipynb").write_bytes(said("fine"))
    done = {each.notebook: each for each in exporting.export(tmp_path, Form.PDF)}
    assert done["bad.ipynb"].error == "It is no valid notebook."
    assert done["good.ipynb"].document == "good.pdf"
    with pytest.raises(Failed, match="no valid notebook"):
        document_of(data, Form.PDF, tmp_path)


def test_documents_lie_beside_their_notebooks(tmp_path: Path) -> None:
    """Checkpoints and links are no notebooks; nothing else is left behind."""
    (tmp_path / "deep" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "deep" / ".ipynb_checkpoints" / "x-checkpoint.ipynb").write_bytes(said("old"))
    (tmp_path / "deep" / "x.ipynb").write_bytes(said("new"))
    (tmp_path / "evil.ipynb").symlink_to(tmp_path / "deep" / "x.ipynb")
    done = list(exporting.export(tmp_path, Form.PDF))
    assert [each.document for each in done] == ["deep/x.pdf"]
    document = tmp_path / "deep" / "x.pdf"
    assert document.stat().st_mode & 0o777 == 0o644 and document.read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [".ipynb_checkpoints", "x.ipynb", "x.pdf"]


@pytest.mark.parametrize("form", list(Form))
def test_only_documents_of_ours_are_replaced(tmp_path: Path, form: Form) -> None:
    """Slides that a workshop brings under the same name stay; a link is neither replaced nor followed."""
    (tmp_path / "x.ipynb").write_bytes(said("first"))
    ours, beside = tmp_path / f"x.{form}", tmp_path / f"x.wodmail.{form}"

    def again(text: str) -> exporting.Exported:
        (tmp_path / "x.ipynb").write_bytes(said(text))
        (row,) = exporting.export(tmp_path, form)
        return row

    first, second = again("one"), ours.read_bytes()
    assert (again("another text").document, first.document, first.note) == (ours.name, ours.name, "")
    assert ours.read_bytes() != second
    made = ours.read_bytes()
    slides = {Form.PDF: b"%PDF-1.7 slides", Form.WORD: made.replace(b"docProps/core.xml", b"docProps/c0re.xml")}[form]
    ours.write_bytes(slides)
    for _ in range(2):
        row = again("text")
        assert (row.document, ours.read_bytes()) == (beside.name, slides)
        assert f"{ours.name} was not made by an export" in row.note
    ours.unlink()
    ours.symlink_to(beside)
    kept = beside.read_bytes()
    assert again("other").document == beside.name and beside.read_bytes() != kept and ours.is_symlink()
    beside.write_bytes(slides)
    row = again("text")
    assert (row.document, "no name left" in row.error, beside.read_bytes()) == ("", True, slides)
