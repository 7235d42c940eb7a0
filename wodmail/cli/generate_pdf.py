"""`wod-generate-pdf`: the notebooks of a folder as PDF or Word documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from wodmail.cli.config import json_option
from wodmail.exporting.folder import Exported

VERSION = 1


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path())
@click.option("--word", is_flag=True, help="Word documents (.docx) instead of PDF.")
@json_option
def generate_pdf(folder: Path, word: bool, as_json: bool) -> None:
    """Export every notebook in FOLDER, and below it, to a PDF beside it; exit status 1 if one failed.

    Nothing outside FOLDER gets into a document, and nothing is fetched from the network.

    Example: wod-generate-pdf WKSHP-Name
    """
    from wodmail.exporting import confine
    from wodmail.exporting import folder as exporting
    from wodmail.exporting.convert import Form

    confine.confine()
    place = folder.resolve()
    work = exporting.export(place, Form.WORD if word else Form.PDF)
    if as_json:
        done = list(work)
        click.echo(json.dumps(_as_data(done), indent=2))
    else:
        done = _shown(work, len(exporting.notebooks(place)))
        _tell(done)
    raise SystemExit(1 if any(each.error for each in done) else 0)


def _shown(work: Iterable[Exported], count: int) -> list[Exported]:
    """Do the work with a bar that moves, on a terminal."""
    done: list[Exported] = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("exporting", total=count)
        for each in work:
            done.append(each)
            progress.update(task, advance=1, description=escape(each.notebook))
    return done


def _as_data(done: Sequence[Exported]) -> dict[str, object]:
    rows = [
        {"notebook": e.notebook, "document": e.document, "size": e.size, "error": e.error, "cause": e.cause}
        for e in done
    ]
    return {"version": VERSION, "documents": rows}


def _tell(done: Sequence[Exported]) -> None:
    console = Console()
    table = Table("notebook", "document", "KiB", "remark", box=None)
    table.columns[0].overflow = table.columns[1].overflow = table.columns[3].overflow = "fold"
    for each in done:
        size = str((each.size + 1023) // 1024) if each.document else ""
        remark = f"[red]{escape(each.error)}[/red]" if each.error else ""
        table.add_row(escape(each.notebook), escape(each.document), size, remark)
    if table.rows:
        console.print(table)
    failed = sum(bool(each.error) for each in done)
    console.print(f"{len(done) - failed} exported, {failed} failed")


def main() -> int:
    """The console script `wod-generate-pdf`."""
    from wodmail.cli.main import run

    return run(generate_pdf, "wod-generate-pdf")
