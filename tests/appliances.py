"""Appliances for tests: real hosts with a network, users, sudo and sshd of their own, made of Linux namespaces.

Each host is a process tree in its own mount, network, process and host name namespaces, reached from the machine that
the tests run on over a veth pair. Its first process ends with the test process, and everything goes with it: nothing
has to be removed afterwards, not even when a run was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from tests.linux_students import SERVICE
from tests.parts import missing, require
from tests.support import wait_until

UIDS = 71000
_INIT = Path(__file__).with_name("appliancehost.sh")
_FIRST = 11


@dataclass
class _Host:
    """A running host."""

    address: str
    process: subprocess.Popen[str]
    init: int
    card: str


class Appliances:
    """Some appliances with consecutive addresses.

    Args:
        count: how many.
        students: numbers of the students who have an account on each.
        key: public key that lets the service user in, one line.
    """

    def __init__(self, count: int, students: Sequence[int], key: str) -> None:
        for part in ("root", "sshd", "ip", "sudo", "ssh-keygen"):
            require(part)
        self._mark, self._subnet = free_subnet()
        self._students, self._key = students, key
        self.addresses = [f"{self._subnet}.{_FIRST + number}" for number in range(count)]
        self._hosts: dict[str, _Host] = {}

    @property
    def base(self) -> str:
        """The address of the first, as the group variable IP-<w> names it."""
        return self.addresses[0]

    def start(self) -> None:
        """Start all of them; they answer when this returns."""
        for number, address in enumerate(self.addresses):
            self._hosts[address] = self._launch(number, address)
        for host in self._hosts.values():
            self._connect(host)

    def _launch(self, number: int, address: str) -> _Host:
        spaces = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        # The parent may be killed: whatever was started dies with it, and the namespaces with that.
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *spaces, "--", "bash", str(_INIT), SERVICE, str(UIDS)]
        process = subprocess.Popen(
            [*argv, *map(str, self._students)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        host = _Host(address, process, 0, f"wt{os.getpid()}x{number}")
        _tell(host, f"appliance{number + 1}")
        return host

    def _connect(self, host: _Host) -> None:
        _expect(host, "made")
        children = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children")
        host.init = int(children.read_text().split()[0])
        gateway = f"{self._subnet}.254"
        _quiet("ip", "link", "add", host.card, "type", "veth", "peer", "name", "eth0", "netns", str(host.init))
        _quiet("ip", "address", "add", gateway, "peer", f"{host.address}/32", "dev", host.card)
        _quiet("ip", "link", "set", host.card, "up")
        _tell(host, f"{host.address} {gateway}")
        _expect(host, "up")
        home = f"/home/{SERVICE}"
        self.run(host.address, ["install", "-d", "-m", "0700", "-o", SERVICE, "-g", SERVICE, f"{home}/.ssh"])
        self.write(host.address, f"{home}/.ssh/authorized_keys", self._key)
        wait_until(lambda: answers(host.address), what=f"sshd on {host.address}")

    def stop(self) -> None:
        """End all of them, with everything they have."""
        for host in self._hosts.values():
            host.process.kill()
            host.process.communicate()
        self._hosts.clear()
        self._mark.close()

    def run(self, address: str, argv: Sequence[str], text: str = "", *, check: bool = True) -> str:
        """Run a program as root on a host; gives what it printed."""
        host = self._hosts[address]
        enter = ["nsenter", "--target", str(host.init), "--mount", "--net", "--pid", "--uts", "--ipc", "--"]
        done = subprocess.run(
            [*enter, *argv], input=text, capture_output=True, text=True, check=False, cwd="/", timeout=60
        )
        assert not check or done.returncode == 0, f"{argv} on {address}: {done.stderr}"
        return done.stdout

    def shell(self, address: str, script: str, *, user: str = "") -> str:
        """Run a shell script on a host, as root or as another user in that one's home."""
        argv = ["bash", "-ec", script]
        return self.run(address, ["runuser", "-l", user, "-c", script] if user else argv)

    def write(self, address: str, path: str, text: str, mode: str = "0644") -> None:
        """Write a file on a host."""
        self.run(address, ["bash", "-c", 'cat >"$1" && chmod "$2" "$1"', "bash", path, mode], text)

    def down(self, address: str) -> None:
        """Pull the cable."""
        self.run(address, ["ip", "link", "set", "eth0", "down"])

    def up(self, address: str) -> None:
        """Put the cable back."""
        self.run(address, ["ip", "link", "set", "eth0", "up"])
        self.run(address, ["ip", "route", "replace", f"{self._subnet}.254/32", "dev", "eth0", "src", address])
        wait_until(lambda: answers(address), what=f"sshd on {address}")

    def host_key(self, address: str) -> str:
        """The host's line for known_hosts."""
        kind, data = self.run(address, ["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).split()[:2]
        return f"{address} {kind} {data}\n"

    def change_host_key(self, address: str) -> None:
        """Give the host another key, as when it was installed anew."""
        again = "rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key"
        self.shell(address, f"{again}; kill -HUP $(cat /run/sshd.pid)")
        data = self.host_key(address).split()[-1]
        wait_until(lambda: data in _scanned(address), what="the new key")


@contextlib.contextmanager
def appliances(count: int, students: Sequence[int], key: str) -> Iterator[Appliances]:
    """Appliances that run, and are gone afterwards; skipped where this machine can't have any."""
    made = Appliances(count, students, key)
    try:
        _prove()
        made.start()
        yield made
    finally:
        made.stop()


def answers(address: str) -> bool:
    """Whether sshd greets there."""
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _scanned(address: str) -> str:
    return subprocess.run(["ssh-keyscan", address], capture_output=True, text=True, check=False, timeout=20).stdout


def _prove() -> None:
    """Containers often have root without the right to make namespaces."""
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        missing("ip", f"this root can't make namespaces: {done.stderr.strip()}")


def free_subnet() -> tuple[IO[str], str]:
    """A network of addresses for tests (RFC 2544) that no other test process has while this one lives."""
    folder = Path(tempfile.gettempdir()) / "wodmail-test-nets"
    folder.mkdir(exist_ok=True)
    # A machine whose run was killed leaves its card.
    used = {card.address.rpartition(".")[0] for cards in psutil.net_if_addrs().values() for card in cards}
    for number in range(1, 255):
        if f"198.18.{number}" in used:
            continue
        mark = (folder / str(number)).open("w", encoding="ascii")
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            mark.close()
            continue
        return mark, f"198.18.{number}"
    raise AssertionError("no network is free")


def _tell(host: _Host, line: str) -> None:
    assert host.process.stdin is not None
    host.process.stdin.write(line + "\n")
    host.process.stdin.flush()


def _expect(host: _Host, word: str) -> None:
    assert host.process.stdout is not None
    assert host.process.stdout.readline() == f"{word}\n", f"the host {host.address} was not made"


def _quiet(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
