"""A real JupyterHub on loopback for tests: PAM logins of Linux users, servers that run as them, and a student at work.

What it needs, and how a developer gets it, is in CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import websocket

from tests.parts import jupyterhub_parts, require
from tests.support import free_port, wait_until

CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.command = ["{node}", "{proxy}"]
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie-secret"
c.JupyterHub.authenticator_class = "pam"
c.PAMAuthenticator.open_sessions = False
c.Authenticator.allow_existing_users = True
c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
c.Spawner.cmd = ["{venv}/bin/jupyterhub-singleuser"]
c.Spawner.args = ["--ServerApp.terminals_enabled=False"]
c.Spawner.start_timeout = 60
c.JupyterHub.services = [{{"name": "wodmail", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{"name": "wodmail", "scopes": ["admin:users", "servers"], "services": ["wodmail"]}},
]
{more}
"""


class HubSite:
    """One JupyterHub with its proxy.

    Args:
        folder: for its database, log and configuration; closed to others.
        more: further lines of its configuration.

    `url` is what students and wodmail call; `stop` and `start` are a restart, `kill` is a crash that leaves the proxy
    and the students' servers behind, as in production.
    """

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        self.venv, proxy = jupyterhub_parts()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: set[psutil.Process] = set()
        text = CONFIG.format(
            port=self.port,
            hub=free_port(),
            api=free_port(),
            node=require("node"),
            proxy=proxy,
            folder=folder,
            venv=self.venv,
            token=self.token,
            more=more,
        )
        self._file = folder / "jupyterhub_config.py"
        self._file.touch(mode=0o600)
        self._file.write_text(text, encoding="utf-8")

    @property
    def keys(self) -> dict[str, str]:
        """The keys of wodmail's configuration that name this hub."""
        return {"WODBEAPIURL": self.url, "WODBETOKEN": self.token}

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it answers."""
        path = os.pathsep.join([f"{self.venv}/bin", "/usr/local/bin", "/usr/bin", "/bin"])
        command = [f"{self.venv}/bin/python", "-m", "jupyterhub", "-f", str(self._file)]
        with (self.folder / "hub.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env={"PATH": path, "LANG": "C.UTF-8"}, stdout=log, stderr=log
            )
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """Wait until the hub answers through its proxy; fails with its log."""
        process = self._process
        assert process is not None
        wait_until(lambda: self.answers() or process.poll() is not None, seconds=120, what="the hub")
        assert process.poll() is None, self.log()

    def answers(self) -> bool:
        """Whether the hub answers through its proxy."""
        try:
            return httpx.get(f"{self.url}/hub/api/", trust_env=False, timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End it as an operator does; it ends the proxy and the students' servers."""
        self._end(kill=False)

    def kill(self) -> None:
        """End the hub alone, at once."""
        self._end(kill=True)

    def _end(self, *, kill: bool) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        self._ours.update(psutil.Process(process.pid).children(recursive=True))
        if kill:
            process.kill()
        else:
            process.terminate()
        process.wait(timeout=60)

    def close(self) -> None:
        """End everything."""
        self._end(kill=True)
        left = [process for process in self._ours if process.is_running()]
        for process in left:
            process.kill()
        psutil.wait_procs(left, 10)

    def log(self) -> str:
        """What the hub, the proxy and the students' servers printed."""
        return (self.folder / "hub.log").read_text(encoding="utf-8")

    def api(self, method: str, path: str, body: object = None) -> httpx.Response:
        """A call of the hub's API as the service."""
        headers = {"authorization": f"token {self.token}"}
        return httpx.request(
            method, f"{self.url}/hub/api{path}", headers=headers, json=body, trust_env=False, timeout=60
        )

    def server(self, name: str) -> dict[str, Any] | None:
        """What the hub's user model says of a user's server, None when it has none."""
        answer = self.api("GET", f"/users/{name}")
        if answer.status_code == 404:
            return None
        model: dict[str, Any] = answer.json()
        found: dict[str, Any] | None = model["servers"].get("")
        return found

    def login(self, name: str, word: str) -> StudentAtWork | None:
        """Log in at the hub's form, through PAM; None when the hub says no."""
        return login(self.url, name, word)


