"""What people write in Markdown cells and what programs print, as Jupyter shows it; nothing of it is lost."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from PIL import Image

from tests.integration.test_export import V4, book, pdf_text, pictures_in, png, said, word_text
from tests.parts import shared_notebooks
from wodmail.exporting import markup
from wodmail.exporting.cells import ready
from wodmail.exporting.convert import Form, document_of
from wodmail.exporting.pictures import fit

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def paragraphs(docx: bytes) -> list[tuple[str, str]]:
    """Style and text of each paragraph of a Word document."""
    with zipfile.ZipFile(io.BytesIO(docx)) as archive:
        tree = ElementTree.fromstring(archive.read("word/document.xml"))  # noqa: S314 - ours
    found = []
    for each in tree.iter(f"{W}p"):
        style = each.find(f"{W}pPr/{W}pStyle")
        text = "".join(part.text or "" for part in each.iter(f"{W}t"))
        found.append(("" if style is None else style.get(f"{W}val", ""), text))
    return found


def shown(*outputs: object) -> list[str]:
    """What is printed of these outputs, a text each."""
    notebook = V4.new_notebook(cells=[V4.new_code_cell("1", outputs=list(outputs))])
    (cell,) = ready(notebook).notebook["cells"]
    return [output.get("text") or "".join(output["data"].values()) for output in cell["outputs"]]


def test_markdown_between_raw_html(tmp_path: Path) -> None:
    """Pictures, code, tables and lists that stand within elements, as authors have them."""
    (tmp_path / "a.png").write_bytes(png((11, 7)))
    (tmp_path / "b.png").write_bytes(png((12, 8)))
    data = said(
        '<p align="center">\n\n![one](a.png)\n',
        "<p>first</p>\n    <ul>\n        <li>**raw** entry</li>\n    </ul>",
        "<details><summary>More</summary>\n\n```bash\nls  -l\ncd\n```\n\n![two](b.png)\n\n"
        "| h |\n|---|\n| cell *x* |\n\n1. step\n2. next\n\n</details>",
    )
    word = document_of(data, Form.WORD, tmp_path)
    assert {png((11, 7)), png((12, 8))} <= set(pictures_in(word))
    found = paragraphs(word)
    assert {"first", "**raw** entry", "More", "h", "cell x", "step", "next"} <= {text for _, text in found}
    assert [text for style, text in found if style == "SourceCode"] == ["ls  -lcd"]  # between them is a break
    assert word_text(word).count("<w:tbl>") == 1 and word_text(word).count("<w:numPr>") >= 3
    text = pdf_text(document_of(data, Form.PDF, tmp_path))
    assert not re.search(r"!\[|</?[a-z]|```", text), text
    assert re.search(r"ls +-l\n", text), text


@pytest.mark.parametrize(
    "opened",
    [
        *("<table><tr><td>", "<table><tr><td>-X GET https://<ip>/rest</td>", "<ul><li><b>", "<pre>", "<!--", "<main>"),
        *("<script>", "<div><div>", "<select>", "<svg>", "<title>", "</div></div></td>", "<a href='", "<input><li>"),
    ],
)
def test_what_is_left_open_ends_with_its_cell(tmp_path: Path, opened: str) -> None:
    """A table below is a table still, a list a list, and code is code."""
    table, listed = "| h |\n|---|\n| <ip> cell |", "<ul><li><input type='checkbox'> item</li></ul>"
    cells = [V4.new_markdown_cell(f"before\n\n{opened}"), *map(V4.new_markdown_cell, (table, listed))]
    outputs = [V4.new_output("display_data", {"text/html": opened}), V4.new_output("stream", text="printed")]
    word = document_of(book(*cells, V4.new_code_cell("code", outputs=outputs)), Form.WORD, tmp_path)
    found = paragraphs(word)
    assert {"before", "cell", "item"} <= {text.strip() for _, text in found}
    assert word_text(word).count("<w:tbl>") >= 1 and "<w:numPr>" in word_text(word)
    assert [text for style, text in found if style == "SourceCode" and text] == ["code", "printed"]


def test_code_is_as_it_was_written(tmp_path: Path) -> None:
    """Empty lines at its beginning, what looks like mathematics, attachments or HTML, letters of HTML."""
    code = "\n\n  x = '<b>&amp;</b>'\n\\(a\\) $b$ ![c](attachment:d.png)\n"
    fenced = "```\n\\[a\\] $b$ <i>\n```\n\n`\\(c\\)`"
    notebook = V4.new_notebook(cells=[V4.new_code_cell(code), V4.new_markdown_cell(fenced)])
    text = pdf_text(document_of(nbformat.writes(notebook).encode(), Form.PDF, tmp_path))
    for line in (*code.strip().splitlines(), "\\[a\\] $b$ <i>", "\\(c\\)"):
        assert line.strip() in text
    assert "\n\n  x" in pdf_like(code)


def pdf_like(code: str) -> str:
    """The text of a code cell as pandoc is given it."""
    page = markup.page(ready(V4.new_notebook(cells=[V4.new_code_cell(code)])).notebook)
    return page.partition("<code>")[2]


@pytest.mark.parametrize(
    ("source", "formulas", "left"),
    [
        ("one $x_1 * y_1$ and $a<b$", 2, ""),
        ("$$\n\\frac{1}{2}\n$$", 1, ""),
        ("\\begin{align}\na &= b \\\\\nc &= d_1 * e_1\n\\end{align}", 1, ""),
        ("text\n\\begin{equation}\nx\n\\end{equation}\nmore", 1, "more"),
        ("<b>raw</b> $x$", 1, "raw"),
        ("it costs $5 and $6, $HOME and $PATH", 0, "it costs $5 and $6, $HOME and $PATH"),
        ("`$x$` \\$y$", 0, "$x$"),
    ],
)
def test_mathematics(tmp_path: Path, source: str, formulas: int, left: str) -> None:
    """Written as Jupyter takes it; money and variables of a shell are none."""
    word = word_text(document_of(said(source), Form.WORD, tmp_path))
    assert word.count("<m:oMath>") == formulas, word
    assert "begin{" not in word and ("<m:t>&lt;</m:t>" in word) == ("a<b" in source)
    assert left in re.sub("<[^>]*>", "", word).replace("&lt;", "<")


@pytest.mark.parametrize("latex", ["$\\displaystyle x^{2}$", "$$x^2$$", "\\begin{align}x&=2\\end{align}"])
def test_mathematics_in_outputs(tmp_path: Path, latex: str) -> None:
    """As sympy prints it."""
    output = V4.new_output("execute_result", {"text/latex": latex, "text/plain": "plain"})
    word = word_text(document_of(book(V4.new_code_cell("1", outputs=[output])), Form.WORD, tmp_path))
    assert word.count("<m:oMath>") == 1 and "plain" not in word and "displaystyle" not in word


def test_links_and_pictures_keep_their_addresses(tmp_path: Path) -> None:
    """Plain addresses are links, names of files aren't; data in URLs is taken as it is."""
    url = f"data:image/png;base64,{base64.b64encode(png((5, 4))).decode()}"
    data = said(f"see https://example.org/a_b_c, main.py ![x]({url}) ![y](file:///a.png)")
    word = document_of(data, Form.WORD, tmp_path)
    assert pictures_in(word) == [png((5, 4))]
    with zipfile.ZipFile(io.BytesIO(word)) as archive:
        relations = archive.read("word/_rels/document.xml.rels").decode()
    assert re.findall(r'TargetMode="External"', relations) == ['TargetMode="External"']
    assert "https://example.org/a_b_c" in relations
    assert "[picture: y; not included" in word_text(word)


