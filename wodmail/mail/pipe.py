"""The pipe door: one mail from stdin into the spool, and the spool's format on disk.

procmail starts this file for every mail, so it imports the standard library alone, and little of that; it also runs by
itself (`python3 -I pipe.py --spool DIR`), without the package around it. `wodmail.mail.spool` builds on the functions
here, so that both doors write the same format:

    DIR/tmp       mails being written              DIR/new   stored mails, not yet taken in
    DIR/cur       mails that were taken in         DIR/.sequence   the last key's time stamp

A stored mail is the mail as it came, behind five lines of our own (`HEADERS`). They are told from headers of the mail
itself by their place, the first five lines of the file in this order, so no mail can forge them.

Exit codes: 0 stored · 65 empty input · 75 everything else, so that Postfix keeps the mail and tries again.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

EX_OK, EX_DATAERR, EX_TEMPFAIL = 0, 65, 75
HEADERS = ("X-WOD-Peer", "X-WOD-Sender", "X-WOD-Auth", "X-WOD-Door", "X-WOD-Stored")
USAGE = "usage: wodmail pipe --spool DIR   (reads one mail from stdin; exit 0 stored, 65 empty, 75 try again)"
_TMP = "tmp"
_DATE_LENGTH = len("Fri Mar  3 09:08:35 2023")


def frame(raw: bytes, peer: str, sender: str, authenticated: bool, door: str) -> bytes:
    """The file's content: our five header lines and the mail.

    Args:
        raw: the mail as it came.
        peer: IP address of the client, "" when there was none.
        sender: envelope sender, "" for the null sender.
        authenticated: whether the client had logged in with SMTP AUTH.
        door: "listener" or "pipe".
    """
    values = (peer, sender, "yes" if authenticated else "no", door, f"{time.time():.6f}")
    head = "".join(f"{name}: {_one_line(value)}\n" for name, value in zip(HEADERS, values, strict=True))
    return head.encode("utf-8", "surrogateescape") + raw


def unframe(content: bytes) -> tuple[dict[str, str], bytes]:
    """Split a spool file into our metadata ({} when the file was not written by a door) and the mail."""
    values: dict[str, str] = {}
    position = 0
    for name in HEADERS:
        end = content.find(b"\n", position)
        prefix = name.encode() + b": "
        if end < 0 or not content.startswith(prefix, position):
            return {}, content
        values[name] = content[position + len(prefix) : end].decode("utf-8", "surrogateescape")
        position = end + 1
    return values, content[position:]


def _one_line(value: str) -> str:
    return "".join(letter if letter.isprintable() or letter > "\x9f" else "?" for letter in value)


def prepare(folder: str) -> None:
    """Make the spool's folders where they are missing; the folder's own parent must exist.

    Raises:
        OSError: a folder can't be made.
    """
    for path in (folder, *(f"{folder}/{name}" for name in ("tmp", "new", "cur"))):
        if not os.path.isdir(path):  # noqa: PTH112 - pathlib doubles the start-up time
            try:
                os.mkdir(path, 0o700)  # noqa: PTH102
            except FileExistsError:
                continue
            sync_folder(os.path.dirname(path) or ".")  # noqa: PTH120


def write_temporary(folder: str, content: bytes) -> str:
    """Write the content to a new file in tmp/ and fsync it; returns the file's path.

    Raises:
        OSError: the mail could not be written whole (disk full, quota, no permission); nothing of it is left.
    """
    path = f"{folder}/{_TMP}/{time.time_ns()}.P{os.getpid()}R{os.urandom(6).hex()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        os.unlink(path)  # noqa: PTH108
        raise
    return path


def open_sequence(folder: str) -> int:
    """A descriptor of `.sequence` for `publish`; the caller closes it.

    Raises:
        OSError: it can't be opened or made.
    """
    return os.open(f"{folder}/.sequence", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def publish(folder: str, temporary: str, sequence: int) -> str:
    """Move a written file to new/ under the next key and return the key.

    Keys sort in the order of publishing, over all processes and also when the clock is set back: the time stamp of
    the last key is kept in `.sequence`, and number and rename happen under one lock. So whoever lists new/ never sees
    a mail before an earlier one.

    Args:
        folder: the spool.
        temporary: what `write_temporary` has returned.
        sequence: from `open_sequence`; used by one thread at a time, because the lock is the descriptor's.

    Raises:
        OSError: see `write_temporary`; the temporary file is removed.
    """
    try:
        fcntl.flock(sequence, fcntl.LOCK_EX)
        try:
            stamp = max(time.time_ns() // 1000, _last_stamp(sequence) + 1)
            os.pwrite(sequence, b"%016d\n" % stamp, 0)
            key = f"{stamp // 1_000_000:010d}.M{stamp % 1_000_000:06d}P{os.getpid()}.{_host()}"
            os.rename(temporary, f"{folder}/new/{key}")  # noqa: PTH104
        finally:
            fcntl.flock(sequence, fcntl.LOCK_UN)
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise
    return key


def _last_stamp(lock: int) -> int:
    text = os.pread(lock, 17, 0)
    # A torn or foreign value counts as none: the clock is then the only source of order.
    return int(text) if len(text) == 17 and text[:16].isdigit() else 0


def _host() -> str:
    # "/" and ":" have a meaning in Maildir names.
    return os.uname().nodename.replace("/", "_").replace(":", "_") or "localhost"


def sync_folder(path: str) -> None:
    """Make the entries of a folder durable.

    Raises:
        OSError: the folder can't be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def split_from_line(raw: bytes) -> tuple[str | None, bytes]:
    """Take the mbox `From ` line off a mail: the envelope sender in it (None without such a line) and the mail."""
    if not raw.startswith(b"From "):
        return None, raw
    line, _, mail = raw.partition(b"\n")
    text = line[len(b"From ") :].strip()
    if text.startswith(b'"') and len(text) > _DATE_LENGTH:
        sender = text[:-_DATE_LENGTH].rstrip()  # a quoted local part may hold blanks: the date's width tells
    else:
        sender = text.partition(b" ")[0]
    # MAILER-DAEMON is how Postfix writes the null sender in this line.
    return "" if sender == b"MAILER-DAEMON" else sender.decode("utf-8", "surrogateescape"), mail


