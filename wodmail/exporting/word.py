"""What is mended in a Word document that pandoc has written (bytes in, bytes out)."""

from __future__ import annotations

import io
import re
import zipfile

_COPY = re.compile(rb"""(<pic:cNvPr\b[^>]*?\sdescr=)"data:[^"]*\"""")


def without_copies(document: bytes) -> bytes:
    """A Word document without the copy of each picture that pandoc leaves in its description, the URL it had.

    Args:
        document: as pandoc writes it. Pictures themselves, and what they show in words, stay.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(document)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.startswith("word/") and entry.filename.endswith(".xml"):
                data = _COPY.sub(rb'\1""', data)
            new.writestr(entry, data)
    return out.getvalue()
