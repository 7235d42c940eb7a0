"""scripts/wod-install.sh looks at the whole checkout before it does anything: root builds and plays what is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import require
from wodmail import rootplays

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


# What an environment's Python and its wod-install note: whether they could have the lock. Debian has all packages.
NOTE = '#!/bin/sh\ncase "$*" in *"-c "*) exit 0 ;; esac\nflock --nonblock LOCK true && is=free || is=held\n'
PROGRAMS = {
    "venv/bin/python": NOTE + 'case "$*" in *pip*) echo "pip: $is" >>TOP/calls; [ ! -e TOP/broken ] ;; esac\n',
    "venv/bin/wod-install": NOTE + 'echo "wod-install: $is" >>TOP/calls\n',
    "bin/apt-get": "#!/bin/sh\nexit 1\n",
    "bin/dpkg-query": "#!/bin/sh\necho installed\n",
}
INSTALL = """
mount --bind TOP/run /run && mount --bind TOP/log /var/log && mount --bind TOP/local /usr/local/bin &&
mount --bind TOP/os-release /etc/os-release && exec TREE/scripts/wod-install.sh "$@"
"""


def started(tree: Path, config: str, *options: str) -> subprocess.Popen[str]:
    """An installation with programs of ours in places that are its own; the machine keeps what it has."""
    require("root")
    top = tree.parents[1]
    for name in ("run", "log", "local", "bin"):
        (top / name).mkdir(exist_ok=True)
    (top / "os-release").write_text("ID=debian\nVERSION_ID=12\n")
    lock = f"/run/wodmail-plays{config.replace('/', '-')}.lock"
    for name, text in PROGRAMS.items():
        (top / name).write_text(text.replace("TOP", str(top)).replace("LOCK", lock))
        (top / name).chmod(0o755)
    path = f"{top}/bin:{os.environ['PATH']}"
    text = INSTALL.replace("TOP", str(top)).replace("TREE", str(tree))
    argv = ["unshare", "--mount", "bash", "-c", text, "bash", *options]
    environment = {**os.environ, "PATH": path, "WODMAIL_VENV": str(top / "venv")}
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("options", "config"),
    [((), "/etc/wod.yml"), (("--config", "/etc/two.yml"), "/etc/two.yml"), (("--config=/etc/3.yml",), "/etc/3.yml")],
)
def test_no_play_of_root_s_finds_half_a_wodmail(checkout: Path, options: tuple[str, ...], config: str) -> None:
    """The lock is held while wodmail is put into place, and free again for wod-install."""
    with started(checkout, config, *options) as script:
        _, words = script.communicate()
    top = checkout.parents[1]
    assert script.returncode == 0, words
    assert (top / "calls").read_text() == "pip: held\nwod-install: free\n"
    assert [file.stat().st_mode & 0o777 for file in (top / "run").glob("*.lock")] == [0o600], "nobody else may hold it"


def test_an_environment_stays_ours_when_it_could_not_be_made_new(checkout: Path) -> None:
    """The mark is there, and names no build: wod-check goes on to send people here, and the next call makes it new."""
    top = checkout.parents[1]
    (top / "broken").touch()
    (top / "venv" / rootplays.BUILD).write_text("the one before\n")
    with started(checkout, "/etc/wod.yml") as script:
        _, words = script.communicate()
    assert script.returncode == 1, words
    assert (top / "venv" / rootplays.BUILD).read_text() == ""


def test_the_play_that_is_at_work_ends_first(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, nothing is replaced under it, and the installation goes on by itself."""
    top = checkout.parents[1]
    (top / "run").mkdir()
    monkeypatch.setattr(rootplays, "MEMORY", top / "run")
    with rootplays.alone(Path("/etc/wod.yml"), "wod-check"):
        script = started(checkout, "/etc/wod.yml")
        assert script.stderr is not None
        words = next((line for line in script.stderr if line.startswith("waiting")), "")
        called = (top / "calls").exists()
    _, rest = script.communicate()
    assert words == f"waiting for wod-check (process {os.getpid()}), which is at work on this machine as root\n"
    assert not called and script.returncode == 0, rest
    assert (top / "calls").read_text() == "pip: held\nwod-install: free\n"


def test_a_play_that_does_not_end_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As wod-install would; the half hour is over at once here."""
    top = checkout.parents[1]
    for name in ("run", "bin"):
        (top / name).mkdir()
    (top / "bin" / "flock").write_text("#!/bin/sh\nexit 1\n")
    (top / "bin" / "flock").chmod(0o755)
    monkeypatch.setattr(rootplays, "MEMORY", top / "run")
    with rootplays.alone(Path("/etc/wod.yml"), "wod-check"), started(checkout, "/etc/wod.yml") as script:
        _, words = script.communicate()
    assert script.returncode == 75
    assert f"wod-check (process {os.getpid()}) is at work on this machine as root. Try again" in words
    assert not (top / "calls").exists()
