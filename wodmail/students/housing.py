"""Students' homes by the thousand: looked at, made, mended and removed as root, by descriptors that follow no link.

A home is made, and taken apart, in a folder of root's beside the homes that nobody else can enter, and moved to or from
its place by one rename: so it is there whole or not at all, and what an interruption leaves is cleared away by the next
run. The folder of homes must be root's own, so that no student can put a link in a home's place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wodmail.errors import ConfigError, Failed, Problem, Temporary
from wodmail.students import homes, treewriter
from wodmail.students.rootlimits import HelperError, trusted
from wodmail.students.roster import Wanted

WORKROOM = ".wodmail"
MODE = 0o700
_OCTAL = re.compile(r"\\([0-7]{3})")  # blanks and the like in mountinfo, proc(5)
_ACL, _DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"


@dataclass(frozen=True, slots=True)
class Home:
    """What there is of a home.

    Args:
        there: whether there is something of its name.
        mendable: what differs and can be mended, in words.
        wrong: what differs and an operator has to see to.
    """

    there: bool
    mendable: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


class Housing:
    """The folder of homes.

    Args:
        folder: WODSTUDDIR; made when it is missing and `write` is asked for.
        user: uid of WODUSER, who gets all rights in the homes.
        skel: what a home begins with.
    """

    def __init__(self, folder: Path, user: int, skel: Sequence[treewriter.Entry] = ()) -> None:
        self.folder = folder
        self._user = user
        self._skel = list(skel)
        self._above = -1
        self._room = -1

    @contextlib.contextmanager
    def opened(self, *, write: bool) -> Iterator[None]:
        """Work with the folder; with `write` alone, and after clearing away what an interrupted run left.

        Raises:
            ConfigError: it is no folder, or others than root could put something in a home's place.
            Temporary: another run is at work.
            Failed: the folder can't be made or opened.
        """
        with contextlib.ExitStack() as stack:
            try:
                self._enter(stack, write=write)
            except OSError as error:
                raise Failed(f"The folder of homes, {self.folder}, can't be used: {error.strerror}.") from error
            try:
                yield
            finally:
                self._above = self._room = -1

    def look(self, want: Wanted) -> Home:
        """What there is of a student's home; nothing is changed."""
        if self._above < 0:
            return Home(False)
        try:
            with self._home(want) as home:
                return self._judge(home, want)
        except FileNotFoundError:
            return Home(False)
        except OSError as error:
            return Home(True, wrong=(f"{self._strange(want, error)}; see what it is and take it away",))

    def make(self, want: Wanted) -> None:
        """Make a home with what it begins with, in its place when it is whole.

        Raises:
            OSError: the file system refused; FileExistsError: there is something of its name.
        """
        name = f"new-{want.name}-{secrets.token_hex(4)}"
        os.mkdir(name, MODE, dir_fd=self._room)
        home = os.open(name, treewriter.FOLDER_FLAGS, dir_fd=self._room)
        try:
            os.fchown(home, want.uid, want.gid)
            homes.share_folder(home, self._user, MODE)
            treewriter.install(home, [], self._skel)
            for _, folders, files, folder in os.fwalk(".", dir_fd=home):
                for each in (*folders, *files):
                    os.chown(each, want.uid, want.gid, dir_fd=folder, follow_symlinks=False)
            homes.show_folder(home, ".ssh", self._user)
        finally:
            os.close(home)
        if _exists(want.name, self._above):  # an empty folder would be replaced
            raise FileExistsError(0, "there is something of that name", want.home)
        os.rename(name, want.name, src_dir_fd=self._room, dst_dir_fd=self._above)

    def mend(self, want: Wanted) -> None:
        """Give a home its owner (an empty one alone that is root's), its mode and its ACL.

        Raises:
            OSError: the file system refused.
        """
        with self._home(want) as home:
            if os.fstat(home).st_uid not in (0, want.uid):
                raise PermissionError(0, "it belongs to somebody else", want.home)
            os.fchown(home, want.uid, want.gid)
            homes.share_folder(home, self._user, MODE)

    def remove(self, want: Wanted) -> bool:
        """Remove a home with everything in it; what nothing can remove stays in the workroom and is tried again.

        Returns:
            Whether there was one.

        Raises:
            OSError: the file system refused.
            homes.NotEmptyError: what could not be removed.
        """
        name = f"old-{want.name}-{secrets.token_hex(4)}"
        try:
            os.rename(want.name, name, src_dir_fd=self._above, dst_dir_fd=self._room)
        except FileNotFoundError:
            return False
        self._clear(name)
        return True

    def mounts(self, wants: Sequence[Wanted]) -> dict[int, str]:
        """What is mounted at or below homes, by student: such a home must not be removed."""
        named = {want.name: want.student for want in wants}
        prefix = f"{os.path.realpath(self.folder).rstrip('/')}/"
        found: dict[int, str] = {}
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split()[4])
            name = point.removeprefix(prefix).split("/")[0]
            if point.startswith(prefix) and name in named:
                found[named[name]] = point
        return found

    # -- inside -----------------------------------------------------------------------------------------------

    def _enter(self, stack: contextlib.ExitStack, *, write: bool) -> None:
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            words = f"{self.folder} is no folder; take it away, or write the path of the folder of homes"
            raise ConfigError([Problem("WODSTUDDIR", words)])
        if write and not self.folder.exists():
            _check(next(above for above in self.folder.parents if above.exists()))
            self.folder.mkdir(mode=0o755, parents=True)
        if self.folder.is_dir():
            if self.folder.is_symlink():
                _check(self.folder.parent)
            folder = self.folder.resolve()
            _check(folder)
            self._above = os.open(folder, treewriter.FOLDER_FLAGS)
            stack.callback(os.close, self._above)
        if write:
            self._workroom(stack)

    def _workroom(self, stack: contextlib.ExitStack) -> None:
        """Take the folder of root's beside the homes, alone, and clear away what an interrupted run left in it."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(WORKROOM, 0o700, dir_fd=self._above)
        self._room = os.open(WORKROOM, treewriter.FOLDER_FLAGS, dir_fd=self._above)
        stack.callback(os.close, self._room)
        os.fchmod(self._room, 0o700)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = f"Another `wodmail students` is at work in {self.folder}; try again when it has ended."
            raise Temporary(words) from None
        for name in homes.names(self._room):
            with contextlib.suppress(OSError, homes.NotEmptyError):  # in nobody's way; `status` shows none of it
                self._clear(name)

    def _clear(self, name: str) -> None:
        """Remove a folder of the workroom, or whatever else stood in a home's place."""
        if not stat.S_ISDIR(os.stat(name, dir_fd=self._room, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=self._room)
            return
        folder = os.open(name, treewriter.FOLDER_FLAGS, dir_fd=self._room)
        try:
            homes.empty(folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=self._room)

    @contextlib.contextmanager
    def _home(self, want: Wanted) -> Iterator[int]:
        home = os.open(want.name, treewriter.FOLDER_FLAGS, dir_fd=self._above)
        try:
            yield home
        finally:
            os.close(home)

    def _strange(self, want: Wanted, error: OSError) -> str:
        mode = os.stat(want.name, dir_fd=self._above, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            return f"{want.home} is a link"
        return f"{want.home}: {error.strerror}" if stat.S_ISDIR(mode) else f"{want.home} is no folder"

    def _judge(self, home: int, want: Wanted) -> Home:
        status = os.fstat(home)
        mendable, wrong = [], []
        if status.st_uid != want.uid:
            words = f"{want.home} belongs to uid {status.st_uid}, must be {want.uid}"
            if status.st_uid == 0 and not homes.names(home):
                mendable.append(words)
            else:
                wrong.append(f"{words}, and is not empty; take it away, or give it and all in it to {want.name}")
        elif status.st_gid != want.gid:
            mendable.append(f"{want.home} has gid {status.st_gid}, must be {want.gid}")
        must = {_ACL: homes.acl(MODE, self._user, 7), _DEFAULT_ACL: homes.acl(MODE, self._user, 7, want.uid)}
        if any(_attribute(home, name) != value for name, value in must.items()):
            mendable.append(f"{want.home} has another mode or ACL")
        return Home(True, tuple(mendable), tuple(wrong))


def _check(folder: Path) -> None:
    try:
        trusted(folder)
    except HelperError as error:
        words = f"{error.cause}, because students' homes are made there as root"
        raise ConfigError([Problem("WODSTUDDIR", words)]) from error


def _attribute(folder: int, name: str) -> bytes | None:
    try:
        return os.getxattr(folder, name)
    except OSError:
        return None


def _exists(name: str, above: int) -> bool:
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
