"""What root runs must be root's: whole trees, what is above them, and links on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wodmail import maintenance, paths, treetrust
from wodmail.errors import ConfigError
from wodmail.schema import Settings

pytestmark = pytest.mark.root
NOBODY = 65534


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree as git leaves it for root; 0700 and root's above."""
    folder = tmp_path / "site" / "tree"
    (folder / "group_vars").mkdir(parents=True)
    (folder / "group_vars" / "all.yml").write_text("A: 1\n")
    (folder / "play.yml").write_text("- hosts: all\n  gather_facts: false\n  tasks: []\n")
    return folder


def strangers(tree: Path) -> list[str]:
    return [each.name for each in treetrust.strangers(tree)]


def test_roots_own(tree: Path) -> None:
    (tree / "play.yml").chmod(0o664)
    (tree / "group_vars" / "production").mkdir()
    (tree / "link").symlink_to("play.yml")
    assert strangers(tree) == []
    assert strangers(tree / "absent") == []


def test_what_others_can_change(tree: Path) -> None:
    (tree / "play.yml").chmod(0o646)
    os.chown(tree / "group_vars" / "all.yml", NOBODY, -1)
    assert sorted(strangers(tree)) == ["all.yml", "play.yml"]
    (tree / "play.yml").chmod(0o664)
    os.chown(tree / "play.yml", 0, NOBODY)
    assert sorted(strangers(tree)) == ["all.yml", "play.yml"]
    os.chown(tree.parent, NOBODY, -1)
    assert "site" in strangers(tree)
    assert "site" in strangers(tree / "group_vars")


def test_a_folder_that_was_passed_through_is_still_looked_into(tree: Path) -> None:
    os.chown(tree / "play.yml", NOBODY, -1)
    seen: set[tuple[Path, bool]] = set()
    assert list(treetrust.strangers(tree / "group_vars", seen)) == []
    assert list(treetrust.strangers(tree, seen)) == [tree / "play.yml"]


def test_passwords_that_wodmail_keeps_are_data(tree: Path) -> None:
    (tree / "production" / "pass").mkdir(parents=True)
    os.chown(tree / "production" / "pass", NOBODY, -1)
    (tree / "vault_secret").touch()
    os.chown(tree / "vault_secret", NOBODY, -1)
    assert strangers(tree) == []


def test_links_on_the_way_and_where_they_lead(tree: Path, tmp_path: Path) -> None:
    """Who owns the folder of a link can turn it elsewhere; who owns its target has what it leads to."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "tree").symlink_to(tree)
    assert strangers(home / "tree" / "group_vars") == []
    os.chown(home, NOBODY, -1)
    assert strangers(home / "tree" / "group_vars") == ["home"]
    (home / "plugins").mkdir()
    (home / "plugins" / "evil.py").touch()
    (tree / "action_plugins").symlink_to(home / "plugins")
    assert strangers(tree) == ["home"]
    os.chown(home, 0, -1)
    os.chown(home / "plugins" / "evil.py", NOBODY, -1)
    assert strangers(tree) == ["evil.py"]
    (tree / "round").symlink_to(tree)
    assert strangers(tree) == ["evil.py"]


def test_a_playbook_that_others_can_change_is_not_run(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was run")

    monkeypatch.setattr(maintenance, "_run", never)
    private = tree.parent / "private"
    private.mkdir()
    os.chown(private, NOBODY, -1)
    settings = Settings(WODANSIBLEDIR=tree, WODANSIBLEPRIVDIR=private, WODUSER="wodadmin")
    for check in (True, False):
        with pytest.raises(ConfigError) as error:
            maintenance.play(settings, "play", check=check)
    words = str(error.value)
    assert f"{private}: belongs to " in words
    assert "chown -R root:wodadmin" in words
    assert "WODTRUSTTREES" in words
    treetrust.demand(settings.model_copy(update={"WODTRUSTTREES": False}), [private])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    treetrust.demand(settings, [private])


def test_whatever_a_check_loads_is_looked_at(tree: Path) -> None:
    """Playbooks, templates of sys/, and procmail's recipes, which root's controller expands."""
    settings = Settings.model_validate({"WODBEDIR": tree})
    for name in ("ansible", "sys", "procmail"):
        file = tree / name / "file.j2"
        file.parent.mkdir()
        file.touch()
        treetrust.demand(settings, treetrust.of_play(settings, settings.WODANSIBLEDIR / "check_backend.yml"))
        os.chown(file, NOBODY, -1)
        with pytest.raises(ConfigError, match=f"{name}/file.j2: belongs to"):
            treetrust.demand(settings, treetrust.of_play(settings, settings.WODANSIBLEDIR / "check_backend.yml"))
        os.chown(file, 0, -1)


def test_wodmails_own_files_are_not_asked_about(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tree / "play.yml", NOBODY, -1)
    monkeypatch.setattr(paths, "root", lambda: tree.parent)
    treetrust.demand(Settings(), [tree])
    home = tree.parent.parent / "home"
    home.mkdir()
    os.chown(home, NOBODY, -1)
    (home / "link").symlink_to(tree)
    for way in (home / "link", tree / ".." / ".." / "home"):
        with pytest.raises(ConfigError, match="home: belongs to"):
            treetrust.demand(Settings(), [way])
    monkeypatch.setattr(paths, "root", lambda: tree / "elsewhere")
    with pytest.raises(ConfigError, match=r"play\.yml: belongs to"):
        treetrust.demand(Settings(), [tree])


def test_a_folder_that_all_may_write_is_good_above_but_not_inside(tree: Path) -> None:
    tree.chmod(0o1777)
    assert strangers(tree / "group_vars") == []
    assert strangers(tree) == ["tree"]
    seen: set[tuple[Path, bool]] = set()
    assert [each.name for at in (tree / "group_vars", tree) for each in treetrust.strangers(at, seen)] == ["tree"]
