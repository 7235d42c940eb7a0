"""Expand templates of workshops with Ansible's own engine. Imported inside Ansible only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from jinja2 import TemplateError

from wodmail import vault
from wodmail.copyfolder import blame, notebook
from wodmail.copyfolder.source import is_template
from wodmail.copyfolder.variables import first_line, trusted
from wodmail.errors import Failed
from wodmail.students.treewriter import Entry

Mask = Callable[[str], str]
_INSIDE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_FACT = re.compile(r"\bansible_\w+")
# Errors that a template itself can cause: Ansible's, Jinja's, and what a filter or a method raises on a wrong value.
TEMPLATE_ERRORS = (
    AnsibleError,
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class Unexpanded(Failed):
    """A template can't be expanded.

    Args:
        sender: see `Failed`.
        operator: see `Failed`.
        line: where in the template, from 1; 0 when it is not known.
        variable: the one that is missing; "" when none is.
    """

    def __init__(self, sender: str, operator: str, *, line: int = 0, variable: str = "") -> None:
        super().__init__(sender, operator)
        self.line = line
        self.variable = variable


class Expander:
    """Expands the templates of one folder for one set of variables after the other.

    Args:
        templar: the action plugin's templar.
        folder: the folder that the templates are from.
        mask: hides secrets in the text of an error.
    """

    def __init__(self, templar: Any, folder: Path, mask: Mask) -> None:
        self._templar = templar
        self._folder = folder
        self._mask = mask

    def files(self, entries: Iterable[Entry], variables: Mapping[str, Any]) -> list[Entry]:
        """A workshop's entries, expanded where they are templates.

        Raises:
            Failed: names file, line and variable.
        """
        return [self.file(entry, variables) if is_template(entry) else entry for entry in entries]

    def text(self, entry: Entry, variables: Mapping[str, Any]) -> str:
        """The text of one template, expanded.

        Raises:
            Failed: names file, line and variable.
        """
        try:
            text = entry.data.decode()
        except UnicodeDecodeError as error:
            line = entry.data[: error.start].count(b"\n") + 1
            words = f"{entry.path} line {line} is not UTF-8 text, so its template marks can't be expanded"
            cause = f"{self._folder / entry.path}: {error.reason} at byte {error.start}"
            raise Unexpanded(words, cause, line=line) from error
        return self._render(entry, text, variables)

    def file(self, entry: Entry, variables: Mapping[str, Any]) -> Entry:
        """A template, expanded; a notebook must be one afterwards.

        Raises:
            Failed: names file, line and variable.
        """
        expanded = self.text(entry, variables)
        wrong = notebook.problem(expanded) if entry.path.endswith(".ipynb") else None
        if wrong:
            words = f"{entry.path} is no valid notebook after its variables were filled in: {wrong}"
            raise Failed(self._mask(words), f"{self._folder / entry.path}: {self._mask(wrong)}")
        return Entry(entry.path, "file", entry.mode, expanded.encode(errors="surrogatepass"))

    def _render(self, entry: Entry, text: str, variables: Mapping[str, Any]) -> str:
        templar = self._for_file(entry, variables)
        try:
            return render(templar, text)
        except TEMPLATE_ERRORS as error:
            raise self._failure(entry, text, error, templar) from error

    def _for_file(self, entry: Entry, variables: Mapping[str, Any]) -> Any:
        """A templar that finds `{% include %}` files beside the template and in the folder."""
        beside = (self._folder / entry.path).parent
        search = [str(beside), str(self._folder)]
        return self._templar.copy_with_new_env(searchpath=search, available_variables=dict(variables))

    def _failure(self, entry: Entry, text: str, error: BaseException, templar: Any) -> Unexpanded:
        """The error as file, line and variable, with what to do about it."""
        where = self._folder / entry.path
        broken = blame.syntax(text)
        if broken:
            words = f"{entry.path} line {broken[0]}: the template's syntax is wrong: {broken[1]}"
            return Unexpanded(words, f"{where}:{broken[0]}: {broken[1]}", line=broken[0])

        def again(changed: str) -> str:
            try:
                render(templar, changed)
            except TEMPLATE_ERRORS as repeated:
                return messages(repeated)
            return ""

        message = messages(error)
        found = blame.find(text, message, again)
        line = f" line {found.line}" if found.line else ""
        words = self._mask(_words(found.variable, message))
        cause = f"{where}:{found.line or '?'}: {self._mask(message)}"
        return Unexpanded(f"{entry.path}{line}: {words}", cause, line=found.line, variable=found.variable)


def _words(variable: str, message: str) -> str:
    if variable == "PASSSTU":
        return 'the variable PASSSTU is not defined; set "varpass: true" in the workshop\'s wod.yml'
    if variable:
        return (
            f"the variable {variable} is not defined; "
            "define it in a group_vars file or in the workshop's variable file (docs/copy-folder.md)"
        )
    if "decrypt" in message.lower():
        return vault.other_key("a variable that is used here")
    return f"the template can't be expanded: {message}"


def render(templar: Any, text: str) -> str:
    """Expand a text with the settings of Ansible's template module (blocks trimmed, backslashes left alone)."""
    if hasattr(templar, "evaluate_expression"):
        result = templar.template(trusted(text), escape_backslashes=False, overrides={"trim_blocks": True})
    else:  # ansible-core before 2.19: `template` would turn JSON into data
        result = templar.do_template(text, preserve_trailing_newlines=True, escape_backslashes=False)
    return "" if result is None else str(result)


def messages(error: BaseException) -> str:
    """The first lines of an error and of what caused it."""
    parts: list[str] = []
    step: BaseException | None = error
    while step is not None and len(parts) < 4:
        line = first_line(step)
        if line not in parts:
            parts.append(line)
        step = step.__cause__
    return " / ".join(parts)


def facts_wanted(templates: Iterable[Entry], known: Mapping[str, Any]) -> bool:
    """Whether a template names gathered facts: `ansible_facts` or an `ansible_…` name that is no variable."""
    for entry in templates:
        for part in _INSIDE.findall(entry.data.decode(errors="replace")):
            names = set(_FACT.findall(part)) - {"ansible_managed"}
            if "ansible_facts" in names or any(name not in known for name in names):
                return True
    return False


def other_hosts_wanted(templates: Iterable[Entry]) -> bool:
    """Whether a template looks at the variables of a host other than its own."""
    pattern = re.compile(rb"hostvars(?!\s*\[\s*inventory_hostname\s*\])")
    return any(pattern.search(entry.data) for entry in templates)
