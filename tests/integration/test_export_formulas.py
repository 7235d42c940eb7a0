"""Which parts of a text are mathematics: those that Jupyter sets, but for money and variables of a shell."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from tests.integration.test_export import V4, book, said, word_text
from wodmail.exporting import markup
from wodmail.exporting.cells import ready
from wodmail.exporting.convert import Form, document_of

FORMULA = re.compile(r'<script type="math/tex(?P<mode>; mode=display)?">(?P<latex>.*?)</script>', re.DOTALL)


def page_of(cell: object) -> str:
    """A cell as HTML, as pandoc reads it."""
    return markup.page(ready(V4.new_notebook(cells=[cell])).notebook)


def text_of(page: str) -> str:
    """Its text: formulas in `[` and `]`, those on lines of their own in `[[` and `]]`; spaces and lines are spaces."""
    marked = FORMULA.sub(_marked, page)
    return " ".join(html.unescape(re.sub(r"</?[a-z][^<>]*>", " ", marked)).split())


def _marked(found: re.Match[str]) -> str:
    latex = html.escape(found["latex"])
    return f"[[{latex}]]" if found["mode"] else f"[{latex}]"


def markdown(source: str) -> str:
    """The text of a Markdown cell."""
    return text_of(page_of(V4.new_markdown_cell(source)))


def printed(kind: str, source: str) -> str:
    """The text of an output."""
    return text_of(page_of(V4.new_code_cell("", outputs=[V4.new_output("display_data", {kind: source})])))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        # beside figures, and more than one in a line
        (r"10$^{-3}$ m, 90$^\circ$, 3$\times$ faster", r"10[^{-3}] m, 90[^\circ], 3[\times] faster"),
        (r"5$\times$10 and $x$2", r"5[\times]10 and [x]2"),
        ("$x$, ($y$) and $z$-axis", "[x], ([y]) and [z]-axis"),
        ("$a$$b$", "[a][b]"),
        ("$ x $ is, $ y $, $z $ or $ w$.", "[x] is, [y], [z] or [w]."),
        # Jupyter's other signs, and where Markdown takes the backslash away
        (r"so \\(a^2\\) and \\[b_1 * c_1\\]", r"so [a^2] and [[b_1 * c_1]]"),
        (r"but \(a^2\) and \[b\]", "but (a^2) and [b]"),
        # on lines of their own
        ("in $$x$$ between, $$y$$", "in [[x]] between, [[y]]"),
        ("$$x$$ and $$y$$", "[[x]] and [[y]]"),
        ("as\n$$\na\n+ b\n- c\n=\nd\n$$\nsays", "as [[a + b - c = d]] says"),
        (
            "as\n\\begin{align*}\na &= b \\\\\n+ c\n\\end{align*}\nsays",
            r"as [[\begin{align*} a &= b \\ + c \end{align*}]] says",
        ),
        ("1. one\n\n   $$\n   x\n   $$\n2. two", "one [[x]] two"),
        ("> $$\n> x\n> + y\n> $$", "[[x + y]]"),
        ("$x\n+ y$", "[x + y]"),
        # what Markdown would take for its own
        (r"| a | b |" + "\n|---|---|\n" + r"| $|x|$ | $a_1 * b_1$, *c* |", "a b [|x|] [a_1 * b_1], c"),
        ("$a<b$, $c&d$ and $e>f$", "[a<b], [c&d] and [e>f]"),
        (r"$\text{for $x$ and } y$ $\{a\}$", r"[\text{for $x$ and } y] [\{a\}]"),
        ("**$x$** and [$y$](https://a/)", "[x] and [y]"),
        # within HTML
        ('<div align="center">\n$$x$$\n</div>', "[[x]]"),
        ("<p>see $y$ here, \\(z\\) too</p>", "see [y] here, [z] too"),
        ("<b>raw</b> $x$", "raw [x]"),
        ("<td>$5</td><td>$x</td> and $y$", "$5$x and [y]"),
        ("so ${ that is, and $x$\n\n$y$", "so ${ that is, and [x] [y]"),
        # money, and variables of a shell
        ("costs $5 and $6", "costs $5 and $6"),
        ("costs $5, or $6 with tax", "costs $5, or $6 with tax"),
        ("$5-$6, ($7/$8)", "$5-$6, ($7/$8)"),
        ("costs 5$ or 6$, not 7$.", "costs 5$ or 6$, not 7$."),
        ("costs $5; where $x$ is, $6 and $y$", "costs $5; where [x] is, $6 and [y]"),
        ("| $5 | $6 |\n|---|---|\n| $HOME | $x$ |", "$5 $6 $HOME [x]"),
        ('**$HOME**, **$a** or "$b": $HOME/bin:$PATH', '$HOME , $a or "$b": $HOME/bin:$PATH'),
        ("$HOME and $PATH, ${HOME} and $(pwd)", "$HOME and $PATH, ${HOME} and $(pwd)"),
        (r"\$5 and \$y, \$6$", "$5 and $y, $6$"),
        ("one $ and\n\nanother, $$ and\n\n$$$$ $x", "one $ and another, $$ and $$$$ $x"),
        # code
        ("`$x` and `$y`, ``a ` $z`` $w$", "$x and $y , a ` $z [w]"),
        ("$6 with tax; `$HOME` and $ x $, $a `b` c$", "$6 with tax; $HOME and [x], $a b c$"),
        (r"`\\(x\\)` and `$$`", r"\\(x\\) and $$"),
        ("costs $5\n```\n$x$ @@0@@\n```\nand 6$ or $x$", "costs $5 $x$ @@0@@ and 6$ or [x]"),
        ("- a $x$\n\n  ~~~\n  $y$\n  ~~~\n\n      $z$\n", "a [x] $y$ $z$"),
        ("<code>$x</code>, <code>$y</code> <pre>$z$</pre>", "$x , $y $z$"),
        # what looks like our own signs
        ("@@0@@ $x$ @@@ &#64;&#64;7&#64;&#64;", "@@0@@ [x] @@@ @@7@@"),
        ("user@$x$@host", "user@[x]@host"),
    ],
)
def test_in_a_markdown_cell(source: str, text: str) -> None:
    """Formulas and what is none."""
    assert markdown(source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"<b>v</b> \(w\), $x_1$ and \[y\]", r"v [w], [x_1] and [[y]]"),
        ("<table><tr><td>$5</td><td>$6</td><td>a $x$ &lt; $$y&lt;z$$</td></tr></table>", "$5 $6 a [x] < [[y<z]]"),
        (r"<p>\begin{align}x&amp;=2\end{align} \$5 and 6$</p>", r"[[\begin{align}x&=2\end{align}]] \$5 and 6$"),
        (r"<pre>$x$</pre><code>\(y\) <code>$z$</code> $u$</code> $v$", r"$x$ \(y\) $z$ $u$ [v]"),
        ('<table class="dataframe tex2jax_ignore"><tr><td>$x$</td></tr></table>$y$', "$x$ [y]"),
        ('<img alt="$x$" src="a.png"> @@0@@', "@@0@@"),
    ],
)
def test_in_html_that_a_program_has_printed(source: str, text: str) -> None:
    """As MathJax looks at it; not in code, not in attributes, not where an element says so."""
    assert printed("text/html", source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"$\displaystyle x^{2}$", r"[\displaystyle x^{2}]"),
        ("$$x<y$$", "[[x<y]]"),
        (r"\begin{align}x&=2\end{align}", r"[[\begin{align}x&=2\end{align}]]"),
        (r"a \(x\), *b* <i>", "a [x], *b* <i>"),
    ],
)
def test_in_latex_that_a_program_has_printed(source: str, text: str) -> None:
    """A text with formulas; neither Markdown nor HTML."""
    assert printed("text/latex", source) == text


def test_in_attributes_formulas_are_what_was_written() -> None:
    """A picture's words and an address."""
    page = page_of(V4.new_markdown_cell('![a $x<"$ b](p.png) [c](https://a/?b=$y$) $z$'))
    assert 'alt="a $x&lt;&quot;$ b"' in page and 'href="https://a/?b=$y$"' in page
    assert text_of(page) == "c [z]"


@pytest.mark.parametrize("source", ["$x$ " * 20_000, "$" * 20_001, r"\\( " * 20_000, "`$ " * 5_000, "${" * 30_000])
def test_many_signs_end(source: str) -> None:
    """However they are paired, or not."""
    assert "$x$" not in page_of(V4.new_markdown_cell(source))


def test_formulas_of_all_places_are_in_the_document(tmp_path: Path) -> None:
    """Not only on the way to it."""
    cells = [
        r"10$^{-3}$ m, 90$^\circ$",
        r"\\(a\\)",
        "<div>\n$$b$$\n</div>",
        "| $|c|$ |\n|---|\n| $5 |",
        "# $d$\n\n- $e$",
    ]
    output = V4.new_output("display_data", {"text/html": r"<td>\(f\)</td>"})
    notebook = book(*map(V4.new_markdown_cell, cells), V4.new_code_cell("1", outputs=[output]))
    assert word_text(document_of(notebook, Form.WORD, tmp_path)).count("<m:oMath>") == 8
    assert document_of(said("\\begin{itemize}x\\end{itemize} $\\unknown{$"), Form.PDF, tmp_path)
