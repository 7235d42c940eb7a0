"""Variable files of students: Ansible can read them, nobody else can."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from tests.copying import settings_for
from tests.parts import require
from wodmail import checks, vault, vaultformat, vaultkeys
from wodmail.cli.query import query
from wodmail.errors import Failed
from wodmail.schema import Settings


def opened(data: bytes, secret: str) -> bytes:
    return bytes(VaultLib([("default", VaultSecret(secret.encode()))]).decrypt(data))


def test_ansible_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pass" / "variables_WKSHP-X_7.yml"
    vault.write(path, {"PASSSTU": "s3cret: \u00e9"}, "open sesame")
    assert b"s3cret" not in path.read_bytes()
    assert yaml.safe_load(opened(path.read_bytes(), "open sesame")) == {"PASSSTU": "s3cret: \u00e9"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    vault.forget(path)
    vault.forget(path)
    assert not path.exists()


def test_the_place_follows_from_group_workshop_and_student(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    wanted = tmp_path / "private" / "production" / "pass" / "variables_CHLG-X_7.yml"
    assert vault.pass_file(settings, "CHLG-X", 7) == wanted
    alone = settings_for(tmp_path, WODANSIBLEPRIVDIR=None)
    assert vault.pass_file(alone, "CHLG-X", 7).is_relative_to(tmp_path / "state")


@given(word=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example(word="../../x")
@example(word="/etc/x")
@example(word="x\0")
def test_no_word_leads_out_of_the_folder(word: str) -> None:
    settings = Settings(WODSANDBOX=True, WODSTATEDIR=Path("/state"))
    folder = vault.pass_file(settings, "WKSHP-X", 7).parent
    file = vault.pass_file(settings, word, 7)
    assert Path(os.path.normpath(file)).parent == folder
    assert "\0" not in str(file)


def test_the_files_of_a_student_are_found_whatever_their_workshops(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    assert vault.pass_files(settings, 7) == []
    mine = [vault.pass_file(settings, name, 7) for name in ("../x", "CHLG-X", "WKSHP-X_27", "WKSHP-X", "WKSHP-Y")]
    others = [vault.pass_file(settings, name, number) for name, number in (("WKSHP-X", 27), ("WKSHP-X_7", 8))]
    for each in (*mine, *others):
        vault.write(each, {"PASSSTU": "s3cret"}, "open sesame")
    folder = mine[0].parent
    for name in ("notes_7.yml", "variables_WKSHP-X_7.yaml", ".variables_WKSHP-X_7.yml.0123"):
        (folder / name).write_text("not one of them")
    assert vault.pass_files(settings, 7) == mine
    assert vault.pass_files(settings, 27) == others[:1]
    assert vault.pass_files(settings, 2) == []


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    folder = vault.pass_file(settings, "WKSHP-X", 7).parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the folder should be")
    with pytest.raises(Failed, match="can't be read"):
        vault.pass_files(settings, 7)


@pytest.mark.parametrize(("name", "status"), [("WKSHP-X", 0), ("../WKSHP-X", 1), ("WKSHP-X/../../../y", 1)])
def test_the_query_writes_for_workshops_alone(tmp_path: Path, name: str, status: int) -> None:
    settings = settings_for(tmp_path)
    config = tmp_path / "wod.yml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True, exclude_unset=True)))
    command = ["--config", str(config), "variable-password", "7", name]
    asked = CliRunner().invoke(query, command, input="Passw0rdPassw0rd\n")
    assert (asked.exit_code == 0) is (status == 0), asked.output
    assert len(vault.pass_files(settings, 7)) == (1 if status == 0 else 0)
    assert list(tmp_path.rglob("variables_*")) == vault.pass_files(settings, 7)
    if status:
        assert isinstance(asked.exception, Failed)


def test_without_a_vault_password_one_is_made_once_and_kept(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, VAULTPWD="")
    assert vaultkeys.known(settings) == ()
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: vaultkeys.password(settings), range(8)))
    assert len(made) == 1
    assert set(vaultkeys.known(settings)) == made
    key = tmp_path / "state" / "secrets" / "vault.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in key.parent.iterdir()] == ["vault.key"]


# -- passwords --------------------------------------------------------------------------------------------------------


def with_secret(folder: Path, text: str | bytes = "from the file\n", mode: int = 0o600, **values: object) -> Settings:
    """Settings with a vault_secret in the private folder."""
    settings = settings_for(folder, **values)
    file = folder / "private" / "vault_secret"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    file.chmod(mode)
    return settings


def test_the_file_comes_first_and_every_password_is_tried(tmp_path: Path) -> None:
    assert vaultkeys.password(settings_for(tmp_path)) == "open sesame"
    kept = vaultkeys.password(settings_for(tmp_path, VAULTPWD=""))
    settings = with_secret(tmp_path)
    assert vaultkeys.password(settings) == "from the file"
    assert vaultkeys.known(settings) == ("from the file", "open sesame", kept)
    assert vaultkeys.known(settings.model_copy(update={"VAULTPWD": "from the file"})) == ("from the file", kept)
    assert "from the file" not in repr(vaultkeys.keys(settings))
    for word in vaultkeys.known(settings):
        assert vault.opened(vaultformat.encrypted(b"x", word), settings) == b"x"


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("secret-4711", 0o644, "mode 0644 and is open to others; chmod 0600"),
        ("secret-4711", 0o620, "open to others"),
        ("secret-4711", 0o700, "is executable, so that ansible-vault runs it"),
        (" \n", 0o600, "is empty"),
        (b"secret-4711\xff", 0o600, "is not UTF-8"),
        pytest.param(vaultformat.encrypted(b"secret-4711", "x"), 0o600, "is itself encrypted", id="encrypted"),
    ],
)
def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, text: str | bytes, mode: int, words: str) -> None:
    settings = with_secret(tmp_path, text, mode)
    for ask in (vaultkeys.password, vaultkeys.known):
        with pytest.raises(Failed) as caught:
            ask(settings)
        assert words in caught.value.operator
        assert str(tmp_path / "private" / "vault_secret") in caught.value.operator
        assert "4711" not in "".join(traceback.format_exception(caught.value))
    if mode != 0o600:
        assert [
            words in problem.message for problem in checks.files(settings) if "vault_secret" in problem.message
        ] == [True]


def test_a_group_may_read_it_and_a_dangling_link_is_a_problem(tmp_path: Path) -> None:
    settings = with_secret(tmp_path, mode=0o640)
    assert vaultkeys.password(settings) == "from the file"
    assert [each for each in checks.files(settings) if "vault_secret" in each.message] == []
    (tmp_path / "private" / "vault_secret").unlink()
    (tmp_path / "private" / "vault_secret").symlink_to("nowhere")
    assert [each.path for each in checks.files(settings) if "vault_secret" in each.message] == ["WODANSIBLEPRIVDIR"]


def test_two_different_passwords_are_worth_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "wod.yml"
    file.touch(0o600)
    told = [each.path for each in checks.advice(with_secret(tmp_path), file)]
    assert "VAULTPWD" in told
    told = [each.path for each in checks.advice(with_secret(tmp_path, "open sesame\n"), file)]
    assert "VAULTPWD" not in told


# -- the format, both ways --------------------------------------------------------------------------------------------


def ansible_vault(secret: Path, *arguments: str) -> str:
    """Ansible's own program."""
    require("ansible")
    program = Path(sys.executable).with_name("ansible-vault")
    argv = [str(program if program.is_file() else "ansible-vault"), arguments[0], *arguments[1:]]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(secret.parent)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ansible_vault_views_ours_and_we_read_its(tmp_path: Path) -> None:
    settings = with_secret(tmp_path)
    secret = tmp_path / "private" / "vault_secret"
    path = vault.pass_file(settings, "WKSHP-X", 7)
    vault.add(path, {"PASSSTU": "Passw0rd"}, settings)
    assert ansible_vault(secret, "view", "--vault-password-file", str(secret), str(path)) == 'PASSSTU: "Passw0rd"\n'
    theirs = tmp_path / "theirs.yml"
    theirs.write_text("# by hand\nMLTOK: tok\nOTHER: [1, 2]\n")
    ansible_vault(secret, "encrypt", "--vault-id", f"lab@{secret}", "--encrypt-vault-id", "lab", str(theirs))
    assert theirs.read_bytes().startswith(b"$ANSIBLE_VAULT;1.2;AES256;lab\n")
    assert vault.read(theirs, settings) == "# by hand\nMLTOK: tok\nOTHER: [1, 2]\n"
    vault.add(theirs, {"MLTOK": "new"}, settings)
    told = ansible_vault(secret, "view", "--vault-password-file", str(secret), str(theirs))
    assert yaml.safe_load(told) == {"MLTOK": "new", "OTHER": [1, 2]}


