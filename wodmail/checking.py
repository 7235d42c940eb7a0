"""The items of a check: what its playbook's tasks come to, item by item (docs/check.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from pathlib import Path

from wodmail.maintenancetasks import TaskResult

LOOK = "look"
NOTE = "note"
NOT_APPLICABLE = "na"
PRIVATE = "private"
DIFFERS = "differs"


class Verdict(StrEnum):
    """What became of an item."""

    OK = "ok"
    FIXED = "fixed"
    DIFFERS = "differs"
    NOT_APPLICABLE = "not applicable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a check.

    Args:
        id: its short name; the tag `item_<id>` of its tasks.
        verdict: see `Verdict`.
        what: what differed, was changed or failed, a line each; remarks of an item that is ok.
        diff: the differences of its files, as unified diffs.
    """

    id: str
    verdict: Verdict
    what: tuple[str, ...] = ()
    diff: str = ""


def items(tasks: Iterable[TaskResult], *, check: bool, private: Path | None = None) -> list[Item]:
    """What the tasks of a run come to, in the order in which items appear (pure).

    A task tagged `look` only finds out, and changes nothing whatever it says. The message of one tagged `note` is a
    remark. One tagged `differs` that is run tells of something that the check can't mend itself, one tagged `na` that
    the item does not apply to this machine.

    Args:
        tasks: the run's tasks.
        check: whether it was an audit, in which what would be changed differs.
        private: a folder whose tasks, which know nothing of items, belong to the item `private`.
    """
    found: dict[str, list[TaskResult]] = {}
    for task in tasks:
        name = item_of(task, private)
        if name:
            found.setdefault(name, []).append(task)
    return [_item(name, own, check) for name, own in found.items()]


def item_of(task: TaskResult, private: Path | None) -> str:
    """The id of the item that a task belongs to; "" for none (pure).

    Args:
        task: the task.
        private: see `items`.
    """
    return task.item or (PRIVATE if private is not None and task.file.startswith(f"{private}/") else "")


def stopped(found: Sequence[Item], last: str, played: int, text: str) -> list[Item]:
    """The items of a run; one that ended before its end failed where it was (pure).

    Args:
        found: its items.
        last: the id of the item reached last, "" when none was.
        played: exit status of ansible-playbook; 0 and 2 are those of a run that came to its end.
        text: the last lines that it printed.
    """
    if played in (0, 2) or any(item.verdict is Verdict.FAILED for item in found):
        return list(found)
    words = f"the check ended here, items after it were not looked at: {_reason(text)} (ansible-playbook: {played})"
    return [
        replace(item, verdict=Verdict.FAILED, what=(words, *item.what)) if item.id == last else item for item in found
    ]


def _reason(text: str) -> str:
    """What ansible-playbook ended with: the paragraph of its last error, else its last line."""
    lines = [line.strip() for line in text.splitlines()]
    begin = max((at for at, line in enumerate(lines) if line.startswith(("[ERROR]", "ERROR!"))), default=-1)
    told = list(takewhile(bool, lines[begin:])) if begin >= 0 else [line for line in lines if line][-1:]
    return " ".join(told) or "it says nothing"


def _item(name: str, tasks: Sequence[TaskResult], check: bool) -> Item:
    failed = [task for task in tasks if task.status in ("failed", "unreachable")]
    ran = [task for task in tasks if task.status in ("ok", "changed")]
    stuck = [task for task in ran if DIFFERS in task.tags]
    changed = [task for task in ran if task.status == "changed" and LOOK not in task.tags]
    notes = tuple(task.message for task in ran if {NOTE, NOT_APPLICABLE} & set(task.tags) and task.message)
    applies = [task for task in ran if NOTE not in task.tags]
    what = (*(_told(task) for task in [*failed, *stuck, *changed]), *notes)
    diff = "\n".join(task.diff for task in changed if task.diff)
    if failed:
        verdict = Verdict.FAILED
    elif stuck or (changed and check):
        verdict = Verdict.DIFFERS
    elif changed:
        verdict = Verdict.FIXED
    else:
        nowhere = not applies or any(NOT_APPLICABLE in task.tags for task in ran)
        verdict = Verdict.NOT_APPLICABLE if nowhere else Verdict.OK
    return Item(name, verdict, what, diff)


def _told(task: TaskResult) -> str:
    message = " ".join(task.message.split())
    return f"{task.name}: {message}" if message and task.status != "changed" else task.name


def counts(found: Iterable[Item]) -> dict[str, int]:
    """How many items of each verdict, all of them named."""
    verdicts = [item.verdict for item in found]
    return {verdict.value: verdicts.count(verdict) for verdict in Verdict}


def status(found: Sequence[Item], played: int) -> int:
    """The exit status of a check.

    Args:
        found: its items.
        played: exit status of ansible-playbook.

    Returns:
        1 when an item failed or the playbook could not be run to its end; 2 when something differs; else 0.
    """
    if any(item.verdict is Verdict.FAILED for item in found) or played != 0:
        return 1
    return 2 if any(item.verdict is Verdict.DIFFERS for item in found) else 0
