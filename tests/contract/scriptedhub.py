"""A hub that answers what a test wrote down: the codes that a real one can't be made to give on demand."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Scripted = tuple[int, object] | tuple[int, object, dict[str, str]] | None
"""Status, body (JSON unless text) and headers; None breaks the connection off."""


class ScriptedHub:
    """Answers each "METHOD path" with what was written for it, in order; the last answer stays.

    `asked` is what was asked, in order; `tokens` the Authorization headers that came.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self._script: dict[str, deque[Scripted]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}{prefix}"

    def answer(self, what: str, *answers: Scripted) -> None:
        """Write answers down, e.g. `answer("POST /users/student1", (201, {}))`."""
        self._script[what] = deque(answers)

    def of(self, what: str) -> Scripted:
        """The next answer."""
        with self._lock:
            self.asked.append(what)
            queue = self._script.get(what)
            if not queue:
                return 404, {"status": 404, "message": "Not Found"}
            return queue.popleft() if len(queue) > 1 else queue[0]

    def serve(self) -> None:
        """Answer until `close`."""
        self._server.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        """Answer no more: from now on connections are refused."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                hub.tokens.add(self.headers.get("authorization") or "")
                path = self.path.removeprefix(f"{hub.prefix}/hub/api")
                found = hub.of(f"{self.command} {path}")
                if found is None:
                    return
                status, body, *headers = found
                self.send_response(status)
                raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                for name, value in (headers[0] if headers else {}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(0 if status == 204 else len(raw)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(raw)

            do_GET = do_POST = do_DELETE = _any  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Not on the terminal."""

        return Handler


@contextmanager
def scripted_hub(prefix: str = "") -> Iterator[ScriptedHub]:
    """A scripted hub that answers.

    Args:
        prefix: of its path, e.g. /jupyter.
    """
    hub = ScriptedHub(prefix)
    thread = threading.Thread(target=hub.serve, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.close()
        thread.join(5)
