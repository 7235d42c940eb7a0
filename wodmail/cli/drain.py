"""`wodmail drain` and `wodmail resume`: no job starts while a backend is worked on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from wodmail import drained
from wodmail.cli.config import config_option, json_option
from wodmail.config import load
from wodmail.errors import Temporary
from wodmail.lock import held
from wodmail.store import Store, open_readonly

VERSION = 1
LOOK_EVERY = 0.2
NOT_DRAINED, STILL_RUNS = 1, 75


@click.command()
@config_option
@json_option
@click.option("--wait", is_flag=True, help="Return when nothing runs any more, and say meanwhile what does.")
@click.option("--timeout", type=click.FloatRange(min=0), help="With --wait: give up after so many seconds.")
@click.option("--status", is_flag=True, help="Change nothing, tell whether it is drained and what still runs.")
@click.option("--reason", default="", help="Why, for whoever asks.")
def drain(
    file: Path | None, as_json: bool, wait: bool, timeout: float | None, status: bool, reason: str
) -> int:  # one argument an option
    """Start no new jobs: mails are accepted and kept, what runs ends. Holds until `wodmail resume`, restarts included.

    Exit status: 0 drained (with --wait or --status: and nothing runs), 75 something still runs, 1 with --status: not
    drained.

    Example: wodmail drain --wait --timeout 1800 --reason "update of JupyterHub"
    """
    settings = load(file, files=False)
    store = open_readonly(settings)
    if not status:
        drained.drain(store, reason)
    watch = _Watch(store, settings.WODSTATEDIR / "lock", quiet=as_json)
    if wait:
        watch.until_rest(timeout)
    found = watch.look()
    if as_json:
        click.echo(json.dumps({"version": VERSION, **found}, indent=2))
    else:
        _tell(found)
    if not found["drained"]:
        return NOT_DRAINED
    return STILL_RUNS if (wait or status) and found["running"] else 0


@click.command()
@config_option
@json_option
def resume(file: Path | None, as_json: bool) -> None:
    """Let jobs start again; the kept ones go first, in the order of their mails.

    Example: wodmail resume
    """
    store = open_readonly(load(file, files=False))
    before = drained.resume(store)
    kept = drained.kept(store)
    if as_json:
        click.echo(json.dumps({"version": VERSION, "was_drained": before.on, "kept": kept}))
    elif before.on:
        click.echo(f"resumed; {kept} kept request(s) go on")
    else:
        click.echo("it was not drained; nothing changed")


class _Watch:
    """Looks at what still runs."""

    def __init__(self, store: Store, lock: Path, *, quiet: bool) -> None:
        self._store, self._lock, self._quiet = store, lock, quiet

    def look(self) -> dict[str, Any]:
        drain = drained.current(self._store)
        server = held(self._lock)
        return {
            "drained": drain.on,
            "since": drain.since,
            "reason": drain.reason,
            "words": drain.words(),
            "server": server,
            # without a server nothing runs: what its last life was at goes on when it is started and resumed
            "running": drained.at_work(self._store) if server else [],
            "kept": drained.kept(self._store),
        }

    def until_rest(self, timeout: float | None) -> None:
        """Return when nothing runs, or when the time is over; on a terminal a line shows what does."""
        end = None if timeout is None else time.monotonic() + timeout
        console = Console(stderr=True)
        with console.status("waiting until nothing runs") as shown:
            while True:
                found = self.look()
                if not found["running"] or (end is not None and time.monotonic() >= end):
                    return
                if not found["drained"]:
                    raise Temporary(
                        "Somebody has resumed the backend meanwhile. Drain it again when that was an error."
                    )
                if not self._quiet:
                    shown.update(escape(f"{len(found['running'])} at work: " + "; ".join(_lines(found["running"])[:3])))
                time.sleep(LOOK_EVERY)


def _lines(running: list[dict[str, Any]]) -> list[str]:
    lines = []
    for job in running:
        who = ",".join(map(str, job["students"][:5])) + ("…" if len(job["students"]) > 5 else "")
        at = f"at {job['step']} for {job['seconds']:.0f} s" if job["step"] else "beginning"
        lines.append(f"request {job['request']} {job['action']} {who} {at}")
    return lines


def _tell(found: dict[str, Any]) -> None:
    click.echo(found["words"] or "not drained: jobs start as mails come")
    if found["drained"]:
        click.echo(f"{len(found['running'])} job(s) at work, {found['kept']} request(s) kept")
    for line in _lines(found["running"]):
        click.echo(f"  {line}")
    if not found["server"]:
        click.echo("no server is running; mails that come by procmail are kept in the spool")
