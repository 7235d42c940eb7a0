"""Private tasks of a check: what can't be loaded fails its item with the reason, and stops no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parts import require
from wodmail import checkrun, paths
from wodmail.checking import Item, Verdict
from wodmail.checkrun import Checked
from wodmail.cli.check import as_data
from wodmail.schema import Settings

PLAYBOOK = """---
- name: Trial
  hosts: all
  gather_facts: false
  vars:
    wod_failed: []
    wod_check_skip: []
  tasks:
    - name: Private
      ansible.builtin.import_tasks: tasks/private.yml
    - name: Users
      tags: [item_users]
      ansible.builtin.debug:
        msg: looked at
    - name: Fail when something could not be done
      tags: [always]
      ansible.builtin.import_tasks: tasks/verdict.yml
"""
FINE = """---
- name: A file of this site
  ansible.builtin.debug:
    msg: "{{ WODTYPE }}"
- name: More, found while it runs
  ansible.builtin.import_tasks: more.yml
- name: More again
  ansible.builtin.import_tasks: "{{ playbook_dir }}/../../private/ansible/more.yml"
"""
MORE = "- name: More\n  ansible.builtin.debug:\n    msg: more\n"


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    """A backend whose check is the private tasks and one item after them."""
    require("ansible")
    public, private = tmp_path / "public/ansible", tmp_path / "private/ansible"
    public.mkdir(parents=True)
    private.mkdir(parents=True)
    (public / "check_backend.yml").write_text(PLAYBOOK)
    (private / "more.yml").write_text(MORE)
    for name in ("tasks", "action_plugins"):
        (public / name).symlink_to(paths.share("ansible") / name)
    return Settings.model_validate(
        {"WODBEDIR": public.parent, "WODPRIVDIR": private.parent, "WODSTATEDIR": tmp_path / "state"}
    )


def check(site: Settings, text: str) -> tuple[Checked, dict[str, Item]]:
    """The check with this private file; its items by their id."""
    assert site.WODANSIBLEPRIVDIR is not None
    (site.WODANSIBLEPRIVDIR / "check_backend.yml").write_text(text)
    done = checkrun.run(site, Path("/etc/wod.yml"), seconds=120)
    return done, {item.id: item for item in done.items}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- name: Bad\n  ansible.builtin.debug: {msg: [1\n", "check_backend.yml"),
        ("- hosts: all\n  tasks: []\n", "hosts"),
        ("- name: Unknown\n  no.such.module:\n    a: 1\n", "no.such.module"),
        ("a: 1\n", "list of tasks"),
        ("- 1\n", ""),
        ("- name: Lost\n  ansible.builtin.import_tasks: lost.yml\n", "lost.yml"),
    ],
)
def test_a_file_that_cannot_be_loaded_fails_and_stops_nothing(site: Settings, text: str, words: str) -> None:
    done, items = check(site, text)
    assert (done.status, items["private"].verdict, items["users"].verdict) == (1, Verdict.FAILED, Verdict.OK), done
    told = " ".join(items["private"].what)
    assert words in told and "can be loaded" in told, told


def test_a_file_that_can_be_loaded_is_run(site: Settings) -> None:
    done, items = check(site, FINE)
    assert (done.status, items["private"].verdict, items["users"].verdict) == (0, Verdict.OK, Verdict.OK), done.items
    assert as_data(done, audit=False)["text"] == ""


def test_what_ends_the_whole_run_is_told(site: Settings) -> None:
    """A file that the private one includes while it runs is seen too late: Ansible ends there."""
    done, items = check(site, "- name: Later\n  ansible.builtin.include_tasks: '{{ WODANSIBLEPRIVDIR }}/broken.yml'\n")
    assert items["private"].verdict is Verdict.FAILED
    assert site.WODANSIBLEPRIVDIR is not None
    (site.WODANSIBLEPRIVDIR / "broken.yml").write_text("- hosts: all\n")
    done, items = check(site, "- name: Later\n  ansible.builtin.include_tasks: '{{ WODANSIBLEPRIVDIR }}/broken.yml'\n")
    assert (done.status, items["private"].verdict, "users" in items) == (1, Verdict.FAILED, False)
    told = " ".join(items["private"].what)
    assert "the check ended here" in told and "hosts" in told, told
    data = json.loads(json.dumps(as_data(done, audit=False)))
    assert "hosts" in data["text"]
