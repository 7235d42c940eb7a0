"""wod-deliver as a whole: variable files, the check of the machine, and that a failure is noticed."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.parts import require
from wodmail import deliverseats, maintenance, paths
from wodmail.cli.deliver import deliver
from wodmail.errors import Failed

HEAD = "- hosts: all\n  gather_facts: false\n  tasks:\n"
OK = f"{HEAD}    - name: Look\n      ansible.builtin.debug:\n        msg: all is well\n"
BAD = f"{HEAD}    - name: Look at the limits\n      ansible.builtin.fail:\n        msg: too low\n"


class Backend:
    """A configuration with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("scripts", "private/scripts", "ansible/production", "private/ansible/production", "notebooks"):
            (folder / name).mkdir(parents=True)
        self.file = folder / "wod.yml"
        self.file.write_text(
            f"WODSANDBOX: true\nWODSTATEDIR: {folder}/state\nWODSCRIPTDIR: {folder}/scripts\n"
            f"WODANSIBLEDIR: {folder}/ansible\nWODNOBO: {folder}/notebooks\nWODPRIVDIR: {folder}/private\n"
            "WODBETOKEN: hub-4711\nWODBEAPIURL: http://127.0.0.1:1\nWODMONITOR: monitor@example.org\n"
        )
        self.write("scripts/fine.sh.j2", "echo {{ BRANDING }}\n")

    def write(self, name: str, text: str) -> Path:
        """Write a file below the folder."""
        file = self.folder / name
        file.write_text(text)
        return file

    def text(self, name: str) -> str:
        """A file's text."""
        return (self.folder / name).read_text()

    def call(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit status and what --json told."""
        done = CliRunner().invoke(deliver, ["--config", str(self.file), "--json", *options])
        assert "Traceback" not in done.output, done.output
        data: dict[str, Any] = json.loads(done.stdout)
        return done.exit_code, data

    def mails(self) -> list[tuple[str, str]]:
        """Subjects and texts of the mails that were sent."""
        files = sorted((self.folder / "state" / "outbox").glob("new/*"))
        read = [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]
        return [(str(mail["Subject"]), str(mail.get_content())) for mail in read]  # type: ignore[attr-defined]


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return Backend(tmp_path)


def test_variable_files_stand_beside_their_templates(backend: Backend) -> None:
    template = backend.write("ansible/production/variables_WKSHP-X.yml.j2", "A: {{ BRANDING }}\nB: !vault |\n  x\n")
    template.chmod(0o660)
    backend.write("private/ansible/production/secret.yml.j2", 'T: "{{ WODBETOKEN }}"\n').chmod(0o644)
    backend.write("ansible/production/other.txt.j2", "{{ NOSUCH }}")
    backend.write("ansible/elsewhere.yml.j2", "{{ NOSUCH }}")
    status, told = backend.call()
    assert (status, told["ok"], told["counts"]["new"]) == (0, True, 3)
    assert backend.text("ansible/production/variables_WKSHP-X.yml") == "A: Workshops-on-Demand\nB: !vault |\n  x\n"
    modes = [stat.S_IMODE((template.parent / "variables_WKSHP-X.yml").stat().st_mode)]
    modes.append(stat.S_IMODE((backend.folder / "private/ansible/production/secret.yml").stat().st_mode))
    assert modes == [0o660, 0o640]
    assert not (backend.folder / "ansible/elsewhere.yml").exists()
    assert backend.call()[1]["counts"]["same"] == 3
    assert backend.mails() == []


@pytest.mark.parametrize("text", ["A: x: y\n", "A: [1\n", "\tA: 1\n", "A: 1\n---\nB: 2\n", '"{{ BRANDING }}": {\n'])
def test_a_variable_file_that_would_be_no_yaml_stays_as_it_was(backend: Backend, text: str) -> None:
    backend.write("ansible/production/v.yml", "A: old\n")
    backend.write("ansible/production/v.yml.j2", text)
    backend.write("ansible/production/w.yml.j2", "A: {{ BRANDING }}\n")
    status, told = backend.call()
    outcomes = {Path(each["target"]).name: each["outcome"] for each in told["files"]}
    assert (status, outcomes) == (1, {"fine.sh": "new", "v.yml": "failed", "w.yml": "new"})
    assert backend.text("ansible/production/v.yml") == "A: old\n"
    assert "the result is no YAML: line " in told["files"][1]["reason"]
    assert "v.yml.j2" in backend.mails()[0][1]


def test_the_diff_shows_no_secret(backend: Backend) -> None:
    backend.write("scripts/token.sh.j2", "TOKEN={{ WODBETOKEN }}\necho {{ BRANDING }}\n")
    backend.write("scripts/token.sh", "TOKEN=old-1234\necho old\n").chmod(0o750)
    status, told = backend.call("--check", "--diff")
    assert (status, told["counts"]["changed"], backend.text("scripts/token.sh")[:5]) == (2, 1, "TOKEN")
    diff = told["files"][1]["diff"]
    assert "+echo Workshops-on-Demand" in diff
    assert "hub-4711" not in diff
    assert "old-1234" not in diff
    shown = CliRunner().invoke(deliver, ["--config", str(backend.file), "--check", "--diff"], env={"COLUMNS": "200"})
    assert "+echo Workshops-on-Demand" in shown.output
    assert "hub-4711" not in shown.output


def test_a_failing_template_and_a_failing_playbook_are_both_noticed(backend: Backend) -> None:
    """docs/deliver.md: each alone makes the exit status 1 and is mailed; so do both together."""
    require("ansible")
    playbook = backend.write("ansible/check_backend.yml", BAD)
    status, told = backend.call("--playbook")
    assert (status, told["playbook"]["status"], told["counts"]["failed"]) == (1, "failed", 0)
    assert told["playbook"]["failed"] == [{"host": "127.0.0.1", "name": "Look at the limits", "message": "too low"}]
    backend.write("scripts/bad.sh.j2", "one\n{{ NOSUCH }} {{ WODBETOKEN }}\n")
    status, told = backend.call("--playbook")
    assert (status, told["playbook"]["status"], told["counts"]["failed"]) == (1, "failed", 1)
    playbook.write_text(OK)
    status, told = backend.call("--playbook")
    assert (status, told["playbook"]["status"], told["counts"]["same"]) == (1, "ok", 1)
    wrong = told["files"][0]
    assert (wrong["line"], wrong["variable"]) == (2, "NOSUCH")
    subjects, texts = zip(*backend.mails(), strict=True)
    assert sorted(subject.partition("failed: ")[2] for subject in subjects) == [
        "1 template",
        "1 template, check_backend.yml",
        "check_backend.yml",
    ]
    assert sum("bad.sh.j2:2  (variable NOSUCH)" in text for text in texts) == 2
    assert sum("127.0.0.1: Look at the limits\n    too low" in text for text in texts) == 2
    (backend.folder / "scripts/bad.sh.j2").unlink()
    assert backend.call("--playbook")[0] == 0
    assert len(backend.mails()) == 3


SKIPS = """- hosts: all
  gather_facts: false
  tasks:
    - name: What is turned off, and which configuration is read
      ansible.builtin.copy:
        content: "{{ [wod_check_skip, wodmail_config] | to_json }}"
        dest: "{{ WODSTATEDIR }}/skips"
        mode: "0600"
      tags: [item_other]
    - name: Deliver again
      ansible.builtin.fail:
        msg: the templates were delivered twice
      tags: [item_deliver]
"""


def test_what_an_operator_turned_off_stays_off_and_the_file_is_the_same(backend: Backend) -> None:
    """docs/check.md: wod_check_skip in group_vars turns an item off for good; wod-deliver adds its own, and no more."""
    require("ansible")
    (backend.folder / "ansible/group_vars").mkdir()
    backend.write("ansible/group_vars/production.yml", "wod_check_skip: [hosts, firewall]\n")
    backend.write("ansible/check_backend.yml", SKIPS)
    (backend.folder / "state").mkdir()
    status, told = backend.call("--playbook")
    assert (status, told["playbook"]["status"]) == (0, "ok"), told
    assert json.loads(backend.text("state/skips")) == [["hosts", "firewall"], str(backend.file)]


DIFFERS = f"""{HEAD}    - name: Too many rights
      ansible.builtin.debug:
        msg: wodadmin may do everything by sudo
      tags: [item_helper, differs]
    - name: Only a look
      ansible.builtin.debug:
        msg: x
      changed_when: true
      tags: [item_hosts, look]
"""


def test_what_only_a_person_can_mend_is_mailed(backend: Backend) -> None:
    require("ansible")
    backend.write("ansible/check_backend.yml", DIFFERS)
    status, told = backend.call("--playbook")
    assert (status, told["ok"], told["playbook"]["status"], told["playbook"]["changed"]) == (1, False, "differs", 0)
    assert [item["id"] for item in told["playbook"]["differs"]] == ["helper"]
    (subject, text), *others = backend.mails()
    assert (subject, others) == ("localhost: wod-deliver done, but something differs: helper", [])
    assert "wodadmin may do everything by sudo" in text
    status, told = backend.call("--playbook", "--check")
    assert (status, told["ok"], len(backend.mails())) == (2, True, 1)
    shown = CliRunner().invoke(deliver, ["--config", str(backend.file), "--playbook", "--no-mail"])
    assert "only a person can mend helper" in shown.output


@pytest.mark.root
def test_root_expands_no_template_that_others_can_change(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A template is a program: lookup('pipe') and group_vars run commands."""
    mark = backend.folder / "mark"
    template = backend.write("private/scripts/evil.sh.j2", f"{{{{ lookup('pipe', 'touch {mark}') }}}}\n")
    os.chown(template.parent, 65534, -1)
    for option in ("--check", "--no-playbook"):
        status, told = backend.call(option)
        assert (status, told["files"], mark.exists()) == (1, [], False)
    assert f"{template.parent}: belongs to" in told["problem"]
    assert "WODTRUSTTREES" in backend.mails()[0][1]
    assert not (backend.folder / "scripts/fine.sh").exists()
    with backend.file.open("a") as file:
        file.write("WODTRUSTTREES: false\n")
    assert backend.call("--no-playbook")[0] == 0
    assert mark.exists()
    assert f"root runs what others can change (WODTRUSTTREES is false): {template.parent}" in caplog.text


def test_check_mails_nobody_and_writes_nothing(backend: Backend) -> None:
    backend.write("scripts/bad.sh.j2", "{{ NOSUCH }}")
    status, told = backend.call("--check")
    assert (status, told["counts"]["new"], told["counts"]["failed"], told["mail"]) == (1, 1, 1, "")
    assert backend.call("--no-mail")[0] == 1
    assert backend.mails() == []
    assert told["playbook"]["status"] == "left out"


@pytest.mark.parametrize("name", ["WODPRIVDIR", "WODSCRIPTPRIVDIR", "WODANSIBLEPRIVDIR"])
def test_a_private_folder_that_is_named_and_is_not_there_is_told(backend: Backend, name: str) -> None:
    """All else is delivered; those that follow from WODPRIVDIR need not be there, as on a fresh backend."""
    shutil.rmtree(backend.folder / "private/scripts")
    shutil.rmtree(backend.folder / "private/ansible")
    assert backend.call("--no-playbook")[0] == 0
    text = re.sub(rf"(?m)^{name}: .*\n", "", backend.file.read_text())
    backend.file.write_text(f"{text}{name}: {backend.folder}/away\n")
    status, told = backend.call("--no-playbook")
    outcomes = {Path(each["target"]).name: each["outcome"] for each in told["files"]}
    assert (status, outcomes) == (1, {"away": "failed", "fine.sh": "same"})
    ((_, mailed),) = backend.mails()
    assert f"{name}: there is no folder {backend.folder}/away" in mailed


@pytest.mark.parametrize("text", ["A: [1\nsecret-word: 1\n", f"A: {'[' * 5000}{']' * 5000}\n"])
def test_what_keeps_everything_from_being_delivered_is_mailed(backend: Backend, text: str) -> None:
    (backend.folder / "private/ansible/group_vars").mkdir()
    backend.write("private/ansible/group_vars/all.yml", text)
    status, told = backend.call("--no-playbook")
    assert (status, told["files"], told["playbook"]) == (1, [], None)
    assert "all.yml" in told["problem"]
    (subject, text), *others = backend.mails()
    assert (subject, others) == ("localhost: wod-deliver failed: no template was delivered", [])
    assert "all.yml" in text
    assert "secret-word" not in text
    assert "a fault of wodmail" not in text


def test_a_fault_of_ours_does_not_stop_the_check_and_the_mail(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("ansible")
    backend.write("ansible/check_backend.yml", OK)

    def fault(*_: object, **__: object) -> None:
        raise KeyError("hub-4711")

    monkeypatch.setattr(deliverseats, "deliver", fault)
    status, told = backend.call("--playbook")
    assert (status, told["playbook"]["status"]) == (1, "ok")
    assert told["problem"].startswith("a fault of wodmail, test_deliver.py:")
    assert "KeyError" in backend.mails()[0][1] and "hub-4711" not in told["problem"] + backend.mails()[0][1]


@pytest.mark.parametrize("text", ["{{ BRANDING | regex_search('(') }}", "{{ '{a: [' | from_yaml }}"])
def test_what_a_filter_raises_is_one_template_s_failure(backend: Backend, text: str) -> None:
    backend.write("scripts/bad.sh.j2", f"one\n{text}\n")
    status, told = backend.call()
    outcomes = {Path(each["target"]).name: (each["outcome"], each["line"]) for each in told["files"]}
    assert (status, outcomes) == (1, {"bad.sh": ("failed", 2), "fine.sh": ("new", 0)})
    assert "bad.sh.j2:2" in backend.mails()[0][1]


def test_from_the_sandbox_our_own_check_never_runs(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when it is asked for: the machine underneath is somebody else's."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a playbook was run")

    monkeypatch.setattr(maintenance, "play", never)
    for line in ("", f"WODANSIBLEDIR: {paths.share('ansible')}\n"):
        text = backend.file.read_text()
        backend.file.write_text(re.sub("(?m)^WODANSIBLEDIR: .*\n", line, text) if line else text)
        for option in ((), ("--playbook",)):
            status, told = backend.call(*option, "--check")
            assert (status, told["playbook"]["status"]) == (2, "left out")


def test_a_playbook_that_cannot_be_started_is_noticed(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.write("ansible/check_backend.yml", BAD)

    def broken(*_: object, **__: object) -> None:
        raise Failed("there is no playbook check_backend.yml")

    monkeypatch.setattr(maintenance, "play", broken)
    status, told = backend.call("--playbook")
    assert (status, told["playbook"]["status"]) == (1, "failed")
    assert told["playbook"]["remark"] == "there is no playbook check_backend.yml"
    assert "there is no playbook check_backend.yml" in backend.mails()[0][1]


def test_a_mail_that_cannot_be_sent_is_told_and_is_no_traceback(backend: Backend) -> None:
    backend.write("scripts/bad.sh.j2", "{{ NOSUCH }}")
    with backend.file.open("a") as file:
        file.write("WODSMTPURL: smtp://127.0.0.1:1\n")
    status, told = backend.call()
    assert status == 1
    assert told["mail"].startswith(
        "the mail to monitor@example.org could not be sent: The mail server can't be reached."
    )
    backend.file.write_text(backend.file.read_text().replace("WODMONITOR: monitor@example.org\n", ""))
    assert backend.call()[1]["mail"] == "nobody was told by mail: WODMONITOR is not set"
    shown = CliRunner().invoke(deliver, ["--config", str(backend.file)], env={"COLUMNS": "200"})
    assert (shown.exit_code, "WODMONITOR is not set" in shown.output) == (1, True)


def test_seats_in_containers(backend: Backend) -> None:
    folder = backend.folder / "bedir" / "conf" / "containers"
    folder.mkdir(parents=True)
    (backend.folder / "notebooks" / "WKSHP-Box101").mkdir()
    (backend.folder / "notebooks" / "WKSHP-Odd101").mkdir()
    with backend.file.open("a") as file:
        file.write(f"WODBEDIR: {backend.folder}/bedir\n")
    (folder / "WKSHP-Box101.yml").write_text("description: An account and no more\n")
    (folder / "WKSHP-Odd101.yml").write_text("description: [1]\n")
    (folder / "WKSHP-Away101.yml").write_text("description: A workshop that isn't here\n")
    status, told = backend.call()
    found = {Path(each["target"]).name: each["outcome"] for each in told["files"]}
    assert (status, found.pop("fine.sh"), found.pop("create-WKSHP-Odd101.sh")) == (1, "new", "failed")
    assert set(found.values()) == {"new"}
    assert "create-WKSHP-Box101.sh" in found
    assert not any("Away101" in name for name in found)
    backend.write("scripts/create-WKSHP-Box101.sh", "my own\n")
    status, told = backend.call()
    found = {Path(each["target"]).name: each["outcome"] for each in told["files"]}
    assert found["create-WKSHP-Box101.sh"] == "left"
    assert backend.text("scripts/create-WKSHP-Box101.sh") == "my own\n"


def test_seats_that_give_way_to_a_site_s_scripts_are_told(backend: Backend) -> None:
    """A row and no failure: the site's scripts count; a warning while scripts that nobody runs any more lie there."""
    folder, name = backend.folder / "bedir" / "conf" / "containers", "WKSHP-Docker101"
    folder.mkdir(parents=True)
    shutil.copy(paths.share("conf") / "containers" / f"{name}.yml", folder)
    (backend.folder / "notebooks" / name).mkdir()
    with backend.file.open("a") as file:
        file.write(f"WODBEDIR: {backend.folder}/bedir\n")
    backend.write(f"private/scripts/create-{name}.sh", "true\n")
    assert backend.call()[1]["counts"]["new"] > 3, "a hook of the site's changes nothing"
    own = backend.write(f"private/scripts/create-{name}.sh", "true\n")
    backend.write(f"private/scripts/reset-{name}.sh", "true\n")
    status, told = backend.call()
    [row] = [each for each in told["files"] if each["outcome"] == "left"]
    assert status == 0
    assert row["reason"].startswith(f"warning: the shipped definition {folder}/{name}.yml gives way to {own}; ")
    for made in (backend.folder / "scripts").glob(f"*-{name}.sh"):
        made.unlink()
    status, told = backend.call()
    [row] = [each for each in told["files"] if each["outcome"] == "left"]
    copy = f"{backend.folder}/private/conf/containers/{name}.yml"
    words = f"the shipped definition {folder}/{name}.yml gives way to {own}; copy it to {copy} to keep both"
    assert (status, row["reason"]) == (0, words)
