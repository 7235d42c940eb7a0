"""`wod-cleanup-users MIN MAX`, also `wodmail cleanup-users`: empty students' homes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from wodmail import cleanupusers
from wodmail.cleanupusers import Cleaned, Cleaning, Outcome
from wodmail.cli.config import config_option, json_option
from wodmail.config import Settings, load
from wodmail.errors import Refused

VERSION = 1
SHOWN = 10


@click.command("cleanup-users")
@config_option
@json_option
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--dry-run", is_flag=True, help="Change nothing, tell whose homes would be emptied.")
@click.argument("first", metavar="MIN", type=click.IntRange(min=1))
@click.argument("last", metavar="MAX", type=click.IntRange(min=1))
def cleanup_users(file: Path | None, as_json: bool, yes: bool, dry_run: bool, first: int, last: int) -> int:
    """Empty the homes of students MIN to MAX and put the skeleton there; a seat in use is never touched. As root.

    Exit status: 0 every home is empty, 1 one failed or is in use, 130 you said no, 129 or 143 a signal ended it.

    Example: wod-cleanup-users 1 40
    """
    settings = load(file, files=False)
    _check_user(settings)
    asked = cleanupusers.numbers(settings, first, last)
    busy = cleanupusers.in_use(settings, asked)
    free = [student for student in asked if student not in busy]
    if dry_run:
        rows = Cleaning(tuple(Cleaned(student, Outcome.IN_USE, why) for student, why in busy.items()))
        return _report(rows, free, as_json, dry_run=True)
    if not yes:
        _ask(free, busy, settings)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty() or as_json) as shown:
        task = shown.add_task("homes", total=len(asked))
        done = cleanupusers.clean(settings, asked, lambda _: shown.advance(task))
    return _report(done, [], as_json, dry_run=False)


def _check_user(settings: Settings) -> None:
    if os.geteuid() != 0 and not settings.WODSANDBOX:
        raise Refused("Homes are emptied by root alone. Try again with: sudo wod-cleanup-users MIN MAX")


def _ask(free: list[int], busy: dict[int, str], settings: Settings) -> None:
    for student, why in list(busy.items())[:SHOWN]:
        click.echo(f"student {student} is left alone: {why}", err=True)
    if not free:
        return
    span = f"{free[0]}" if len(free) == 1 else f"{free[0]} to {free[-1]}"
    words = f"Empty {len(free)} home(s) below {settings.WODSTUDDIR}, of students {span}? Nothing of them is kept"
    click.confirm(words, abort=True, err=True)


def _report(done: Cleaning, would: list[int], as_json: bool, *, dry_run: bool) -> int:
    bad = [each for each in done.students if each.outcome is not Outcome.EMPTIED]
    if as_json:
        click.echo(json.dumps(_as_data(done, would, dry_run), indent=2))
    else:
        console = Console()
        for each in bad:
            console.print(f"student {each.student}: {each.outcome}: {escape(each.reason)}", highlight=False)
        count = len(would) if dry_run else len(done.students) - len(bad)
        console.print(f"{count} home(s) {'would be ' if dry_run else ''}emptied", highlight=False)
    if done.drained:
        click.echo(f"the backend is still {done.drained}", err=True)
    return 0 if dry_run or not bad else 1


def _as_data(done: Cleaning, would: list[int], dry_run: bool) -> dict[str, object]:
    rows = [{"student": each.student, "outcome": each.outcome.value, "reason": each.reason} for each in done.students]
    data = {"version": VERSION, "dry_run": dry_run, "would": would, "students": rows}
    return {**data, "drained": done.drained or None}


def main() -> int:
    """`wod-cleanup-users`, the program; returns the exit status."""
    from wodmail.cli.main import run

    return run(cleanup_users, "wod-cleanup-users")
