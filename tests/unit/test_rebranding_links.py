"""Rebranding leaves alone what isn't text: names of files, attachments, pictures, what makes a notebook one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from tests.parts import shared_notebooks
from wodmail import rebrandingnotebook
from wodmail.cli.rebranding import rebranding
from wodmail.rebranding import Outcome, rebrand
from wodmail.rebrandingnotebook import TEXT, in_notebook
from wodmail.rebrandingrules import Rule, rebranded

ACME = [Rule(re.compile("Acme"), "Beta")]
LINKS = [
    "![Acme]({})",
    '[Acme](<{}> "Acme")',
    "[Acme]({}#Acme)",
    "[Acme]\n\n[Acme]: {}",
    '<img alt="Acme" src="{}">',
    "<a href='{}?raw=1'>Acme</a>",
    "<img src={} alt=Acme>",
    "<div style=\"background: url('{}')\">Acme</div>",
    "See {}. Acme!",
    'Acme = open("{}")',
    "cp --file={} Acme",
]


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Workshops whose files have the brand in their names."""
    folder = tmp_path / "books"
    for name in (
        "WKSHP-Acme/Pictures/Acme-logo.png",
        "WKSHP-Acme/1-Acme.ipynb",
        "WKSHP-Acme/Acme (1).md",
        "Acme/b.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith("ipynb") else "nothing")
    return folder


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("target", ["Pictures/Acme-logo.png", "1-Acme.ipynb", "../WKSHP-Acme/1-Acme.ipynb"])
def test_links_to_files_that_are_there_stay(books: Path, link: str, target: str) -> None:
    text = link.format(target)
    file = books / "WKSHP-Acme" / "a.md"
    file.write_text(text)
    (done,) = [each for each in rebrand(books, ACME) if each.outcome is not Outcome.SAME]
    assert file.read_text() == text.replace("Acme", "Beta").replace(target.replace("Acme", "Beta"), target)
    assert (done.count, done.lost) == (text.count("Acme") - target.count("Acme"), ())
    assert {each.outcome for each in rebrand(books, ACME)} == {Outcome.SAME}


def test_spaces_and_paths_from_the_folder_itself(books: Path) -> None:
    """Written %20, in brackets or in quotes; and what leads nowhere is text like any other."""
    left = [
        "[x](<Acme (1).md>)",
        '"Acme (1).md"',
        "![x](Acme%20(1).md)",
        "WKSHP-Acme/1-Acme.ipynb",
        "/WKSHP-Acme/Pictures/",
    ]
    changed = ["[x](Acme.html)", "https://www.Acme.com/", "Acme/WKSHP", "Acme.", "`Acme`", "help@Acme.org"]
    file = books / "WKSHP-Acme" / "a.md"
    file.write_text("\n".join([*left, *changed]))
    (done,) = [each for each in rebrand(books, ACME) if each.outcome is Outcome.CHANGED]
    assert file.read_text().splitlines() == [*left, *(line.replace("Acme", "Beta") for line in changed)]
    assert done.lost == ()


def test_names_that_are_lost_are_told(books: Path) -> None:
    """They are put together from parts, or at the end of an address; prose that says Acme is none."""
    texts = [
        "Path('Pictures') / 'Acme-logo.png'",
        "https://hub.example.org/user/WKSHP-Acme/Acme%20%281%29.md",
        "Welcome to Acme and Acme/x",
    ]
    (books / "a.md").write_text("\n".join(texts))
    cell = nbformat.v4.new_code_cell("\n".join(texts), id="a")
    (books / "b.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[cell])))
    done = {each.path: each for each in rebrand(books, ACME, dry_run=True) if each.outcome is Outcome.CHANGED}
    assert done["a.md"].lost == done["b.ipynb"].lost == ("Acme (1).md", "Acme-logo.png", "WKSHP-Acme")
    file = books.parent / "map.yml"
    file.write_text("Acme: Beta\n")
    line = [str(books), "--map", str(file), "--dry-run"]
    told = CliRunner().invoke(rebranding, line, env={"COLUMNS": "200"})
    assert "no longer names Acme (1).md, Acme-logo.png, WKSHP-Acme" in told.output
    rows = json.loads(CliRunner().invoke(rebranding, [*line, "--json"]).output)["files"]
    assert rows[0]["lost"] == ["Acme (1).md", "Acme-logo.png", "WKSHP-Acme"]


def test_attachments_keep_their_names() -> None:
    cell = nbformat.v4.new_markdown_cell("![Acme](attachment:Acme.png) <img src='attachment:Acme 2.png'>", id="a")
    cell["attachments"] = {"Acme.png": {"image/png": "QWNtZQ=="}, "Acme.txt": {"text/plain": ["About ", "Acme"]}}
    book = nbformat.v4.new_notebook(cells=[cell])
    result, count = in_notebook(nbformat.writes(book), ACME)
    found = json.loads(result)["cells"][0]
    assert found["source"] == ["![Beta](attachment:Acme.png) <img src='attachment:Acme 2.png'>"]
    assert found["attachments"] == {"Acme.png": {"image/png": "QWNtZQ=="}, "Acme.txt": {"text/plain": ["About Beta"]}}
    assert count == 2


def test_what_makes_a_notebook_one_stays() -> None:
    """Rules for each of these words change texts alone."""
    words = ["code", "python3", "Python 3", "ipython", "cell-a", "stdout", "stream", "plain", "tag", "text", "x-python"]
    output = nbformat.v4.new_output("display_data", {"text/plain": "plain code", "text/html": "<b>text</b>"})
    stream = nbformat.v4.new_output("stream", text="stdout of code")
    error = nbformat.v4.new_output("error", ename="code", evalue="no code", traceback=["in code"])
    cell = nbformat.v4.new_code_cell(
        "code text", id="cell-a", outputs=[output, stream, error], metadata={"tags": ["tag"]}
    )
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata = {
        "title": "code for text",
        "authors": [{"name": "text"}],
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "code"},
        "language_info": {"name": "ipython", "mimetype": "text/x-python", "file_extension": ".code"},
    }
    raw = nbformat.writes(book)
    result, _ = in_notebook(raw, [Rule(re.compile(re.escape(word)), "NEW") for word in words])
    found = nbformat.reads(result, as_version=4)
    nbformat.validate(found)
    expected = nbformat.reads(raw, as_version=4)
    expected.metadata.update(title="NEW for NEW", authors=[{"name": "NEW"}])
    new = expected.cells[0]
    new.source = "NEW NEW"
    new.outputs[0].data = {"text/plain": "NEW NEW", "text/html": "<b>NEW</b>"}
    new.outputs[1].text = "NEW of NEW"
    new.outputs[2].update(evalue="no NEW", traceback=["in NEW"])
    assert found == expected


def test_an_expression_spans_lines_of_a_cell() -> None:
    """Fewer or more lines than before, laid out as they were; other cells are not touched."""
    other = nbformat.v4.new_markdown_cell("one\ntwo", id="b")
    for rule, text in (("Acme\nLabs", "Beta"), ("Acme(\n)", r"Beta\1\1"), ("(?s)Acme.*", "")):
        cell = nbformat.v4.new_markdown_cell("at Acme\nLabs\nend", id="a")
        raw = nbformat.writes(nbformat.v4.new_notebook(cells=[cell, other]))
        rules = [Rule(re.compile(rule), text)]
        expected = re.sub(rule, text, cell.source)
        result, count = in_notebook(raw, rules)
        assert (count, json.loads(result)["cells"][0]["source"]) == (1, expected.splitlines(keepends=True))
        expected_cell = nbformat.v4.new_markdown_cell(expected, id="a")
        assert result == nbformat.writes(nbformat.v4.new_notebook(cells=[expected_cell, other]))


def test_older_notebooks_and_what_is_none(tmp_path: Path) -> None:
    """Format 3 has its texts elsewhere; JSON that is no notebook, however odd, isn't changed or fails by itself."""
    sheet = {"cells": [{"cell_type": "code", "input": ["Acme\n"], "outputs": [{"text": "Acme"}], "language": "Acme"}]}
    result, count = in_notebook(json.dumps({"nbformat": 3, "nbformat_minor": 0, "worksheets": [sheet]}), ACME)
    assert (count, result.count("Beta"), '"language": "Acme"' in result) == (2, 2, True)
    for raw in (
        "[]",
        '"Acme"',
        '{"cells": "Acme", "nbformat": []}',
        '{"cells": ["Acme", 5, {}], "metadata": []}',
        " {} ",
    ):
        assert in_notebook(raw, ACME) == (raw, 0)
    odd = '{"cells": [{"source": "Acme"}], "nbformat": "x"}'
    assert in_notebook(odd, ACME) == (odd.replace("Acme", "Beta"), 1)
    (tmp_path / "deep.ipynb").write_text('{"cells": ' + "[" * 100_000 + "]" * 100_000 + "}")
    (done,) = rebrand(tmp_path, ACME)
    assert (done.outcome, "no valid notebook" in done.reason) == (Outcome.FAILED, True)


def test_a_notebook_that_would_be_none_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a place be chosen that must not be; one that was none before is not judged."""
    places = {"cells": [{"cell_type": TEXT}]}
    monkeypatch.setattr(rebrandingnotebook, "PLACES", places)
    file = tmp_path / "a.ipynb"
    for kind, outcome in (("markdown", Outcome.FAILED), ("marks", Outcome.CHANGED)):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("a", id="a")])
        raw = json.dumps(book).replace('"markdown"', f'"{kind}"')
        file.write_text(raw)
        (done,) = rebrand(tmp_path, [Rule(re.compile("^mark"), "Mark")])
        assert (done.outcome, file.read_text() == raw) == (outcome, outcome is Outcome.FAILED)
        assert ("no valid notebook any more" in done.reason) == (outcome is Outcome.FAILED)


@pytest.mark.parametrize("between", ["\n", " ", "\n\n", ") ", '" alt="', "\r\n"])
def test_words_after_a_picture_are_text(between: str) -> None:
    start = "![a](data:image/png;base64,iVBORw0KGgoAcmeAcmeA"
    assert rebranded(f"{start}{between}Acme Labs", ACME) == (f"{start}{between}Beta Labs", 1)


def test_a_wrapped_picture_is_a_picture() -> None:
    """Lines as base64 programs write them, the last one short; then text again."""
    lines = ["Acme" * 19, "A" * 30 + "Acme" * 11 + "AA", "QUFBAcme"]
    for end in ('" alt="', "==\n", "= "):
        text = f'<img src="data:image/png;base64,{chr(10).join(lines)}{end}Acme">'
        assert rebranded(text, ACME) == (text[:-6] + 'Beta">', 1)


def test_files_named_like_what_is_passed_over_and_the_map(books: Path) -> None:
    """A submodule's .git is a file; the map may lie inside under any name."""
    file = books / "map.yml"
    file.write_text("Acme: Beta\n")
    (books / "also.yml").hardlink_to(file)
    (books / "sub").mkdir()
    (books / "sub" / ".git").write_text("gitdir: ../.git/modules/Acme\n")
    (books / "a.txt").write_text("Acme")
    for line in ([], ["--dry-run"]):
        done = CliRunner().invoke(rebranding, [str(books), "--map", str(file), "--json", *line])
        assert done.exit_code == 0
    assert (file.read_text(), (books / "a.txt").read_text()) == ("Acme: Beta\n", "Beta")
    assert (books / "sub" / ".git").read_text() == "gitdir: ../.git/modules/Acme\n"


def test_a_folder_that_cant_be_read_is_told(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is done, and the exit status is 1."""
    real = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "Pictures":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    (books / "z.txt").write_text("Acme")
    file = books.parent / "map.yml"
    file.write_text("Acme: Beta\n")
    monkeypatch.setattr(os, "scandir", scandir)
    done = CliRunner().invoke(rebranding, [str(books), "--map", str(file), "--json"])
    rows = {row["path"]: row for row in json.loads(done.output)["files"]}
    assert done.exit_code == 1 and rows["z.txt"]["outcome"] == "changed"
    assert rows["WKSHP-Acme/Pictures"]["reason"] == "the folder can't be read: Permission denied"


def test_a_file_whose_owner_cant_be_kept_stays(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's file in a folder that we may write into."""
    file = books / "Acme" / "b.txt"
    file.write_text("Acme")
    status = os.stat_result([*file.stat()[:4], 12345, 12345, *file.stat()[6:]])
    real = Path.stat

    def foreign(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        return status if path == file else real(path, follow_symlinks=follow_symlinks)

    def refused(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "stat", foreign)
    monkeypatch.setattr(os, "fchown", refused)
    done = [each for each in rebrand(books, ACME) if each.outcome is Outcome.FAILED]
    assert [(each.path, each.reason) for each in done] == [
        ("Acme/b.txt", "it can't be written: Operation not permitted")
    ]
    assert file.read_text() == "Acme" and [path.name for path in file.parent.iterdir()] == ["b.txt"]


def test_real_workshops_stay_valid(tmp_path: Path) -> None:
    """Copies of the workshops beside the checkout, when they are there: really changed, valid, no link lost."""
    shared = shared_notebooks()
    if shared is None:
        pytest.skip("no real workshops beside the checkout")
    folder = tmp_path / "notebooks"
    shutil.copytree(shared, folder)
    rules = [
        Rule(re.compile(r"\bHPE\b"), 'HPE "Labs"'),
        Rule(re.compile("[Ww]orkshop(s?)"), r"Lab\1"),
        Rule(re.compile("png|code|python|markdown|Pictures|WKSHP"), "XX"),
    ]
    done = list(rebrand(folder, rules))
    changed = [folder / each.path for each in done if each.outcome is Outcome.CHANGED and each.path.endswith("ipynb")]
    assert len(changed) > 10 and not [each for each in done if each.outcome is Outcome.FAILED]
    links = 0
    for path in changed:
        before, after = (
            nbformat.read(each, as_version=nbformat.NO_CONVERT) for each in (shared / path.relative_to(folder), path)
        )
        nbformat.validate(after)
        assert [cell.cell_type for cell in before.cells] == [cell.cell_type for cell in after.cells]
        assert before.metadata.get("kernelspec") == after.metadata.get("kernelspec")
        for old, new in zip(before.cells, after.cells, strict=True):
            found = [
                target
                for target in re.findall(r"""(?:\]\(|src=["'])([^)"'#? ]+)""", old.source)
                if (path.parent / target).is_file()
            ]
            assert all(target in new.source for target in found)
            links += len(found)
    assert links > 10
    assert {each.outcome for each in rebrand(folder, rules)} <= {Outcome.SAME, Outcome.BINARY}
