"""wod-upd with stand-ins of apt-get, dnf and needs-restarting that write down what they are asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from wodmail import upd
from wodmail.errors import Failed, Temporary
from wodmail.upd import Update, Updater, parse_apt, parse_dnf

APT = """\
NOTE: This is only a simulation!
Inst libc6 [2.36-9+deb12u9] (2.36-9+deb12u10 Debian:12.10/stable, Debian-Security:12/stable-security [amd64])
Inst vim-tiny [2:9.0.1378-2] (2:9.0.1378-2+deb12u1 Debian:12.10/stable [amd64]) []
Inst linux-image-6.1.0-32-amd64 (6.1.129-1 Debian-Security:12/stable-security [amd64])
Inst curl [7.81.0-1] (7.81.0-1ubuntu1.20 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])
Conf libc6 (2.36-9+deb12u10 Debian:12.10/stable [amd64])
"""
DNF = """\

kernel-core.x86_64                 5.14.0-503.40.1.el9_5             baseos
openssl-libs.x86_64                1:3.2.2-6.el9_5.1                 baseos
Obsoleting Packages
grub2-tools.x86_64                 1:2.06-92.el9                     baseos
"""
PROGRAM = """\
#!/bin/sh
echo "{name} $* [$DEBIAN_FRONTEND $NEEDRESTART_SUSPEND $https_proxy $SECRET]" >>{folder}/asked
{body}
"""


class Machine:
    """A folder with stand-ins of programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("sh", "cat", "grep", "rm"):
            (self.bin / name).symlink_to(str(shutil.which(name)))

    def program(self, name: str, body: str) -> None:
        """Put a stand-in there."""
        file = self.bin / name
        file.write_text(PROGRAM.format(name=name, folder=self.folder, body=body.format(folder=self.folder)))
        file.chmod(0o755)

    def updater(self, lock_wait: float = 0.0) -> Updater:
        """What works on it."""
        environment = {"https_proxy": "http://proxy:1", "SECRET": "hunter2"}
        return Updater(lock_wait=lock_wait, root=self.folder, path=str(self.bin), environment=environment)

    def asked(self) -> list[str]:
        """What the stand-ins were asked, and what they saw of the environment."""
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine without packages."""
    return Machine(tmp_path)


@pytest.fixture
def debian(machine: Machine) -> Machine:
    """One with apt-get."""
    (machine.folder / "list").write_text(APT)
    machine.program(
        "apt-get",
        'case "$*" in *--simulate*install*|*--simulate*Preferences*) grep -i security {folder}/list; exit 0;;'
        " *--simulate*) cat {folder}/list;; esac",
    )
    return machine


@pytest.fixture
def rocky(machine: Machine) -> Machine:
    """One with dnf."""
    (machine.folder / "list").write_text(DNF)
    machine.program(
        "dnf",
        'case "$*" in *check-update*--security*) grep openssl {folder}/list; exit 100;;'
        " *check-update*) cat {folder}/list; exit 100;; esac",
    )
    return machine


def test_what_apt_says() -> None:
    assert [(update.name, update.old, update.new, secure) for update, secure in parse_apt(APT)] == [
        ("libc6", "2.36-9+deb12u9", "2.36-9+deb12u10", True),
        ("vim-tiny", "2:9.0.1378-2", "2:9.0.1378-2+deb12u1", False),
        ("linux-image-6.1.0-32-amd64", "", "6.1.129-1", True),
        ("curl", "7.81.0-1", "7.81.0-1ubuntu1.20", True),
    ]


def test_what_dnf_says() -> None:
    assert parse_dnf(DNF) == [
        Update("kernel-core", "", "5.14.0-503.40.1.el9_5"),
        Update("openssl-libs", "", "1:3.2.2-6.el9_5.1"),
    ]


def test_security_updates_by_apt(debian: Machine) -> None:
    report = debian.updater().run("security")
    assert [update.name for update in report.updates] == ["libc6", "linux-image-6.1.0-32-amd64", "curl"]
    assert (report.tool, report.installed, report.held) == ("apt-get", True, 1)
    assert report.reboot == "updated: libc6, linux-image-6.1.0-32-amd64"
    update, *simulated, install = debian.asked()
    assert update.startswith("apt-get update")
    assert len(simulated) == 3 and all(" --simulate " in line for line in simulated)
    assert " install libc6=2.36-9+deb12u10 linux-image-6.1.0-32-amd64=6.1.129-1 curl=" in simulated[1]
    assert "--no-remove --with-new-pkgs upgrade" in install and "Dir::Etc::PreferencesParts=" in install
    assert "--yes" in install and "--force-confold" in install and "Lock::Timeout" in install
    assert install.endswith("[noninteractive 1 http://proxy:1 ]")


def test_all_updates_by_apt_and_a_look_alone(debian: Machine) -> None:
    look = debian.updater().run("all", dry_run=True)
    assert (len(look.updates), look.installed, look.reboot) == (4, False, "")
    assert len(debian.asked()) == 2
    assert debian.updater().run("all").installed
    assert "--with-new-pkgs upgrade" in debian.asked()[-1]


def test_nothing_to_update(debian: Machine) -> None:
    (debian.folder / "list").write_text("")
    report = debian.updater().run("security")
    assert (report.updates, report.installed, report.reboot) == ([], False, "")


def test_the_distribution_wants_a_restart(debian: Machine) -> None:
    (debian.folder / "list").write_text("")
    (debian.folder / "run").mkdir()
    (debian.folder / "run" / "reboot-required").touch()
    (debian.folder / "run" / "reboot-required.pkgs").write_text("linux-base\ndbus\nlinux-base\n")
    assert debian.updater().run("security").reboot.endswith("says so for dbus, linux-base")


def test_security_updates_by_dnf(rocky: Machine) -> None:
    report = rocky.updater().run("security")
    assert ([update.name for update in report.updates], report.held) == (["openssl-libs"], 1)
    assert report.reboot == "updated: openssl-libs"
    assert "--assumeyes upgrade --security openssl-libs" in rocky.asked()[-1]
    rocky.program("needs-restarting", "exit 1")
    assert rocky.updater().run("all", dry_run=True).reboot == "needs-restarting says so"


def test_a_lock_that_is_held_is_waited_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upd, "LOCK_PAUSE", 0.01)
    locked = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 77 (apt-get)"
    (machine.folder / "held").touch()
    body = f'if test -e {{folder}}/held; then rm {{folder}}/held; echo "{locked}"; exit 100; fi'
    machine.program("apt-get", body)
    assert machine.updater(lock_wait=60.0).run("security").updates == []
    assert len(machine.asked()) == 3
    machine.program("apt-get", f'echo "{locked}"; exit 100')
    with pytest.raises(Temporary, match="held the packages' lock for 0 s") as caught:
        machine.updater(lock_wait=0.0).run("security")
    assert "process 77" in caught.value.operator


def test_a_failure_shows_the_tools_words(machine: Machine) -> None:
    machine.program("apt-get", "echo E: no space left on device; exit 100")
    with pytest.raises(Failed, match="apt-get failed") as caught:
        machine.updater().run("security")
    assert "no space left" in caught.value.output


def test_neither_of_them(machine: Machine) -> None:
    with pytest.raises(Failed, match="neither apt-get nor dnf"):
        machine.updater()
