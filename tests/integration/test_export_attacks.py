"""Notebooks that want the writers to run something: nothing that an author wrote becomes code."""

from __future__ import annotations

import html
import io
import re
import zipfile
from pathlib import Path

import nbformat
import pytest
import typst

from tests.integration.test_export import V4, book, pdf_text, pictures_in, png, word_text
from wodmail.errors import Failed
from wodmail.exporting import markup
from wodmail.exporting.cells import language
from wodmail.exporting.convert import Form, document_of

EVIL = '"left)[EXEC #str(40+2) #read("style.typ")]//```\n#str(40+2)\n]]))#wodevil" #import "@preview/cetz:0.3.0"'
PACKAGE = '{import "@preview/cetz:0.3.0"; wodevil}'
ELEMENTS = """
    table thead tbody tfoot tr td th caption colgroup col div span p h1 h2 ul ol li dl dt dd pre code kbd samp var a img
    figure figcaption blockquote section header main em strong b i u s sub sup q cite mark ins del small abbr hr br
    details summary address article aside nav center font input label svg math iframe object script style title base
    sc bdo dfn time wbr ruby
    """
NAMES = (
    "id class style lang dir align width height colspan rowspan start type name value title cite href src alt "
    "scope span data-typst:align data-typst:fill data-typst:text:fill data-typst:inset data-typst:stroke "
    "typst:align typst:fill typst:text:size typst:no-figure data-custom-style custom-style data-cites data-raw "
    "data-startfrom startFrom number-lines data-tex data-external epub:type role data-pos data-align"
)


def attacked(name: str, evil: str) -> str:
    """An element with that in every attribute, where HTML lets it stand."""
    attributes = " ".join(f'{each}="{html.escape(evil)}"' for each in NAMES.split())
    element = f"<{name} {attributes}>said {name}</{name}>"
    if name in ("thead", "tbody", "tfoot", "caption", "colgroup"):
        return f"<table>{element}<tr><td>x</td></tr></table>"
    if name in ("tr", "td", "th", "col"):
        inner = f"<{name} {attributes}>" + ("<td>said</td>" if name == "tr" else "said")
        return f"<table><tr><td>a</td></tr>{inner}</{name}></table>"
    if name == "table":
        return f"<table {attributes}><tr><td>said</td></tr></table>"
    if name == "figcaption":
        return f"<figure>{element}<img src='none.png'></figure>"
    return f"<ul>{element}</ul>" if name == "li" else f"<dl>{element}</dl>" if name in ("dt", "dd") else element


