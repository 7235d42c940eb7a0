"""Accounts as Linux users: everything goes through one root helper that is kept running (docs/accounts.md)."""

from __future__ import annotations

from pathlib import Path

from wodmail.config import Settings
from wodmail.errors import Failed
from wodmail.students import base, exports, keys, treewriter
from wodmail.students.helperclient import HelperAnswer, HelperClient


class LinuxAccounts:
    """Implements `Accounts` for the users student<N> with uid UIDBASE+N, gid GIDBASE+N, home WODSTUDDIR/student<N>.

    Args:
        settings: WODHELPER, WODSTUDDIR, WODUSERMIN, WODUSERMAX, WODSSHKEYTYPE, WODSTEPTIMEOUT and the folders of skel.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = HelperClient(self.writer_argv(), timeout=settings.WODSTEPTIMEOUT)

    def home(self, student: int) -> Path:
        """The home's path."""
        base.check_number(self._settings, student)
        return self._settings.WODSTUDDIR / base.name_of(student)

    def check(self, student: int) -> None:
        """See that account and home are there and are what they should be."""
        self._call("check", student)

    def set_password(self, student: int, password: str) -> None:
        """Set the account's password."""
        base.check_password(password)
        self._call("set_password", student, password=password)

    def end_processes(self, student: int) -> int:
        """End everything that runs as the student."""
        ended = self._call("end_processes", student).fields.get("ended")
        return ended if isinstance(ended, int) else 0

    def erase(self, student: int) -> None:
        """End the student's processes, empty the home, copy public and private skel, make a new ssh key pair."""
        base.check_number(self._settings, student)
        pair = keys.new_pair(self._settings.WODSSHKEYTYPE, f"{base.name_of(student)}@{self._settings.WODBEFQDN}")
        self._call("erase", student, treewriter.pack([*base.skel(self._settings), *pair]))

    def verify_erased(self, student: int) -> None:
        """See that nothing but skel and ssh keys is left and nothing of the student runs."""
        self._call("verify_erased", student, allowed=base.expected(base.skel(self._settings)))

    def notebooks(self, student: int, workshop: str) -> list[tuple[str, bytes]]:
        """The student's notebooks of one workshop, read as the student."""
        answer = self._call("read_notebooks", student, workshop=base.folder_of(workshop))
        try:
            return [(entry.path, entry.data) for entry in treewriter.unpack(answer.payload)]
        except ValueError as error:
            raise Failed("The student's notebooks could not be read.", f"root helper's archive: {error}") from error

    def add_notebooks(self, student: int, workshop: str, found: list[tuple[str, bytes]]) -> int:
        """Put notebooks into the student's folder of a workshop, written as the student."""
        folder = base.folder_of(workshop)
        archive = treewriter.pack(base.as_entries(folder, found))
        self._call("install_tree", student, archive, workshop=folder, remove=[])
        return len(found)

    def export(self, student: int, workshop: str, form: str) -> list[exports.Document]:
        """Export the student's notebooks of a workshop, as the student."""
        answer = self._call("export_documents", student, workshop=base.folder_of(workshop), form=form)
        try:
            return exports.unpacked(answer.fields.get("documents"), answer.payload)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Failed("The student's documents could not be read.", f"root helper's archive: {error!r}") from error

    def writer_argv(self) -> list[str]:
        """The root helper, as this user may call it."""
        return ["sudo", "-n", str(self._settings.WODHELPER)]

    def close(self) -> None:
        """End the helper; a later call starts another."""
        self._client.close()

    def _call(self, operation: str, student: int, payload: bytes = b"", **fields: object) -> HelperAnswer:
        base.check_number(self._settings, student)
        return self._client.call(operation, payload, student=student, **fields)
