"""Pages of PDFs, looked at as pictures: nothing runs out of them, and letters are letters."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.integration.test_export import V4, book, pdf_text, said
from tests.parts import require
from wodmail.exporting import folder as exporting
from wodmail.exporting import letters
from wodmail.exporting.convert import Form, document_of, made_of

LONG = "abcdefghij" * 30
DOTS = 72
LEFT, RIGHT = 22 / 25.4 * DOTS, (210 - 22) / 25.4 * DOTS
"""The margins of an A4 page, in dots."""


def drawn(pdf: bytes) -> tuple[float, float]:
    """From where to where something is drawn, in dots from the left, on any page."""
    argv = [require("pdftoppm"), "-r", str(DOTS), "-gray", "-"]
    pages = io.BytesIO(subprocess.run(argv, input=pdf, capture_output=True, check=True).stdout)
    left, right = float(10**6), 0.0
    while pages.tell() < len(pages.getvalue()):
        with Image.open(pages) as page:
            page.load()
            box = ImageChops.invert(page).getbbox()
        assert box is not None
        left, right = min(left, box[0]), max(right, box[2])
    return left, right


def shown(data: object) -> object:
    """An output of HTML."""
    return V4.new_output("display_data", {"text/html": data})


WIDE = {
    "text": V4.new_markdown_cell(f"before {LONG} after\n\n{'W' * 60} {'日' * 200}"),
    "heading": V4.new_markdown_cell(f"# {LONG}"),
    "code in text": V4.new_markdown_cell(f"a `{LONG}` b `{'W' * 60}`"),
    "address": V4.new_markdown_cell(f"https://example.org/{LONG} [{LONG}](https://example.org/)"),
    "table": V4.new_markdown_cell(f"| a | b |\n|---|--:|\n| {LONG} | `{LONG}` {LONG} |\n| x | [{LONG}](https://a/) |"),
    "wide table": V4.new_code_cell("1", outputs=[shown(f"<table><tr>{'<td>123.45678</td>' * 24}</tr></table>")]),
    "code in a table": V4.new_markdown_cell(f"<table><tr><td><pre>{LONG}</pre></td><td>x</td></tr></table>"),
    "list": V4.new_markdown_cell(f"- a\n  - b\n    - c\n      - {LONG}\n\n        ```\n        {LONG}\n        ```\n"),
    "quotation": V4.new_markdown_cell(f"> > > {LONG}"),
    "code": V4.new_code_cell(f"x = '{LONG}'\n# {LONG}\ny=" + "a.b=" * 80),
    "output": V4.new_code_cell("1", outputs=[V4.new_output("stream", text=f"{LONG}\n{'word ' * 100}\n{'=/' * 200}")]),
    "formula": V4.new_markdown_cell(f"$${'a + ' * 100} b$$\n\n${'a + ' * 100} b$"),
}


@pytest.mark.parametrize("kind", WIDE)
def test_nothing_is_drawn_outside_the_margins(tmp_path: Path, kind: str) -> None:
    """Words, lines, tables and formulas that are wider than a page."""
    left, right = drawn(document_of(book(WIDE[kind]), Form.PDF, tmp_path, title="t" * 300))
    assert LEFT - 3 <= left and right <= RIGHT + 3, (left, right, LEFT, RIGHT)


@pytest.mark.parametrize("kind", ["text", "code in text", "code", "output", "address"])
def test_what_is_copied_is_what_was_written(tmp_path: Path, kind: str) -> None:
    """A long word has nothing in it that nobody wrote, but the ends of lines."""
    text = pdf_text(document_of(book(WIDE[kind]), Form.PDF, tmp_path))
    assert LONG in re.sub(r"\n *", "", text)
    assert "\u200b" not in text and "\xad" not in text


def test_short_words_are_not_broken(tmp_path: Path) -> None:
    """In a narrow column a line ends between words, and a longer word goes to the next line as a whole."""
    table = f"| a | b |\n|---|---|\n| {'extraordinarily long descriptions of ' * 9} | {'nothing that is there ' * 20} |"
    text = V4.new_markdown_cell(f"{table}\n\n{'at https://example.org/a/path/of/40-letters ' * 9}")
    words = pdf_text(document_of(book(text), Form.PDF, tmp_path)).split()
    for word in ("extraordinarily", "descriptions", "nothing"):
        assert words.count(word) == {"extraordinarily": 9, "descriptions": 9, "nothing": 20}[word]


def test_thousands_of_words_are_one_paragraph(tmp_path: Path) -> None:
    """However many long words there are, in text, in a cell of a table, in a line of an output."""
    many = "extraordinarily-long-descriptions " * 3000
    output = V4.new_output("stream", text="word " * 3000 + LONG)
    cells = [V4.new_markdown_cell(many), V4.new_markdown_cell(f"| a | b |\n|---|---|\n| x | {'words ' * 3000} |")]
    text = pdf_text(document_of(book(*cells, V4.new_code_cell("1", outputs=[output])), Form.PDF, tmp_path))
    assert text.count("extraordinarily") == text.count("words") == 3000


NOWHERE = "\U000f1234\U000f1235"
"""For private use: letters that no font has."""


def fonts_in(pdf: bytes) -> str:
    """What pdffonts says of a document."""
    return subprocess.run([require("pdffonts"), "-"], input=pdf, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize(
    ("text", "font"),
    [
        ("日本 中文 한국", "NotoSansCJK"),
        ("😀 🚀 ✅", "NotoEmoji"),
        ("हिन्दी", "NotoSansDevanagari"),
        ("ไทย", "NotoSansThai"),
    ],
)
@pytest.mark.parametrize("place", ["{}", "# **{}**", "`{}`", "```\n{}\n```", "| {} |\n|---|\n| x |"])
def test_letters_of_all_scripts_are_shown(tmp_path: Path, text: str, font: str, place: str) -> None:
    """On any machine, by fonts that were installed with us; typst says that none is missing."""
    made = made_of(said(place.format(text)), Form.PDF, tmp_path)
    assert made.note == "" and font in fonts_in(made.data)


def test_each_letter_looks_like_itself(tmp_path: Path) -> None:
    """Boxes would all look the same."""
    pictures = set()
    for letter in "日本中文한국😀🚀✓⚠☐→":
        argv = [require("pdftoppm"), "-r", "100", "-gray", "-y", "80", "-H", "60", "-"]
        page = document_of(said(letter), Form.PDF, tmp_path)
        pictures.add(subprocess.run(argv, input=page, capture_output=True, check=True).stdout)
    assert len(pictures) == len("日本中文한국😀🚀✓⚠☐→")


def test_letters_that_no_font_has_are_told(tmp_path: Path) -> None:
    """With the document, which is made all the same; also where our fonts are not installed."""
    (tmp_path / "a.ipynb").write_bytes(
        said(f"text {NOWHERE} `{NOWHERE}`", '```\nerror: x: the text `"y"` could not be displayed\n```')
    )
    (row,) = exporting.export(tmp_path, Form.PDF)
    assert row.document == "a.pdf" and not row.error
    assert "boxes: U+F1234, U+F1235." in row.note and row.note.count("U+") == 2
    (row,) = exporting.export(tmp_path, Form.WORD)
    assert (row.document, row.note) == ("a.docx", "")


def test_without_our_fonts_documents_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With those of the machine, whatever these are."""
    monkeypatch.setattr(letters, "FONTS", ("no_such_module",))
    made = made_of(said("日本 text"), Form.PDF, tmp_path)
    assert "text" in pdf_text(made.data)
    assert ("NotoSansCJK" in fonts_in(made.data) or "CJK" in fonts_in(made.data)) != ("U+65E5" in made.note)


def test_many_missing_letters_are_few_words() -> None:
    """Ten are named."""
    told = letters.told(["".join(map(chr, range(0xF0000, 0xF0100)))])
    assert told.count("U+") == 10 and told.endswith("and 246 more.")
    assert letters.told([]) == ""
