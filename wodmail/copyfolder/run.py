"""One run of copy_folder: for each student the variables, the expanded tree, the home. Imported inside Ansible only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wodmail.copyfolder import expand, home, source, writer
from wodmail.copyfolder.job import Job
from wodmail.copyfolder.variables import Layers
from wodmail.copyfolder.writer import Writer
from wodmail.errors import Failed
from wodmail.students.treewriter import Entry

Gather = Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Context:
    """What Ansible gives to a run.

    Args:
        templar: the action plugin's templar.
        loader: the data loader.
        variables: the host's variables as Ansible sees them (task_vars).
        extra: variables of the command line; they win over files, not over a student's own.
        host: the inventory's name of this host, whatever host the task runs for.
        gather: gathers the host's facts; only called when a template names some.
    """

    templar: Any
    loader: Any
    variables: Mapping[str, Any]
    extra: Mapping[str, Any]
    host: str
    gather: Gather


def run(job: Job, context: Context, phase: str = "all") -> list[dict[str, Any]]:
    """Do the job for all its students, each one's failure apart.

    Args:
        job: what to do.
        context: what Ansible gives.
        phase: "all"; or, around private task files, "copy" (remove the old, copy as it is), then "expand", then
            "finish" (what those task files made becomes the student's own).

    Returns:
        For each student {"student", "ok", "files", "expanded", "note"} or {"student", "ok", "error", "cause"}.

    Raises:
        Failed: what concerns all students: the workshop's folder or a common variable file.
    """
    read = source.read(source.find(job.workshop, *job.notebooks))
    layers = Layers(context.loader, job)
    shared = shared_variables(context, read.templates(), layers)
    results = []
    with writer.opened(job.writer, job.homes) as opened:
        for student in job.students:
            one = _Student(job, student, read, opened, context.templar)
            results.append(one.run(shared, layers, context.host, phase))
    return results


def shared_variables(context: Context, templates: Iterable[Entry], layers: Layers) -> dict[str, Any]:
    """The variables that all students share, facts among them when a template asks for them.

    Args:
        context: what Ansible gives.
        templates: what will be expanded.
        layers: the variable files.
    """
    templates = list(templates)
    shared = {**context.variables, **layers.common(), **context.extra}
    shared["inventory_hostname"] = context.host
    shared.setdefault("ansible_managed", "Ansible managed")
    shared.pop("wod_copy", None)
    if expand.facts_wanted(templates, {**shared, "ansible_facts": None}):
        facts = context.gather()
        shared["ansible_facts"] = {**facts}
        shared |= {f"ansible_{name}": value for name, value in facts.items() if f"ansible_{name}" not in shared}
    hosts = context.variables.get("hostvars")
    others = expand.other_hosts_wanted(templates) and hosts is not None
    shared["hostvars"] = {name: hosts[name] for name in hosts if name != context.host} if others and hosts else {}
    return shared


def students_variables(shared: Mapping[str, Any], own: Mapping[str, Any], host: str) -> dict[str, Any]:
    """All variables of one student: the shared ones, the student's own over them, and the host's view of both.

    Args:
        shared: see `shared_variables`.
        own: see `Layers.own`.
        host: the inventory's name of this host.
    """
    variables = {**shared, **own}
    inner = {name: value for name, value in variables.items() if name != "hostvars"}
    variables["hostvars"] = {**shared["hostvars"], host: inner}
    return variables


def mask_for(job: Job, student: int, secret: Mapping[str, Any]) -> Callable[[str], str]:
    """Hides values (a password, tokens) and the vault's password in texts.

    Args:
        job: the run.
        student: the student, whose number and workshop are no secrets.
        secret: the variables whose values are.
    """
    known = set(job.inputs(student))
    hidden = [str(value) for name, value in secret.items() if name not in known and len(str(value)) > 3]
    hidden += job.secrets

    def mask(text: str) -> str:
        for value in sorted(hidden, key=len, reverse=True):
            text = text.replace(value, "******")
        return text

    return mask


@dataclass(frozen=True, slots=True)
class _Student:
    """One student of a run."""

    job: Job
    student: int
    source: source.Source
    writer: Writer
    templar: Any

    def run(self, shared: Mapping[str, Any], layers: Layers, host: str, phase: str) -> dict[str, Any]:
        """The result line of this student."""
        try:
            own = layers.own(self.student)
            variables = students_variables(shared, own, host)
            return {"student": self.student, "ok": True, **self._write(variables, own, phase)}
        except Failed as error:
            return {"student": self.student, "ok": False, "error": error.sender, "cause": error.operator}

    def _write(self, variables: Mapping[str, Any], own: Mapping[str, Any], phase: str) -> dict[str, Any]:
        folder = self.job.folder
        tree: list[Entry] = []
        if phase != "finish":
            files = self._files(variables, own, phase)
            tree = home.tree(folder, files, Path(self.job.pdf_script).read_bytes())
        self.writer.write(self.student, folder, home.removals(folder) if phase in ("all", "copy") else [], tree)
        count = sum(entry.kind == "file" for entry in self.source.entries)
        expanded = len(self.source.templates())
        return {"files": count, "expanded": expanded, "note": self._note(count, expanded)}

    def _files(self, variables: Mapping[str, Any], own: Mapping[str, Any], phase: str) -> list[Entry]:
        if phase == "copy":
            return list(self.source.entries)
        mask = mask_for(self.job, self.student, own)
        files = expand.Expander(self.templar, self.source.folder, mask).files(self.source.entries, variables)
        if phase == "all":
            return files
        # What is no template lies there already, perhaps changed by a private task file.
        return [new for new, old in zip(files, self.source.entries, strict=True) if new is not old or _first(new)]

    def _note(self, count: int, expanded: int) -> str:
        note = f"{count} files, {expanded} expanded"
        if self.source.skipped:
            note += f"; left out (neither files nor links within the home): {', '.join(self.source.skipped[:5])}"
        if not any(_first(entry) for entry in self.source.entries):
            note += f"; there is no {home.READ_ME} to open at the start"
        return note


def _first(entry: Entry) -> bool:
    return entry.path == home.READ_ME and entry.kind == "file"
