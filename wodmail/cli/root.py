"""The tree of commands."""

from __future__ import annotations

from importlib import import_module

import click

from wodmail import __version__

MODULES = {
    "abort": "requests",
    "appliance": "appliance",
    "catalogue": "catalogue",
    "check": "check",
    "check-template": "check_template",
    "cleanup-processes": "cleanup_processes",
    "cleanup-users": "cleanup_users",
    "config": "config",
    "deliver": "deliver",
    "demo": "demo",
    "drain": "drain",
    "extend": "sessions",
    "fail2ban-ip": "fail2ban_ip",
    "guard": "guard",
    "helper": "helper",
    "install": "install",
    "query": "query",
    "rebranding": "rebranding",
    "requests": "requests",
    "resume": "drain",
    "retention": "retention",
    "retry": "requests",
    "schedule": "schedule",
    "serve": "serve",
    "sessions": "sessions",
    "show": "requests",
    "students": "students",
    "upd": "upd",
    "work": "serve",
}
"""Commands, and the module of `wodmail.cli` that each is in, under its own name."""


class Tree(click.Group):
    """Imports a command when it is asked for: one of them needs little of what all of them need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in alphabetical order."""
        return sorted({*super().list_commands(ctx), *MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name, None when there is none."""
        if cmd_name in MODULES and cmd_name not in self.commands:
            module = import_module(f"wodmail.cli.{MODULES[cmd_name]}")
            self.add_command(getattr(module, cmd_name.replace("-", "_")))
        return super().get_command(ctx, cmd_name)


@click.group(cls=Tree)
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
