"""Sets appliances up: hooks, base, and what each workshop wants there; several machines at once (docs/appliances.md).

`todos` says what is to be done and touches nothing; `set_up` and `look_at` do it. A machine where something fails is
left there, the others go on.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal

from wodmail import applianceplay, paths
from wodmail.appliances import Appliance
from wodmail.children import Children
from wodmail.errors import Failed, WodmailError
from wodmail.logs import Masker
from wodmail.schema import Settings
from wodmail.scripts import Script, Scripts

BASE = "setup_appliance.yml"
CHECK = "check-appliance.sh"
Hook = Literal["setup-appliance", "setup-globalappliance"]
TAIL_LINES = 15


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


@dataclass
class Site:
    """What the work is done with.

    Args:
        settings: the configuration.
        config_file: its file, for what the scripts ask.
        stop: set it, and nothing more is begun; what runs is ended.
    """

    settings: Settings
    config_file: Path | None = None
    stop: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self.children = Children(self.settings.WODSTATEDIR)
        self.scripts = Scripts(self.settings, self.children, config_file=self.config_file)
        self.masker = Masker()
        self.masker.register_settings(self.settings)

    def end(self) -> None:
        """End everything that runs."""
        self.stop.set()
        self.children.end_all()


def hooks(site: Site, kind: Hook, when: Literal["pre", "post"]) -> list[Todo]:
    """The site's own scripts before or after: `setup-appliance-pre.sh` and so on, public, then private."""
    return [_script(each) for each in site.scripts.named(f"{kind}-{when}.sh")]


def todos(site: Site, appliance: Appliance, *, base: bool = True) -> list[Todo]:
    """What is to be done on one appliance, in order: hooks, base, each workshop's own, hooks."""
    found = hooks(site, "setup-appliance", "pre")
    found += _playbooks(site.settings, BASE) if base else []
    for use in appliance.uses:
        students = tuple(range(use.students[0], use.students[1] + 1)) if use.students else ()
        scripts = [_script(each, use.workshop, students) for each in site.scripts.named(f"setup-{use.workshop}.sh")]
        own = _playbooks(site.settings, f"setup_{use.workshop}.yml", use.workshop, students) + scripts
        found += sorted(own, key=lambda todo: todo.where == "private")
    return found + hooks(site, "setup-appliance", "post")


def set_up(
    site: Site, machines: Sequence[Appliance], order: Order, on_done: Callable[[Appliance, Done], None]
) -> list[Report]:
    """Set appliances up.

    Args:
        site: what it is done with.
        machines: the appliances.
        order: how.
        on_done: called after each thing that was done, from many threads.
    """
    return _each(site, machines, order.parallel, lambda machine: _set_up_one(site, machine, order, on_done))


def look_at(
    site: Site, machines: Sequence[Appliance], parallel: int, on_done: Callable[[Appliance, Done], None]
) -> list[Report]:
    """See that appliances answer and have what the shared scripts need; nothing is changed.

    Args:
        site: what it is done with.
        machines: the appliances.
        parallel: machines at the same time, 1 or more.
        on_done: called after each machine, from many threads.
    """

    def look(machine: Appliance) -> Report:
        names = " ".join(machine.workshops)
        todo = Todo(CHECK, "public", Path(CHECK), workshop=names, students=machine.students)
        done = _timed(todo, lambda: _look(site, machine, todo))
        on_done(machine, done)
        return Report(machine, (done,))

    return _each(site, machines, parallel, look)


def run_hooks(site: Site, kind: Hook, when: Literal["pre", "post"], order: Order) -> list[Done]:
    """Run hooks that belong to no machine; the first that fails is the last."""
    done: list[Done] = []
    for todo in hooks(site, kind, when):
        done.append(_timed(todo, partial(_run_script, site, None, todo, order)))
        if done[-1].result is Result.FAILED:
            break
    return done


def _each(
    site: Site, machines: Sequence[Appliance], parallel: int, work: Callable[[Appliance], Report]
) -> list[Report]:
    """Some machines at a time; an interruption ends what runs before it is passed on."""
    with ThreadPoolExecutor(max_workers=max(1, parallel), thread_name_prefix="appliance") as pool:
        futures = [pool.submit(work, machine) for machine in machines]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            site.end()
            raise


