"""The spool: every accepted mail, durable before anybody is told so; a Maildir, our metadata in front of each mail."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wodmail.errors import Failed, Temporary
from wodmail.mail import pipe

_SEEN = ":2,S"  # Maildir wants an info part on files in cur/; S says that somebody has read it
_STALE_TEMPORARY = 36 * 3600.0  # seconds, the Maildir rule for files left in tmp/ by a crash


@dataclass(frozen=True, slots=True)
class StoredMail:
    """One mail of the spool.

    Args:
        key: its name in the spool; keys sort in the order of arrival.
        raw: the mail as sent, without our metadata; lines end as the door wrote them (the listener: LF).
        peer: IP address of the client, "" when it came through the pipe.
        sender: envelope sender, "" for the null sender.
        authenticated: whether the client had logged in with SMTP AUTH.
        door: "listener" or "pipe", "" for a file that no door has written.
        stored: when it was stored, unix seconds.
    """

    key: str
    raw: bytes
    peer: str
    sender: str
    authenticated: bool
    door: str
    stored: float


class FolderSync:
    """One fsync of a folder for everybody who waits for one at that moment (group commit).

    Args:
        path: the folder.
        sync: makes the entries of that folder durable; raises OSError when it can't.
    """

    def __init__(self, path: str, sync: Callable[[str], None] = pipe.sync_folder) -> None:
        self._path = path
        self._sync = sync
        self._changed = threading.Condition()
        self._asked = 0
        self._covered = 0
        self._running = False

    def wait(self) -> None:
        """Return when everything renamed into the folder before this call is durable.

        Raises:
            OSError: the fsync that this caller led failed. The others who waited for it then lead one themselves.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            while self._covered < mine:
                if self._running:
                    self._changed.wait()
                else:
                    self._lead()

    def _lead(self) -> None:
        # Only callers that were counted before the fsync begins are covered by it: their renames came earlier.
        covers = self._asked
        self._running = True
        self._changed.release()
        try:
            self._sync(self._path)
        except BaseException:
            covers = 0
            raise
        finally:
            self._changed.acquire()
            self._running = False
            self._covered = max(self._covered, covers)
            self._changed.notify_all()


class Spool:
    """The mails between the doors and intake. Several threads and processes may use one folder at a time.

    Args:
        folder: the Maildir; made when missing (its parent too).

    Raises:
        Failed: the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = str(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            pipe.prepare(self._path)
        except OSError as error:
            raise Failed("the spool can't be used", f"spool {folder}: {error}") from error
        self._publishing = threading.Lock()
        self._sequence: int | None = None
        self._new = FolderSync(f"{self._path}/new")

    def store(self, raw: bytes, *, peer: str, sender: str, authenticated: bool = False, door: str) -> str:
        """Store a mail durably: written, fsynced, renamed, folder fsynced.

        Args:
            raw: the mail as sent.
            peer: IP address of the client or "".
            sender: envelope sender, "" for the null sender.
            authenticated: whether the client had logged in.
            door: "listener" or "pipe".

        Returns:
            The key; a mail stored after this call has returned has a greater one.

        Raises:
            Temporary: it is not stored, e.g. the disk is full; nothing is left of it.
        """
        content = pipe.frame(raw, peer, sender, authenticated, door)
        try:
            sequence = self._opened_sequence()
            temporary = pipe.write_temporary(self._path, content)
            with self._publishing:
                key = pipe.publish(self._path, temporary, sequence)
            self._make_durable(key)
        except OSError as error:
            cause = f"spool {self._path}: {error.strerror or error}"
            raise Temporary("the mail could not be stored, please send it again later", cause) from error
        return key

    def _opened_sequence(self) -> int:
        with self._publishing:
            if self._sequence is None:
                # Held open, because opening it for each mail cost a tenth of the listener's speed; opened late, so that
                # root, looking at the spool, doesn't leave a file there that WODUSER can't write.
                self._sequence = pipe.open_sequence(self._path)
                weakref.finalize(self, os.close, self._sequence)
            return self._sequence

    def _make_durable(self, key: str) -> None:
        try:
            self._new.wait()
        except OSError:
            # The sender will be told to come again, so this copy goes, unless intake has been quicker.
            (self.folder / "new" / key).unlink(missing_ok=True)
            raise

    def new(self) -> list[str]:
        """The keys of the mails that were not taken in yet, in the order of arrival.

        Raises:
            Temporary: the folder can't be read.
        """
        try:
            return sorted(name for name in os.listdir(f"{self._path}/new") if not name.startswith("."))  # noqa: PTH208
        except OSError as error:
            raise Temporary("the spool can't be read", f"spool {self._path}: {error}") from error

    def read(self, key: str) -> StoredMail:
        """The mail with this key, taken in or not.

        Raises:
            Failed: there is no such mail.
            Temporary: it can't be read.
        """
        for path in (self.folder / "new" / key, self.folder / "cur" / (key + _SEEN)):
            try:
                return self._stored_mail(key, path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Temporary("a stored mail can't be read", f"spool: {error}") from error
        raise Failed("this mail is no longer stored", f"spool {self._path}: no mail {key} in new/ or cur/")

    def _stored_mail(self, key: str, path: Path) -> StoredMail:
        content = path.read_bytes()
        values, raw = pipe.unframe(content)
        if not values:
            return StoredMail(key, content, "", "", False, "", path.stat().st_mtime)
        peer, sender, authenticated, door, stored = (values[name] for name in pipe.HEADERS)
        return StoredMail(key, raw, peer, sender, authenticated == "yes", door, float(stored))

    def settle(self, key: str) -> None:
        """Mark a mail as taken in: new/ → cur/. Does nothing when that has happened already.

        Not fsynced: a mail that a power cut puts back into new/ is known to intake by its key.

        Raises:
            Temporary: the move failed; the mail is still in new/.
        """
        target = self.folder / "cur" / (key + _SEEN)
        try:
            try:
                (self.folder / "new" / key).rename(target)
            except FileNotFoundError:
                if target.exists():
                    return
                raise
        except OSError as error:
            raise Temporary("a stored mail can't be moved", f"spool {self._path}: {key}: {error}") from error

    def purge(self, older_than_seconds: float) -> int:
        """Delete mails that were taken in and stored longer ago than this, and what crashes have left in tmp/.

        Args:
            older_than_seconds: age since storing, in seconds, 0 or more.

        Returns:
            How many mails were deleted.
        """
        now = time.time()
        gone = sum(_delete_older(path, now - older_than_seconds) for path in (self.folder / "cur").iterdir())
        for path in (self.folder / "tmp").iterdir():
            _delete_older(path, now - _STALE_TEMPORARY)
        return gone


def _delete_older(path: Path, moment: float) -> bool:
    try:
        if path.stat().st_mtime > moment:
            return False
        path.unlink()
    except FileNotFoundError:  # another process has deleted it
        return False
    return True
