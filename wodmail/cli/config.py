"""`wodmail config`: look at the configuration, and make files from it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from wodmail import configtext
from wodmail.config import Report, load, read
from wodmail.errors import Problem
from wodmail.privatefile import group_of as group_of
from wodmail.privatefile import write_private

EX_CONFIG = 78
SHELL_FILE = "/etc/wod.sh"

config_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="Configuration file; without it $WOD_CONFIG, else /etc/wod.yml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def config() -> None:
    """Look at the configuration, and make files from it."""


@config.command()
@config_option
@json_option
def check(file: Path | None, as_json: bool) -> None:
    """Report everything that is wrong with the configuration; exit status 0 in order, 78 not."""
    report = read(file)
    if as_json:
        click.echo(json.dumps(_as_data(report), indent=2))
    else:
        _tell(report)
    raise SystemExit(EX_CONFIG if report.problems else 0)


@config.command()
def sample() -> None:
    """Print a configuration file with every key, its meaning and its default."""
    click.echo(configtext.sample(), nl=False)


@config.command()
@config_option
@json_option
def show(file: Path | None, as_json: bool) -> None:
    """Print the values in effect, secrets masked."""
    values = configtext.masked(load(file, files=False))
    if as_json:
        click.echo(json.dumps({"version": 1, "settings": values}, indent=2, default=str))
        return
    for line in configtext.listing(values):
        click.echo(line)


@config.command()
@config_option
@click.option(
    "--output",
    is_flag=False,
    flag_value=SHELL_FILE,
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Write this file, mode 0640, instead of printing; {SHELL_FILE} when no file is named.",
)
def shell(file: Path | None, output: Path | None) -> None:
    """Print the configuration as shell variables, or write it to /etc/wod.sh."""
    report = read(file, files=False)
    settings = load(file, files=False)
    text = configtext.shell(settings, report.file.absolute())
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        write_private(output, text, settings)
    except OSError as error:
        raise click.ClickException(f"{output} can't be written: {error.strerror}; run as root") from error
    click.echo(f"{output} written", err=True)


@config.command()
def docs() -> None:
    """Print docs/configuration.md."""
    click.echo(configtext.page(), nl=False)


def _as_data(report: Report) -> dict[str, object]:
    def rows(problems: tuple[Problem, ...]) -> list[dict[str, str]]:
        return [{"path": problem.path, "message": problem.message} for problem in problems]

    return {
        "version": 1,
        "file": str(report.file),
        "ok": not report.problems,
        "problems": rows(report.problems),
        "warnings": rows(report.warnings),
    }


def _tell(report: Report) -> None:
    for problem in report.problems:
        click.echo(f"problem: {problem}")
    for warning in report.warnings:
        click.echo(f"warning: {warning}")
    if report.problems:
        click.echo(f"{report.file}: {len(report.problems)} problem(s); mend them and check again")
    else:
        click.echo(f"{report.file}: in order")


if __name__ == "__main__":  # `python -m wodmail.cli.config` imports no other command, so it starts sooner
    from wodmail.cli.main import run

    raise SystemExit(run(config, "wodmail config"))
