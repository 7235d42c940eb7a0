"""`wodmail retention`: delete by hand, or by a timer, what is older than WODRETENTION."""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import asdict
from pathlib import Path

import click

from wodmail.cli.config import config_option, json_option
from wodmail.config import Settings, load
from wodmail.errors import Refused

VERSION = 1


@click.command()
@config_option
@json_option
@click.option("--dry-run", is_flag=True, help="Delete nothing, tell what would be.")
def retention(file: Path | None, as_json: bool, dry_run: bool) -> None:
    """Delete requests, raw mails and traces older than WODRETENTION days; a running server does so hourly by itself.

    Example: wodmail retention --dry-run
    """
    from wodmail import retention as keeping
    from wodmail.store import open_store

    settings = load(file, files=False)
    _check_user(settings)
    if dry_run:
        store = open_store(settings)
        try:
            found = keeping.due(settings, store)
        finally:
            store.close()
    else:
        found = keeping.sweep(settings)
    if as_json:
        told = {"version": VERSION, "days": settings.WODRETENTION, "dry_run": dry_run, **asdict(found)}
        click.echo(json.dumps(told))
        return
    what = f"{found.requests} request(s), {found.mails} mail(s), {found.traces} trace file(s)"
    click.echo(f"{what} older than {settings.WODRETENTION} days {'would go' if dry_run else 'deleted'}")


def _check_user(settings: Settings) -> None:
    """What root would write into WODUSER's folders WODUSER could not change any more."""
    name = pwd.getpwuid(os.geteuid()).pw_name
    if not settings.WODSANDBOX and name != settings.WODUSER:
        raise Refused(f"This runs as WODUSER. Try again with: sudo -u {settings.WODUSER} wodmail retention")
