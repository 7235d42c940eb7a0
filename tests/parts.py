"""System parts that some tests need: missing on a user's machine they are skipped with the reason, in CI they fail."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "ansible": ("ansible-playbook", "ansible-core"),
    "apt": ("apt-get", "apt"),
    "bash": ("bash", "bash"),
    "nc": ("nc.openbsd", "netcat-openbsd"),
    "nc-traditional": ("nc.traditional", "netcat-traditional"),
    "fail2ban-regex": ("fail2ban-regex", "fail2ban"),
    "fail2ban-server": ("fail2ban-server", "fail2ban"),
    "git": ("git", "git"),
    "ip": ("ip", "iproute2"),
    "node": ("node", "nodejs"),
    "patch": ("patch", "patch"),
    "pdffonts": ("pdffonts", "poppler-utils"),
    "pdfimages": ("pdfimages", "poppler-utils"),
    "pdftoppm": ("pdftoppm", "poppler-utils"),
    "pdftotext": ("pdftotext", "poppler-utils"),
    "postfix": ("postfix", "postfix"),
    "procmail": ("procmail", "procmail"),
    "debootstrap": ("debootstrap", "debootstrap"),
    "cc": ("cc", "gcc libc6-dev"),
    "setfacl": ("setfacl", "acl"),
    "shellcheck": ("shellcheck", "shellcheck"),
    "slapd": ("slapd", "slapd"),
    "ssh-keygen": ("ssh-keygen", "openssh-client"),
    "sshd": ("sshd", "openssh-server"),
    "shc": ("shc", "shc"),
    "strings": ("strings", "binutils"),
    "sudo": ("sudo", "sudo"),
    "systemd-analyze": ("systemd-analyze", "systemd"),
    "systemd-nspawn": ("systemd-nspawn", "systemd-container"),
    "tinyproxy": ("tinyproxy", "tinyproxy"),
    "useradd": ("useradd", "passwd"),
}
JUPYTERHUB = ("WODMAIL_TEST_JUPYTERHUB", "WODMAIL_TEST_PROXY")
"""Variables of the environment: a virtual environment with JupyterHub, and configurable-http-proxy's program."""
EXTRA_FOLDERS = (
    str(Path(sys.executable).parent),
    "/usr/sbin",
    "/sbin",
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/15/bin",
)

BESIDE = frozenset({"notebooks"})  # no system part: nothing can install them, so "all" doesn't mean them


def program(name: str) -> str | None:
    """The path of a program, also looked for where Debian keeps servers; None when it isn't there."""
    search = os.pathsep.join([os.environ.get("PATH", ""), *EXTRA_FOLDERS])
    return shutil.which(name, path=search)


def missing(part: str, reason: str) -> None:
    """Skip with the reason, or fail where the environment demands the part (CI)."""
    everything = "" if part in BESIDE else os.environ.get("WODMAIL_REQUIRE_ALL")
    demanded = everything or os.environ.get(f"WODMAIL_REQUIRE_{part.upper()}")
    if demanded and demanded != "0":
        pytest.fail(f"{part} is demanded here but missing: {reason}")
    pytest.skip(f"{part}: {reason}")


def require(part: str) -> str:
    """The path of the part's program; skips or fails the test when it is missing."""
    if part == "root":
        if os.geteuid() != 0:
            missing("root", "needs root to make Linux users")
        return ""
    name, package = PROGRAMS[part]
    found = program(name)
    if found is None:
        missing(part, f"no {name} here; on Debian: apt-get install {package}")
    return str(found)


def jupyterhub_parts() -> tuple[Path, Path]:
    """JupyterHub's virtual environment and the program of its proxy, which `.ci/jupyterhub` makes.

    Skips or fails the test when they are missing.
    """
    require("node")
    venv, proxy = (Path(os.environ.get(name, "")) for name in JUPYTERHUB)
    if not (proxy.is_file() and (venv / "bin" / "jupyterhub-singleuser").is_file()):
        missing("jupyterhub", f"{' and '.join(JUPYTERHUB)} don't name one; see CONTRIBUTING.md")
    return venv, proxy


def shared_notebooks() -> Path | None:
    """The real workshops beside the checkout when somebody put them there, else None."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "notebooks"
    return folder if folder.is_dir() else None
