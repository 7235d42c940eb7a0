"""`wod-schedule`, also `wodmail schedule`: what the backend does regularly, when, with which result."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wodmail import logs, schedulerun, scheduletrouble, scheduleunits
from wodmail import schedule as schedules
from wodmail.cli.config import config_option, json_option
from wodmail.config import Settings, find, load
from wodmail.errors import ConfigError, Failed, WodmailError
from wodmail.logs import Masker
from wodmail.schedule import TABLE, Schedule
from wodmail.schedulerecords import Busy, Records, busy
from wodmail.scheduleunits import Change, Manager, Plan

VERSION = 1
EX_TEMPFAIL, EX_CONFIG, WOULD_CHANGE = 75, 78, 2
COLOURS = {"ok": "green", "failed": "red", "interrupted": "red", "running": "cyan"}
PROGRAM = "wod-schedule"
manager_option = click.option(
    "--manager", type=click.Choice(["systemd", "cron"]), help="Who starts them; else what this machine has."
)
root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/"),
    help="The folder that is / for files.",
)


@click.group()
def schedule() -> None:
    """What the backend does regularly: deliver, updates, clean-up, retention.

    Example: wod-schedule list
    """


@schedule.command("list")
@config_option
@json_option
def list_(file: Path | None, as_json: bool) -> None:
    """List the schedules: when, next run, last start, result and duration, and where the log is.

    Example: wod-schedule list --json
    """
    settings = load(file, files=False)
    manager = scheduleunits.manager_here()
    rows = _rows(settings, manager)
    if as_json:
        click.echo(json.dumps({"version": VERSION, "manager": manager, "schedules": rows}, indent=2))
    else:
        _show(rows, manager)


def _rows(settings: Settings, manager: Manager) -> list[dict[str, Any]]:
    due = schedules.times(settings.WODSCHEDULES)
    following = scheduleunits.next_runs(manager, due, datetime.now())  # noqa: DTZ005 - local, as timers and cron are
    there = scheduleunits.installed(manager)
    records = Records(settings.WODSTATEDIR)
    rows = []
    for each in TABLE:
        when = due[each.name]
        coming = following.get(each.name) if each.name in there else None
        rows.append(
            {
                "name": each.name,
                "description": each.description,
                "when": str(when) if when else schedules.OFF,
                "user": "root" if each.root else settings.WODUSER,
                "installed": each.name in there,
                "next": coming.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if coming else None,
                "last": _last(records, each),
                "log": str(records.log(each.name)),
            }
        )
    return rows


def _last(records: Records, each: Schedule) -> dict[str, Any] | None:
    """The last run's record; one that says running while nobody holds the lock was interrupted."""
    found = records.read(each.name)
    if found is not None and found["state"] == "running" and not records.is_running(each.name):
        found = {**found, "state": "interrupted", "reason": "the machine or the run was ended"}
    return found


def _show(rows: list[dict[str, Any]], manager: Manager) -> None:
    table = Table("schedule", "when", "next", "last start", "result", "seconds", box=None)
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for row in rows:
        last = row["last"] or {}
        state = last.get("state", "-")
        colour = COLOURS.get(state, "dim")
        reason = f" ({escape(last['reason'])})" if last.get("reason") else ""
        untold = " WODMONITOR untold" if last.get("told") is False else ""
        coming = _short(row["next"]) if row["installed"] else "not installed" if row["when"] != "off" else "-"
        table.add_row(
            row["name"],
            row["when"],
            coming,
            _short(last.get("started")),
            f"[{colour}]{state}[/{colour}]{reason}{untold}",
            f"{last['seconds']:.1f}" if "seconds" in last else "-",
        )
    console = Console()
    console.print(table)
    folder = Path(rows[0]["log"]).parent
    journal = " and journalctl -u wod-NAME" if manager == "systemd" else ""
    console.print(f"times are UTC but for `when`; logs: {folder}/NAME.log{journal}", highlight=False, soft_wrap=True)
    if any(row["when"] != "off" and not row["installed"] for row in rows):
        console.print("Some are not installed. As root: wod-schedule install")


def _short(moment: str | None) -> str:
    return "-" if not moment else moment[:16].replace("T", " ")


@schedule.command()
@config_option
@json_option
@click.option("--here", is_flag=True, help="In this process, not through systemd; units and cron call it so.")
@click.option(
    "--by", type=click.Choice(["hand", "systemd", "cron"]), default="hand", help="Who starts it, for the record."
)
@click.argument("name", type=click.Choice(schedules.NAMES))
def run(file: Path | None, as_json: bool, here: bool, by: str, name: str) -> int:
    """Run one now and show its result. Exit status: 0 it went well, 1 it failed, 75 it is at work already.

    Example: wod-schedule run retention
    """
    try:
        found, shown = _run(file, name, here, by, quiet=as_json or by == "cron")
    except Busy as error:
        if by != "cron":  # whose output is mailed
            click.echo(error.sender, err=True)
        return EX_TEMPFAIL
    except (WodmailError, OSError) as error:
        if here and by != "hand" and _told(file, name, error) and by == "cron":
            return EX_CONFIG if isinstance(error, ConfigError) else 1
        raise
    if as_json:
        click.echo(json.dumps({**found, "version": VERSION}, indent=2))
    elif not (here and by != "hand"):
        _tell(found, show_output=shown)
    return 0 if found["state"] == "ok" else 1


