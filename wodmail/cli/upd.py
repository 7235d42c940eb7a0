"""`wod-upd`, also `wodmail upd`: updates of the distribution's packages."""

from __future__ import annotations

import json
import os

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wodmail.cli.config import json_option
from wodmail.errors import Failed, Refused
from wodmail.upd import Report, Updater

VERSION = 1


@click.command()
@json_option
@click.option("--all", "everything", is_flag=True, help="All updates, not those for security alone.")
@click.option("--dry-run", is_flag=True, help="Install nothing, tell what would be.")
@click.option(
    "--lock-wait", type=click.FloatRange(min=0), default=600.0, show_default=True, help="Seconds to wait for a lock."
)
def upd(as_json: bool, everything: bool, dry_run: bool, lock_wait: float) -> int:
    """Update the distribution's packages, by apt or dnf; security updates unless --all. Asks nothing; as root.

    Exit status: 0 up to date, 1 failed, 75 another program held the packages' lock all the time.

    Example: wod-upd --dry-run
    """
    if os.geteuid() != 0:
        raise Refused("Packages are updated by root alone. Try again with: sudo wod-upd")
    updater = Updater(lock_wait=lock_wait, on_line=lambda line: click.echo(line, err=True))
    try:
        report = updater.run("all" if everything else "security", dry_run=dry_run)
    except Failed as error:
        click.echo(error.output, err=True, nl=False)
        raise
    if as_json:
        click.echo(json.dumps(_as_data(report), indent=2))
    else:
        _tell(report)
    return 0


def _as_data(report: Report) -> dict[str, object]:
    updates = [{"package": each.name, "from": each.old, "to": each.new} for each in report.updates]
    return {
        "version": VERSION,
        "tool": report.tool,
        "scope": report.scope,
        "installed": report.installed,
        "updates": updates,
        "left": report.held,
        "reboot_required": bool(report.reboot),
        "reboot_reason": report.reboot,
    }


def _tell(report: Report) -> None:
    console = Console()
    if report.updates:
        table = Table("package", "from", "to", box=None)
        for each in report.updates:
            table.add_row(escape(each.name), escape(each.old or "-"), escape(each.new))
        console.print(table)
    word = "installed" if report.installed else "to install"
    left = f", {report.held} other update(s) left (--all)" if report.held else ""
    console.print(f"{len(report.updates)} {report.scope} update(s) {word}{left}", highlight=False)
    if report.reboot:
        console.print(
            f"[yellow]restart this machine: {escape(report.reboot)}[/yellow]", highlight=False, soft_wrap=True
        )


def main() -> int:
    """`wod-upd`, the program; returns the exit status."""
    from wodmail.cli.main import run

    return run(upd, "wod-upd")
