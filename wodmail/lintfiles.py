"""A workshop's files: too large, no notebooks, or templates that don't expand with the variables at hand.

Templates are expanded as copy_folder does it, with its code and Ansible's engine, but in this process and for a sample
student: what only a job has (a password, a create script's tokens) gets sample values.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastjsonschema
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from wodmail import ansiblefilters, compiling, deliverrun, lintoutside, lintsite, rendering, variables, vaultkeys
from wodmail.copyfolder import notebook, source
from wodmail.copyfolder.expand import Expander, Unexpanded
from wodmail.copyfolder.home import READ_ME
from wodmail.copyfolder.job import Job
from wodmail.copyfolder.request import from_settings
from wodmail.copyfolder.run import students_variables
from wodmail.copyfolder.variables import Layers
from wodmail.errors import Failed, WodmailError
from wodmail.lint import Finding, Severity
from wodmail.logs import Masker
from wodmail.schema import Settings
from wodmail.students.treewriter import Entry
from wodmail.wodyml import Workshop

SAMPLE = "sample"
MOST_VARIABLES = 50
CHECKPOINT = "-checkpoint.ipynb"
_FACT = re.compile(rb"\bansible_facts(?:\.|\[['\"])(\w+)|\bansible_(\w+)")
_OF_CHALLENGES = re.compile(rb"\b(?:MODEWS|CHALLENGE)\b")


class Templates:
    """Expands templates with this backend's variables, of all workshops one after the other.

    Args:
        settings: the configuration.

    Attributes:
        group: the group's variables; None when they can't be read.
        problems: why they can't.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.group: dict[str, Any] | None = None
        self.problems: list[Finding] = []
        self._mask = Masker()
        ansiblefilters.load_collections()
        self._loader = DataLoader()
        try:
            self.group = variables.for_group(settings)
            self._mask = deliverrun.site(settings).masker()
        except WodmailError as error:
            words = f"no template can be looked at: {error.sender} ({error.operator})"
            advice = "mend the variable file or the vault's password (docs/variables.md)"
            self.problems.append(Finding("", settings.WODANSIBLEDIR, 0, Severity.ERROR, words, advice))

    def job(self, workshop: Workshop, mode: str) -> Job:
        """The job of a sample student.

        Args:
            workshop: whose templates are expanded.
            mode: WKSHP, or CHLG for the challenge.
        """
        student = workshop.range[0] if workshop.range else self.settings.WODUSERMIN
        challenge = f"{mode}-{workshop.name.partition('-')[2]}"
        secrets = vaultkeys.known(self.settings)
        return from_settings(self.settings, students=(student,), challenge=challenge, writer=(), secrets=secrets)

    def sample(self, job: Job, entries: list[Entry], given: frozenset[str]) -> dict[str, Any]:
        """The variables of the sample student.

        Args:
            job: see `job`.
            entries: the templates; facts that they name get sample values where they aren't known.
            given: variables that only a job has.

        Raises:
            Failed: a variable file of the workshop can't be read.
        """
        layers = Layers(self._loader, job)
        machine = variables.machine(self.settings.WODGROUP)
        facts = dict(machine["ansible_facts"])
        for entry in entries:
            for pair in _FACT.findall(entry.data):
                facts.setdefault((pair[0] or pair[1]).decode(), SAMPLE)
        plain = {f"ansible_{name}": value for name, value in facts.items()} | {"ansible_managed": rendering.MANAGED}
        shared = {
            **plain,
            **layers.common(),
            "inventory_hostname": rendering.HOST,
            "ansible_facts": facts,
            "hostvars": {},
        }
        own = {**{name: f"{SAMPLE}-{name}" for name in given}, **job.inputs(job.students[0])}
        return students_variables({**machine, **shared}, own, rendering.HOST)

    def expander(self, folder: Path) -> Expander:
        """What expands the templates of a folder; it knows what must not be told."""
        return Expander(Templar(loader=self._loader, variables={}), folder, self._mask.mask)


