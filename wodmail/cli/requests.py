"""`wodmail requests`, `show`, `retry` and `abort`: what an operator does at 2 a.m."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from wodmail import drained
from wodmail import requests as requests_
from wodmail.cli.config import config_option, json_option
from wodmail.config import load
from wodmail.errors import Refused
from wodmail.model import State
from wodmail.store import Store, open_readonly

VERSION = 1
COLOURS = {"done": "green", "failed": "red", "refused": "yellow", "shelved": "red", "running": "cyan"}

number_argument = click.argument("number", type=click.IntRange(min=1))


def _open(file: Path | None) -> Store:
    return open_readonly(load(file, files=False))


def _coloured(state: str) -> str:
    colour = COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def _span(students: list[int]) -> str:
    if len(students) > 1 and students == list(range(students[0], students[-1] + 1)):
        return f"{students[0]}-{students[-1]}"
    return ",".join(str(student) for student in students) or "-"


@click.command()
@config_option
@json_option
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many; 0 for all.")
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only those in this state.")
def requests(file: Path | None, as_json: bool, limit: int, state: str | None) -> None:
    """List the requests, newest first.

    Example: wodmail requests --state failed
    """
    store = _open(file)
    rows = store.recent(limit, state)
    drain = drained.current(store)
    if as_json:
        click.echo(json.dumps({"version": VERSION, "drained": drain.words() or None, "requests": rows}, indent=2))
        return
    table = Table("request", "received", "action", "students", "workshop", "state", "reason", box=None)
    for row in rows:
        table.add_row(
            str(row["id"]),
            row["received"][:19].replace("T", " "),
            row["action"] or "-",
            _span(row["students"]),
            row["workshop"] or "-",
            _coloured(row["state"]),
            _plain(row["reason"].splitlines()[0][:100] if row["reason"] else ""),
        )
    console = Console()
    console.print(table)
    if not rows:
        console.print("no requests")
    if drain.on:
        console.print(f"[yellow]{_plain(drain.words())}[/yellow]", highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    """Text from a mail, so that rich takes nothing in it for markup."""
    from rich.markup import escape

    return escape(text)


@click.command()
@config_option
@json_option
@number_argument
def show(file: Path | None, as_json: bool, number: int) -> None:
    """Show one request: its steps with times, errors, and where the trace is.

    Example: wodmail show 57
    """
    settings = load(file, files=False)
    store = open_readonly(settings)
    found = store.describe([number])
    if not found:
        raise Refused(f"There is no request {number}. `wodmail requests` lists them.")
    from wodmail.trace import trace_path
    from wodmail.writes import of_request

    row = {**found[0], "trace": str(trace_path(settings)), "writes": of_request(store, number)}
    if as_json:
        click.echo(json.dumps({"version": VERSION, "request": row}, indent=2))
        return
    _show(row)


def _show(row: dict[str, Any]) -> None:
    console = Console()
    lines = [
        f"request {row['id']}: {_plain(row['subject'])!s}",
        f"  state     {_coloured(row['state'])}" + (f": {_plain(row['reason'])}" if row["reason"] else ""),
        f"  action    {row['action'] or '-'}  students {_span(row['students'])}  workshop {row['workshop'] or '-'}",
        f"  received  {row['received']}  finished {row['finished'] or '-'}  sender {_plain(row['sender'] or '<>')}",
        f"  trace     {row['trace']}  (lines marked \\[{row['id']} …])",
    ]
    lines += [f"  write     {_plain(_written(write))}" for write in row["writes"]]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    for job in row["jobs"]:
        head = f"\njob {job['id']}, student {_span(job['students'])}: {_coloured(job['state'])}"
        console.print(f"{head}, attempt {job['attempt']}", highlight=False)
        table = Table("step", "state", "seconds", "note", box=None)
        for step in job["steps"]:
            seconds = "-" if step["seconds"] is None else f"{step['seconds']:.2f}"
            words = [step["error"] or step["note"], *step["warnings"]]
            table.add_row(
                step["name"], _coloured(step["state"]), seconds, _plain("; ".join(word for word in words if word))
            )
        console.print(table)
        for step in job["steps"]:
            if step["cause"] and step["cause"] != step["error"]:
                console.print(f"  cause of {step['name']}: {_plain(step['cause'])}", highlight=False, soft_wrap=True)
            if step["output"] and step["state"] == "failed":
                console.print(f"  output of {step['name']}:\n{_plain(step['output'])}", highlight=False, soft_wrap=True)


def _written(write: dict[str, Any]) -> str:
    """A write to the API-DB that is kept or has failed, in a line."""
    what = f"{write['path']} ({', '.join(write['fields'])}) {write['state']} since {write['kept']}"
    return f"{what}: {write['error']}" if write["error"] else what


@click.command()
@config_option
@json_option
@click.option("--force", is_flag=True, help="Also when a student of it has a newer request.")
@number_argument
def retry(file: Path | None, as_json: bool, force: bool, number: int) -> None:
    """Let the failed, aborted and shelved jobs of a request run again.

    Refused when a student of such a job has a newer request, unless --force is given.

    Example: wodmail retry 57
    """
    again = requests_.retry(_open(file), number, force=force)
    _tell(as_json, {"request": number, "jobs": again}, f"request {number}: {len(again)} job(s) will run again")


@click.command()
@config_option
@json_option
@number_argument
def abort(file: Path | None, as_json: bool, number: int) -> None:
    """End a request's unfinished jobs: those that wait at once, those at work as soon as their children are ended.

    What always runs at a job's end still runs: forgetting variables, the trace.

    Example: wodmail abort 57
    """
    ending = requests_.abort(_open(file), number)
    _tell(as_json, {"request": number, "jobs": ending}, f"request {number}: {len(ending)} job(s) end")


def _tell(as_json: bool, data: dict[str, object], words: str) -> None:
    click.echo(json.dumps({"version": VERSION, **data}) if as_json else words)
