"""WKSHP-Template in developers' homes: brought up to date as the developer, with nothing of the developer's lost.

A file that was put there and not touched since is replaced, or removed when the template has lost it. One that the
developer has changed, or whatever stands in the way of a new one, is kept beside it under a name that nothing has.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import itertools
import json
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wodmail.becoming import as_user
from wodmail.errors import Failed
from wodmail.schema import Settings
from wodmail.students.treewriter import Entry, install, open_home

NAME = "WKSHP-Template"
MANIFEST = ".wod-template.json"
VERSION = 1
KEPT = ".yours"
LARGEST = 64 * 1024 * 1024
_LEAVE_OUT = (".git", ".ipynb_checkpoints", "__pycache__")


@dataclass(slots=True)
class Copied:
    """What became of one developer's copy.

    Args:
        developer: the account.
        written: files that are new or were replaced.
        removed: files that the template has lost.
        kept: names under which the developer's own changes were kept.
        error: why nothing was done, empty when it went well.
    """

    developer: str
    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def outcome(self) -> str:
        """failed, changed or same."""
        return "failed" if self.error else "changed" if self.written or self.removed else "same"


def template(settings: Settings) -> list[Entry] | None:
    """The template's files and links; None when there is no template here.

    Raises:
        Failed: it can't be read, or is larger than 64 MiB.
    """
    folder = settings.WODNOBO / NAME
    if not folder.is_dir():
        return None
    found: list[Entry] = []
    try:
        _read(folder, "", found)
    except OSError as error:
        raise Failed(f"{folder} can't be read.", str(error)) from error
    return found


def _read(folder: Path, prefix: str, found: list[Entry]) -> None:
    for path in sorted(folder.iterdir()):
        name, mode = prefix + path.name, path.lstat().st_mode
        if path.name in _LEAVE_OUT or name == MANIFEST:
            continue
        if stat.S_ISLNK(mode):
            found.append(Entry(name, "link", target=str(path.readlink())))
        elif stat.S_ISDIR(mode):
            _read(path, name + "/", found)
        elif stat.S_ISREG(mode):
            found.append(Entry(name, "file", mode & 0o755, path.read_bytes()))
    if sum(len(entry.data) for entry in found) > LARGEST:
        raise OSError(f"it is larger than {LARGEST} bytes")


def developers(settings: Settings) -> list[pwd.struct_passwd]:
    """The members of WODDEVGROUP, never root and never a student.

    Raises:
        Failed: there is no such group.
    """
    if not settings.WODDEVGROUP:
        return []
    try:
        group = grp.getgrnam(settings.WODDEVGROUP)
    except KeyError as error:
        raise Failed(f"WODDEVGROUP is {settings.WODDEVGROUP}, and there is no such group here.") from error
    students = range(settings.UIDBASE + settings.WODUSERMIN, settings.UIDBASE + settings.WODUSERMAX + 1)
    members = [each for each in pwd.getpwall() if each.pw_name in group.gr_mem or each.pw_gid == group.gr_gid]
    return [each for each in members if each.pw_uid != 0 and each.pw_uid not in students]


def copy(developer: pwd.struct_passwd, entries: list[Entry], *, dry_run: bool = False) -> Copied:
    """Bring one developer's copy up to date, with the developer's rights.

    Args:
        developer: whose; root becomes this account in a child process for it.
        entries: see `template`.
        dry_run: write nothing.
    """
    done = Copied(developer.pw_name)
    try:
        answer = as_user(developer, lambda: asdict(_copy(developer, entries, dry_run)))
    except Failed as error:
        done.error = error.operator
        return done
    done.written, done.removed, done.kept = answer["written"], answer["removed"], answer["kept"]
    return done


def _copy(developer: pwd.struct_passwd, entries: list[Entry], dry_run: bool) -> Copied:
    done = Copied(developer.pw_name)
    parent, _, name = developer.pw_dir.rstrip("/").rpartition("/")
    home = open_home(parent or "/", name)
    try:
        if os.fstat(home).st_uid != developer.pw_uid:
            raise PermissionError(f"{developer.pw_dir} is not {developer.pw_name}'s")
        put = _manifest(home)
        wanted = {entry.path: entry for entry in entries}
        there = {path: _present(home, path) for path in {*wanted, *put}}
        blocked = {path: found for path in wanted if (found := _obstacle(home, path)) is not None}
        writes, own = _plan(wanted, put, there, blocked, done)
        done.kept += [_put_aside(home, path, dry_run=dry_run) for path in own]
        manifest = json.dumps({"version": VERSION, "files": {path: _hash(each) for path, each in wanted.items()}})
        if not dry_run and (writes or done.removed or set(put) != set(wanted)):
            writes.append(Entry(MANIFEST, "file", 0o644, manifest.encode()))
            tree = [Entry(f"{NAME}/{each.path}", each.kind, each.mode, each.data, each.target) for each in writes]
            install(home, [f"{NAME}/{path}" for path in done.removed], tree)
    finally:
        os.close(home)
    return done


def _plan(
    wanted: Mapping[str, Entry],
    put: Mapping[str, str],
    there: Mapping[str, Entry | None],
    blocked: Mapping[str, str],
    done: Copied,
) -> tuple[list[Entry], list[str]]:
    """What to write, and which paths hold what is the developer's own and must go aside; fills in `done` (pure)."""
    writes, own = [], dict[str, None]()
    for path, entry in wanted.items():
        present = there[path]
        if present is not None and _hash(present) == _hash(entry):
            continue
        obstacle = blocked.get(path)
        if obstacle is not None:
            known = there.get(obstacle)
            if known is None or _hash(known) != put.get(obstacle):
                own[obstacle] = None
        elif present is not None and _hash(present) != put.get(path):
            own[path] = None
        writes.append(entry)
        done.written.append(path)
    for path, known_hash in put.items():
        present = there[path]
        if path not in wanted and present is not None and _hash(present) == known_hash:
            done.removed.append(path)
    return writes, list(own)


