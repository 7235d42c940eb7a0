"""wod-upd with the real apt-get and dpkg below a folder: what is updated, and who autoremove thinks wanted it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.parts import program, require
from wodmail.upd import Updater

NAMES = ("app", "dep", "kern-1", "kern-2", "lib", "meta", "other", "pinned", "plain")
CONFIGURATION = """\
Dir "{root}";
Dir::State::status "{root}/var/lib/dpkg/status";
Dir::Bin::dpkg "/usr/bin/dpkg";
APT::Architecture "all";
APT::Architectures {{ "all"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
DPkg::Path "/usr/sbin:/usr/bin:/sbin:/bin";
DPkg::Options {{ "--root={root}"; "--force-not-root"; "--force-architecture"; "--log={root}/dpkg.log"; }};
DPkg::Install::Recursive "false";
"""


class Debian:
    """A folder in which packages are installed, with an archive and a security archive beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self._archives = folder / "root", folder / "bin", folder / "archives"
        for name in (
            *("etc/apt/preferences.d", "etc/apt/apt.conf.d", "etc/apt/trusted.gpg.d", "var/lib/dpkg/info"),
            *("var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/apt/lists/partial", "var/log/apt"),
            *("var/cache/apt/archives/partial", "usr/share", "var/lib/dpkg/alternatives"),
        ):
            (self.root / name).mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()
        (self.root / "var/lib/dpkg/available").touch()
        configuration = folder / "apt.conf"
        configuration.write_text(CONFIGURATION.format(root=self.root))
        self.bin.mkdir()
        for name in ("apt-get", "apt-mark"):
            file = self.bin / name
            file.write_text(f'#!/bin/sh\nAPT_CONFIG={configuration} exec {program(name)} "$@"\n')
            file.chmod(0o755)
        self._archives.mkdir()

    def package(self, suite: str, name: str, version: str, depends: str = "") -> None:
        """Make a package and put it into an archive."""
        tree = self._archives / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: A <a@example.org>\n"
        control += (f"Depends: {depends}\n" if depends else "") + "Description: a package\n"
        (tree / "DEBIAN" / "control").write_text(control)
        made = self._archives / suite / f"{name}_{version}.deb"
        if not made.parent.exists():
            made.parent.mkdir()
            with (self.root / "etc/apt/sources.list").open("a") as sources:
                sources.write(f"deb [trusted=yes] file:{made.parent} ./\n")
        subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, made], check=True, capture_output=True)
        shutil.rmtree(tree)
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        entry = control + f"Filename: ./{made.name}\nSize: {made.stat().st_size}\nSHA256: {digest}\n\n"
        packages = made.with_name("Packages")
        packages.write_text((packages.read_text() if packages.exists() else "") + entry)
        data = packages.read_bytes()
        release = f"Origin: Debian\nSuite: {suite}\nVersion: 12\nDate: {formatdate(usegmt=True)}\nSHA256:\n"
        release += f" {hashlib.sha256(data).hexdigest()} {len(data)} Packages\n"
        made.with_name("Release").write_text(release)

    def call(self, *words: str) -> str:
        """What a program of it prints."""
        done = subprocess.run(
            words, env={"PATH": f"{self.bin}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def installed(self) -> dict[str, str]:
        """Versions by package."""
        text = self.call("dpkg-query", f"--admindir={self.root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\n")
        return dict(line.split() for line in text.splitlines())

    def automatic(self) -> set[str]:
        """Packages that came because others needed them."""
        return set(self.call("apt-mark", "showauto").split())

    def updater(self) -> Updater:
        """What works on it."""
        return Updater(lock_wait=0.0, root=self.root, path=f"{self.bin}:/usr/bin:/bin", environment={})


@pytest.fixture
def debian(tmp_path: Path) -> Debian:
    """Every package in its first version, and then newer ones in both archives."""
    require("apt")
    made = Debian(tmp_path)
    for name, depends in {
        **dict.fromkeys(("dep", "kern-1", "other", "pinned", "plain"), ""),
        "lib": "dep",
        "app": "lib",
        "meta": "kern-1",
    }.items():
        made.package("stable", name, "1", depends)
    made.call("apt-get", "-qq", "update")
    made.call("apt-get", "-qq", "--yes", "install", "app", "meta", "other", "pinned", "plain")
    assert made.automatic() == {"dep", "kern-1", "lib"}
    for name in ("dep", "plain"):
        made.package("stable", name, "2")
    for name, depends in {
        "kern-2": "",
        "lib": "dep (>= 2)",
        "app": "lib",
        "meta": "kern-2",
        "other": "",
        "pinned": "",
    }.items():
        made.package("stable-security", name, "2", depends)
    return made


def test_security_updates_leave_the_marks_for_autoremove(debian: Debian) -> None:
    """What an update needs comes along from elsewhere; the rest stays; the machine's own pins hold."""
    (debian.root / "etc/apt/preferences").write_text("Package: pinned\nPin: version 1\nPin-Priority: 1001\n")
    others = {"0.pref": "plain\nPin: version 2", "site": "other\nPin: version 1"}
    for name, pin in others.items():
        (debian.root / "etc/apt/preferences.d" / name).write_text(f"Package: {pin}\nPin-Priority: 1002\n")
    before = debian.installed()
    look = debian.updater().run("security", dry_run=True)
    assert debian.installed() == before
    report = debian.updater().run("security")
    assert debian.automatic() == {"dep", "kern-1", "kern-2", "lib"}
    assert "Remv kern-1" in debian.call("apt-get", "--simulate", "autoremove")
    assert report.updates == look.updates
    assert {update.name for update in report.updates} == {"app", "dep", "kern-2", "lib", "meta"}
    assert (report.installed, report.held) == (True, 1)
    assert debian.installed() == before | dict.fromkeys(("app", "dep", "kern-2", "lib", "meta"), "2")
    again = debian.updater().run("security")
    assert (again.updates, again.installed, again.held) == ([], False, 1)


def test_all_updates_leave_the_marks_for_autoremove(debian: Debian) -> None:
    report = debian.updater().run("all")
    assert (report.installed, report.held) == (True, 0)
    assert debian.installed() == dict.fromkeys(NAMES, "2") | {"kern-1": "1"}
    assert debian.automatic() == {"dep", "kern-1", "kern-2", "lib"}