def store(folder: str, raw: bytes, environ_sender: str) -> str:
    """Store one mail from procmail durably and return its key.

    Raises:
        OSError: it is not stored.
    """
    sender, mail = split_from_line(raw)
    content = frame(mail, "", environ_sender if sender is None else sender, False, "pipe")
    prepare(folder)
    sequence = open_sequence(folder)
    try:
        key = publish(folder, write_temporary(folder, content), sequence)
    finally:
        os.close(sequence)
    try:
        sync_folder(f"{folder}/new")
    except OSError:
        os.unlink(f"{folder}/new/{key}")  # noqa: PTH108 - it will come again, so this copy goes
        raise
    return key


def _read_stdin() -> bytes:
    parts = []
    while part := os.read(0, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _spool_argument(arguments: list[str]) -> str | None:
    if len(arguments) == 2 and arguments[0] == "--spool":
        return arguments[1] or None
    if len(arguments) == 1 and arguments[0].startswith("--spool="):
        return arguments[0][len("--spool=") :] or None
    return None


def _complain(message: str) -> None:
    sys.stderr.write(f"wodmail pipe: {message}\n")


def _temporary_failure(kind: type[BaseException], error: BaseException, _trace: object) -> None:
    # Python itself would exit with 1 here, and Postfix would bounce the mail.
    _complain(f"unexpected {kind.__name__}: {error}; the mail was not accepted and will be tried again")
    sys.stderr.flush()
    os._exit(EX_TEMPFAIL)


def main(arguments: list[str] | None = None) -> int:
    """Store the mail on stdin; returns the exit code (see the module).

    Args:
        arguments: the words after `pipe`; without it those of the command line.
    """
    sys.excepthook = _temporary_failure
    folder = _spool_argument(sys.argv[1:] if arguments is None else arguments)
    if folder is None:
        _complain(USAGE)
        return EX_TEMPFAIL
    try:
        raw = _read_stdin()
        if not split_from_line(raw)[1].strip():
            _complain("the input is empty, there is no mail to store")
            return EX_DATAERR
        store(folder.rstrip("/") or "/", raw, os.environ.get("SENDER", ""))
    except (OSError, MemoryError, ValueError) as error:
        _complain(f"not stored in {folder}: {error or type(error).__name__}; the mail will be tried again")
        return EX_TEMPFAIL
    return EX_OK


if __name__ == "__main__":
    sys.exit(main())
