"""What is shipped: packages and data files, the systemd unit, the commands of Makefile, tox and CI."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tests.parts import program, require
from wodmail import configtext
from wodmail.schema import Settings

ROOT = Path(__file__).parents[2]


def listed(section: str, key: str) -> list[str]:
    """A list of setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup[section][key].split("\n")[1:]


def test_every_package_is_listed() -> None:
    inits = (ROOT / "wodmail").rglob("__init__.py")
    packages = {".".join(init.parent.relative_to(ROOT).parts) for init in inits}
    assert {name for name in listed("options", "packages") if not name.startswith("wodmail.share.")} == packages


def test_fonts_are_nobodys_requirement() -> None:
    """Documents are made without them; where they are asked for, each is one version."""
    asked = {key: listed("options.extras_require", key) for key in ("export", "fonts", "test")}
    fonts = {key: [package for package in packages if "fonts" in package] for key, packages in asked.items()}
    assert fonts["export"] == [] and fonts["fonts"] == fonts["test"] == asked["fonts"]
    assert [package for package in asked["fonts"] if "==" not in package] == []


def test_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="ascii")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def unit(**variables: Any) -> configparser.ConfigParser:
    """The systemd unit, rendered and read; a key that is written twice is an error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    template = environment.from_string((ROOT / "sys" / "wodmail.service.j2").read_text(encoding="utf-8"))
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(template.render(**variables))
    return parser


def test_unit_of_linux_accounts_leaves_sudo_possible() -> None:
    service = unit(WODUSER="wodadmin", WODDRAIN=20.5)["Service"]
    implies_no_new_privileges = {
        "DynamicUser", "LockPersonality", "MemoryDenyWriteExecute", "PrivateDevices", "ProtectClock", "ProtectHostname",
        "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "RestrictAddressFamilies",
        "RestrictNamespaces", "RestrictRealtime", "SystemCallArchitectures", "SystemCallFilter",
    }  # fmt: skip
    assert implies_no_new_privileges & set(service) == set()
    assert (service["NoNewPrivileges"], service["RestrictSUIDSGID"]) == ("no", "no")
    assert (service["Type"], service["User"], service["KillMode"]) == ("notify", "wodadmin", "mixed")
    assert int(service["TimeoutStopSec"]) > 20.5
    assert "CAP_SYS_ADMIN" not in service["CapabilityBoundingSet"]


def test_unit_of_the_sandbox_gives_everything_up() -> None:
    service = unit(WODSANDBOX=True, WODSTATEDIR="/srv/state")["Service"]
    assert (service["NoNewPrivileges"], service["CapabilityBoundingSet"]) == ("yes", "")
    assert (service["ProtectSystem"], service["ReadWritePaths"]) == ("strict", "/srv/state")


def test_unit_comes_after_what_it_needs_and_before_the_door() -> None:
    """Mounts, database and hub, then us, then Postfix; and a database that is late is waited for without end."""
    order = unit(WODSTATEDIR="/srv/the state", WODSTUDDIR="/homes")["Unit"]
    assert order["RequiresMountsFor"] == '"/srv/the state" "/homes"'
    after = {"network-online.target", "remote-fs.target", "postgresql.service", "jupyterhub.service"}
    assert after <= set(order["After"].split())
    assert set(order["Before"].split()) == {"postfix.service", "postfix@-.service"}
    assert order["StartLimitIntervalSec"] == "0"
    assert "Requires" not in order


def test_unit_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    verify = program("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze: not on this machine")
    for sandbox in (False, True):
        values = unit(WODUSER="root", WODSANDBOX=sandbox, wodmail_bin="/bin/true")
        file = tmp_path / "wodmail.service"
        with file.open("w", encoding="utf-8") as stream:
            values.write(stream, space_around_delimiters=False)
        done = subprocess.run([verify, "verify", str(file)], capture_output=True, encoding="utf-8", check=False)
        assert (done.returncode, str(file) in done.stderr) == (0, False), done.stderr


def test_ci_calls_what_make_test_calls() -> None:
    require("bash")
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in run
    assert "WODMAIL_REQUIRE_ALL=1" in run and "WODMAIL_REQUIRE_POSTGRES=1" in run


def test_shellcheck_of_the_shell_files() -> None:
    """Those that are used as they are; the templates' rendered forms are checked with the workshop scripts."""
    files = [
        ROOT / ".ci" / "run",
        ROOT / ".ci" / "jupyterhub",
        ROOT / "tests" / "appliancehost.sh",
        *(file for name in ("ansible", "scripts") for file in sorted((ROOT / name).rglob("*.sh"))),
    ]
    assert len(files) > 3
    done = subprocess.run([require("shellcheck"), *map(str, files)], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout


def test_shellcheck_of_what_shells_read(tmp_path: Path) -> None:
    """Files without a first line that names their shell: those of a new home, and /etc/wod.sh in both of its shells."""
    (tmp_path / "wod.sh").write_text(configtext.shell(Settings(WODSENDER="o'brien@example.org"), tmp_path / "wod.yml"))
    skel = ROOT / "sys" / "skel"
    shells = {".bashrc": "bash", ".bash_logout": "bash", ".profile": "sh"}
    assert {file.name for file in skel.iterdir()} == set(shells)
    checked = [(skel / name, shell) for name, shell in shells.items()]
    for file, shell in [*checked, (tmp_path / "wod.sh", "sh"), (tmp_path / "wod.sh", "bash")]:
        argv = [require("shellcheck"), f"--shell={shell}", str(file)]
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", ["demo", "demo KEEP=1", "test", "bench", "soak", "lint", "clean", "help"])
def test_make_knows_its_targets(target: str) -> None:
    make = program("make")
    if make is None:
        pytest.skip("make: not on this machine")
    done = subprocess.run(
        [make, "--dry-run", *target.split()], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert ("--keep" in done.stdout) == ("KEEP" in target)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A copy of the top-level files that `make` needs to set up an environment."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    yield folder


def test_make_says_which_python_it_needs(checkout: Path, tmp_path: Path) -> None:
    make = program("make")
    if make is None:
        pytest.skip("make: not on this machine")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "touch"):
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    (tools / "python3").chmod(0o755)
    done = subprocess.run(
        [make, "demo"], cwd=checkout, capture_output=True, encoding="utf-8", check=False, env={"PATH": str(tools)}
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
