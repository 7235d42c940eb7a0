"""The script that builds the Rust kernel: what it calls on each distribution, with stand-ins for what it calls."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import yaml

from tests.parts import program, require
from wodmail import paths

RELEASES = {
    "Debian-12": 'ID=debian\nVERSION_ID="12"\n',
    "Debian-13": 'ID=debian\nVERSION_ID="13"\n',
    "Ubuntu-22": 'ID=ubuntu\nVERSION_ID="22.04"\n',
    "Ubuntu-24": 'ID=ubuntu\nVERSION_ID="24.04"\n',
    "Rocky-9": 'ID="rocky"\nVERSION_ID="9.6"\n',
    "Mint-22": 'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22.1"\n',
}
TOOLS = ("bash", "sh", "cat", "chmod", "cp", "grep", "mkdir", "mktemp", "rm", "sha256sum", "sort", "touch", "uname")
TRIPLE = f"{platform.machine()}-unknown-linux-gnu"
NOTE = 'printf "%s\\n" "${0##*/} $*" >>"$CALLS"\n'
CARGO = f"""{NOTE}
if [ "$1" = --version ]; then echo "cargo @VERSION@ (abcdef 2026-01-01)"; exit; fi
while [ $# -gt 1 ]; do if [ "$1" = --root ]; then root=$2; fi; shift; done
mkdir -p "$root/bin"
cp "$STANDINS/evcxr" "$root/bin/evcxr_jupyter"
"""
EVCXR = f"""{NOTE}
mkdir -p "$JUPYTER_PATH/kernels/rust"
printf '{{"argv": ["%s", "--control_file", "{{connection_file}}"]}}' "$0" >"$JUPYTER_PATH/kernels/rust/kernel.json"
"""
RUSTUP = f"""{NOTE}
mkdir -p "$RUSTUP_HOME/toolchains/1.88.0-{TRIPLE}/bin"
cp "$STANDINS/new-cargo" "$RUSTUP_HOME/toolchains/1.88.0-{TRIPLE}/bin/cargo"
"""
CURL = f"""{NOTE}
for word; do if [ "${{previous-}}" = --output ]; then output=$word; fi; previous=$word; done
case $output in
  *.sha256) cp "$STANDINS/sum" "$output" ;;
  *) cp "$STANDINS/rustup" "$output" ;;
