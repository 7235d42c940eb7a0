"""What an installation writes into /etc/wod.yml: what was asked for, what can be found out, what must be made.

Pure: the machine is looked at in `wodmail.installingfacts`, the file is changed in `wodmail.installingfile`.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wodmail.errors import ConfigError, Problem
from wodmail.schema import listed

PLAYBOOKS = {
    "backend": ("install_backend.yml", "check_backend.yml"),
    "api-db": ("install_api-db.yml", "check_api-db.yml"),
    "frontend": ("install_frontend.yml", "check_frontend.yml"),
    "appliance": ("setup_appliance.yml", "check_appliance.yml"),
}
"""By type of machine: what is played, in this order."""
SOURCES = {
    "conda": "conda from its own repository",
    "crates": "Rust and its kernel, built from crates",
    "docker": "Docker's own packages instead of the distribution's",
    "downloads": "programs and kernels that are downloaded from their projects: kubectl, terraform, IJava",
    "galaxy": "collections of Ansible Galaxy beside those of PyPI's ansible",
    "go": "the Go kernel, built from Go modules",
    "microsoft": "PowerShell from Microsoft's packages",
    "powershell": "modules of the PowerShell Gallery",
}
"""Where parts come from that are neither of the distribution nor of PyPI or npm; each is a tag `source_<name>`."""
OTHERS = "others"
"""Stands for all of SOURCES."""
SEATS = 2000
HUB = "http://127.0.0.1:8000"
API_DB_PORT = 8021
LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator said; empty where nothing was said.

    Args:
        type: backend, api-db, frontend or appliance.
        group: WODGROUP.
        backend: host name of the backend.
        frontend: host name of the frontend.
        apidb: host name of the API-DB, with its port or as URL.
        external: host[:port] or URL by which students reach the backend.
        user: WODUSER.
        port: WODPOSTPORT; 0 when nothing was said.
        sender: WODSENDER.
        number: the backend's number when there are several, from 1; 0 when nothing was said.
        apidb_user: the backend's account in the API-DB.
        apidb_password: its password.
        without: names of SOURCES that nothing is taken from; None when nothing was said.
    """

    type: str = "backend"
    group: str = ""
    backend: str = ""
    frontend: str = ""
    apidb: str = ""
    external: str = ""
    user: str = ""
    port: int = 0
    sender: str = ""
    number: int = 0
    apidb_user: str = ""
    apidb_password: str = field(default="", repr=False)
    without: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out.

    Args:
        name: this machine's full host name.
        checkout: where wodmail's checkout is.
        addresses: of the hosts that were named, by their names; missing for a host that no name server knows.
        own: this machine's own addresses.
        private: the folder of private content beside the checkout, "" when there is none.
        vault: whether that folder holds a password for the vault (the file vault_secret).
    """

    name: str
    checkout: Path
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    private: str = ""
    vault: bool = False


def hosts(wanted: Wanted) -> tuple[str, ...]:
    """The other hosts that send commands here: their addresses must be found out."""
    named = (wanted.frontend, _host(wanted.apidb))
    return tuple(dict.fromkeys(name for name in named if name))


def configuration(wanted: Wanted, facts: Facts, present: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be written: what was said, and what is missing and can be found out or made.

    Args:
        wanted: what the operator said; changes what is there.
        facts: the machine.
        present: the configuration so far; what it holds and nobody spoke about stays, secrets above all.

    Raises:
        ConfigError: an option can't be understood.
    """
    said = _said(wanted)
    said = {**said, **_named(wanted, facts, {**present, **said})}
    found = _found(wanted, facts)
    return {**{name: value for name, value in found.items() if name not in present}, **said}


def sources(words: Iterable[str]) -> tuple[str, ...]:
    """Sources by their names; `others` are all of them, `none` is none.

    Args:
        words: as given to `--without` or written in WODWITHOUT.

    Raises:
        ConfigError: a name is not known.
    """
    found = [name for name in words if name != "none"]
    unknown = [name for name in found if name not in (*SOURCES, OTHERS)]
    if unknown:
        known = ", ".join((*SOURCES, OTHERS))
        raise ConfigError([Problem("WODWITHOUT", f"there is no source {', '.join(unknown)}; there are {known}")])
    return tuple(SOURCES) if OTHERS in found else tuple(dict.fromkeys(found))


def left_to_do(settings: Mapping[str, Any], wanted: Wanted, addresses: Mapping[str, tuple[str, ...]]) -> list[str]:
    """What only the operator can know, in words for the end of the installation.

    Args:
        settings: the configuration as it is now.
        wanted: what the operator said.
        addresses: see `Facts`.
    """
    if wanted.type != "backend":
        return _unused(wanted)
    left = []
    if not settings.get("WODSENDER"):
        left.append("nobody may command yet: run again with -f FRONTEND or -s SENDER")
    if not settings.get("WODMONITOR"):
        left.append("nobody is told about failures: write WODMONITOR, a mail address, into the configuration")
    for host in hosts(wanted):
        if not addresses.get(host):
            words = "it may not connect yet: mend the name and run again, or write its address into WODALLOWEDPEERS"
            left.append(f"no name server knows {host}, so {words} and WODTRUSTEDPEERS, with WODLISTEN: 0.0.0.0")
    used = urlsplit(str(settings.get("WODAPIDBEXTURL") or "")).hostname
    if wanted.apidb and used != _host(wanted.apidb):
        now = f"{used} is" if used else "none is"
        words = "run again with --api-db-user and --api-db-password-file besides -a"
        left.append(f"the API-DB {_host(wanted.apidb)} is not used yet, {now}: {words}")
    return left


