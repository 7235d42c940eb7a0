"""One run of compile_scripts: for each student the variables, the programs, the home. Imported inside Ansible only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.constants import DEFAULT_LOCAL_TMP

from wodmail import compiling
from wodmail.compiling import Script
from wodmail.copyfolder import writer
from wodmail.copyfolder.expand import Expander, Mask
from wodmail.copyfolder.job import Job
from wodmail.copyfolder.run import Context, mask_for, shared_variables, students_variables
from wodmail.copyfolder.variables import Layers
from wodmail.copyfolder.writer import Writer
from wodmail.errors import Failed
from wodmail.students.treewriter import Entry


def run(job: Job, context: Context) -> list[dict[str, Any]]:
    """Compile the job's scripts for all its students, each one's failure apart.

    Args:
        job: what to do.
        context: what Ansible gives.

    Returns:
        For each student what `copyfolder.run.run` returns; `files` counts the programs.

    Raises:
        Failed: what concerns all students: a script, the compiler or a common variable file is missing.
    """
    found = compiling.find(job.scripts, *job.script_folders)
    _check_names(job, found)
    compiling.check_tools()
    sources = [(script, _read(script)) for script in found]
    layers = Layers(context.loader, job)
    shared = shared_variables(context, [entry for script, entry in sources if script.template], layers)
    with writer.opened(job.writer, job.homes) as opened:
        works = [_Student(job, student, sources, opened, context.templar) for student in job.students]
        return [work.run(shared, layers, context.host) for work in works]


def _check_names(job: Job, scripts: Sequence[Script]) -> None:
    for script in scripts:
        if script.program in (job.workshop, job.folder):
            raise Failed(f"{script.name} can't be compiled: its program would have the name of the workshop's folder")


def _read(script: Script) -> Entry:
    try:
        return Entry(script.file.name, "file", data=script.file.read_bytes())
    except OSError as error:
        raise Failed(f"{script.name} can't be compiled: {error.strerror}", str(error)) from error


@dataclass(frozen=True, slots=True)
class _Student:
    """One student of a run."""

    job: Job
    student: int
    sources: Sequence[tuple[Script, Entry]]
    writer: Writer
    templar: Any

    def run(self, shared: Mapping[str, Any], layers: Layers, host: str) -> dict[str, Any]:
        """The result line of this student; nothing is in the home before all scripts are compiled."""
        try:
            own = layers.own(self.student)
            mask = mask_for(self.job, self.student, {**layers.workshops(), **own})
            variables = students_variables(shared, own, host)
            try:
                programs = [self._program(script, entry, variables, mask) for script, entry in self.sources]
            except Failed as error:
                raise Failed(mask(error.sender), mask(error.operator), output=mask(error.output)) from error
            self.writer.put_programs(self.student, programs)
        except Failed as error:
            told = {"error": error.sender, "cause": error.operator, "output": error.output}
            return {"student": self.student, "ok": False, **told}
        note = ", ".join(
            f"{program.path} from {script.where} {script.file.name}"
            for program, (script, _) in zip(programs, self.sources, strict=True)
        )
        expanded = sum(script.template for script, _ in self.sources)
        return {"student": self.student, "ok": True, "files": len(programs), "expanded": expanded, "note": note}

    def _program(self, script: Script, entry: Entry, variables: Mapping[str, Any], mask: Mask) -> Entry:
        data = entry.data
        if script.template:
            text = Expander(self.templar, script.file.parent, mask).text(entry, variables)
            data = text.encode(errors="surrogatepass")
        return Entry(script.program, "file", 0o700, compiling.build(script, data, DEFAULT_LOCAL_TMP))
