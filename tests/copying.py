"""What the tests of copy_folder share: settings for a folder of the test's own, and a launcher that counts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wodmail.children import Children
from wodmail.model import Action, JobSpec
from wodmail.playbooks import CopyResult, Playbooks
from wodmail.schema import Settings

WORKSHOPS = Path(__file__).resolve().parent / "data" / "workshops"


def settings_for(folder: Path, **values: Any) -> Settings:
    """Sandbox settings whose folders are all below `folder`; public notebooks are the tests' own workshops."""
    for name in ("public/group_vars", "private/group_vars", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    given = {
        "WODSANDBOX": True,
        "WODSTATEDIR": folder / "state",
        "WODSTUDDIR": folder / "homes",
        "WODNOBO": WORKSHOPS,
        "WODANSIBLEDIR": folder / "public",
        "WODANSIBLEPRIVDIR": folder / "private",
        "BRANDINGWOD": "Own Workshops",
        "VAULTPWD": "open sesame",
    }
    return Settings.model_validate({**given, **values})


class Counting:
    """A launcher that counts what it starts."""

    def __init__(self, statedir: Path) -> None:
        self._children = Children(statedir)
        self._lock = threading.Lock()
        self.started = 0

    def prefix(self, job: int) -> tuple[list[str], dict[str, str]]:
        """As Children.prefix."""
        with self._lock:
            self.started += 1
        return self._children.prefix(job)

    def end_started(self, env: Mapping[str, str]) -> int:
        """As Children.end_started."""
        return self._children.end_started(env)

    def end_job(self, job: int) -> int:
        """As Children.end_job."""
        return self._children.end_job(job)


class Direct:
    """Accounts that are written directly."""

    def writer_argv(self) -> list[str]:
        """Nothing in between."""
        return []


class Desk:
    """Playbooks with their parts, and the lines they told."""

    def __init__(self, settings: Settings, accounts: Any = None) -> None:
        self.settings = settings
        self.launcher = Counting(settings.WODSTATEDIR)
        self.playbooks = Playbooks(settings, self.launcher, accounts or Direct())
        self.lines: list[str] = []

    def copy(self, workshop: str, student: int = 7, pass_file: Path | None = None) -> CopyResult:
        """Personalise a workshop for a student."""
        spec = JobSpec(request=student, job=student, action=Action.CREATE, students=(student,), workshop=workshop)
        return self.playbooks.copy_folder(spec, student, pass_file, self.lines.append)

    def home(self, student: int = 7) -> Path:
        """The student's home."""
        return self.settings.WODSTUDDIR / f"student{student}"


def own_workshop(folder: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """A workshop made by the test: paths and contents; returns the folder that holds it."""
    for path, data in files.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    if not (folder / name).exists():
        shutil.copytree(WORKSHOPS / name, folder / name)
    return folder
