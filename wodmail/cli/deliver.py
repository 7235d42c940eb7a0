"""`wodmail deliver`: expand the templates of shell scripts beside themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wodmail import deliver as delivering
from wodmail import variables
from wodmail.catalog import Catalog
from wodmail.cli.config import config_option, group_of, json_option
from wodmail.config import Settings, load
from wodmail.deliver import Delivery, Outcome, Site
from wodmail.schema import secret_keys

VERSION = 1
WOULD_CHANGE = 2
COLOURS = {Outcome.NEW: "green", Outcome.CHANGED: "yellow", Outcome.FAILED: "red", Outcome.LEFT: "dim"}


@click.command()
@config_option
@json_option
@click.option("--check", is_flag=True, help="Write nothing, tell what would be done; exit status 2 if anything.")
def deliver(file: Path | None, as_json: bool, check: bool) -> None:
    """Expand the templates in WODSCRIPTDIR and WODSCRIPTPRIVDIR beside themselves; exit status 1 if one failed.

    Example: wodmail deliver --check
    """
    settings = load(file, files=False)
    done = delivering.deliver(_folders(settings), _site(settings), check=check)
    if as_json:
        click.echo(json.dumps(_as_data(done, check), indent=2))
    else:
        _tell(done, check)
    written = any(each.outcome in (Outcome.NEW, Outcome.CHANGED) for each in done)
    failed = any(each.outcome is Outcome.FAILED for each in done)
    raise SystemExit(1 if failed else WOULD_CHANGE if check and written else 0)


def _folders(settings: Settings) -> list[Path]:
    """The public folder, which must be there, and the private one when it is."""
    private = settings.WODSCRIPTPRIVDIR
    return [settings.WODSCRIPTDIR, *([private] if private is not None and private.is_dir() else [])]


def _site(settings: Settings) -> Site:
    workshops = Catalog(settings.WODNOBO, settings.WODPRIVNOBO).all()
    configured = {str(getattr(settings, name)) for name in secret_keys()}
    return Site(
        variables=variables.for_group(settings),
        compiled=frozenset(name for workshop in workshops for name in workshop.compile),
        secrets=configured | variables.from_vault(settings),
        group=group_of(settings.WODUSER),
    )


def _as_data(done: Sequence[Delivery], check: bool) -> dict[str, object]:
    rows = [
        {
            "template": str(each.template),
            "target": str(each.target),
            "outcome": each.outcome.value,
            "reason": each.reason,
        }
        for each in done
    ]
    return {"version": VERSION, "check": check, "counts": delivering.counts(done), "files": rows}


def _tell(done: Sequence[Delivery], check: bool) -> None:
    """A table of all but the unchanged, and a line that counts."""
    console = Console()
    table = Table("script", "outcome", "remark", box=None)
    table.columns[0].overflow = table.columns[2].overflow = "fold"
    for each in done:
        if each.outcome is not Outcome.SAME:
            colour = COLOURS[each.outcome]
            table.add_row(escape(str(each.target)), f"[{colour}]{each.outcome}[/{colour}]", escape(each.reason))
    if table.rows:
        console.print(table)
    told = ", ".join(f"{count} {outcome}" for outcome, count in delivering.counts(done).items())
    console.print(f"{'would be: ' if check else ''}{told}")
