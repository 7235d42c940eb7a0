"""`wodmail sessions` and `wodmail extend`: when sessions end, and more time for one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wodmail import sessions as work
from wodmail.cli.config import config_option, json_option
from wodmail.config import Settings, load
from wodmail.errors import Refused
from wodmail.sessions import Session
from wodmail.store import Store, iso, open_readonly

VERSION = 1


@click.command()
@config_option
@json_option
def sessions(file: Path | None, as_json: bool) -> None:
    """List the sessions that go on and when they end, the next one first (embedded registry).

    Example: wodmail sessions
    """
    store = _store(load(file, files=False))
    found = work.running(store)
    if as_json:
        click.echo(json.dumps({"version": VERSION, "sessions": [_as_data(each) for each in found]}, indent=2))
    else:
        _tell(found)


@click.command()
@config_option
@json_option
@click.argument("student", type=click.IntRange(min=1))
@click.argument("hours", type=click.FloatRange(min=0, min_open=True, max=720))
def extend(file: Path | None, as_json: bool, student: int, hours: float) -> None:
    """Let the session of STUDENT last HOURS longer, from its end or, when that is over, from now.

    Example: wodmail extend 121 2
    """
    store = _store(load(file, files=False))
    found = work.extend(store, student, hours)
    if as_json:
        click.echo(json.dumps({"version": VERSION, "session": _as_data(found)}, indent=2))
    else:
        _tell([found])


def _store(settings: Settings) -> Store:
    if settings.apidb:
        words = "With an API-DB the frontend ends sessions, and more time is given there."
        raise Refused(words, "WODAPIDBEXTURL is configured")
    return open_readonly(settings)


def _as_data(session: Session) -> dict[str, object]:
    return {**asdict(session), "left": round(session.left), "ends": iso(session.ends)}


def _tell(found: Sequence[Session]) -> None:
    console = Console()
    if not found:
        console.print("no session goes on")
        return
    table = Table("student", "workshop", "ends", "left", "reminded", box=None)
    for each, ends in zip(found, work.moments(found), strict=True):
        hours, minutes = divmod(max(0, round(each.left / 60)), 60)
        table.add_row(
            str(each.student), escape(each.workshop), ends, f"{hours}:{minutes:02} h", "yes" if each.reminded else ""
        )
    console.print(table)
