"""Rebranding: rules, texts, notebooks, folders; and the command."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from wodmail.cli.rebranding import rebranding
from wodmail.errors import ConfigError
from wodmail.rebranding import Outcome, rebrand
from wodmail.rebrandingnotebook import in_notebook
from wodmail.rebrandingrules import Rule, UnstableError, read_rules, rebranded

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


def rules(folder: Path, text: str) -> tuple[Rule, ...]:
    file = folder / "brands.yml"
    file.write_text(text)
    return read_rules(file)


def notebook(*sources: str) -> str:
    cells = [nbformat.v4.new_markdown_cell(source, id=f"c{number}") for number, source in enumerate(sources)]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells))


def test_rules_apply_in_their_order(tmp_path: Path) -> None:
    """What one makes the next one sees; groups can be named in the text."""
    found = rules(tmp_path, "'Acme (\\w+)': 'Beta \\1'\nBeta Labs: Gamma\n")
    assert rebranded("Acme Labs, Acme Cloud", found) == ("Gamma, Beta Cloud", 3)


def test_the_map_of_the_docs_page_works(tmp_path: Path) -> None:
    """As it is printed there, each of its lines."""
    page = (Path(__file__).parents[2] / "docs" / "rebranding.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    found = rules(tmp_path, text)
    assert len(found) == 4
    old = "Example Labs, an Example, https://www.example.com, EXAMPLE Slack"
    assert rebranded(old, found) == ("Demo Labs, an Demo, https://demo.example.org, Demo chat", 4)


@pytest.mark.parametrize(
    ("line", "text", "wanted"),
    [
        ("'(?i)acme': Beta", "ACME aCme", "Beta Beta"),
        ("'(?s)Acme.Labs': Beta", "Acme\nLabs", "Beta"),
        ("'(?m)^Acme$': Beta", "an Acme\nAcme\n", "an Acme\nBeta\n"),
        ("'(?x) Acme # the old one': Beta", "Acme", "Beta"),
        ("'(?im)^(acme) (?P<what>\\w+)': '\\g<what> of Beta'", "\nACME Labs", "\nLabs of Beta"),
        ("'(?-i:Acme)|(?i:ajax)': Beta", "acme Acme AJAX", "acme Beta Beta"),
    ],
)
def test_flags_may_stand_in_a_map(tmp_path: Path, line: str, text: str, wanted: str) -> None:
    found = rules(tmp_path, line + "\n")
    assert rebranded(text, found)[0] == wanted


def test_a_text_that_holds_what_it_replaces_is_replaced_once(tmp_path: Path) -> None:
    """A second run finds it done, also where old and new stand side by side."""
    found = rules(tmp_path, "Acme: Acme Labs by Acme\n")
    once, count = rebranded("Acme and Acme", found)
    assert (once, count) == ("Acme Labs by Acme and Acme Labs by Acme", 2)
    assert rebranded(once + " Acme", found) == (once + " Acme Labs by Acme", 1)


def test_rules_that_never_come_to_rest_are_refused_by_name(tmp_path: Path) -> None:
    """A digit more at each run."""
    found = rules(tmp_path, "'x': y\n'v(\\d)': 'v0\\1'\n")
    with pytest.raises(UnstableError, match=r"rule 2, 'v\(\\\\d\)'"):
        rebranded("v1", found)


TEXTS = st.text(st.sampled_from('ab" \n\\{}é,:'), max_size=30)
PATTERNS = st.text("ab", min_size=1, max_size=3)


def check_settled(text: str, once: str, found: list[Rule]) -> None:
    """A second run changes nothing, and a notebook is changed in the same way."""
    assert rebranded(once, found)[0] == once
    raw = json.dumps({"cells": [{"source": text, "image/png": "ab"}]})
    result, count = in_notebook(raw, found)
    assert json.loads(result) == {"cells": [{"source": once, "image/png": "ab"}]}
    assert count > 0 or result == raw


@given(TEXTS, st.lists(st.tuples(PATTERNS, st.text("cd", min_size=1, max_size=4)), min_size=1, max_size=3))
def test_rules_that_settle_are_applied_everywhere(text: str, pairs: list[tuple[str, str]]) -> None:
    """What these make is nothing that one of them looks for, so none may be refused."""
    found = [Rule(re.compile(pattern), word) for pattern, word in pairs]
    once, count = rebranded(text, found)
    assert not [pattern for pattern, _ in pairs if pattern in once]
    assert (count > 0) == any(pattern in text for pattern, _ in pairs)
    assert rebranded(once, found) == (once, 0)
    check_settled(text, once, found)


@given(TEXTS, st.lists(st.tuples(PATTERNS, st.text("abc", max_size=4)), min_size=1, max_size=3))
def test_a_second_run_changes_nothing(text: str, pairs: list[tuple[str, str]]) -> None:
    """Whatever the text and the rules; rules that can't do that are refused, and only those."""
    found = [Rule(re.compile(pattern), word) for pattern, word in pairs]
    try:
        once, _ = rebranded(text, found)
    except UnstableError:
        once = text
        for rule in found:
            once = rule.apply(once)[0]
        twice = once
        for rule in found:
            twice = rule.apply(twice)[0]
        assert twice != once
        return
    check_settled(text, once, found)


