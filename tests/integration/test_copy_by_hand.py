"""copy_folder.yml started by a person with ansible-playbook."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.copying import WORKSHOPS, settings_for
from wodmail import paths

OWN = paths.share("ansible")


def play(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    settings_for(tmp_path)
    program = Path(sys.executable).with_name("ansible-playbook")
    config = tmp_path / "wod.yml"
    config.write_text(
        f"WODSANDBOX: true\nWODSTATEDIR: {tmp_path}/state\nWODSTUDDIR: {tmp_path}/homes\n"
        f"WODNOBO: {WORKSHOPS}\nWODANSIBLEPRIVDIR: {tmp_path}/private\nBRANDINGWOD: File\n"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "WOD_CONFIG": str(config), "LANG": "C.UTF-8"}
    argv = [str(program), "-i", str(OWN / "inventory"), str(OWN / "copy_folder.yml"), *options]
    return subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_several_students_by_hand_and_the_command_line_wins(tmp_path: Path) -> None:
    extra = ["-e", "STDID=3,4", "-e", "WORKSHOP=WKSHP-Small101", "-e", "BRANDINGWOD=Mine"]
    extra += ["-e", "{'IP-WKSHP-Small101': '10.0.0.1'}"]
    done = play(tmp_path, *extra)
    assert done.returncode == 0, done.stdout + done.stderr
    for student in (3, 4):
        book = (tmp_path / f"homes/student{student}/WKSHP-Small101/0-ReadMeFirst.ipynb").read_text()
        assert f"# Student {student} of Mine" in book


def test_a_challenge_by_hand_with_private_task_files(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/pre_templating.yml").write_text(
        "- name: Set\n  ansible.builtin.set_fact:\n    set_before: '{{ STDID }}/{{ CHALLENGE }}'\n"
    )
    done = play(tmp_path, "-e", "STUDENTS=3,4", "-e", "CHALLENGE=CHLG-Hooks101")
    assert done.returncode == 0, done.stdout + done.stderr
    for student in (3, 4):
        book = (tmp_path / f"homes/student{student}/WKSHP-Hooks101/0-ReadMeFirst.ipynb").read_text()
        assert f"From before: {student}/CHLG-Hooks101" in book


def test_mistakes_by_hand_are_told(tmp_path: Path) -> None:
    for options, words in {
        ("-e", "WORKSHOP=WKSHP-Small101"): "are no student numbers",
        ("-e", "STDID=3"): "give -e STDID=121",
        ("-e", "STDID=3", "-e", "WORKSHOP=../x"): "is no workshop",
        ("-e", "STDID=3", "-e", "WORKSHOP=WKSHP-Undefined101"): "the variable LABROOM is not defined",
    }.items():
        done = play(tmp_path, *options)
        assert done.returncode == 2
        assert words in done.stdout + done.stderr
