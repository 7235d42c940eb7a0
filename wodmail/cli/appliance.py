"""`wodmail appliance`: list, check and set up the machines of workshops with appliances."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from wodmail import appliances
from wodmail.appliances import Appliance
from wodmail.appliancesetup import Site, look_at, run_hooks, set_up
from wodmail.appliancetodo import Done, Order, Report, Result, todos
from wodmail.cli.config import config_option, json_option
from wodmail.config import load
from wodmail.errors import Failed, Problem, Refused
from wodmail.schema import Settings

VERSION = 1
WOULD_CHANGE = 2
COLOURS = {Result.CHANGED: "yellow", Result.DIFFERS: "yellow", Result.FAILED: "red", Result.LEFT: "dim"}

names_argument = click.argument("workshops", nargs=-1, metavar="[WORKSHOP]...")
group_option = click.option(
    "--group", metavar="GROUP", help="Group whose group_vars name the addresses; by default WODGROUP."
)
host_option = click.option("--host", metavar="ADDRESS", help="Only this machine.")
parallel_option = click.option(
    "--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Machines at the same time."
)


@click.group()
def appliance() -> None:
    """Machines of workshops with appliances: list, check, set up (docs/appliances.md).

    Example: wodmail appliance setup WKSHP-Docker101
    """


@appliance.command("list")
@config_option
@json_option
@group_option
@names_argument
def list_(file: Path | None, as_json: bool, group: str | None, workshops: tuple[str, ...]) -> None:
    """List the appliances: address, workshops, students, what setting them up would run.

    Exit status 0, or 1 when a workshop has no usable address.

    Example: wodmail appliance list
    """
    settings = _ready(file, group)
    machines, problems = _plan(settings, workshops, None)
    site = Site(settings, file)
    rows = [(machine, todos(settings, site.scripts, machine)) for machine in machines]
    if as_json:
        listed = [{**_machine(machine), "todo": [str(each.file) for each in todo]} for machine, todo in rows]
        click.echo(json.dumps({"version": VERSION, "appliances": listed, "problems": _problems(problems)}, indent=2))
    else:
        table = Table("address", "workshops", "students", "what is run", box=None)
        for machine, todo in rows:
            runs = ", ".join(f"{each.name} ({each.where})" for each in todo)
            table.add_row(machine.address, ", ".join(machine.workshops), _spans(machine), escape(runs))
        Console().print(table)
        _tell_problems(problems)
    raise SystemExit(1 if problems else 0)


@appliance.command()
@config_option
@json_option
@group_option
@host_option
@parallel_option
@names_argument
def check(
    file: Path | None, as_json: bool, group: str | None, host: str | None, parallel: int, workshops: tuple[str, ...]
) -> None:
    """See that appliances answer and have the students' accounts and the programs that are needed; change nothing.

    Exit status 0 all in order, 1 something fails or differs.

    Example: wodmail appliance check --host 10.1.2.3
    """
    settings = _ready(file, group)
    machines, problems = _plan(settings, workshops, host)
    site = Site(settings, file)
    with _Show(as_json, len(machines), "looking at appliances") as show:
        reports = look_at(site, machines, parallel, show.done)
    _report(reports, problems, as_json=as_json, check=True)
    in_order = all(report.result is Result.OK for report in reports)
    raise SystemExit(0 if in_order and not problems else 1)


@appliance.command()
@config_option
@json_option
@group_option
@host_option
@parallel_option
@click.option(
    "--login", metavar="USER", default="", help="Account for the base, the first time: root, or one with sudo."
)
@click.option("--base/--no-base", default=True, help="Whether setup_appliance.yml is run first.")
@click.option(
    "--check", "dry", is_flag=True, help="Change nothing, tell what would be changed; exit status 2 if anything."
)
@click.option("--skip-tags", default="", metavar="TAGS", help="Leave out tasks with one of these, separated by commas.")
@names_argument
def setup(
    file: Path | None,
    as_json: bool,
    group: str | None,
    host: str | None,
    parallel: int,
    login: str,
    base: bool,
    dry: bool,
    skip_tags: str,
    workshops: tuple[str, ...],
) -> None:
    """Set up the appliances of these workshops, or of all, with the site's hooks around it.

    Exit status 0 done, 1 something failed (the other machines were set up), 2 with --check: something would change.

    Example: wodmail appliance setup --login debian WKSHP-Docker101
    """
    settings = _ready(file, group)
    machines, problems = _plan(settings, workshops, host)
    order = Order(dry, base, login, tuple(filter(None, skip_tags.split(","))), parallel)
    site = Site(settings, file)
    around: list[Done] = []
    reports: list[Report] = []
    if not workshops:
        around += run_hooks(site, "setup-globalappliance", "pre", order)
    if not _failed(around):
        total = sum(len(todos(settings, site.scripts, machine, base=base)) for machine in machines)
        with _Show(as_json, total, "setting up") as show:
            reports = set_up(site, machines, order, show.done)
        if not workshops:
            around += run_hooks(site, "setup-globalappliance", "post", order)
    _report(reports, problems, as_json=as_json, check=dry, around=around)
    if problems or _failed(around) or any(report.result is Result.FAILED for report in reports):
        raise SystemExit(1)
    raise SystemExit(WOULD_CHANGE if any(report.result is Result.DIFFERS for report in reports) else 0)


class _Show:
    """Progress on a terminal; nothing elsewhere."""

    def __init__(self, quiet: bool, total: int, words: str) -> None:
        console = Console(stderr=True)
        self._progress = Progress(console=console, disable=quiet or not console.is_terminal, transient=True)
        self._task = self._progress.add_task(words, total=total)
        self._lock = Lock()

    def __enter__(self) -> _Show:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def done(self, machine: Appliance, each: Done) -> None:
        """One thing is done on a machine."""
        with self._lock:
            self._progress.update(self._task, advance=1)
            if each.result is Result.FAILED:
                self._progress.console.print(escape(f"{machine.address}: {each.todo.name}: failed"))


def _settings(file: Path | None, group: str | None) -> Settings:
    settings = load(file, files=False)
    return settings if group is None else settings.model_copy(update={"WODGROUP": group})


def _ready(file: Path | None, group: str | None) -> Settings:
    """The configuration, read by WODUSER, whose key opens the appliances: root becomes that account first."""
    settings = _settings(file, group)
    if os.geteuid() == 0 and settings.WODUSER != "root":
        _become(settings.WODUSER)
    return settings


def _become(name: str) -> None:
    """Begin again as another user."""
    argv = ["runuser", "-u", name, "--", sys.executable, "-P", "-m", "wodmail", *sys.argv[1:]]
    try:
        environment = {**os.environ, "HOME": pwd.getpwnam(name).pw_dir, "USER": name, "LOGNAME": name}
        os.execvpe("runuser", argv, environment)  # noqa: S606 - no shell is wanted
    except (OSError, KeyError) as error:
        raise Failed(f"Call this as {name}.", f"runuser: {error}") from error


def _plan(settings: Settings, workshops: Sequence[str], host: str | None) -> tuple[list[Appliance], list[Problem]]:
    machines, problems = appliances.plan(settings, appliances.choose(settings, workshops))
    if host is not None:
        return appliances.only(machines, host), []
    if not machines and not problems:
        raise Refused("no workshop here has an appliance; monoappliance or multiappliance in its wod.yml says so")
    return machines, problems


def _failed(done: Sequence[Done]) -> bool:
    return any(each.result is Result.FAILED for each in done)


def _report(
    reports: Sequence[Report], problems: Sequence[Problem], *, as_json: bool, check: bool, around: Sequence[Done] = ()
) -> None:
    if as_json:
        told = [
            {**_machine(report.appliance), "result": report.result.value, "done": [_row(each) for each in report.done]}
            for report in reports
        ]
        hooks = [_row(each) for each in around]
        data = {"version": VERSION, "check": check, "appliances": told, "hooks": hooks}
        click.echo(json.dumps({**data, "problems": _problems(problems)}, indent=2))
        return
    table = Table("address", "workshop", "what", "result", "s", "remark", box=None)
    table.columns[-1].overflow = "fold"
    for each in around:
        _add(table, "", each)
    for report in reports:
        for each in report.done:
            _add(table, report.appliance.address, each)
    Console().print(table)
    _tell_problems(problems)


def _add(table: Table, address: str, each: Done) -> None:
    colour = COLOURS.get(each.result, "green")
    what = f"{each.todo.name} ({each.todo.where})"
    result = f"[{colour}]{each.result}[/{colour}]" + (f" ({each.changed})" if each.changed else "")
    table.add_row(address, each.todo.workshop, what, result, f"{each.seconds:.1f}", escape(each.words))


def _machine(machine: Appliance) -> dict[str, Any]:
    return {
        "address": machine.address,
        "workshops": list(machine.workshops),
        "students": list(machine.students),
    }


def _row(each: Done) -> dict[str, Any]:
    return {
        "what": each.todo.name,
        "where": each.todo.where,
        "workshop": each.todo.workshop,
        "result": each.result.value,
        "changed": each.changed,
        "seconds": round(each.seconds, 2),
        "words": each.words,
    }


def _spans(machine: Appliance) -> str:
    spans = [use.students for use in machine.uses if use.students is not None]
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)


def _problems(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"workshop": each.path, "message": each.message} for each in problems]


def _tell_problems(problems: Sequence[Problem]) -> None:
    for each in problems:
        click.echo(f"problem: {each}")
