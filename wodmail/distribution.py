"""Which distribution this machine runs, by the name that Ansible has for it: Debian-12, Ubuntu-24, Rocky-9."""

from __future__ import annotations

import shlex
from pathlib import Path

RELEASE = Path("/etc/os-release")
NAMES = {
    "almalinux": "AlmaLinux",
    "centos": "CentOS",
    "debian": "Debian",
    "fedora": "Fedora",
    "ol": "OracleLinux",
    "rhel": "RedHat",
    "rocky": "Rocky",
    "ubuntu": "Ubuntu",
}
"""ID of os-release(5), and what Ansible's fact ansible_distribution says there."""


def name(release: Path = RELEASE) -> str | None:
    """`{{ ansible_distribution }}-{{ ansible_distribution_major_version }}`, found without Ansible.

    Args:
        release: the file of os-release(5).

    Returns:
        None when the file is missing, or names a distribution or version that is not known here.
    """
    known = read(release)
    distribution, major = NAMES.get(known.get("ID", "")), known.get("VERSION_ID", "").partition(".")[0]
    return f"{distribution}-{major}" if distribution and major.isdigit() else None


def read(release: Path = RELEASE) -> dict[str, str]:
    """The names and values of an os-release file; none when it can't be read.

    Args:
        release: see `name`.
    """
    try:
        lines = release.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found = {}
    for line in lines:
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier():
            found[key] = _plain(value)
    return found


def _plain(value: str) -> str:
    """A value without its shell quotes."""
    try:
        return " ".join(shlex.split(value))
    except ValueError:
        return value
