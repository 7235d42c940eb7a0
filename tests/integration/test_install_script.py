"""scripts/wod-install.sh looks at the whole checkout before it does anything: root builds and plays what is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
SCRIPT = Path(__file__).parents[2] / "scripts" / "wod-install.sh"
NOBODY = 65534
FILES = ("setup.cfg", "wodmail/config.py", "ansible/check_backend.yml", ".git/hooks/post-merge")


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A checkout of root's in a folder that all may read, and an environment whose program says that it was called."""
    top = Path(tempfile.mkdtemp(prefix="wodmail-tests-", dir="/var/tmp"))
    try:
        top.chmod(0o755)
        tree = top / "wod" / "backend"
        (tree / ".git" / "objects").mkdir(parents=True)
        for name in FILES:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).touch()
        (tree / "scripts").mkdir()
        shutil.copy(SCRIPT, tree / "scripts")
        program = top / "venv" / "bin" / "wod-install"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\necho it was called\n")
        program.chmod(0o755)
        yield tree
    finally:
        shutil.rmtree(top)


def call(tree: Path) -> tuple[int, str, str]:
    """An audit, which goes no farther than to the program of the environment: status and output."""
    environment = {**os.environ, "WODMAIL_VENV": str(tree.parents[1] / "venv")}
    argv = [str(tree / "scripts" / "wod-install.sh"), "--check"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_checkout_of_root_s_is_taken(checkout: Path) -> None:
    """Git's objects, and what wodmail keeps for WODUSER in its trees, may be others'."""
    for name in (".git/objects/one", "ansible/production/pass/variables", "ansible/vault_secret"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
        os.chown(checkout / name, NOBODY, NOBODY)
    (checkout / "link").symlink_to("setup.cfg")
    assert call(checkout) == (0, "it was called\n", "")


@pytest.mark.parametrize("name", [*FILES, ".", "..", "link"])
def test_what_others_own_is_refused(checkout: Path, name: str) -> None:
    (checkout / "link").symlink_to("setup.cfg")
    strange = checkout / name
    os.chown(strange, NOBODY, NOBODY, follow_symlinks=False)
    status, out, words = call(checkout)
    assert (status, out) == (78, "")
    assert words.startswith(f"wod-install.sh: {Path(os.path.normpath(strange))} can be changed by others")
    assert "nothing was changed" in words


@pytest.mark.parametrize("name", [*FILES, ".", ".."])
def test_what_others_may_write_is_refused(checkout: Path, name: str) -> None:
    """A folder like /tmp will do above a checkout, but not in it."""
    (checkout / name).chmod(0o757)
    assert call(checkout)[0] == 78
    (checkout / name).chmod(0o1777)
    assert call(checkout)[0] == (0 if name == ".." else 78)


def test_a_checkout_that_woduser_can_not_read_is_refused(checkout: Path) -> None:
    """As wod-install would, but before it is built and put into place."""
    checkout.parent.chmod(0o750)
    status, _, words = call(checkout)
    assert status == 78 and f"{checkout.parent} is shut for WODUSER" in words
