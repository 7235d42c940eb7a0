"""`wod-generate-pdf`: the notebooks of a folder as PDF or Word documents."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from wodmail import becoming
from wodmail.cli.config import json_option
from wodmail.errors import Failed, Refused
from wodmail.exporting.folder import Exported
from wodmail.students import exports

VERSION = 1


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path())
@click.option("--word", is_flag=True, help="Word documents (.docx) instead of PDF.")
@json_option
@click.option("--json-lines", is_flag=True, help="Data, a line at once for each notebook as it is done.")
def generate_pdf(folder: Path, word: bool, as_json: bool, json_lines: bool) -> None:
    """Export every notebook in FOLDER, and below it, to a PDF beside it; exit status 3 if one failed.

    Nothing outside FOLDER gets into a document, and nothing is fetched from the network. Called by root it works with
    the rights of FOLDER's owner, and not at all when that is root.

    Example: wod-generate-pdf WKSHP-Name
    """
    from wodmail.exporting import confine
    from wodmail.exporting import folder as exporting
    from wodmail.exporting.convert import Form, prepare

    confine.confine()
    prepare()
    place = _entered(folder)
    names = exporting.notebooks(place)
    seconds = exports.WORK_SECONDS if os.environ.get(exports.FOR_ANOTHER) else float("inf")
    work = exporting.export(place, Form.WORD if word else Form.PDF, names, seconds=seconds)
    if json_lines:
        done = _streamed(work, names)
    elif as_json:
        done = list(work)
        click.echo(json.dumps(_as_data(done), indent=2))
    else:
        done = _shown(work, len(names))
        _tell(done)
    raise SystemExit(exports.SOME_FAILED if any(each.error for each in done) else 0)


def _entered(folder: Path) -> int:
    """A descriptor of the folder, this process having its owner's rights if it had root's.

    Students' folders are full of what students want root to read or write for them. Whoever calls this for another has
    settled whose rights it has, and may be root's own sandbox.
    """
    root = os.geteuid() == 0 and not os.environ.get(exports.FOR_ANOTHER)
    try:
        handle = os.open(
            folder.absolute(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if root else 0)
        )
    except OSError as error:
        words = f"{folder} can't be opened as a folder: {error.strerror}."
        raise Failed(words, f"{error}; root follows no link to a folder") from error
    if root:
        owner = os.fstat(handle).st_uid
        if owner == 0:
            words = f"{folder} is root's. Notebooks are not opened with root's rights: call this as another user."
            raise Refused(f"{words} Or give the folder to the user whose notebooks these are.")
        try:
            becoming.become(pwd.getpwuid(owner))
        except KeyError as error:
            raise Refused(f"{folder} belongs to uid {owner}, which is no user here. Nothing was exported.") from error
    return handle


def _streamed(work: Iterable[Exported], names: Sequence[str]) -> list[Exported]:
    """Say which notebooks there are, then of each what became of it as soon as that is known."""
    done = []
    click.echo(json.dumps({"version": VERSION, "notebooks": list(names)}))
    for each in work:
        done.append(each)
        click.echo(json.dumps(_as_row(each)))
    return done


def _shown(work: Iterable[Exported], count: int) -> list[Exported]:
    """Do the work with a bar that moves, on a terminal."""
    done: list[Exported] = []
    console = Console(stderr=True)
    # No thread of its own: processes are forked meanwhile.
    with Progress(console=console, transient=True, auto_refresh=False, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("exporting", total=count)
        for each in work:
            done.append(each)
            progress.update(task, advance=1, description=escape(each.notebook), refresh=True)
    return done


def _as_row(each: Exported) -> dict[str, object]:
    return {
        "notebook": each.notebook,
        "document": each.document,
        "size": each.size,
        "error": each.error,
        "cause": each.cause,
        "note": each.note,
    }


def _as_data(done: Sequence[Exported]) -> dict[str, object]:
    return {"version": VERSION, "documents": [_as_row(each) for each in done]}


def _tell(done: Sequence[Exported]) -> None:
    console = Console()
    table = Table("notebook", "document", "KiB", "remark", box=None)
    table.columns[0].overflow = table.columns[1].overflow = table.columns[3].overflow = "fold"
    for each in done:
        size = str((each.size + 1023) // 1024) if each.document else ""
        remark = f"[red]{escape(each.error)}[/red]" if each.error else escape(each.note)
        table.add_row(escape(each.notebook), escape(each.document), size, remark)
    if table.rows:
        console.print(table)
    failed = sum(bool(each.error) for each in done)
    console.print(f"{len(done) - failed} exported, {failed} failed")


def main() -> int:
    """The console script `wod-generate-pdf`."""
    from wodmail.cli.main import run

    return run(generate_pdf, "wod-generate-pdf")
