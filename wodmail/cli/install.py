"""`wod-install`: from a bare distribution to a running backend, and from an old version of it to a new one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.markup import escape

from wodmail import installer, installingfile
from wodmail.cli.config import json_option
from wodmail.config import DEFAULT_FILE
from wodmail.errors import ConfigError
from wodmail.installer import Installation, Order
from wodmail.installing import PLAYBOOKS, Wanted, sources
from wodmail.maintenancetasks import TaskResult

VERSION = 1
WOULD_CHANGE = 2
LOG = Path("/var/log/wod-install.log")
COLOURS = {"changed": "yellow", "failed": "red", "unreachable": "red"}


existing = click.Path(exists=True, path_type=Path)


def _without(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...] | None:
    words = tuple(word for text in texts for word in text.replace(",", " ").split())
    try:
        sources(words)
    except ConfigError as error:
        raise click.BadParameter(error.problems[0].message) from error
    return (() if words == ("none",) else words) if words else None


def _password(_: click.Context, __: click.Parameter, file: Path | None) -> str:
    return file.read_text(encoding="utf-8").strip() if file is not None else ""


@click.command()
@click.option(
    "-t",
    "--type",
    "type_",
    type=click.Choice(list(PLAYBOOKS)),
    help="What this machine is (else WODTYPE, else backend).",
)
@click.option("-g", "--group", default="", help="Ansible group of this backend (WODGROUP; else production).")
@click.option("-b", "--backend", default="", help="Host name of the backend (else this machine's).")
@click.option("-f", "--frontend", default="", help="Host name of the frontend; may send commands then.")
@click.option("-a", "--api-db", "apidb", default="", help="Host of the API-DB, with :PORT (else 8021), or its URL.")
@click.option("-e", "--external", default="", help="HOST[:PORT] or URL by which students reach the backend.")
@click.option("-u", "--user", default="", help="Account that runs wodmail (else wodadmin); made when missing.")
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Port for mails with commands (else 10025).")
@click.option("-s", "--sender", default="", help="Envelope sender that may command (else USER@FRONTEND).")
@click.option("-n", "--number", type=click.IntRange(1), help="This backend's number, where several share an API-DB.")
@click.option("--api-db-user", "apidb_user", default="", help="The backend's account in the API-DB.")
@click.option("--api-db-password-file", "apidb_password", type=existing, callback=_password, help="Its password.")
@click.option(
    "--without",
    multiple=True,
    callback=_without,
    metavar="SOURCE",
    help="Nothing from there (WODWITHOUT); `others`: all.",
)
@click.option("--checkout", type=existing, help="wodmail's checkout (else the configuration's WODBEDIR).")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    help="The configuration file that is written.",
)
@click.option("--log", type=click.Path(path_type=Path), default=LOG, help="Each task goes there.", show_default=True)
@click.option("--check", is_flag=True, help="Change nothing, tell what would be done; exit status 2 if anything.")
@json_option
def install(**given: Any) -> None:
    """Install this machine or, run again, update it; as root. Asks nothing that it can find out.

    What the configuration already says stays, secrets above all; an option given anew changes it. SOURCE is one of
    those in docs/install.md. Exit status 0 done, 1 failed (run it again when the cause is mended), 2 with --check when
    something would be changed, 75 wod-check or wod-deliver is at work and doesn't end, 78 the configuration or the
    checkout stands against it.

    Example: wod-install -t backend -f frontend.example.org
    """
    order = _order(given)
    console = Console(stderr=given["as_json"])
    try:
        with _log(given["log"]) as log, console.status("looking at this machine") as status:
            done = installer.install(order, _teller(console, status.update, log))
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}; call it as root") from error
    if given["as_json"]:
        click.echo(json.dumps(_as_data(done, order), indent=2))
    else:
        _tell(console, done, order, given["log"])
    raise SystemExit(1 if done.failed else WOULD_CHANGE if order.check and done.changed else 0)


def _order(given: dict[str, Any]) -> Order:
    names = (
        "group",
        "backend",
        "frontend",
        "apidb",
        "external",
        "user",
        "sender",
        "apidb_user",
        "apidb_password",
        "without",
    )
    wanted = Wanted(
        type=given["type_"] or _type_so_far(given["file"]),
        port=given["port"] or 0,
        number=given["number"] or 0,
        **{name: given[name] for name in names},
    )
    return Order(wanted, given["file"], given["checkout"], given["check"])


def _type_so_far(file: Path) -> str:
    """What the configuration says that this machine is: an update of an API-DB makes no backend of it."""
    said = str(installingfile.read(file)[1].get("WODTYPE"))
    return said if said in PLAYBOOKS else "backend"


@contextmanager
def _log(file: Path) -> Iterator[TextIO]:
    """The log, opened for more; root's alone."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "a", encoding="utf-8", buffering=1) as stream:
        yield stream


def _teller(console: Console, update: Callable[[str], None], log: TextIO) -> installer.Teller:
    """Tells each task: all of them to the log, changes and failures to the console, the last one while it lasts."""

    def tell(playbook: str, task: TaskResult | None) -> None:
        now = datetime.now(UTC).strftime("%FT%TZ")
        if task is None:
            log.write(f"{now} {playbook}\n")
            console.print(f"[bold]{escape(playbook)}[/bold]")
            return
        log.write(f"{now} {task.status:8} {task.name}{_because(task)}\n")
        update(f"after: {escape(task.name)}")
        if task.status in COLOURS:
            console.print(f"  [{COLOURS[task.status]}]{task.status:8}[/] {escape(task.name)}")

    return tell


def _because(task: TaskResult) -> str:
    return f": {task.message}" if task.message and task.status in ("failed", "unreachable") else ""


def _as_data(done: Installation, order: Order) -> dict[str, object]:
    played = [
        {
            "playbook": stage.playbook,
            "status": stage.status,
            "counts": stage.counts,
            "failures": [{"task": task.name, "file": task.file, "message": task.message} for task in stage.failures],
        }
        for stage in done.stages
    ]
    return {
        "version": VERSION,
        "type": order.wanted.type,
        "check": order.check,
        "ok": not done.failed,
        "changed": done.changed,
        "configuration": list(done.keys),
        "modules": list(done.code),
        "playbooks": played,
        "left": list(done.left),
    }


def _tell(console: Console, done: Installation, order: Order, log: Path) -> None:
    """The end: what was written, counted, failed, and what is left to do."""
    if done.keys:
        written = "would be written" if order.check else "written"
        console.print(f"{order.file}: {written}: {', '.join(done.keys)}", soft_wrap=True)
    if done.code:
        console.print(f"wodmail would be replaced by the checkout's: {len(done.code)} modules differ", soft_wrap=True)
    for stage in done.stages:
        counted = ", ".join(f"{count} {status}" for status, count in stage.counts.items() if count)
        console.print(f"{stage.playbook}: {counted or 'nothing to do'}")
        for task in stage.failures:
            console.print(f"[red]failed[/red]: {escape(task.name)} ({escape(task.file)}): {escape(task.message)}")
        if stage.status and not stage.failures:
            console.print(escape(stage.tail), soft_wrap=True)
    for words in done.left:
        console.print(f"[yellow]left to do[/yellow]: {escape(words)}", soft_wrap=True)
    console.print(f"{'failed' if done.failed else 'done'}; every task is in {log}")


def main() -> int:
    """`wod-install`, the program; returns the exit status."""
    from wodmail.cli.main import run

    return run(install, "wod-install")
