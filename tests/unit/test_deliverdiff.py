"""Diffs of what is delivered show no secret, not even one that was replaced."""

from __future__ import annotations

from pathlib import Path

from wodmail import deliverdiff
from wodmail.logs import Masker

FILE = Path("/scripts/a.sh")


def told(old: tuple[str, int] | None, new: tuple[str, int]) -> str:
    masker = Masker()
    masker.register("new-4711")
    before = None if old is None else (old[0].encode(), old[1])
    return deliverdiff.diff(FILE, before, (new[0].encode(), new[1]), masker)


def test_plain_files_are_shown_whole() -> None:
    text = told(("one\ntwo\n", 0o755), ("one\nthree\n", 0o755))
    assert text.splitlines() == ["--- /scripts/a.sh", "+++ /scripts/a.sh", "@@ -1,2 +1,2 @@", " one", "-two", "+three"]
    assert told(("one\n", 0o755), ("one\n", 0o755)) == ""
    assert told(None, ("one\n", 0o755)).splitlines()[:2] == ["--- /dev/null", "+++ /scripts/a.sh"]


def test_a_replaced_secret_is_not_shown() -> None:
    old = "export TOKEN=old-1234 # hub\nkept\ngone line with old-1234\n"
    text = told((old, 0o750), ("export TOKEN=new-4711 # hub\nkept\nadded\n", 0o750))
    assert "old-1234" not in text
    assert "new-4711" not in text
    assert "export TOKEN=**** # hub" in text
    assert f"-{deliverdiff.HIDDEN}" in text
    assert "+added" in text


def test_only_a_secret_differs() -> None:
    text = told(("TOKEN=old-1234\n", 0o750), ("TOKEN=new-4711\n", 0o750))
    assert text == "/scripts/a.sh: only lines that hold secrets differ"


def test_modes_and_links() -> None:
    assert told(("one\n", 0o755), ("one\n", 0o750)) == "/scripts/a.sh: mode 0755 -> 0750"
    assert "mode of another kind of file -> 0755" in told(("", -1), ("one\n", 0o755))


def test_a_long_diff_is_cut() -> None:
    text = told(None, ("line\n" * 1000, 0o755))
    assert len(text.splitlines()) == deliverdiff.MOST_LINES + 1
    assert text.endswith("more lines")
