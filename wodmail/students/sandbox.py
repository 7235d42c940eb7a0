"""Accounts without root: every student is a plain folder of the user who runs wodmail, made when first asked for."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wodmail import exporting
from wodmail.config import Settings
from wodmail.errors import Failed, Refused
from wodmail.students import base, exports, homes, keys, treewriter

_SCRYPT = {"n": 2**13, "r": 8, "p": 1}


class SandboxAccounts:
    """Implements `Accounts` with folders below WODSTUDDIR; passwords are kept as scrypt hashes below WODSTATEDIR.

    Args:
        settings: WODSTUDDIR, WODSTATEDIR, WODUSERMIN, WODUSERMAX, WODSSHKEYTYPE and the folders of skel.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._passwords = settings.WODSTATEDIR / "passwords"

    def home(self, student: int) -> Path:
        """The home's path."""
        base.check_number(self._settings, student)
        return self._settings.WODSTUDDIR / base.name_of(student)

    def check(self, student: int) -> None:
        """Make the home when it is missing, and see that it is a folder of ours and no link."""
        with self._opened(student):
            pass

    def set_password(self, student: int, password: str) -> None:
        """Keep a hash of the password, by which `verify_password` knows it."""
        base.check_number(self._settings, student)
        base.check_password(password)
        salt = secrets.token_bytes(16)
        text = json.dumps({"version": 1, "salt": salt.hex(), "scrypt": _hash(password, salt).hex()})
        fresh = self._passwords / f".{base.name_of(student)}.{secrets.token_hex(6)}"
        try:
            self._passwords.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(text)
            fresh.replace(self._passwords / base.name_of(student))
        except OSError as error:
            raise Failed("The new password could not be set.", f"{self._passwords}: {error.strerror}") from error
        finally:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)

    def verify_password(self, student: int, password: str) -> bool:
        """Whether that is the student's password."""
        base.check_number(self._settings, student)
        try:
            kept = json.loads((self._passwords / base.name_of(student)).read_text())
        except FileNotFoundError:
            return False
        return hmac.compare_digest(_hash(password, bytes.fromhex(kept["salt"])).hex(), kept["scrypt"])

    def end_processes(self, student: int) -> int:
        """Nothing runs as a sandbox student, so nothing is ended."""
        base.check_number(self._settings, student)
        return 0

    def erase(self, student: int) -> None:
        """Empty the home, copy public and private skel, make a new ssh key pair."""
        pair = keys.new_pair(self._settings.WODSSHKEYTYPE, f"{base.name_of(student)}@{self._settings.WODBEFQDN}")
        entries = [*base.skel(self._settings), *pair]
        with self._opened(student) as home:
            try:
                homes.empty(home)
                treewriter.install(home, [], entries)
                os.fchmod(home, 0o700)
            except (OSError, homes.NotEmptyError, ValueError) as error:
                words = f"The home of student {student} could not be emptied and filled anew."
                raise Failed(words, f"{self.home(student)}: {error}") from error

    def verify_erased(self, student: int) -> None:
        """See that nothing but skel and ssh keys is left."""
        with self._opened(student) as home:
            left = homes.unexpected(home, set(base.expected(base.skel(self._settings))))
        if left:
            words = f"The home of student {student} is not empty."
            raise Failed(words, f"left in {self.home(student)}: {homes.NotEmptyError(left)}")

    def notebooks(self, student: int, workshop: str) -> list[tuple[str, bytes]]:
        """The student's notebooks of one workshop."""
        with self._opened(student) as home:
            return homes.notebooks(home, base.folder_of(workshop))

    def add_notebooks(self, student: int, workshop: str, found: list[tuple[str, bytes]]) -> int:
        """Put notebooks into the student's folder of a workshop."""
        with self._opened(student) as home:
            try:
                return treewriter.install(home, [], base.as_entries(workshop, found))
            except (OSError, ValueError) as error:
                words = f"The notebooks could not be written into the home of student {student}."
                raise Failed(words, f"{self.home(student)}: {error}") from error

    def export(self, student: int, workshop: str, form: str) -> list[exports.Document]:
        """Export the student's notebooks of a workshop; the exporter limits itself (`wodmail.exporting.confine`)."""
        name, place = base.name_of(student), base.folder_of(workshop)
        argv = exports.argv(str(exporting.program()), form)
        with self._opened(student) as home:
            try:
                folder = os.open(place, treewriter.FOLDER_FLAGS, dir_fd=home)
            except OSError as error:
                raise Refused(
                    exports.no_folder(name, place), f"{self.home(student) / place}: {error.strerror}"
                ) from error
            try:
                said, ended = _exported(argv, folder)
                found = exports.taken(folder, said, form, ended)
            except ValueError as error:
                raise Failed(f"The notebooks of {name} could not be exported.", f"{argv[0]}: {error}") from error
            finally:
                os.close(folder)
        if not found:
            raise Refused(exports.no_notebooks(name, place))
        return found

    def writer_argv(self) -> list[str]:
        """Directly: the homes are ours."""
        return []

    def close(self) -> None:
        """Nothing is kept open."""

    @contextmanager
    def _opened(self, student: int) -> Iterator[int]:
        """The home as a descriptor, the home made when missing."""
        path = self.home(student)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
            home = treewriter.open_home(str(path.parent), path.name)
        except OSError as error:
            raise base.explain_home(student, path, error) from error
        try:
            status = os.fstat(home)
            if status.st_uid != os.geteuid():
                raise Failed(f"The home of student {student} belongs to somebody else.", f"{path}: uid {status.st_uid}")
            os.fchmod(home, stat.S_IMODE(status.st_mode) | 0o700)
            fcntl.flock(home, fcntl.LOCK_EX)  # given back when the descriptor is closed
            yield home
        finally:
            os.close(home)


def _exported(argv: list[str], folder: int) -> tuple[bytes, str]:
    """Run the exporter in an open folder; gives what it has printed, and why it did not come to its end, if so."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=f"/proc/self/fd/{folder}",
        env=exports.ENVIRONMENT,
        start_new_session=True,
    ) as child:
        try:
            said, complaint = child.communicate(timeout=exports.SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            said, _ = child.communicate()
            return said, f"{argv[0]}: not done after {exports.SECONDS:.0f} s"
    if child.returncode not in exports.ENDED_WELL:
        told = complaint.decode(errors="replace").strip()[-1000:]
        return said, f"{argv[0]} ended with {child.returncode}: {told}"
    return said, ""


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_SCRYPT["n"], r=_SCRYPT["r"], p=_SCRYPT["p"])
