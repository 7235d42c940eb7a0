"""Delivering: which templates, what of them, what is written; and the command."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests import asuser
from tests.parts import require
from wodmail import deliver as delivering
from wodmail import vaultformat
from wodmail.cli.root import root
from wodmail.deliver import Expansion, Outcome, Site, deliver, expand, judge, kept_back, mode_of
from wodmail.errors import Failed

SITE = Site({"NAME": "own", "TOKEN": "tok-4711"}, compiled={"train.sh"}, secrets={"tok-4711", ""})


def template(folder: Path, name: str, text: str, mode: int = 0o644) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    file.chmod(mode)
    return file


def outcomes(folder: Path, site: Site = SITE, *, check: bool = False) -> dict[str, str]:
    return {each.target.name: each.outcome.value for each in deliver([folder], site, check=check)}


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.mark.parametrize(
    ("given", "secret", "wanted"),
    [
        (0o644, False, 0o755),
        (0o640, False, 0o750),
        (0o600, False, 0o700),
        (0o4755, False, 0o755),
        (0o644, True, 0o750),
        (0o604, True, 0o700),
    ],
)
def test_modes(given: int, secret: bool, wanted: int) -> None:
    assert mode_of(given, secret=secret) == wanted


def test_what_is_left_alone() -> None:
    assert "under compile" in kept_back("train.sh", {"train.sh"})
    assert "get-" in kept_back("get-token.sh", set())
    assert kept_back("create-appliance.sh", {"train.sh"}) == ""


def test_judging() -> None:
    made = Expansion(b"x", 0o755)
    found = [judge(made, present) for present in (None, (b"x", 0o755), (b"x", 0o644), (b"y", 0o755))]
    assert found == [Outcome.NEW, Outcome.SAME, Outcome.CHANGED, Outcome.CHANGED]


def test_new_same_changed_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    template(folder, "a.sh.j2", "echo {{ NAME }}\n")
    template(folder, "notes.sh.txt.j2", "{{ NAME }}\n", 0o640)
    for name in ("get-token.sh.j2", "train.sh.j2", "plain.sh", "page.html.j2", ".hidden.sh.j2"):
        template(folder, name, "{{ NAME }}")
    (folder / "sub").mkdir()
    template(folder / "sub", "deep.sh.j2", "{{ NAME }}")
    before = sorted(folder.rglob("*"))
    new = {"a.sh": "new", "get-token.sh": "left", "notes.sh.txt": "new", "train.sh": "left"}
    assert outcomes(folder, check=True) == new
    assert sorted(folder.rglob("*")) == before
    assert outcomes(folder) == new
    assert (folder / "a.sh").read_text() == "echo own\n"
    assert (mode(folder / "a.sh"), mode(folder / "notes.sh.txt")) == (0o755, 0o750)
    assert sorted({*folder.rglob("*")} - {*before}) == [folder / "a.sh", folder / "notes.sh.txt"]
    first = (folder / "a.sh").stat()
    assert outcomes(folder)["a.sh"] == "same"
    assert (folder / "a.sh").stat().st_ino == first.st_ino
    with (folder / "a.sh").open() as old:
        assert outcomes(folder, Site({"NAME": "other"}))["a.sh"] == "changed"
        assert old.read() == "echo own\n"
    assert (folder / "a.sh").read_text() == "echo other\n"


def test_a_broken_template_is_told_and_stops_no_other(tmp_path: Path) -> None:
    template(tmp_path, "a.sh.j2", "fine\n{{ NOSUCH }}\n")
    template(tmp_path, "b.sh.j2", "{% if %}\n")
    template(tmp_path, "c.sh.j2", "echo {{ NAME }}\n")
    (tmp_path / "a.sh").write_text("as it was")
    (tmp_path / "d.sh").mkdir()
    template(tmp_path, "d.sh.j2", "x\n")
    template(tmp_path, "e.sh.j2", "fine\n{{ NAME | regex_search('(') }}\n")
    template(tmp_path, "f.sh.j2", "{{ '{a: [' | from_yaml }}\n")
    template(tmp_path, "g.sh.j2", "echo {{ NAME }}\n")
    found = {each.target.name: each for each in deliver([tmp_path], SITE)}
    wanted = {"c.sh": "new", "g.sh": "new", **dict.fromkeys(["a.sh", "b.sh", "d.sh", "e.sh", "f.sh"], "failed")}
    assert {name: each.outcome.value for name, each in found.items()} == wanted
    assert "a.sh.j2:2 can't be expanded: 'NOSUCH' is undefined. Define it in" in found["a.sh"].reason
    assert "b.sh.j2:1 can't be expanded" in found["b.sh"].reason
    assert "is a folder" in found["d.sh"].reason
    assert "e.sh.j2:2 can't be expanded: missing ), unterminated subpattern" in found["e.sh"].reason
    assert (found["f.sh"].line, "f.sh.j2:1 can't be expanded" in found["f.sh"].reason) == (1, True)
    assert (tmp_path / "a.sh").read_text() == "as it was"
    counts = {"new": 2, "changed": 0, "same": 0, "left": 0, "failed": 5}
    assert delivering.counts(found.values()) == counts
    with pytest.raises(Failed, match="can't be read"):
        deliver([tmp_path / "none"], SITE)


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    template(tmp_path, "a.sh.j2", "new\n")
    (tmp_path / "a.sh").symlink_to(tmp_path / "elsewhere")
    assert outcomes(tmp_path) == {"a.sh": "changed"}
    assert (tmp_path / "elsewhere").read_text() == "kept"
    assert not (tmp_path / "a.sh").is_symlink()


def test_what_holds_a_secret_is_shut_for_others(tmp_path: Path) -> None:
    file = template(tmp_path, "a.sh.j2", "TOKEN={{ TOKEN }}\n")
    assert expand(file, SITE) == Expansion(b"TOKEN=tok-4711\n", 0o750, True)
    group = max(os.getgroups(), default=os.getgid())
    found = deliver([tmp_path], Site(SITE.variables, secrets=SITE.secrets, group=group))
    assert found[0].reason == "holds a secret: shut for others"
    assert mode(tmp_path / "a.sh") == 0o750


@pytest.mark.root
def test_as_root_the_owner_is_the_templates_and_secrets_are_the_groups(tmp_path: Path) -> None:
    require("root")
    nobody = pwd.getpwnam("nobody")
    for name, text in (("a.sh.j2", "{{ TOKEN }}"), ("b.sh.j2", "{{ NAME }}")):
        os.chown(template(tmp_path, name, text), nobody.pw_uid, nobody.pw_gid)
    deliver([tmp_path], Site(SITE.variables, secrets=SITE.secrets, group=12345))
    owners = [((tmp_path / name).stat().st_uid, (tmp_path / name).stat().st_gid) for name in ("a.sh", "b.sh")]
    assert owners == [(nobody.pw_uid, 12345), (nobody.pw_uid, nobody.pw_gid)]


AS_NOBODY = """
import os, pathlib, sys
from wodmail.deliver import Site, deliver
folder = pathlib.Path(sys.argv[1])
deliver([folder], Site({"NAME": "x"}), check=True)  # everything is imported now
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(*(f"{each.outcome}: {each.reason}" for check in (True, False)
        for each in deliver([folder], Site({"NAME": "x"}), check=check)), sep="\\n")
