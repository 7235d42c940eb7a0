"""Replace brand names in a folder of texts and notebooks by a map of regular expressions (docs/rebranding.md)."""

from __future__ import annotations

import codecs
import difflib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from wodmail.rebrandingnotebook import BrokenError, in_notebook
from wodmail.rebrandingplace import Place
from wodmail.rebrandingrules import Rule, UnstableError, rebranded

SKIPPED = frozenset({".git", ".hg", ".svn", ".ipynb_checkpoints", "__pycache__", "node_modules"})
LARGEST = 64 * 1024 * 1024
LOOKED_AT = 8192
NOT_UTF8 = "not UTF-8"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_QUOTED = re.compile(r'["\\]')
_MARK = codecs.BOM_UTF8.decode()  # a byte order mark, which editors of Windows put first


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
        path: the file, or a folder that can't be read, relative to the folder.
        outcome: see `Outcome`.
        count: how many places were replaced.
        diff: unified diff when it is changed, as patch(1) and git read it.
        reason: why it failed or was passed over.
        lost: names of files or folders that the text named and doesn't name any more; who reads it finds nothing.
    """

    path: str
    outcome: Outcome
    count: int = 0
    diff: str = ""
    reason: str = ""
    lost: tuple[str, ...] = ()


def rebrand(
    folder: Path, rules: Sequence[Rule], *, dry_run: bool = False, leave: Path | None = None
) -> Iterator[Rebranded]:
    """Apply rules to every text below a folder, or to one file; links are not followed.

    Args:
        folder: the folder.
        rules: the rules.
        dry_run: write nothing.
        leave: a file that is passed over under whatever name: the map.

    Yields:
        What became of each file, in alphabetical order of the paths, and folders that can't be read.
    """
    base = folder if folder.is_dir() else folder.parent
    found = list(_files(folder))
    inner = (each.relative_to(base) for each in found if isinstance(each, Path))
    names = {part for path in inner for part in path.parts if _loses(part, rules)}
    map_ = leave.stat() if leave is not None else None
    for each in found:
        if isinstance(each, OSError):
            name = str(Path(os.fsdecode(each.filename)).relative_to(base))
            yield Rebranded(name, Outcome.FAILED, reason=f"the folder can't be read: {each.strerror}")
        elif map_ is None or not os.path.samestat(each.lstat(), map_):
            yield _one(each, str(each.relative_to(base)), rules, dry_run, Place(each.parent, base, names))


def _loses(name: str, rules: Sequence[Rule]) -> bool:
    """Whether a text would lose a file's name; one that is nothing but the brand is too common a word to tell."""
    whole = any(rule.pattern.fullmatch(name) for rule in rules)
    return not whole and any(rule.apply(name)[1] for rule in rules)


def _files(folder: Path) -> Iterator[Path | OSError]:
    if folder.is_file():
        yield folder
        return
    errors: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=errors.append):
        yield from errors
        errors.clear()
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        yield from (
            path
            for name in sorted(names)
            if name not in SKIPPED and stat.S_ISREG((path := Path(where, name)).lstat().st_mode)
        )
    yield from errors


def _one(path: Path, name: str, rules: Sequence[Rule], dry_run: bool, place: Place) -> Rebranded:
    try:
        if path.stat().st_size > LARGEST:
            return Rebranded(name, Outcome.BINARY, reason=f"larger than {LARGEST // 2**20} MiB")
        data = path.read_bytes()
        if b"\0" in data[:LOOKED_AT]:
            return Rebranded(name, Outcome.BINARY, reason=NOT_UTF8 if data.startswith(_UTF16) else "")
        text = data.decode()
    except UnicodeDecodeError:
        return Rebranded(name, Outcome.BINARY, reason=NOT_UTF8)
    except OSError as error:
        return Rebranded(name, Outcome.FAILED, reason=f"it can't be read: {error.strerror}")
    old = text.removeprefix(_MARK)
    mark = text[: len(text) - len(old)]
    try:
        new, count = _changed(path, old, rules, place)
        if new == old:
            return Rebranded(name, Outcome.SAME)
        if not dry_run:
            _write(path, mark + new)
    except (UnstableError, BrokenError) as error:
        return Rebranded(name, Outcome.FAILED, reason=str(error))
    except (ValueError, RecursionError) as error:
        return Rebranded(name, Outcome.FAILED, reason=f"no valid notebook: {error}")
    except OSError as error:
        return Rebranded(name, Outcome.FAILED, reason=f"it can't be written: {error.strerror}")
    return Rebranded(name, Outcome.CHANGED, count, _diff(name, text, mark + new), lost=place.lost)


def _changed(path: Path, old: str, rules: Sequence[Rule], place: Place) -> tuple[str, int]:
    if path.suffix == ".ipynb":
        return in_notebook(old, rules, place)
    new, count = rebranded(old, rules, place)
    place.compare(old, new)
    return new, count


def _diff(name: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(_lines(old), _lines(new), _named(f"a/{name}"), _named(f"b/{name}"), n=1)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Lines as patch(1) has them: they end with a line feed, and with nothing else that Unicode has for it."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _named(name: str) -> str:
    """A file's name as patch(1) and git read it: quoted where it must be, its end marked where it has spaces."""
    if name.isprintable() and not _QUOTED.search(name):
        return f"{name}\t" if " " in name else name
    octal = (chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}" for byte in os.fsencode(name))
    return f'"{"".join(octal)}"'


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; mode, owner and group stay, and where they can't it is not written."""
    status = path.stat()
    handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            fresh_status = os.fstat(file.fileno())
            if (fresh_status.st_uid, fresh_status.st_gid) != (status.st_uid, status.st_gid):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            file.flush()
            os.fsync(file.fileno())
        Path(fresh).replace(path)
    finally:
        Path(fresh).unlink(missing_ok=True)