def test_a_line_that_is_written_again_is_there_once() -> None:
    """Progress bars, also when each step came by itself; line ends of another system stay line ends."""
    steps = [V4.new_output("stream", name="stderr", text=f"\r{done}%|##") for done in range(101)]
    assert shown(*steps, V4.new_output("stream", name="stderr", text="\n")) == ["100%|##\n"]
    windows = V4.new_output("stream", text="a\r\nb\r\nlast\r")
    assert shown(windows, V4.new_output("stream", name="stderr", text="c")) == ["a\nb\nlast", "c"]


def test_outputs_that_paper_cannot_hold_leave_no_trace() -> None:
    """Neither data for programs, nor programs, nor nothing."""
    for data in ({"application/json": {"a": 1}}, {"application/javascript": "alert()"}, {"text/plain": " "}):
        assert shown(V4.new_output("display_data", data), V4.new_output("stream", text="\n")) == []


@pytest.mark.parametrize("form", list(Form))
def test_halves_of_letters_spoil_nothing(tmp_path: Path, form: Form) -> None:
    """JSON may hold what no text can: they are replaced, whole letters stay."""
    outputs = [
        V4.new_output("stream", text="out \ud800 put"),
        V4.new_output("error", ename="E\ud800", evalue="x", traceback=["trace \udfff"]),
        V4.new_output("display_data", {"text/html": "<b>rich \ud800</b>"}),
        V4.new_output("display_data", {"image/png": "\ud800"}),
        V4.new_output("display_data", {"image/svg+xml": "<svg>\ud800</svg>"}),
    ]
    attached = V4.new_markdown_cell("![p](attachment:\ud800.png)", attachments={"\ud800.png": {"image/png": "\ud800"}})
    cells = [
        V4.new_markdown_cell("mark\ud800down \ud835\udc00"),
        attached,
        V4.new_code_cell("co\udc00de", outputs=outputs),
    ]
    metadata = {"kernelspec": {"name": "x", "display_name": "\ud800", "language": "\ud800"}}
    data = nbformat.writes(V4.new_notebook(cells=cells, metadata=metadata), ensure_ascii=True).encode()
    made = document_of(data, form, tmp_path, title="t\udc80")
    text = pdf_text(made) if form is Form.PDF else word_text(made)
    for words in ("mark\ufffddown", "co\ufffdde", "out \ufffd put", "trace", "rich"):
        assert words in text, words
    assert "\U0001d400" in text


