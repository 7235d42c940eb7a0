"""A listener of its own for tests of the doors."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import free_port
from wodmail.config import Settings
from wodmail.mail.listener import Listener
from wodmail.mail.spool import Spool, StoredMail

STRICT: dict[str, Any] = {"WODTRUSTEDPEERS": []}


class Running:
    """A running listener and its spool.

    Args:
        listener: the listener, started.
        spool: where it stores.
    """

    def __init__(self, listener: Listener, spool: Spool, signals: list[int]) -> None:
        self.listener = listener
        self.spool = spool
        self.signals = signals

    @property
    def port(self) -> int:
        """Its port."""
        return self.listener.port

    def mails(self) -> list[StoredMail]:
        """All mails that were stored and not settled."""
        return [self.spool.read(key) for key in self.spool.new()]

    def raws(self) -> list[bytes]:
        """The stored mails as sent."""
        return [mail.raw for mail in self.mails()]

    def connect(self) -> socket.socket:
        """A raw connection with a time limit."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def talk(self, data: bytes) -> bytes:
        """Send everything at once, end the sending side, and return all that is answered."""
        with self.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    answer = b""
    try:
        while part := client.recv(65536):
            answer += part
    except ConnectionResetError:
        return answer
    return answer


def read_until(client: socket.socket, what: bytes) -> bytes:
    """Everything until `what` was received; fails when the connection ends before."""
    answer = b""
    while what not in answer:
        part = client.recv(65536)
        assert part, f"the server closed before {what!r}; until then: {answer!r}"
        answer += part
    return answer


@contextmanager
def running(
    folder: Path,
    *,
    peers: bool = True,
    senders: tuple[str, ...] | None = None,
    timeout: float = 30.0,
    limit: int = 500,
    spool: Spool | None = None,
    **values: Any,
) -> Iterator[Running]:
    """A listener that is stopped at the end.

    Args:
        folder: the spool is made below it.
        peers: whether any peer may command.
        senders: the allowed senders, None for all.
        timeout: seconds a session may be silent.
        limit: connections at a time.
        spool: a spool of one's own.
        values: settings.
    """
    place = spool or Spool(folder / "spool")
    signals: list[int] = []
    listener = Listener(
        Settings(WODPOSTPORT=free_port(), WODBEFQDN="backend.test", **values),
        place,
        lambda: signals.append(1),
        peer_allowed=lambda _settings, _peer: peers,
        sender_allowed=lambda _settings, sender: senders is None or sender in senders,
        timeout=timeout,
        limit=limit,
    )
    listener.start()
    try:
        yield Running(listener, place, signals)
    finally:
        listener.stop()
