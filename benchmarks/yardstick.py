"""The yardstick: ansible-playbook with 20 trivial command tasks and no facts, on the machine of the moment."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.figures import timed
from benchmarks.site import program

TASKS = 20
PLAY = """\
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
"""


def measure(folder: Path, runs: int) -> list[float]:
    """Seconds of each run.

    Args:
        folder: where the playbook is put; made.
        runs: how often.
    """
    folder.mkdir(parents=True)
    play = folder / "yardstick.yml"
    tasks = "".join(f"    - name: Task {n}\n      ansible.builtin.command: /bin/true\n" for n in range(TASKS))
    play.write_text(PLAY + tasks, encoding="utf-8")
    argv = [program("ansible-playbook"), "-i", "localhost,", str(play)]
    return [timed(lambda: subprocess.run(argv, cwd=folder, check=True, capture_output=True)) for _ in range(runs)]
