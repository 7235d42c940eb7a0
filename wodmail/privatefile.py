"""Files written whole; those that hold secrets are root's own and readable for WODUSER's group."""

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
    owner = (0, group_of(settings.WODUSER)) if os.geteuid() == 0 else None
    write_whole(file, text, 0o640, owner)


def write_whole(file: Path, text: str, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file so that nobody ever sees half of it: under another name, on the disk, then renamed.

    Args:
        file: the file; its folder is there.
        text: its content.
        mode: its permission bits; until they are set it is its writer's alone.
        owner: uid and gid; None for the writer's.

    Raises:
        OSError: the folder can't be written.
    """
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
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
