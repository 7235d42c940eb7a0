"""The command `wodmail`. `pipe` is routed before anything heavy is imported: procmail starts it for every mail."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def main() -> int:
    """Run the command line; returns the exit status."""
    if sys.argv[1:2] == ["pipe"]:
        from wodmail.mail import pipe

        return pipe.main(sys.argv[2:])
    return _click()


def _click() -> int:
    if sys.argv[1:2] == ["query"]:
        # Workshop scripts call it again and again; without the server's imports it starts in a third of the time.
        from wodmail.cli.query import root
    else:
        from wodmail.cli.root import root
    return run(root, "wodmail")


def run(command: click.Command, name: str) -> int:
    """Run a command as the program itself; expected errors become words and an exit status.

    Args:
        command: what click runs, with the process' own command line.
        name: the program's name in its help and its errors.

    Returns:
        The command's own status; 1 refused or failed, 64 usage, 75 try again, 78 configuration, 130 interrupted.
    """
    import click

    from wodmail.errors import ConfigError, Refused, Temporary, WodmailError

    codes: dict[type[WodmailError], int] = {ConfigError: 78, Temporary: 75, Refused: 1}
    try:
        status = command.main(prog_name=name, standalone_mode=False)
    except WodmailError as error:
        click.echo(f"{name}: {error.sender}", err=True)
        if error.operator != error.sender:
            click.echo(f"  cause: {error.operator}", err=True)
        return codes.get(type(error), 1)
    except click.ClickException as error:
        error.show()
        return 64
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0
