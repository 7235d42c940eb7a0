"""What root runs must be root's: playbooks, variables and templates that others could change are refused (check.md).

The rule is that of `wodmail.students.rootlimits.trusted`, for whole trees and for the links that lead to them.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from wodmail import paths, vaultkeys
from wodmail.errors import ConfigError, Problem
from wodmail.schema import Settings

log = logging.getLogger("wodmail.treetrust")

DATA = frozenset({"pass", vaultkeys.SECRET_FILE})
"""Names of what WODUSER writes or owns in its trees: passwords, never code."""
TOLD = 5


def demand(settings: Settings, trees: Iterable[Path]) -> None:
    """See that nobody but root can change what root is going to run; other callers run what they like.

    wodmail's own files are not looked at: who can change them could change this program.

    Args:
        settings: with WODTRUSTTREES false there is a warning only.
        trees: files and folders; what isn't there is no matter.

    Raises:
        ConfigError: who could change what, and what to do.
    """
    if os.geteuid() != 0:
        return
    found = _found(trees)
    if not found:
        return
    if not settings.WODTRUSTTREES:
        # To standard error, where commands that configure no log have their words; standard output may be JSON.
        log.warning("root runs what others can change (WODTRUSTTREES is false): %s", ", ".join(map(str, found[:TOLD])))
        return
    problems = [Problem(str(each), _words(each)) for each in found[:TOLD]]
    if len(found) > TOLD:
        problems.append(Problem("…", f"{len(found) - TOLD} more, likewise"))
    raise ConfigError([*problems, Problem("WODTRUSTTREES", _advice(settings))])


def _found(trees: Iterable[Path]) -> list[Path]:
    own, seen = paths.root(), set[tuple[Path, bool]]()
    found: list[Path] = []
    for tree in trees:
        try:
            found += strangers(tree, seen) if not _within(tree, own) else []
        except OSError as error:
            problem = Problem(str(error.filename or tree), f"root can't look at it before it runs it: {error.strerror}")
            raise ConfigError([problem]) from error
    return list(dict.fromkeys(found))


def of_play(settings: Settings, playbook: Path) -> list[Path]:
    """What a playbook that root runs may load: folder, plugins, variables, inventories, private tasks, templates."""
    folders = [playbook.parent, settings.WODANSIBLEDIR, settings.WODANSIBLEPRIVDIR]
    # procmail's recipes are a template, which root expands before it writes them as WODUSER (ansible/tasks/mail.yml)
    return _there([*folders, settings.WODSYSDIR, settings.WODSYSPRIVDIR, settings.WODBEDIR / "procmail"])


def of_deliver(settings: Settings) -> list[Path]:
    """What root's delivery expands: templates, their neighbours, variables, descriptions of seats."""
    variables = [settings.WODANSIBLEDIR, settings.WODANSIBLEPRIVDIR]
    configured = [parent / "conf" for parent in (settings.WODBEDIR, settings.WODPRIVDIR) if parent is not None]
    return _there([settings.WODSCRIPTDIR, settings.WODSCRIPTPRIVDIR, *variables, *configured])


def strangers(tree: Path, seen: set[tuple[Path, bool]] | None = None) -> Iterator[Path]:
    """Everything in a tree, above it, and on the way of its links that others than root can change.

    Args:
        tree: a file or a folder; none when it isn't there.
        seen: what was looked at, true: with all that is in it, and need not be again; added to.
    """
    seen = set() if seen is None else seen
    todo = [(tree.absolute(), True)]
    while todo:
        path, whole = todo.pop()
        if (path, whole) in seen or path.name in DATA or not os.path.lexists(path):
            continue
        for part in (*reversed(path.parents), path):
            if part.is_symlink():
                todo.append((part.parent / part.readlink(), whole and part == path))
            # What was passed through only may have been a folder like /tmp, which will do above a tree but not in one.
            if (part == path or (part, False) not in seen) and _open_to_others(part.lstat(), above=part != path):
                yield part
            seen.add((part, False))
        seen.add((path, whole))
        if whole and path.is_dir() and not path.is_symlink():
            todo.extend((each, True) for each in path.iterdir())


def _open_to_others(status: os.stat_result, *, above: bool) -> bool:
    """Whether others can change it; a group is as good as root when it is root's own (docs/check.md)."""
    if status.st_uid != 0:
        return True
    if stat.S_ISLNK(status.st_mode):
        return False
    writable = status.st_mode & (0o022 if status.st_gid else 0o002)
    return bool(writable) and not (above and status.st_mode & stat.S_ISVTX)


def _within(tree: Path, own: Path) -> bool:
    # Not where a link leads: who owns the link's folder can turn it elsewhere.
    return Path(os.path.abspath(tree)).is_relative_to(own)  # noqa: PTH100 - absolute() keeps ".."


def _there(folders: Iterable[Path | None]) -> list[Path]:
    return [each for each in folders if each is not None]


def _words(path: Path) -> str:
    status = path.lstat()
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = f"uid {status.st_uid}"
    why = (
        f"belongs to {owner}"
        if status.st_uid
        else f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    )
    return f"{why}, and root would run what is in it or below it"


def _advice(settings: Settings) -> str:
    user = settings.WODUSER
    return (
        f"give these files and folders to root (chown -R root:{user}, chmod -R g+rX,go-w), or move the tree to where "
        f"only root writes, such as /opt/wod; false is for a backend where {user} may become root by sudo anyway"
    )
