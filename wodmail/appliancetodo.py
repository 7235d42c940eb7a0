"""What setting up an appliance consists of, and what becomes of it (docs/appliances.md); nothing is done here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from wodmail import paths
from wodmail.appliances import Appliance
from wodmail.schema import Settings
from wodmail.scripts import Script, Scripts

BASE = "setup_appliance.yml"
Hook = Literal["setup-appliance", "setup-globalappliance"]


class Result(StrEnum):
    """What became of one thing to do."""

    OK = "ok"
    CHANGED = "changed"
    DIFFERS = "differs"
    FAILED = "failed"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Todo:
    """One thing to do on an appliance.

    Args:
        name: the file's name, for people.
        where: "public" or "private".
        file: a playbook, or what the script is made of.
        playbook: whether it is a playbook, and no script.
        workshop: whose it is; "" for what all workshops of the machine share.
        students: who of the workshop work there.
    """

    name: str
    where: str
    file: Path
    playbook: bool = False
    workshop: str = ""
    students: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """What became of it.

    Args:
        todo: what was to be done.
        result: see `Result`.
        words: what differs or failed, and what to do; a remark else.
        changed: how many tasks of a playbook changed something (with `check`: would).
        seconds: how long it took.
    """

    todo: Todo
    result: Result
    words: str = ""
    changed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one appliance."""

    appliance: Appliance
    done: tuple[Done, ...]

    @property
    def result(self) -> Result:
        """The worst of all."""
        order = (Result.FAILED, Result.DIFFERS, Result.CHANGED)
        found = {each.result for each in self.done}
        return next((result for result in order if result in found), Result.OK)


@dataclass(frozen=True, slots=True)
class Order:
    """How it is to be done.

    Args:
        check: change nothing: playbooks tell what they would change, scripts are not run.
        base: whether the machine's base is set up too, with `setup_appliance.yml`.
        login: the account that the base is set up with; "" for WODUSER.
        skip_tags: tasks with one of these are left out of all playbooks.
        parallel: machines at the same time, 1 or more.
        timeout: longest time for one playbook, in seconds.
    """

    check: bool = False
    base: bool = True
    login: str = ""
    skip_tags: tuple[str, ...] = ()
    parallel: int = 4
    timeout: float = 3600.0


def hooks(scripts: Scripts, kind: Hook, when: Literal["pre", "post"]) -> list[Todo]:
    """The site's own scripts before or after: `setup-appliance-pre.sh` and so on, public, then private."""
    return [_script(each) for each in scripts.named(f"{kind}-{when}.sh")]


def todos(settings: Settings, scripts: Scripts, appliance: Appliance, *, base: bool = True) -> list[Todo]:
    """What is to be done on one appliance, in order: hooks, base, each workshop's own, hooks."""
    found = hooks(scripts, "setup-appliance", "pre")
    found += _playbooks(settings, BASE) if base else []
    for use in appliance.uses:
        students = tuple(range(use.students[0], use.students[1] + 1)) if use.students else ()
        own = _playbooks(settings, f"setup_{use.workshop}.yml", use.workshop, students)
        own += [_script(each, use.workshop, students) for each in scripts.named(f"setup-{use.workshop}.sh")]
        found += sorted(own, key=lambda todo: todo.where == "private")
    return found + hooks(scripts, "setup-appliance", "post")


def _script(script: Script, workshop: str = "", students: tuple[int, ...] = ()) -> Todo:
    return Todo(script.name, script.where, script.file, workshop=workshop, students=students)


def _playbooks(settings: Settings, name: str, workshop: str = "", students: tuple[int, ...] = ()) -> list[Todo]:
    """The site's public playbook of that name, else our own; then the private one."""
    public = [folder / name for folder in (settings.WODANSIBLEDIR, paths.share("ansible"))]
    private = [settings.WODANSIBLEPRIVDIR / name] if settings.WODANSIBLEPRIVDIR is not None else []
    found = [("public", file) for file in public if file.is_file()][:1]
    found += [("private", file) for file in private if file.is_file()]
    return [Todo(name, where, file, playbook=True, workshop=workshop, students=students) for where, file in found]
