"""Bursts of copy requests: few runs, nobody waits for a stranger, one student's failure is that student's alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.copying import Desk, own_workshop, settings_for
from tests.support import wait_until
from wodmail import ansible_run
from wodmail.copyfolder.job import Job
from wodmail.errors import Failed
from wodmail.model import Action, JobSpec
from wodmail.playbooks import CopyResult, _Work


def test_fifty_requests_in_a_burst_take_few_runs_and_fail_apart(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    failed: dict[int, str] = {}

    def one(student: int) -> None:
        try:
            desk.copy("WKSHP-Some101", student)
        except Failed as error:
            failed[student] = error.sender

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(one, range(1, 51)))
    assert list(failed) == [7]
    assert "0-ReadMeFirst.ipynb line 8: the variable ONLY_SEVEN_LACKS_IT is not defined" in failed[7]
    for student in set(range(1, 51)) - {7}:
        made = (desk.home(student) / "WKSHP-Some101/0-ReadMeFirst.ipynb").read_text()
        assert f'"# Student {student}\\n"' in made
    assert not (desk.home(7) / "WKSHP-Some101").exists()
    assert desk.launcher.started <= 15


class Stage:
    """Stands in for ansible_run.play: each run waits until the test lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[tuple[str, tuple[int, ...], int]] = []
        self.gates: dict[str, threading.Semaphore] = {}
        monkeypatch.setattr(ansible_run, "play", self._play)

    def _play(self, job: Job, _settings: object, _children: object, number: int) -> dict[int, ansible_run.Outcome]:
        self.runs.append((job.challenge, job.students, number))
        assert self.gates.setdefault(job.challenge, threading.Semaphore(0)).acquire(timeout=20)
        return {student: ansible_run.Outcome(1, 1, "fine") for student in job.students}

    def let(self, workshop: str, runs: int = 1) -> None:
        self.gates.setdefault(workshop, threading.Semaphore(0)).release(runs)


