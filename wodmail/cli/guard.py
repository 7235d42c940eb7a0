"""`wod-kill-processes`, also `wodmail guard`: watch the students' processes and the server's load."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wodmail.cli.config import config_option, json_option
from wodmail.config import load
from wodmail.errors import Failed

if TYPE_CHECKING:
    from rich.table import Table

    from wodmail.guard.work import Guard

VERSION = 1
EX_FOUND, EX_SILENT = 2, 3
_STALE_CYCLES = 4
_SHOWN = 100
dry_run_option = click.option("--dry-run", is_flag=True, help="Only look and say; nothing is sent, stopped or written.")


@click.group(invoke_without_command=True)
@config_option
@dry_run_option
@click.pass_context
def guard(context: click.Context, file: Path | None, dry_run: bool) -> int:
    """Watch the students' processes until SIGTERM: crypto miners and the like are warned of, stopped, purged.

    SIGHUP, or a change of guard.yml, has the policy read again. Exit status 0 ended by a signal, 1 no Linux students or
    another guard runs, 78 configuration or policy.

    Example: wod-kill-processes --dry-run
    """
    if context.invoked_subcommand is not None:
        context.obj = file
        return 0
    from wodmail.guard import service

    with _ready(file, dry_run) as made:
        service.serve(made, os.environ.get("NOTIFY_SOCKET"))
    return 0


@guard.command()
@config_option
@dry_run_option
@json_option
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    help="Look so many seconds before as well, so that CPU rates are known.",
)
@click.pass_context
def once(context: click.Context, file: Path | None, dry_run: bool, as_json: bool, seconds: float | None) -> int:
    """Look once and do what follows from it, as one cycle of the service does.

    Exit status 0 nothing found, 2 something found, 1 and 78 as for the service.

    Example: wod-kill-processes once --dry-run --json
    """
    with _ready(file or context.obj, dry_run) as made:
        if seconds is not None:
            made.measure()
            time.sleep(seconds)
        cycle = made.cycle()
        if as_json:
            report = {"version": VERSION, "dry_run": dry_run, "done": cycle.done, **made.report(cycle)}
            click.echo(json.dumps(report, indent=2))
        else:
            _tell(made.report(cycle), cycle.done)
    return EX_FOUND if cycle.findings else 0


@guard.command()
@config_option
@json_option
@click.pass_context
def status(context: click.Context, file: Path | None, as_json: bool) -> int:
    """Show what the running guard saw in its last cycle.

    Exit status 0 nothing found, 2 something found, 3 no guard runs (or it hangs).

    Example: wod-kill-processes status --json
    """
    from wodmail.guard import records

    settings = load(file or context.obj, files=False)
    try:
        data, place = records.status(settings)
    except OSError as error:
        raise Failed("The guard's files can't be read; run this as root or as WODUSER.", str(error)) from error
    age = time.time() - float(data["at"]) if data else None
    runs = data is not None and age is not None and age < _STALE_CYCLES * float(data["interval_seconds"]) + 30
    if as_json:
        click.echo(json.dumps({**(data or {}), "version": VERSION, "runs": runs}, indent=2))
    elif data is None:
        click.echo(f"No guard has run here: there is no {place}. Start wod-kill-processes.service.")
    else:
        if not runs:
            click.echo(f"No guard runs: the last look was {age:.0f} s ago. This is what it saw then:")
        _tell(data, [])
    if not runs:
        return EX_SILENT
    return EX_FOUND if data and data["findings"] else 0


@guard.command()
@config_option
@json_option
@click.pass_context
def policy(context: click.Context, file: Path | None, as_json: bool) -> None:
    """Check the policy and show what is in effect; exit status 78 when something is wrong with it.

    Example: wod-kill-processes policy
    """
    import yaml

    from wodmail.guard import policy as rules

    settings = load(file or context.obj, files=False)
    found = rules.load(settings)
    warnings = rules.advice(found, os.cpu_count() or 1)
    data = found.as_data()
    if as_json:
        names = [str(each) for each in rules.files(settings)]
        click.echo(json.dumps({"version": VERSION, "files": names, "warnings": warnings, "policy": data}, indent=2))
        return
    for each in rules.files(settings):
        click.echo(f"# {each}")
    for words in warnings:
        click.echo(f"# warning: {words}")
    click.echo(yaml.safe_dump(data, sort_keys=False, width=120), nl=False)


@contextmanager
def _ready(file: Path | None, dry_run: bool) -> Iterator[Guard]:
    """A guard that may work: with its rights, its logs, and its folder for itself alone."""
    from wodmail import logs
    from wodmail.guard import files, rights
    from wodmail.guard.work import Guard

    before = os.umask(0o077)
    try:
        settings = load(file, files=False)
        rights.take(settings)
        masker = logs.Masker()
        masker.register_settings(settings)
        logs.setup(masker)
        if missing := rights.missing():
            raise Failed("The guard needs root's rights; use the service, or sudo.", f"missing: {', '.join(missing)}")
        made = Guard(settings, dry_run=dry_run)
        with nullcontext() if dry_run else files.held(made.folder):
            yield made
    finally:
        os.umask(before)


def _tell(report: dict[str, Any], done: list[str]) -> None:
    """A cycle for people; whatever students chose is shown as plain visible text."""
    from rich.console import Console

    console = Console(highlight=False)
    load_facts = report["load"]
    seen = f"{report['processes']} process(es) of students, looked at in {1000 * report['scan_seconds']:.0f} ms"
    memory = f"memory {load_facts['memory_percent']:.0f} %"
    console.print(f"{seen}; load for each core {load_facts['load_per_core']:.2f}, {memory}")
    if load_facts["gpu_trouble"]:
        console.print(f"GPUs can't be watched: {load_facts['gpu_trouble']}", markup=False)
    for gpu in load_facts["gpus"]:
        console.print(f"GPU {gpu['index']}: {gpu['used_percent']:.0f} %, memory {gpu['memory_percent']:.0f} %")
    if report["findings"]:
        console.print(_table(report["findings"]))
    else:
        console.print("nothing found")
    for student in report["purges_waiting"]:
        console.print(f"student{student}: the PURGE mail waits for the backend")
    for words in done:
        console.print(_plain(words), markup=False)


def _table(findings: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for title in ("student", "rule", "then", "what", "command line"):
        table.add_column(title, overflow="fold")
    for each in findings:
        line = each["processes"][0]["command_line"] if each["processes"] else ""
        cells = (f"student{each['student']}", each["rule"], each["then"], each["words"], line)
        table.add_row(*(Text(_plain(cell)) for cell in cells))
    return table


def _plain(text: str) -> str:
    from wodmail.mail.grammar import visible

    return visible(text, 4 * _SHOWN)


def main() -> int:
    """`wod-kill-processes`, the program; returns the exit status."""
    from wodmail.cli.main import run

    return run(guard, "wod-kill-processes")
