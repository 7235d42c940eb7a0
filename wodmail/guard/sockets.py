"""Students' TCP connections by the other side's port, from /proc/net/tcp and tcp6 (proc(5))."""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wodmail.guard.watch import Seen, Students

_OPEN = {"01", "02"}  # established, and asking to be (include/net/tcp_states.h)
_CONNECTIONS, _DESCRIPTORS = 100, 4096  # of a student; of a process
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
    """

    student: int
    address: str
    port: int
    here: bool
    inode: int


def connections(
    students: Students, ports: Collection[int], tables: Iterable[str] = ("/proc/net/tcp", "/proc/net/tcp6")
) -> list[Connection]:
    """Students' connections to some ports.

    Args:
        students: whose sockets count.
        ports: of the other side.
        tables: files in the kernel's form.
    """
    if not ports:
        return []
    found = []
    for table in tables:
        try:
            text = Path(table).read_text(encoding="ascii")
        except FileNotFoundError:  # a kernel without IPv6
            continue
        found += list(_rows(text, students, set(ports)))
    return found


def _rows(text: str, students: Students, ports: set[int]) -> Iterator[Connection]:
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] not in _OPEN:
            continue
        host, _, port = fields[2].partition(":")
        student = students.number(int(fields[7]))
        if student is None or int(port, 16) not in ports:
            continue
        address = _address(host)
        own = fields[1].partition(":")[0] == host
        yield Connection(student, str(address), int(port, 16), own or address.is_loopback, int(fields[9]))


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel prints it: words of four bytes in the machine's own order."""
    words = [int(digits[place : place + 8], 16) for place in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def holders(found: Iterable[Connection], processes: Iterable[Seen]) -> dict[int, list[Seen]]:
    """Which processes have the connections open, by the connection's inode.

    A student may have any number of connections and descriptors, so only so many of each are looked at.

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
    for seen in processes:
        inodes = wanted.get(seen.student, set())
        for inode in _sockets(seen.pid) & inodes if inodes else ():
            holding.setdefault(inode, []).append(seen)
    return holding


def _sockets(pid: int) -> set[int]:
    """The sockets that a process has open; of one that ends meanwhile none."""
    folder = f"/proc/{pid}/fd"
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, _DESCRIPTORS)]
    except OSError:
        return set()
    return {inode for name in names if (inode := _socket(f"{folder}/{name}")) is not None}


def _socket(path: str) -> int | None:
    try:
        match = _SOCKET.fullmatch(os.readlink(path))  # noqa: PTH115 - may be no path at all
    except OSError:
        return None
    return int(match[1]) if match else None
