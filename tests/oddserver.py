"""An HTTP server that gives scripted answers: whole, odd, slow or none; and counts what it was asked."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Script = Callable[[str, str, bytes], "bytes | list[bytes]"]
"""From method, path and body to the raw answer; a list is sent piece by piece, `seconds` apart."""


@dataclass
class Odd:
    """What is known of such a server.

    Args:
        url: WODAPIDBEXTURL.
        asked: how often, by "METHOD /path".
        bodies: every body in order.
    """

    url: str
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[bytes] = field(default_factory=list)


def answer(status: int, text: str, **headers: str) -> bytes:
    """A raw answer; header names with _ for -."""
    lines = [f"HTTP/1.1 {status} Odd", f"Content-Length: {len(text.encode())}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + text).encode()


@contextmanager
def serving(script: Script, seconds: float = 0.05, tls: tuple[Path, Path] | None = None) -> Iterator[Odd]:
    """Serve a script on loopback.

    Args:
        script: gives the answers.
        seconds: between the pieces of an answer that is a list.
        tls: certificate and key, to speak https.
    """
    leaving = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        """One connection, one answer."""

        def handle_request(self) -> None:
            """Count, ask the script, send."""
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            odd.asked[f"{self.command} {self.path.removeprefix('/api')}"] += 1
            odd.bodies.append(body)
            given = script(self.command, self.path.removeprefix("/api"), body)
            for piece in given if isinstance(given, list) else [given]:
                self.wfile.write(piece)
                if isinstance(given, list) and leaving.wait(seconds):
                    break
            self.close_connection = True

        do_GET = do_POST = do_PUT = handle_request  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        """Clients that leave in the middle are no news."""

        daemon_threads = True

        def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
            """Nothing."""

    server = Server(("127.0.0.1", 0), Handler)
    odd = Odd(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/api")
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield odd
    finally:
        leaving.set()
        server.shutdown()
        server.server_close()
        thread.join()
