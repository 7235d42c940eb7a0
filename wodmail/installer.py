"""Installs or updates this machine: writes the configuration, then plays the playbooks of the machine's type."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wodmail import config, installingfacts, installingfile, maintenance, rootplays, variables
from wodmail.errors import ConfigError, Problem
from wodmail.installing import PLAYBOOKS, Wanted, configuration, hosts, left_to_do, sources
from wodmail.maintenancetasks import TaskResult
from wodmail.privatefile import write_private
from wodmail.schema import Settings

HUB_HERE = re.compile(r"http://(localhost|127[.][0-9.]+|\[::1\])(:[0-9]+)?/?")
"""WODBEAPIURL of a JupyterHub on this machine; so ansible/roles/wod/defaults/main.yml says, too."""
STATUSES = ("ok", "changed", "failed", "skipped", "unreachable")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done.

    Args:
        wanted: what the operator said about the machine.
        file: the configuration file.
        checkout: wodmail's checkout; None for the configuration's WODBEDIR.
        check: change nothing.
    """

    wanted: Wanted
    file: Path
    checkout: Path | None = None
    check: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One playbook that was played."""

    playbook: str
    status: int
    counts: dict[str, int]
    failures: tuple[TaskResult, ...]
    tail: str = ""

    @property
    def changed(self) -> int:
        """How many tasks changed something, or would have."""
        return self.counts["changed"]


@dataclass(frozen=True, slots=True)
class Installation:
    """What an installation came to.

    Args:
        keys: names of the configuration that were written, or would be.
        stages: the playbooks; those after a failed one were not begun.
        left: what is left for the operator, in words.
        code: wodmail's modules that the checkout has otherwise than the program; only a look goes on with them.
    """

    keys: tuple[str, ...]
    stages: tuple[Stage, ...]
    left: tuple[str, ...]
    code: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a playbook failed."""
        return any(stage.status for stage in self.stages)

    @property
    def changed(self) -> int:
        """How many things were changed, or would be."""
        return len(self.keys) + bool(self.code) + sum(stage.changed for stage in self.stages)


Teller = Callable[[str, TaskResult | None], None]


def install(order: Order, tell: Teller) -> Installation:
    """Install or update this machine.

    Args:
        order: what is to be done.
        tell: called when a playbook begins (its name, None) and after each task.

    Raises:
        ConfigError: the options, the checkout or the configuration stand against it; nothing was changed.
        Temporary: another play of root's goes on and on.
        Failed: a playbook can't be played at all.
    """
    if os.geteuid() != 0:
        raise ConfigError([Problem("wod-install", "only root can install; call it with sudo")])
    with rootplays.alone(order.file, "wod-install", waiting=lambda words: tell(words, None)):
        return _install(order, tell)


def _install(order: Order, tell: Teller) -> Installation:
    text, present = installingfile.read(order.file)
    checkout = _checkout(order, present)
    code = _other_code(order, checkout)
    facts = installingfacts.look(checkout, hosts(order.wanted))
    new = configuration(order.wanted, facts, present)
    if order.checkout is not None:
        new["WODBEDIR"] = str(checkout)
    settings = _settled(order, installingfile.changed(text, present, new))
    keys = tuple(name for name, value in new.items() if present.get(name) != value)
    stages: list[Stage] = []
    for playbook in PLAYBOOKS[order.wanted.type]:
        tell(playbook, None)
        stages.append(_play(order, settings, playbook, tell))
        if stages[-1].status:
            break
    left = left_to_do({**present, **new}, order.wanted, facts.addresses)
    return Installation(keys, tuple(stages), tuple(left), code)


def _other_code(order: Order, checkout: Path) -> tuple[str, ...]:
    """What differs between the program and the checkout; new playbooks are played by the code that came with them."""
    found = installingfacts.other_code(checkout)
    if found and not order.check:
        raise ConfigError([Problem("wod-install", rootplays.refusal(checkout, found))])
    return found


def _checkout(order: Order, present: dict[str, Any]) -> Path:
    named = order.checkout or present.get("WODBEDIR")
    if not named:
        raise ConfigError(
            [Problem("--checkout", "where is wodmail's checkout? call its scripts/wod-install.sh instead")]
        )
    folder = Path(named).resolve()
    problems = installingfacts.checkout_problems(folder)
    if problems:
        raise ConfigError(problems)
    return folder


def _settled(order: Order, text: str) -> Settings:
    """The configuration that a text makes, checked, and written unless it is only to be looked at."""
    handle, name = tempfile.mkstemp(prefix=f".{order.file.name}.", dir=order.file.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        settings = config.load(draft, files=False)
    finally:
        draft.unlink()
    problems = [each for tree in (settings.WODBEDIR, settings.WODANSIBLEDIR) for each in _untrusted(tree)]
    problems += _strange_hub(settings, order.file)
    if problems:
        raise ConfigError(problems)
    if not order.check and (not order.file.exists() or order.file.read_text(encoding="utf-8-sig") != text):
        write_private(order.file, text, settings)
    return settings


def _untrusted(tree: Path) -> list[Problem]:
    """Why root must not play what lies in a tree of the configuration; nothing when it may."""
    if not tree.is_dir():
        return [Problem(str(tree), "there is no such folder; mend WODBEDIR or WODANSIBLEDIR in the configuration")]
    return installingfacts.checkout_problems(tree.resolve(), whole=False)


def _strange_hub(settings: Settings, file: Path) -> list[Problem]:
    """Why no JupyterHub can be made here: there is one of the site's own, which ours would replace."""
    found = installingfacts.strange_hub()
    wanted = settings.WODTYPE == "backend" and HUB_HERE.fullmatch(settings.WODBEAPIURL)
    if found is None or not wanted or variables.for_group(settings).get("wod_hub_here") is False:
        return []
    keep = f"to keep that JupyterHub as it is, write wod_hub_here: false into {file}"
    words = f"is not wod-install's, which would replace it: {keep}; to have one made, move {found} away"
    return [Problem(str(found), f"{words} (docs/jupyterhub.md); nothing was changed")]


def _play(order: Order, settings: Settings, playbook: str, tell: Teller) -> Stage:
    without = sources(settings.WODWITHOUT)
    variables = {
        "wodmail_config": str(order.file),
        "wod_environment": installingfacts.environment(),
        "wod_without": list(without),
    }
    played = maintenance.play(
        settings,
        playbook,
        check=order.check,
        skip_tags=[f"source_{name}" for name in without],
        variables=variables,
        on_task=lambda task: tell(playbook, task),
    )
    counted = Counter(task.status for task in played.tasks)
    failures = tuple(task for task in played.tasks if task.status in ("failed", "unreachable"))
    counts = {status: counted[status] for status in STATUSES}
    return Stage(playbook, played.status, counts, failures, played.text_tail if played.status else "")
