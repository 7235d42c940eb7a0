"""The tree of commands."""

from __future__ import annotations

import click

from wodmail import __version__
from wodmail.cli.appliance import appliance
from wodmail.cli.check import check
from wodmail.cli.config import config
from wodmail.cli.deliver import deliver
from wodmail.cli.demo import demo
from wodmail.cli.drain import drain, resume
from wodmail.cli.helper import helper
from wodmail.cli.install import install
from wodmail.cli.query import query
from wodmail.cli.rebranding import rebranding
from wodmail.cli.requests import abort, requests, retry, show
from wodmail.cli.schedule import schedule
from wodmail.cli.serve import serve, work
from wodmail.cli.students import students


@click.group()
@click.version_option(__version__, prog_name="wodmail")
def root() -> None:
    """A mail-driven backend for hands-on workshops.

    Example: wodmail serve --config /etc/wod.yml
    """


@root.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def pipe(arguments: tuple[str, ...]) -> int:
    """Store a mail from standard input in a spool: wodmail pipe --spool DIR (for procmail)."""
    from wodmail.mail import pipe as program

    return program.main(list(arguments))


@root.group()
def auth() -> None:
    """Logins for SMTP AUTH on the listener."""


@auth.command("hash")
def hash_() -> int:
    """Read a password from standard input, print the hash that WODAUTHFILE wants.

    Example: wodmail auth hash < password
    """
    from wodmail.mail import auth as logins

    return logins.main()


COMMANDS = (
    *(serve, work, requests, show, retry, abort, drain, resume, schedule),
    *(appliance, check, config, deliver, helper, install, rebranding, students, query, demo),
)

for command in COMMANDS:
    root.add_command(command)