@pytest.fixture
def as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be set as pages, instead of the pages."""
    monkeypatch.setattr(typst, "compile", lambda main, **_: main.read_bytes())


@pytest.mark.usefixtures("as_text")
@pytest.mark.parametrize("sanitised", [True, False], ids=["sanitised", "tree-alone"])
@pytest.mark.parametrize("evil", [EVIL, PACKAGE], ids=["closes", "package"])
def test_no_attribute_of_any_element_reaches_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: str, sanitised: bool
) -> None:
    """Raw HTML and tables in outputs; nothing of theirs is in the text at all, by each of two guards, one alone too."""
    names = ELEMENTS.split()
    if not sanitised:
        monkeypatch.setattr(markup, "tidied", lambda text: text)
        names.remove("main")  # pandoc would read that alone
    cells = [V4.new_markdown_cell(attacked(name, evil)) for name in names]
    rich = "\n".join(attacked(name, evil) for name in ("table", "td", "pre", "code", "div", "svg"))
    cells.append(V4.new_code_cell("1", outputs=[V4.new_output("display_data", {"text/html": rich})]))
    data = book(V4.new_markdown_cell("before"), *cells, V4.new_markdown_cell("after"))
    text = document_of(data, Form.PDF, tmp_path).decode()
    assert "before" in text and "after" in text
    code = [line for line in text.splitlines() if "wodevil" in line and "\\#wodevil" not in line]
    assert [line for line in code if "picture:" not in line] == []
    assert "@preview" not in text.replace("\\@preview", "")
    with zipfile.ZipFile(io.BytesIO(document_of(data, Form.WORD, tmp_path))) as archive:
        parts = "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith((".xml", ".rels")))
    assert "said" in parts
    assert "wodevil" not in re.sub(r"<w:t( [^>]*)?>[^<]*</w:t>", "", parts)


TEXTS = [
    "EXEC #str(40+2)",
    "`EXEC #str(40+2)` ``a ` EXEC #str(40+2)``",
    "```\nx\n````\n#str(40+2)\n```",
    "````x```#str(40+2)\nEXEC\n````",
    '<pre class="x```#str(40+2)">EXEC</pre>',
    "```{=typst}\nEXEC #str(40+2)\n```\n\n`EXEC #str(40+2)`{=typst}",
    "```{=openxml}\n<w:p><w:r><w:t>EXEC 7</w:t></w:r></w:p>\n```",
    "---\ntitle: 'EXEC #str(40+2)'\nheader-includes: |\n  `EXEC #str(40+2)`{=typst}\n---\n",
    '$#str(40+2)$ $\\#str(40+2)$ $\\text{EXEC "#str(40+2)}$ $\\operatorname{\\#str(40+2)}$ $\\text{a\\\\" #str(40+2)}$',
    '$$\\unknown{EXEC #str(40+2)}$$ $$\\color{#str(40+2)}{x}$$ $\\begin{array}{c"#str(40+2)}a\\end{array}$',
    "[EXEC](http://a/\"\\)[]#str(40+2)) <a href='http://a/\")[]#str(40+2)'>EXEC</a> <http://a/#str(40+2)>",
    '![EXEC "\\)#str(40+2)](p.png "t\\")#str(40+2)") <img src="p.png" alt=\'")#str(40+2)\' width=\'30%)#str(40+2)\'>',
    '<figure><img src="p.png" alt="x"><figcaption>EXEC ]#str(40+2)[</figcaption></figure>',
    "<table><caption>EXEC ]#str(40+2)[</caption><tr><td style='width:1%'>]#str(40+2)[</td></tr></table>",
    "a[^1] [@EXEC)#str(40+2)] @fig\n\n[^1]: EXEC ]#str(40+2)[",
    "<span class='citation' data-cites='a)#str(40+2)'>EXEC</span><!-- */ #str(40+2) --> // /* \\",
    "# EXEC #str(40+2) {#x>#str(40+2)}\n\n= EXEC #str(40+2)\n\n/ EXEC: #str(40+2)\n\n+ #str(40+2)",
    '<var class="wodinline">EXEC #str(40+2) \\#str(40+2) "#str(40+2)&lt;/script></var> $</script>#str(40+2)$',
    "<dl><dt>EXEC: ]#str(40+2)[</dt><dd>]#str(40+2)[</dd></dl><q>#str(40+2)</q>\\u{23}str(40+2) &#35;str(40+2)",
]


@pytest.mark.parametrize("kernel", ["python", 'py```#str(40+2) "]#str(40+2)'])
def test_no_text_is_run(tmp_path: Path, kernel: str) -> None:
    """All of it set as pages, with a computed number nowhere; what pictures there are stay."""
    (tmp_path / "p.png").write_bytes(png((1, 1)))
    cells = [V4.new_markdown_cell(text) for text in TEXTS]
    outputs = [
        V4.new_output("stream", text="```\n#str(40+2)\n"),
        V4.new_output("error", ename="`", evalue="#str(40+2)"),
    ]
    rich = [V4.new_output("display_data", {kind: text}) for kind in ("text/markdown", "text/latex") for text in TEXTS]
    code = V4.new_code_cell("EXEC\n```\n#str(40+2)\n", outputs=[*outputs, *rich])
    raw = V4.new_raw_cell("#str(40+2)", metadata={"raw_mimetype": "text/x-typst", "format": "typst"})
    spec = {"name": "x", "display_name": "x", "language": kernel}
    metadata = {"kernelspec": spec, "title": "#str(40+2)", "jupyter": {"title": "`EXEC #str(40+2)`{=typst}"}}
    data = nbformat.writes(V4.new_notebook(cells=[*cells, code, raw], metadata=metadata)).encode()
    text = pdf_text(document_of(data, Form.PDF, tmp_path, title='"]#str(40+2)\\'))
    assert text.count("EXEC") > 20 and text.count("#str(40+2)") > 20
    assert "42" not in text
    word = document_of(data, Form.WORD, tmp_path)
    assert "<w:t>EXEC 7</w:t>" not in word_text(word) and pictures_in(word)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        *(("python", "python"), ("C++", "cpp"), ("c#", "cs"), ("R", "R"), ("objective-c", "objective-c")),
        *(("py```", ""), ("a b", ""), ("", ""), ("x" * 32, ""), ("py\n", ""), ("é", ""), ("a)", "")),
    ],
)
def test_languages(said: str, meant: str) -> None:
    """Names alone, nothing that a writer could take for more."""
    assert language(said) == meant


def test_no_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were there code after all, its packages are looked for in an empty folder, and no other machine is reached."""
    real = typst.compile

    def compiled(main: Path, **options: Path) -> bytes:
        assert list(options["package_path"].iterdir()) == list(options["package_cache_path"].iterdir()) == []
        main.write_text('#import "@preview/cetz:0.3.0"\n')
        return real(main, **options)  # type: ignore[return-value]

    monkeypatch.setattr(typst, "compile", compiled)
    with pytest.raises(Failed) as error:
        document_of(book(V4.new_markdown_cell("x")), Form.PDF, tmp_path)
    assert "failed to download package" in error.value.operator
    assert list(tmp_path.iterdir()) == []
