"""`wodmail students` and `wod-students`: all students' accounts, homes and hub users at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from wodmail.cli.config import config_option, json_option
from wodmail.config import load
from wodmail.students.report import BAD, Report, State
from wodmail.students.roster import numbers

if TYPE_CHECKING:
    from wodmail.schema import Settings
    from wodmail.students.bulk import Advance
    from wodmail.students.upkeep import Upkeep

VERSION = 1
GROUPS_SHOWN = 40
WELL, FAILED, DIFFERS = 0, 1, 2
COLOURS = {
    State.OK: "green",
    State.MADE: "green",
    State.REPAIRED: "green",
    State.REMOVED: "green",
    State.IN_USE: "yellow",
    State.MISSING: "yellow",
    State.DIFFERS: "yellow",
    State.WRONG: "red",
    State.FAILED: "red",
}

range_option = click.option(
    "--students", "wanted", metavar="FROM-TO", help="Only these, e.g. 121-140 or 121; else WODUSERMIN to WODUSERMAX."
)
hub_option = click.option("--no-hub", is_flag=True, help="Leave JupyterHub's users alone.")


@click.group()
def students() -> None:
    """All students' accounts, homes and hub users: what there is, make and mend, remove.

    Example: wod-students status --students 121-140
    """


@students.command()
@config_option
@json_option
@range_option
@hub_option
def status(file: Path | None, as_json: bool, wanted: str | None, no_hub: bool) -> None:
    """Tell what differs from what the configuration asks for; changes nothing (as root).

    With CLEAN in the configuration that is every account that isn't in use: `ensure` would make it anew.

    Exit status 0: all is right; 2: something differs; 1: it could not be found out.

    Example: wod-students status --json
    """
    settings = load(file, files=False)
    with _at_work(settings, no_hub) as upkeep:
        report = upkeep.status(numbers(settings, wanted))
    _tell("status", report, as_json)
    raise SystemExit(FAILED if report.trouble else WELL if report.counts().keys() <= {State.OK.value} else DIFFERS)


@students.command()
@config_option
@json_option
@range_option
@hub_option
def ensure(file: Path | None, as_json: bool, wanted: str | None, no_hub: bool) -> None:
    """Make what is missing, mend what differs; seats in use are left as they are (as root).

    With CLEAN in the configuration everything is removed first. A run that was interrupted is completed by the next.

    Exit status 0: all is right, or in use; 1: something is wrong or failed.

    Example: wod-students ensure
    """
    settings = load(file, files=False)
    with _at_work(settings, no_hub) as upkeep:
        report = upkeep.ensure(numbers(settings, wanted))
    _tell("ensure", report, as_json)
    raise SystemExit(FAILED if _bad(report) else WELL)


@students.command()
@config_option
@json_option
@range_option
@hub_option
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--force", is_flag=True, help="Also taken seats, and end processes; not while a job is at work.")
def remove(file: Path | None, as_json: bool, wanted: str | None, no_hub: bool, yes: bool, force: bool) -> None:
    """Remove hub users, accounts and homes with all that is in them; seats in use are left (as root).

    With --students they may lie outside WODUSERMIN to WODUSERMAX, after these were changed.

    Exit status 0: all are gone; 2: some are in use and left; 1: something is wrong or failed.

    Example: wod-students remove --students 1900-2000 --yes
    """
    settings = load(file, files=False)
    found = numbers(settings, wanted, beyond=True)
    if not yes:
        click.confirm(f"Remove students {found[0]} to {found[-1]} with their homes?", abort=True, err=True)
    with _at_work(settings, no_hub) as upkeep:
        report = upkeep.remove(found, force=force)
    _tell("remove", report, as_json)
    raise SystemExit(FAILED if _bad(report) else DIFFERS if report.students(State.IN_USE) else WELL)


def _bad(report: Report) -> bool:
    return bool(report.trouble or report.students(*BAD))


@contextmanager
def _at_work(settings: Settings, no_hub: bool) -> Iterator[Upkeep]:
    """Upkeep that shows on a terminal how far it is."""
    from wodmail import logs
    from wodmail.students.upkeep import Upkeep

    os.umask(0o022)
    masker = logs.Masker()
    masker.register_settings(settings)
    logs.setup(masker)
    with _progress() as advance:
        upkeep = Upkeep(settings, hub=not no_hub, advance=advance)
        try:
            yield upkeep
        finally:
            upkeep.close()


@contextmanager
def _progress() -> Iterator[Advance]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done, total=of)

        yield advance


def _tell(action: str, report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(as_data(action, report), indent=2))
        return
    console = Console()
    table = Table("students", "number", box=None)
    for state, count in report.counts().items():
        table.add_row(f"[{COLOURS[State(state)]}]{state}[/]", str(count))
    console.print(table)
    groups = grouped(report)
    if groups:
        rows = Table("students", "state", "what", box=None)
        for numbers_, state, words in groups[:GROUPS_SHOWN]:
            rows.add_row(_spans(numbers_), f"[{COLOURS[state]}]{state.value}[/]", escape("; ".join(words)))
        console.print(rows)
    if len(groups) > GROUPS_SHOWN:
        console.print(f"and {len(groups) - GROUPS_SHOWN} more; --json shows all")
    for trouble in report.trouble:
        click.echo(trouble, err=True)


def as_data(action: str, report: Report) -> dict[str, object]:
    """A report for --json; students who are well are counted only."""
    rows = [
        {"student": row.student, "state": row.state.value, "what": list(row.words)}
        for row in report.rows.values()
        if row.state is not State.OK
    ]
    return {
        "version": VERSION,
        "action": action,
        "changed": report.changed,
        "counts": report.counts(),
        "trouble": report.trouble,
        "students": rows,
    }


def grouped(report: Report) -> list[tuple[list[int], State, tuple[str, ...]]]:
    """Students who aren't well, those of whom the same is said together."""
    found: dict[tuple[State, tuple[str, ...]], list[int]] = {}
    for row in report.rows.values():
        if row.state is not State.OK:
            found.setdefault((row.state, row.words), []).append(row.student)
    return [(numbers_, state, words) for (state, words), numbers_ in found.items()]


def _spans(students_: list[int]) -> str:
    """Numbers as spans: 1-3,7."""
    spans: list[list[int]] = []
    for student in sorted(students_):
        if spans and student == spans[-1][1] + 1:
            spans[-1][1] = student
        else:
            spans.append([student, student])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def main() -> int:
    """The command `wod-students`; returns the exit status."""
    from wodmail.cli.main import run

    return run(students, "wod-students")


if __name__ == "__main__":
    sys.exit(main())
