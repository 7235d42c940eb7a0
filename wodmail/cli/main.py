"""The command `wodmail`. `pipe` is routed before anything heavy is imported: procmail starts it for every mail."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    if sys.argv[1:2] == ["pipe"]:
        from wodmail.mail import pipe

        return pipe.main(sys.argv[2:])
    return _click()


def _click() -> int:
    import click

    from wodmail.errors import ConfigError, Refused, Temporary, WodmailError

    if sys.argv[1:2] == ["query"]:
        # Workshop scripts call it again and again; without the server's imports it starts in a third of the time.
        from wodmail.cli.query import root
    else:
        from wodmail.cli.root import root

    codes: dict[type[WodmailError], int] = {ConfigError: 78, Temporary: 75, Refused: 1}
    try:
        status = root.main(prog_name="wodmail", standalone_mode=False)
    except WodmailError as error:
        click.echo(f"wodmail: {error.sender}", err=True)
        if error.operator != error.sender:
            click.echo(f"  cause: {error.operator}", err=True)
        return codes.get(type(error), 1)
    except click.ClickException as error:
        error.show()
        return 64
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0
