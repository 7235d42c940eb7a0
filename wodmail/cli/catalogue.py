"""`wodmail catalogue` and `wod-catalogue`: what is wrong with the workshops."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wodmail import catalog, lint
from wodmail.cli.config import config_option, json_option
from wodmail.config import Settings, load
from wodmail.lint import Finding, Report, Severity

VERSION = 1
COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


@click.command()
@click.argument("workshops", nargs=-1, metavar="[WORKSHOP]...")
@config_option
@json_option
@click.option("--strict", is_flag=True, help="Exit status 1 also when there are only warnings.")
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=lint.MAX_BYTES,
    show_default=True,
    help="A larger file is an error.",
)
def catalogue(workshops: tuple[str, ...], file: Path | None, as_json: bool, strict: bool, max_bytes: int) -> None:
    """Look for mistakes in all workshops, public and private, or in those that are named.

    Exit status 0: no errors; 1: errors; 64: there is no such workshop.

    Example: wod-catalogue --strict WKSHP-API101
    """
    settings = load(file, files=False)
    names = _names(settings, workshops)
    with lint.own_configuration(), _progress(quiet=as_json) as on_workshop:
        report = lint.look(settings, names, max_bytes=max_bytes, on_workshop=on_workshop)
    if as_json:
        click.echo(json.dumps(_as_data(report, strict), indent=2))
    else:
        _tell(report)
    raise SystemExit(report.status(strict=strict))


def _names(settings: Settings, workshops: tuple[str, ...]) -> list[str]:
    """The folders' names; a challenge's is that of its workshop."""
    known = catalog.Catalog(settings.WODNOBO, settings.WODPRIVNOBO).names()
    names = [catalog.folder_name(name) or name for name in workshops]
    for name in names:
        if name not in known:
            raise click.BadParameter(catalog.unknown("there is no workshop {} here", known, name))
    return names


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """The workshop that is looked at, on a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    with console.status("reading") as status:
        yield lambda name: status.update(escape(name))


def _as_data(report: Report, strict: bool) -> dict[str, object]:
    return {
        "version": VERSION,
        "ok": report.status(strict=strict) == 0,
        "counts": report.counts,
        "workshops": list(report.workshops),
        "findings": [_row(finding) for finding in report.findings],
    }


def _row(finding: Finding) -> dict[str, object]:
    return {
        "workshop": finding.workshop,
        "file": str(finding.file),
        "line": finding.line,
        "severity": finding.severity.value,
        "finding": finding.text,
        "advice": finding.advice,
    }


def _tell(report: Report) -> None:
    console = Console()
    table = Table("workshop", "where", "severity", "finding", "what to do", box=None)
    for column in table.columns:
        column.overflow = "fold"
    for finding in report.findings:
        colour = COLOURS[finding.severity]
        severity = f"[{colour}]{finding.severity}[/{colour}]"
        cells = (finding.workshop, finding.where, finding.text, finding.advice)
        name, where, text, advice = map(escape, cells)
        table.add_row(name, where, severity, text, advice)
    if table.rows:
        console.print(table)
    console.print(", ".join(f"{count} {what}" for what, count in report.counts.items()))


def main() -> int:
    """The command `wod-catalogue`; returns the exit status."""
    from wodmail.cli.main import run

    return run(catalogue, "wod-catalogue")


if __name__ == "__main__":
    sys.exit(main())
