"""Shell templates: jinja2 as Ansible's template module would expand them, without starting Ansible."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import jinja2
from jinja2.runtime import Context

from wodmail.errors import Failed

HOST = "127.0.0.1"
_DEPTH = 20
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
    if not isinstance(value, str) or ("{{" not in value and "{%" not in value):
        return value
    depth = _depth.get()
    if depth > _DEPTH:
        raise jinja2.TemplateRuntimeError("variables refer to each other in a circle")
    token = _depth.set(depth + 1)
    try:
        return environment.from_string(value).render(dict(variables))
    except jinja2.UndefinedError as error:
        # jinja2 looks names up before it comes to their line: let the error come where the value is used.
        return environment.undefined(hint=str(error))
    finally:
        _depth.reset(token)


def _boolean(value: object) -> bool:
    return value is True or str(value).strip().lower() in ("1", "true", "yes", "on", "y", "t")


FILTERS: dict[str, Any] = {
    "quote": lambda value: shlex.quote(str(value)),
    "bool": _boolean,
    "basename": lambda value: PurePosixPath(str(value)).name,
    "dirname": lambda value: str(PurePosixPath(str(value)).parent),
    "to_json": lambda value: json.dumps(value),
    "b64encode": lambda value: base64.b64encode(str(value).encode()).decode(),
    "b64decode": lambda value: base64.b64decode(str(value)).decode(),
    "regex_replace": lambda value, pattern, by: re.sub(pattern, by, str(value)),
    "ternary": lambda value, yes, no: yes if value else no,
    "mandatory": lambda value: value,
}
"""Filters of Ansible's that shell templates use, beside jinja2's own."""


def render(path: Path, variables: Mapping[str, Any]) -> str:
    """Expand a template file.

    Args:
        path: the template; it may include its neighbours.
        variables: what it may use, also as `hostvars[inventory_hostname]['IP-WKSHP-X']`.

    Raises:
        Failed: names file, line and variable.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the result is a shell script, not HTML
    )
    environment.context_class = _LazyContext
    environment.filters.update(FILTERS)
    more = {"inventory_hostname": HOST, "hostvars": {HOST: _Lazy(environment, variables)}}
    try:
        return environment.get_template(path.name).render({**variables, **more})
    except jinja2.TemplateSyntaxError as error:
        raise _failed(path, error.lineno, error.message or "syntax error") from error
    except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
        raise _failed(path, _line_in(path, error.__traceback__), str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _failed(path, 0, f"it can't be read: {error}") from error


def _failed(path: Path, line: int, reason: str) -> Failed:
    where = f"{path.name}:{line}" if line else path.name
    words = f"The template {where} can't be expanded: {reason}. Define it in group_vars or in the configuration."
    if "undefined" not in reason and "no attribute" not in reason:
        words = f"The template {where} can't be expanded: {reason}."
    return Failed(words, f"{path.parent / where}: {reason}")


def _line_in(path: Path, trace: TracebackType | None) -> int:
    """The template's line that an error came from: jinja2 puts it into the traceback."""
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
