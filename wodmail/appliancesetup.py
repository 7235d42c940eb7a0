"""Sets appliances up: hooks, base, and what each workshop wants there; several machines at once (docs/appliances.md).

What is to be done says `wodmail.appliancetodo`. A machine where something fails is left there, the others go on.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal

from wodmail import applianceplay
from wodmail.appliances import Appliance
from wodmail.appliancetodo import BASE, Done, Hook, Order, Report, Result, Todo, hooks, todos
from wodmail.children import Children
from wodmail.errors import Failed, WodmailError
from wodmail.logs import Masker
from wodmail.schema import Settings
from wodmail.scripts import Script, Scripts

CHECK = "check-appliance.sh"
LOCKS = "appliances"
TAIL_LINES = 15


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
        try:
            self.children = Children(self.settings.WODSTATEDIR)
            (self.settings.WODSTATEDIR / LOCKS).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            words = f"{self.settings.WODSTATEDIR} can't be written: call this as {self.settings.WODUSER}."
            raise Failed(words, str(error)) from error
        self.scripts = Scripts(self.settings, self.children, config_file=self.config_file)
        self.masker = Masker()
        self.masker.register_settings(self.settings)

    def end(self) -> None:
        """End everything that runs."""
        self.stop.set()
        self.children.end_all()


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
    for todo in hooks(site.scripts, kind, when):
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

    todo = todos(site.settings, site.scripts, machine, base=order.base)
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
        output = error.output if isinstance(error, Failed) else ""
        tail = "\n".join(output.splitlines()[-TAIL_LINES:])
        done = Done(todo, Result.FAILED, "\n".join(part for part in (error.sender, tail) if part))
    except OSError as error:
        done = Done(todo, Result.FAILED, f"this backend can't do it: {error}")
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


@contextmanager
def _alone(settings: Settings, address: str) -> Iterator[bool]:
    """Whether nobody else sets this machine up while the block runs."""
    with (settings.WODSTATEDIR / LOCKS / f"{address}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
