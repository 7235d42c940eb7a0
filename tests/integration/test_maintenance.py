"""Playbooks run for an operator: layers of variables, secrets, what is told, what is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import wait_until
from wodmail import maintenance, processes
from wodmail.errors import Failed
from wodmail.maintenance import Played, play
from wodmail.schema import Settings

PLAYBOOK = """---
- name: Trial
  hosts: production
  gather_facts: false
  tasks:
    - name: Write what the variables are
      ansible.builtin.copy:
        content: "{{ [WODSENDER, FIRST, SECOND, THIRD, FOURTH, WODBETOKEN] | to_json }}"
        dest: "{{ OUT }}"
        mode: "0600"
      tags: [item_first]
    - name: Several
      tags: [item_second]
      block:
        - name: Nothing to do
          ansible.builtin.debug:
            msg: "token {{ WODBETOKEN }}"
        - name: Skipped
          ansible.builtin.debug:
            msg: never
          when: false
"""


def site(folder: Path, playbook: str = PLAYBOOK) -> Settings:
    """A backend with public and private group_vars and one playbook."""
    public, private = folder / "public" / "ansible", folder / "private" / "ansible"
    for place in (public, private):
        (place / "group_vars").mkdir(parents=True)
    (public / "trial.yml").write_text(playbook)
    (public / "inventory").write_text("[production]\n127.0.0.1 ansible_connection=local\n")
    (public / "group_vars" / "production").write_text("WODSENDER: of-group\nFIRST: public\nSECOND: public\n")
    (private / "group_vars" / "production").write_text("SECOND: private\nTHIRD: private\n")
    return Settings.model_validate(
        {
            "WODBEDIR": public.parent,
            "WODPRIVDIR": private.parent,
            "WODSTATEDIR": folder / "state",
            "WODSENDER": "of-configuration",
            "WODBETOKEN": "token-that-is-secret",
            "FIRST": "configuration",
            "FOURTH": "configuration",
        }
    )


def run(settings: Settings, out: Path, *, check: bool = False, diff: bool = False) -> Played:
    return play(settings, "trial", check=check, diff=diff, variables={"OUT": str(out)}, timeout=120)


def test_layers_of_variables_and_tasks_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "MEMORY", tmp_path / "absent")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings, out, told = site(tmp_path), tmp_path / "out", []
    audit = run(settings, out, check=True, diff=True)
    assert not out.exists()
    assert [(task.item, task.status) for task in audit.tasks] == [
        ("first", "changed"),
        ("second", "ok"),
        ("second", "skipped"),
    ]
    assert '+["of-group"' in audit.tasks[0].diff
    done = play(settings, "trial", variables={"OUT": str(out)}, on_task=lambda task: told.append(task.name))
    assert json.loads(out.read_text()) == [
        "of-group",
        "public",
        "private",
        "private",
        "configuration",
        "token-that-is-secret",
    ]
    assert (done.status, done.changed) == (0, 1)
    assert told == ["Write what the variables are", "Nothing to do", "Skipped"]
    assert "token-that-is-secret" not in repr(done) + repr(audit)
    assert list(tmp_path.glob("wodmail-play-*")) == []


def test_failures_are_told(tmp_path: Path) -> None:
    broken = PLAYBOOK.replace('dest: "{{ OUT }}"', "dest: /dev/null/nothing/there")
    done = run(site(tmp_path, broken), tmp_path / "out")
    assert done.status == 2
    assert done.tasks[-1].status == "failed"
    assert done.tasks[-1].message
    assert done.tasks[-1].item == "first"


SILENT = """---
- name: Trial
  hosts: production
  gather_facts: false
  tasks:
    - name: Alone
      ansible.builtin.copy: {content: "word-of-{{ OUT }}", dest: "{{ OUT }}", mode: "0600"}
      no_log: true
    - name: Loop
      ansible.builtin.copy: {content: "word-of-{{ OUT }}", dest: "{{ OUT }}-{{ item }}", mode: "0600"}
      loop: [a, b]
      no_log: true
"""


def test_changes_of_tasks_that_say_nothing_are_told(tmp_path: Path) -> None:
    settings = site(tmp_path, SILENT)
    first, second = (run(settings, tmp_path / "out") for _ in range(2))
    assert ([task.status for task in first.tasks], first.changed) == (["changed", "changed"], 2)
    assert [task.status for task in second.tasks] == ["ok", "ok"]
    assert "word-of" not in repr(first)


def test_no_such_playbook(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"no playbook absent\.yml"):
        play(site(tmp_path), "absent")


def test_timeout_ends_the_run(tmp_path: Path) -> None:
    slow = PLAYBOOK.replace("ansible.builtin.copy:", "ansible.builtin.pause:\n        seconds: 600\n      vars:")
    slow = slow.replace("content:", "a:").replace("dest:", "b:").replace("mode:", "c:")
    with pytest.raises(Failed, match="took longer than 3 s"):
        play(site(tmp_path, slow), "trial", variables={"OUT": "x"}, timeout=3)
    # Each of ansible's workers leads a session of its own; none of them is left.
    here = str(tmp_path).encode()
    wait_until(lambda: not [each for each in processes.table() if here in _command_line(each.pid)], what="their end")


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_folders_of_killed_runs_are_swept(tmp_path: Path) -> None:
    dead, alive = tmp_path / f"{maintenance.PREFIX}999999999-1-x", tmp_path / f"{maintenance._mark()}y"
    dead.mkdir()
    alive.mkdir()
    maintenance.sweep(tmp_path)
    assert (dead.exists(), alive.exists()) == (False, True)
