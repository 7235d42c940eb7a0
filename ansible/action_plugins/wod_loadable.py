"""Action plugin: fail when a file of tasks can't be loaded, before something includes it."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.playbook.helpers import load_list_of_blocks
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.action import ActionBase

DOCUMENTATION = """
    name: wod_loadable
    short_description: see that a file of tasks can be loaded
    description:
        - A file that M(ansible.builtin.include_tasks) cannot load (no YAML, a playbook, an unknown module) ends
          the whole run, and no rescue is asked. This loads the file as the include would, runs nothing of it, and fails
          as any other task.
        - Files that the file includes itself, while it runs, are not looked at.
    author: wodmail
    version_added: historical
    options:
        file:
            description: Path of the file of tasks.
            type: path
            required: true
"""


class ActionModule(ActionBase):
    """See DOCUMENTATION. Runs on the controller alone."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Load the file."""
        del tmp
        result = super().run(task_vars=task_vars)
        try:
            self._load(self._task.args["file"])
        except (AnsibleError, AssertionError) as error:  # the latter of what is no list of tasks at all
            raise AnsibleActionFail(_words(error)) from error
        return {**result, "changed": False}

    def _load(self, file):
        try:
            data = self._loader.load_from_file(file, trusted_as_template=True)
        except TypeError:  # ansible-core before 2.19 trusts every text
            data = self._loader.load_from_file(file)
        if data is not None and not isinstance(data, list):
            raise AnsibleError(f"{file}: a file of tasks must be a list of tasks")
        known = {"variable_manager": self._task.get_variable_manager(), "loader": self._loader}
        around = self._task._parent
        include = TaskInclude.load({"ansible.builtin.include_tasks": file}, block=around, **known)
        load_list_of_blocks(data, play=around._play, parent_block=include.build_parent_block(), **known)


def _words(error):
    """What is wrong and where, with the place that newer versions of Ansible tell apart."""
    place = str(getattr(error, "_formatted_source_context", None) or "").partition("\n")[0]
    return f"{error} ({place})" if place else str(error)
