"""The docs keep up with the code: commands and options, links, named modules, steps, states, words."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from wodmail.catalog import Workshop
from wodmail.cli.root import root
from wodmail.cli.test_action import parser
from wodmail.jobs.plan import plan
from wodmail.jobs.steps import STEPS
from wodmail.mail import pipe
from wodmail.model import Action, JobSpec, State

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"), *(TOP / "procmail").glob("*.md")])
DOCS = {page: page.read_text(encoding="utf-8") for page in PAGES}
# The page made from the commands' own help names them all by itself; that they exist is no description of them.
WRITTEN = "\n".join(text for page, text in DOCS.items() if page.name != "commands.md")
EVERYTHING = "\n".join(DOCS.values())
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")
MODULE = re.compile(r"`((?:wodmail|ansible|scripts|tests|benchmarks|conf|sys|procmail)/[\w./-]*)`")


def _commands(command: click.Command, words: tuple[str, ...] = ("wodmail",)) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(words), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, name
            yield from _commands(inner, (*words, name))


TREE = dict(_commands(root))


def _anchors(text: str) -> set[str]:
    """The anchors that headings get, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _says(text: str, words: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(words)}(?![\w-])", text) is not None


@pytest.mark.parametrize("words", [words for words, command in TREE.items() if not isinstance(command, click.Group)])
def test_command_is_documented(words: str) -> None:
    known = _says(WRITTEN, words)
    if words.startswith("wodmail query "):
        known = _says(DOCS[TOP / "docs" / "scripts.md"], words.removeprefix("wodmail query "))
    assert known, f"no page but commands.md says `{words}`"


@pytest.mark.parametrize("words", list(TREE))
def test_options_are_documented(words: str) -> None:
    options = [option for parameter in TREE[words].params for option in parameter.opts if option.startswith("--")]
    missing = [option for option in options if not _says(EVERYTHING, option)]
    assert not missing, f"{words}: {missing}"


def test_options_of_the_other_programs_are_documented() -> None:
    actions = [action for action in parser()._actions if not isinstance(action, argparse._HelpAction)]
    options = [option for action in actions for option in action.option_strings]
    assert "--wait" in options
    assert [option for option in [*options, "--spool"] if not _says(WRITTEN, option)] == []
    assert "--spool" in pipe.USAGE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(DOCS[page]):
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor[1:] not in _anchors(file.read_text(encoding="utf-8"))):
            broken.append(target + anchor)
    assert not broken, f"{page}: {broken}"


@pytest.mark.parametrize("page", ["source-code.md", "flow.md", "mail-doors.md", "operations.md"])
def test_named_files_exist(page: str) -> None:
    named = MODULE.findall(DOCS[TOP / "docs" / page])
    assert named
    assert [name for name in named if not (TOP / name).exists()] == []


def test_every_module_is_on_the_map() -> None:
    text = DOCS[TOP / "docs" / "source-code.md"]
    modules = [file for file in (TOP / "wodmail").rglob("*.py") if not file.name.startswith("__")]
    modules = [file for file in modules if file.parent.name not in ("cli", "copyfolder", "registry")]
    missing = [str(file.relative_to(TOP)) for file in modules if not _says(text, file.name)]
    assert [name for name in missing if f"`{name}`" not in text] == []


def test_every_page_is_in_the_index() -> None:
    index = DOCS[TOP / "docs" / "README.md"]
    pages = [page for page in (TOP / "docs").glob("*.md") if page.name != "README.md"]
    assert [page.name for page in pages if f"]({page.name})" not in index] == []
    decisions = DOCS[TOP / "docs" / "decisions" / "README.md"]
    pages = [page for page in (TOP / "docs" / "decisions").glob("*.md") if page.name != "README.md"]
    assert pages
    assert [page.name for page in pages if f"]({page.name})" not in decisions] == []


def _column(action: Action) -> list[str]:
    """The steps of an action as docs/flow.md lists them, in order."""
    text = DOCS[TOP / "docs" / "flow.md"]
    lines = text[text.index("| CREATE | CLEANUP |") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    place = rows[0].index(action.value)
    return [name for row in rows[2:] for name in re.findall(r"[a-z]+(?:-[a-z]+)*", row[place]) if name != "or"]


@pytest.mark.parametrize("action", [Action.CREATE, Action.CLEANUP, Action.RESET, Action.PURGE])
def test_steps_of_the_flow_are_those_of_the_plan(action: Action) -> None:
    told = _column(action)
    for students, participant, reset in [((1,), 7, True), ((1,), 7, False), ((1, 2), 7, True), ((1,), 0, True)]:
        if action is Action.RESET and not reset:
            continue
        workshop = Workshop(name="WKSHP-Some101", ldap=True, varpass=True, reset=reset)
        spec = JobSpec(1, 1, action, students, "WKSHP-Some101", participant)
        kinds = [step.kind for step in plan(spec, workshop)]
        assert kinds.pop() == "trace"
        kinds = [kind for place, kind in enumerate(kinds) if kind not in kinds[:place]]
        assert [name for name in told if name in kinds] == kinds


def test_the_flow_names_every_kind_of_step() -> None:
    text = DOCS[TOP / "docs" / "flow.md"]
    assert [kind for kind in STEPS if not _says(text, kind)] == []


def test_the_day_at_2_am_knows_every_state() -> None:
    text = DOCS[TOP / "docs" / "operations.md"]
    assert [state.value for state in State if f"| {state.value} |" not in text] == []


def test_contributing_names_the_packages_of_the_pipeline() -> None:
    """Whoever follows the page can run what .ci/run runs."""
    text = (TOP / ".ci" / "run").read_text(encoding="utf-8").partition("\npackages=(")[2].partition(")")[0]
    block = re.search(r"^ {4}apt-get install (?:.*\\\n)*.*$", DOCS[TOP / "CONTRIBUTING.md"], re.MULTILINE)
    assert block is not None
    beside = {"bash", "git", "ldap-utils", "make", "passwd"}  # there before, or for people who look
    assert set(text.split()) - beside <= set(block.group().split())