def _obstacle(home: int, path: str) -> str | None:
    """What stands in the way of a file of the copy: a file or link for a folder, or a folder for the file itself.

    It is empty when something else than a folder has the copy's own name.
    """
    *above, name = [NAME, *path.split("/")]
    with contextlib.ExitStack() as stack:
        folder = home
        for depth, part in enumerate(above):
            try:
                folder = _open_folder(folder, part, stack)
            except FileNotFoundError:
                return None
            except NotADirectoryError:
                return "/".join(above[1 : depth + 1])
        try:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None
        return None if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else path


def _put_aside(home: int, path: str, *, dry_run: bool) -> str:
    """Give what is there another name that nothing has; returns the name's path below the copy (beside it for "")."""
    *above, name = [NAME, *path.split("/")] if path else [NAME]
    with contextlib.ExitStack() as stack:
        folder = home
        for part in above:
            folder = _open_folder(folder, part, stack)
        taken = set(os.listdir(folder))  # noqa: PTH208 - of a descriptor
        names = (f"{name}{KEPT}" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
        free = next(each for each in names if each not in taken)
        if not dry_run:
            os.rename(name, free, src_dir_fd=folder, dst_dir_fd=folder)
    return "/".join([*above[1:], free])


def _open_folder(folder: int, name: str, stack: contextlib.ExitStack) -> int:
    """A folder in a folder, never through a link; closed with the stack."""
    found = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    stack.callback(os.close, found)
    return found


def _hash(entry: Entry) -> str:
    data = entry.target.encode() if entry.kind == "link" else entry.data
    return f"{entry.kind}:{hashlib.sha256(data).hexdigest()}"


def _manifest(home: int) -> dict[str, str]:
    found = _present(home, MANIFEST)
    try:
        data = json.loads(found.data) if found is not None else {}
        return {str(path): str(known) for path, known in data["files"].items()}
    except (ValueError, KeyError, AttributeError, TypeError):
        return {}


def _present(home: int, path: str) -> Entry | None:
    """What the developer has under that path of the copy; None when there is nothing that is a file or a link."""
    *above, name = [NAME, *path.split("/")]
    with contextlib.ExitStack() as stack:
        folder = home
        try:
            for part in above:
                folder = _open_folder(folder, part, stack)
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                return Entry(path, "link", target=os.readlink(name, dir_fd=folder))
            if not stat.S_ISREG(mode):
                return None
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
                return Entry(path, "file", mode & 0o777, file.read(LARGEST))
        except (FileNotFoundError, NotADirectoryError):
            return None
