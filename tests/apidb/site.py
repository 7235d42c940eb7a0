"""The stand-in for a test: started, stopped, killed and restarted; its rows, its faults, its request log."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.apidb.server import SIDE_DOOR, RequestLog, Server
from tests.apidb.state import PASSWORD, USER, VISITOR, Row, State, customer_row, student_row, workshop_row
from tests.support import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]


class ApiDbSite:
    """A stand-in in a folder. Rows can be read and changed whether it runs or not; faults end with the server's life.

    Args:
        folder: where `apidb.log` and `apidb.json` are; they stay over a restart.
        base: WODBASESTDID, what is added to a student's number to make the row's id.
        process: a real process, which can be killed; else a thread, which starts quicker.
        settings: `token_seconds` (180), `absent` ("error" or "hang": a PUT of an absent row), `booleans` ("real",
            "strings", "mixed").

    Use it as a context manager, or call `start` and `stop`.
    """

    def __init__(self, folder: Path, *, base: int = 0, process: bool = False, **settings: Any) -> None:
        self.log_file = folder / "apidb.log"
        self.data_file = folder / "apidb.json"
        self.base = base
        self.port = free_port()
        self.user, self.password, self.visitor = USER, PASSWORD, VISITOR
        self._process = process
        self._child: subprocess.Popen[bytes] | None = None
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._life = threading.RLock()  # no row is read or changed while it starts or ends
        self.configure(**settings)

    @property
    def url(self) -> str:
        """WODAPIDBEXTURL."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def keys(self) -> dict[str, Any]:
        """The configuration keys of a backend that uses it."""
        service = {"WODAPIDBEXTURL": self.url, "WODAPIDBUSER": self.user, "WODAPIDBUSERPWD": self.password}
        return {**service, "WODBASESTDID": self.base} if self.base else service

    # -- life -------------------------------------------------------------------------------------------------

    def __enter__(self) -> ApiDbSite:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._child is not None or self._server is not None

    def start(self) -> None:
        """Serve on the port; returns when it answers."""
        with self._life:
            if self.running:
                raise RuntimeError("the stand-in runs already")
            if self._process:
                self._start_process()
                return
            self._server = Server(self.port, State(self.data_file), RequestLog(self.log_file))
            self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="apidb", daemon=True)
            self._thread.start()

    def _start_process(self) -> None:
        files = ["--log", str(self.log_file), "--data", str(self.data_file)]
        command = [sys.executable, "-m", "tests.apidb", "--port", str(self.port), *files]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None
        self._child = child
        with child.stdout as out:
            if not out.readline():
                child.wait(timeout=20)
                self._child = None
                raise RuntimeError("the stand-in did not start")

    def stop(self) -> None:
        """End it: from now on connections are refused."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; in a thread the same as `stop`."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it again: same port, same rows, same log."""
        with self._life:
            self.kill()
            self.start()

    def _end(self, number: signal.Signals) -> None:
        with self._life:
            if self._child is not None:
                os.kill(self._child.pid, number)
                self._child.wait(timeout=20)
                self._child = None
            if self._server is not None and self._thread is not None:
                self._server.end()
                self._thread.join()
                self._server = self._thread = None

    # -- rows -------------------------------------------------------------------------------------------------

    def add_workshop(self, notebook: str, **fields: Any) -> int:
        """Add a workshop (WKSHP-Name; fields as `state.workshop_row` names them); its id."""
        return self._add("workshops", [workshop_row(notebook, **fields)])[0]

    def add_student(self, student: int, **fields: Any) -> int:
        """Add a free student by its number; its id, which is the number plus `base`."""
        return self._add("students", [student_row(student, id=student + self.base, **fields)])[0]

    def add_students(self, numbers: Iterable[int]) -> None:
        """Add many free students at once."""
        self._add("students", [student_row(number, id=number + self.base) for number in numbers])

    def add_customer(self, notebook: str, student: int | None, **fields: Any) -> int:
        """Add a participant of a workshop who has a student (its number; None: none); its id (`id=57` to choose it).

        The student, when it is there, becomes assigned, as at a registration.
        """
        number = None if student is None else student + self.base
        added = self._add("customers", [customer_row(notebook, number, **fields)])[0]
        if student is not None and self.find("students", student + self.base):
            self.update("students", student + self.base, assigned=True)
        return added

    def rows(self, table: str) -> list[Row]:
        """All rows of workshops, students, customers or history (`state.State.rows`); booleans as booleans."""
        with self._life:
            if not self.running:
                return State(self.data_file).rows(table)
            found: list[Row] = self._ask("/read", {"table": table})
            return found

    def find(self, table: str, number: int) -> Row | None:
        """One row by its id, None when absent."""
        return next((row for row in self.rows(table) if row["id"] == number), None)

    def row(self, table: str, number: int) -> Row:
        """One row by its id, which must be there."""
        found = self.find(table, number)
        assert found is not None, f"{table} has no row {number}"
        return found

    def student(self, student: int) -> Row:
        """A student's row by the student's number."""
        return self.row("students", student + self.base)

    def customer(self, number: int) -> Row:
        """A participant's row."""
        return self.row("customers", number)

    def update(self, table: str, number: int, **fields: Any) -> Row:
        """Change fields of a row behind the API, as the frontend does; not in the log."""
        body = {"table": table, "id": number, "fields": fields}
        with self._life:
            found = self._ask("/update", body) if self.running else State(self.data_file).update(table, number, fields)
        assert found is not None, f"{table} has no row {number}"
        return dict(found)

    def _add(self, table: str, rows: list[Row]) -> list[int]:
        with self._life:
            if not self.running:
                return State(self.data_file).add(table, rows)
            found: list[int] = self._ask("/rows", {"table": table, "rows": rows})
            return found

    # -- ways to go wrong -------------------------------------------------------------------------------------

    def fault(self, kind: str, times: int | None = None, **more: Any) -> None:
        """Switch a fault on (`faults.KINDS`); `times` requests long, None for ever.

        `more`: method="PUT", path="^/customer/" (a regular expression, below /api), seconds=…, status=….
        """
        self._ask("/fault", {"kind": kind, "times": times, **more})

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._ask("/clear-faults", {})

    def expire_tokens(self) -> None:
        """Every token that was given so far is bad from now on."""
        self._ask("/expire-tokens", {})

    def configure(self, **settings: Any) -> None:
        """Change `token_seconds`, `absent`, `booleans`."""
        with self._life:
            if self.running:
                self._ask("/configure", settings)
            else:
                State(self.data_file).configure(settings)

    def set_account(self, name: str, password: str, roles: Iterable[str] = ("ROLE_ADMIN",)) -> None:
        """Add an account, or change its password and roles."""
        self._ask("/account", {"name": name, "password": password, "roles": list(roles)})

    def _ask(self, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", SIDE_DOOR + path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(text.decode())
        return json.loads(text)

    # -- the request log --------------------------------------------------------------------------------------

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """Every request to the API in order: time, method, path, body (passwords as `state.shown`), status (0: never
        answered), token (a short name of it), fault (when one hit it). `since`: leave out so many (see `mark`)."""
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line.endswith("}")][since:]

    def mark(self) -> int:
        """How long the log is now, to be given to `log` and `puts` later."""
        return len(self.log())

    def puts(self, since: int = 0, *, all_of_them: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """Path (below /api) and body of the PUTs that changed a row, in order; `all_of_them`: those refused too."""
        return [
            (line["path"].removeprefix("/api"), line["body"])
            for line in self.log(since)
            if line["method"] == "PUT" and (all_of_them or line["status"] == 200)
        ]

    def await_puts(self, count: int, since: int = 0, seconds: float = 60.0) -> list[tuple[str, dict[str, Any]]]:
        """Wait until so many PUTs have changed a row; returns them."""
        return wait_until(
            lambda: found if len(found := self.puts(since)) >= count else [], seconds=seconds, what=f"{count} PUTs"
        )
