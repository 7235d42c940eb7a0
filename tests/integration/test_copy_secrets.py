"""No secret of a copy run is on a command line, in an environment or in a file that ansible-runner writes."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.copying import Counting, Desk, Direct, own_workshop, settings_for
from wodmail import vault, vaultformat
from wodmail.errors import Failed
from wodmail.playbooks import Playbooks

SECRETS = {"VAULTPWD": "vault-open-sesame", "WODBETOKEN": "hub-token-4711", "WODAPIDBUSERPWD": "apidb-pass-4711"}


class Looking(Counting):
    """Keeps all that lies in the temporary folder when a run has ended and its folder is still there."""

    def __init__(self, statedir: Path, folder: Path) -> None:
        super().__init__(statedir)
        self._folder = folder
        self.seen: dict[str, bytes] = {}
        self.modes: set[int] = set()

    def end_started(self, env: Mapping[str, str]) -> int:
        """Look, then do it."""
        for path in self._folder.rglob("*"):
            if path.is_file():
                self.seen[str(path.relative_to(self._folder))] = path.read_bytes()
        self.modes = {stat.S_IMODE(path.stat().st_mode) for path in self._folder.iterdir()}
        return super().end_started(env)


@pytest.mark.parametrize("hook", [False, True])
def test_the_folder_of_a_run_holds_no_secret_and_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: bool
) -> None:
    folder = tmp_path / "state" / "runs"
    monkeypatch.setenv("WODMAIL_TEST_SECRET", "server-environment-4711")
    settings = settings_for(tmp_path, **SECRETS)
    if hook:
        (tmp_path / "private/pre_templating.yml").write_text("- name: Nothing\n  ansible.builtin.meta: noop\n")
    vault.write(vault.pass_file(settings, "WKSHP-Pass101", 7), {"PASSSTU": "hunter-4711"}, SECRETS["VAULTPWD"])
    looking = Looking(settings.WODSTATEDIR, folder)
    desk = Desk(settings)
    desk.playbooks = Playbooks(settings, looking, Direct())
    desk.copy("WKSHP-Pass101")
    assert "hunter-4711" in (desk.home() / "WKSHP-Pass101/0-ReadMeFirst.ipynb").read_text()
    commands = [data for name, data in looking.seen.items() if name.endswith("/command")]
    assert len(commands) == 1
    assert b"copy_folder.yml" in commands[0]
    for secret in [*SECRETS.values(), "hunter-4711", "server-environment-4711"]:
        assert [name for name, data in looking.seen.items() if secret.encode() in data] == []
    assert looking.modes == {0o700}
    assert list(folder.iterdir()) == []


def test_what_a_killed_server_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    ended = subprocess.Popen(["true"])
    assert ended.wait(10) == 0
    for name in (f"{ended.pid}-left", f"{os.getpid()}-busy"):
        (tmp_path / "state/runs" / name / "artifacts").mkdir(parents=True)
    Desk(settings)
    assert [path.name for path in (tmp_path / "state/runs").iterdir()] == [f"{os.getpid()}-busy"]


@pytest.mark.parametrize("where", ["VAULTPWD", "vault_secret"])
def test_vaulted_files_and_single_values_are_opened(tmp_path: Path, where: str) -> None:
    source = own_workshop(tmp_path / "books", "WKSHP-In", {"a.py": b"{{ ONE }} {{ TWO }}\n"})
    settings = settings_for(tmp_path, WODNOBO=source, VAULTPWD="of the configuration")
    word = settings.VAULTPWD
    if where == "vault_secret":
        word = "of the file"
        (tmp_path / "private" / where).write_text(f"{word}\n")
        (tmp_path / "private" / where).chmod(0o600)
    value = vaultformat.encrypted(b"within-4711", word).decode().replace("\n", "\n  ").rstrip()
    (tmp_path / "public/group_vars/all.yml").write_text(f"ONE: !vault |\n  {value}\n")
    (tmp_path / "private/group_vars/all.yml").write_bytes(vaultformat.encrypted(b"TWO: whole-4711\n", word))
    desk = Desk(settings)
    desk.copy("WKSHP-In")
    assert (desk.home() / "WKSHP-In/a.py").read_text() == "within-4711 whole-4711\n"


def test_a_value_of_another_password_is_told_with_what_to_look_at(tmp_path: Path) -> None:
    source = own_workshop(tmp_path / "books", "WKSHP-In", {"a.py": b"\n{{ ONE }}\n"})
    value = vaultformat.encrypted(b"within-4711", "another-4711").decode().replace("\n", "\n  ").rstrip()
    settings = settings_for(tmp_path, WODNOBO=source)
    (tmp_path / "public/group_vars/all.yml").write_text(f"ONE: !vault |\n  {value}\n")
    with pytest.raises(Failed, match=r"a\.py line 2: .* was encrypted with another password.*VAULTPWD") as caught:
        Desk(settings).copy("WKSHP-In")
    assert "4711" not in caught.value.sender + caught.value.operator.replace(str(tmp_path), "") + caught.value.output