esac
"""
JUPYTER = """
if [ -e "${0%/bin/*}/share/jupyter/kernels/rust/kernel.json" ]; then echo '{"kernelspecs": {"rust": {}}}'; fi
"""


class Machine:
    """A machine of a distribution, as the script sees it: a JPHUB, a PATH of stand-ins, what was called.

    Args:
        folder: for all of it.
        release: its os-release.
        cargo: the version of the distribution's cargo, empty when there is none.
        programs: further stand-ins of the PATH.
    """

    def __init__(self, folder: Path, release: str, *, cargo: str = "", programs: tuple[str, ...] = ("curl",)) -> None:
        self.hub, self.calls = folder / "opt hub", folder / "calls"
        self._standins, self._path = folder / "standins", folder / "path"
        for place in (self._standins, self._path, self.hub / "bin"):
            place.mkdir(parents=True)
        texts = {
            "new-cargo": CARGO.replace("@VERSION@", "1.88.0"),
            "cargo": CARGO.replace("@VERSION@", cargo),
            "evcxr": EVCXR,
            "rustup": RUSTUP,
            "curl": CURL,
        }
        for name, text in texts.items():
            self._program(self._standins / name, text)
        for name in ("cc", "cmake", "pkg-config"):
            self._program(self._path / name, "true")
        for name in (*programs, *(["cargo"] if cargo else [])):
            (self._path / name).symlink_to(self._standins / name)
        self.checksum(hashlib.sha256((self._standins / "rustup").read_bytes()).hexdigest())
        (self.hub / "bin" / "python").symlink_to(sys.executable)
        self._program(self.hub / "bin" / "jupyter", JUPYTER)
        (folder / "os-release").write_text(release, encoding="utf-8")
        self.script = folder / "wod-build-evcxr.sh"
        self.script.write_text(self._rendered(folder / "os-release"), encoding="utf-8")

    def _rendered(self, release: Path) -> str:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        environment.filters["quote"] = lambda text: shlex.quote(str(text))
        values = yaml.safe_load((paths.share("ansible") / "group_vars" / "install.yml").read_text(encoding="utf-8"))
        template = (paths.share("sys") / "wod-build-evcxr.sh.j2").read_text(encoding="utf-8")
        more = {"JPHUB": str(self.hub), "wod_os_release": str(release)}
        return environment.from_string(template).render({**values, **more})

    @staticmethod
    def _program(file: Path, text: str) -> None:
        file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        file.chmod(0o755)

    def lose(self, name: str) -> None:
        """Take a program away."""
        folder = self._path if (self._path / name).exists() else self._tools()
        (folder / name).unlink()

    def checksum(self, text: str) -> None:
        """What the server says that the checksum is."""
        (self._standins / "sum").write_text(f"{text}  rustup-init\n", encoding="utf-8")

    def build(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the script with arguments, with the stand-ins and no Rust of this machine."""
        environment = {
            "PATH": f"{self._path}:{self._tools()}",
            "CALLS": str(self.calls),
            "STANDINS": str(self._standins),
        }
        return subprocess.run(
            [require("bash"), str(self.script), *words],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    def _tools(self) -> Path:
        """The real programs that the script may call."""
        tools = self._path.parent / "tools"
        if not tools.exists():
            tools.mkdir()
            for name in TOOLS:
                (tools / name).symlink_to(str(program(name)))
        return tools

    def called(self) -> list[str]:
        """Names of what was called, in order, without asking for a version."""
        lines = self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []
        return [line.partition(" ")[0] for line in lines if not line.endswith("--version")]

    def kernel(self) -> dict[str, object]:
        """What JupyterHub will start."""
        file = self.hub / "share" / "jupyter" / "kernels" / "rust" / "kernel.json"
        found: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
        return found


@pytest.mark.parametrize("name", RELEASES)
def test_an_old_or_missing_cargo_is_left_alone_for_a_toolchain_below_jphub(name: str, tmp_path: Path) -> None:
    """Fetched once with its checksum; students' kernels find that toolchain and don't install themselves anew."""
    machine = Machine(tmp_path, RELEASES[name], cargo="1.75.0" if name != "Debian-12" else "")
    done = machine.build()
    assert done.returncode == 0, done.stderr
    assert machine.called() == ["curl", "curl", "rustup-init", "cargo", "evcxr_jupyter"]
    lines = machine.calls.read_text(encoding="utf-8")
    assert "--profile minimal --default-toolchain 1.88.0 --component rust-src" in lines
    assert f"cargo install --locked --root {machine.hub}/rust/0.21.1 --version 0.21.1 evcxr_jupyter" in lines
    tools = machine.hub / "rust" / "rustup" / "toolchains" / f"1.88.0-{TRIPLE}" / "bin"
    assert machine.kernel()["env"] == {"JUPYTER_PATH": f"{machine.hub}/share/jupyter", "PATH": f"{tools}:${{PATH}}"}
    assert sorted(file.name for file in (machine.hub / "rust").iterdir()) == ["0.21.1", "in-place", "rustup"]
    machine.calls.unlink()
    assert machine.build().returncode == 0
    assert machine.called() == ["evcxr_jupyter"]


def test_a_cargo_that_is_new_enough_is_used(tmp_path: Path) -> None:
    machine = Machine(tmp_path, RELEASES["Rocky-9"], cargo="1.101.0", programs=())
    assert machine.build().returncode == 0
    assert machine.called() == ["cargo", "evcxr_jupyter"]
    assert machine.kernel()["env"] == {"JUPYTER_PATH": f"{machine.hub}/share/jupyter"}
    assert (machine.hub / "rust" / "in-place").read_text(encoding="utf-8") == "0.21.1\n"


def test_a_rustup_that_is_there_is_used(tmp_path: Path) -> None:
    machine = Machine(tmp_path, RELEASES["Debian-13"], programs=("rustup",))
    assert machine.build().returncode == 0
    assert machine.called() == ["rustup", "cargo", "evcxr_jupyter"]
    assert "rustup toolchain install 1.88.0" in machine.calls.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (RELEASES["Ubuntu-24"], "on ubuntu-24: apt-get install build-essential cmake pkg-config"),
        (RELEASES["Rocky-9"], "on rocky-9: dnf install gcc-c++ cmake pkgconf"),
        (RELEASES["Mint-22"], "on linuxmint-22: apt-get install build-essential cmake pkg-config"),
        ('ID="ol"\nID_LIKE="fedora"\nVERSION_ID="9.6"\n', "on ol-9: dnf install gcc-c++ cmake pkgconf"),
        ("ID=arch\n", "arch- is not known here"),
        ("ID=manjaro\nID_LIKE=arch\n", "manjaro- is not known here"),
    ],
)
def test_what_is_missing_is_told_in_the_words_of_the_distribution(release: str, words: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, release)
    machine.lose("cmake")
    done = machine.build()
    assert done.returncode == 1 and words in done.stderr
    assert machine.called() == []


@pytest.mark.parametrize("name", ["curl", "sha256sum"])
def test_what_a_download_needs_is_told_before_it(name: str, tmp_path: Path) -> None:
    """Who needs no download needs neither."""
    machine = Machine(tmp_path, RELEASES["Debian-12"])
    machine.lose(name)
    done = machine.build()
    assert done.returncode == 1
    assert f"there is no {name}; on debian-12: apt-get install curl coreutils" in done.stderr
    assert machine.called() == []


def test_help_builds_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "ID=arch\n")
    done = machine.build("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: wod-build-evcxr.sh [--help]\n") and "\nExample: sudo /" in done.stdout
    assert machine.called() == [] and not (machine.hub / "rust").exists()


@pytest.mark.parametrize("words", [["0.22.0"], ["--version", "0.22.0"], ["--help", "me"], [""]])
def test_arguments_that_it_does_not_know_are_refused(words: list[str], tmp_path: Path) -> None:
    machine = Machine(tmp_path, RELEASES["Debian-13"])
    done = machine.build(*words)
    assert (done.returncode, done.stdout) == (64, "") and "Usage: " in done.stderr
    assert machine.called() == [] and not (machine.hub / "rust").exists()


def test_a_download_that_is_not_what_it_should_be_is_not_run(tmp_path: Path) -> None:
    machine = Machine(tmp_path, RELEASES["Debian-12"])
    machine.checksum("0" * 64)
    done = machine.build()
    assert done.returncode == 1 and "is not what its checksum says" in done.stderr
    assert machine.called() == ["curl", "curl"] and sorted(file.name for file in (machine.hub / "rust").iterdir()) == [
        "0.21.1"
    ]


def test_a_build_that_fails_leaves_nothing_in_place(tmp_path: Path) -> None:
    machine = Machine(tmp_path, RELEASES["Rocky-9"], cargo="1.90.0")
    (machine.hub / "rust").mkdir()
    (machine.hub / "rust" / "0.21.1").write_text("in the way", encoding="utf-8")
    assert machine.build().returncode != 0
    assert not (machine.hub / "rust" / "in-place").exists() and machine.called() == []