"""


@pytest.mark.root
def test_a_folder_of_somebody_elses_is_told() -> None:
    require("root")
    with tempfile.TemporaryDirectory(prefix="wodmail-deliver-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        template(Path(name), "a.sh.j2", "{{ NAME }}")
        argv = [sys.executable, "-c", AS_NOBODY, name]
        done = subprocess.run(argv, cwd=asuser.ROOT, capture_output=True, text=True, check=True)
        words = "can't be written by this user, it belongs to root: call wod-deliver as root"
        wanted = f"failed: the folder {name} {words}, or copy"
        told = done.stdout.splitlines()
        assert [line.startswith(wanted) for line in told] == [True, True], told
        assert [file.name for file in Path(name).iterdir()] == ["a.sh.j2"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with public and private scripts, group variables and a workshop that compiles one."""
    text = "echo {{ BRANDINGWOD }} {{ hostvars[inventory_hostname]['IP-X'] }}\n"
    template(tmp_path / "scripts", "create-x.sh.j2", text)
    template(tmp_path / "scripts", "train.sh.j2", "{{ UNKNOWN_YET }}")
    template(tmp_path / "private" / "scripts", "p.sh.j2", "{{ WODBETOKEN }}\n")
    (tmp_path / "private" / "ansible" / "group_vars").mkdir(parents=True)
    (tmp_path / "private" / "ansible" / "group_vars" / "all.yml").write_text("IP-X: 10.0.0.1\n")
    (tmp_path / "notebooks" / "WKSHP-X").mkdir(parents=True)
    (tmp_path / "notebooks" / "WKSHP-X" / "wod.yml").write_text("name: X\nrange: [1,2]\ncompile: train.sh\n")
    file = tmp_path / "wod.yml"
    file.write_text(
        f"WODSANDBOX: true\nWODSTATEDIR: {tmp_path}/state\nWODSCRIPTDIR: {tmp_path}/scripts\nWODBETOKEN: hub-4711\n"
        f"WODNOBO: {tmp_path}/notebooks\nWODPRIVDIR: {tmp_path}/private\nBRANDINGWOD: Own\n"
        "WODBEAPIURL: http://127.0.0.1:1\n"
    )
    return file


