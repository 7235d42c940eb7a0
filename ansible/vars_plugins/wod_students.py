"""Vars plugin: hands the server's job to the action plugin, and a student's variables to private task files."""

from __future__ import annotations

from ansible.errors import AnsibleError
from ansible.inventory.host import Host
from ansible.plugins.vars import BaseVarsPlugin
from ansible.utils.vars import load_extra_vars

from wodmail.copyfolder import handover
from wodmail.copyfolder.job import Job
from wodmail.errors import WodmailError

DOCUMENTATION = """
    name: wod_students
    short_description: what copy_folder.yml is to do, and the variables of a student
    description:
        - Gives every host the job that the server handed over as C(wod_copy).
        - Layers the variable files of docs/copy-folder.md for hosts that carry C(wod_student), which
          copy_folder.yml makes when there are private task files.
    author: wodmail
    version_added: historical
    options: {}
"""


class VarsModule(BaseVarsPlugin):
    """Asked again and again by Ansible, so everything is read once in the life of the process."""

    _kept: dict = {}  # noqa: RUF012 - shared by all instances on purpose

    def get_vars(self, loader, path, entities):
        """The job for every host, and a student's variables for that student's host."""
        super().get_vars(loader, path, entities)
        merged = {}
        for entity in entities if isinstance(entities, list) else [entities]:
            if isinstance(entity, Host):
                merged.update(self._once("job", self._handed_over))
                student = entity.vars.get("wod_student")
                if student is not None:
                    merged.update(self._once(int(student), lambda number=int(student): self._of(loader, number)))
        return merged

    def _once(self, key, make):
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    @staticmethod
    def _handed_over():
        job = handover.received()
        return {} if job is None else {"wod_copy": job}

    def _of(self, loader, student):
        # Imported late: most runs have no private task files.
        from wodmail.copyfolder.variables import Layers

        try:
            job = Job.of_run(self._kept["job"], load_extra_vars(loader), loader)
            layers = Layers(loader, job)
            return {**layers.common(), **layers.own(student)}
        except WodmailError as error:
            raise AnsibleError(f"{error.sender} ({error.operator})") from error
