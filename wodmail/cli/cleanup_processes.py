"""`wod-cleanup-processes`, also `wodmail cleanup-processes`: end what students left running."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wodmail import leftovers
from wodmail.cli.config import config_option, json_option
from wodmail.config import load
from wodmail.errors import Refused
from wodmail.leftovers import DAY, Leftover
from wodmail.mail.grammar import visible

VERSION = 1


@click.command("cleanup-processes")
@config_option
@json_option
@click.option("--days", type=click.FloatRange(min=0), default=30.0, show_default=True, help="How old, in days.")
@click.option("--dry-run", is_flag=True, help="End nothing, tell what would be.")
def cleanup_processes(file: Path | None, as_json: bool, days: float, dry_run: bool) -> int:
    """End processes of students that began more than a month ago; nobody else's, root's never. As root.

    Exit status: 0 none is left (with --dry-run: always), 1 one would not end.

    Example: wod-cleanup-processes --dry-run --days 7
    """
    settings = load(file, files=False)
    if os.geteuid() != 0 and not dry_run:
        raise Refused("Students' processes are ended by root alone. Try again with: sudo wod-cleanup-processes")
    uids = leftovers.student_uids(settings)
    found = leftovers.find(uids, days * DAY)
    left = [] if dry_run or not found else leftovers.end(uids, days * DAY, found)
    if as_json:
        click.echo(json.dumps(_as_data(found, left, dry_run, days), indent=2))
    else:
        _tell(found, left, dry_run, days)
    return 1 if left else 0


def _outcome(each: Leftover, left: list[Leftover], dry_run: bool) -> str:
    return "would be ended" if dry_run else "still runs" if each.process in {one.process for one in left} else "ended"


def _as_data(found: list[Leftover], left: list[Leftover], dry_run: bool, days: float) -> dict[str, object]:
    remaining = {each.process for each in left}
    rows = [
        {
            "pid": each.process.pid,
            "student": each.student,
            "name": visible(each.name, 64),
            "days": round(each.age / DAY, 2),
            "cpu_seconds": round(each.cpu, 1),
            "ended": not dry_run and each.process not in remaining,
        }
        for each in found
    ]
    return {"version": VERSION, "days": days, "dry_run": dry_run, "processes": rows}


def _tell(found: list[Leftover], left: list[Leftover], dry_run: bool, days: float) -> None:
    console = Console()
    table = Table("pid", "student", "name", "days", "cpu seconds", "", box=None)
    for each in found:
        cells = (str(each.process.pid), str(each.student), escape(visible(each.name, 64)), f"{each.age / DAY:.1f}")
        table.add_row(*cells, f"{each.cpu:.0f}", _outcome(each, left, dry_run))
    if found:
        console.print(table)
    word = "to end" if dry_run else "ended"
    console.print(f"{len(found) - len(left)} process(es) older than {days:g} day(s) {word}", highlight=False)


def main() -> int:
    """`wod-cleanup-processes`, the program; returns the exit status."""
    from wodmail.cli.main import run

    return run(cleanup_processes, "wod-cleanup-processes")
