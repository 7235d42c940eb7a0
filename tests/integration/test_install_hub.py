"""A JupyterHub that is there: root runs nothing of it unless all is root's; npm's files are root's alone at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wodmail import maintenance, paths
from wodmail.schema import Settings

pytestmark = pytest.mark.root
NOBODY = 65534
PACKER = 54321
# An npm that leaves what it unpacks with the number of its packer, and tells who could have got there meanwhile.
NPM = """#!/bin/sh
case $1 in
  list) echo '{}' ;;
  install)
    stat -c '%a %U' . >>"FOLDER/told"
    mkdir -p node_modules && touch node_modules/program && chown -R 54321:54321 node_modules
    [ ! -e "FOLDER/broken" ] ;;
esac
"""


def tasks() -> list[dict[str, Any]]:
    """The tasks that make JupyterHub, until its folders elsewhere."""
    text = (paths.share("ansible") / "tasks/install_jupyterhub.yml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)
    return found[: next(at for at, task in enumerate(found) if task["name"] == "Make its folders")]


def play(folder: Path, hub: Path) -> list[maintenance.TaskResult]:
    """Play them; JPHUB's pip only tells that it was run."""
    made = tasks()
    for task in made:
        if "ansible.builtin.pip" in task:
            assert task.pop("ansible.builtin.pip")["virtualenv"] == "{{ JPHUB }}"
            task |= {"ansible.builtin.command": {"argv": ["{{ JPHUB }}/bin/pip"]}, "changed_when": True}
    handlers = [{"name": "Restart JupyterHub", "ansible.builtin.debug": {"msg": "again"}}]
    one = {"name": "Trial", "hosts": "production", "gather_facts": False, "tasks": made, "handlers": handlers}
    public = folder / "public" / "ansible"
    public.mkdir(parents=True, exist_ok=True)
    (public / "trial.yml").write_text(yaml.safe_dump([one], sort_keys=False))
    settings = Settings.model_validate({"WODBEDIR": public.parent, "WODSTATEDIR": folder / "state", "JPHUB": str(hub)})
    variables = {"wod_hub_proxy": {"name": "program", "version": "1.0.0"}, "wod_python": "/bin/false"}
    return list(maintenance.play(settings, "trial", variables=variables, timeout=120).tasks)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A JupyterHub whose pip says that it was run, and an npm."""
    folder = tmp_path / "opt" / "hub"
    programs = {folder / "bin" / "pip": "#!/bin/sh\ntouch FOLDER/ran\n", tmp_path / "bin" / "npm": NPM}
    for program, text in programs.items():
        program.parent.mkdir(parents=True)
        program.write_text(text.replace("FOLDER", str(tmp_path)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return folder


def strangers(hub: Path) -> list[str]:
    """What stands against this JupyterHub, by the script of the task."""
    task = tasks()[0]
    script, argv = task["vars"]["wod_hub_script"], task["ansible.builtin.command"]["argv"]
    assert (argv[:2], argv[-1]) == (["/bin/sh", "-euc"], "{{ JPHUB }}")
    done = subprocess.run([*argv[:2], script, "sh", str(hub)], capture_output=True, text=True, check=True)
    return [line.split(" (")[0] for line in done.stdout.splitlines()]


def test_who_can_change_it(hub: Path, tmp_path: Path) -> None:
    """Owners, modes, links, folders above, a link in another's folder that leads to what is root's."""
    (hub / "link").symlink_to("bin/pip")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "hub").symlink_to(hub)
    assert strangers(hub) == strangers(tmp_path / "home" / "hub") == strangers(tmp_path / "none") == []
    for strange in (hub / "bin" / "pip", hub / "link", hub, hub.parent):
        os.chown(strange, NOBODY, NOBODY, follow_symlinks=False)
        assert set(strangers(hub)) == {str(strange)}
        os.chown(strange, 0, 0, follow_symlinks=False)
    (hub / "bin").chmod(0o775)
    assert strangers(hub) == []
    os.chown(hub / "bin", 0, NOBODY)
    assert strangers(hub) == [str(hub / "bin")]
    (hub / "bin").chmod(0o755)
    os.chown(tmp_path / "home", NOBODY, NOBODY)
    assert strangers(tmp_path / "home" / "hub") == [str(tmp_path / "home")]
    assert strangers(tmp_path / "home" / "new") == [str(tmp_path / "home")] * 2


def test_nothing_of_another_s_is_run(hub: Path, tmp_path: Path) -> None:
    """Refused before its pip is called, in words that tell what to do; owners stay as they were."""
    program = hub / "bin" / "pip"
    os.chown(program, NOBODY, NOBODY)
    last = play(tmp_path, hub)[-1]
    assert (last.status, last.name) == ("failed", "Refuse a JupyterHub that others can change")
    assert last.message.startswith(f"{program} (") and f"mv {hub} {hub}.old" in last.message
    assert not (tmp_path / "ran").exists()
    assert program.stat().st_uid == NOBODY


def test_what_npm_leaves_is_never_within_reach(hub: Path, tmp_path: Path) -> None:
    """Its folder is shut before, and all in it is root's afterwards, also when npm fails; again is no trouble."""
    (tmp_path / "broken").touch()
    assert [task.name for task in play(tmp_path, hub) if task.status == "failed"] == ["Install its proxy"]
    assert (tmp_path / "told").read_text() == "700 root\n"
    assert (tmp_path / "ran").exists()
    proxy = hub / "proxy"
    assert {path.lstat().st_uid for path in (proxy, *proxy.rglob("*"))} == {0}
    os.chown(proxy / "node_modules" / "program", PACKER, PACKER)  # as after a power cut
    (tmp_path / "broken").unlink()
    assert [task.name for task in play(tmp_path, hub) if task.status == "failed"] == []
    assert (proxy / "node_modules" / "program").stat().st_uid == 0
