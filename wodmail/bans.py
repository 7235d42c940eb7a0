"""Bans of addresses for fail2ban: whom it may never hit, what is banned, and a firewall elsewhere that is told.

fail2ban's own action shuts an address out on this machine. What is kept here is the list over all its jails, and
whether the firewall API (docs/fail2ban.md) knows: every ban and unban may be repeated, and one that the firewall did
not take is owed to it until `Bans.sync`. A change of the list takes a moment and waits for no network: it is noted,
then the firewall is told, then what became of that is noted; what is told about one address keeps its order.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal, Protocol

import psutil

from wodmail.errors import Failed, Refused, Temporary, WodmailError
from wodmail.schema import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Told = Literal["none", "banned", "owed-ban", "owed-unban"]

STATE = Path("/var/lib/wod-fail2ban")
FILE = "bans.json"
VERSION = 1
PATIENCE = 20.0  # seconds for who tells the firewall of the same address; fail2ban gives an action 60
TELLING = 64  # locks for telling; addresses that share one wait for each other
JAIL = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Firewall(Protocol):
    """A firewall elsewhere; both calls may be repeated."""

    def ban(self, address: Address) -> None:
        """Shut it out; raises `WodmailError` when that failed."""
        ...

    def unban(self, address: Address) -> None:
        """Let it in again; raises `WodmailError` when that failed."""
        ...


@dataclass(slots=True)
class Ban:
    """One address.

    Args:
        address: as text, IPv4 that was written as IPv6 as IPv4.
        jails: since when which jails want it shut out, ISO 8601 in UTC by jail; empty when it is only still owed.
        firewall: none: no firewall was to be told; banned: it took the ban; owed-ban, owed-unban: it did not yet.
    """

    address: str
    jails: dict[str, str] = field(default_factory=dict)
    firewall: Told = "none"


def parsed(text: str) -> Address:
    """An address, strictly: no name, no network, no zone, nothing around it.

    Args:
        text: IPv4 or IPv6; IPv4 inside IPv6 (::ffff:192.0.2.1, RFC 4291 section 2.5.5.2) becomes IPv4.

    Raises:
        Refused: it is none, or one that no peer can have.
    """
    try:
        address: Address = ipaddress.ip_address(text)
    except ValueError as error:
        raise Refused(f"{text[:60]!r} is no IP address; write one as 192.0.2.7 or 2001:db8::7.") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise Refused(f"{text[:60]!r} names an interface; write the address alone.")
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise Refused(f"{address} is no address that a peer can have.")
    return address


def own_addresses() -> set[Address]:
    """The addresses of this machine's network interfaces."""
    found = set[Address]()
    for rows in psutil.net_if_addrs().values():
        for row in rows:
            if row.family.name in ("AF_INET", "AF_INET6"):
                found.add(ipaddress.ip_address(row.address.partition("%")[0]))
    return found


def protected(address: Address, settings: Settings, own: Callable[[], set[Address]] = own_addresses) -> str:
    """Why an address is never banned; empty when it may be.

    Args:
        address: see `parsed`.
        settings: WODTRUSTEDPEERS and WODNEVERBAN.
        own: finds this machine's addresses.
    """
    if address.is_loopback:
        return "it is loopback"
    if address in own():
        return "it is this machine's own"
    for name in ("WODNEVERBAN", "WODTRUSTEDPEERS"):
        if any(address in network for network in getattr(settings, name)):
            return f"it is in {name}"
    return ""


