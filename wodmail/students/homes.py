"""What is done to a student's home besides writing trees into it: empty it, look at it, read notebooks, set ACLs.

Standard library alone: the root helper carries a copy of this file, and runs it with the student's rights.
Everything is reached from an open descriptor of the home, one name at a time and never through a symbolic link.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NAMED_AT_MOST = 5

MAX_NOTEBOOKS = 500
MAX_NOTEBOOK_BYTES = 16 * 1024 * 1024
MAX_NOTEBOOKS_BYTES = 64 * 1024 * 1024
MAX_NAMES = 100_000
MAX_DEPTH = 12
MAX_SHARED_DEPTH = 64


class NotEmptyError(Exception):
    """Something in a home could not be removed or should not be there.

    Args:
        what: the first few of its paths or reasons.
    """

    def __init__(self, what: list[str]) -> None:
        more = f" and {len(what) - _NAMED_AT_MOST} more" if len(what) > _NAMED_AT_MOST else ""
        super().__init__(", ".join(what[:_NAMED_AT_MOST]) + more)


def names(folder: int) -> list[str]:
    """The names in an open folder."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def empty(home: int) -> None:
    """Remove everything in a home, however deep, whatever its modes, and follow nothing.

    Folders inside folders are first moved up into the home, so that depth costs neither stack nor descriptors.

    Args:
        home: descriptor of the home.

    Raises:
        NotEmptyError: what could not be removed, e.g. a folder of somebody else with something in it.
    """
    trouble: list[str] = []
    refused: set[str] = set()
    while todo := [name for name in names(home) if name not in refused]:
        for name in todo:
            before = len(trouble)
            _remove(home, name, trouble)
            if len(trouble) > before:
                refused.add(name)
    if refused:
        raise NotEmptyError(trouble)


def _remove(home: int, name: str, trouble: list[str]) -> None:
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=home, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=home)
            return
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=home)
            return
        with _opened(home, name) as folder:
            _hoist(home, folder, name, trouble)
        os.rmdir(name, dir_fd=home)
    except FileNotFoundError:
        return
    except OSError as error:
        trouble.append(f"{name!r} ({error.strerror})")


