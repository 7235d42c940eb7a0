"""Students by the dozen in an /etc of their own: `wod-students` as root there, and what it did."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.ownetc import OwnEtc, own_etc
from tests.parts import require
from tests.support import wait_until

SLOT = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
FIRST = 20001 + 100 * SLOT  # the root helper's locks are the machine's, so each test process has numbers of its own
BASE = 200_000
SERVICE = "wodadmin"

# Imports once what a call needs; each call is a child of its own.
_CALLS = """
import json, os, sys, tempfile
from wodmail.cli.main import run
from wodmail.cli.students import students
from wodmail.students import upkeep

for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.argv = ["wod-students", *json.loads(line)]
                try:
                    status = run(students, "wod-students")
                except SystemExit as end:
                    status = end.code
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        print(json.dumps([os.waitstatus_to_exitcode(status), out.read(), err.read()]), flush=True)
"""


@dataclass(frozen=True)
class BulkSite:
    """One backend.

    Args:
        etc: the namespace.
        folder: holds the homes (students) and the state (state).
        last: the highest student.
        calls: makes the calls inside, one after another.
    """

    etc: OwnEtc
    folder: Path
    last: int
    calls: subprocess.Popen[str]

    @property
    def passwd(self) -> dict[str, list[str]]:
        """The lines of /etc/passwd inside, by name."""
        return self.lines("passwd")

    def lines(self, name: str) -> dict[str, list[str]]:
        """The lines of one of the files of accounts, by their first field."""
        found = (line.split(":") for line in (self.etc.folder / name).read_text(encoding="utf-8").splitlines())
        return {fields[0]: fields for fields in found}

    def home(self, student: int) -> Path:
        """A student's home."""
        return self.folder / "students" / f"student{student}"

    def start(self, student: int, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program with a student's uid, and wait until it has it."""
        uid = BASE + student
        process = subprocess.Popen(argv, user=uid, group=uid, extra_groups=[], cwd="/", start_new_session=True)
        wait_until(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0] == argv[0].encode())
        return process

    def program(self, text: str, *argv: str) -> Any:
        """What a python program prints as JSON that runs inside as root."""
        return json.loads(self.etc.must(sys.executable, "-c", text, *argv))

    def say(self, *argv: str) -> tuple[int, str, str]:
        """`wod-students`: its exit status and what it prints."""
        assert self.calls.stdin is not None and self.calls.stdout is not None
        self.calls.stdin.write(json.dumps(argv) + "\n")
        self.calls.stdin.flush()
        status, out, err = json.loads(self.calls.stdout.readline())
        return status, out, err

    def call(self, *argv: str) -> tuple[int, dict[str, Any]]:
        """`wod-students` with --json: its exit status and what it says."""
        status, out, err = self.say(*argv, "--json")
        assert out, f"{argv}: {status} {err}"
        return status, json.loads(out)

    def told(self, *argv: str) -> dict[int, tuple[str, list[str]]]:
        """State and words by student, of those who aren't well."""
        _, data = self.call(*argv)
        return {row["student"]: (row["state"], row["what"]) for row in data["students"]}

    def configure(self, **keys: object) -> None:
        """Write /etc/wod.yml inside."""
        values = {
            "WODUSER": SERVICE,
            "WODUSERMIN": FIRST,
            "WODUSERMAX": self.last,
            "UIDBASE": BASE,
            "GIDBASE": BASE,
            "WODSTUDDIR": str(self.folder / "students"),
            "WODSTATEDIR": str(self.folder / "state"),
            "WODSENDER": "frontend@example.org",
            **keys,
        }
        file = self.etc.folder / "wod.yml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        file.chmod(0o600)
        shutil.chown(file, int(self.passwd[SERVICE][2]))


@contextmanager
def bulk_site(count: int) -> Iterator[BulkSite]:
    """Make a backend without students.

    Args:
        count: how many its configuration has.
    """
    for part in ("root", "useradd"):
        require(part)
    # Not below pytest's folder, which is shut for others: students must get to their homes.
    folder = Path(tempfile.mkdtemp(prefix="wodmail-tests-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        for name in ("etc", "state"):
            (folder / name).mkdir()
        with own_etc(folder / "etc") as etc, _calls(etc) as calls:
            site = BulkSite(etc, folder, FIRST + count - 1, calls)
            etc.must("useradd", "--system", "--user-group", "-M", SERVICE)
            shutil.chown(folder / "state", int(site.passwd[SERVICE][2]))
            site.configure()
            yield site
    finally:
        shutil.rmtree(folder)


@contextmanager
def _calls(etc: OwnEtc) -> Iterator[subprocess.Popen[str]]:
    argv = [*etc.enter, sys.executable, "-c", _CALLS]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            yield process
        finally:
            process.kill()