def _unused(wanted: Wanted) -> list[str]:
    """Options that mean something to a backend alone: all machines may be called with the same ones."""
    pairs = {"-b": wanted.backend, "-f": wanted.frontend, "-a": wanted.apidb}
    given = [option for option, value in pairs.items() if value]
    words = f"a backend's; nothing was done with them here, where the type is {wanted.type}"
    return [f"{', '.join(given)}: {words}"] if given else []


def _said(wanted: Wanted) -> dict[str, Any]:
    """Keys that follow from options alone."""
    said: dict[str, Any] = {"WODTYPE": wanted.type}
    pairs = {
        "WODGROUP": wanted.group,
        "WODUSER": wanted.user,
        "WODPOSTPORT": wanted.port,
        "WODSENDER": wanted.sender,
    }
    if wanted.type == "backend":
        pairs["WODBEFQDN"] = wanted.backend
    said |= {name: value for name, value in pairs.items() if value}
    if wanted.without is not None:
        said["WODWITHOUT"] = list(wanted.without)
    if wanted.number:
        said["WODBASESTDID"] = (wanted.number - 1) * SEATS
    return {**said, **_external(wanted.external), **_apidb(wanted)}


def _named(wanted: Wanted, facts: Facts, known: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that follow from the neighbours that were named: who commands, and who may connect besides those so far."""
    if wanted.type != "backend":
        return {}
    named: dict[str, Any] = {}
    if wanted.frontend and not wanted.sender:
        named["WODSENDER"] = f"{known.get('WODUSER', 'wodadmin')}@{wanted.frontend}"
    door = _door(wanted, facts)
    for name in ("WODALLOWEDPEERS", "WODTRUSTEDPEERS"):
        before = listed(known.get(name) or [])
        more = [each for each in door.get(name, []) if each not in before]
        if door and before:
            door[name] = [*before, *more]
    return {**named, **door}


def _found(wanted: Wanted, facts: Facts) -> dict[str, Any]:
    """Keys that nobody said anything about, in the order in which they are written."""
    found: dict[str, Any] = {
        "WODUSER": "wodadmin",
        "WODGROUP": "production",
        "WODBEFQDN": facts.name,
        "WODROOTDIR": str(facts.checkout.parent),
        "WODBEDIR": str(facts.checkout),
    }
    if facts.private:
        found["WODPRIVDIR"] = facts.private
    if wanted.type != "backend":
        return found
    return {**found, "WODSTATEDIR": "/var/lib/wodmail", **_secrets(facts)}


def _secrets(facts: Facts) -> dict[str, str]:
    """What nobody needs to know by heart, made anew for each machine, and where it is used."""
    vault = {} if facts.vault else {"VAULTPWD": secrets.token_urlsafe(32)}
    return {"JPHUB": "/opt/jupyterhub", "WODBEAPIURL": HUB, "WODBETOKEN": secrets.token_hex(32), **vault}


def _door(wanted: Wanted, facts: Facts) -> dict[str, Any]:
    """Who may connect: this machine, and the neighbours that were named when they are other machines."""
    others = sorted(
        {
            address
            for host in hosts(wanted)
            for address in facts.addresses.get(host, ())
            if address not in facts.own and not ipaddress.ip_address(address).is_loopback
        }
    )
    if not others:
        return {}
    networks = [*LOOPBACK, *(str(ipaddress.ip_network(address)) for address in others)]
    return {"WODLISTEN": "0.0.0.0", "WODALLOWEDPEERS": networks, "WODTRUSTEDPEERS": networks}  # noqa: S104 - asked for


def _external(text: str) -> dict[str, Any]:
    """host, host:port or URL by which students reach the backend."""
    if not text:
        return {}
    url = _url(text, "-e", "http")
    found: dict[str, Any] = {"WODBEEXTFQDN": url.hostname}
    if "://" in text:
        found["WODBEPROTO"] = url.scheme
    port = url.port or ({"http": 80, "https": 443}[url.scheme] if "://" in text else None)
    return {**found, **({"WODBEPORT": port} if port else {})}


def _apidb(wanted: Wanted) -> dict[str, Any]:
    """The API-DB's keys, all or none: half of them would be an error."""
    if not wanted.apidb or wanted.type != "backend" or not wanted.apidb_password:
        return {}
    url = _url(wanted.apidb, "-a", "http")
    port = url.port or (API_DB_PORT if "://" not in wanted.apidb else None)
    host = f"[{url.hostname}]" if ":" in str(url.hostname) else url.hostname
    path = url.path.rstrip("/") if url.path.rstrip("/").endswith("/api") else "/api"
    return {
        "WODAPIDBEXTURL": f"{url.scheme}://{host}{f':{port}' if port else ''}{path}",
        "WODAPIDBUSER": wanted.apidb_user,
        "WODAPIDBUSERPWD": wanted.apidb_password,
    }


def _host(text: str) -> str:
    """The host in host, host:port or URL; "" when there is none."""
    return (urlsplit(text if "://" in text else f"//{text}").hostname or "") if text else ""


def _url(text: str, option: str, scheme: str) -> Any:
    try:
        url = urlsplit(text if "://" in text else f"{scheme}://{text}")
        wrong = url.scheme not in ("http", "https") or not url.hostname or url.username or (url.port == 0)
    except ValueError:
        wrong = True
    if wrong:
        raise ConfigError([Problem(option, f"{text}: write host, host:port, or a URL of http or https")])
    return url
