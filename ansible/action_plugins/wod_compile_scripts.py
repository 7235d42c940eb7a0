"""Action plugin wod_compile_scripts: compile scripts for a list of students in one task (docs/compile.md)."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

from wodmail.copyfolder import plugin, programs
from wodmail.copyfolder.job import Job
from wodmail.errors import Failed, WodmailError


class ActionModule(ActionBase):
    """Runs on the controller alone: no connection is opened unless a template names facts."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Compile all scripts for all students of the job."""
        del tmp
        result = super().run(task_vars=task_vars)
        try:
            extra = dict(load_extra_vars(self._loader))
            job = Job.of_run(task_vars, extra, self._loader)
            if not job.scripts:
                raise Failed("no scripts are named; give -e SCRIPTS=a.sh,b.sh, the scripts to compile")
            students = programs.run(job, plugin.context(self, job, task_vars, extra))
        except WodmailError as error:
            raise AnsibleActionFail(f"{error.sender} ({error.operator})", result={"wod_error": error.sender}) from error
        return {**result, **plugin.told(students)}
