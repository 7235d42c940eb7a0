"""Replace brand names in a folder of texts and notebooks by a map of regular expressions (docs/rebranding.md).

`read_rules`, `rebranded` and `in_notebook` decide and write nothing; `rebrand` puts them to work on a folder.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from wodmail.errors import ConfigError, Problem

SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", ".ipynb_checkpoints", "__pycache__", "node_modules"})
LARGEST = 64 * 1024 * 1024
LOOKED_AT = 8192
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_KEY_FOLLOWS = re.compile(r"\s*:")
_PICTURE = re.compile(r"(image|audio|video|font)/|application/(pdf|octet-stream|zip|vnd\.)")
_INLINE = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,[A-Za-z0-9+/=\s]*?(?=[^A-Za-z0-9+/=\s]|\Z)")


@dataclass(frozen=True, slots=True)
class Rule:
    r"""One line of the map.

    Args:
        pattern: what is looked for.
        text: what it becomes; may name groups as \1 or \g<name>.
    """

    pattern: re.Pattern[str]
    text: str

    def apply(self, text: str) -> tuple[str, int]:
        """The text with every match replaced, and how many were; what already reads as it should counts as none."""
        count = 0

        def replaced(match: re.Match[str]) -> str:
            nonlocal count
            found, wanted = match.group(0), match.expand(self.text)
            if found == wanted or _stands(text, match.start(), found, wanted):
                return found
            count += 1
            return wanted

        return self.pattern.sub(replaced, text), count


def _stands(text: str, start: int, found: str, wanted: str) -> bool:
    """Whether the replacement, which holds what it replaces, is there already: so that a second run changes nothing."""
    offset = wanted.find(found) if found else -1
    while offset >= 0:
        first = start - offset
        if first >= 0 and text.startswith(wanted, first):
            return True
        offset = wanted.find(found, offset + 1)
    return False


class Outcome(StrEnum):
    """What became, or would become, of one file."""

    CHANGED = "changed"
    SAME = "same"
    BINARY = "binary"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Rebranded:
    """One file.

    Args:
        path: the file, relative to the folder.
        outcome: see `Outcome`.
        count: how many places were replaced.
        diff: unified diff when it is changed.
        reason: why it failed or was passed over.
    """

    path: str
    outcome: Outcome
    count: int = 0
    diff: str = ""
    reason: str = ""


class UnstableError(ValueError):
    """The rules would change their own result again; the words name the rule."""


def read_rules(file: Path) -> tuple[Rule, ...]:
    """The rules of a map file, in their order.

    Args:
        file: YAML, a mapping of regular expressions to texts.

    Raises:
        ConfigError: it can't be read, or isn't such a mapping; every wrong line is named.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([Problem(str(file), f"it can't be read: {error}")]) from error
    if not isinstance(data, dict) or not data:
        words = "no mapping of regular expressions to texts; write lines such as  'Old Brand': New Brand"
        raise ConfigError([Problem(str(file), words)])
    rules, problems = [], []
    for pattern, text in data.items():
        try:
            rules.append(_rule(pattern, text))
        except (ValueError, re.error, IndexError) as error:
            problems.append(Problem(f"{file}: {pattern}", str(error)))
    if problems:
        raise ConfigError(problems)
    return tuple(rules)


def _rule(pattern: object, text: object) -> Rule:
    if not isinstance(pattern, str) or not isinstance(text, str):
        raise ValueError("both sides must be texts; put them in quotes")  # noqa: TRY004 - about a value in a file
    compiled = re.compile(pattern)
    if compiled.match(""):
        raise ValueError("it also matches nothing at all, which is everywhere")
    # Names and numbers of groups in the text are looked up now, and not when the first match comes.
    re.compile(f"(?:{pattern})|").sub(text, "")
    return Rule(compiled, text)