def _set_up_one(site: Site, machine: Appliance, order: Order, on_done: Callable[[Appliance, Done], None]) -> Report:
    done: list[Done] = []

    def tell(each: Done) -> None:
        done.append(each)
        on_done(machine, each)

    todo = todos(site, machine, base=order.base)
    with _alone(site.settings, machine.address) as free:
        for each in todo:
            if not free:
                tell(Done(each, Result.FAILED, f"{machine.address} is being set up by somebody else; wait for its end"))
                break
            if site.stop.is_set() or any(before.result is Result.FAILED for before in done):
                tell(Done(each, Result.LEFT, "not begun: something before it failed"))
                continue
            work = _run_playbook if each.playbook else _run_script
            tell(_timed(each, partial(work, site, machine, each, order)))
    return Report(machine, tuple(done))


def _timed(todo: Todo, work: Callable[[], Done]) -> Done:
    """Do it and take the time; an expected error is its result."""
    began = time.monotonic()
    try:
        done = work()
    except WodmailError as error:
        output = getattr(error, "output", "")
        tail = "\n".join(output.splitlines()[-TAIL_LINES:])
        done = Done(todo, Result.FAILED, "\n".join(part for part in (error.sender, tail) if part))
    return Done(todo, done.result, done.words, done.changed, time.monotonic() - began)


def _run_playbook(site: Site, machine: Appliance, todo: Todo, order: Order) -> Done:
    base = todo.name == BASE
    variables: Mapping[str, Any] = {
        "wod_appliance_address": machine.address,
        "wod_appliance_workshops": list(machine.workshops),
        "wod_appliance_students": list(machine.students),
        "wod_appliance_key": applianceplay.own_key(make=not order.check),
        "wod_appliance_base_done": order.base and not base,
        "w": todo.workshop,
    }
    # Where nothing is changed, WODUSER may not be there yet.
    login = order.login if base or order.check else ""
    played = applianceplay.play(site, machine.address, todo.file, order, variables, login)
    if played.status:
        return Done(todo, Result.FAILED, applianceplay.why(machine.address, played))
    differs = Result.DIFFERS if order.check else Result.CHANGED
    changed = [task.name for task in played.tasks if task.status == "changed"]
    return Done(todo, differs if changed else Result.OK, "; ".join(dict.fromkeys(changed)), len(changed))


def _run_script(site: Site, machine: Appliance | None, todo: Todo, order: Order) -> Done:
    if order.check:
        return Done(todo, Result.LEFT, "not run: scripts can't tell what they would change")
    more = {"WODWORKSHOPS": " ".join(machine.workshops), "WODRTARGET": machine.address} if machine else {}
    script = Script(todo.name, todo.where, todo.file)
    students = todo.students or (machine.students if machine else ())
    lines = _run(site, script, todo.workshop, students, more)
    return Done(todo, Result.OK, lines[-1] if lines else "")


def _look(site: Site, machine: Appliance, todo: Todo) -> Done:
    script = Script(CHECK, "public", site.scripts.appliance_scripts() / CHECK)
    lines = _run(site, script, "", machine.students, {"WODRTARGET": machine.address, "w": todo.workshop})
    return Done(todo, Result.DIFFERS if lines else Result.OK, "; ".join(lines))


def _run(site: Site, script: Script, w: str, students: tuple[int, ...], environment: Mapping[str, str]) -> list[str]:
    """What a script printed, secrets masked."""
    lines: list[str] = []

    def keep(line: str) -> None:
        if line.strip():
            lines.append(site.masker.mask(line))

    try:
        site.scripts.run_setup(script, w, students, environment, keep)
    except Failed as error:
        raise Failed(error.sender, error.operator, output=site.masker.mask(error.output)) from error
    return lines[1:]  # the first says which script is run


def _script(script: Script, workshop: str = "", students: tuple[int, ...] = ()) -> Todo:
    return Todo(script.name, script.where, script.file, workshop=workshop, students=students)


def _playbooks(settings: Settings, name: str, workshop: str = "", students: tuple[int, ...] = ()) -> list[Todo]:
    """The site's public playbook of that name, else our own; then the private one."""
    public = [folder / name for folder in (settings.WODANSIBLEDIR, paths.share("ansible"))]
    private = [settings.WODANSIBLEPRIVDIR / name] if settings.WODANSIBLEPRIVDIR is not None else []
    found = [("public", file) for file in public if file.is_file()][:1]
    found += [("private", file) for file in private if file.is_file()]
    return [Todo(name, where, file, playbook=True, workshop=workshop, students=students) for where, file in found]


@contextmanager
def _alone(settings: Settings, address: str) -> Iterator[bool]:
    """Whether nobody else sets this machine up while the block runs."""
    folder = settings.WODSTATEDIR / "appliances"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / f"{address}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