@given(data=st.binary(max_size=200), secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_what_is_encrypted_can_be_opened(data: bytes, secret: str) -> None:
    text = vaultformat.encrypted(data, secret)
    assert vaultformat.decrypted(text, ["another", secret]) == data
    assert vaultformat.decrypted(text.replace(b"\n", b"\r\n"), [secret]) == data
    with pytest.raises(vaultformat.WrongKeyError):
        vaultformat.decrypted(text, [f"{secret}."])


@pytest.mark.parametrize(
    "damage", [b"", b"$ANSIBLE_VAULT;", b"$ANSIBLE_VAULT;1.1;AES256\nzz", b"$ANSIBLE_VAULT;1.1;AES\n"]
)
def test_a_damaged_file_is_said_to_be_one(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(ValueError):
        vaultformat.decrypted(damage, ["x"])
    if vaultformat.is_encrypted(damage):
        path = tmp_path / "variables_WKSHP-X_7.yml"
        path.write_bytes(damage)
        with pytest.raises(Failed, match="can't be read"):
            vault.read(path, settings_for(tmp_path))


# -- adding variables -------------------------------------------------------------------------------------------------


def test_variables_are_added_one_a_line_and_the_others_stay(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    path = tmp_path / "pass" / "variables_WKSHP-X_7.yml"
    assert vault.read(path, settings) == ""
    vault.add(path, {"PASSSTU": "12345678"}, settings)
    vault.add(path, {"MLTOK": 'a: "b" #c\n\u00e9'}, settings)
    assert vault.read(path, settings).splitlines()[0] == 'PASSSTU: "12345678"', "scripts append lines, and grep"
    vault.add(path, {"MLTOK": "new", "RAW": "{{ 7 }}"}, settings)
    assert vault.read(path, settings) == 'PASSSTU: "12345678"\nMLTOK: "new"\nRAW: !unsafe "{{ 7 }}"\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_vaulted_values_of_a_plain_file_stay_as_they_are(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    path = tmp_path / "variables_WKSHP-X_7.yml"
    path.write_text("PORT: 80\nTOK: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3132\n")
    vault.add(path, {"NEW": "1"}, settings)
    assert path.read_bytes().startswith(vaultformat.HEADER)
    assert vault.read(path, settings) == ('PORT: 80\nTOK: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3132\nNEW: "1"\n')


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    path = tmp_path / "pass" / "variables_WKSHP-X_7.yml"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: vault.add(path, {f"V{at}": str(at)}, settings), range(16)))
    assert yaml.safe_load(vault.read(path, settings)) == {f"V{at}": str(at) for at in range(16)}


@pytest.mark.parametrize("text", ["- a list\n", "secret-4711: [\n", "secret-4711"])
def test_what_is_no_mapping_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "variables_WKSHP-X_7.yml"
    path.write_text(text)
    with pytest.raises(Failed) as caught:
        vault.add(path, {"A": "b"}, settings_for(tmp_path))
    assert path.read_text() == text
    assert "4711" not in "".join(traceback.format_exception(caught.value))


def test_a_file_of_another_key_is_told_with_the_keys_that_were_tried(tmp_path: Path) -> None:
    settings = with_secret(tmp_path)
    path = tmp_path / "variables_WKSHP-X_7.yml"
    vault.write(path, {"MLTOK": "secret-4711"}, "an0ther")
    with pytest.raises(Failed, match="encrypted with another password") as caught:
        vault.add(path, {"A": "b"}, settings)
    assert f"tried: {tmp_path / 'private' / 'vault_secret'}, VAULTPWD" in caught.value.operator
    told = "".join(traceback.format_exception(caught.value)) + caught.value.operator
    assert [word for word in ("4711", "an0ther", "open sesame", "from the file") if word in told] == []


def test_what_a_killed_writer_left_goes_with_the_file(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    path = vault.pass_file(settings, "WKSHP-X", 7)
    vault.write(path, {"A": "b"}, "x")
    left, other = path.with_name(f".{path.name}.0123"), path.with_name(".variables_WKSHP-X_77.yml.0123")
    left.touch()
    other.touch()
    vault.forget(path)
    assert list(path.parent.iterdir()) == [other]


@pytest.mark.parametrize(
    ("arguments", "given", "words"),
    [
        (("7", "WKSHP-X", "MLTOK"), "tok\n", ""),
        (("7", "WKSHP-X", "A-B"), "tok\n", "no variable's name"),
        (("7", "../X", "MLTOK"), "tok\n", "no workshop"),
        (("7", "WKSHP-X", "MLTOK"), "", "no value"),
        (("7", "WKSHP-X", "MLTOK"), "x" * 65537, "longer than"),
        (("99999", "WKSHP-X", "MLTOK"), "tok\n", "99999"),
        (("7", "WKSHP-X"), "MLTOK=tok\n", ""),
        (("7", "WKSHP-X"), "MLTOK=tok\nA-B=secret\n", "line 2 of the variables is not NAME=VALUE"),
        (("7", "WKSHP-X"), "MLTOK=\n", "line 1 of the variables is not"),
        (("7", "WKSHP-X"), "", "there are no variables"),
        (("7", "WKSHP-X"), "A=" + "x" * 65537, "longer than"),
        (("7", "../X"), "A=b\n", "no workshop"),
    ],
)
def test_the_query_that_adds_a_variable(tmp_path: Path, arguments: tuple[str, ...], given: str, words: str) -> None:
    settings = settings_for(tmp_path)
    config = tmp_path / "wod.yml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True, exclude_unset=True)))
    verb = "variable" if len(arguments) == 3 else "variables"
    asked = CliRunner().invoke(query, ["--config", str(config), verb, *arguments], input=given)
    files = vault.pass_files(settings, 7)
    if words:
        assert words in str(asked.exception)
        assert files == []
    else:
        assert asked.exit_code == 0, asked.output
        assert vault.read(files[0], settings) == 'MLTOK: "tok"\n'
