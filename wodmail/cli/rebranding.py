"""`wod-rebranding`: replace brand names in a folder of workshops."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from wodmail import rebranding as work
from wodmail.cli.config import json_option
from wodmail.mail.grammar import visible
from wodmail.rebranding import Outcome, Rebranded
from wodmail.rebrandingrules import read_rules

VERSION = 1
WOULD_CHANGE = 2
LONGEST = 4096


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--map",
    "file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML: regular expressions and what they become, applied in their order.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing, show the diff; exit status 2 if anything would change.")
@json_option
def rebranding(folder: Path, file: Path, dry_run: bool, as_json: bool) -> None:
    """Replace brand names in the texts and notebooks of FOLDER; exit status 1 if a file failed.

    Example: wod-rebranding --map brands.yml --dry-run wod-notebooks
    """
    done = list(work.rebrand(folder, read_rules(file), dry_run=dry_run, leave=file))
    if as_json:
        click.echo(json.dumps(_as_data(done, dry_run), indent=2))
    else:
        _tell(done, dry_run)
    outcomes = {each.outcome for each in done}
    changed = WOULD_CHANGE if dry_run and Outcome.CHANGED in outcomes else 0
    raise SystemExit(1 if Outcome.FAILED in outcomes else changed)


def _as_data(done: Sequence[Rebranded], dry_run: bool) -> dict[str, object]:
    rows = [
        {"path": each.path, "outcome": each.outcome.value, "count": each.count, "reason": each.reason}
        | {"lost": list(each.lost)}
        | ({"diff": each.diff} if dry_run else {})
        for each in done
        if each.outcome is not Outcome.SAME
    ]
    return {"version": VERSION, "dry_run": dry_run, "counts": _counts(done), "files": rows}


def _counts(done: Sequence[Rebranded]) -> dict[str, int]:
    found = Counter(each.outcome for each in done)
    return {outcome.value: found[outcome] for outcome in Outcome}


def _tell(done: Sequence[Rebranded], dry_run: bool) -> None:
    """The diff when nothing is written, a table of what isn't the same or keeps the brand, and a line that counts.

    A dry run into a file or pipe is a patch: it is printed as it is, and all else goes to standard error.
    """
    console = Console(stderr=dry_run and not sys.stdout.isatty())
    if console.stderr:
        for each in done:
            click.echo(each.diff.encode(), nl=False)
    elif dry_run:
        for each in done:
            if each.diff:
                shown = each.diff.rstrip("\n")
                console.print(Syntax(shown, "diff", background_color="default", word_wrap=True))
    table = Table("file", "outcome", "places", "remark", box=None)
    table.columns[0].overflow = table.columns[3].overflow = "fold"
    for each in done:
        if each.outcome in (Outcome.CHANGED, Outcome.FAILED) or each.reason:
            table.add_row(
                escape(visible(each.path, LONGEST)), each.outcome.value, str(each.count or ""), escape(_remark(each))
            )
    if table.rows:
        console.print(table)
    told = ", ".join(f"{count} {outcome}" for outcome, count in _counts(done).items())
    console.print(f"{'would be: ' if dry_run else ''}{told}")


def _remark(each: Rebranded) -> str:
    return f"no longer names {', '.join(each.lost)}, which is here" if each.lost else each.reason


def main() -> int:
    """The console script `wod-rebranding`."""
    from wodmail.cli.main import run

    return run(rebranding, "wod-rebranding")
