"""Secrets at rest: modes, durability, forgetting."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wodmail.errors import Failed
from wodmail.secretstore import Secrets, reference


def test_put_get_forget(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "secrets")
    ref = secrets.put(57, "password-121", "werty123")
    assert ref == reference(57, "password-121") == "secret:57/password-121"
    assert secrets.get(57, "password-121") == secrets.resolve(ref) == "werty123"
    secrets.put(57, "password-121", "ödd\n")
    assert secrets.get(57, "password-121") == "ödd\n"
    secrets.forget(57)
    assert secrets.get(57, "password-121") is None
    assert list(secrets.folder.iterdir()) == []
    secrets.forget(57)
    assert secrets.list_jobs() == ()


def test_modes(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(0o755)
    secrets = Secrets(tmp_path / "secrets")
    secrets.put(1, "a", "b")
    modes = [path.stat().st_mode & 0o777 for path in (secrets.folder, *sorted(secrets.folder.rglob("*")))]
    assert modes == [0o700, 0o700, 0o600]


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "secrets").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failed, match="isn't safe"):
        Secrets(tmp_path / "secrets")


def test_a_link_in_a_secrets_place_is_not_read(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "secrets")
    secrets.put(1, "a", "b")
    (tmp_path / "other").write_text("foreign")
    (secrets.folder / "1" / "c").symlink_to(tmp_path / "other")
    with pytest.raises(Failed):
        secrets.get(1, "c")
    secrets.forget(1)
    assert (tmp_path / "other").read_text() == "foreign"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../x", "a\n", "a" * 65, "ä"])
def test_names_that_are_not_allowed(tmp_path: Path, name: str) -> None:
    secrets = Secrets(tmp_path / "secrets")
    with pytest.raises(Failed):
        secrets.put(1, name, "x")
    with pytest.raises(Failed):
        secrets.get(1, name)
    assert secrets.list_jobs() == ()


@pytest.mark.parametrize("ref", ["werty123", "secret:0/a", "secret:1/../a", "secret:1/a\n", "secret:x/a"])
def test_what_is_no_reference_is_not_repeated(tmp_path: Path, ref: str) -> None:
    with pytest.raises(Failed) as caught:
        Secrets(tmp_path / "secrets").resolve(ref)
    assert ref not in caught.value.sender + caught.value.operator


def test_too_large(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "secrets")
    with pytest.raises(Failed, match="too large"):
        secrets.put(1, "a", "x" * 70_000)
    assert secrets.get(1, "a") is None


def test_sweep_forgets_the_rest_and_unfinished_files(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "secrets")
    for job in (1, 2, 3):
        secrets.put(job, "a", "b")
    (secrets.folder / "3" / ".a.0123").write_text("crashed here")
    assert secrets.sweep({2, 9}) == 2
    assert secrets.list_jobs() == (2,)


def test_put_and_forget_side_by_side(tmp_path: Path) -> None:
    one, two = Secrets(tmp_path / "secrets"), Secrets(tmp_path / "secrets")

    def store(number: int) -> str | None:
        one.put(1, f"n{number}", "v")
        return one.get(1, f"n{number}")

    with ThreadPoolExecutor(4) as pool:
        stored = [pool.submit(store, number) for number in range(40)]
        forgotten = [pool.submit(two.forget, 1) for _ in range(40)]
        assert {future.result() for future in stored} <= {"v", None}
        assert [future.result() for future in forgotten] == [None] * 40
    two.forget(1)
    assert one.list_jobs() == ()
