"""Students' accounts: what may be asked of them; the sandbox and Linux both answer this."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol, runtime_checkable

from wodmail.config import Settings
from wodmail.errors import Failed, Refused
from wodmail.students.exports import Document
from wodmail.students.treewriter import Entry

MAX_SKEL_BYTES = 16 * 1024 * 1024


@runtime_checkable
class Accounts(Protocol):
    """One student's account at a time; every call is safe to repeat and to make from many threads.

    Every call raises `Refused` for a student outside WODUSERMIN to WODUSERMAX, `Failed` when the account or home is
    not as it must be (missing, a link, another owner), and `Temporary` when the way to it is away for now.
    """

    def check(self, student: int) -> None:
        """See that account and home are there and are what they should be; changes nothing else."""
        ...

    def home(self, student: int) -> Path:
        """The home's path, WODSTUDDIR/student<N>; it isn't looked at."""
        ...

    def set_password(self, student: int, password: str) -> None:
        """Give the account a new password.

        Args:
            student: the student's number.
            password: 1 to 128 printable ASCII characters, no blank and no colon.
        """
        ...

    def end_processes(self, student: int) -> int:
        """End everything that runs as the student.

        Returns:
            How many processes that were.
        """
        ...

    def erase(self, student: int) -> None:
        """End the student's processes, empty the home, copy public and private skel, make a new ssh key pair."""
        ...

    def verify_erased(self, student: int) -> None:
        """See that nothing but skel and ssh keys is left in the home and that nothing runs as the student.

        Raises:
            Failed: what is left; the seat must not be given to anybody then.
        """
        ...

    def notebooks(self, student: int, workshop: str) -> list[tuple[str, bytes]]:
        """The student's notebooks of one workshop, read with the student's rights.

        Args:
            student: the student's number.
            workshop: WKSHP-Name or CHLG-Name (which has the same folder).

        Returns:
            Pairs of path within the folder and content; see `homes.notebooks` for what is passed over.
        """
        ...

    def add_notebooks(self, student: int, workshop: str, found: list[tuple[str, bytes]]) -> int:
        """Put notebooks into the student's folder of a workshop, over those of the same names, as the student's own.

        Args:
            student: the student's number.
            workshop: WKSHP-Name.
            found: pairs of path within the folder and content.

        Returns:
            How many were written.
        """
        ...

    def export(self, student: int, workshop: str, form: str) -> list[Document]:
        """Export the student's notebooks of a workshop into its folder, with the student's rights, without network.

        Args:
            student: the student's number.
            workshop: WKSHP-Name or CHLG-Name.
            form: pdf or docx.

        Returns:
            What became of each notebook, at least one; one that fails stops no other.

        Raises:
            Refused: there is no such folder, no notebook in it, or nothing installed that could do it.
        """
        ...

    def writer_argv(self) -> list[str]:
        """How the ansible plugin reaches the tree writer: an argv that speaks the helper's protocol; [] is directly."""
        ...

    def close(self) -> None:
        """Let go of whatever is kept open; a later call opens it again."""
        ...


def name_of(student: int) -> str:
    """The account's name."""
    return f"student{student}"


def check_number(settings: Settings, student: int) -> None:
    """Refuse a student that this backend does not have."""
    if not settings.WODUSERMIN <= student <= settings.WODUSERMAX:
        raise Refused(
            f"student {student} does not exist here; use a number from {settings.WODUSERMIN} to {settings.WODUSERMAX}"
        )


def check_password(password: str) -> None:
    """Refuse a password that the system's files can't hold; it is never quoted."""
    if not 1 <= len(password) <= 128 or not all("!" <= letter <= "~" and letter != ":" for letter in password):
        raise Failed(
            "The new password could not be set.",
            "a password must be 1 to 128 printable ASCII characters without blank and colon",
        )


def folder_of(workshop: str) -> str:
    """The workshop's folder name: a challenge has that of its workshop."""
    return "WKSHP-" + workshop[5:] if workshop.startswith("CHLG-") else workshop


def skel(settings: Settings) -> list[Entry]:
    """What every home begins with: WODSYSDIR/skel, then WODSYSPRIVDIR/skel over it.

    Raises:
        Failed: it can't be read, or is larger than 16 MiB.
    """
    found: dict[str, Entry] = {}
    for folder in (settings.WODSYSDIR, settings.WODSYSPRIVDIR):
        if folder is not None and (folder / "skel").is_dir():
            try:
                _read_skel(folder / "skel", "", found)
            except OSError as error:
                words = "The files that every home begins with can't be read; the operator has to look at it."
                raise Failed(words, f"{folder / 'skel'}: {error}") from error
    return list(found.values())


def _read_skel(folder: Path, prefix: str, found: dict[str, Entry]) -> None:
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = Entry(name, "link", target=str(path.readlink()))
        elif stat.S_ISDIR(mode):
            found[name] = Entry(name, "dir", mode & 0o755)
            _read_skel(path, name + "/", found)
        elif stat.S_ISREG(mode) and path.name != ".keep":
            found[name] = Entry(name, "file", mode & 0o755, path.read_bytes())
        if sum(len(entry.data) for entry in found.values()) > MAX_SKEL_BYTES:
            raise OSError(f"more than {MAX_SKEL_BYTES} bytes")


def as_entries(workshop: str, found: list[tuple[str, bytes]]) -> list[Entry]:
    """Notebooks as files below a workshop's folder."""
    return [Entry(f"{folder_of(workshop)}/{path}", "file", 0o644, data) for path, data in found]


def expected(entries: list[Entry]) -> list[str]:
    """Every path that a home may hold after `erase`, folders in between included."""
    paths = {".ssh", *(f".ssh/id_{kind}{end}" for kind in ("rsa", "ed25519") for end in ("", ".pub"))}
    for entry in entries:
        parts = entry.path.split("/")
        paths.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return sorted(paths)


def explain_home(student: int, home: Path, error: OSError) -> Failed:
    """Why a home could not be opened, in the sender's and the operator's words."""
    try:
        link = stat.S_ISLNK(os.lstat(home).st_mode)
    except OSError:
        link = False
    if link:
        return Failed(f"The home of student {student} is not usable: it is a link.", f"{home} is a symbolic link")
    if isinstance(error, FileNotFoundError):
        return Failed(f"student {student} has no home here.", f"{home} is missing; make the account first")
    return Failed(f"The home of student {student} is not usable.", f"{home}: {error.strerror}")