def command(config: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(root, ["deliver", "--config", str(config), *options], env={"COLUMNS": "300"})
    return done.exit_code, done.output


def test_the_command(config: Path) -> None:
    status, told = command(config, "--check", "--json")
    data: dict[str, Any] = json.loads(told)
    assert (status, data["version"], data["check"]) == (2, 1, True)
    assert data["counts"] == {"new": 2, "changed": 0, "same": 0, "left": 1, "failed": 0}
    status, told = command(config)
    assert (status, "2 new, 0 changed, 0 same, 1 left, 0 failed" in told) == (0, True)
    scripts = config.parent / "scripts"
    assert (scripts / "create-x.sh").read_text() == "echo Own 10.0.0.1\n"
    assert mode(config.parent / "private" / "scripts" / "p.sh") == 0o750
    assert not (scripts / "train.sh").exists()
    assert command(config, "--check")[0] == 0
    template(scripts, "bad.sh.j2", "a\nb\n{{ NOSUCH }}\n")
    status, told = command(config)
    assert status == 1
    assert "bad.sh.j2:3 can't be expanded: 'NOSUCH' is undefined" in told
    assert "hub-4711" not in told


VAULTED = {  # a template's text, and whether it holds something that was in a vault
    "{{ MLTOK }}": True,
    "{{ DEEP[0].word }}": True,
    "{{ NUMBER }}": True,
    "{{ ALIAS }}": True,
    "{{ MLTOK | b64encode }}": True,
    "{{ ODD | quote }} {{ ODD | length }}": True,
    "{{ ODD | to_json }}": True,
    "{{ KEY | indent(4) }}": True,
    "{{ PLAIN }} {{ FLAG }} {{ SHORT }}": False,
    "{{ ANSIBLE | length }}": False,
}


def test_what_was_in_a_vault_is_a_secret(config: Path) -> None:
    """Marked !vault, or in a file that is vaulted as a whole, deep in it too; written as it is or through a filter."""
    word, folder, scripts = "of-the-vault-4711", config.parent / "private/ansible/group_vars", config.parent / "scripts"
    config.write_text(config.read_text() + f"VAULTPWD: {word}\n")
    hidden = vaultformat.encrypted(b"tok-4711-tok", word).decode().replace("\n", "\n  ")
    plain = f"IP-X: 10.0.0.1\nPLAIN: in-clear\nALIAS: 'x{{{{ MLTOK }}}}x'\nMLTOK: !vault |\n  {hidden}\n"
    (folder / "all.yml").write_text(plain)
    lines = "".join(f"  line-{number}-of-a-private-key\n" for number in range(3))
    odd = 'ODD: "it\'s \\\\ odd"\nFLAG: true\nSHORT: abc\nANSIBLE: ansible\n'
    whole = f"DEEP: [{{word: w0rd-4711}}]\nNUMBER: 47114711\n{odd}KEY: |\n{lines}"
    (folder / "production.yml").write_bytes(vaultformat.encrypted(whole.encode(), word))
    for number, text in enumerate(VAULTED):
        template(scripts, f"vaulted-{number}.sh.j2", text + "\n")
    status, told = command(config)
    assert status == 0, told
    found = {text: mode(scripts / f"vaulted-{number}.sh") for number, text in enumerate(VAULTED)}
    assert found == {text: 0o750 if secret else 0o755 for text, secret in VAULTED.items()}
    assert told.count("holds a secret") == sum(VAULTED.values()) + 1
    assert command(config, "--check")[0] == 0, "read again from memory, still secret"
