"""`wod-fail2ban-ip`, also `wodmail fail2ban-ip`: what fail2ban calls to ban an address, and the list of bans."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wodmail import bans, firewallapi
from wodmail.bans import Bans
from wodmail.cli.config import config_option, json_option
from wodmail.config import load
from wodmail.errors import Refused, Temporary

VERSION = 1
BY_HAND = "by-hand"
OWED = 75

_jail = click.option("--jail", default=BY_HAND, show_default=True, help="Which jail of fail2ban wants it.")


def _places(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name the firewall's file and the folder of the list."""
    path = click.Path(path_type=Path)
    command = click.option("--state", type=path, default=bans.STATE, show_default=True, help="Folder of the list.")(
        command
    )
    return click.option(
        "--firewall", type=path, default=firewallapi.FILE, show_default=True, help="The firewall API's file."
    )(command)


@click.group()
def fail2ban_ip() -> None:
    """Shut an address out, let it in again, list what is shut out. fail2ban calls it as root, in every jail.

    Example: wod-fail2ban-ip status
    """


@fail2ban_ip.command()
@config_option
@_places
@_jail
@click.argument("ip")
def ban(file: Path | None, firewall: Path, state: Path, jail: str, ip: str) -> int:
    """Note that IP is banned, and tell the firewall API when there is one. May be repeated.

    Never loopback, this machine's own addresses, WODTRUSTEDPEERS or WODNEVERBAN.

    Exit status: 0 banned, 1 refused, or the firewall says no, 75 the firewall is away, 78 a configuration is wrong.

    Example: wod-fail2ban-ip ban 192.0.2.7
    """
    address = bans.parsed(ip)
    why = bans.protected(address, load(file, files=False))
    if why:
        raise Refused(f"{address} is never banned: {why}.")
    _bans(state, firewall).ban(address, jail)
    click.echo(f"{address} is banned")
    return 0


@fail2ban_ip.command()
@_places
@_jail
@click.option("--all-jails", is_flag=True, help="Whichever jail has banned it.")
@click.argument("ip")
def unban(firewall: Path, state: Path, jail: str, all_jails: bool, ip: str) -> int:
    """Note that a jail wants IP banned no more; when it was the last, tell the firewall API. May be repeated.

    fail2ban's own ban on this machine is lifted by `fail2ban-client unban IP`, which also comes here.

    Exit status: 0 done, 1 refused, or the firewall says no, 75 the firewall is away, 78 the firewall's file is wrong.

    Example: wod-fail2ban-ip unban --all-jails 192.0.2.7
    """
    address = bans.parsed(ip)
    left = _bans(state, firewall).unban(address, None if all_jails else jail)
    still = "" if left is None else f"; still banned by {', '.join(sorted(left.jails))}"
    click.echo(f"{address} is not banned by {'any jail' if all_jails else jail}{still}")
    return 0


@fail2ban_ip.command()
@_places
@json_option
def status(firewall: Path, state: Path, as_json: bool) -> int:
    """List what is banned, by whom, since when, and whether the firewall knows.

    Exit status: 0, 75 when something is owed to the firewall (see `sync`).

    Example: wod-fail2ban-ip status --json
    """
    found = Bans(state).all()
    told = firewallapi.load(firewall) is not None
    owed = [ban for ban in found if ban.firewall.startswith("owed")]
    if as_json:
        data = {"version": VERSION, "firewall": told, "owed": len(owed), "bans": [asdict(ban) for ban in found]}
        click.echo(json.dumps(data, indent=2))
    else:
        _tell(found, told)
    return OWED if owed else 0


@fail2ban_ip.command()
@_places
def sync(firewall: Path, state: Path) -> int:
    """Tell the firewall API what it did not take before, and bans from before it was configured.

    Exit status: 0 it knows everything, 75 it does not.

    Example: wod-fail2ban-ip sync
    """
    failed = _bans(state, firewall).sync()
    if failed:
        address, error = failed[0]
        cause = f"{address}: {error.operator}"
        raise Temporary(f"The firewall did not take {len(failed)} address(es). {error.sender}", cause)
    click.echo("nothing is owed to the firewall")
    return 0


def _bans(state: Path, file: Path) -> Bans:
    plan = firewallapi.load(file)
    return Bans(state, None if plan is None else firewallapi.FirewallApi(plan))


def _tell(found: list[bans.Ban], told: bool) -> None:
    console = Console()
    if found:
        table = Table("address", "jails", "since", "firewall", box=None)
        for ban in found:
            since = min(ban.jails.values(), default="-")
            table.add_row(ban.address, escape(", ".join(sorted(ban.jails)) or "-"), escape(since), ban.firewall)
        console.print(table)
    where = "a firewall API is configured" if told else "no firewall API"
    console.print(f"{len(found)} address(es), {where}", highlight=False)


def main() -> int:
    """`wod-fail2ban-ip`, the program; returns the exit status."""
    from wodmail.cli.main import run

    return run(fail2ban_ip, "wod-fail2ban-ip")
