"""The configuration: one YAML file of WOD* names, read once, checked whole.

The only module that reads the environment. What the keys mean is in `wodmail.schema`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from wodmail import checks
from wodmail.errors import ConfigError, Problem
from wodmail.schema import Network, Settings
from wodmail.yamlfile import read_mapping

__all__ = ["Network", "Report", "Settings", "find", "lenient", "load", "read"]

DEFAULT_FILE = Path("/etc/wod.yml")


@dataclass(frozen=True, slots=True)
class Report:
    """What reading a configuration found.

    Args:
        file: the file that was read.
        settings: the settings; None when there are problems with single keys or with the file itself.
        problems: what makes it unusable.
        warnings: what is probably a mistake.
    """

    file: Path
    settings: Settings | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def find(path: Path | None = None) -> Path:
    """The configuration file in use: the one named, else $WOD_CONFIG, else /etc/wod.yml."""
    return path or Path(os.environ.get("WOD_CONFIG") or DEFAULT_FILE)


def load(path: Path | None = None, *, files: bool = True) -> Settings:
    """Read and check the configuration file.

    Args:
        path: the file; without it $WOD_CONFIG, else /etc/wod.yml.
        files: whether the files and folders that it names are looked at too; a client that only sends mail need not.

    Raises:
        ConfigError: every problem found.
    """
    report = read(path, files=files)
    if report.problems or report.settings is None:
        raise ConfigError(report.problems)
    return report.settings


def read(path: Path | None = None, *, files: bool = True) -> Report:
    """Read the configuration file and report everything that is wrong with it.

    Args:
        path: see `load`.
        files: see `load`.
    """
    file = find(path).expanduser()
    data, problems = read_mapping(file)
    if data is None:
        return Report(file, None, tuple(problems), ())
    data = _from_here(data, file.absolute().parent)
    warnings = [Problem(name, _near(name)) for name in data if _looks_ours(name)]
    wrong, settings = _validated(data)
    named = {problem.path for problem in wrong}
    problems += wrong
    further = checks.values(settings) + (checks.files(settings) if files else [])
    problems += [problem for problem in further if problem.path not in named]
    warnings += checks.advice(settings, file)
    return Report(file, None if wrong else settings, tuple(problems), tuple(warnings))


def lenient(path: Path | None = None) -> Settings:
    """What can be read of a configuration that is wrong elsewhere, to tell somebody of that; never to work by.

    Args:
        path: see `load`.
    """
    file = find(path).expanduser()
    data, _ = read_mapping(file)
    return _validated(_from_here(data if data is not None else _lines(file), file.absolute().parent))[1]


def _lines(file: Path) -> dict[str, Any]:
    """The keys that stand in a line of their own, of a file that is no YAML as a whole."""
    found: dict[str, Any] = {}
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return found
    for line in re.findall(r"^WOD[A-Z]+[ \t]*:.*$", text, re.MULTILINE):
        try:
            found.update(yaml.safe_load(line))
        except yaml.YAMLError:
            continue
    return found


def _validated(data: dict[str, Any]) -> tuple[list[Problem], Settings]:
    """Problems with single keys, and the settings that the other keys make, so that those can be judged together."""
    try:
        return [], Settings.model_validate(data)
    except ValidationError as error:
        wrong = [_problem(detail) for detail in error.errors(include_url=False)]
    named = {problem.path for problem in wrong}
    return wrong, Settings.model_validate({name: value for name, value in data.items() if name not in named})


def _from_here(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The data with ~ and relative paths made absolute; relative ones start at the configuration file's folder.

    An empty path counts as not written (it would mean the folder that the program happens to be started in).
    """
    fields = Settings.model_fields
    folders = {name for name, field in fields.items() if field.annotation in (Path, Path | None)}
    return {
        name: folder / _home(value) if name in folders and isinstance(value, str) else value
        for name, value in data.items()
        if not (name in folders and value == "")
    }


def _home(value: str) -> Path:
    """The path with ~ and ~user expanded; one of an unknown user stays as it is and is then reported as missing."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def _looks_ours(name: str) -> bool:
    return name.upper().startswith("WOD") and name not in Settings.model_fields


def _near(name: str) -> str:
    """Words about an unknown WOD... key, with the known name that it is probably meant to be."""
    near = difflib.get_close_matches(name.upper(), Settings.model_fields, n=1, cutoff=0.6)
    meant = f", perhaps {near[0]} is meant" if near else ""
    return f"no known key{meant}; it is kept as a variable for Ansible and scripts"


def _problem(detail: ErrorDetails) -> Problem:
    """A pydantic error as key and plain words; the value is never quoted, it may be a secret."""
    name = str(detail["loc"][0]) if detail["loc"] else "configuration"
    index = next((part + 1 for part in detail["loc"][1:] if isinstance(part, int)), None)
    where = f"entry {index}: " if index is not None else ""
    return Problem(name, where + _words(detail))


def _words(detail: ErrorDetails) -> str:
    """What to write instead, by pydantic's type of error."""
    kind, context = detail["type"], detail.get("ctx", {})
    limits = {
        "greater_than_equal": "must be {ge} or more",
        "greater_than": "must be more than {gt}",
        "less_than_equal": "must be {le} or less",
        "string_too_short": "must not be empty; write a value or remove the line",
        "string_pattern_mismatch": "has characters that are not allowed; it must match {pattern}",
        "literal_error": "must be one of: {expected}",
        "value_error": "{error}",
    }
    if kind in limits:
        return limits[kind].format(**context)
    return _TYPES.get(kind, detail["msg"][:1].lower() + detail["msg"][1:])


_INTEGER = "must be a whole number, written in digits"
_NUMBER = "must be a number"
_TYPES = {
    "int_parsing": _INTEGER,
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "int_parsing_size": _INTEGER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a text; put the value in quotes",
    "path_type": "must be a path; put it in quotes",
    "list_type": "must be a list: [first, second]",
}