def look(workshop: Workshop, templates: Templates, max_bytes: int) -> Iterator[Finding]:
    """All that is wrong with one workshop's files.

    Args:
        workshop: as its wod.yml describes it.
        templates: expands them.
        max_bytes: see `lint.look`.
    """
    folder = workshop.folder
    if folder is None:
        return
    try:
        read = source.read(folder)
    except Failed as error:
        yield Finding(workshop.name, folder, 0, Severity.ERROR, error.sender, "make it readable, or smaller")
        return
    yield from _tree(workshop, read, max_bytes)
    yield from _notebooks(workshop, read)
    if templates.group is None:
        return
    expanded = list(_expanded(workshop, templates, read.templates(), "WKSHP"))
    yield from expanded
    if any(_OF_CHALLENGES.search(entry.data) for entry in read.templates()):
        known = {(each.file, each.line, each.text) for each in expanded}
        for found in _expanded(workshop, templates, read.templates(), "CHLG"):
            if (found.file, found.line, found.text) not in known:
                severity = Severity.NOTE if found.severity is Severity.NOTE else Severity.WARNING
                yield replace(found, severity=severity, text=f"as a challenge (CHLG): {found.text}")
    yield from _programs(workshop, templates)


def _tree(workshop: Workshop, read: source.Source, max_bytes: int) -> Iterator[Finding]:
    files = {entry.path: entry for entry in read.entries if entry.kind == "file"}
    if READ_ME not in files:
        words = f"there is no {READ_ME}, which students see first"
        yield Finding(workshop.name, read.folder, 0, Severity.ERROR, words, "write one")
    for path, entry in files.items():
        if len(entry.data) > max_bytes:
            words = f"{len(entry.data)} bytes are more than {max_bytes}: each student gets a copy"
            advice = "make it smaller, or let the notebook fetch it"
            yield Finding(workshop.name, read.folder / path, 0, Severity.ERROR, words, advice)
    for path in read.skipped:
        words = "not copied: neither a file nor a link within the workshop's folder"
        yield Finding(
            workshop.name, read.folder / path, 0, Severity.WARNING, words, "replace it by a file, or remove it"
        )


def _notebooks(workshop: Workshop, read: source.Source) -> Iterator[Finding]:
    """Notebooks as they are stored; of one that is a template, its expansion counts."""
    for entry in read.entries:
        if entry.kind != "file" or not entry.path.endswith(".ipynb") or entry.path.endswith(CHECKPOINT):
            continue
        file, template = read.folder / entry.path, source.is_template(entry)
        try:
            text = entry.data.decode()
        except UnicodeDecodeError as error:
            line = entry.data[: error.start].count(b"\n") + 1
            if not template:  # else the expansion tells
                yield Finding(workshop.name, file, line, Severity.ERROR, "no UTF-8 text", "save it as UTF-8")
            continue
        wrong = notebook.problem(text)
        if wrong:
            severity = Severity.WARNING if template else Severity.ERROR
            words = f"no valid notebook{' before its variables are filled in' if template else ''}: {wrong}"
            yield Finding(workshop.name, file, _line_in(wrong), severity, words, "repair it in Jupyter")
        else:
            yield from _strict(workshop, file, text)


def _strict(workshop: Workshop, file: Path, text: str) -> Iterator[Finding]:
    """What the format's own schema finds; Jupyter opens such a notebook and complains."""
    book = json.loads(text)
    check = _validator(book["nbformat"], book.get("nbformat_minor", 0))
    try:
        check(book)
    except fastjsonschema.JsonSchemaValueException as error:
        words = str(error.message).replace("data.", "", 1).splitlines()[0][:160]
        told = f"Jupyter will complain about it: {words}"
        yield Finding(workshop.name, file, 0, Severity.WARNING, told, "open and save it in Jupyter")