def test_a_lone_request_runs_at_once_and_the_rest_gathers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, desk = Stage(monkeypatch), Desk(settings_for(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(desk.copy, "WKSHP-A", 1)
        wait_until(lambda: stage.runs, what="the first run")
        rest = [pool.submit(desk.copy, "WKSHP-A", student) for student in (2, 3, 4)]
        wait_until(lambda: len(desk.playbooks._queues[_Work("WKSHP-A")]) == 3, what="three waiting")
        stage.let("WKSHP-A")
        assert first.result(timeout=20) == CopyResult(1, 1, "fine")
        wait_until(lambda: len(stage.runs) == 2, what="the second run")
        assert not any(future.done() for future in rest)
        stage.let("WKSHP-A")
        assert [future.result(timeout=20).note for future in rest] == ["fine"] * 3
    assert [(run[0], sorted(run[1])) for run in stage.runs] == [("WKSHP-A", [1]), ("WKSHP-A", [2, 3, 4])]
    # A run of one belongs to its job, so that ending the job ends it; a run of several belongs to nobody.
    assert [run[2] for run in stage.runs] == [1, 0]


def test_another_workshop_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, desk = Stage(monkeypatch), Desk(settings_for(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(desk.copy, "WKSHP-A", student) for student in (1, 2, 3)]
        wait_until(lambda: stage.runs, what="a run of the first workshop")
        stage.let("WKSHP-B")
        assert pool.submit(desk.copy, "WKSHP-B", 9).result(timeout=20).note == "fine"
        assert not any(future.done() for future in slow)
        stage.let("WKSHP-A", 3)
        assert [future.result(timeout=20).note for future in slow] == ["fine"] * 3


def test_runs_that_compile_gather_by_workshop_and_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, desk = Stage(monkeypatch), Desk(settings_for(tmp_path))

    def compile_(student: int, *scripts: str) -> CopyResult:
        spec = JobSpec(request=1, job=student, action=Action.CREATE, students=(student,), workshop="WKSHP-A")
        return desk.playbooks.compile_scripts(spec, student, scripts, None, desk.lines.append)

    with ThreadPoolExecutor(8) as pool:
        first = [pool.submit(compile_, 1, "a.sh")]
        wait_until(lambda: stage.runs, what="the first run")
        first += [pool.submit(compile_, student, "a.sh") for student in (2, 3)]
        wait_until(lambda: len(desk.playbooks._queues[_Work("WKSHP-A", ("a.sh",))]) == 2, what="two waiting")
        others = [pool.submit(compile_, 4, "b.sh")]  # as many runs at once as there are slots, at least two
        stage.let("WKSHP-A", 4)
        assert [each.result(timeout=20).note for each in first + others] == ["fine"] * 4
    assert sorted(sorted(run[1]) for run in stage.runs) == [[1], [2, 3], [4]]


def test_an_error_of_the_whole_run_reaches_everybody_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(settings_for(tmp_path))
    entered, go = threading.Event(), threading.Event()

    def broken(job: Job, *_: object) -> dict[int, ansible_run.Outcome]:
        entered.set()
        assert go.wait(20)
        raise Failed("no room", f"for {len(job.students)}")

    monkeypatch.setattr(ansible_run, "play", broken)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(desk.copy, "WKSHP-A", 1)]
        assert entered.wait(20)
        futures += [pool.submit(desk.copy, "WKSHP-A", student) for student in (2, 3)]
        wait_until(lambda: len(desk.playbooks._queues[_Work("WKSHP-A")]) == 2, what="two waiting")
        go.set()
        errors = [future.exception(timeout=20) for future in futures]
    assert [getattr(error, "operator", "") for error in errors] == ["for 1", "for 2", "for 2"]
    assert len({id(error) for error in errors}) == 3
    assert desk.playbooks._queues == {}


HOOK_BEFORE = """---
- name: Set what the templates want
  ansible.builtin.set_fact:
    set_before: "{{ STDID }} {{ MODEWS }} {{ DIR }} {{ COLOUR }} {{ PASSSTU | default('no password') }}"
- name: Leave a file in the workshop's folder
  ansible.builtin.copy:
    content: "{{ STDID }}"
    dest: "{{ WODSTUDDIR }}/student{{ STDID }}/{{ DIR }}/made-before.txt"
    mode: "0644"
"""
HOOK_AFTER = """---
- name: Fail for one student
  ansible.builtin.fail:
    msg: "no luck for {{ STDID }}"
  when: STDID | int == 3
- name: Count
  ansible.builtin.lineinfile:
    path: "{{ COUNTS }}"
    line: "after {{ STDID }}"
    create: true
    mode: "0644"
  throttle: 1
"""


def test_private_task_files_run_once_a_student_in_a_run_for_many(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    settings = settings_for(tmp_path, COUNTS=str(counts), COLOUR="green")
    (tmp_path / "private/pre_templating.yml").write_text(HOOK_BEFORE)
    (tmp_path / "private/post_templating.yml").write_text(HOOK_AFTER)
    secret = tmp_path / "pass2.yml"
    secret.write_text("PASSSTU: only-two\n")
    desk = Desk(settings)
    job = ansible_run_job(desk, (1, 2, 3), {2: str(secret)})
    found = ansible_run.play(job, settings, desk.launcher, 0)
    assert {student: outcome.error for student, outcome in found.items()} == {
        1: "",
        2: "",
        3: "the private task 'Fail for one student' failed: no luck for 3",
    }
    for student, word in {1: "no password", 2: "only-two", 3: "no password"}.items():
        folder = desk.home(student) / "WKSHP-Hooks101"
        expected = f"From before: {student} WKSHP WKSHP-Hooks101 green {word}"
        assert expected in (folder / "0-ReadMeFirst.ipynb").read_text()
        assert (folder / "made-before.txt").read_text() == str(student)
    assert sorted(counts.read_text().splitlines()) == ["after 1", "after 2"]
    assert desk.launcher.started == 1


def ansible_run_job(desk: Desk, students: tuple[int, ...], pass_files: dict[int, str]) -> Job:
    from wodmail.copyfolder.request import from_settings

    return from_settings(desk.settings, students=students, challenge="WKSHP-Hooks101", writer=(), pass_files=pass_files)


def test_a_hanging_private_task_file_is_ended_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"echo $$ > {mark}; exec sleep 600"
    task = [{"name": "Hang", "ansible.builtin.command": {"argv": ["sh", "-c", script]}}]
    (tmp_path / "private").mkdir(exist_ok=True)
    (tmp_path / "private/pre_templating.yml").write_text(str(task))
    for seconds in (6, 60):  # the longer one where a slow machine has not come to the script in the shorter
        desk = Desk(settings_for(tmp_path, WODSTEPTIMEOUT=seconds))
        with pytest.raises(Failed, match=f"took longer than {seconds} s"):
            desk.copy("WKSHP-Small101")
        if mark.exists() and mark.read_text():
            break
    pid = int(mark.read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of what the hook started")
    assert not Path(f"/proc/{pid}").exists()


def test_a_daemon_left_by_a_private_task_file_does_not_hold_the_run_up(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"setsid sleep 600 & echo $! > {mark}"
    task = [
        {"name": "Leave a daemon", "ansible.builtin.command": {"argv": ["sh", "-c", script]}, "async": 5, "poll": 0}
    ]
    own = own_workshop(tmp_path / "books", "WKSHP-Daemon101", {"a.py": b"{{ STDID }}"})
    desk = Desk(settings_for(tmp_path, WODSTEPTIMEOUT=60, WODNOBO=own))
    (tmp_path / "private/post_templating.yml").write_text(str(task))
    assert desk.copy("WKSHP-Daemon101").files == 1
    wait_until(lambda: not mark.exists() or not Path(f"/proc/{int(mark.read_text() or 0)}").exists(), what="its end")
    assert (desk.home() / "WKSHP-Daemon101/a.py").read_text() == "7"