def test_a_notebook_stays_valid_and_keeps_its_layout(tmp_path: Path) -> None:
    """Quotes in the new text, names of members and pictures."""
    raw = notebook("Welcome to Acme", "# metadata of `Acme`", "nothing here")
    found = rules(tmp_path, "Acme: 'the \"Beta\" \\\\ Lab'\nmetadata: facts\n")
    result, count = in_notebook(raw, found)
    assert count == 3
    book = nbformat.reads(result, as_version=4)
    nbformat.validate(book)
    assert book.cells[1].source == '# facts of `the "Beta" \\ Lab`'
    assert [line for line in result.splitlines() if "Beta" not in line] == [
        line for line in raw.splitlines() if "Acme" not in line
    ]


def test_pictures_are_no_text(tmp_path: Path) -> None:
    """Neither as outputs and attachments nor written into a text."""
    found = rules(tmp_path, "iVBOR: XXXXX\nAAAA: ''\n")
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", {"image/png": PIXEL})])
    raw = nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))
    assert in_notebook(raw, found) == (raw, 0)
    text = f"![a](data:image/png;base64,{PIXEL}) iVBOR"
    assert rebranded(text, found) == (text[:-5] + "XXXXX", 1)


def test_a_folder(tmp_path: Path) -> None:
    """Texts and notebooks; not .git, binaries or what a link leads to; modes stay."""
    found = rules(tmp_path, "Acme: Beta\n")
    folder = tmp_path / "books"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text("Acme")
    (folder / "run.sh").write_text("echo Acme\r\n", newline="")
    (folder / "run.sh").chmod(0o750)
    (folder / "logo.png").write_bytes(b"\x89PNG\0Acme")
    (folder / "old.txt").write_bytes(b"Acme \xff")
    (folder / "a.ipynb").write_text(notebook("Acme"))
    (folder / "bad.ipynb").write_text("{ Acme")
    (tmp_path / "outside").write_text("Acme")
    (folder / "link").symlink_to(tmp_path / "outside")
    told = {each.path: each.outcome for each in rebrand(folder, found, dry_run=True)}
    assert told == {
        "a.ipynb": Outcome.CHANGED,
        "bad.ipynb": Outcome.FAILED,
        "logo.png": Outcome.BINARY,
        "old.txt": Outcome.BINARY,
        "run.sh": Outcome.CHANGED,
    }
    assert (folder / "run.sh").read_text() == "echo Acme\n"
    assert {each.path: each.outcome for each in rebrand(folder, found)} == told
    assert (folder / "run.sh").read_bytes() == b"echo Beta\r\n"
    assert stat.S_IMODE((folder / "run.sh").stat().st_mode) == 0o750
    assert (tmp_path / "outside").read_text() == (folder / ".git" / "config").read_text() == "Acme"
    assert {each.outcome for each in rebrand(folder, found)} == {Outcome.SAME, Outcome.FAILED, Outcome.BINARY}
    assert not [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".git"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- Acme\n", "no mapping"),
        ("Acme: 5\n", "put them in quotes"),
        ("'(': x\n", "missing"),
        ("'a*': x\n", "matches nothing at all"),
        ("'a': '\\1'\n", "invalid group reference"),
        ("'(?i)a': '\\g<b>'\n", "unknown group name"),
        ("a: [\n", "can't be read"),
    ],
)
def test_bad_maps_are_told(tmp_path: Path, text: str, words: str) -> None:
    """Each with what is wrong."""
    with pytest.raises(ConfigError, match=words):
        rules(tmp_path, text)


def test_the_command_shows_the_diff_first(tmp_path: Path) -> None:
    """Dry run: exit status 2 and the diff; then for real; then nothing is left."""
    (tmp_path / "map.yml").write_text("Acme: Beta\n")
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "x.md").write_text("# Acme\n")
    call = [str(folder), "--map", str(tmp_path / "map.yml")]
    dry = CliRunner().invoke(rebranding, [*call, "--dry-run"])
    assert (dry.exit_code, "-# Acme" in dry.output, "+# Beta" in dry.output) == (2, True, True)
    assert (folder / "x.md").read_text() == "# Acme\n"
    done = CliRunner().invoke(rebranding, [*call, "--json"])
    assert (done.exit_code, json.loads(done.output)["counts"]["changed"]) == (0, 1)
    again = CliRunner().invoke(rebranding, [*call, "--dry-run"])
    assert (again.exit_code, again.output.strip().splitlines()[-1]) == (
        0,
        "would be: 0 changed, 1 same, 0 binary, 0 failed",
    )
