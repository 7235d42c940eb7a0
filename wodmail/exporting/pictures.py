"""Pictures that a document may hold: bytes in, bytes out, checked; nothing outside a workshop's folder is read."""

from __future__ import annotations

import base64
import io
import os
import re
import stat
import warnings
from dataclasses import dataclass
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError

from wodmail.exporting.below import Folder, opened
from wodmail.exporting.drawings import DrawingError, plain

LARGEST = 20 * 1024 * 1024
MOST_PIXELS = 50_000_000
ENDINGS = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "WEBP": "webp"}
_DATA = re.compile(r"data:image/[\w.+-]+(;[\w=.+-]+)*;base64,(?P<text>[A-Za-z0-9+/=\s]+)")
_SVG = re.compile(
    rb"""
    \A (\xef\xbb\xbf)? \s* (<\?xml[^>]*>\s*)? (<!--.*?-->\s*)* (<!DOCTYPE[^>\[]*>\s*)? <svg[\s>]
    """,
    re.DOTALL | re.VERBOSE,
)


class UnfitError(ValueError):
    """A picture that is not taken; the words say why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that both documents can show.

    Args:
        data: its bytes.
        ending: png, jpg, gif or svg.
    """

    data: bytes
    ending: str

    @property
    def url(self) -> str:
        """The picture as a data URL (RFC 2397)."""
        kind = {"jpg": "jpeg", "svg": "svg+xml"}.get(self.ending, self.ending)
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


def fit(data: bytes) -> Picture:
    """A picture from its bytes, whatever its name says it is.

    Args:
        data: PNG, JPEG, GIF, WebP (which becomes PNG) or SVG that refers to nothing outside itself
            (of which remains what draws).

    Raises:
        UnfitError: too large, broken, or of another kind.
    """
    if len(data) > LARGEST:
        raise UnfitError(f"larger than {LARGEST // 2**20} MiB")
    if _SVG.match(data):
        try:
            return Picture(plain(data), "svg")
        except DrawingError as error:
            raise UnfitError(str(error)) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=list(ENDINGS)) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise UnfitError(f"more than {MOST_PIXELS // 1_000_000} million pixels")
                image.load()
                return _as_png(image) if image.format == "WEBP" else Picture(data, ENDINGS[str(image.format)])
    except (UnidentifiedImageError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnfitError("no picture that is known here") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnfitError(f"broken: {error}") from error


def _as_png(image: Image.Image) -> Picture:
    out = io.BytesIO()
    image.convert("RGBA").save(out, "PNG")
    return Picture(out.getvalue(), "png")


def from_base64(text: str) -> Picture:
    """A picture from base64, as outputs and attachments hold it.

    Raises:
        UnfitError: it isn't one.
    """
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:  # also for letters that base64 hasn't
        raise UnfitError("broken: no base64") from error
    return fit(data)


def from_url(url: str) -> Picture | None:
    """A picture from a data URL; None when it is another kind of URL.

    Raises:
        UnfitError: see `fit`.
    """
    match = _DATA.fullmatch(url)
    return from_base64(match["text"]) if match else None


def from_folder(folder: Folder, where: str, url: str) -> Picture:
    """A picture that lies in a folder or below it; no link is followed on the way.

    Args:
        folder: the workshop's folder.
        where: the notebook's own folder, relative to it; "" is the folder itself.
        url: the relative URL in the notebook.

    Raises:
        UnfitError: it isn't there, isn't inside, or see `fit`.
    """
    path = os.path.normpath(os.path.join(where, unquote(url.partition("#")[0].partition("?")[0])))  # noqa: PTH118 - may be no path at all
    if path.startswith(("/", "..")) or "\0" in path or ":" in url.partition("/")[0]:
        raise UnfitError("not in the workshop's folder")
    try:
        with opened(folder, path) as handle:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise UnfitError("no file")
            if status.st_size > LARGEST:
                raise UnfitError(f"larger than {LARGEST // 2**20} MiB")
            with os.fdopen(os.dup(handle), "rb") as file:
                return fit(file.read(LARGEST + 1))
    except OSError as error:
        raise UnfitError(error.strerror or "not readable") from error