def login(url: str, name: str, word: str) -> StudentAtWork | None:
    """Log in at a hub's form; None when the hub says no.

    Args:
        url: where the hub is.
        name: the user.
        word: the password.
    """
    client = httpx.Client(base_url=url, trust_env=False, timeout=60)
    client.get("/hub/login").raise_for_status()
    form = {"username": name, "password": word, "_xsrf": _xsrf(client, "/hub/")}
    answer = client.post("/hub/login", data=form)
    if answer.status_code == 302:
        return StudentAtWork(name, client)
    client.close()
    assert answer.status_code in (200, 401, 403) and "Invalid username or password" in answer.text, answer.text
    return None


def _xsrf(client: httpx.Client, path: str) -> str:
    found = [cookie.value or "" for cookie in client.cookies.jar if cookie.name == "_xsrf" and cookie.path == path]
    return found[0] if found else ""


class StudentAtWork:
    """A student's browser, logged in: reads and writes notebooks and executes cells through hub and proxy.

    Args:
        name: the Linux user.
        client: with the hub's cookies.
    """

    def __init__(self, name: str, client: httpx.Client) -> None:
        self.name = name
        self.client = client
        self.base = f"/user/{name}/"

    def close(self) -> None:
        """Close the browser."""
        self.client.close()

    def enter(self) -> bool:
        """Open the student's server, which sends the browser to the hub and back (OAuth); whether it is let in."""
        self.client.get(f"{self.base}files/", follow_redirects=True)  # any page that wants a login
        return self.client.get(f"{self.base}api/me").status_code == 200

    def _call(self, method: str, path: str, body: object = None) -> Any:
        headers = {"X-XSRFToken": _xsrf(self.client, self.base)}
        answer = self.client.request(method, self.base + path, json=body, headers=headers)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def notebook(self, path: str) -> dict[str, Any]:
        """A notebook's content.

        Args:
            path: below the student's home.
        """
        found: dict[str, Any] = self._call("GET", f"api/contents/{path}")["content"]
        return found

    def save(self, path: str, content: dict[str, Any]) -> None:
        """Write a notebook."""
        self._call("PUT", f"api/contents/{path}", {"type": "notebook", "format": "json", "content": content})

    def execute(self, path: str, cells: int | None = None) -> int:
        """Execute a notebook's code cells in a kernel, as a browser does, and save it with what came out.

        Args:
            path: below the student's home.
            cells: only so many of them, from the first; all when None.

        Returns:
            how many were executed.
        """
        content = self.notebook(path)
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code"][:cells]
        kernel = self._call("POST", "api/kernels", {"name": "python3", "path": path})["id"]
        try:
            self._run(kernel, code)
        finally:
            self._call("DELETE", f"api/kernels/{kernel}")
        self.save(path, content)
        return len(code)

    def _run(self, kernel: str, code: list[dict[str, Any]]) -> None:
        where = self.client.base_url.copy_with(
            scheme="ws", raw_path=f"{self.base}api/kernels/{kernel}/channels".encode()
        )
        sent = self.client.build_request("GET", self.base).headers["cookie"]
        channel = websocket.create_connection(f"{where}?_xsrf={_xsrf(self.client, self.base)}", cookie=sent, timeout=60)
        try:
            for cell in code:
                source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
                cell["execution_count"], cell["outputs"] = _executed(channel, source)
        finally:
            channel.close()


def _executed(channel: websocket.WebSocket, code: str) -> tuple[int, list[dict[str, Any]]]:
    """One cell: its execution count and its outputs (jupyter-client, "Messaging in Jupyter")."""
    number = uuid.uuid4().hex
    header = {"msg_id": number, "msg_type": "execute_request", "username": "", "session": number, "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}
    channel.send(json.dumps({**message, "channel": "shell"}))
    count, idle, outputs = 0, False, list[dict[str, Any]]()
    while not (count and idle):
        got = json.loads(channel.recv())
        if got["parent_header"].get("msg_id") != number:
            continue
        kind, content = got["msg_type"], got["content"]
        if kind == "execute_reply":
            count = content["execution_count"]
        elif kind == "status":
            idle = content["execution_state"] == "idle"
        elif kind in ("stream", "execute_result", "display_data", "error"):
            kept = {key: value for key, value in content.items() if key != "transient"}
            outputs.append({"output_type": kind, **kept})
    return count, outputs


@contextmanager
def hub_site(more: str = "") -> Iterator[HubSite]:
    """A hub that runs; it is ended, with everything that it started, and its folder is removed."""
    require("root")
    with tempfile.TemporaryDirectory(prefix="wodmail-hub-", dir="/var/tmp") as folder:
        site = HubSite(Path(folder), more)
        try:
            site.start()
            yield site
        finally:
            site.close()
