"""Changes /etc/wod.yml for an installation: what is there stays as it is written, comments and all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from wodmail.errors import ConfigError, Problem
from wodmail.yamlfile import read_mapping

HEADING = """\
# wodmail's configuration, made by wod-install, yours to change. `wodmail config sample` prints every key with its
# meaning, `wodmail config check` tells what is wrong; `wod-install` run again carries a change to what depends on it.
---
"""


def read(file: Path) -> tuple[str, dict[str, Any]]:
    """A configuration file's text and what it says; the heading and nothing when there is no file yet.

    Args:
        file: usually /etc/wod.yml.

    Raises:
        ConfigError: it can't be read.
    """
    if not file.exists():
        return HEADING, {}
    data, problems = read_mapping(file)
    if data is None or problems:
        raise ConfigError(problems)
    return file.read_text(encoding="utf-8-sig"), data


def changed(text: str, before: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The text with some keys set: a key's own line is replaced, a new key is added at the end.

    Args:
        text: the file so far.
        before: what it says.
        new: keys and their values.

    Raises:
        ConfigError: a key that must change is written over several lines; it is the operator's to change.
    """
    differing = {name: value for name, value in new.items() if name not in before or before[name] != value}
    for name, value in differing.items():
        line = _line(name, value)
        if name in before:
            written = re.findall(rf"(?m)^{re.escape(name)}[ \t]*:[^\n]*$", text)
            text, wrong = text.replace(written[0], line, 1) if written else text, len(written) != 1
        else:
            text, wrong = f"{text.rstrip()}\n{line}\n", False
        if wrong or _value(text, name) != value:
            raise ConfigError([Problem(name, f"write it yourself: {line if name in before else name}")])
    if differing and yaml.safe_load(text) != {**before, **new}:
        raise ConfigError(
            [Problem(", ".join(differing), "can't be set without changing other keys; write them yourself")]
        )
    return text


def _value(text: str, name: str) -> Any:
    try:
        return (yaml.safe_load(text) or {}).get(name)
    except yaml.YAMLError:
        return None


def _line(name: str, value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return f"{name}: {dumped.removesuffix(chr(10)).removesuffix(chr(10) + '...')}"
