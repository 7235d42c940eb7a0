"""Action plugin wod_copy_folder: personalise a workshop for a list of students in one task (docs/copy-folder.md)."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

from wodmail.copyfolder import run as copy_run
from wodmail.copyfolder.job import Job
from wodmail.errors import WodmailError

FACTS_AGE = 24 * 3600.0


class ActionModule(ActionBase):
    """Runs on the controller alone: no connection is opened unless a template names facts."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Do the phase named by the task, or say which private task files must run around it."""
        del tmp
        result = super().run(task_vars=task_vars)
        phase = self._task.args.get("phase", "auto")
        try:
            extra = dict(load_extra_vars(self._loader))
            job = Job.of_run(task_vars, extra, self._loader)
            if "wod_student" in task_vars:
                job = dataclasses.replace(job, students=(int(task_vars["wod_student"]),))
            before, after = job.hooks()
            if phase == "auto" and (before or after):
                result.update(self._plan(job, before, after))
                return result
            context = self._context(job, task_vars, extra)
            students = copy_run.run(job, context, "all" if phase == "auto" else phase)
        except WodmailError as error:
            raise AnsibleActionFail(f"{error.sender} ({error.operator})", result={"wod_error": error.sender}) from error
        failed = [each for each in students if not each["ok"]]
        result.update(wod_students=students, changed=len(failed) < len(students), wod_hosts=[])
        if failed:
            result.update(failed=True, msg="; ".join(f"student {each['student']}: {each['cause']}" for each in failed))
        return result

    @staticmethod
    def _plan(job, before, after):
        """Nothing is done yet: each student gets a host, on which the private task files run."""
        hosts = [{"name": f"student{number}", "number": number} for number in job.students]
        return {"wod_hosts": hosts, "wod_before": before, "wod_after": after, "changed": False}

    def _context(self, job, task_vars, extra):
        host = task_vars.get("wod_inventory_hostname") or task_vars["inventory_hostname"]
        return copy_run.Context(
            templar=self._templar,
            loader=self._loader,
            variables=task_vars,
            extra=extra,
            host=host,
            gather=lambda: self._facts(job, task_vars),
        )

    def _facts(self, job: Job, task_vars):
        """The host's facts: those Ansible has, else the kept ones when they are younger than a day, else new ones."""
        if task_vars.get("ansible_facts"):
            return dict(task_vars["ansible_facts"])
        kept = Path(job.facts) if job.facts else None
        if kept is not None and kept.is_file() and time.time() - kept.stat().st_mtime < FACTS_AGE:
            return json.loads(kept.read_text(encoding="utf-8"))
        python = task_vars.get("ansible_playbook_python")
        variables = {"ansible_python_interpreter": python, **task_vars}
        answer = self._execute_module(module_name="ansible.legacy.setup", module_args={}, task_vars=variables)
        if answer.get("failed") or "ansible_facts" not in answer:
            raise AnsibleActionFail(f"the facts of this host could not be gathered: {answer.get('msg')}")
        facts = {name.removeprefix("ansible_"): value for name, value in answer["ansible_facts"].items()}
        if kept is not None:
            _keep(kept, json.dumps(facts, default=str))
        return facts


def _keep(path, text):
    """Write a file whole or not at all, readable by its owner only."""
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=".facts-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(fresh).replace(path)
