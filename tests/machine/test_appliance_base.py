"""The base of appliances: setup_appliance.yml over ssh, on hosts made of namespaces and on a fresh Debian."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.appliances import Appliances
from tests.e2e.appliancesetting import SKIP, setting, told
from tests.e2e.appliancesite import SECOND, THIRD
from tests.e2e.linuxsite import LinuxDeployment
from tests.linux_students import BASE, FIRST, SERVICE

pytestmark = [pytest.mark.machine, pytest.mark.root]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend and three appliances."""
    with setting() as made:
        yield made


def test_a_second_run_changes_nothing(both: tuple[LinuxDeployment, Appliances]) -> None:
    """What is there stays, what is missing is made, on each machine for its own students."""
    site, lab = both
    for address in lab.addresses:
        lab.shell(address, f"userdel -r student{THIRD} 2>/dev/null")
    first = told(site, "setup", *SKIP)
    assert [each["result"] for each in first["appliances"]] == ["changed"] * 3
    for number, address in enumerate(lab.addresses):
        there = lab.shell(address, f"id -u student{THIRD} 2>/dev/null || echo nobody").strip()
        assert there == ("nobody" if number == 1 else str(BASE + THIRD))
        assert lab.shell(address, f"sudo -l -U {SERVICE}").count("NOPASSWD: ALL") == 2
        assert f"{BASE + FIRST}:" in lab.shell(address, "cat /etc/security/limits.d/90-wod-students.conf")
    assert lab.shell(lab.base, f"stat -c '%U %a' {site.home(THIRD)}").startswith(f"student{THIRD} 7")
    again = told(site, "setup", *SKIP)
    assert {done["changed"] for each in again["appliances"] for done in each["done"]} == {0}


def test_a_dry_run_is_a_true_audit(both: tuple[LinuxDeployment, Appliances]) -> None:
    site, lab = both
    told(site, "setup", *SKIP, "--host", lab.base)
    assert told(site, "setup", "--check", *SKIP, "--host", lab.base)["appliances"][0]["result"] == "ok"
    lab.shell(lab.base, f"userdel student{SECOND}; rm /etc/sudoers.d/wod-appliance")
    dry = told(site, "setup", "--check", "--host", lab.base, *SKIP, status=2)
    base = next(each for each in dry["appliances"][0]["done"] if each["what"] == "setup_appliance.yml")
    assert (base["result"], base["words"]) == (
        "differs",
        "All that it does as root, without a password; Their accounts and homes",
    )
    assert lab.shell(lab.base, f"id student{SECOND} 2>&1 || :").endswith("no such user\n")
    told(site, "setup", *SKIP, "--host", lab.base)
    assert told(site, "check", "--host", lab.base)["appliances"][0]["result"] == "ok"
