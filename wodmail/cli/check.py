"""`wodmail check` and `wod-check`: is this machine as it should be, and mend it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from wodmail import checking, checkrun
from wodmail.checking import Item, Verdict
from wodmail.checkrun import Checked
from wodmail.cli.config import config_option, json_option
from wodmail.config import load, read
from wodmail.errors import Refused
from wodmail.maintenancetasks import TaskResult
from wodmail.schema import Settings

VERSION = 1
COLOURS = {
    Verdict.OK: "green",
    Verdict.FIXED: "yellow",
    Verdict.DIFFERS: "yellow",
    Verdict.NOT_APPLICABLE: "dim",
    Verdict.FAILED: "red",
}


@click.command()
@config_option
@json_option
@click.option("--check", "audit", is_flag=True, help="Change nothing, tell what differs; exit status 2 if anything.")
@click.option("--diff", is_flag=True, help="Show what differs in files.")
@click.option("--item", "only", multiple=True, metavar="ID", help="Only this item; may be repeated.")
@click.option("--skip", multiple=True, metavar="ID", help="Not this item; may be repeated.")
@click.option("--list", "show", is_flag=True, help="List the items and end.")
def check(
    file: Path | None, as_json: bool, audit: bool, diff: bool, only: tuple[str, ...], skip: tuple[str, ...], show: bool
) -> None:
    """See that this machine is as it should be, and mend what is not (as root).

    Exit status 0: all is well, or was mended; 2: something differs (in an audit, or because only a person can mend it);
    1: something failed.

    Example: wod-check --check --diff
    """
    settings = load(file, files=False)
    if show:
        _list(settings, as_json)
        return
    if os.geteuid() != 0:
        raise Refused("only root can check a machine; call it with sudo")
    config = read(file, files=False).file.absolute()
    with _progress(len(only) or len(checkrun.listed(settings))) as advance:
        checked = checkrun.run(settings, config, check=audit, only=only, skip=skip, on_task=advance, on_wait=_say)
    if as_json:
        click.echo(json.dumps(as_data(checked, audit), indent=2))
    else:
        _tell(checked, diff)
    raise SystemExit(checked.status)


def as_data(checked: Checked, audit: bool) -> dict[str, object]:
    """A check for --json."""
    rows = [
        {"id": item.id, "status": item.verdict.value, "what": list(item.what), "diff": item.diff}
        for item in checked.items
    ]
    return {
        "version": VERSION,
        "check": audit,
        "status": checked.status,
        "counts": checking.counts(checked.items),
        "items": rows,
        "text": checked.text if checked.status == 1 else "",
    }


def _say(words: str) -> None:
    click.echo(words, err=True)


def _list(settings: Settings, as_json: bool) -> None:
    found = checkrun.listed(settings)
    if as_json:
        rows = [{"id": name, "title": title} for name, title in found.items()]
        click.echo(json.dumps({"version": VERSION, "items": rows}, indent=2))
        return
    table = Table("item", "what", box=None)
    for name, title in found.items():
        table.add_row(name, escape(title))
    Console().print(table)


def _tell(checked: Checked, diff: bool) -> None:
    console = Console()
    table = Table("item", "status", "what", box=None)
    table.columns[2].overflow = "fold"
    for item in checked.items:
        colour = COLOURS[item.verdict]
        table.add_row(item.id, f"[{colour}]{item.verdict}[/{colour}]", escape("\n".join(item.what)))
    console.print(table)
    for item in checked.items if diff else ():
        _differences(console, item)
    told = ", ".join(f"{count} {verdict}" for verdict, count in checking.counts(checked.items).items() if count)
    console.print(told or "nothing was checked")
    if checked.status == 1 and not any(item.verdict is Verdict.FAILED for item in checked.items):
        click.echo(checked.text, err=True)


def _differences(console: Console, item: Item) -> None:
    if item.diff:
        console.print(f"\n[bold]{item.id}[/bold]")
        console.print(item.diff, markup=False, highlight=False)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[TaskResult], None] | None]:
    """How far it is, on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("looking around", total=total)
        seen: set[str] = set()

        def advance(task: TaskResult) -> None:
            if task.item:
                seen.add(task.item)
                progress.update(bar, description=task.item, completed=len(seen) - 1)

        yield advance


def main() -> int:
    """The command `wod-check`; returns the exit status."""
    from wodmail.cli.main import run

    return run(check, "wod-check")


if __name__ == "__main__":
    sys.exit(main())
