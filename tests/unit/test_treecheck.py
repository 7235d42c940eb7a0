"""The check's look at trees that root runs: write bits of root's own files are mended, all else is told."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from wodmail import treecheck, treetrust

pytestmark = pytest.mark.root
NOBODY = 65534


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of root's."""
    folder = tmp_path / "site" / "tree"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "create.sh.j2").write_text("text\n")
    (folder / "play.yml").write_text("[]\n")
    return folder


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_write_bits_of_roots_own_are_mended(tree: Path) -> None:
    (tree / "play.yml").chmod(0o666)
    os.chown(tree / "scripts", 0, NOBODY)
    (tree / "scripts").chmod(0o2775)
    found = treecheck.look([tree])
    assert found.open == [str(tree / "scripts"), str(tree / "play.yml")]
    assert (found.foreign, found.above) == ([], [])
    assert mode(tree / "play.yml") == 0o666
    assert treecheck.look([tree, tree / "scripts"], mend=True) == found
    assert (mode(tree / "play.yml"), mode(tree / "scripts")) == (0o644, 0o2755)
    assert treecheck.look([tree]) == treecheck.Looked()


def test_what_others_own_is_told_and_left_alone(tree: Path) -> None:
    (tree / "scripts" / "create.sh.j2").chmod(0o666)
    for path in (tree / "scripts", tree / "play.yml"):
        os.chown(path, NOBODY, -1)
    (tree / "link").symlink_to("/dev/null")
    os.chown(tree / "link", 4242, -1, follow_symlinks=False)
    found = treecheck.look([tree], mend=True)
    assert sorted(found.foreign) == [
        f"{tree}/link (uid 4242)",
        f"{tree}/play.yml (nobody)",
        f"{tree}/scripts (nobody)",
    ]
    assert found.open == []
    assert (mode(tree / "scripts" / "create.sh.j2"), (tree / "play.yml").stat().st_uid) == (0o666, NOBODY)
    os.chown(tree, NOBODY, -1)
    assert treecheck.look([tree]).foreign == [f"{tree} (nobody)"]


def test_passwords_are_data(tree: Path) -> None:
    """The vault's password is 0600 and WODUSER's, as docs/variables.md asks, or 0640 and root's."""
    (tree / "production" / "pass").mkdir(parents=True)
    (tree / "vault_secret").write_text("word\n")
    for path in (tree / "vault_secret", tree / "production" / "pass"):
        path.chmod(0o600)
        os.chown(path, NOBODY, NOBODY)
    assert treecheck.look([tree], mend=True) == treecheck.Looked()
    assert (tree / "vault_secret").stat().st_uid == NOBODY


def test_a_link_to_what_is_open_is_not_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o666)
    (tree / "link").symlink_to(outside)
    assert treecheck.look([tree], mend=True) == treecheck.Looked()
    assert mode(outside) == 0o666


def test_folders_above(tree: Path) -> None:
    os.chown(tree.parent, NOBODY, -1)
    assert treecheck.look([tree, tree / "scripts"]).above == [f"{tree.parent} (nobody)"]
    os.chown(tree.parent, 0, -1)
    tree.parent.chmod(0o1777)
    assert treecheck.look([tree]).above == []
    tree.parent.chmod(0o777)
    assert treecheck.look([tree], mend=True).above == [str(tree.parent)]
    assert mode(tree.parent) == 0o777, "only told"


def test_it_agrees_with_what_root_refuses_to_run(tree: Path) -> None:
    (tree / "play.yml").chmod(0o622)
    os.chown(tree / "scripts", NOBODY, -1)
    found = treecheck.look([tree])
    told = {*found.open, *(name.partition(" (")[0] for name in found.foreign)}
    refused = {str(path) for path in treetrust.strangers(tree)}
    assert told == refused == {str(tree / "play.yml"), str(tree / "scripts")}
    treecheck.look([tree], mend=True)
    assert {path.name for path in treetrust.strangers(tree)} == {"scripts"}


def test_as_the_item_calls_it(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "play.yml").chmod(0o646)
    treecheck.main(["--mend", str(tree), str(tree / "absent")])
    told = {"version": 1, "open": [str(tree / "play.yml")], "foreign": [], "above": []}
    assert json.loads(capsys.readouterr().out) == told
    assert mode(tree / "play.yml") == 0o644
