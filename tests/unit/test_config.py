"""Reading the configuration: good and bad files, defaults that depend on other keys, files that must be closed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.parts import require
from wodmail import paths
from wodmail.config import find, load, read
from wodmail.errors import ConfigError
from wodmail.schema import Settings, secret_keys

CASES = sorted(path for path in (Path(__file__).parents[1] / "data" / "configs").iterdir() if path.is_dir())


def write(folder: Path, text: str) -> Path:
    file = folder / "wod.yml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def some_workshops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A demo workshop folder, so that these cases don't depend on the one that is shipped."""
    (tmp_path / "demo" / "notebooks").mkdir(parents=True)
    own = paths.share
    monkeypatch.setattr(paths, "share", lambda name: tmp_path / "demo" if name == "demo" else own(name))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    """Every problem of the file is reported, each with its key, and nothing else is."""
    file = case / "wod.yml"
    expected = (case / "expected.txt").read_text(encoding="utf-8").format(file=file, folder=case).splitlines()
    assert sorted(map(str, read(file).problems)) == sorted(expected)


def test_every_kind_of_service_has_a_case() -> None:
    names = {case.name for case in CASES}
    assert {f"{service}-{how}" for service in ("apidb", "hub", "ldap") for how in ("half", "whole")} <= names


def test_problems_never_quote_a_secret(tmp_path: Path) -> None:
    lines = [f"{name}: [hunter2]" for name in sorted(secret_keys())]
    report = read(write(tmp_path, "\n".join(lines)))
    assert len(report.problems) >= len(lines)
    assert "hunter2" not in str(report.problems)


def test_settings_never_show_a_secret() -> None:
    settings = Settings(VAULTPWD="hunter2", WODSANDBOX=True)
    assert "hunter2" not in repr(settings) and "hunter2" not in str(settings)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yml")
    assert len(caught.value.problems) == 1
    assert "no such file" in caught.value.problems[0].message
    assert "wodmail config sample" in caught.value.problems[0].message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (problem,) = read(tmp_path).problems
    assert "folder" in problem.message


def test_empty_file_is_all_defaults(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "# nothing\n"), files=False)
    assert settings.WODPOSTPORT == 10025
    assert settings.WODSANDBOX is False
    assert settings.WODSTATEDIR == Path("/var/lib/wodmail")
    assert settings.WODOUTBOX is None


def test_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOD_CONFIG", "/somewhere/wod.yml")
    assert find(tmp_path) == tmp_path
    assert find() == Path("/somewhere/wod.yml")
    monkeypatch.delenv("WOD_CONFIG")
    assert find() == Path("/etc/wod.yml")


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "wod.yml"
    file.write_bytes(b"\xef\xbb\xbfWODSANDBOX: true\n")
    assert load(file).WODSANDBOX is True


def test_unknown_wod_key_is_a_warning_with_the_nearest_name(tmp_path: Path) -> None:
    report = read(write(tmp_path, "WODSANDBOX: true\nWODUSERMXA: 7\nwodpostport: 1\nWODZZZZZZZ: 1\nSITE: x\n"))
    assert report.problems == ()
    words = {warning.path: warning.message for warning in report.warnings}
    assert "WODUSERMAX" in words["WODUSERMXA"]
    assert "WODPOSTPORT" in words["wodpostport"]
    assert "perhaps" not in words["WODZZZZZZZ"]
    assert "SITE" not in words


def test_unknown_keys_become_variables(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "WODSANDBOX: true\nIP-WKSHP-API101: 10.0.0.5\nSITE: {a: [1]}\n"))
    assert settings.variables()["IP-WKSHP-API101"] == "10.0.0.5"
    assert settings.variables()["SITE"] == {"a": [1]}


def test_variables_are_plain_and_complete() -> None:
    settings = Settings(WODSANDBOX=True, VAULTPWD="hunter2", WODDATABASEURL="postgresql://a:hunter2@b/c")
    values = settings.variables()
    assert set(Settings.model_fields) <= set(values)
    assert values["WODPRIVDIR"] == ""
    assert values["WODSANDBOX"] is True
    assert values["WODTRUSTEDPEERS"] == ["127.0.0.0/8", "::1/128"]
    assert isinstance(values["WODSTATEDIR"], str)
    assert "hunter2" not in str(settings.variables(secrets=False))


