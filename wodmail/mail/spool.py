"""The spool: every accepted mail, durable before anybody is told so; a Maildir, our metadata in front of each mail."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from wodmail.errors import Failed, Temporary
from wodmail.mail import pipe

_SEEN = ":2,S"  # Maildir wants an info part on files in cur/; S says that somebody has read it
_STALE_TEMPORARY = 36 * 3600.0  # seconds, the Maildir rule for files left in tmp/ by a crash
_LONGEST = 998  # bytes of a sender; RFC 5321 section 4.5.3.1.3 allows 256, and PostgreSQL indexes no more than 2704
_LATEST = 1e11  # unix seconds, far beyond any mail and within what a date can hold
# No link is followed out of the spool, and opening a FIFO doesn't wait for its writer.
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OF_ONE_FILE = {errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG}
_PERMISSION = {errno.EACCES, errno.EPERM}


class MailGone(Failed):
    """The mail is not in the spool, or no longer: a door takes back what it could not make durable."""


class MailUnreadable(Failed):
    """This file can't be read as a mail, however often it is tried; the others can."""


@dataclass(frozen=True, slots=True)
class StoredMail:
    """One mail of the spool.

    Args:
        key: its name in the spool; keys sort in the order of arrival.
        raw: the mail as sent, without our metadata; lines end as the door wrote them (the listener: LF).
        peer: IP address of the client, "" when it came through the pipe.
        sender: envelope sender, "" for the null sender. Valid text of at most 998 bytes in UTF-8, as is the peer: bytes
            that are no UTF-8, and NUL, which PostgreSQL does not take, have become U+FFFD.
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

    def store(
        self,
        raw: bytes,
        *,
        peer: str,
        sender: str,
        authenticated: bool = False,
        door: str,
        turn: AbstractContextManager[object] | None = None,
    ) -> str:
        """Store a mail durably: written, fsynced, renamed, folder fsynced.

        Args:
            raw: the mail as sent.
            peer: IP address of the client or "".
            sender: envelope sender, "" for the null sender.
            authenticated: whether the client had logged in.
            door: "listener" or "pipe".
            turn: entered when the mail is written and is to get its key; entering waits for those that came before.

        Returns:
            The key; a mail stored after this call has returned has a greater one.

        Raises:
            Temporary: it is not stored, e.g. the disk is full; nothing is left of it.
        """
        content = pipe.frame(raw, peer, sender, authenticated, door)
        try:
            sequence = self._opened_sequence()
            temporary = pipe.write_temporary(self._path, content)
            with turn or nullcontext(), self._publishing:
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
            MailGone: there is no such mail.
            MailUnreadable: what has this name is no regular file that we may read, or the name is no text.
            Temporary: the folder or the disk has trouble, or we have run out of something.
        """
        try:
            key.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _unreadable(key, "its name is no UTF-8") from error
        for path in (self.folder / "new" / key, self.folder / "cur" / (key + _SEEN)):
            try:
                return self._stored_mail(key, path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if _concerns_it_alone(error, path.parent):
                    raise _unreadable(key, error.strerror) from error
                raise Temporary("a stored mail can't be read", f"spool: {error}") from error
        raise MailGone("this mail is no longer stored", f"spool {self._path}: no mail {key} in new/ or cur/")

    def _stored_mail(self, key: str, path: Path) -> StoredMail:
        content, changed = _regular_file(key, path)
        values, raw = pipe.unframe(content)
        if not values:
            return StoredMail(key, content, "", "", False, "", changed)
        peer, sender, authenticated, door, stored = (_text(values[name]) for name in pipe.HEADERS)
        return StoredMail(key, raw, peer, sender, authenticated == "yes", door, _moment(stored, changed))

    def settle(self, key: str) -> None:
        """Mark a mail as taken in: new/ → cur/. Does nothing when it is no longer in new/.

        Not fsynced: a mail that a power cut puts back into new/ is known to intake by its key.

        Raises:
            Temporary: the move failed; the mail is still in new/.
        """
        target = self.folder / "cur" / (key + _SEEN)
        try:
            try:
                (self.folder / "new" / key).rename(target)
            except FileNotFoundError:  # done before, or its door has taken it back; but cur/ may be missing, too
                if os.path.lexists(self.folder / "new" / key) or not target.parent.is_dir():
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


def _unreadable(key: str, why: str | None) -> MailUnreadable:
    return MailUnreadable("a stored mail can't be read", f"spool: {key!r}: {why}")


def _concerns_it_alone(error: OSError, folder: Path) -> bool:
    """Whether the trouble is that of one file, so that the others of its folder can be read."""
    if error.errno in _PERMISSION:
        try:
            (folder / "..").stat()
        except OSError:  # the folder itself is closed to us
            return False
        return True
    return error.errno in _OF_ONE_FILE


def _regular_file(key: str, path: Path) -> tuple[bytes, float]:
    """The content of a mail's file and when it was written, unix seconds."""
    descriptor = os.open(path, _READING)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _unreadable(key, "it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(), found.st_mtime
    finally:
        os.close(descriptor)


def _text(value: str) -> str:
    """Metadata as every database takes it: no lone surrogates, no NUL, not too long."""
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "\ufffd")
    return text.encode("utf-8")[:_LONGEST].decode("utf-8", "ignore")


def _moment(text: str, otherwise: float) -> float:
    """Unix seconds as a door writes them; of anything else in their place, the other moment."""
    try:
        moment = float(text)
    except ValueError:
        return otherwise
    return moment if 0 <= moment < _LATEST else otherwise


def _delete_older(path: Path, moment: float) -> bool:
    try:
        found = path.lstat()
        if found.st_mtime > moment or stat.S_ISDIR(found.st_mode):
            return False
        path.unlink()
    except FileNotFoundError:  # another process has deleted it
        return False
    return True
