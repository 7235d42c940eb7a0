"""`wodmail deliver` and `wod-deliver`: expand the templates beside themselves, then check the machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from wodmail import deliver as delivering
from wodmail import deliverrun
from wodmail.cli.config import config_option, json_option
from wodmail.config import load, read
from wodmail.deliver import Outcome
from wodmail.deliverrun import Run
from wodmail.maintenance import TaskResult

VERSION = 1
COLOURS = {Outcome.NEW: "green", Outcome.CHANGED: "yellow", Outcome.FAILED: "red", Outcome.LEFT: "dim"}
STYLES = {"+": "green", "-": "red", "@": "cyan"}


@click.command()
@config_option
@json_option
@click.option("--check", is_flag=True, help="Write nothing, tell what would be done; exit status 2 if anything.")
@click.option("--diff", is_flag=True, help="Print what differs, secrets masked.")
@click.option(
    "--playbook/--no-playbook",
    default=None,
    help="Run check_<WODTYPE>.yml afterwards; by default when root calls, outside of the sandbox.",
)
@click.option("--no-mail", is_flag=True, help="Don't mail WODMONITOR when something failed.")
def deliver(file: Path | None, as_json: bool, check: bool, diff: bool, playbook: bool | None, no_mail: bool) -> None:
    """Expand the templates of scripts and of variable files beside themselves, then check this machine.

    Exit status 0: done; 1: a template or the check failed, or only a person can mend what differs, and WODMONITOR
    was told; 2: --check, and something would be done or differs.

    Example: wod-deliver --check --diff
    """
    settings = load(file, files=False)
    config = read(file, files=False).file.absolute()
    with _progress(quiet=as_json) as on_task:
        run = deliverrun.run(
            settings,
            config,
            check=check,
            diff=diff,
            playbook=playbook,
            mail=not no_mail,
            on_task=on_task,
            on_wait=_say,
        )
    if as_json:
        click.echo(json.dumps(_as_data(run, check), indent=2))
    else:
        _tell(run, check)
    raise SystemExit(run.status(check=check))


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[TaskResult], None] | None]:
    """What the playbook is at, on a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    with console.status("delivering templates") as status:
        yield lambda task: status.update(escape(task.name))


def _say(words: str) -> None:
    click.echo(words, err=True)


def _as_data(run: Run, check: bool) -> dict[str, object]:
    rows = [{**asdict(each), "template": str(each.template), "target": str(each.target)} for each in run.deliveries]
    checked = run.playbook
    playbook = None
    if checked is not None:
        failed = [{"host": task.host, "name": task.name, "message": task.message} for task in checked.failed]
        told = {"name": checked.name, "status": checked.status, "remark": checked.remark, "changed": checked.changed}
        differs = [{"id": item.id, "what": list(item.what)} for item in checked.differs]
        playbook = {**told, "failed": failed, "differs": differs}
    return {
        "version": VERSION,
        "check": check,
        "ok": run.status(check=check) != deliverrun.FAILED,
        "problem": run.problem,
        "counts": delivering.counts(run.deliveries),
        "files": rows,
        "playbook": playbook,
        "mail": run.mail,
    }


def _tell(run: Run, check: bool) -> None:
    """A table of all but the unchanged, the failed last, a line that counts, and what became of the rest."""
    console = Console()
    table = Table("file", "outcome", "remark", box=None)
    table.columns[0].overflow = table.columns[2].overflow = "fold"
    for each in sorted(run.deliveries, key=lambda each: each.outcome is Outcome.FAILED):
        if each.outcome is not Outcome.SAME:
            colour = COLOURS[each.outcome]
            table.add_row(escape(str(each.target)), f"[{colour}]{each.outcome}[/{colour}]", escape(each.reason))
    if table.rows:
        console.print(table)
    for each in run.deliveries:
        for line in each.diff.splitlines():
            console.print(Text(line, STYLES.get(line[:1], "")), soft_wrap=True)
    if run.deliveries:
        console.print(f"{'would be: ' if check else ''}{deliverrun.counted(run.deliveries)}")
    _tell_machine(console, run, check)
    if run.problem:
        click.echo(f"nothing was delivered: {run.problem}", err=True)
    if run.mail:
        click.echo(run.mail, err=True)


def _tell_machine(console: Console, run: Run, check: bool) -> None:
    checked = run.playbook
    if checked is None:
        return
    changes = f"{checked.changed} {'would be changed' if check else 'changed'}" if checked.status == "ok" else ""
    remark = ", ".join(part for part in (changes, checked.remark) if part)
    console.print(Text(f"{checked.name}: {checked.status}{f' ({remark})' if remark else ''}"), soft_wrap=True)
    for task in checked.failed:
        console.print(Text(f"  {task.host}: {task.name}: {task.message}", "red"), soft_wrap=True)
    for item in checked.differs:
        console.print(Text(f"  {item.id}: {'; '.join(item.what)}", "yellow"), soft_wrap=True)
    if checked.status == "failed" and not checked.failed and checked.tail:
        console.print(Text(checked.tail), soft_wrap=True)


def main() -> int:
    """The command `wod-deliver`; returns the exit status."""
    from wodmail.cli.main import run

    return run(deliver, "wod-deliver")


if __name__ == "__main__":
    sys.exit(main())
