"""`wod-check-template`, also `wodmail check-template`: WKSHP-Template in developers' homes kept fresh."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wodmail import templatecopy
from wodmail.cli.config import config_option, json_option
from wodmail.config import load
from wodmail.errors import Refused
from wodmail.mail.grammar import visible
from wodmail.templatecopy import Copied

VERSION = 1
COLOURS = {"changed": "yellow", "failed": "red"}


@click.command("check-template")
@config_option
@json_option
@click.option("--dry-run", is_flag=True, help="Write nothing, tell what would be.")
def check_template(file: Path | None, as_json: bool, dry_run: bool) -> int:
    """Bring WODNOBO/WKSHP-Template into the homes of WODDEVGROUP's members; what they have changed is kept.

    Exit status: 0 all are fresh, 1 a copy failed. As root.

    Example: wod-check-template --dry-run
    """
    settings = load(file, files=False)
    who = templatecopy.developers(settings)
    if os.geteuid() != 0 and any(each.pw_uid != os.geteuid() for each in who):
        raise Refused("Only root writes into the homes of others. Try again with: sudo wod-check-template")
    entries = templatecopy.template(settings)
    remark = ""
    if entries is None:
        remark = f"there is no {settings.WODNOBO / templatecopy.NAME}"
    elif not who:
        remark = "there are no developers: WODDEVGROUP names no group with members"
    done = [] if entries is None else [templatecopy.copy(each, entries, dry_run=dry_run) for each in who]
    if as_json:
        rows = [
            {"developer": each.developer, "outcome": each.outcome, "written": each.written, "removed": each.removed}
            | {"kept": each.kept, "error": each.error}
            for each in done
        ]
        click.echo(json.dumps({"version": VERSION, "dry_run": dry_run, "remark": remark, "copies": rows}, indent=2))
    else:
        _tell(done, remark)
    return 1 if any(each.error for each in done) else 0


def _tell(done: list[Copied], remark: str) -> None:
    console = Console()
    table = Table("developer", "", "written", "removed", "kept as", box=None)
    for each in done:
        colour = COLOURS.get(each.outcome, "dim")
        table.add_row(
            escape(each.developer),
            f"[{colour}]{each.outcome}[/{colour}]",
            str(len(each.written)),
            str(len(each.removed)),
            escape(visible(", ".join(each.kept) or each.error, 300)),
        )
    if done:
        console.print(table)
    console.print(remark or f"{len(done)} developer(s)", highlight=False, soft_wrap=True)


def main() -> int:
    """`wod-check-template`, the program; returns the exit status."""
    from wodmail.cli.main import run

    return run(check_template, "wod-check-template")
