"""The demonstration, from the checkout and from a wheel in a fresh environment."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil

from tests.parts import require
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
FOLDERS = ("ansible", "conf", "procmail", "scripts", "sys")


def run(argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment that knows nothing of this test's."""
    environment = {"HOME": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    return subprocess.run(argv, cwd=folder, capture_output=True, encoding="utf-8", check=False, env=environment)


def check(done: subprocess.CompletedProcess[str]) -> None:
    """The demo ended well and showed what it is to show."""
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    for student in (1, 2, 3):
        assert f"Subject: Re: CREATE {student} 0: done" in shown
        assert f"Subject: Re: CLEANUP {student} 0: done" in shown
        assert re.search(
            rf"^end of procmail-action for student {student} \(passwd \w{{8}}\) .* CREATE", shown, re.MULTILINE
        )
    assert "Subject: Re: CREATE 4 0: refused" in shown
    assert re.search(r"^\+.*student 1\b", shown, re.MULTILINE)
    assert re.search(r"^-.*\{\{", shown, re.MULTILINE)
    assert shown.rstrip().splitlines()[-1].startswith("end of procmail-action for student ")


def test_demo_from_the_checkout(tmp_path: Path) -> None:
    require("ssh-keygen")
    check(run([sys.executable, "-m", "wodmail", "demo", "--folder", str(tmp_path / "demo")], tmp_path))


def test_demo_can_be_kept(tmp_path: Path) -> None:
    require("ssh-keygen")
    done = run([sys.executable, "-m", "wodmail", "demo", "--keep", "--folder", str(tmp_path / "demo")], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"process (\d+) on ", done.stdout)
    assert found is not None
    server = psutil.Process(int(found[1]))
    try:
        file = str(tmp_path / "demo" / "wod.yml")
        command = [sys.executable, "-m", "wodmail.cli.test_action", "--config", file, "--wait"]
        again = run([*command, "CREATE", "WKSHP-Demo101", "4"], tmp_path)
        assert again.returncode == 0, again.stdout + again.stderr
        assert re.search(r"^end of procmail-action for student 4 \(passwd \w{8}\)", again.stdout, re.MULTILINE)
    finally:
        server.send_signal(signal.SIGTERM)
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, what="the server's end")


def test_demo_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious", encoding="ascii")
    done = run([sys.executable, "-m", "wodmail", "demo", "--folder", str(tmp_path)], tmp_path)
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def tree(folder: Path) -> set[str]:
    """The files of our own folders as they are to be in the wheel."""
    found = {
        path.relative_to(folder).as_posix() for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file()
    }
    return {f"wodmail/share/{name}" for name in found if "__pycache__" not in name}


def test_wheel_is_complete_and_runs_the_demo(tmp_path: Path) -> None:
    require("ssh-keygen")
    source = tmp_path / "source"
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "docs", "benchmarks")
    shutil.copytree(ROOT, source, ignore=lambda folder, names: skip(folder, names) if Path(folder) == ROOT else set())
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "pip"), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("wodmail-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert tree(source) <= names
    assert [name for name in names if "__pycache__" in name or name.startswith("tests")] == []
    assert "wodmail/py.typed" in names
    subprocess.run([*pip, "install", "--no-compile", str(wheel)], check=True)
    shutil.rmtree(source)
    check(run([str(environment / "bin" / "wodmail"), "demo"], tmp_path))
