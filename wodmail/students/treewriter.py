"""Write a tree of files into a student's home so that a link planted there leads nowhere.

Standard library alone: the root helper carries a copy of this file. Every name is resolved one component at a time
below an open folder, never through a symbolic link: a link in the way is removed and a folder made in its place. Files
are written under a new name and renamed, so that what a name pointed to before is never written to.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DEPTH = 64
PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class BadPathError(ValueError):
    """A path of a tree that isn't plainly below the home (absolute, with "..", empty or too deep)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder, file or symbolic link of a tree.

    Args:
        path: relative to the home, separated by "/".
        kind: "dir", "file" or "link".
        mode: permission bits (0 to 0o777); set-id bits are dropped when it is written.
        data: a file's bytes.
        target: a link's target, kept as it is and never followed.
    """

    path: str
    kind: str
    mode: int = 0o644
    data: bytes = b""
    target: str = ""


def open_home(parent: str, name: str) -> int:
    """Open a home as a folder; the home itself must not be a link.

    Args:
        parent: the folder of all homes (WODSTUDDIR), trusted.
        name: the home's own name, e.g. "student121".

    Returns:
        A descriptor that the caller closes.

    Raises:
        OSError: missing, a link, or no folder.
        BadPathError: the name is more than one component.
    """
    if len(_parts(name)) != 1:
        raise BadPathError(f"{name!r} is no name of a home")
    above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.open(name, FOLDER_FLAGS, dir_fd=above)
    finally:
        os.close(above)


def install(home: int, remove: Sequence[str], entries: Iterable[Entry]) -> int:
    """Remove some paths below the home, then write the entries.

    Args:
        home: descriptor of the home.
        remove: paths (files or whole folders) to remove first; missing ones are fine.
        entries: what to write, in any order; folders in between are made.

    Returns:
        How many files were written.

    Raises:
        OSError: the file system refused.
        BadPathError: a path that leads out of the home.
    """
    for path in remove:
        remove_tree(home, path)
    with contextlib.ExitStack() as stack:
        folders = _Folders(home, stack)
        return sum(_write(folders, entry) for entry in entries)


def put_programs(home: int, programs: Iterable[Entry]) -> int:
    """Write programs into the home itself, mode 0700, each in the place of a file or link of its name.

    Args:
        home: descriptor of the home.
        programs: files whose paths are plain names of letters, digits, "." (not first), "_" and "-" (not first).

    Returns:
        How many were written.

    Raises:
        OSError: the file system refused.
        BadPathError: another kind of entry or name, or there is a folder of that name, which may be the student's work.
    """
    count = 0
    for program in programs:
        if program.kind != "file" or not PROGRAM.fullmatch(program.path):
            raise BadPathError(f"{program.path!r} is no name of a program")
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(program.path, dir_fd=home, follow_symlinks=False).st_mode):
                raise BadPathError(f"a folder named {program.path} is in the way")
        count += _write_into(home, program.path, Entry(program.path, "file", 0o700, program.data))
    return count


def pack(entries: Iterable[Entry]) -> bytes:
    """The entries as a tar archive (pax, no owners), as `unpack` reads it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode = entry.mode
            if entry.kind == "dir":
                info.type = tarfile.DIRTYPE
            elif entry.kind == "link":
                info.type = tarfile.SYMTYPE
                info.linkname = entry.target
            else:
                info.size = len(entry.data)
            tar.addfile(info, io.BytesIO(entry.data))
    return buffer.getvalue()


def unpack(archive: bytes) -> Iterator[Entry]:
    """Read the entries of a tar archive; hard links and devices are refused.

    Raises:
        BadPathError: a member of another kind.
        tarfile.TarError: no tar archive.
    """
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for info in tar:
            if info.isdir():
                yield Entry(info.name, "dir", info.mode)
            elif info.issym():
                yield Entry(info.name, "link", target=info.linkname)
            elif info.isreg():
                content = tar.extractfile(info)
                yield Entry(info.name, "file", info.mode, content.read() if content else b"")
            else:
                raise BadPathError(f"{info.name!r} is neither file, folder nor symbolic link")


