"""Rebranding: rules, texts, notebooks, folders; and the command."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.parts import require
from wodmail import rebranding as work
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


NAMES = ["a.md", "with spaces.md", "é \u2028.md", 'a "quoted"\t\\ name\n.md', os.fsdecode(b"\xff.md"), "sub/b.ipynb"]
TEXT_OF_MANY_ENDS = "# Acme\r\nold\rmac\x0c Acme\u2028 and \x85 Acme\n\n" + "long " * 40 + "Acme\n\nlast Acme"


@pytest.fixture
def acme(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of odd names and texts, and a map."""
    (tmp_path / "map.yml").write_text("Acme: Beta\n")
    folder = tmp_path / "books"
    (folder / "sub").mkdir(parents=True)
    for name in NAMES:
        text = notebook("Acme") if name.endswith(".ipynb") else TEXT_OF_MANY_ENDS
        (folder / name).write_text(text, encoding="utf-8", newline="")
    (folder / "marked.txt").write_bytes(codecs.BOM_UTF8 + b"Acme\r\n")
    (folder / "one-line.txt").write_bytes(b"Acme")
    return folder, tmp_path / "map.yml"


def contents(folder: Path) -> dict[str, bytes]:
    """All files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("tool", ["patch", "git"])
def test_a_dry_run_into_a_file_is_a_patch(acme: tuple[Path, Path], tool: str) -> None:
    """Applied, it makes what the run makes, byte by byte."""
    folder, file = acme
    before = contents(folder)
    call = [sys.executable, "-m", "wodmail", "rebranding", str(folder), "--map", str(file)]
    dry = subprocess.run([*call, "--dry-run"], capture_output=True, check=False)
    assert (dry.returncode, b"marked.txt" in dry.stderr, b"8 changed" in dry.stderr) == (2, True, True)
    words = [require(tool), *(["-p1", "--silent"] if tool == "patch" else ["apply", "-p1"])]
    applied = subprocess.run(words, input=dry.stdout, cwd=folder, capture_output=True, check=False)
    assert (applied.returncode, applied.stdout, applied.stderr) == (0, b"", b"")
    patched = contents(folder)
    for name, data in before.items():
        (folder / name).write_bytes(data)
    assert subprocess.run(call, capture_output=True, check=False).returncode == 0
    assert patched == contents(folder) != before


def test_a_dry_run_on_a_terminal_is_for_people(acme: tuple[Path, Path]) -> None:
    """All of it there, long lines folded."""
    folder, file = acme
    call = [sys.executable, "-m", "wodmail", "rebranding", str(folder), "--map", str(file), "--dry-run"]
    utf8 = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "COLUMNS": "80"}
    ours, theirs = os.openpty()
    with subprocess.Popen(call, stdout=theirs, stderr=subprocess.PIPE, stdin=theirs, env=utf8) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal tells that nobody writes to it any more
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
        assert process.stderr is not None and process.stderr.read() == b""
    assert process.returncode == 2
    lines = re.sub(rb"\x1b\[[0-9;]*m", b"", shown).decode().split("\r\n")
    assert any(line.startswith("would be: 8 changed, ") for line in lines)
    assert max(map(cell_len, lines)) <= 80


def test_a_byte_order_mark_stays(tmp_path: Path) -> None:
    """It is no part of the first line, and a notebook may have one."""
    found = rules(tmp_path, "^Acme: Beta\n")
    folder = tmp_path / "books"
    folder.mkdir()
    for name, text in (("a.txt", "Acme\n"), ("b.ipynb", notebook("Acme")), ("c.txt", "nothing")):
        (folder / name).write_text(text, encoding="utf-8-sig")
    told = {each.path: each.outcome for each in rebrand(folder, found)}
    assert told == {"a.txt": Outcome.CHANGED, "b.ipynb": Outcome.CHANGED, "c.txt": Outcome.SAME}
    assert (folder / "a.txt").read_bytes() == codecs.BOM_UTF8 + b"Beta\n"
    assert (folder / "b.ipynb").read_bytes() == codecs.BOM_UTF8 + notebook("Beta").encode()
    assert (folder / "c.txt").read_bytes() == codecs.BOM_UTF8 + b"nothing"


def test_texts_that_keep_the_brand_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other encodings and what is too large; pictures are not."""
    monkeypatch.setattr(work, "LARGEST", 2**20)
    (tmp_path / "map.yml").write_text("Acme: Beta\n")
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "latin.txt").write_text("Acmé Acme", encoding="latin-1")
    (folder / "wide.txt").write_text("Acme", encoding="utf-16")
    (folder / "large.csv").write_bytes(b"Acme\n" * 2**18)
    (folder / "logo.png").write_bytes(b"\x89PNG\0Acme")
    call = [str(folder), "--map", str(tmp_path / "map.yml")]
    done = CliRunner().invoke(rebranding, call)
    rows = [line.split(maxsplit=2) for line in done.output.splitlines()[1:-1]]
    assert [[word.strip() for word in row] for row in rows] == [
        ["large.csv", "binary", "larger than 1 MiB"],
        ["latin.txt", "binary", "not UTF-8"],
        ["wide.txt", "binary", "not UTF-8"],
    ]
    files = json.loads(CliRunner().invoke(rebranding, [*call, "--json"]).output)["files"]
    assert {row["path"]: row["reason"] for row in files}["logo.png"] == ""