class Bans:
    """The list of bans, root's own. One lock is held while the list is changed, one while an address is told.

    Args:
        folder: where bans.json is; made when it is missing, closed to others.
        firewall: the firewall that is told; None when there is none.
        patience: seconds to wait for another ban that is at work.
    """

    def __init__(self, folder: Path = STATE, firewall: Firewall | None = None, *, patience: float = PATIENCE) -> None:
        self._folder, self._firewall, self._patience = folder, firewall, patience

    def all(self) -> list[Ban]:
        """All bans, in the order of their addresses.

        Raises:
            Failed: the list can't be read.
        """
        return sorted(self._read().values(), key=lambda ban: _order(ban.address))

    def ban(self, address: Address, jail: str) -> Ban:
        """Note a ban and tell the firewall, unless it knows.

        Args:
            address: see `parsed`; the caller has looked at `protected`.
            jail: who wants it.

        Raises:
            Refused: the jail's name is none.
            WodmailError: the firewall did not take it; the ban is noted, and owed to it.
        """
        name = _jail(jail)
        with self._changing() as bans:
            known = bans.setdefault(str(address), Ban(str(address)))
            known.jails.setdefault(name, datetime.now(UTC).isoformat(timespec="seconds"))
            self._note(bans, known)
        self._tell(str(address))
        return self._read().get(str(address), known)

    def unban(self, address: Address, jail: str | None) -> Ban | None:
        """Note that a jail wants the address shut out no more; when it was the last, tell the firewall.

        Args:
            address: see `parsed`.
            jail: who wants it no more; None for all of them.

        Returns:
            what is left, None when nothing is.

        Raises:
            Refused: the jail's name is none.
            WodmailError: the firewall did not take it; that is noted, and owed to it.
        """
        name = None if jail is None else _jail(jail)
        with self._changing() as bans:
            known = bans.get(str(address))
            if known is None:
                return None
            if name is None:
                known.jails.clear()
            else:
                known.jails.pop(name, None)
            self._note(bans, known)
        self._tell(str(address))
        return self._read().get(str(address))

    def sync(self) -> list[tuple[str, WodmailError]]:
        """Tell the firewall what is owed to it.

        Returns:
            What it did not take, and why.
        """
        with self._changing() as bans:
            addresses = list(bans)
            for known in list(bans.values()):
                self._note(bans, known)
        failed = []
        for address in addresses:
            try:
                self._tell(address)
            except WodmailError as error:
                failed.append((address, error))
        return failed

    def _note(self, bans: dict[str, Ban], known: Ban) -> None:
        """Write down what the jails want, as owed to the firewall unless it knows."""
        if known.jails:
            if known.firewall != "banned":
                known.firewall = "none" if self._firewall is None else "owed-ban"
        elif known.firewall == "none" or (self._firewall is None and known.firewall == "owed-ban"):
            bans.pop(known.address, None)
        else:  # an owed ban may have arrived all the same
            known.firewall = "owed-unban"
        self._write(bans)

    def _tell(self, address: str) -> None:
        """Tell the firewall what is owed to it about an address, and note that it knows."""
        firewall = self._firewall
        if firewall is None:
            return
        with self._telling(address):
            while (owed := self._owed(address)) is not None:
                if owed == "owed-ban":
                    firewall.ban(ipaddress.ip_address(address))
                else:
                    firewall.unban(ipaddress.ip_address(address))
                self._told(address, owed)

    def _owed(self, address: str) -> Told | None:
        known = self._read().get(address)
        return known.firewall if known is not None and known.firewall.startswith("owed") else None

    def _told(self, address: str, what: Told) -> None:
        """Note that the firewall took it; when something else is wanted by now, that stays owed."""
        with self._changing() as bans:
            known = bans.get(address)
            if known is None or known.firewall != what:
                return
            if what == "owed-ban":
                known.firewall = "banned"
            else:
                bans.pop(address)
            self._write(bans)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Ban]]:
        """The list, for as long as it takes to change it; nothing slow is done meanwhile."""
        with self._locked("lock", "The list of bans is in use. Try again in a minute."):
            yield self._read()

    @contextmanager
    def _telling(self, address: str) -> Iterator[None]:
        words = f"Somebody still tells the firewall of {address}; what is wanted is noted. Later: wod-fail2ban-ip sync"
        with self._locked(f"telling-{zlib.crc32(address.encode()) % TELLING}", words):
            yield

    @contextmanager
    def _locked(self, name: str, busy: str) -> Iterator[None]:
        with self._opened(name) as lock:
            self._acquire(lock.fileno(), busy)
            yield

    def _opened(self, name: str) -> IO[str]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return (self._folder / name).open("a")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> Failed:
        return Failed(f"{self._folder} can't be written. Run this as root.", str(error))

    def _acquire(self, descriptor: int, busy: str) -> None:
        end = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise Temporary(busy) from error
                time.sleep(0.05)
            except OSError as error:
                raise self._unwritable(error) from error
            else:
                return

    def _read(self) -> dict[str, Ban]:
        file = self._folder / FILE
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                raise Failed(f"{file} is of version {data['version']}; this wodmail knows {VERSION}. Update it.")
            return {row["address"]: _loaded(row) for row in data["bans"]}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Failed(f"{file} can't be read. Run this as root.", str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            told = f"{file} is damaged. Move it away, then: fail2ban-client reload --unban"
            raise Failed(told, f"{type(error).__name__}: {error}") from error

    def _write(self, bans: dict[str, Ban]) -> None:
        rows = [asdict(ban) for ban in bans.values()]
        try:
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=f".{FILE}.")
            temporary = Path(name)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump({"version": VERSION, "bans": rows}, stream, indent=1)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(self._folder / FILE)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error


def _loaded(row: dict[str, object]) -> Ban:
    jails, told = row["jails"], row["firewall"]
    if not isinstance(jails, dict) or told not in ("none", "banned", "owed-ban", "owed-unban"):
        raise ValueError("a ban is not as it is written")
    address = str(ipaddress.ip_address(str(row["address"])))
    return Ban(address, {str(jail): str(since) for jail, since in jails.items()}, told)


def _jail(name: str) -> str:
    if not JAIL.fullmatch(name):
        raise Refused(f"{name[:60]!r} is no name of a jail.")
    return name


def _order(text: str) -> tuple[int, int]:
    address = ipaddress.ip_address(text)
    return address.version, int(address)