def remove_tree(home: int, path: str) -> None:
    """Remove a file, a link (not its target) or a whole folder below the home; a missing one is fine.

    Raises:
        OSError: the file system refused.
        BadPathError: the path leads out of the home.
    """
    *above, name = _parts(path)
    with contextlib.ExitStack() as stack:
        folder = home
        for part in above:
            try:
                folder = os.open(part, FOLDER_FLAGS, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                return
            except OSError:
                if _is_link(folder, part):
                    return
                raise
            stack.callback(os.close, folder)
        _remove(folder, name, MAX_DEPTH)


def adopt(home: int, path: str) -> None:
    """Make everything below a folder its home's owner's: what others put there is copied and replaced.

    Args:
        home: descriptor of the home.
        path: the folder, relative to the home; nothing happens when it is missing.

    Raises:
        OSError: something can't be read or replaced.
        BadPathError: the path leads out of the home.
    """
    with contextlib.ExitStack() as stack:
        folder = home
        for part in _parts(path):
            try:
                folder = os.open(part, FOLDER_FLAGS, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                return
            stack.callback(os.close, folder)
        _adopt(folder, os.fstat(home).st_uid, MAX_DEPTH)


def _adopt(folder: int, user: int, depth: int) -> None:
    for name in os.listdir(folder):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        foreign = status.st_uid != user
        if stat.S_ISDIR(status.st_mode):
            if foreign:
                _replace_folder(folder, name)
            inner = os.open(name, FOLDER_FLAGS, dir_fd=folder)
            try:
                if depth:
                    _adopt(inner, user, depth - 1)
            finally:
                os.close(inner)
        elif foreign and stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=folder)
            _write_into(folder, name, Entry(name, "link", target=target))
        elif foreign and stat.S_ISREG(status.st_mode):
            # A pipe put there meanwhile must not make us wait.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
                data = file.read()
            _write_into(folder, name, Entry(name, "file", stat.S_IMODE(status.st_mode) & 0o755, data))


def _replace_folder(above: int, name: str) -> None:
    """Put a folder of our own in the place of somebody else's, with everything that was in it."""
    fresh = f".{secrets.token_hex(8)}.new"
    os.mkdir(fresh, 0o755, dir_fd=above)
    with contextlib.ExitStack() as stack:
        old, new = (os.open(each, FOLDER_FLAGS, dir_fd=above) for each in (name, fresh))
        stack.callback(os.close, old)
        stack.callback(os.close, new)
        for inner in os.listdir(old):  # noqa: PTH208 - a descriptor has no Path
            os.rename(inner, inner, src_dir_fd=old, dst_dir_fd=new)
    os.rmdir(name, dir_fd=above)
    os.rename(fresh, name, src_dir_fd=above, dst_dir_fd=above)


class _Folders:
    """The folders opened so far, so that each is walked to once."""

    def __init__(self, home: int, stack: contextlib.ExitStack) -> None:
        self._open: dict[tuple[str, ...], int] = {(): home}
        self._stack = stack

    def get(self, parts: tuple[str, ...]) -> int:
        """The descriptor of a folder below the home, made where it is missing or something else is in the way."""
        if parts not in self._open:
            above = self.get(parts[:-1])
            folder = _enter(above, parts[-1])
            self._stack.callback(os.close, folder)
            self._open[parts] = folder
        return self._open[parts]


def _write(folders: _Folders, entry: Entry) -> int:
    """Write one entry; 1 when it was a file."""
    parts = tuple(_parts(entry.path))
    if entry.kind == "dir":
        os.fchmod(folders.get(parts), entry.mode & 0o777 | 0o700)
        return 0
    return _write_into(folders.get(parts[:-1]), parts[-1], entry)


def _write_into(folder: int, name: str, entry: Entry) -> int:
    """Write a file or link under a new name and rename it over what was there; 1 when it was a file."""
    fresh = f".{secrets.token_hex(8)}.new"
    if entry.kind == "link":
        os.symlink(entry.target, fresh, dir_fd=folder)
    else:
        _write_file(folder, fresh, entry)
    try:
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _remove(folder, name, MAX_DEPTH)
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    return 0 if entry.kind == "link" else 1


def _write_file(folder: int, name: str, entry: Entry) -> None:
    with os.fdopen(os.open(name, FILE_FLAGS, 0o600, dir_fd=folder), "wb", buffering=0) as file:
        view = memoryview(entry.data)
        while view:
            view = view[file.write(view) or 0 :]
        os.fchmod(file.fileno(), entry.mode & 0o777 | 0o600)


def _enter(above: int, name: str) -> int:
    """Open a folder, made anew when it is missing, a link or a file."""
    for _attempt in range(3):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=above)
        try:
            return os.open(name, FOLDER_FLAGS, dir_fd=above)
        except PermissionError:
            _make_accessible(above, name)
        except OSError:
            _remove(above, name, MAX_DEPTH)
    return os.open(name, FOLDER_FLAGS, dir_fd=above)


def _make_accessible(above: int, name: str) -> None:
    """Give the owner all rights on a folder that was shut, without following a link."""
    folder = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{folder}", 0o700)  # noqa: PTH101 - a descriptor has no Path
    finally:
        os.close(folder)


def _remove(above: int, name: str, depth: int) -> None:
    """Remove a name with all below it; links are removed, not followed."""
    try:
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=above)
        return
    if depth == 0:
        raise BadPathError(f"folders below {name!r} are nested too deeply")
    if status.st_mode & 0o700 != 0o700:
        _make_accessible(above, name)
    folder = os.open(name, FOLDER_FLAGS, dir_fd=above)
    try:
        for inner in os.listdir(folder):  # noqa: PTH208 - a descriptor has no Path
            _remove(folder, inner, depth - 1)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=above)


def _is_link(above: int, name: str) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)


def _parts(path: str) -> list[str]:
    """The components of a relative path, checked."""
    parts = path.split("/")
    if len(parts) > MAX_DEPTH or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise BadPathError(f"{path!r} is no path below a home")
    return parts