def test_a_word_document_holds_each_picture_once(tmp_path: Path) -> None:
    """And still says what it shows."""
    noise = io.BytesIO()
    Image.effect_noise((400, 400), 90).save(noise, "PNG")
    (tmp_path / "a.png").write_bytes(noise.getvalue())
    word = document_of(said("![what it shows](a.png)"), Form.WORD, tmp_path)
    media = sum(map(len, pictures_in(word)))
    assert media > 100_000 and len(word) < 1.2 * media
    assert 'descr="what it shows"' in word_text(word) and "base64" not in word_text(word)


def pictures_named(data: bytes) -> set[str]:
    """The pictures of the workshop that a notebook's texts name."""
    texts = [cell["source"] for cell in nbformat.reads(data.decode(), 4)["cells"] if cell["cell_type"] == "markdown"]
    named = re.findall(r"""!\[[^]]*\]\(<?([^)>]+?)>?\)|<img[^>]*\ssrc=["']([^"']+)""", "\n".join(texts))
    return {url for pair in named for url in pair if url and ":" not in url}


def test_real_notebooks_are_whole(tmp_path: Path) -> None:
    """Of the workshops beside the checkout: each picture that is named is in, no source is left in texts."""
    real = shared_notebooks()
    if real is None:
        pytest.skip("no real workshops beside the checkout")
    counted = 0
    for file in sorted(real.rglob("*.ipynb")):
        workshop = real / file.relative_to(real).parts[0]
        where = str(file.parent.relative_to(workshop)).removeprefix(".")
        # What copy_folder puts in is put in here: as a link's address, {{ X }} is none.
        data = re.sub(rb"\{\{ \w+ \}\}", b"x", file.read_bytes())
        word = document_of(data, Form.WORD, workshop, where)
        inside = set(pictures_in(word))
        for name in pictures_named(data):
            picture = file.parent / name
            assert not picture.is_file() or fit(picture.read_bytes()).data in inside, f"{file}: {name}"
            counted += picture.is_file()
        texts = "\n".join(text for style, text in paragraphs(word) if style != "SourceCode")
        assert not re.search(r"!\[|<li|\]\(|```|^#+ ", texts), file
        printed = pdf_text(document_of(file.read_bytes(), Form.PDF, workshop, where, file.stem))
        assert not re.search(r"!\[|<li", printed), file
    assert counted > 20
