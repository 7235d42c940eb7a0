"""A Postfix of our own on loopback that accepts all mail and throws it away, to compare with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from benchmarks.figures import until
from benchmarks.mails import Client
from benchmarks.site import free_port

MAIN = """\
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
command_directory = {commands}
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = bench.example
mydestination =
mynetworks = 127.0.0.0/8
default_transport = discard:
relay_transport = discard:
local_transport = discard:
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
alias_maps =
maillog_file = /dev/stdout
"""
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
discard unix - - n - - discard
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def why_not() -> str:
    """Why no Postfix can be started here; empty when it can."""
    if os.geteuid() != 0:
        return "starting a Postfix of our own needs root"
    if shutil.which("postfix", path=_path()) is None:
        return "there is no Postfix (Debian: apt-get install postfix)"
    return ""


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _setting(name: str) -> str:
    argv = [str(shutil.which("postconf", path=_path())), "-dh", name]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


class Postfix:
    """A running instance with a configuration folder of its own; a context manager. The system's own is not touched.

    Args:
        folder: for its configuration and queue, on the same disk as what it is compared with; made.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "etc"
        queue, data = folder / "queue", folder / "data"
        for each in (self._config, queue, data):
            each.mkdir(parents=True)
            each.chmod(0o755)
        shutil.chown(data, "postfix")
        values = {
            "queue": queue,
            "data": data,
            "commands": _setting("command_directory"),
            "daemons": _setting("daemon_directory"),
        }
        (self._config / "main.cf").write_text(MAIN.format(**values), encoding="ascii")
        (self._config / "master.cf").write_text(MASTER.format(port=self.port), encoding="ascii")

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        argv = [str(shutil.which("postfix", path=_path())), "-c", str(self._config), command]
        log = self._config.parent / "log"
        with log.open("a") as out:
            return subprocess.run(argv, stdout=out, stderr=out, text=True, check=False)

    def __enter__(self) -> Postfix:
        self._run("start")
        try:
            until(self._answers, seconds=30, every=0.1, what="Postfix")
        except TimeoutError as error:
            self._run("stop")
            raise TimeoutError(f"{error}:\n{(self._config.parent / 'log').read_text(errors='replace')}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._run("stop")

    def _answers(self) -> bool:
        try:
            with Client(self.port):
                return True
        except OSError:
            return False
