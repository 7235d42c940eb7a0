"""Action plugin wod_copy_folder: personalise a workshop for a list of students in one task (docs/copy-folder.md)."""

from __future__ import annotations

import dataclasses

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

from wodmail.copyfolder import plugin
from wodmail.copyfolder import run as copy_run
from wodmail.copyfolder.job import Job
from wodmail.errors import WodmailError


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
            context = plugin.context(self, job, task_vars, extra)
            students = copy_run.run(job, context, "all" if phase == "auto" else phase)
        except WodmailError as error:
            raise AnsibleActionFail(f"{error.sender} ({error.operator})", result={"wod_error": error.sender}) from error
        return {**result, **plugin.told(students), "wod_hosts": []}

    @staticmethod
    def _plan(job, before, after):
        """Nothing is done yet: each student gets a host, on which the private task files run."""
        hosts = [{"name": f"student{number}", "number": number} for number in job.students]
        return {"wod_hosts": hosts, "wod_before": before, "wod_after": after, "changed": False}
