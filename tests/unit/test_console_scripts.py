"""Every console script tells by `--help` what it does, with an example; what it reports it reports as JSON, too."""

from __future__ import annotations

import configparser
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from wodmail.cli import main as program
from wodmail.cli.root import root

SCRIPTS = configparser.ConfigParser()
SCRIPTS.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
TARGETS = dict(line.split(" = ") for line in SCRIPTS["options.entry_points"]["console_scripts"].strip().splitlines())
TOOLS = [name for name in TARGETS if name not in ("wodmail", "wod-test-action")]
WITHOUT_JSON = {
    "wod-kill-processes": "a service; `status` reports",
    "wod-fail2ban-ip ban": "called by fail2ban; `status` reports",
    "wod-fail2ban-ip unban": "called by fail2ban; `status` reports",
    "wod-fail2ban-ip sync": "`status` reports",
}


def entry(name: str) -> Callable[[], object]:
    """What the installed script calls."""
    module, _, function = TARGETS[name].partition(":")
    found: Callable[[], object] = getattr(importlib.import_module(module), function)
    return found


def commands(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    """A command and those below it, by their words; a group that only has others is none."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield words, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context := click.Context(command)):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, f"{words} {name}")


@pytest.mark.parametrize("name", TARGETS)
def test_help_has_an_example(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the script by its own name; nothing else happens."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    try:
        status = entry(name)()
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    assert (status, said.err) == (0, "")
    assert f"Example: {name} " in " ".join(said.out.split())


@pytest.mark.parametrize("name", TOOLS)
def test_reports_are_also_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its commands has an example; `--json`, too, unless it has nothing to report."""
    got: list[click.Command] = []
    monkeypatch.setattr(program, "run", lambda command, _: got.append(command))
    entry(name)()
    found = dict(commands(got[0], name))
    assert [words for words, command in found.items() if "Example: " not in (command.help or "")] == []
    options = {
        words: {each for parameter in command.params for each in parameter.opts} for words, command in found.items()
    }
    assert [words for words in found if "--json" not in options[words] and words not in WITHOUT_JSON] == []
    assert [words for words in found if "--json" in options[words] and words in WITHOUT_JSON] == []


def test_each_tool_is_a_command_of_wodmail_too() -> None:
    """Under its name without wod-."""
    known = {words.removeprefix("wodmail ").split(" ")[0] for words, _ in commands(root, "wodmail")}
    apart = {"wod-kill-processes": "guard", "wod-generate-pdf": ""}
    wanted = {apart.get(name, name.removeprefix("wod-")) for name in TOOLS} - {""}
    assert wanted <= known
