"""docs/commands.md, made from the commands themselves: `python -m wodmail.cli.reference > docs/commands.md`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator

import click

from wodmail.cli import test_action
from wodmail.cli.root import root

_INTRODUCTION = """# Commands

<!-- Made from the commands by `python -m wodmail.cli.reference`; change their help instead. -->

Exit status of `wodmail`: 0 done, 1 failed or refused, 64 the command line makes no sense, 75 something is away and the
same may succeed later, 78 the configuration. `wodmail pipe` has its own: 0 stored, 65 empty input, 75 anything else."""


def page() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *_commands(root, "wodmail"), *_test_action()]) + "\n"


def _commands(command: click.Command, path: str) -> Iterator[str]:
    """A command and all below it."""
    if path != "wodmail":
        yield from _command(command, path)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _commands(inner, f"{path} {name}")


def _command(command: click.Command, path: str) -> Iterator[str]:
    """Heading, help and options of one command."""
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    yield f"\n## {' '.join([path, *arguments])}\n"
    yield inspect.cleandoc(command.help or "")
    options = [p for p in command.params if isinstance(p, click.Option)]
    if options:
        yield "\n| option | meaning |\n|---|---|"
    for option in options:
        value = "" if option.is_flag else f" {option.make_metavar(click.Context(command))}"
        yield f"| `{_cell(', '.join(option.opts) + value)}` | {_cell(option.help)} |"


def _test_action() -> Iterator[str]:
    parser = test_action.parser()
    yield f"\n## {test_action.SYNTAX}\n"
    yield f"{parser.description}\n\n{parser.epilog}"
    yield "\n| option | meaning |\n|---|---|"
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        name = ", ".join(action.option_strings)
        value = "" if action.nargs == 0 else f"{action.metavar or action.dest.upper()}"
        yield f"| `{f'{name} {value}'.strip()}` | {_cell(action.help)} |"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    click.echo(page(), nl=False)
