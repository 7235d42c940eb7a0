"""copy_folder into the homes of real Linux users, through the root helper."""

from __future__ import annotations

import pwd
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.copying import WORKSHOPS, Desk
from tests.linux_students import FIRST, SERVICE, Site, site
from wodmail.copyfolder.writer import HelperWriter
from wodmail.errors import Failed

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux-copy")]


@pytest.fixture(scope="module")
def linux() -> Iterator[Site]:
    """Real users, once for this file."""
    with site() as made:
        yield made


@pytest.fixture
def desk(linux: Site, tmp_path: Path) -> Desk:
    """Playbooks that write through the helper."""
    for name in ("public", "private"):
        (tmp_path / name).mkdir()
    changes = {
        "WODNOBO": WORKSHOPS,
        "WODANSIBLEDIR": tmp_path / "public",
        "WODANSIBLEPRIVDIR": tmp_path / "private",
        "WODSTATEDIR": tmp_path / "state",
        "BRANDINGWOD": "Own Workshops",
    }
    (tmp_path / "state").mkdir()
    settings = linux.settings.model_copy(update=changes)
    return Desk(settings, linux.accounts)


def test_files_belong_to_the_student_and_the_service_may_read_them(linux: Site, desk: Desk) -> None:
    (desk.home(FIRST) / "WKSHP-Some101").mkdir()
    (desk.home(FIRST) / "WKSHP-Some101" / "left-over").write_text("by root, in the student's folder")
    (desk.home(FIRST) / "WKSHP-Some101").chmod(0o777)
    assert desk.copy("WKSHP-Some101", FIRST).files == 2
    folder = desk.home(FIRST) / "WKSHP-Some101"
    written = [folder, *folder.rglob("*"), *(desk.home(FIRST) / ".jupyter").rglob("*")]
    assert len(written) >= 7
    for path in written:
        assert path.stat().st_uid == linux.uid(FIRST), path
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path
    assert not (folder / "left-over").exists()
    rights = subprocess.run(["getfacl", "-pc", str(folder)], capture_output=True, text=True, check=True).stdout
    assert f"user:{SERVICE}:rwx" in rights
    assert f"default:user:{SERVICE}:rwx" in rights


def test_what_private_task_files_made_survives_and_becomes_the_students(
    linux: Site, desk: Desk, tmp_path: Path
) -> None:
    student = FIRST + 1
    made = desk.home(student) / "WKSHP-Small101" / "made-before.txt"
    task = "- name: Leave a file\n  ansible.builtin.copy:\n    content: x\n    dest: {}\n    mode: '0644'\n"
    (tmp_path / "private/pre_templating.yml").write_text(task.format(made))
    (tmp_path / "private/post_templating.yml").write_text(task.format(made.with_name("made-after.txt")))
    (tmp_path / "public/group_vars").mkdir()
    (tmp_path / "public/group_vars/all.yml").write_text("IP-WKSHP-Small101: 10.0.0.1\n")
    desk.copy("WKSHP-Small101", student)
    for path in (made, made.with_name("made-after.txt")):
        assert path.read_text() == "x"
        assert path.stat().st_uid == linux.uid(student)
    assert f"# Student {FIRST + 1} of Own Workshops" in (made.parent / "0-ReadMeFirst.ipynb").read_text()
    assert (made.parent / "Pictures/odd.bin").read_bytes() == (
        WORKSHOPS / "WKSHP-Small101/Pictures/odd.bin"
    ).read_bytes()


def test_a_home_that_is_a_link_to_elsewhere_is_told_and_left_alone(linux: Site, desk: Desk, tmp_path: Path) -> None:
    home = desk.home(FIRST + 2)
    kept = home.rename(home.with_name("kept"))
    home.symlink_to(tmp_path)
    try:
        with pytest.raises(Failed, match=f"could not be written into the home of student{FIRST + 2}"):
            desk.copy("WKSHP-Some101", FIRST + 2)
    finally:
        home.unlink()
        kept.rename(home)
    assert not (tmp_path / "WKSHP-Some101").exists()


def test_a_helper_that_cannot_be_started_is_told(desk: Desk) -> None:
    class Nobody:
        """Accounts whose helper is not installed."""

        def writer_argv(self) -> list[str]:
            """A program that isn't there."""
            return ["sudo", "-n", "/nonexistent/helper"]

    with pytest.raises(Failed, match="helper that writes into homes did not answer") as caught:
        Desk(desk.settings, Nobody()).copy("WKSHP-Some101", FIRST)
    assert "/nonexistent/helper" in caught.value.operator


def test_folders_that_the_service_made_become_the_students(linux: Site, desk: Desk) -> None:
    student = FIRST + 3
    desk.copy("WKSHP-Some101", student)
    folder = desk.home(student) / "WKSHP-Some101"
    user = pwd.getpwnam(SERVICE)
    made = "mkdir -p made/deep; echo data > made/deep/file; ln -s file made/deep/link; chmod 640 made/deep/file"
    subprocess.run(["sh", "-c", made], cwd=folder, user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=True)
    assert (folder / "made/deep/file").stat().st_uid == user.pw_uid
    writer = HelperWriter(linux.accounts.writer_argv())
    with writer:
        writer.write(student, "WKSHP-Some101", [], [])
    for path in (folder / "made").rglob("*"):
        assert path.lstat().st_uid == linux.uid(student), path
    assert (folder / "made/deep/file").read_text() == "data\n"
    assert (folder / "made/deep/link").readlink() == Path("file")
    assert not list(folder.rglob("*.new"))