def _run(file: Path | None, name: str, here: bool, by: str, *, quiet: bool) -> tuple[dict[str, Any], bool]:
    """The record of the run, and whether its output has not been shown yet."""
    settings = load(file, files=False)
    each = schedules.named(name)
    by_systemd = not here and scheduleunits.manager_here() == "systemd" and name in scheduleunits.installed("systemd")
    if by_systemd:
        return _run_by_systemd(Records(settings.WODSTATEDIR), each), True
    return _run_here(settings, each, file, _by(by), quiet=quiet), False


def _told(file: Path | None, name: str, error: Exception) -> bool:
    """Whether WODMONITOR could be told that a schedule did not begin; nobody else reads what a timer prints."""
    words = error.sender if isinstance(error, WodmailError) else str(error)
    problem = scheduletrouble.tell(file, name, words)
    if problem:
        click.echo(problem, err=True)
    return not problem


def _run_by_systemd(records: Records, each: Schedule) -> dict[str, Any]:
    before = records.read(each.name)
    if records.is_running(each.name):  # else systemd would wait for that run and tell of it as if it were ours
        raise busy(each.name)
    status = scheduleunits.start(each)
    found = records.read(each.name)
    if found is None or (status and found == before):
        raise Failed(f"{each.name} could not begin.", f"systemctl start {each.unit}.service: exit status {status}")
    return found


def _by(by: str) -> str:
    """systemd says which timer triggered a unit (systemd.exec(5), $TRIGGER_UNIT); without one it was by hand."""
    return "timer" if by == "systemd" and os.environ.get("TRIGGER_UNIT") else by


def _run_here(settings: Settings, each: Schedule, file: Path | None, by: str, *, quiet: bool) -> dict[str, Any]:
    masker = Masker()
    masker.register_settings(settings)
    # cron mails what is printed, and failures are mailed already.
    logs.setup(masker, level={"hand": "WARNING", "cron": "CRITICAL"}.get(by, "INFO"))
    site = schedulerun.Site(settings, find(file), masker, os.environ)
    return schedulerun.run(site, each, by, on_line=(lambda _: None) if quiet else _print)


def _print(line: str) -> None:
    print(line, flush=True)


def _tell(found: dict[str, Any], *, show_output: bool) -> None:
    if show_output and found.get("output"):
        click.echo(found["output"].rstrip("\n"))
    words = found["state"] + (f" ({found['reason']})" if found.get("reason") else "")
    click.echo(f"{found['name']}: {words} after {found.get('seconds', 0):.1f} s; log {found['log']}")


@schedule.command()
@config_option
@json_option
@manager_option
@root_option
@click.option("--check", is_flag=True, help="Write nothing, tell what would be done; exit status 2 if anything.")
def install(file: Path | None, as_json: bool, manager: Manager | None, root: Path, check: bool) -> int:
    """Install the schedules: systemd timers, or a file for cron where there is no systemd; those turned off go.

    Example: wod-schedule install --check
    """
    plan = _plan(file, manager, root)
    done = scheduleunits.install(plan, check=check)
    _report(done, plan, as_json, check=check)
    return WOULD_CHANGE if check and any(each.outcome != "same" for each in done) else 0


@schedule.command()
@config_option
@json_option
@manager_option
@root_option
def remove(file: Path | None, as_json: bool, manager: Manager | None, root: Path) -> None:
    """Take the timers, or the file for cron, away; results and logs stay.

    Example: wod-schedule remove
    """
    plan = _plan(file, manager, root)
    _report(scheduleunits.remove(plan), plan, as_json, check=False)


def _plan(file: Path | None, manager: Manager | None, root: Path) -> Plan:
    settings = load(file, files=False)
    chosen = manager or scheduleunits.manager_here()
    return Plan(settings, find(file), Path(sys.executable).parent / PROGRAM, chosen, root.resolve())


def _report(done: list[Change], plan: Plan, as_json: bool, *, check: bool) -> None:
    if as_json:
        rows = [{"what": each.what, "outcome": each.outcome} for each in done]
        changed = [each.what for each in done if each.outcome != "same"]
        click.echo(
            json.dumps({"version": VERSION, "manager": plan.manager, "changed": changed, "files": rows}, indent=2)
        )
        return
    for each in done:
        if each.outcome != "same":
            click.echo(f"{'would be ' if check else ''}{each.outcome}: {each.what}")
    click.echo(f"{sum(each.outcome == 'same' for each in done)} the same")


def main() -> int:
    """`wod-schedule`, the program; returns the exit status."""
    from wodmail.cli.main import run as run_program

    return run_program(schedule, PROGRAM)
