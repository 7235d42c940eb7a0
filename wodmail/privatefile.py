"""Files that hold secrets: root's own, readable for WODUSER's group."""

from __future__ import annotations

import grp
import os
import tempfile
from pathlib import Path

from wodmail.schema import Settings


def write_private(file: Path, text: str, settings: Settings) -> None:
    """Write a file that holds secrets: mode 0640 from its first byte, the group WODUSER's when root writes it.

    Args:
        file: the file; replaced in one go.
        text: its content.
        settings: names WODUSER.

    Raises:
        OSError: the folder can't be written.
    """
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if os.geteuid() == 0:
                os.fchown(stream.fileno(), 0, group_of(settings.WODUSER))
            os.fchmod(stream.fileno(), 0o640)
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def group_of(name: str) -> int:
    """The group's number; root's when there is no such group yet."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return 0
