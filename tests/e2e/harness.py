"""A sandbox deployment in a folder, its real server process, and a mail client."""

from __future__ import annotations

import email
import json
import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import yaml

from tests import asuser
from tests.support import free_port, wait_until
from wodmail import registry
from wodmail.config import load
from wodmail.registry.base import Seat
from wodmail.schema import Settings
from wodmail.store import Store, open_store

ROOT = Path(__file__).resolve().parents[2]
SENDER = "wodadmin@localhost"
NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


class Deployment:
    """Everything below one folder: configuration, workshops, scripts, state.

    Args:
        folder: an empty folder.
        database: WODDATABASEURL; empty for SQLite in the state folder.
        extra: more settings.

    `user`, when a test sets it, is the account that the server runs as.
    """

    def __init__(self, folder: Path, database: str = "", **extra: Any) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.notebooks = folder / "notebooks"
        self.scripts = folder / "scripts"
        self.file = folder / "wod.yml"
        self.port = free_port()
        for made in (self.notebooks, self.scripts):
            made.mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "WODSANDBOX": True,
            "WODUSER": "wodadmin",
            "WODBEFQDN": "localhost",
            "WODSTATEDIR": str(self.state),
            "WODNOBO": str(self.notebooks),
            "WODSCRIPTDIR": str(self.scripts),
            "WODPOSTPORT": self.port,
            "WODSSHKEYTYPE": "ed25519",
            "WODDATABASEURL": database,
            **extra,
        }
        self.file.write_text(yaml.safe_dump(values), encoding="utf-8")
        self.user = ""
        self.sender = SENDER
        self.running: list[subprocess.Popen[bytes]] = []
        self._store: Store | None = None

    @property
    def settings(self) -> Settings:
        """The configuration as the server reads it."""
        return load(self.file)

    @property
    def store(self) -> Store:
        """The database; the server makes its tables."""
        if self._store is None:
            self._store = open_store(self.settings)
        return self._store

    def home(self, student: int) -> Path:
        """A student's home."""
        return self.state / "student" / f"student{student}"

    @property
    def outbox_folder(self) -> Path:
        """WODOUTBOX."""
        return self.state / "outbox"

    # -- content ----------------------------------------------------------------------------------------------

    def workshop(self, name: str, files: Mapping[str, str] | None = None, **meta: Any) -> Path:
        """Make a workshop with a small notebook that is personalised."""
        folder = self.notebooks / name
        folder.mkdir(parents=True)
        described = {"name": name, "description": "for a test", "active": True, "capacity": 20, "range": [1, 100]}
        text = yaml.safe_dump({**described, "reset": False, **meta})
        (folder / "wod.yml").write_text(f"%YAML 1.1\n# of a test\n---\n{text}", encoding="utf-8")
        cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["student {{ STDID }}"]}
        (folder / "0-ReadMeFirst.ipynb").write_text(json.dumps({**NOTEBOOK, "cells": [cell]}), encoding="utf-8")
        for file, content in (files or {}).items():
            (folder / file).write_text(content, encoding="utf-8")
        return folder

    def script(self, name: str, text: str) -> None:
        """Make a public workshop script."""
        (self.scripts / name).write_text(text, encoding="utf-8")

    # -- processes --------------------------------------------------------------------------------------------

    def start(self, *arguments: str, module: str = "wodmail", wait: bool = True) -> subprocess.Popen[bytes]:
        """Start a server and wait until it answers; `module` may be a test's own program."""
        given = arguments or ("serve",)
        log = (self.folder / "server.log").open("ab")
        command = [sys.executable, "-m", module, *given, "--config", str(self.file)]
        environment = None
        if self.user:
            command, environment = [*asuser.prefix(self.user), *command], asuser.environment(self.user)
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        log.close()
        self.running.append(process)
        if wait and ("serve" in given or module != "wodmail"):
            wait_until(lambda: self.answers() or process.poll() is not None, seconds=60, what="the server's greeting")
        return process

    def answers(self) -> bool:
        """Whether the listener greets."""
        try:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
                client.noop()
        except OSError:
            return False
        return True

    def log(self) -> str:
        """What the servers printed."""
        return (self.folder / "server.log").read_text(encoding="utf-8")

    def trace(self) -> str:
        """What operators `tail`; empty when nothing was done yet."""
        file = self.state / ".mail" / "from"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def seat(self, student: int) -> Seat:
        """What the registry knows of a seat."""
        known = registry.for_settings(load(self.file, files=False))
        try:
            return known.seat(student)
        finally:
            known.close()

    def untold(self, row: dict[str, Any]) -> bool:
        """Whether a CREATE failed before anybody was told of the password or let in: the seat is not in use."""
        later = {step_of(row, name)["state"] for name in ("registry-password", "registry-active", "hub-start")}
        return (row["state"], later, self.seat(row["students"][0]).active) == ("failed", {"waiting"}, False)

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """SIGTERM, and the exit status."""
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=60)

    def close(self) -> None:
        """End what still runs."""
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self._store is not None:
            self._store.close()

    # -- mails ------------------------------------------------------------------------------------------------

    def mail(self, subject: str, body: str = "WKSHP-Test", *, message_id: str = "", sender: str = "") -> str:
        """Send a mail; returns the server's reply to its DATA."""
        head = f"Subject: {subject}\r\n" + (f"Message-ID: {message_id}\r\n" if message_id else "")
        with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as client:
            client.ehlo()
            client.mail(sender or self.sender)
            client.rcpt("wod@localhost")
            code, reply = client.data(f"{head}\r\n{body}\r\n".encode())
        return f"{code} {reply.decode()}"

    def outbox(self) -> list[Message]:
        """Every mail that went out, in no order."""
        folder = self.outbox_folder / "new"
        return [email.message_from_bytes(file.read_bytes()) for file in folder.glob("*")] if folder.is_dir() else []

    def subjects(self) -> list[str]:
        """The subjects of every mail that went out, sorted."""
        return sorted(re.sub(r"\s+", " ", str(mail["Subject"])) for mail in self.outbox())

    # -- requests ---------------------------------------------------------------------------------------------

    def requests(self) -> list[dict[str, Any]]:
        """All requests, oldest first."""
        return self.store.recent(0)[::-1]

    def ended(self, count: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait until so many requests have ended and none is at work; returns all."""

        def all_ended() -> list[dict[str, Any]]:
            found = self.requests()
            return found if len(found) >= count and all(row["finished"] for row in found) else []

        return wait_until(all_ended, seconds=seconds, what=f"the end of {count} requests")

    def one(self, subject: str, body: str = "WKSHP-Test", seconds: float = 60.0) -> dict[str, Any]:
        """Send a mail and wait for its request's end and its result mail."""
        before = len(self.requests())
        assert self.mail(subject, body).startswith("250 ")
        row = self.ended(before + 1, seconds)[-1]
        wait_until(lambda: self.replies(row["id"]), what=f"the reply of request {row['id']}")
        return row

    def replies(self, request: int) -> list[Message]:
        """The mails that answer a request."""
        return [mail for mail in self.outbox() if str(mail["Message-ID"]).startswith(f"<wodmail.{request}.")]


def step_of(row: dict[str, Any], name: str, job: int = 0) -> dict[str, Any]:
    """A step of a request's job."""
    found: dict[str, Any] = next(step for step in row["jobs"][job]["steps"] if step["name"] == name)
    return found
