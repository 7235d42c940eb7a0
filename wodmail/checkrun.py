"""Running a check: the playbook of WODTYPE through `wodmail.maintenance`, and the list of its items (docs/check.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wodmail import checking, maintenance, rootplays
from wodmail.checking import Item
from wodmail.errors import Refused
from wodmail.maintenance import Played
from wodmail.maintenancetasks import ITEM, TaskResult
from wodmail.schema import Settings

SECONDS = 6 * 3600.0
IMPORTS = ("ansible.builtin.import_playbook", "ansible.builtin.import_tasks")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to.

    Args:
        items: what became of each item.
        status: 0 all is well, 2 something differs, 1 something failed.
        text: the last lines that ansible-playbook printed.
    """

    items: tuple[Item, ...]
    status: int
    text: str


def run(
    settings: Settings,
    config: Path,
    *,
    check: bool = False,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    on_task: Callable[[TaskResult], None] | None = None,
    seconds: float = SECONDS,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Checked:
    """Check this machine, and mend what differs unless it is an audit; to be called as root.

    Args:
        settings: the configuration; WODTYPE names the playbook.
        config: its file.
        check: an audit: change nothing.
        only: ids of the items to check; all when empty.
        skip: ids of items to leave out.
        on_task: called after each task.
        seconds: the longest time it may take.
        on_wait: told for whom it waits, when another play of root's is at work.

    Raises:
        Refused: there is no such item.
        Failed: the playbook could not be run, or took too long.
        ConfigError: the checkout has another wodmail than this program.
        Temporary: another play of root's goes on and on.
    """
    _known(settings, [*only, *skip])
    rootplays.demand_own_code(settings)
    with rootplays.alone(config, "wod-check", waiting=on_wait):
        played = maintenance.play(
            settings,
            playbook(settings),
            check=check,
            diff=True,
            tags=[ITEM + name for name in only],
            skip_tags=[ITEM + name for name in skip],
            variables={"wodmail_config": str(config)},
            on_task=on_task,
            timeout=seconds,
        )
    found = tuple(judge(settings, played, check=check))
    return Checked(found, checking.status(found, played.status), played.text_tail)


def judge(settings: Settings, played: Played, *, check: bool) -> list[Item]:
    """What a check's run comes to, item by item.

    Args:
        settings: name the folder of private tasks.
        played: the run.
        check: whether it was an audit.
    """
    private = settings.WODANSIBLEPRIVDIR
    found = checking.items(played.tasks, check=check, private=private)
    reached = [name for task in played.tasks if (name := checking.item_of(task, private))]
    return checking.stopped(found, reached[-1] if reached else "", played.status, played.text_tail)


def playbook(settings: Settings) -> str:
    """The name of the playbook that checks this type of machine."""
    return f"check_{settings.WODTYPE}.yml"


def listed(settings: Settings) -> dict[str, str]:
    """The items of this type of machine in their order: id and title.

    Raises:
        Failed: there is no playbook for it.
    """
    return dict(_items(maintenance.find(settings, playbook(settings))))


def _known(settings: Settings, names: Sequence[str]) -> None:
    known = listed(settings)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Refused(f"no item {', '.join(unknown)}; there are {', '.join(known)}")


def _items(file: Path) -> Iterator[tuple[str, str]]:
    """The items of a playbook or file of tasks, those of the files it imports included."""
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    for entry in tree if isinstance(tree, list) else []:
        yield from _of(entry, file.parent)


def _of(entry: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    tags = entry.get("tags") or []
    for tag in tags if isinstance(tags, list) else [tags]:
        if str(tag).startswith(ITEM):
            yield str(tag).removeprefix(ITEM), str(entry.get("name", ""))
    for name in IMPORTS:
        if isinstance(entry.get(name), str):
            yield from _items(folder / entry[name])
    for inner in entry.get("tasks") or []:
        yield from _of(inner, folder)
