"""Action plugin: ansible.builtin.copy, without starting a module where the file is already as it is to be."""

from __future__ import annotations

import grp
import pwd
import stat
from pathlib import Path

from ansible.plugins.action import ActionBase

DOCUMENTATION = """
    name: wod_copy
    short_description: copy a text or a file to this machine
    description:
        - Takes what M(ansible.builtin.copy) takes, and does the same.
        - When the task runs on this machine and the file is there with the same bytes, mode, owner and group, this is
          seen in the process of ansible-playbook itself; a module takes a third of a second for it.
    author: wodmail
    version_added: historical
    options: {}
"""
KNOWN = frozenset({"content", "src", "dest", "owner", "group", "mode", "validate", "backup"})


class ActionModule(ActionBase):
    """See DOCUMENTATION."""

    def run(self, tmp=None, task_vars=None):
        """Say that nothing is to be done, or let ansible.builtin.copy do it."""
        result = super().run(tmp, task_vars)
        args = self._task.args
        if self._connection.transport in ("local", "localhost") and not self._task.become and set(args) <= KNOWN:
            dest = Path(args.get("dest", ""))
            if dest.is_absolute() and not dest.is_symlink() and dest.is_file() and self._is_there(dest, args):
                return {**result, "changed": False, "dest": str(dest)}
        copy = self._shared_loader_obj.action_loader.get(
            "ansible.builtin.copy",
            task=self._task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        return {**result, **copy.run(task_vars=task_vars)}

    @staticmethod
    def _is_there(dest, args):
        """Whether the file has the bytes, mode, owner and group that are asked for."""
        found = dest.stat()
        right = {
            "mode": (None, format(stat.S_IMODE(found.st_mode), "04o")),
            "owner": (None, str(found.st_uid), _name(pwd.getpwuid, found.st_uid)),
            "group": (None, str(found.st_gid), _name(grp.getgrgid, found.st_gid)),
        }
        if any(args.get(name) not in values for name, values in right.items()):
            return False
        wanted = args["content"].encode() if isinstance(args.get("content"), str) else None
        if wanted is None and "src" in args and Path(args["src"]).is_absolute():
            wanted = Path(args["src"]).read_bytes()
        return wanted is not None and dest.read_bytes() == wanted


def _name(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)
