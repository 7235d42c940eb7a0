"""Templates are tried without letting them reach outside: what they look up gets a sample value.

A template is a program: lookup("pipe", …) runs a command, and a lint looks at templates that nobody has read yet.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins import loader as plugins
from ansible.plugins.filter import core
from ansible.plugins.lookup import LookupBase

from wodmail.ansiblefilters import PREFIXES
from wodmail.lint import Finding, Severity

SAMPLE = "sample"
WITHIN = frozenset({"dict", "indexed_items", "items", "list", "nested", "random_choice", "sequence", "subelements"})
WITHIN |= {"together", "vars", "varnames"}
"""Lookups that have to do with values of the template alone."""
COLLECTIONS = ("ansible.", "community.general.")
"""Others' filters and tests may start programs, as community.sops.decrypt does."""


class Outside:
    """What templates wanted of the outside."""

    def __init__(self) -> None:
        self._wanted: list[str] = []

    def want(self, what: str) -> None:
        """Remember what a template asked for, such as "the lookup pipe"."""
        if what not in self._wanted:
            self._wanted.append(what)

    def taken(self) -> list[str]:
        """What was asked for since the last call."""
        found, self._wanted = self._wanted, []
        return found


def told(workshop: str, file: Path, wanted: list[str]) -> Iterator[Finding]:
    """What a template wanted of the outside, as findings.

    Args:
        workshop: WKSHP-Name.
        file: the template.
        wanted: see `Outside.taken`.
    """
    for what in wanted:
        words = f"calls {what}, not tried: a sample value stood in for it"
        yield Finding(workshop, file, _line(file, what), Severity.NOTE, words, "see for yourself that it does no harm")


def doubtful(found: Finding) -> Finding:
    """A mistake that the sample value of a lookup may have made.

    Args:
        found: the finding as it is without that doubt.
    """
    text = f"not tried to its end, as it may reach outside: {found.text}"
    return replace(found, severity=Severity.NOTE, text=text, advice="see for yourself that it expands")


def _line(file: Path, what: str) -> int:
    """Where the template asks for it; 0 when a variable does."""
    name = re.escape(what.rpartition(" ")[2])
    text = file.read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"(?<![\w.]){name}(?!\w)", text) or re.search(rf"(?<!\w){name}(?!\w)", text)
    return text[: found.start()].count("\n") + 1 if found else 0


@contextlib.contextmanager
def kept() -> Iterator[Outside]:
    """While this lasts, nothing is looked up in this process, whichever way a template asks for it."""
    outside = Outside()
    with contextlib.ExitStack() as stack:
        for kind in ("lookup", "filter", "test"):
            table = getattr(plugins, f"{kind}_loader")
            stack.enter_context(_put(vars(table), "get", _getter(kind, table.get, table.has_plugin, outside)))
        stack.enter_context(_put(vars(core), "glob", SimpleNamespace(glob=_Globbed(outside))))
        yield outside


@contextlib.contextmanager
def _put(table: Any, name: str, value: object) -> Iterator[None]:
    """Another value for a name as long as this lasts."""
    there, before = name in table, table.get(name)
    table[name] = value
    try:
        yield
    finally:
        if there:
            table[name] = before
        else:
            del table[name]


def _getter(kind: str, real: Callable[..., Any], known: Callable[[str], bool], outside: Outside) -> Callable[..., Any]:
    def get(name: str, *arguments: Any, **options: Any) -> Any:
        short = _short(name)
        if kind == "lookup" and short not in WITHIN and known(name):
            outside.want(f"the lookup {short}")
            return _Sample()
        if kind != "lookup" and (short == "fileglob" or ("." in short and not short.startswith(COLLECTIONS))):
            outside.want(f"the {kind} {short}")
            raise AnsibleError(f"the {kind} {short} is not tried")
        return real(name, *arguments, **options)

    return get


def _short(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


class _Sample(LookupBase):  # type: ignore[misc]
    """In the place of a lookup."""

    def run(self, *_terms: Any, **_options: Any) -> list[str]:
        """See Ansible."""
        return [SAMPLE]


class _Globbed:
    """In the place of glob.glob, which the filter fileglob calls that `ansiblefilters` has taken already."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def __call__(self, _pattern: str) -> list[str]:
        self._outside.want("the filter fileglob")
        return []
