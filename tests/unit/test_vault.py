"""Variable files of students: Ansible can read them, nobody else can."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from tests.copying import settings_for
from wodmail import vault, vaultkeys
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