@functools.cache
def _validator(major: int, minor: int) -> Callable[[object], object]:
    """The schema that nbformat has for a version. nbformat itself isn't imported: that may take seconds."""
    found = importlib.util.find_spec("nbformat")
    folder = Path((found.submodule_search_locations or [""])[0] if found else "", f"v{major}")
    names = (f"nbformat.v{major}.{minor}.schema.json", f"nbformat.v{major}.schema.json")
    file = next(folder / name for name in names if (folder / name).is_file())
    made: Callable[[object], object] = fastjsonschema.compile(json.loads(file.read_text(encoding="utf-8")))
    return made


def _expanded(workshop: Workshop, templates: Templates, entries: list[Entry], mode: str) -> Iterator[Finding]:
    """Templates that don't expand, each variable that is missing in each file."""
    folder = workshop.folder or Path()
    job = templates.job(workshop, mode)
    given = lintsite.given(templates.settings, workshop)
    try:
        sample = templates.sample(job, entries, given)
    except Failed as error:
        words, advice = f"{error.sender} ({error.operator})", "mend the variable file (docs/variables.md)"
        yield Finding(workshop.name, folder, 0, Severity.ERROR, words, advice)
        return
    private = any(job.hooks())
    expander = templates.expander(folder)
    for entry in entries:
        for found in _one(workshop, expander, entry, sample):
            # A private task file may set what is missing here.
            yield replace(found, severity=Severity.WARNING) if private and found.advice.startswith("define") else found


def _one(workshop: Workshop, expander: Expander, entry: Entry, sample: Mapping[str, Any]) -> Iterator[Finding]:
    """Everything that keeps one template from being expanded: each missing variable gets a sample, then on it goes."""
    file = (workshop.folder or Path()) / entry.path
    values = dict(sample)
    for _ in range(MOST_VARIABLES):
        try:
            with lintoutside.kept() as outside:
                text = expander.text(entry, values)
        except Unexpanded as error:
            wanted = outside.taken()
            yield from lintoutside.told(workshop.name, file, wanted)
            found = _unexpanded(workshop, file, entry.path, error)
            yield lintoutside.doubtful(found) if wanted and not _missing(error) else found
            if not error.variable or error.variable in values:
                return
            hosts = {name: {**inner, error.variable: SAMPLE} for name, inner in values["hostvars"].items()}
            values = {**values, error.variable: SAMPLE, "hostvars": hosts}
            continue
        yield from lintoutside.told(workshop.name, file, outside.taken())
        wrong = notebook.problem(text) if entry.path.endswith(".ipynb") else None
        if wrong:
            words = f"no valid notebook once its variables are filled in: {wrong}"
            advice = "mind quotes and backslashes in the values: a notebook is JSON"
            yield Finding(workshop.name, file, _line_in(wrong), Severity.ERROR, words, advice)
        return


def _missing(error: Unexpanded) -> bool:
    """Whether a variable is missing, not an attribute of a value."""
    return bool(error.variable) and " has no " not in error.operator


def _unexpanded(workshop: Workshop, file: Path, path: str, error: Unexpanded) -> Finding:
    text, _, advice = error.sender.removeprefix(path).partition("; ")
    text = re.sub(r"^( line \d+)?:? ", "", text)
    if not error.variable:
        advice = advice or "correct the template"
    return Finding(workshop.name, file, error.line, Severity.ERROR, text, advice)


def _programs(workshop: Workshop, templates: Templates) -> Iterator[Finding]:
    """Scripts that are compiled are templates with a student's variables, too."""
    for name in workshop.compile:
        try:
            script = compiling.find([name], *compiling.folders(templates.settings))[0]
            entry = Entry(script.file.name, "file", data=script.file.read_bytes())
            given = frozenset({"PASSSTU"} if workshop.varpass or workshop.ldap else ())
            sample = templates.sample(templates.job(workshop, "WKSHP"), [entry], given)
        except (Failed, OSError):  # a missing script is a finding of lintsite's, a variable file one of _expanded's
            continue
        if script.template:
            at_script = replace(workshop, folder=script.file.parent)
            yield from _one(at_script, templates.expander(script.file.parent), entry, sample)


def _line_in(words: str) -> int:
    found = re.match(r"line (\d+) ", words)
    return int(found[1]) if found else 0
