"""Students' TCP connections by the other side's port, from /proc/net/tcp and tcp6 (proc(5)).

Whoever calls a student's service chooses the port that it calls from, a pool's too, and the tables don't tell who has
called. So a connection at a port where somebody listens is one that came in, and counts as nothing; one whose own port
is none of those that the system gives to who calls may have come to a service that listens no more, and only warns.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
import struct
from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wodmail.guard.watch import Seen, Students, threads

_OPEN, _ASKING, _LISTENING = "01", "02", "0A"  # include/net/tcp_states.h
_GIVEN = "/proc/sys/net/ipv4/ip_local_port_range"
_CONNECTIONS, _DESCRIPTORS = 100, 4096  # of a student; of a process
_OF_THREADS = 50_000  # descriptors in threads, of a student
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of a student.

    Args:
        student: whose socket it is.
        address: the other side's address.
        port: the other side's port.
        here: the other side is this machine.
        inode: the socket's number.
        calls: it is the student who has called; False when that can't be told.
    """

    student: int
    address: str
    port: int
    here: bool
    inode: int
    calls: bool


def connections(
    students: Students,
    ports: Collection[int],
    tables: Iterable[str] = ("/proc/net/tcp", "/proc/net/tcp6"),
    given: str = _GIVEN,
) -> list[Connection]:
    """Students' connections to some ports, but for those that came in.

    Args:
        students: whose sockets count.
        ports: of the other side.
        tables: files in the kernel's form.
        given: file with the lowest and the highest port that the system gives to who calls and asks for none.
    """
    if not ports:
        return []
    rows: list[list[str]] = []
    for table in tables:
        try:
            text = Path(table).read_text(encoding="ascii")
        except FileNotFoundError:  # a kernel without IPv6
            continue
        rows += [fields for line in text.splitlines()[1:] if len(fields := line.split()) >= 10]
    lowest, highest = map(int, Path(given).read_text(encoding="ascii").split())
    return list(_outward(rows, students, {f"{port:04X}" for port in ports}, range(lowest, highest + 1)))


def _outward(rows: list[list[str]], students: Students, ports: set[str], given: Container[int]) -> Iterator[Connection]:
    # Of whoever listens: nobody gets that port for a call, whose it may be. An IPv4 connection may be in either table.
    listening = {fields[1].partition(":")[2] for fields in rows if fields[3] == _LISTENING}
    for fields in rows:
        (own, _, own_port), (host, _, port), state = fields[1].partition(":"), fields[2].partition(":"), fields[3]
        if port not in ports or not (state == _ASKING or (state == _OPEN and own_port not in listening)):
            continue
        student = students.number(int(fields[7]))
        if student is None:
            continue
        address = _address(host)
        here, calls = own == host or address.is_loopback, state == _ASKING or int(own_port, 16) in given
        yield Connection(student, str(address), int(port, 16), here, int(fields[9]), calls)


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel prints it: words of four bytes in the machine's own order."""
    words = [int(digits[place : place + 8], 16) for place in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def holders(found: Iterable[Connection], processes: Iterable[Seen]) -> dict[int, list[Seen]]:
    """Which processes have the connections open, by the connection's inode.

    A student may have any number of connections, threads and descriptors, so only so many of each are looked at.
    Threads may have descriptors of their own, and of a process whose first thread has ended only the others have any.

    Args:
        found: the connections.
        processes: all students'.
    """
    wanted: dict[int, set[int]] = {}
    for each in found:
        inodes = wanted.setdefault(each.student, set())
        if len(inodes) < _CONNECTIONS:
            inodes.add(each.inode)
    holding: dict[int, list[Seen]] = {}
    mine: dict[int, list[Seen]] = {}
    for seen in processes:
        inodes = wanted.get(seen.student, set())
        if inodes:
            mine.setdefault(seen.student, []).append(seen)
            for inode in _sockets(f"/proc/{seen.pid}", _DESCRIPTORS)[0] & inodes:
                holding.setdefault(inode, []).append(seen)
    for student, listed in mine.items():
        missing = wanted[student] - holding.keys()
        if missing:
            _by_threads(missing, listed, holding)
    return holding


def _by_threads(missing: set[int], processes: Iterable[Seen], holding: dict[int, list[Seen]]) -> None:
    """Look for connections in every thread, as far as there is time for a student's."""
    room = _OF_THREADS
    for seen in processes:
        found: set[int] = set()
        for folder in threads(seen.pid):
            held, looked = _sockets(folder, min(room, _DESCRIPTORS))
            found |= held & missing
            room -= looked + 1
            if room <= 0:
                break
        for inode in found:
            holding.setdefault(inode, []).append(seen)
        if room <= 0 or missing <= holding.keys():
            return


def _sockets(place: str, most: int) -> tuple[set[int], int]:
    """The sockets that a process or thread has open, of one that ends meanwhile none; and how many descriptors it has.

    Args:
        place: its folder in /proc.
        most: descriptors that are looked at.
    """
    folder = f"{place}/fd"
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, most)]
    except OSError:
        return set(), 0
    return {inode for name in names if (inode := _socket(f"{folder}/{name}")) is not None}, len(names)


def _socket(path: str) -> int | None:
    try:
        match = _SOCKET.fullmatch(os.readlink(path))  # noqa: PTH115 - may be no path at all
    except OSError:
        return None
    return int(match[1]) if match else None
