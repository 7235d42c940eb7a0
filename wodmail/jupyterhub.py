"""JupyterHub: makes and removes students' hub users, starts and stops their servers.

The hub answers 400 both to a start of what runs already and to one of what is just stopping, and 202 to what it has
only begun: then its user model is read until nothing is pending. All rules are in docs/jupyterhub.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from wodmail.errors import Failed
from wodmail.hubwire import Answer, Wire
from wodmail.schema import Settings

FIRST_LOOK, LONGEST_LOOK, GROWTH = 0.1, 2.0, 1.5  # seconds between two looks at the user model
REPEATS = 3
TRIES = {400: REPEATS, 500: 2}
"""By status: how often a start is tried when the user model doesn't explain the answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """A student's server as the hub sees it: whether it runs, and what is pending (spawn, stop, …; or nothing)."""

    running: bool
    pending: str = ""


NONE = Server(running=False)


def server_of(model: Any) -> Server:
    """The default server in a user model (pure).

    Args:
        model: JSON of GET /users/{name}; `servers` holds active servers by name, the default one's name is empty. Hubs
            that know no named servers say the same in `server` and `pending`.

    Raises:
        Failed: the model shows no servers, because the token may not read them.
    """
    if not isinstance(model, dict) or not {"servers", "server"} & model.keys():
        words = "JupyterHub's user model shows no servers: give the service of WODBETOKEN the scope read:servers."
        raise Failed(words, f"keys of the model: {sorted(model) if isinstance(model, dict) else type(model).__name__}")
    servers = model.get("servers")
    if not isinstance(servers, dict):
        return Server(bool(model.get("server")), str(model.get("pending") or ""))
    found = servers.get("")
    if not isinstance(found, dict):
        return Server(running=False, pending=str(model.get("pending") or ""))
    return Server(bool(found.get("ready")), str(found.get("pending") or ""))


class JupyterHub:
    """The hub at WODBEAPIURL. Safe for several threads; waiting holds no lock.

    Args:
        settings: WODBEAPIURL, WODBETOKEN, WODHUBTIMEOUT, WODHUBPATIENCE, WODCURLOPT and WODWORKERS are used.

    Raises:
        Failed: the token or the certificates can't be used.
    """

    enabled = True

    def __init__(self, settings: Settings) -> None:
        self._wire = Wire(settings)
        self._timeout = settings.WODHUBTIMEOUT

    def close(self) -> None:
        """See `Hub.close`."""
        self._wire.close()

    def ensure(self, student: int) -> str:
        """See `Hub.ensure`."""
        answer = self._wire.call("POST", _user(student))
        if answer.status in (200, 201, 409):
            return "user exists" if answer.status == 409 else "user made"
        raise self._refusal(student, "The hub user {name} could not be made", answer)

    def remove(self, student: int) -> str:
        """See `Hub.remove`."""
        end = time.monotonic() + self._timeout
        for _ in range(REPEATS):
            answer = self._wire.call("DELETE", _user(student), slow=True)
            if answer.status in (200, 204, 404):
                return "no such user" if answer.status == 404 else "user removed"
            if answer.status != 400:
                break
            self._settled(student, end)  # its server is just being stopped
        raise self._refusal(student, "The hub user {name} could not be removed", answer)

    def start(self, student: int) -> str:
        """See `Hub.start`."""
        end = time.monotonic() + self._timeout
        self.ensure(student)
        faults = 0
        while True:
            answer = self._wire.call("POST", f"{_user(student)}/server", slow=True)
            if answer.status == 201:
                return "started"
            if answer.status in (200, 202):
                return self._started(student, end)
            if answer.status == 400:
                before = self._server(student)
                if self._settled(student, end).running:
                    return "started" if before.pending == "spawn" else "already running"
                if before.pending and before.pending != "spawn":
                    continue  # it was stopping; a wait that goes past the end has raised
            faults += 1
            if faults >= TRIES.get(answer.status, 1):
                raise self._no_start(student, answer.words)

    def stop(self, student: int) -> str:
        """See `Hub.stop`."""
        end = time.monotonic() + self._timeout
        for _ in range(REPEATS):
            answer = self._wire.call("DELETE", f"{_user(student)}/server", slow=True)
            if answer.status == 404:
                return "no such user"
            if answer.status == 204:
                return "stopped"
            if answer.status not in (200, 202, 400):
                break
            if not self._settled(student, end).running:  # else somebody has started it anew
                return "was not running" if answer.status == 400 else "stopped"
        raise self._refusal(student, "The server of {name} could not be stopped", answer)

    # -- what the hub says of a student -----------------------------------------------------------------------

    def _server(self, student: int) -> Server:
        answer = self._wire.call("GET", _user(student))
        if answer.status == 404:
            return NONE
        if answer.status != 200:
            raise self._refusal(student, "The hub user {name} can't be read", answer)
        return server_of(answer.data)

    def _settled(self, student: int, end: float) -> Server:
        """The server once nothing is pending.

        Raises:
            Failed: something still is at `end`.
        """
        pause = FIRST_LOOK
        while True:
            server = self._server(student)
            if not server.pending:
                return server
            left = end - time.monotonic()
            if left <= 0:
                words = f"The notebook server of student{student} is not ready: {server.pending} is still pending after"
                raise Failed(f"{words} {self._timeout:g} s (WODHUBTIMEOUT). An operator has to look at the hub's log.")
            self._wire.wait(min(pause, left))
            pause = min(pause * GROWTH, LONGEST_LOOK)

    def _started(self, student: int, end: float) -> str:
        if self._settled(student, end).running:
            return "started"
        raise self._no_start(student)

    # -- errors -----------------------------------------------------------------------------------------------

    def _no_start(self, student: int, words: str = "") -> Failed:
        """What is said when a server doesn't come up, in the hub's words, which its progress has where it can."""
        told = self._wire.said(f"{_user(student)}/server/progress") or words or "it gave no reason"
        sender = f"The notebook server of student{student} did not start. JupyterHub says: {told}"
        return Failed(sender, f"{sender} (its log has more)")

    def _refusal(self, student: int, what: str, answer: Answer) -> Failed:
        words = f"{what.format(name=f'student{student}')}: JupyterHub answers {answer.status} {answer.words}"
        return Failed(f"{words}. An operator has to look at the hub's log.", words)


def _user(student: int) -> str:
    return f"/users/student{student}"
