"""The machines that the other tests here stand on."""

from __future__ import annotations

import pytest

from tests.machine.machine import Machine

pytestmark = pytest.mark.machine


def test_a_fresh_debian_has_booted_its_own_systemd(bare: Machine) -> None:
    """Nothing in it is the machine's that the tests run on."""
    assert bare.shell("cat /proc/1/comm") == "systemd\n"
    assert "multi-user.target" in bare.shell("systemctl list-units --state=active --type=target --no-legend")
    assert bare.run(["systemctl", "--failed", "--no-legend"]).out == ""
    assert bare.run(["sh", "-c", "command -v python3 sudo git"], check=False).status != 0


def test_packages_come_through_the_proxy_only(bare: Machine) -> None:
    """As behind a company's proxy: without it nothing is reached."""
    bare.run(["apt-get", "-qq", "update"], environment={"http_proxy": ""}, check=False)
    lists = "ls /var/lib/apt/lists | grep -c Packages || true"
    assert bare.shell(lists).strip() == "0"
    bare.run(["apt-get", "-qq", "update"])
    assert int(bare.shell(lists)) > 0


def test_a_reboot_keeps_files_and_starts_services_again(bare: Machine) -> None:
    """Its disk stays, its first process is another one."""
    unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    bare.write("/etc/systemd/system/stays.service", unit)
    bare.run(["systemctl", "enable", "stays"])
    bare.reboot()
    assert bare.shell("systemctl is-active stays") == "active\n"
