"""Notebooks in and out of a container by tar archive; what comes out is the student's: anything may be in it."""

from __future__ import annotations

import io
import itertools
import tarfile
from typing import IO

from wodmail.errors import Failed
from wodmail.students.homes import MAX_DEPTH, MAX_NOTEBOOK_BYTES, MAX_NOTEBOOKS, MAX_NOTEBOOKS_BYTES

MAX_MEMBERS = 10_000
MAX_EXTENSION = 256 * 1024
"""Bytes of a member's extended header: a long name takes a few thousand, a file's attributes 64 KiB at most."""


class _Member(tarfile.TarInfo):
    """A member whose extended header, which tarfile reads into memory whole, is not too large (raises ReadError)."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        made = super().frombuf(buf, encoding, errors)
        plain = made.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if made.size > MAX_EXTENSION and not plain:
            raise tarfile.ReadError(f"a member of type {made.type!r} with {made.size} bytes")
        return made


def notebooks(archive: IO[bytes]) -> list[tuple[str, bytes]]:
    """The notebooks of a tar archive that holds one folder, as `docker cp CONTAINER:FOLDER -` gives it.

    Regular files alone are taken; links, devices, odd paths and Jupyter's checkpoints are passed over, as are notebooks
    beyond 500, of more than 16 MiB, or of more than 64 MiB in all. After 10000 members no more are looked at.

    Args:
        archive: read from beginning to end, never sought in.

    Returns:
        Pairs of path within the folder and content, by path.

    Raises:
        Failed: it is no whole tar archive.
    """
    found: dict[str, bytes] = {}
    left = MAX_NOTEBOOKS_BYTES
    try:
        with tarfile.open(fileobj=archive, mode="r|", tarinfo=_Member) as tar:
            for info in itertools.islice(tar, MAX_MEMBERS):
                path = _inside(info)
                if path is None or len(found) >= MAX_NOTEBOOKS or info.size > min(MAX_NOTEBOOK_BYTES, left):
                    continue
                content = tar.extractfile(info)
                if content is not None:
                    found[path] = content.read()
                    left -= len(found[path])
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
        words = "The notebooks that came out of the container can't be read."
        raise Failed(words, f"no whole tar archive: {error}") from error
    return sorted(found.items())


def _inside(info: tarfile.TarInfo) -> str | None:
    """A notebook's path within the archive's folder; None for what is no notebook or has an odd path."""
    parts = info.name.split("/")[1:]
    odd = not parts or len(parts) > MAX_DEPTH or any(part in ("", ".", "..", ".ipynb_checkpoints") for part in parts)
    if odd or not info.isreg() or not info.name.endswith(".ipynb") or not info.name.isprintable():
        return None
    return "/".join(parts)


def pack(folder: str, found: list[tuple[str, bytes]], archive: IO[bytes]) -> None:
    """The way back: a tar archive that holds one folder with these notebooks, for `tar -x` in a container.

    Args:
        folder: the folder's name, WKSHP-Name.
        found: pairs of path within the folder and content.
        archive: written to, never sought in.
    """
    with tarfile.open(fileobj=archive, mode="w|") as tar:
        top = tarfile.TarInfo(folder)
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(top)
        for path, content in found:
            member = tarfile.TarInfo(f"{folder}/{path}")
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
