"""Variable files of students: Ansible can read them, nobody else can."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.copying import settings_for
from wodmail import vault


def opened(data: bytes, secret: str) -> bytes:
    return bytes(VaultLib([("default", VaultSecret(secret.encode()))]).decrypt(data))


def test_ansible_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pass" / "variables_WKSHP-X_7.yml"
    vault.write(path, {"PASSSTU": "s3cret: {{ x }} \u00e9"}, "open sesame")
    assert b"s3cret" not in path.read_bytes()
    assert yaml.safe_load(opened(path.read_bytes(), "open sesame")) == {"PASSSTU": "s3cret: {{ x }} \u00e9"}
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


def test_without_a_vault_password_one_is_made_once_and_kept(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, VAULTPWD="")
    assert vault.known_password(settings) == ""
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: vault.password(settings), range(8)))
    assert len(made) == 1
    assert vault.known_password(settings) in made
    key = tmp_path / "state" / "secrets" / "vault.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in key.parent.iterdir()] == ["vault.key"]
