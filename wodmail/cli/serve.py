"""`wodmail serve` and `wodmail work`: the processor with and without a door."""

from __future__ import annotations

import os
from pathlib import Path

import click

from wodmail.cli.config import config_option
from wodmail.config import find, load


def _run(file: Path | None, *, door: bool, until_empty: bool = False) -> int:
    from wodmail import logs
    from wodmail.logs import Masker
    from wodmail.server import Server, build_services
    from wodmail.server import serve as run_server

    os.umask(0o077)  # nothing of ours is for others; what students get is given its mode by name
    settings = load(file)
    masker = Masker()
    logs.setup(masker)
    server = Server(
        settings, lambda: build_services(settings, masker, find(file)), door=door and settings.WODDOOR == "listener"
    )
    run_server(server, os.environ.get("NOTIFY_SOCKET"), server.idle if until_empty else lambda: False)
    return 0


@click.command()
@config_option
def serve(file: Path | None) -> int:
    """Accept mails and work on them until SIGTERM.

    Example: wodmail serve --config /etc/wod.yml
    """
    return _run(file, door=True)


@click.command()
@config_option
@click.option("--until-empty", is_flag=True, help="End when every mail of the spool is answered and every job ended.")
def work(file: Path | None, until_empty: bool) -> int:
    """Work on the spool without a door of its own.

    Example: wodmail work --until-empty --config /etc/wod.yml
    """
    return _run(file, door=False, until_empty=until_empty)