def rebranded(text: str, rules: Sequence[Rule]) -> tuple[str, int]:
    """A text with the rules applied in their order, and how many places were replaced (pure).

    Pictures that are written into the text (data:…;base64,…) are left as they are.

    Raises:
        UnstableError: a second run would change the result again.
    """
    once, count = _outside_pictures(text, lambda part: _applied(part, rules))
    for number, rule in enumerate(rules, 1):
        again, _ = _outside_pictures(once, lambda part: _applied(part, rules))
        if again == once:
            break
        if _outside_pictures(once, rule.apply)[0] != once:
            raise UnstableError(
                f"a second run would change it again, by rule {number}, {rule.pattern.pattern!r}: "
                "let the expression exclude what it makes"
            )
    return once, count


def _applied(text: str, rules: Sequence[Rule]) -> tuple[str, int]:
    total = 0
    for rule in rules:
        text, count = rule.apply(text)
        total += count
    return text, total


def _outside_pictures(text: str, change: Callable[[str], tuple[str, int]]) -> tuple[str, int]:
    parts, total, last = [], 0, 0
    for match in _INLINE.finditer(text):
        changed, count = change(text[last : match.start()])
        parts += [changed, match.group(0)]
        total, last = total + count, match.end()
    changed, count = change(text[last:])
    return "".join([*parts, changed]), total + count


def in_notebook(text: str, rules: Sequence[Rule]) -> tuple[str, int]:
    """A notebook with the rules applied to the texts in it; names of JSON members, pictures and layout stay (pure).

    Args:
        text: the notebook's JSON.
        rules: the rules.

    Raises:
        UnstableError: see `rebranded`.
        ValueError: it is no JSON.
    """
    json.loads(text)
    parts, total, last, key = [], 0, 0, ""
    for match in _STRING.finditer(text):
        if _KEY_FOLLOWS.match(text, match.end()):
            key = match.group(0)[1:-1]
            continue
        if _PICTURE.match(key):
            continue
        literal = match.group(0)
        changed, count = rebranded(json.loads(literal), rules)
        if count:
            parts += [text[last : match.start()], json.dumps(changed, ensure_ascii=literal.isascii())]
            last, total = match.end(), total + count
    result = "".join([*parts, text[last:]])
    json.loads(result)
    return result, total


def rebrand(folder: Path, rules: Sequence[Rule], *, dry_run: bool = False) -> Iterator[Rebranded]:
    """Apply rules to every text below a folder, or to one file; links are not followed.

    Args:
        folder: the folder.
        rules: the rules.
        dry_run: write nothing.

    Yields:
        What became of each file, in alphabetical order of the paths.
    """
    base = folder if folder.is_dir() else folder.parent
    for path in _files(folder):
        yield _one(path, str(path.relative_to(base)), rules, dry_run)


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(where, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _one(path: Path, name: str, rules: Sequence[Rule], dry_run: bool) -> Rebranded:
    try:
        if path.stat().st_size > LARGEST:
            return Rebranded(name, Outcome.BINARY, reason=f"larger than {LARGEST // 2**20} MiB")
        data = path.read_bytes()
        if b"\0" in data[:LOOKED_AT]:
            return Rebranded(name, Outcome.BINARY)
        old = data.decode()
    except UnicodeDecodeError:
        return Rebranded(name, Outcome.BINARY, reason="not UTF-8")
    except OSError as error:
        return Rebranded(name, Outcome.FAILED, reason=f"it can't be read: {error.strerror}")
    try:
        new, count = in_notebook(old, rules) if path.suffix == ".ipynb" else rebranded(old, rules)
        if new == old:
            return Rebranded(name, Outcome.SAME)
        if not dry_run:
            _write(path, new)
    except UnstableError as error:
        return Rebranded(name, Outcome.FAILED, reason=str(error))
    except ValueError as error:
        return Rebranded(name, Outcome.FAILED, reason=f"no valid notebook: {error}")
    except OSError as error:
        return Rebranded(name, Outcome.FAILED, reason=f"it can't be written: {error.strerror}")
    return Rebranded(name, Outcome.CHANGED, count, _diff(name, old, new))


def _diff(name: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"a/{name}", f"b/{name}", n=1, lineterm="")
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; mode and owner stay."""
    status = path.stat()
    handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            file.flush()
            os.fsync(file.fileno())
        Path(fresh).replace(path)
    finally:
        Path(fresh).unlink(missing_ok=True)
