"""Ansible's own filters, tests and lookups for templates that are expanded without Ansible.

Importing them takes a fifth of a second, so that happens when a template names one that is not among jinja2's or the
few of `wodmail.rendering`.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.runtime import Context

Plugin = Callable[..., Any]
FILTERS = ("core", "encryption", "mathstuff", "urls", "urlsplit")
TESTS = ("core", "files", "mathstuff", "uri")
PREFIXES = ("ansible.builtin.", "ansible.legacy.")
_lock = threading.Lock()
_loaded = threading.Event()


class Late(dict[str, Plugin]):
    """A table of filters or tests that looks into Ansible's for a name it doesn't have.

    Args:
        kind: filter or test.
        known: what is in the table from the start.
    """

    def __init__(self, kind: str, known: Mapping[str, Plugin]) -> None:
        super().__init__(known)
        self._kind = kind

    def __missing__(self, name: str) -> Plugin:
        short = functools.reduce(str.removeprefix, PREFIXES, name)
        if "." in short:
            return _of_collection(self._kind, short)
        return super().__getitem__(short) if super().__contains__(short) else _plugins(self._kind)[short]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self.get(str(name)) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """As a dictionary's, Ansible's names among them: jinja2 asks with it while it compiles."""
        try:
            return self[name]
        except KeyError:
            return default


@functools.cache
def _plugins(kind: str) -> dict[str, Plugin]:
    """All of Ansible's filters or tests."""
    found: dict[str, Plugin] = {}
    with _lock:
        for part in FILTERS if kind == "filter" else TESTS:
            module = importlib.import_module(f"ansible.plugins.{kind}.{part}")
            inner = module.FilterModule().filters() if kind == "filter" else module.TestModule().tests()
            found.update(inner)
    return {name: _telling(name, plugin) for name, plugin in found.items()}


def load_collections() -> None:
    """Let Ansible find collections, its own names in full (ansible.builtin.env) among them; for this process, once."""
    from ansible.plugins.loader import init_plugin_loader

    with _lock:
        if not _loaded.is_set():
            init_plugin_loader([])
            _loaded.set()


@functools.cache
def _of_collection(kind: str, name: str) -> Plugin:
    """A filter or test of a collection; KeyError when there is none."""
    from ansible.errors import AnsibleError
    from ansible.plugins import loader

    load_collections()
    try:
        with _lock:
            found = (loader.filter_loader if kind == "filter" else loader.test_loader).get(name)
    except (AnsibleError, ImportError) as error:
        raise KeyError(name) from error
    if found is None:
        raise KeyError(name)
    return _telling(name, found.j2_function)


def _telling(name: str, plugin: Plugin) -> Plugin:
    """The plugin, its errors told as jinja2's, so that they come with the template's line."""
    from ansible.errors import AnsibleError

    @functools.wraps(plugin)
    def told(*arguments: Any, **named: Any) -> Any:
        for value in (*arguments, *named.values()) if name != "mandatory" else ():
            if isinstance(value, jinja2.Undefined):
                str(value)  # raises, and names the variable
        try:
            return plugin(*arguments, **named)
        except AnsibleError as error:
            raise jinja2.TemplateRuntimeError(f"{name}: {error}") from error

    return told


class Omitted:
    """Ansible's `omit`: in a file it leaves nothing behind."""

    def __str__(self) -> str:
        return ""


OMIT = Omitted()


def written(value: Any) -> Any:
    """What an expression leaves in the text: nothing for None and `omit`, as with Ansible."""
    return "" if value is None or value is OMIT else value


def now(utc: bool = False, fmt: str | None = None) -> datetime | str:
    """Ansible's function `now`.

    Args:
        utc: the time of UTC instead of the machine's.
        fmt: a strftime format, for a text instead of a moment.
    """
    moment = datetime.now(UTC) if utc else datetime.now(UTC).astimezone()
    return moment.replace(tzinfo=None) if fmt is None else moment.strftime(fmt)


def lookups(folder: Path) -> dict[str, Plugin]:
    """The functions lookup, query and q.

    Args:
        folder: where files are looked for: the template's, beside it in files/ and templates/.
    """

    @jinja2.pass_context
    def query(context: Context, plugin: str, *terms: Any, **options: Any) -> list[Any]:
        options.pop("wantlist", None)
        return _looked_up(folder, context, plugin, terms, options)

    @jinja2.pass_context
    def lookup(context: Context, plugin: str, *terms: Any, **options: Any) -> Any:
        wanted = bool(options.pop("wantlist", False))
        found = _looked_up(folder, context, plugin, terms, options)
        if wanted or not all(isinstance(value, str) for value in found):
            return found if wanted or len(found) != 1 else found[0]
        return ",".join(found)

    return {"lookup": lookup, "query": query, "q": query}


def _looked_up(
    folder: Path, context: Context, plugin: str, terms: tuple[Any, ...], options: dict[str, Any]
) -> list[Any]:
    name = functools.reduce(str.removeprefix, PREFIXES, str(plugin))
    errors = options.pop("errors", "strict")
    if name != "vars" and (
        not name.isidentifier() or importlib.util.find_spec(f"ansible.plugins.lookup.{name}") is None
    ):
        raise jinja2.TemplateRuntimeError(f"there is no lookup {plugin} among Ansible's own")
    if name == "vars":
        return [_variable(context, str(term), options) for term in terms]
    from ansible.errors import AnsibleError
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import lookup_loader
    from ansible.template import Templar

    load_collections()
    loader = DataLoader()
    loader.set_basedir(str(folder))
    variables = {"ansible_search_path": [str(folder)], "role_path": str(folder)}
    try:
        with _lock:  # the second of two threads that load one plugin would get a half-made module
            made = lookup_loader.get(name, loader=loader, templar=Templar(loader=loader, variables=variables))
        if made is None:
            raise jinja2.TemplateRuntimeError(f"there is no lookup {plugin}")
        return list(made.run(list(terms), variables=variables, **options))
    except (AnsibleError, OSError) as error:
        if errors in ("ignore", "warn"):
            return []
        raise jinja2.TemplateRuntimeError(f"lookup {plugin}: {error}") from error


def _variable(context: Context, name: str, options: Mapping[str, Any]) -> Any:
    value = context.resolve(name)
    if isinstance(value, jinja2.Undefined) and "default" in options:
        return options["default"]
    if isinstance(value, jinja2.Undefined):
        raise jinja2.UndefinedError(f"'{name}' is undefined")
    return value
