"""A small SMTP client: one mail at a time over one connection, timed to the 250."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

TIMEOUT = 60.0


class Client:
    """A connection to an SMTP server on loopback.

    Args:
        port: the server's port.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        self._answer("220")
        self._ask("HELO bench.example", "250")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._answers.close()
        self._socket.close()

    def _answer(self, code: str) -> None:
        while True:
            line = self._answers.readline().decode("ascii", "replace")
            if not line.startswith(code):
                raise ConnectionError(f"the server answered {line.strip() or 'nothing'!r}, not {code}")
            if line[3:4] != "-":
                return

    def _ask(self, command: str, code: str) -> None:
        self._socket.sendall(command.encode("ascii") + b"\r\n")
        self._answer(code)

    def send(self, subject: str, body: str, number: int = 0) -> float:
        """Send a mail.

        Args:
            subject: the command.
            body: the workshop.
            number: makes its Message-ID unique.

        Returns:
            the clock (`time.time`) at the 250.
        """
        mail = (
            f"From: bench@example.org\r\nTo: wodadmin@localhost\r\nSubject: {subject}\r\n"
            f"Message-ID: <{number}.{time.time_ns()}@bench.example>\r\n\r\n{body}\r\n.\r\n"
        )
        self._ask("MAIL FROM:<bench@example.org>", "250")
        self._ask("RCPT TO:<wodadmin@localhost>", "250")
        self._ask("DATA", "354")
        self._socket.sendall(mail.encode("ascii"))
        self._answer("250")
        return time.time()


def send_one(port: int, subject: str, body: str, number: int = 0) -> float:
    """Send one mail over a connection of its own; returns the clock at the 250."""
    with Client(port) as client:
        return client.send(subject, body, number)


def rate(port: int, connections: int, mails: int, subject: Callable[[int], str]) -> float:
    """Mails a second that a server accepts.

    Args:
        port: the server's port.
        connections: how many stay open side by side.
        mails: how many in all.
        subject: the subject of the mail of that number.

    Raises:
        ConnectionError: a mail was not accepted.
    """
    numbers = iter(range(mails))
    lock = threading.Lock()
    errors: list[Exception] = []

    def work(client: Client) -> None:
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                client.send(subject(number), "WKSHP-Bench", number)
        except OSError as error:
            errors.append(error)

    clients = [Client(port) for _ in range(connections)]
    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    for client in clients:
        client.__exit__(None, None, None)
    if errors:
        raise ConnectionError(f"a mail was not accepted: {errors[0]}") from errors[0]
    return mails / taken
