"""Shell templates: jinja2 as Ansible's template module would expand them, without starting Ansible."""

from __future__ import annotations

import ast
import base64
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

import jinja2
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from wodmail import ansiblefilters
from wodmail.errors import Failed

HOST = "127.0.0.1"
HEADER = "#jinja2:"
MANAGED = "Ansible managed"
OVERRIDES = frozenset(
    f"{kind}_{end}_string" for kind in ("block", "variable", "comment") for end in ("start", "end")
) | {"trim_blocks", "lstrip_blocks", "newline_sequence", "keep_trailing_newline", "line_statement_prefix"}
_DEPTH = 20
_ALONE = re.compile(r"\{\{((?:(?!\{\{|\}\}|\{%).)*)\}\}", re.DOTALL)
_UNDEFINED = re.compile(r"'([^'\n]+)' is undefined|has no (?:attribute|element) '?([^'\n]+?)'?(?=$|[\s.,;:'])")
_depth: ContextVar[int] = ContextVar("depth", default=0)


class _Lazy(Mapping[str, Any]):
    """Variables whose values may be templates themselves, expanded when they are asked for."""

    def __init__(self, environment: jinja2.Environment, values: Mapping[str, Any]) -> None:
        self._environment = environment
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return _expanded(self._environment, self._values[name], self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _LazyContext(Context):
    """Looks a name up as Ansible does: a value that holds a template is expanded when it is used."""

    def resolve_or_missing(self, key: str) -> Any:
        """The value of a name, expanded."""
        return _expanded(self.environment, super().resolve_or_missing(key), self.parent)


def _expanded(environment: jinja2.Environment, value: Any, variables: Mapping[str, Any]) -> Any:
    """A value with the templates in it expanded, those deep in lists and mappings too."""
    if isinstance(value, list):
        return [_expanded(environment, inner, variables) for inner in value]
    if type(value) is dict:
        return {name: _expanded(environment, inner, variables) for name, inner in value.items()}
    if not isinstance(value, str) or ("{{" not in value and "{%" not in value):
        return value
    depth = _depth.get()
    if depth > _DEPTH:
        raise jinja2.TemplateRuntimeError("variables refer to each other in a circle")
    token = _depth.set(depth + 1)
    try:
        return _value(environment, value, variables)
    except jinja2.UndefinedError as error:
        # jinja2 looks names up before it comes to their line: let the error come where the value is used.
        return environment.undefined(hint=str(error))
    finally:
        _depth.reset(token)


def _value(environment: jinja2.Environment, text: str, variables: Mapping[str, Any]) -> Any:
    """As with Ansible, a value that is one expression keeps its type: a list stays a list."""
    alone = _ALONE.fullmatch(text.strip())
    if alone is None:
        return environment.from_string(text).render(dict(variables))
    found = environment.compile_expression(alone.group(1), undefined_to_none=False)(dict(variables))
    if isinstance(found, jinja2.Undefined):
        str(found)  # raises, as its use would
    return found


FILTERS: dict[str, Any] = {
    "quote": lambda value: shlex.quote("" if value is None else str(value)),
    "basename": lambda value: posixpath.basename(str(value)),
    "dirname": lambda value: posixpath.dirname(str(value)),
    "b64encode": lambda value: base64.b64encode(str(value).encode()).decode(),
    "b64decode": lambda value: base64.b64decode(str(value)).decode(),
}
"""Filters of Ansible's that shell templates use most, beside jinja2's own; the others are imported when one is used."""
ANSIBLES = frozenset({"random", "unique"})
"""Filters that jinja2 has too, but that can do more in Ansible."""


class Broken(Failed):
    """A template can't be expanded.

    Args:
        path: the template.
        line: the line in it, from 1; 0 when it is not known.
        reason: what is wrong.
    """

    def __init__(self, path: Path, line: int, reason: str) -> None:
        named = _UNDEFINED.search(reason)
        where = f"{path.name}:{line}" if line else path.name
        words = f"The template {where} can't be expanded: {reason}."
        if named or "undefined" in reason or "no attribute" in reason:
            words += " Define it in group_vars or in the configuration."
        super().__init__(words, f"{path.parent / where}: {reason}")
        self.line = line
        self.reason = reason
        self.variable = next(filter(None, named.groups()), "") if named else ""


class _Loader(jinja2.FileSystemLoader):
    """Leaves out the line of settings that a template may begin with."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """See jinja2."""
        text, file, current = super().get_source(environment, template)
        return text.partition("\n")[2] if text.startswith(HEADER) else text, file, current


def render(path: Path, variables: Mapping[str, Any], *, sandbox: bool = False) -> str:
    """Expand a template file.

    Args:
        path: the template; it may include its neighbours, and begin with Ansible's line of settings (`#jinja2: ...`).
        variables: what it may use, also as `hostvars[inventory_hostname]['IP-WKSHP-X']`.
        sandbox: it may not reach Python's own attributes of values, through which it could do anything.

    Raises:
        Broken: names file, line and variable.
    """
    made = environment(path.parent, sandbox=sandbox)
    variables = {"ansible_managed": MANAGED, **variables}
    more = {"inventory_hostname": HOST, "hostvars": {HOST: _Lazy(made, variables)}}
    skipped = 0
    try:
        settings = _settings(path)
        skipped = int(settings is not None)
        made = made.overlay(**settings) if settings else made
        return made.get_template(path.name).render({**variables, **more})
    except jinja2.TemplateSyntaxError as error:
        own = error.filename in (None, str(path))
        line = error.lineno + skipped if own else 0
        reason = error.message or "syntax error"
        raise Broken(path, line, reason if own else f"{error.filename}:{error.lineno}: {reason}") from error
    except Exception as error:  # what a template calls may raise anything: filters of collections, lookups, re, yaml
        line = _line_in(path, error.__traceback__)
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and not isinstance(error, jinja2.TemplateError) and not line:
            reason = f"it can't be read: {reason}"
        raise Broken(path, line + skipped if line else 0, reason) from error


def _settings(path: Path) -> dict[str, Any] | None:
    """The settings of a first line `#jinja2: trim_blocks: False, variable_start_string: '[%'`; None without one."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    if not first.startswith(HEADER):
        return None
    found: dict[str, Any] = {}
    for pair in first.removeprefix(HEADER).strip().split(","):
        name, colon, value = pair.partition(":")
        if not colon or name.strip() not in OVERRIDES:
            raise jinja2.TemplateSyntaxError(f"{pair.strip()!r} is no setting of jinja2", 0)
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError) as error:
            raise jinja2.TemplateSyntaxError(f"{pair.strip()!r} has no plain value", 0) from error
    return found


def environment(folder: Path, *, sandbox: bool = False) -> jinja2.Environment:
    """A jinja2 environment that behaves as the one of Ansible's template module.

    Args:
        folder: where includes and files of lookups are.
        sandbox: see `render`.
    """
    kind = SandboxedEnvironment if sandbox else jinja2.Environment
    made = kind(
        loader=_Loader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        finalize=ansiblefilters.written,
        autoescape=False,  # the result is a shell script or a variable file, not HTML
    )
    made.context_class = _LazyContext
    own: dict[str, Any] = {name: plugin for name, plugin in made.filters.items() if name not in ANSIBLES}
    vars(made)["filters"] = ansiblefilters.Late("filter", {**own, **FILTERS})
    vars(made)["tests"] = ansiblefilters.Late("test", dict[str, Any](made.tests))
    made.globals.update(ansiblefilters.lookups(folder), omit=ansiblefilters.OMIT, now=ansiblefilters.now)
    return made


def _line_in(path: Path, trace: TracebackType | None) -> int:
    """The template's line that an error came from: jinja2 puts it into the traceback."""
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
