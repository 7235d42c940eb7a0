"""A student's public ssh key, read from a home whose owner may have put anything there (docs/appliances.md)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from wodmail.errors import Failed
from wodmail.students import treewriter

MAX_BYTES = 16 * 1024
_KINDS = ("rsa", "ed25519")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read(homes: Path, name: str, kind: str) -> str:
    """The public key of a home: type and data in one line, without options and comment.

    Args:
        homes: the folder of all homes, WODSTUDDIR.
        name: the account's name, e.g. student121.
        kind: the kind of key that is made in new homes, rsa or ed25519; the other is taken when there is none.

    Raises:
        Failed: there is none, or it is not plainly one.
    """
    tried = [f"id_{each}.pub" for each in sorted(_KINDS, key=lambda each: each != kind)]
    for file in tried:
        where = homes / name / ".ssh" / file
        try:
            text = _content(homes, name, file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _refused(name, f"{where}: {error}") from error
        return _checked(name, where, text)
    raise Failed(f"{name} has no public ssh key in the home.", f"no {' and no '.join(tried)} in {homes / name}/.ssh")


def _content(homes: Path, name: str, file: str) -> str:
    """What is in a file of the home's .ssh folder, reached without following a link."""
    home = treewriter.open_home(str(homes), name)
    try:
        folder = os.open(".ssh", treewriter.FOLDER_FLAGS, dir_fd=home)
    finally:
        os.close(home)
    try:
        found = os.open(file, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    with os.fdopen(found, "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ValueError("it is no file of its own")
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return data.decode("ascii")


def _checked(name: str, where: Path, text: str) -> str:
    """Type and data of the only line; what may stand around them could be an order to sshd."""
    # Imported late: most commands never look at a key.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    lines = text.removesuffix("\n").split("\n")
    fields = lines[0].split()
    if len(lines) != 1 or len(fields) < 2 or not lines[0].isprintable():
        raise _refused(name, f"{where}: it is not one line")
    try:
        load_ssh_public_key(" ".join(fields[:2]).encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refused(name, f"{where}: {error}") from error
    return " ".join(fields[:2])


def _refused(name: str, cause: str) -> Failed:
    return Failed(f"The public ssh key in the home of {name} is not usable.", cause)
