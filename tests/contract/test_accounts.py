"""The accounts contract on the sandbox and on real Linux users, and what only one of them does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import asuser
from tests.contract.accounts_contract import PASSWORD, AccountsContract
from tests.linux_students import FIRST, AsService, Site, site
from tests.parts import missing
from wodmail import students
from wodmail.config import Settings
from wodmail.errors import Failed
from wodmail.students import install
from wodmail.students.base import Accounts
from wodmail.students.sandbox import SandboxAccounts


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside every home."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


class TestSandbox(AccountsContract):
    """Plain folders."""

    @pytest.fixture
    def exporter(self) -> None:
        """Notebooks can be exported: whoever has the tests has it."""

    @pytest.fixture
    def accounts(self, tmp_path: Path) -> Accounts:
        """Accounts in a state folder of their own."""
        found = students.for_settings(Settings(WODSANDBOX=True, WODSTATEDIR=tmp_path / "state", WODUSERMAX=200))
        assert isinstance(found, SandboxAccounts)
        return found

    @pytest.fixture
    def student(self) -> int:
        """A student."""
        return 121

    def test_only_a_hash_of_the_password_is_kept(self, accounts: SandboxAccounts, tmp_path: Path) -> None:
        assert not accounts.verify_password(121, PASSWORD)
        accounts.set_password(121, "Another1")
        accounts.set_password(121, PASSWORD)
        assert accounts.verify_password(121, PASSWORD)
        assert not accounts.verify_password(121, "Another1")
        kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
        assert [path.stat().st_mode & 0o777 for path in kept] == [0o600]
        assert PASSWORD not in kept[0].read_text()

    def test_private_skel_lies_over_the_public_one(self, tmp_path: Path) -> None:
        private = tmp_path / "priv" / "sys" / "skel"
        (private / "folder").mkdir(parents=True)
        (private / ".bashrc").write_text("private")
        (private / "folder" / "tool").write_text("tool")
        (private / "folder" / "tool").chmod(0o755)
        accounts = SandboxAccounts(
            Settings(WODSANDBOX=True, WODSTATEDIR=tmp_path / "s", WODPRIVDIR=tmp_path / "priv", WODSSHKEYTYPE="ed25519")
        )
        accounts.erase(5)
        accounts.verify_erased(5)
        home = accounts.home(5)
        assert (home / ".bashrc").read_text() == "private"
        assert (home / ".profile").is_file()
        assert (home / "folder" / "tool").stat().st_mode & 0o777 == 0o755
        assert (home / ".ssh" / "id_ed25519.pub").read_text().startswith("ssh-ed25519 ")

    def test_the_plugin_writes_directly(self, accounts: Accounts) -> None:
        assert accounts.writer_argv() == []


@pytest.fixture(scope="module")
def linux_site() -> Iterator[Site]:
    """Real users, once for this file."""
    with site() as made, asuser.reachable(f"student{FIRST}"):
        yield made


@pytest.mark.root
@pytest.mark.xdist_group("linux-accounts")
class TestLinux(AccountsContract):
    """Real users, reached by an unprivileged one through sudo."""

    @pytest.fixture
    def exporter(self) -> None:
        """Notebooks can be exported: by a program that nobody but root can change."""
        if not install.exporter():
            missing("exporter", "wod-generate-pdf beside this python could be changed by others than root")

    @pytest.fixture
    def accounts(self, linux_site: Site) -> AsService:
        """Accounts as the service user reaches them."""
        return linux_site.accounts

    @pytest.fixture
    def student(self) -> int:
        """A student."""
        return FIRST

    def test_the_plugin_writes_through_the_helper(self, linux_site: Site) -> None:
        found = students.for_settings(linux_site.settings)
        assert found.writer_argv() == ["sudo", "-n", str(linux_site.settings.WODHELPER)]

    def test_a_helper_that_is_not_there(self, linux_site: Site, tmp_path: Path) -> None:
        accounts = AsService(linux_site.settings.model_copy(update={"WODHELPER": tmp_path / "none"}))
        with pytest.raises(Failed, match="can't be reached") as error:
            accounts.check(FIRST)
        assert "wodmail helper install" in error.value.operator
        assert "password is required" in error.value.operator
