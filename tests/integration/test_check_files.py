"""What the checks put on a machine: shell files are clean, wod_copy does what ansible.builtin.copy does."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.parts import require
from wodmail import checkrun, maintenance, paths, rendering
from wodmail.maintenance import TaskResult
from wodmail.schema import Settings
from wodmail.students import base

DOCS = Path(__file__).parents[2] / "docs"
NOBODY = pwd.getpwnam("nobody")
PLAYBOOK = """---
- name: Trial
  hosts: production
  gather_facts: false
  tasks:
    - name: Text
      wod_copy: {content: "text\\n", dest: "{{ OUT }}/text", mode: "0640", validate: /bin/sh -n %s}
    - name: File
      wod_copy: {src: "{{ playbook_dir }}/trial.yml", dest: "{{ OUT }}/file", mode: "0600"}
    - name: Kept as a copy
      wod_copy: {content: "new", dest: "{{ OUT }}/old", mode: "0600", backup: true}
    - name: Not valid
      wod_copy: {content: "if then", dest: "{{ OUT }}/bad", mode: "0600", validate: /bin/sh -n %s}
      ignore_errors: true
"""


def defaults() -> dict[str, Any]:
    """The defaults of the checks."""
    text = (paths.share("ansible") / "roles/wod/defaults/main.yml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


@pytest.mark.parametrize("name", ["wod-limits.sh.j2", "wod-editor.sh.j2", "wod-utility.sh.j2"])
def test_shellcheck_of_what_is_put_there(tmp_path: Path, name: str) -> None:
    given = {"ansible_playbook_python": "/opt/wodmail/bin/python", "item": "wod-deliver.sh"}
    variables = {**Settings().variables(), **defaults(), **given}
    file = tmp_path / name.removesuffix(".j2")
    file.write_text(rendering.render(paths.share("sys") / name, variables))
    done = subprocess.run([require("shellcheck"), str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


OLD_NAMES = (
    "cleanup-processes.sh",
    "wod-cleanup-users.sh",
    "wod-deliver.sh",
    "wod-generate-pdf.sh",
    "wod-kill-processes.pl",
    "wod-test-action.sh",
    "wod-upd.sh",
)


@pytest.mark.parametrize("name", OLD_NAMES)
def test_an_old_name_starts_the_program(tmp_path: Path, name: str) -> None:
    programs = Path(sys.executable).parent
    given = {"ansible_playbook_python": sys.executable, "wod_programs": str(programs), "item": name}
    file = tmp_path / name
    variables = {**Settings().variables(), **defaults(), **given}
    file.write_text(rendering.render(paths.share("sys") / "wod-utility.sh.j2", variables))
    done = subprocess.run(["/bin/sh", str(file), "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.lower().startswith(f"usage: {defaults()['wod_utilities'][name]} ")


def test_every_old_name_is_tried() -> None:
    assert set(defaults()["wod_utilities"]) == set(OLD_NAMES)


def test_limits_of_a_login_are_silent_where_they_are_not_allowed(tmp_path: Path) -> None:
    """In bash and in dash, for a user who may have no more than there is."""
    variables = {**Settings.model_validate({"WODUSER": "root"}).variables(), **defaults()}
    file = tmp_path / "limits.sh"
    file.write_text(rendering.render(paths.share("sys") / "wod-limits.sh.j2", variables))
    for shell in ("bash", "sh"):
        script = f"ulimit -n 1000; set -eu; . {file}; ulimit -n"
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=False)
        assert (done.stderr, done.returncode) == ("", 0)
        assert int(done.stdout) in (1000, 65535)  # root may raise it


def site(folder: Path) -> Settings:
    """A backend with one playbook."""
    public = folder / "public" / "ansible"
    public.mkdir(parents=True)
    (public / "trial.yml").write_text(PLAYBOOK)
    (public / "action_plugins").symlink_to(paths.share("ansible") / "action_plugins")
    return Settings.model_validate({"WODBEDIR": public.parent, "WODSTATEDIR": folder / "state"})


def test_wod_copy(tmp_path: Path) -> None:
    settings, out = site(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")

    def run(*, check: bool = False) -> list[TaskResult]:
        played = maintenance.play(settings, "trial", check=check, diff=True, variables={"OUT": str(out)}, timeout=120)
        return list(played.tasks)

    audit = run(check=True)
    assert [task.status for task in audit[:3]] == ["changed"] * 3
    assert "+text" in audit[0].diff
    assert [path.name for path in out.iterdir()] == ["old"]
    assert [task.status for task in run()[:3]] == ["changed"] * 3
    assert (out / "text").read_text() == "text\n"
    assert (out / "file").read_text() == PLAYBOOK
    assert [path.read_text() for path in out.glob("old.*")] == ["old"]
    assert not (out / "bad").exists()
    (out / "text").chmod(0o644)
    os.truncate(out / "old", 0)
    assert [task.status for task in run()[:3]] == ["changed", "ok", "changed"]
    assert (out / "text").stat().st_mode & 0o777 == 0o640


@pytest.mark.root
def test_files_in_the_home_of_the_services_user(tmp_path: Path) -> None:
    """Written with that user's rights, so a link of theirs leads nowhere; a site's own recipes are theirs."""
    settings, home, outside = site(tmp_path), tmp_path / "home", tmp_path / "outside"
    for folder in (*tmp_path.parents, tmp_path):  # pytest's own are for root alone
        if folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o011)
    home.mkdir()
    outside.mkdir(mode=0o755)
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    tasks = yaml.safe_load((paths.share("ansible") / "tasks/mail.yml").read_text(encoding="utf-8"))[0]["block"]
    wanted = ("Whose recipes", "Procmail gives", "Postfix gives mails to procmail, where", "Recipes of the site")
    play = [{"name": "Trial", "hosts": "production", "gather_facts": False, "tasks": []}]
    play[0]["tasks"] = [task for task in tasks if task["name"].startswith(wanted)]
    assert len(play[0]["tasks"]) == len(wanted)
    (settings.WODANSIBLEDIR / "trial.yml").write_text(yaml.safe_dump(play, sort_keys=False))
    given = {name: defaults()[name] for name in ("wod_procmail_mark", "wod_mail_recipes")}
    given |= {"WODDOOR": "postfix", "WODUSER": NOBODY.pw_name, "wod_home": str(home), "wod_pipe": "wodmail pipe"}
    # A virtual environment of tests may be closed to that user; wodmail's own is not.
    given |= {"wod_procmail_files": str(paths.share("procmail")), "ansible_python_interpreter": "/usr/bin/python3"}

    def run(*, check: bool = False) -> list[str]:
        played = maintenance.play(settings, "trial", check=check, diff=True, variables=given, timeout=120)
        assert played.status == 0, played.text_tail
        return [task.status for task in played.tasks]

    recipes, forward = home / ".procmailrc", home / ".forward"
    forward.symlink_to(outside / "file")
    assert run(check=True) == ["ok", "changed", "skipped", "ok"]
    assert list(home.iterdir()) == [forward]
    forward.unlink()
    assert run() == ["ok", "changed", "changed", "skipped"]
    assert recipes.read_text().startswith(given["wod_procmail_mark"])
    assert [(file.owner(), file.stat().st_mode & 0o777) for file in (recipes, forward)] == [
        (NOBODY.pw_name, 0o600),
        (NOBODY.pw_name, 0o644),
    ]
    recipes.write_text("EXITCODE=75\nHOST=none\n")
    assert run() == ["ok", "skipped", "ok", "ok"]
    assert (recipes.read_text(), list(outside.iterdir())) == ("EXITCODE=75\nHOST=none\n", [])


@pytest.mark.root
def test_the_skeleton_keeps_its_modes_and_links(tmp_path: Path) -> None:
    """As homes that wodmail makes have them (students/base.py); nobody but the owner writes."""
    settings, out, skel = site(tmp_path), tmp_path / "out", tmp_path / "sys" / "skel"
    (skel / ".ssh").mkdir(parents=True)
    (skel / "shared").mkdir()
    for name, mode in ((".ssh/config", 0o600), ("run", 0o775), ("shared/plain", 0o666), ("odd", 0o4573)):
        (skel / name).write_text(name)
        (skel / name).chmod(mode)
    for name, mode in ((".ssh", 0o700), ("shared", 0o777)):
        (skel / name).chmod(mode)
    links = {"link": "run", "lost": "nowhere/at all", "shared/up": "../.ssh"}
    for name, target in links.items():
        (skel / name).symlink_to(target)
    block = yaml.safe_load(
        (paths.share("ansible") / "tasks/skel.yml").read_text(encoding="utf-8").replace("/etc/", f"{out}/")
    )
    play = [{"name": "Trial", "hosts": "production", "gather_facts": False, "tasks": block}]
    (settings.WODANSIBLEDIR / "trial.yml").write_text(yaml.safe_dump(play, sort_keys=False))
    (out / "skel").mkdir(parents=True)
    (out / "skel" / "link").write_text("a file was here")
    given = {"wod_sys_folders": [str(skel.parent)], "wod_check_skip": [], "wod_failed": []}

    def run(*, check: bool = False) -> int:
        played = maintenance.play(settings, "trial", check=check, variables=given, timeout=120)
        assert played.status == 0 and all(task.status != "failed" for task in played.tasks), played.text_tail
        return played.changed

    assert run() == 3
    found = {path.relative_to(out / "skel") for path in (out / "skel").rglob("*")}
    wanted = {Path(entry.path): entry for entry in base.skel(Settings.model_validate({"WODSYSDIR": skel.parent}))}
    assert found == set(wanted)
    for path, entry in wanted.items():
        file = out / "skel" / path
        if entry.kind == "link":
            assert str(file.readlink()) == entry.target == links[str(path)]
        else:
            assert (file.stat().st_mode & 0o7777, path) == (entry.mode, path)
    assert (out / "skel/.ssh").stat().st_mode & 0o777 == 0o700
    assert (out / "skel/odd").stat().st_mode & 0o7777 == 0o551
    assert run(check=True) == 0
    (out / "skel/link").unlink()
    (out / "skel/.ssh/config").chmod(0o644)
    assert (run(check=True), run()) == (2, 2)


def test_every_item_is_documented() -> None:
    text = (DOCS / "check.md").read_text(encoding="utf-8")
    assert [name for name in checkrun.listed(Settings()) if f"| `{name}` |" not in text] == []
