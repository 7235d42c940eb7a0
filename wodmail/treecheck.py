"""The check's look at trees that root runs or renders: write bits are taken away, owners only told (docs/check.md).

The rule is that of `wodmail.treetrust`, for whole trees of many thousand files; links are looked at and not followed.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wodmail.treetrust import DATA

OTHERS = 0o022


@dataclass(slots=True)
class Looked:
    """What others than root could change.

    Args:
        open: root's own files and folders that others may write; closed when that was asked for.
        foreign: files and folders that aren't root's, with their owner; what is below such a folder isn't looked at.
        above: folders above the trees that others own or may write.
    """

    open: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    above: list[str] = field(default_factory=list)


def look(trees: Iterable[Path], *, mend: bool = False) -> Looked:
    """Find what others than root could change in these trees, and above them.

    Args:
        trees: folders; what isn't there is no matter.
        mend: take the write bits of group and others from what is root's. Each file is opened without following links,
            below folders that are open already, so nobody can put another one in its place.

    Raises:
        OSError: something could not be looked at, or closed.
    """
    found = Looked()
    done: list[Path] = []
    for tree in sorted({each.resolve() for each in trees if each.is_dir()}):
        if any(tree.is_relative_to(each) for each in done):
            continue
        done.append(tree)
        for part in reversed(tree.parents):
            status = part.stat()
            if status.st_uid != 0 or (_writable(status) and not status.st_mode & stat.S_ISVTX):
                _add(found.above, f"{part} ({_owner(status)})" if status.st_uid else str(part))
        _tree(tree, found, mend=mend)
    return found


def _tree(tree: Path, found: Looked, *, mend: bool) -> None:
    for folder, folders, files, handle in os.fwalk(tree, onerror=_raise):
        if folder == str(tree) and not _entry(folder, ".", handle, found, mend=mend):
            return
        keep = [name for name in folders if _entry(folder, name, handle, found, mend=mend)]
        folders[:] = keep
        for name in files:
            _entry(folder, name, handle, found, mend=mend)


def _entry(folder: str, name: str, handle: int, found: Looked, *, mend: bool) -> bool:
    """Judge one file or folder; false when nothing below it is to be looked at."""
    if name in DATA:
        return False
    try:
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
    except FileNotFoundError:
        return False  # removed meanwhile
    path = Path(folder) / name  # its "." is left away
    if status.st_uid != 0:
        found.foreign.append(f"{path} ({_owner(status)})")
        return False
    if (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) and _writable(status):
        found.open.append(str(path))
        if mend:
            _close(name, handle)
    return True


def _close(name: str, handle: int) -> None:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
    try:
        status = os.fstat(file)
        if status.st_uid == 0:
            os.fchmod(file, stat.S_IMODE(status.st_mode) & ~OTHERS)
    finally:
        os.close(file)


def _writable(status: os.stat_result) -> bool:
    """Whether others may write; root's own group is as good as root."""
    return bool(status.st_mode & (OTHERS if status.st_gid else 0o002))


def _owner(status: os.stat_result) -> str:
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return f"uid {status.st_uid}"


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def _raise(error: OSError) -> None:
    raise error


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m wodmail.treecheck [--mend] TREE…`, for the check's item `trees`: prints JSON."""
    parser = argparse.ArgumentParser(prog="wodmail.treecheck", description="What others than root could change.")
    parser.add_argument("--mend", action="store_true", help="take write bits from what is root's")
    parser.add_argument("trees", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    print(json.dumps({"version": 1, **asdict(look(given.trees, mend=given.mend))}))


if __name__ == "__main__":
    main()
