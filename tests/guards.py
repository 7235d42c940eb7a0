"""Parts of the tests of wod-kill-processes: policies, processes as the guard sees them, students' programs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.linux_students import BASE, FIRST, LAST
from wodmail.config import Settings
from wodmail.guard import policy as rules
from wodmail.guard.policy import Policy
from wodmail.guard.watch import ExeFile, Seen

QUICK: dict[str, Any] = {
    "interval_seconds": 0.1,
    "cpu": {"window_seconds": 0.3, "longer_than_seconds": 0.5, "limit_cores": 0.1, "together_limit_cores": 0.2},
    "ladder": {"stop_after_seconds": 0},
    "load": {"load_limit_per_core": 1000, "memory_limit_percent": 100},
}
"""A policy for tests: minutes become tenths of a second, and what else the machine does is no matter."""


def policy(settings: Settings, changes: Mapping[str, Any] | None = None) -> Policy:
    """The shipped policy with changes."""
    data = yaml.safe_load((settings.WODSYSDIR / rules.NAME).read_text(encoding="utf-8"))
    return Policy.model_validate(rules.over(data, changes or {}))


def configured(folder: Path, changes: Mapping[str, Any] | None = None, **more: Any) -> Settings:
    """The settings of a backend with Linux students, and its private policy; all of it in the folder."""
    private = folder / "private" / "sys"
    private.mkdir(parents=True, exist_ok=True)
    (private / rules.NAME).write_text(yaml.safe_dump(rules.over(QUICK, changes or {})), encoding="utf-8")
    values = {
        "WODUSER": "root",
        "WODUSERMIN": FIRST,
        "WODUSERMAX": LAST,
        "UIDBASE": BASE,
        "GIDBASE": BASE,
        "WODSTUDDIR": str(folder / "students"),
        "WODSTATEDIR": str(folder / "state"),
        "WODPRIVDIR": str(folder / "private"),
        "WODMONITOR": "monitor@example.org",
        "WODOUTBOX": str(folder / "outbox"),
        "WODSENDER": "guard@example.org",
        **more,
    }
    file = folder / "wod.yml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return Settings.model_validate(values)


def seen(pid: int = 100, student: int = 1, **more: Any) -> Seen:
    """A process as the guard sees it: a student's own program."""
    values: dict[str, Any] = {
        "start": pid * 10,
        "parent": 1,
        "name": "program",
        "argv": ("./program",),
        "exe": "/student/student1/program",
        "file": ExeFile(1, pid, 2001, 2001, stat.S_IFREG | 0o755),
        "cpu_seconds": 0.0,
        "children_seconds": 0.0,
        "age_seconds": 1000.0,
        "stopped": False,
        **more,
    }
    return Seen(pid=pid, student=student, **values)


ENV = Path("/usr/bin/env").resolve()
BUILDERS: dict[str, Any] = {"allowed": [{"what": "builders", "exe": [str(ENV)]}]}
"""A policy's change: what may be busy is one program of this system, which stands for make."""


def builder() -> dict[str, object]:
    """What is seen of the program that `BUILDERS` allows."""
    status = ENV.stat()
    file = ExeFile(status.st_dev, status.st_ino, status.st_uid, status.st_gid, status.st_mode)
    return {"exe": str(ENV), "file": file}


def own_copy(program: str, home: Path, name: str, uid: int) -> Path:
    """A copy of a program in a home, under another name, the student's own."""
    found = shutil.which(program)
    assert found is not None
    copy = home / name
    shutil.copyfile(found, copy)
    os.chown(copy, uid, uid)
    copy.chmod(0o755)
    return copy


def run_as(uid: int, *argv: str, executable: str | None = None, **more: Any) -> subprocess.Popen[bytes]:
    """A program as a student, or as whoever has that uid."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    values = {**quiet, "cwd": "/", "start_new_session": True, **more}
    return subprocess.Popen(argv, executable=executable, user=uid, group=uid, extra_groups=[], **values)


def mails(folder: Path) -> list[str]:
    """The texts of the mails in an outbox, in order of their names."""
    new = folder / "outbox" / "new"
    return [file.read_text(encoding="utf-8") for file in sorted(new.iterdir())] if new.is_dir() else []