def _hoist(home: int, folder: int, path: str, trouble: list[str]) -> None:
    """Remove the files of a folder and move its folders up into the home, where their turn comes."""
    for name in names(folder):
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=folder)
                continue
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=folder)
                continue
            _make_accessible(folder, name)
            os.rename(name, f".erase-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=home)
        except FileNotFoundError:
            continue
        except OSError as error:
            trouble.append(f"{path + '/' + name!r} ({error.strerror})")
            with contextlib.suppress(OSError):
                os.fchmod(folder, 0o755)  # whose it is may come and open it up


@contextlib.contextmanager
def _opened(above: int, name: str) -> Iterator[int]:
    """A folder below an open one, made accessible to its owner first when it is shut."""
    if os.stat(name, dir_fd=above, follow_symlinks=False).st_mode & 0o700 != 0o700:
        _make_accessible(above, name)
    folder = os.open(name, _FOLDER, dir_fd=above)
    try:
        yield folder
    finally:
        os.close(folder)


def _make_accessible(above: int, name: str) -> None:
    path = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    try:
        if os.fstat(path).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{path}", 0o700)  # noqa: PTH101 - a descriptor has no Path
    finally:
        os.close(path)


def open_up(folder: int, user: int, depth: int = MAX_SHARED_DEPTH) -> None:
    """Give everybody all rights in the folders below that are a user's, so that `empty` can remove them.

    Args:
        folder: descriptor of a home, which others than its student can't enter.
        user: uid of the user, whose rights the caller has.
        depth: how many folders deep to go.
    """
    for name in names(folder):
        with contextlib.suppress(OSError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                continue
            if status.st_uid == user:
                _make_accessible(folder, name)
            inner = os.open(name, _FOLDER, dir_fd=folder)
            try:
                if status.st_uid == user:
                    os.fchmod(inner, 0o777)
                if depth:
                    open_up(inner, user, depth - 1)
            finally:
                os.close(inner)


def unexpected(home: int, allowed: Collection[str]) -> list[str]:
    """The paths in a home that should not be there.

    Args:
        home: descriptor of the home.
        allowed: paths relative to the home that may be there; what is below a path that is not listed isn't either.
    """
    found: list[str] = []
    todo = [("", os.dup(home))]
    while todo:
        prefix, folder = todo.pop()
        try:
            for name in sorted(names(folder)):
                path = prefix + name
                if path not in allowed:
                    found.append(path)
                elif stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    todo.append((path + "/", os.open(name, _FOLDER, dir_fd=folder)))
        finally:
            os.close(folder)
    return found


@dataclass(slots=True)
class _Budget:
    names: int
    files: int = MAX_NOTEBOOKS
    size: int = MAX_NOTEBOOKS_BYTES


def notebooks(home: int, workshop: str) -> list[tuple[str, bytes]]:
    """The notebooks of one workshop folder in a home, without checkpoints.

    Regular files alone are read; links, pipes, unreadable and oversized ones are passed over, as are those beyond
    500 files, 16 MiB each, 64 MiB in all, or nested deeper than 12 folders, and all beyond 100,000 names of any kind.

    Args:
        home: descriptor of the home.
        workshop: name of the workshop's folder in it.

    Returns:
        Pairs of path within the folder and content, sorted by path; empty when there is no such folder.
    """
    found: list[tuple[str, bytes]] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        folder = os.open(workshop, _FOLDER, dir_fd=home)
        try:
            _collect(folder, "", _Budget(names=MAX_NAMES), found, MAX_DEPTH)
        finally:
            os.close(folder)
    return sorted(found)


def _collect(folder: int, prefix: str, budget: _Budget, found: list[tuple[str, bytes]], depth: int) -> None:
    with os.scandir(folder) as entries:
        looked_at = [entry.name for entry in itertools.islice(entries, budget.names)]
    budget.names -= len(looked_at)
    for name in sorted(looked_at):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                if depth and name != ".ipynb_checkpoints":
                    inner = os.open(name, _FOLDER, dir_fd=folder)
                    try:
                        _collect(inner, f"{prefix}{name}/", budget, found, depth - 1)
                    finally:
                        os.close(inner)
            elif name.endswith(".ipynb") and budget.files > 0:
                data = _read_regular(folder, name, min(MAX_NOTEBOOK_BYTES, budget.size))
                if data is not None:
                    budget.files -= 1
                    budget.size -= len(data)
                    found.append((prefix + name, data))


def _read_regular(folder: int, name: str, limit: int) -> bytes | None:
    with os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        data = file.read(limit + 1)
        return data if len(data) <= limit else None


# POSIX ACLs as the kernel keeps them (acl(5), linux/posix_acl_xattr.h): version, then tag, permissions, id.
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


def acl(mode: int, user: int, permissions: int, *further: int) -> bytes:
    """An access control list: the mode's bits, users with rights of their own, and a mask that lets them through.

    Args:
        mode: permission bits for owner, group and others.
        user: uid of the named user.
        permissions: its rights, 0 to 7.
        further: uids of other users with the same rights.
    """
    group = mode >> 3 & 7
    entries = (
        (_USER_OBJ, mode >> 6 & 7, _NO_ID),
        *((_USER, permissions, each) for each in sorted({user, *further})),
        (_GROUP_OBJ, group, _NO_ID),
        (_MASK, group | permissions, _NO_ID),
        (_OTHER, mode & 7, _NO_ID),
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def share_folder(folder: int, user: int, mode: int) -> None:
    """Give a user all rights in a folder and in everything made there later, and drop every other named right.

    Its owner keeps all rights in what others make there, so that it can be taken over or removed again.

    Args:
        folder: descriptor of the folder, owned by the caller.
        user: uid of the named user.
        mode: the folder's permission bits for owner, group and others.
    """
    os.fchmod(folder, mode)
    os.setxattr(folder, _ACCESS, acl(mode, user, 7))
    os.setxattr(folder, _DEFAULT, acl(mode, user, 7, os.fstat(folder).st_uid))


def show_folder(home: int, name: str, user: int) -> None:
    """Let a user look into a folder of a home, and drop what it would pass on to new files; a missing one is fine.

    Args:
        home: descriptor of the home.
        name: the folder's name in it.
        user: uid of the named user.
    """
    try:
        folder = os.open(name, _FOLDER, dir_fd=home)
    except FileNotFoundError:
        return
    try:
        os.setxattr(folder, _ACCESS, acl(0o700, user, 5))
        with contextlib.suppress(OSError):
            os.removexattr(folder, _DEFAULT)
    finally:
        os.close(folder)


def share_tree(home: int, path: str, user: int, *, depth: int = MAX_SHARED_DEPTH) -> None:
    """Give a user rwX on a folder or file below a home and on everything in it; links are passed over.

    Args:
        home: descriptor of the home.
        path: plain path of the folder or file, relative to the home; nothing happens when it is missing.
        user: uid of the named user.
        depth: how many folders deep to go; 0 is that folder alone.
    """
    *above, name = path.split("/")
    with contextlib.ExitStack() as stack:
        folder = home
        for part in above:
            try:
                folder = os.open(part, _FOLDER, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                return
            stack.callback(os.close, folder)
        _share(folder, name, user, depth)


def _share(above: int, name: str, user: int, depth: int) -> None:
    try:
        found = os.open(name, _FILE, dir_fd=above)
    except OSError:
        if stat.S_ISREG(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            raise
        return
    try:
        mode = os.fstat(found).st_mode
        if stat.S_ISDIR(mode):
            share_folder(found, user, mode & 0o055 | 0o700)
            for inner in names(found) if depth else ():
                _share(found, inner, user, depth - 1)
        elif stat.S_ISREG(mode):
            execute = mode & 0o111
            wanted = mode & 0o055 | 0o600 | (0o100 if execute else 0)
            os.fchmod(found, wanted)
            os.setxattr(found, _ACCESS, acl(wanted, user, 7 if execute else 6))
    finally:
        os.close(found)
