"""Reading one YAML mapping strictly: every mistake in plain words with its line, nothing silently overwritten."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from wodmail.errors import Problem


class _Loader(yaml.SafeLoader):
    """SafeLoader that notes duplicate keys and keys that are no text, instead of letting the last one win."""

    def __init__(self, stream: str, name: str) -> None:
        super().__init__(stream)
        self.file = name
        self.problems: list[Problem] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, after looking at its keys as they are written (before `<<` merges others in)."""
        seen: dict[str, int] = {}
        for written, _ in node.value:
            line = written.start_mark.line + 1
            if not isinstance(written, yaml.ScalarNode):
                continue
            if written.value in seen:
                self._note(f"{written.value} is written twice, in lines {seen[written.value]} and {line}; keep one")
            seen[written.value] = line
        return super().construct_mapping(node, deep)

    def _note(self, message: str) -> None:
        self.problems.append(Problem(self.file, message))


def read_mapping(file: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The file's top-level mapping and everything wrong with the file as such.

    Args:
        file: a YAML file in UTF-8, with or without byte order mark; an empty one is an empty mapping.

    Returns:
        The mapping (None when it can't be had) and the problems; a value is never quoted, it may be a secret.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return None, [Problem(str(file), f"line {line} is not UTF-8; save the file in the encoding UTF-8")]
    except OSError as error:
        return None, [Problem(str(file), _unreadable(error))]
    loader: _Loader | None = None
    try:
        loader = _Loader(text, str(file))
        data = loader.get_single_data()
    except yaml.YAMLError as error:
        return None, [*(loader.problems if loader else ()), Problem(str(file), _plain(error))]
    except (RecursionError, ValueError):
        return None, [
            Problem(str(file), "it is nested too deeply or holds an impossible date; write plain keys and values")
        ]
    return _mapping(file, data, loader.problems)


def _mapping(file: Path, data: Any, problems: list[Problem]) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The data when it is a mapping with text keys; a key without a value counts as not written."""
    if data is None:
        return {}, problems
    if not isinstance(data, dict):
        words = "it must be a list of lines KEY: value; this is something else"
        return None, [*problems, Problem(str(file), words)]
    odd = [name for name in data if not isinstance(name, str)]
    problems += [Problem(str(file), f"the key {name!r} is no name; put it in quotes or remove it") for name in odd]
    return {name: value for name, value in data.items() if isinstance(name, str) and value is not None}, problems


def _unreadable(error: OSError) -> str:
    """Why the file can't be read and what to do."""
    if isinstance(error, FileNotFoundError):
        return (
            "there is no such file; make one with `wodmail config sample`, or name yours with --config or $WOD_CONFIG"
        )
    if isinstance(error, PermissionError):
        return "you may not read it; run as the account that owns it, or have its mode changed"
    if isinstance(error, IsADirectoryError):
        return "this is a folder; name the file"
    return f"it can't be read: {error.strerror}"


def _plain(error: yaml.YAMLError) -> str:
    """A YAML error in plain words with its line."""
    if isinstance(error, yaml.reader.ReaderError):
        return "it holds a control character; is this really a text file?"
    where, what = "", str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        what = error.problem or ""
    if "'\\t'" in what:
        return f"{where}a tab; indent with blanks"
    if "could not determine a constructor" in what:
        return f"{where}a value with a ! tag; only plain values are possible here (vaulted ones go into group_vars)"
    if "expected a single document" in what or "expected a single document" in str(error):
        return f"{where}a second document begins (---); keep everything in one"
    if "mapping values are not allowed" in what:
        return f"{where}a colon where none can be; put the value in quotes"
    return f"{where}not YAML: {what}"
