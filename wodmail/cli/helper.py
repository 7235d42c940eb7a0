"""`wodmail helper`: install and check the root helper."""

from __future__ import annotations

from pathlib import Path

import click

from wodmail.cli.config import config_option
from wodmail.config import load
from wodmail.students import install as installing


@click.group()
def helper() -> None:
    """The root helper that sets passwords and touches students' homes."""


@helper.command("install")
@config_option
def install_command(file: Path | None) -> None:
    """Install the helper, its limits and its line for sudo (as root; again whenever the limits change)."""
    for line in installing.install_helper(load(file)):
        click.echo(line)


@helper.command("check")
@config_option
def check_command(file: Path | None) -> None:
    """See that the helper is installed, is of this version and can be reached (as WODUSER)."""
    problems = installing.check_helper(load(file))
    for problem in problems:
        click.echo(str(problem), err=True)
    if problems:
        raise SystemExit(1)
    click.echo("the root helper works")


if __name__ == "__main__":  # `python -m wodmail.cli.helper` imports no other command, so it starts sooner
    from wodmail.cli.main import run

    raise SystemExit(run(helper, "wodmail helper"))
