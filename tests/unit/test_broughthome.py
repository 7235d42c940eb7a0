"""Notebooks out of a container's archive, in which there may be anything."""

from __future__ import annotations

import io
import tarfile

import pytest

from wodmail.errors import Failed
from wodmail.students import broughthome


def archive(*members: tuple[str, bytes | str]) -> bytes:
    """A tar archive; a text is a link's target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_only_notebooks_that_are_plainly_in_the_folder() -> None:
    data = archive(
        ("WKSHP-X/b.ipynb", b"b"),
        ("WKSHP-X/deep/a.ipynb", b"a"),
        ("WKSHP-X/notes.txt", b"no"),
        ("WKSHP-X/.ipynb_checkpoints/b.ipynb", b"no"),
        ("WKSHP-X/../up.ipynb", b"no"),
        ("/WKSHP-X/../../abs.ipynb", b"no"),
        ("top.ipynb", b"no"),
        ("WKSHP-X//twice.ipynb", b"no"),
        ("WKSHP-X/new\nline.ipynb", b"no"),
        ("WKSHP-X/link.ipynb", "/etc/shadow"),
        ("WKSHP-X/" + "d/" * 13 + "x.ipynb", b"no"),
    )
    assert broughthome.notebooks(io.BytesIO(data)) == [("b.ipynb", b"b"), ("deep/a.ipynb", b"a")]


def test_too_many_and_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broughthome, "MAX_NOTEBOOK_BYTES", 10)
    monkeypatch.setattr(broughthome, "MAX_NOTEBOOKS_BYTES", 15)
    monkeypatch.setattr(broughthome, "MAX_NOTEBOOKS", 3)
    sizes = {"a": 11, "b": 8, "c": 8, "d": 5, "e": 1, "f": 1}
    data = archive(*((f"x/{name}.ipynb", b"." * size) for name, size in sizes.items()))
    assert [name for name, _ in broughthome.notebooks(io.BytesIO(data))] == ["b.ipynb", "d.ipynb", "e.ipynb"]


def test_of_too_many_members_the_first_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broughthome, "MAX_MEMBERS", 3)
    data = archive(*((f"x/{name}", b"") for name in ("a.txt", "b.ipynb", "c.txt", "d.ipynb")))
    assert broughthome.notebooks(io.BytesIO(data)) == [("b.ipynb", b"")]


def header(kind: bytes, size: int) -> bytes:
    """A member's header, as only a forger would write it."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_very_long_header_is_not_read(kind: bytes) -> None:
    with pytest.raises(Failed, match="can't be read") as error:
        broughthome.notebooks(io.BytesIO(header(kind, 1 << 30) + bytes(5000)))
    assert "with 1073741824 bytes" in error.value.operator


def test_header_upon_header_is_no_archive() -> None:
    with pytest.raises(Failed, match="can't be read") as error:
        broughthome.notebooks(io.BytesIO(header(tarfile.XHDTYPE, 0) * 3000))
    assert "recursion" in error.value.operator


@pytest.mark.parametrize("data", [b"", b"no archive at all" * 100, archive(("x/a.ipynb", b"." * 5000))[:2000]])
def test_what_is_no_archive(data: bytes) -> None:
    with pytest.raises(Failed, match="can't be read") as error:
        broughthome.notebooks(io.BytesIO(data))
    assert "tar archive" in error.value.operator
