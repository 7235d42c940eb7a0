"""What the action plugins share: what Ansible gives to a run, this host's facts, results. Inside Ansible only."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail

from wodmail.copyfolder.job import Job
from wodmail.copyfolder.run import Context

FACTS_AGE = 24 * 3600.0


def context(action: Any, job: Job, task_vars: Mapping[str, Any], extra: Mapping[str, Any]) -> Context:
    """What Ansible gives to a run.

    Args:
        action: the action plugin.
        job: what to do.
        task_vars: the host's variables as Ansible sees them.
        extra: the command line's variables.
    """
    return Context(
        templar=action._templar,
        loader=action._loader,
        variables=task_vars,
        extra=extra,
        host=task_vars.get("wod_inventory_hostname") or task_vars["inventory_hostname"],
        gather=lambda: _facts(action, job, task_vars),
    )


def told(students: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The task's result out of those of its students."""
    failed = [each for each in students if not each["ok"]]
    result: dict[str, Any] = {"wod_students": list(students), "changed": len(failed) < len(students)}
    if failed:
        result.update(failed=True, msg="; ".join(f"student {each['student']}: {each['cause']}" for each in failed))
    return result


def _facts(action: Any, job: Job, task_vars: Mapping[str, Any]) -> dict[str, Any]:
    """The host's facts: those Ansible has, else the kept ones when they are younger than a day, else new ones."""
    if task_vars.get("ansible_facts"):
        return dict(task_vars["ansible_facts"])
    kept = Path(job.facts) if job.facts else None
    if kept is not None and kept.is_file() and time.time() - kept.stat().st_mtime < FACTS_AGE:
        known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return known
    python = task_vars.get("ansible_playbook_python")
    variables = {"ansible_python_interpreter": python, **task_vars}
    answer = action._execute_module(module_name="ansible.legacy.setup", module_args={}, task_vars=variables)
    if answer.get("failed") or "ansible_facts" not in answer:
        raise AnsibleActionFail(f"the facts of this host could not be gathered: {answer.get('msg')}")
    facts = {name.removeprefix("ansible_"): value for name, value in answer["ansible_facts"].items()}
    if kept is not None:
        _keep(kept, json.dumps(facts, default=str))
    return facts


def _keep(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=".facts-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(fresh).replace(path)
