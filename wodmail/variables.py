"""The variables of a backend's group, for templates that are rendered without Ansible (workshop scripts)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wodmail import distribution, vault, vaultformat, vaultkeys
from wodmail.config import Settings
from wodmail.errors import Failed

HOST = "127.0.0.1"
ENDINGS = ("", ".yml", ".yaml", ".json")
_VAULT_HEADER = "$ANSIBLE_VAULT;"


@dataclass(frozen=True, slots=True)
class _File:
    """What a variable file holds; `opened` are the texts in it that were in a vault."""

    values: dict[str, Any]
    opened: frozenset[str]


_known: dict[tuple[str, int, int], _File] = {}
_lock = threading.Lock()


def for_group(settings: Settings) -> dict[str, Any]:
    """The configuration's names, then group_vars all, WODGROUP and the distribution's, public then private; later wins.

    What every machine has (ansible_distribution and the like) comes first, and anything may override it.

    Args:
        settings: the configuration; tells the passwords that open what is vaulted.

    Raises:
        Failed: a variable file can't be read; names it and the line.
    """
    merged = {**machine(settings.WODGROUP), **settings.variables()}
    for file in _all(settings):
        merged.update(file.values)
    return merged


def from_vault(settings: Settings) -> frozenset[str]:
    """The texts among the group's variables that were in a vault, those deep in lists and mappings too.

    Args:
        settings: see `for_group`.

    Raises:
        Failed: see `for_group`.
    """
    return frozenset().union(*(file.opened for file in _all(settings)))


def machine(group: str) -> dict[str, Any]:
    """Facts of this machine that cost nothing to find out, named as Ansible's.

    Args:
        group: WODGROUP.
    """
    known, system = distribution.read(), os.uname()
    name, _, major = (distribution.name() or "").rpartition("-")
    facts = {
        "architecture": system.machine,
        "distribution": name,
        "distribution_major_version": major,
        "distribution_release": known.get("VERSION_CODENAME", ""),
        "distribution_version": known.get("VERSION_ID", ""),
        "hostname": system.nodename.partition(".")[0],
        "kernel": system.release,
        "machine": system.machine,
        "nodename": system.nodename,
        "system": system.sysname,
    }
    facts = {name: value for name, value in facts.items() if value}
    plain = {f"ansible_{name}": value for name, value in facts.items()}
    return {**plain, "ansible_facts": facts, "group_names": [group], "groups": {"all": [HOST], group: [HOST]}}


def _all(settings: Settings) -> Iterator[_File]:
    own = distribution.name()
    for folder in (settings.WODANSIBLEDIR, settings.WODANSIBLEPRIVDIR):
        for name in ("all", settings.WODGROUP, *([own] if own else [])):
            for path in _files(folder / "group_vars", name) if folder is not None else ():
                yield _load(path, settings)


def _files(folder: Path, name: str) -> list[Path]:
    """As Ansible finds them: name, name.yml, … or a folder of such files."""
    for ending in ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_file():
            return [path]
        if path.is_dir() and not ending:
            inner = sorted(each for each in path.iterdir() if each.is_file() and each.suffix in ENDINGS)
            return [each for each in inner if not each.name.startswith(".")]
    return []


def _load(path: Path, settings: Settings) -> _File:
    """One file's variables; read again only when it has changed."""
    try:
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        with _lock:
            if key not in _known:
                for old in [each for each in _known if each[0] == key[0]]:
                    del _known[old]
                _known[key] = _parse(path, settings)
            return _known[key]
    except vaultformat.WrongKeyError as error:
        shut = f"{path}: {error}; tried: {vaultkeys.tried(settings)}"
        raise Failed(vault.wrong_key(path.name), shut) from None
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        # Only the place is told: the text around it may be a secret.
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        cause = error.strerror if isinstance(error, OSError) else getattr(error, "problem", None) or "not valid"
        words = f"The variable file {path.name} can't be read; the operator has to look at it."
        raise Failed(words, f"{where}: {cause}") from error


def _parse(path: Path, settings: Settings) -> _File:
    text = path.read_text(encoding="utf-8")
    vaulted = text.startswith(_VAULT_HEADER)
    if vaulted:
        text = _opened(text, settings)
    opened: set[str] = set()
    data = yaml.load(text, _loader(settings, opened))  # noqa: S506 - a SafeLoader that knows !vault and !unsafe besides
    if data is None:
        return _File({}, frozenset())
    if not isinstance(data, dict):
        raise yaml.YAMLError("no mapping of names to values")
    if vaulted:
        opened.update(_texts(data))
    return _File({str(name): value for name, value in data.items()}, frozenset(opened))


def _texts(value: object) -> Iterator[str]:
    """Texts and numbers in a value, however deep; names of mappings, true, false and nothing hide nothing."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _loader(settings: Settings, opened: set[str]) -> type[yaml.SafeLoader]:
    class Loader(yaml.SafeLoader):
        """SafeLoader that opens Ansible's vaulted values, and puts what was in them into `opened`."""

    def vaulted(_: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
        text = _opened(str(node.value), settings)
        opened.add(text)
        return text

    Loader.add_constructor("!vault", vaulted)
    Loader.add_constructor("!vault-encrypted", vaulted)
    Loader.add_constructor("!unsafe", lambda _, node: str(node.value))
    return Loader


def _opened(text: str, settings: Settings) -> str:
    """What a vaulted text holds."""
    return vault.opened(text.encode(), settings).decode()
