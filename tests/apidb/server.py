"""The stand-in as an HTTP server: the API below /api, the tests' side door below /stand-in, a log of every request."""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.apidb import tokens
from tests.apidb.api import NEVER, Answer, answer
from tests.apidb.faults import Fault, Faults
from tests.apidb.state import State, shown

SIDE_DOOR = "/stand-in"
PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n"


class RequestLog:
    """One line of JSON for each request, written before its answer goes out; it goes on after a restart."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """Append a line; the caller keeps the order."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._file.write(json.dumps({"time": now, **fields}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """End it."""
        self._file.close()


def hidden(body: Any) -> Any:
    """A body with its passwords replaced by `state.shown`."""
    if not isinstance(body, dict):
        return None
    return {name: shown(value) if name == "password" else value for name, value in body.items()}


class Server(ThreadingHTTPServer):
    """The server.

    Args:
        port: on loopback; 0 for any.
        state: the rows.
        log: where requests are noted.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, state: State, log: RequestLog) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state = state
        self.log = log
        self.faults = Faults()
        self.one_at_a_time = threading.Lock()
        self.leaving = threading.Event()
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that it can be ended with the server."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget it."""
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone, or a connection that was ended, is no error; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def end(self) -> None:
        """Stop listening and end every connection, as the end of a process would."""
        self.leaving.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            end_connection(connection)
        with self.one_at_a_time:
            self.log.close()


def end_connection(connection: socket.socket) -> None:
    """Both directions, now; a connection that has ended already is fine."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle_request(self) -> None:
        """Read the body, go to the side door or the API, answer."""
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body: Any = None
        if "application/json" in (self.headers.get("Content-Type") or ""):
            try:
                body = json.loads(raw)
            except ValueError:
                body = None
        path = self.path.partition("?")[0]
        if path.startswith(SIDE_DOOR):
            self._send(self._side_door(path.removeprefix(SIDE_DOOR), body))
        else:
            self._api(path, body)

    do_GET = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815 - http.server's names

    def _api(self, path: str, body: Any) -> None:
        below = path.removeprefix("/api") if path.startswith("/api/") else f"/outside{path}"
        token = self.headers.get("x-access-token") or ""
        fault = self.server.faults.take(self.command, below)
        if fault and fault.kind == "slow":
            self.server.leaving.wait(fault.seconds)
        with self.server.one_at_a_time:  # rows change in the order of the log
            if self.server.leaving.is_set():
                self.close_connection = True
                return
            found = faulty(fault) if fault else None
            if found is None:
                found = answer(self.server.state, self.command, below, token, body)
            noted = {"fault": fault.kind} if fault else {}
            line = {"method": self.command, "path": path, "body": hidden(body), "status": found.status}
            self.server.log.write(**line, token=tokens.name_of(token), **noted)
        if found.status == 0:
            if fault is None or fault.kind == "hang":
                self._wait_until_gone()
            self.close_connection = True
            end_connection(self.connection)
        elif fault and fault.kind == "lost":
            self.close_connection = True
            end_connection(self.connection)
        else:
            self._send(found)

    def _wait_until_gone(self) -> None:
        """Give no answer until the client leaves or the server ends."""
        while not self.server.leaving.is_set():
            if select.select([self.connection], [], [], 0.1)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _send(self, found: Answer) -> None:
        text = isinstance(found.value, str)
        data = found.value.encode() if text else json.dumps(found.value).encode()
        self.send_response(found.status)
        self.send_header("Content-Type", found.kind if text else "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in found.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """The request log has more."""

    # -- the side door ----------------------------------------------------------------------------------------

    def _side_door(self, path: str, body: Any) -> Answer:
        """Rows and faults for tests: no part of the API, no token, never in the log."""
        state, faults = self.server.state, self.server.faults
        try:
            match path:
                case "/rows":
                    return Answer(200, state.add(body["table"], body["rows"]))
                case "/read":
                    return Answer(200, state.rows(body["table"]))
                case "/update":
                    with self.server.one_at_a_time:
                        return Answer(200, state.update(body["table"], body["id"], body["fields"]))
                case "/account":
                    state.set_account(body["name"], body["password"], body["roles"])
                case "/configure":
                    state.configure(body)
                case "/expire-tokens":
                    state.expire_tokens()
                case "/fault":
                    faults.add(Fault(**body))
                case "/clear-faults":
                    faults.clear()
        except (KeyError, TypeError, ValueError) as error:
            return Answer(400, f"{type(error).__name__}: {error}")
        return Answer(200, {"faults": faults.listed(), "time": time.time()})


def faulty(fault: Fault) -> Answer | None:
    """What a fault answers; None when the right answer goes out (late, or into the void)."""
    seconds = {"Retry-After": f"{fault.seconds:g}"}
    answers = {
        "unauthorized": Answer(401, {"message": "Unauthorized!"}),
        "forbidden": Answer(403, {"message": "Require Admin Role!"}),
        "html": Answer(fault.status or 200, PAGE),
        "broken": Answer(200, '[{"id": 1, "name": ', "application/json; charset=utf-8"),
        "busy": Answer(429, {"message": "Too many requests"}, headers=seconds),
        "error": Answer(fault.status or 503, "Service Unavailable", "text/plain"),
        "hang": NEVER,
        "drop": NEVER,
    }
    return answers.get(fault.kind)