def test_sandbox_defaults(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "WODSANDBOX: true\nWODSTATEDIR: state\n"))
    assert settings.WODSTATEDIR == tmp_path / "state"
    assert settings.WODSTUDDIR == tmp_path / "state" / "student"
    assert settings.WODOUTBOX == tmp_path / "state" / "outbox"
    assert settings.WODREPLYCREDENTIALS is True
    assert settings.WODNOBO == tmp_path / "demo" / "notebooks"


def test_sandbox_state_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings(WODSANDBOX=True).WODSTATEDIR == tmp_path / ".local" / "state" / "wodmail"


def test_sandbox_keeps_what_is_written(tmp_path: Path) -> None:
    text = "WODSANDBOX: true\nWODREPLYCREDENTIALS: false\nWODSMTPURL: smtp://localhost:2525\nWODSTUDDIR: homes\n"
    settings = load(write(tmp_path, text))
    assert settings.WODREPLYCREDENTIALS is False
    assert settings.WODOUTBOX is None
    assert settings.WODSTUDDIR == tmp_path / "homes"


def test_production_replies_without_passwords() -> None:
    assert Settings().WODREPLYCREDENTIALS is False


def test_private_folders_follow_wodprivdir(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    settings = load(write(tmp_path, "WODSANDBOX: true\nWODPRIVDIR: private\nWODSCRIPTPRIVDIR: other\n"))
    assert settings.WODANSIBLEPRIVDIR == tmp_path / "private" / "ansible"
    assert settings.WODPRIVNOBO == tmp_path / "private" / "notebooks"
    assert settings.WODSCRIPTPRIVDIR == tmp_path / "other"
    assert Settings().WODPRIVNOBO is None


def test_public_folders_are_wodmails_own() -> None:
    settings = Settings()
    assert settings.WODANSIBLEDIR == paths.share("ansible")
    assert settings.WODSCRIPTDIR == paths.share("scripts")
    assert Settings(WODBEDIR=Path("/srv/wod")).WODSCRIPTDIR == Path("/srv/wod/scripts")


def test_paths_start_at_the_file_and_know_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = load(write(tmp_path, "WODSANDBOX: true\nWODSTATEDIR: ~/state\nWODOUTBOX: ../out\nWODPRIVDIR: ''\n"))
    assert settings.WODSTATEDIR == tmp_path / "home" / "state"
    assert settings.WODOUTBOX == tmp_path / ".." / "out"
    assert settings.WODPRIVDIR is None


def test_names_follow_the_host() -> None:
    settings = Settings(WODBEFQDN="b1.example.org")
    assert (settings.WODBACKEND, settings.WODBEEXTFQDN) == ("b1.example.org", "b1.example.org")
    assert settings.test_sender == "wodadmin@b1.example.org"
    assert Settings(WODSENDER="f@example.org").test_sender == "f@example.org"


@pytest.mark.parametrize(
    ("values", "reading"),
    [
        ({}, "count"),
        ({"WODAPIDBEXTURL": "https://api.example.org/api"}, "participant"),
        ({"WODAPIDBEXTURL": "https://api.example.org/api", "WODSUBJECTNUMBER": "count"}, "count"),
        ({"WODSUBJECTNUMBER": "participant"}, "participant"),
    ],
)
def test_what_number_means(values: dict[str, str], reading: str) -> None:
    assert Settings.model_validate(values).number_reading == reading


@pytest.mark.parametrize("key", ["WODSIGNKEYFILE", "WODTLSKEY", "WODAUTHFILE"])
@pytest.mark.parametrize(
    ("mode", "fine"), [(0o600, True), (0o640, True), (0o400, True), (0o644, False), (0o660, False)]
)
def test_files_with_secrets_are_closed(tmp_path: Path, key: str, mode: int, fine: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef\n", encoding="ascii")
    secret.chmod(mode)
    certificate = "WODTLSCERT: secret\n" if key == "WODTLSKEY" else ""
    report = read(write(tmp_path, f"WODSANDBOX: true\n{certificate}{key}: secret\n"))
    assert [problem.path for problem in report.problems] == ([] if fine else [key])
    assert fine or f"{mode:04o}" in report.problems[0].message


def test_a_client_needs_none_of_the_files(tmp_path: Path) -> None:
    file = write(tmp_path, "WODSANDBOX: true\nWODSIGNKEYFILE: absent\n")
    assert load(file, files=False).WODSIGNKEYFILE == tmp_path / "absent"
    with pytest.raises(ConfigError):
        load(file)


def test_open_file_with_secrets_is_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path, "WODSANDBOX: true\nVAULTPWD: abc\n")
    file.chmod(0o644)
    assert [warning.path for warning in read(file).warnings] == [str(file)]
    file.chmod(0o640)
    assert read(file).warnings == ()


def test_nobody_may_command_is_a_warning(tmp_path: Path) -> None:
    report = read(write(tmp_path, "WODNOBO: .\n"))
    assert [warning.path for warning in report.warnings] == ["WODSENDER"]


@pytest.mark.parametrize("name", ["WODANSIBLEPRIVDIR", "WODSCRIPTPRIVDIR", "WODSYSPRIVDIR"])
def test_a_private_folder_that_is_not_there_is_a_warning(tmp_path: Path, name: str) -> None:
    """When it is named itself; what WODPRIVDIR implies may be missing, and wod-install writes no more than that."""
    (tmp_path / "private").mkdir()
    assert read(write(tmp_path, "WODSANDBOX: true\nWODPRIVDIR: private\n")).warnings == ()
    report = read(write(tmp_path, f"WODSANDBOX: true\nWODPRIVDIR: private\n{name}: private/none\n"))
    assert (report.problems, [warning.path for warning in report.warnings]) == ((), [name])
    assert f"there is no folder {tmp_path}/private/none" in report.warnings[0].message
    (tmp_path / "private" / "none").mkdir()
    assert read(report.file).warnings == ()


AS_NOBODY = """
import os, pathlib, sys
from wodmail.config import read
file = pathlib.Path(sys.argv[1])
read(file)  # everything is imported now
os.setgroups([]); os.setgid(65534); os.setuid(65534)
report = read(file, files=False)
print(*report.problems, *report.warnings, sep="\\n")
print(*("shut out: " + each.path for each in read(file).problems if "can't be reached" in each.message), sep="\\n")
"""


@pytest.mark.root
def test_what_this_account_can_not_get_to_is_not_judged() -> None:
    """A private folder of root's, 0700: whoever calls a command gets no traceback, and no advice that may be wrong."""
    require("root")
    with tempfile.TemporaryDirectory(prefix="wodmail-config-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("private/ansible/production/pass", "private/scripts", "private/sys", "private/notebooks"):
            (folder / each).mkdir(parents=True)
        (folder / "private/ansible/vault_secret").write_text("another\n")
        (folder / "private").chmod(0o700)
        own = {"WODANSIBLEPRIVDIR": "ansible", "WODSCRIPTPRIVDIR": "scripts", "WODSYSPRIVDIR": "sys"}
        lines = [f"{key}: private/{each}\n" for key, each in {**own, "WODPRIVNOBO": "notebooks"}.items()]
        file = write(folder, "".join(["WODSANDBOX: true\nWODSTATEDIR: private/state\nVAULTPWD: one\n", *lines]))
        file.chmod(0o644)
        argv = [sys.executable, "-c", AS_NOBODY, str(file)]
        done = subprocess.run(argv, cwd=Path(paths.__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [str(file), "shut out"], done.stdout
    assert done.stdout.endswith("shut out: WODPRIVNOBO\n")


def test_errors_of_several_layers_come_together(tmp_path: Path) -> None:
    text = "WODPOSTPORT: x\nWODPOSTPORT: y\nWODAPIDBUSER: u\nWODNOBO: absent\n"
    found = {problem.path for problem in read(write(tmp_path, text)).problems}
    assert {str(tmp_path / "wod.yml"), "WODPOSTPORT", "WODAPIDBEXTURL", "WODAPIDBUSERPWD", "WODNOBO"} == found


@pytest.mark.parametrize("login", ["u:Sesame-815@", "u@"])
def test_urls_that_are_shown_hold_no_login(tmp_path: Path, login: str) -> None:
    api = f"WODAPIDBEXTURL: http://{login}api.example.org/api\nWODAPIDBUSER: u\nWODAPIDBUSERPWD: p\n"
    hub = f"WODBEAPIURL: https://{login}hub.example.org\nWODBETOKEN: t\n"
    problems = read(write(tmp_path, f"WODSANDBOX: true\n{api}{hub}")).problems
    assert [problem.path for problem in problems] == ["WODAPIDBEXTURL", "WODBEAPIURL"]
    assert "815" not in str(problems)
