"""The blocks of docs/operations.md that update a backend, as they stand there: real git and tar, the rest stands in."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from wodmail import rootplays

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
UPDATE, BACK = re.findall(r"^ {4}\(\n(?: {4}.*\n)+? {4}\)\n", PAGE, re.MULTILINE)
PLACES = {"/opt/wod/wod-backend": "wod-backend", "/var/lib": "lib", "/root": "root", "/run": "run"}
WHO = {"NAME": "tests", "EMAIL": "tests@example.org"}
# Each says what it was called for. Between `stop` and `start` there is a file beside the databases; dates are counted.
CALLED = 'echo "${0##*/} $*" >>TOP/calls\n'
PROGRAMS = {
    "wodmail": CALLED,
    "systemctl": CALLED
    + "case $1 in stop) touch TOP/lib/wodmail/stopped ;; start) rm TOP/lib/wodmail/stopped ;; esac\n",
    "date": "n=$(cat TOP/moment 2>/dev/null || echo 0); echo $((n + 1)) | tee TOP/moment\n",
}
INSTALL = '#!/bin/sh\necho "wod-install.sh $(cat version)" >>TOP/calls\n[ ! -e TOP/broken ]\n'


@dataclass(frozen=True)
class Backend:
    """A checkout with its repository, and programs that stand in.

    Args:
        top: holds everything.
    """

    top: Path

    @property
    def checkout(self) -> Path:
        """WODBEDIR."""
        return self.top / "wod-backend"

    def git(self, *words: str, at: Path | None = None) -> str:
        """What git says, in the checkout or elsewhere."""
        done = subprocess.run(
            ["git", *words],
            cwd=at or self.checkout,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def newer(self, version: str) -> None:
        """A newer version upstream."""
        upstream = self.top / "upstream"
        (upstream / "version").write_text(version)
        self.git("commit", "--quiet", "--all", "--message", version, at=upstream)

    def _environment(self) -> dict[str, str]:
        who = {f"GIT_{role}_{key}": word for role in ("AUTHOR", "COMMITTER") for key, word in WHO.items()}
        own = {"PATH": f"{self.top}/bin:{os.environ['PATH']}", "HOME": str(self.top), "GIT_CONFIG_NOSYSTEM": "1"}
        return {**own, **who}

    def paste(self, block: str, status: int = 0) -> list[str]:
        """Run a block, its places turned to ours; gives what was called meanwhile."""
        for place, ours in PLACES.items():
            block = block.replace(place, f"{self.top}/{ours}")
        (self.top / "calls").write_text("")
        argv = ["bash", "-c", block]
        done = subprocess.run(argv, cwd="/", env=self._environment(), capture_output=True, text=True, check=False)
        assert done.returncode == status, done
        return (self.top / "calls").read_text().splitlines()

    def back(self, tag: str) -> list[str]:
        """Run the block of the way back to that moment."""
        block, count = re.subn(r"before-update-\d+-\d+", tag, BACK)
        assert count == 1
        return self.paste(block)

    def saved(self, name: str) -> list[str]:
        """What a copy of the state folder holds."""
        with tarfile.open(self.top / "root" / f"{name}.tar") as packed:
            return sorted(packed.getnames())


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    """A backend with version 1."""
    for name in ("bin", "root", "run", "upstream/scripts", "upstream/ansible/group_vars", "lib/wodmail"):
        (tmp_path / name).mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n" + text.replace("TOP", str(tmp_path)))
        (tmp_path / "bin" / name).chmod(0o755)
    upstream = tmp_path / "upstream"
    (upstream / "scripts" / "wod-install.sh").write_text(INSTALL.replace("TOP", str(tmp_path)))
    (upstream / "scripts" / "wod-install.sh").chmod(0o755)
    (upstream / "ansible" / "group_vars" / "all.yml").write_text("{}\n")
    (upstream / "version").write_text("1")
    made = Backend(tmp_path)
    made.git("init", "--quiet", "--initial-branch=main", at=upstream)
    made.git("add", "--all", at=upstream)
    made.git("commit", "--quiet", "--message", "1", at=upstream)
    made.git("clone", "--quiet", str(upstream), str(made.checkout), at=tmp_path)
    return made


DRAINED = "wodmail drain --wait --timeout 1800 --reason update"
STOPPED = ["systemctl stop wodmail", "systemctl start wodmail"]


def test_an_update_the_way_back_and_the_update_once_more(backend: Backend) -> None:
    """Each time the branch is where it should be, and the databases are copied while nobody writes to them."""
    backend.newer("2")
    assert backend.paste(UPDATE) == [DRAINED, *STOPPED, "wod-install.sh 2", "wodmail resume"]
    assert backend.saved("before-update-1") == ["wodmail", "wodmail/stopped"]
    assert (backend.top / "root" / "before-update-1.tar").stat().st_mode & 0o077 == 0
    assert (backend.checkout / "version").stat().st_mode & 0o777 == 0o644
    assert backend.back("before-update-1")[1:] == ["wod-install.sh 1", "wodmail resume"]
    backend.newer("3")
    assert backend.paste(UPDATE)[-2:] == ["wod-install.sh 3", "wodmail resume"]
    assert backend.git("branch", "--show-current") == "main"
    assert backend.back("before-update-2")[1:] == ["wod-install.sh 1", "wodmail resume"]
    assert backend.paste(UPDATE)[-2:] == ["wod-install.sh 3", "wodmail resume"]


def test_an_update_that_fails_can_be_done_again(backend: Backend) -> None:
    """It stays drained, and the way back still leads to the version that worked."""
    backend.newer("2")
    (backend.top / "broken").touch()
    assert backend.paste(UPDATE, status=1)[-1] == "wod-install.sh 2"
    (backend.top / "broken").unlink()
    assert backend.paste(UPDATE)[-2:] == ["wod-install.sh 2", "wodmail resume"]
    assert backend.back("before-update-1")[1:] == ["wod-install.sh 1", "wodmail resume"]


def test_without_a_copy_nothing_is_updated(backend: Backend) -> None:
    """The service runs again, too."""
    backend.newer("2")
    (backend.top / "root").rmdir()
    assert backend.paste(UPDATE, status=1) == [DRAINED, *STOPPED]
    assert (backend.checkout / "version").read_text() == "1"


def test_what_a_site_has_changed_is_kept(backend: Backend) -> None:
    """Not committed it is refused before anything is changed; committed, it comes along, there and back."""
    backend.newer("2")
    (backend.checkout / "ansible" / "group_vars" / "all.yml").write_text("A: 1\n")
    assert backend.paste(UPDATE, status=1) == [DRAINED, *STOPPED]
    backend.git("commit", "--quiet", "--all", "--message", "ours")
    assert backend.paste(UPDATE)[-2:] == ["wod-install.sh 2", "wodmail resume"]
    backend.back("before-update-2")
    backend.newer("3")
    assert backend.paste(UPDATE)[-2:] == ["wod-install.sh 3", "wodmail resume"]
    assert (backend.checkout / "ansible" / "group_vars" / "all.yml").read_text() == "A: 1\n"


def test_a_backend_that_took_another_one_s_place_can_be_updated(backend: Backend) -> None:
    """Its public variables are beside ours, in a folder that both Ansible and wodmail read."""
    (copied,) = re.findall(r"^ {4}mkdir .*\n {4}cp .*group_vars.*\n", PAGE, re.MULTILINE)
    old = backend.top / "wod-backend.old" / "ansible" / "group_vars"
    old.mkdir(parents=True)
    for name in ("all.yml", "production"):
        (old / name).write_text(f"{name.partition('.')[0]}: 1\n")
    backend.paste(f"set -e; cd {backend.top}\n{copied}")
    backend.newer("2")
    assert backend.paste(UPDATE)[-2:] == ["wod-install.sh 2", "wodmail resume"]
    folder = backend.checkout / "ansible" / "group_vars"
    assert sorted(path.name for path in (folder / "production").iterdir()) == ["all.yml", "production"]
    assert (folder / "all.yml").read_text() == "{}\n"


def test_no_file_is_replaced_under_a_play_of_root_s(backend: Backend) -> None:
    """A check of the night ends first; one that does not ends the update, which can be done again."""
    lock = backend.top / "run" / "wodmail-plays-etc-wod.yml.lock"
    assert rootplays.lock_file(Path("/etc/wod.yml")).name == lock.name
    backend.newer("2")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        hurried = UPDATE.replace("--timeout 1800 /run", "--timeout 0 /run")
        assert hurried != UPDATE
        assert backend.paste(hurried, status=1) == [DRAINED, *STOPPED]
        assert (backend.checkout / "version").read_text() == "1"
    assert backend.paste(UPDATE)[-2:] == ["wod-install.sh 2", "wodmail resume"]
