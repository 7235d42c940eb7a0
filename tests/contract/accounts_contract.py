"""What every implementation of Accounts must do; a test class gives `accounts`, `student`, `outside`, `exporter`."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wodmail.copyfolder import writer
from wodmail.errors import Failed, Refused
from wodmail.students.base import Accounts
from wodmail.students.treewriter import Entry

PASSWORD = "Werty123"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class AccountsContract:
    """One suite for all accounts. `outside` is a folder that a home must never lead to."""

    def test_it_is_accounts(self, accounts: Accounts) -> None:
        assert isinstance(accounts, Accounts)

    def test_an_account_that_is_there(self, accounts: Accounts, student: int) -> None:
        accounts.check(student)
        assert accounts.home(student).name == f"student{student}"
        assert accounts.home(student).is_dir()

    @pytest.mark.parametrize("number", [0, -1, 10**6])
    def test_a_number_that_is_not_ours_is_refused(self, accounts: Accounts, number: int) -> None:
        for ask in (accounts.check, accounts.home, accounts.erase, accounts.verify_erased, accounts.end_processes):
            with pytest.raises(Refused, match="does not exist here"):
                ask(number)
        with pytest.raises(Refused):
            accounts.set_password(number, PASSWORD)

    @pytest.mark.parametrize("word", ["", "two\nlines", "with:colon", "with blank", "ünicode", "x" * 129])
    def test_a_password_that_can_not_be(self, accounts: Accounts, student: int, word: str) -> None:
        with pytest.raises(Failed) as error:
            accounts.set_password(student, word)
        assert not word or word not in error.value.sender + error.value.operator

    def test_erase_leaves_skel_and_a_new_key_pair(self, accounts: Accounts, student: int) -> None:
        home = accounts.home(student)
        accounts.erase(student)
        accounts.verify_erased(student)
        first = (home / ".ssh" / "id_rsa.pub").read_text()
        accounts.erase(student)
        assert sorted(path.name for path in home.iterdir()) == [".bash_logout", ".bashrc", ".profile", ".ssh"]
        assert (home / ".ssh" / "id_rsa.pub").read_text() != first
        assert stat.S_IMODE((home / ".ssh" / "id_rsa").stat().st_mode) == 0o600
        asked = ["ssh-keygen", "-y", "-f", str(home / ".ssh" / "id_rsa")]
        public = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[:2]
        assert public == (home / ".ssh" / "id_rsa.pub").read_text().split()[:2]

    def test_erase_empties_whatever_is_there(self, accounts: Accounts, student: int, outside: Path) -> None:
        accounts.check(student)
        home = accounts.home(student)
        clutter(home, outside)
        own(home)
        accounts.erase(student)
        accounts.verify_erased(student)
        assert sorted(path.name for path in home.iterdir()) == [".bash_logout", ".bashrc", ".profile", ".ssh"]
        assert (outside / "kept").read_text() == "kept"
        assert (outside / "hard").read_text() == "hard"

    def test_what_is_left_is_found(self, accounts: Accounts, student: int) -> None:
        accounts.erase(student)
        for path in ("report.txt", ".ssh/authorized_keys", ".config/deep/file"):
            file = accounts.home(student) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            own(accounts.home(student))
            with pytest.raises(Failed) as error:
                accounts.verify_erased(student)
            assert path.split("/")[-1 if path.startswith(".ssh") else 0] in error.value.operator
            file.unlink()

    def test_notebooks_are_read_and_traps_passed_over(self, accounts: Accounts, student: int, outside: Path) -> None:
        accounts.erase(student)
        folder = accounts.home(student) / "WKSHP-Try101"
        (folder / "part" / ".ipynb_checkpoints").mkdir(parents=True)
        text = json.dumps({"cells": []}).encode()
        for path in ("b.ipynb", "part/a.ipynb", "part/.ipynb_checkpoints/a-checkpoint.ipynb", "notes.txt"):
            (folder / path).write_bytes(text)
        (outside / "secret.ipynb").write_bytes(b"{}")
        (folder / "link.ipynb").symlink_to(outside / "secret.ipynb")
        (folder / "linked").symlink_to(outside)
        os.mkfifo(folder / "pipe.ipynb")
        with (folder / "huge.ipynb").open("wb") as file:
            file.truncate(17 * 1024 * 1024)
        own(accounts.home(student))
        wanted = [("b.ipynb", text), ("part/a.ipynb", text)]
        assert accounts.notebooks(student, "WKSHP-Try101") == wanted
        assert accounts.notebooks(student, "CHLG-Try101") == wanted
        assert accounts.notebooks(student, "WKSHP-None") == []

    def test_notebooks_are_added_over_those_of_the_same_name(
        self, accounts: Accounts, student: int, outside: Path
    ) -> None:
        accounts.erase(student)
        folder = accounts.home(student) / "WKSHP-Try101"
        folder.mkdir()
        (folder / "a.ipynb").symlink_to(outside / "kept")
        (folder / "kept.ipynb").write_bytes(b"old")
        (folder / "part").symlink_to(outside)
        own(accounts.home(student))
        found = [("a.ipynb", b"new"), ("part/b.ipynb", b"deep")]
        assert accounts.add_notebooks(student, "CHLG-Try101", found) == 2
        assert accounts.notebooks(student, "WKSHP-Try101") == [
            ("a.ipynb", b"new"),
            ("kept.ipynb", b"old"),
            ("part/b.ipynb", b"deep"),
        ]
        owner = accounts.home(student).stat().st_uid
        assert {path.lstat().st_uid for path in folder.rglob("*")} == {owner}
        assert not (outside / "b.ipynb").exists()
        assert accounts.add_notebooks(student, "WKSHP-Try101", []) == 0
        with pytest.raises(Failed):
            accounts.add_notebooks(student, "WKSHP-Try101", [("../../up.ipynb", b"")])

    def test_a_workshop_folder_that_is_a_link_is_not_read(
        self, accounts: Accounts, student: int, outside: Path
    ) -> None:
        accounts.erase(student)
        (outside / "secret.ipynb").write_bytes(b"{}")
        (accounts.home(student) / "WKSHP-Try101").symlink_to(outside)
        assert accounts.notebooks(student, "WKSHP-Try101") == []

    def test_a_home_that_is_a_link_is_refused_and_nothing_outside_changes(
        self, accounts: Accounts, student: int, outside: Path
    ) -> None:
        accounts.check(student)
        home = accounts.home(student)
        aside = home.with_name("aside")
        home.rename(aside)
        before = sorted(path.name for path in outside.iterdir())
        try:
            home.symlink_to(outside)
            for ask in (accounts.check, accounts.erase, accounts.verify_erased):
                with pytest.raises(Failed, match="it is a link") as error:
                    ask(student)
                assert str(home) in error.value.operator
            with pytest.raises(Failed, match="it is a link"):
                accounts.notebooks(student, "WKSHP-Try101")
        finally:
            home.unlink()
            aside.rename(home)
        assert sorted(path.name for path in outside.iterdir()) == before

    def test_programs_come_into_the_home(self, accounts: Accounts, student: int, outside: Path) -> None:
        accounts.erase(student)
        home = accounts.home(student)
        (outside / "kept").write_text("kept")
        (home / "train").symlink_to(outside / "kept")
        (home / "check-1.2").write_text("old")
        (home / "work" / "deep").mkdir(parents=True)
        own(home)
        with writer.opened(accounts.writer_argv(), str(home.parent)) as opened:
            wanted = [Entry("train", "file", 0o4777, b"#!/bin/sh\nid -u\n"), Entry("check-1.2", "file", data=b"new")]
            opened.put_programs(student, wanted)
            for bad in ("work", ".bashrc", ".ssh/authorized_keys", "../x", "/tmp/x", "-x", "", "a\n", "x" * 101):
                with pytest.raises(Failed, match="could not be written into the home"):
                    opened.put_programs(student, [Entry(bad, "file", data=b"bad")])
            with pytest.raises(Failed, match="could not be written into the home"):
                opened.put_programs(student, [Entry("link", "link", target="/etc/passwd")])
        assert (outside / "kept").read_text() == "kept"
        assert (home / "check-1.2").read_bytes() == b"new"
        for name in ("train", "check-1.2"):
            status = (home / name).lstat()
            assert (stat.filemode(status.st_mode), status.st_uid) == ("-rwx------", home.stat().st_uid)
        names = sorted(path.name for path in home.iterdir())
        assert names == [".bash_logout", ".bashrc", ".profile", ".ssh", "check-1.2", "train", "work"]
        uid = home.stat().st_uid
        done = subprocess.run([home / "train"], user=uid, cwd="/", capture_output=True, text=True, check=True)
        assert done.stdout == f"{uid}\n"

    @pytest.mark.usefixtures("exporter")
    def test_notebooks_are_exported_as_the_student_and_traps_lead_nowhere(
        self, accounts: Accounts, student: int, outside: Path
    ) -> None:
        accounts.erase(student)
        folder = accounts.home(student) / "WKSHP-Try101"
        (folder / "part").mkdir(parents=True)
        (outside / "secret.png").write_bytes(PNG)
        (outside / "secret.ipynb").write_text(notebook("the-line-of-another-user"))
        (outside / "kept.docx").write_bytes(b"kept")
        traps = f"![a](../../{outside.name}/secret.png) ![b]({outside}/secret.png) ![c](linked/secret.png)"
        (folder / "part" / "a.ipynb").write_text(notebook(f"hello {traps}"))
        (folder / "broken.ipynb").write_text("{")
        (folder / "link.ipynb").symlink_to(outside / "secret.ipynb")
        (folder / "linked").symlink_to(outside)
        (folder / "part" / "a.docx").symlink_to(outside / "kept.docx")
        own(accounts.home(student))
        broken, made = accounts.export(student, "CHLG-Try101", "docx")
        assert (broken.notebook, broken.path, broken.data) == ("broken.ipynb", "", None)
        assert "no valid notebook" in broken.error
        assert (made.notebook, made.path, made.error) == ("part/a.ipynb", "part/a.wodmail.docx", "")
        assert (folder / "part" / "a.docx").is_symlink() and "a.docx was not made by an export" in made.note
        file = folder / "part" / "a.wodmail.docx"
        status = file.lstat()
        assert (stat.filemode(status.st_mode), status.st_uid) == ("-rw-r--r--", accounts.home(student).stat().st_uid)
        assert (file.read_bytes(), status.st_size) == (made.data, made.size)
        with zipfile.ZipFile(io.BytesIO(made.data or b"")) as archive:
            assert "hello" in archive.read("word/document.xml").decode()
            assert not [name for name in archive.namelist() if name.startswith("word/media/")]
        assert (outside / "kept.docx").read_bytes() == b"kept"
        assert not list(folder.glob("link.*x"))

    @pytest.mark.usefixtures("exporter")
    def test_nothing_to_export(self, accounts: Accounts, student: int, outside: Path) -> None:
        accounts.erase(student)
        (outside / "secret.ipynb").write_text(notebook("the-line-of-another-user"))
        with pytest.raises(Refused, match=f"student{student} has no folder WKSHP-Try101"):
            accounts.export(student, "WKSHP-Try101", "pdf")
        folder = accounts.home(student) / "WKSHP-Try101"
        folder.symlink_to(outside)
        with pytest.raises(Refused, match="has no folder WKSHP-Try101"):
            accounts.export(student, "WKSHP-Try101", "pdf")
        assert not (outside / "secret.pdf").exists()
        folder.unlink()
        folder.mkdir()
        own(accounts.home(student))
        with pytest.raises(Refused, match=f"There is no notebook in WKSHP-Try101 of student{student}"):
            accounts.export(student, "WKSHP-Try101", "pdf")

    def test_many_calls_at_once(self, accounts: Accounts, student: int) -> None:
        with ThreadPoolExecutor(12) as pool:
            done = [pool.submit(accounts.erase, student) for _ in range(3)]
            done += [pool.submit(accounts.set_password, student, PASSWORD) for _ in range(3)]
            done += [pool.submit(accounts.check, student) for _ in range(20)]
            assert [each.result(60) for each in done] == [None] * 26
        accounts.verify_erased(student)

    def test_one_ends_the_processes_while_another_has_just_become_the_student(
        self, accounts: Accounts, student: int
    ) -> None:
        with ThreadPoolExecutor(12) as pool:
            done = [pool.submit(each, student) for _ in range(100) for each in (accounts.check, accounts.end_processes)]
            # Workers on their way out may be counted; none may be hit.
            assert all((each.result(60) or 0) >= 0 for each in done)

    def test_closing_is_not_the_end(self, accounts: Accounts, student: int) -> None:
        accounts.close()
        accounts.check(student)
        accounts.close()
        accounts.close()


def notebook(text: str) -> str:
    """A notebook with that text in its one cell."""
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def clutter(home: Path, outside: Path) -> None:
    """Fill a home with everything that is hard to remove or leads out of it."""
    (outside / "kept").write_text("kept")
    (outside / "hard").write_text("hard")
    (home / "to-folder").symlink_to(outside)
    (home / "to-file").symlink_to(outside / "kept")
    (home / "dangling").symlink_to("/nowhere/at/all")
    os.link(outside / "hard", home / "hard")
    os.mkfifo(home / "pipe")
    (home / "odd\nname\udcff".encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")).touch()
    (home / "shut" / "inner").mkdir(parents=True)
    (home / "shut" / "inner" / "file").touch(0o000)
    (home / "shut" / "inner" / "to-folder").symlink_to(outside)
    here = os.open(home, os.O_RDONLY)
    try:
        for _ in range(700):
            os.mkdir("deep", dir_fd=here)
            inner = os.open("deep", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
    finally:
        os.close(here)


def own(home: Path) -> None:
    """Give a whole tree to the home's owner (tests run as root make it), then shut some of it."""
    status = home.stat()
    for folder, folders, files, handle in os.fwalk(home, follow_symlinks=False):
        del folder
        for name in (*folders, *files):
            os.chown(name, status.st_uid, status.st_gid, dir_fd=handle, follow_symlinks=False)
    for name in ("shut/inner", "shut"):
        if (home / name).is_dir():
            (home / name).chmod(0o000)
