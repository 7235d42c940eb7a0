"""What Ansible's events say about a playbook's tasks (pure, but for reading the playbook's own files)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

ITEM = "item_"
CHANGED = re.compile(r"^changed: \[", re.MULTILINE)
STATUSES = {
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_skipped": "skipped",
    "runner_on_unreachable": "unreachable",
}
GENERIC = "non-zero return code"
"""What Ansible says of every program that ends with another status than 0."""
PROGRAM_CHARACTERS = 1000
BLOCKS = frozenset({"block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"})


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What became of one task on one host.

    Args:
        host: the host's name in the inventory.
        name: the task's name.
        file: path of the file that holds the task, and its line: "/…/tasks/limits.yml:12".
        tags: the tags written at the task and at the blocks around it in that file.
        status: ok, changed, failed, skipped or unreachable.
        message: what the module said; why it failed; nothing for a skipped one.
        diff: what differs, a unified diff or the module's own words; "" without `diff` or difference.
        data: the module's whole answer.
    """

    host: str
    name: str
    file: str
    tags: tuple[str, ...]
    status: str
    message: str = ""
    diff: str = ""
    data: Mapping[str, Any] | None = None

    @property
    def item(self) -> str:
        """The item that the task belongs to: its tag `item_…` without that beginning, else ""."""
        return next((tag.removeprefix(ITEM) for tag in self.tags if tag.startswith(ITEM)), "")


def read_event(
    event: Mapping[str, Any], mask: Callable[[Any], Any], hidden: set[tuple[str, str]] | None = None
) -> TaskResult | None:
    """A finished task out of one of ansible-runner's events; None when the event is of another kind.

    Args:
        event: as ansible-runner hands it over.
        mask: takes secrets out of a value.
        hidden: kept from event to event: tasks of which an item of a loop was changed without a word (`no_log`).
    """
    status = STATUSES.get(str(event.get("event")))
    data = event.get("event_data", {})
    result = mask(data.get("res") or {})
    task = (str(data.get("task_uuid")), str(data.get("host")))
    if "censored" in result and CHANGED.search(str(event.get("stdout"))):
        # Of a task with no_log ansible-runner keeps nothing but the printed line.
        (hidden if hidden is not None else set()).add(task)
        result = {**result, "changed": True}
    if status is None:
        return None
    if hidden is not None and task in hidden:
        result = {**result, "changed": True}
    if status == "failed" and data.get("ignore_errors"):
        status = "ok"
    if status == "ok" and result.get("changed"):
        status = "changed"
    place = str(data.get("task_path") or "")
    name = str(data.get("task") or "")
    return TaskResult(
        str(data.get("host") or ""), name, place, tags_at(place), status, message(result), diff(result), result
    )


def message(result: Mapping[str, Any]) -> str:
    """What a module said, the items of a loop that failed or changed told one by one."""
    inner = [each for each in result.get("results", []) if isinstance(each, Mapping)]
    told = [each for each in inner if each.get("failed")] or [each for each in inner if each.get("changed")]
    lines = [f"{_label(each)}: {message(each)}" for each in told if message(each)]
    if lines:
        return "\n".join(lines)
    said = [text for name in ("msg", "stderr", "stdout") if (text := str(result.get(name) or "").strip())]
    if said[1:] and said[0] == GENERIC:  # of a program that failed its own words say more
        return f"status {result.get('rc')}: {said[1][-PROGRAM_CHARACTERS:]}"
    return said[0] if said else ""


def _label(result: Mapping[str, Any]) -> str:
    label = result.get("_ansible_item_label", result.get("item", ""))
    return str(label.get("name", label)) if isinstance(label, Mapping) else str(label)


def diff(result: Mapping[str, Any]) -> str:
    """What a module says that differs, as unified diffs."""
    inner = [each for each in result.get("results", []) if isinstance(each, Mapping)]
    found = result.get("diff") or []
    parts = [_difference(each) for each in (found if isinstance(found, list) else [found])]
    return "\n".join(part for part in [*parts, *(diff(each) for each in inner)] if part)


def _difference(each: Any) -> str:
    if not isinstance(each, Mapping):
        return ""
    if each.get("prepared"):
        return str(each["prepared"]).strip()
    before, after = _text(each.get("before")), _text(each.get("after"))
    if before == after:
        return ""
    names = (str(each.get("before_header") or "before"), str(each.get("after_header") or "after"))
    return "\n".join(unified(before, after, names))


def unified(before: str, after: str, names: tuple[str, str]) -> Iterator[str]:
    """A unified diff of two texts with one line of context."""
    import difflib

    yield from difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="", n=1)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {inner}" for name, inner in sorted(value.items()))
    return "" if value is None else str(value)


def tags_at(place: str) -> tuple[str, ...]:
    """The tags of the task that begins at "file:line", those of the blocks around it first."""
    file, _, line = place.rpartition(":")
    if not file or not line.isdigit():
        return ()
    path = Path(file)
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return ()
    return _tagged(path, changed).get(int(line), ())


@lru_cache(maxsize=256)
def _tagged(path: Path, _changed: int) -> dict[int, tuple[str, ...]]:
    """Line → tags for every task of a file."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return dict(_walk(tree, ())) if isinstance(tree, yaml.SequenceNode) else {}


def _walk(node: yaml.SequenceNode, outer: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    for task in node.value:
        if not isinstance(task, yaml.MappingNode):
            continue
        fields = {str(name.value): value for name, value in task.value}
        tags = (*outer, *_tags(fields.get("tags")))
        yield task.start_mark.line + 1, tags
        for name, value in fields.items():
            if name in BLOCKS and isinstance(value, yaml.SequenceNode):
                yield from _walk(value, tags)


def _tags(node: yaml.Node | None) -> tuple[str, ...]:
    if isinstance(node, yaml.SequenceNode):
        return tuple(str(each.value) for each in node.value)
    if isinstance(node, yaml.ScalarNode):
        return tuple(word for word in re.split(r"[,\s]+", str(node.value)) if word)
    return ()
