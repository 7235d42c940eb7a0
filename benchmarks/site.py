"""A sandbox backend in a folder of its own: the real `wodmail serve`, asked over real SMTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
import yaml

from benchmarks.figures import until
from wodmail.config import load
from wodmail.store import mails, open_store

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = 200


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """A program of this Python's environment, else of the PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else name


def notebooks() -> tuple[Path, str]:
    """The notebooks folder and the workshop to measure with: API101 when it lies beside the checkout, else the demo."""
    real = ROOT.parent / "shared" / "notebooks"
    if (real / "WKSHP-API101").is_dir():
        return real, "WKSHP-API101"
    demo = ROOT / "conf" / "demo" / "notebooks"
    return demo, sorted(entry.name for entry in demo.iterdir())[0]


class Site:
    """A running `wodmail serve`; a context manager.

    Args:
        folder: where its configuration and state go; made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "wod.yml"
        self.outbox = self.state / "outbox"
        self.trace = self.state / ".mail" / "from"
        self.port = free_port()
        tree, self.workshop = notebooks()
        folder.mkdir(parents=True)
        values = {
            "WODSANDBOX": True,
            "WODSTATEDIR": str(self.state),
            "WODPOSTPORT": self.port,
            "WODNOBO": str(tree),
            "WODUSERMAX": STUDENTS,
            "BRANDINGLOGO": "logo",
            "BRANDINGURL": "https://example.org",
            "SURVEYURL": "https://example.org/survey",
            "SURVEYCHALURL": "https://example.org/challenge",
        }
        self.config.write_text(yaml.safe_dump(values), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Site:
        argv = [program("wodmail"), "serve", "--config", str(self.config)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        try:
            until(self._answers, seconds=60, every=0.05, what="the server's port")
        except TimeoutError:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"wodmail serve ended at once:\n{self.log()}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as client:
                return client.recv(3) == b"220"
        except OSError:
            return False

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def log(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-20:])

    def results(self) -> list[os.DirEntry[str]]:
        """The mails that have gone out, in no order."""
        try:
            with os.scandir(self.outbox / "new") as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    def await_results(self, count: int, seconds: float) -> None:
        """Wait until that many mails have gone out.

        Raises:
            TimeoutError: with the server's last words.
        """
        try:
            until(lambda: len(self.results()) >= count, seconds=seconds, every=0.01, what=f"{count} result mails")
        except TimeoutError as error:
            raise TimeoutError(
                f"{error}; there are {len(self.results())}; the server's log ends:\n{self.log()}"
            ) from None

    def await_quiet(self, seconds: float) -> None:
        """Wait until every mail is taken in and every answer that is to go out is out.

        Raises:
            TimeoutError: it is still at work then.
        """
        store = open_store(load(self.config))
        due = sa.select(sa.func.count().label("n")).where(mails.c.state == "due")

        def quiet() -> bool:
            with os.scandir(self.state / "spool" / "new") as entries:
                left = store.row(due)
                return not list(entries) and left is not None and left["n"] == 0

        try:
            until(quiet, seconds=seconds, every=0.2, what="the server to have nothing left to do")
        finally:
            store.close()

    def requests(self) -> list[dict[str, Any]]:
        """What `wodmail requests --json` says, newest first."""
        argv = [program("wodmail"), "requests", "--json", "--limit", "0", "--config", str(self.config)]
        printed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
        rows: list[dict[str, Any]] = json.loads(printed)["requests"]
        return rows

    def insist_all_done(self, count: int) -> list[dict[str, Any]]:
        """The requests, once it is sure that there are that many and each ended done.

        Raises:
            RuntimeError: another number, or one that is not done.
        """
        rows = self.requests()
        states = [row["state"] for row in rows]
        if states != ["done"] * count:
            raise RuntimeError(f"expected {count} requests, all done; got {states}\n{self.log()}")
        return rows
