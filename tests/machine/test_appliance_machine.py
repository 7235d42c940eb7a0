"""A fresh Debian becomes an appliance, over ssh from a backend: Python, packages, accounts, Podman, a web server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.appliancesetting import results, told
from tests.e2e.linuxsite import LinuxDeployment, linux_deployment
from tests.linux_students import BASE, FIRST, SERVICE
from tests.machine.machine import PODMAN, Machine

pytestmark = [pytest.mark.machine, pytest.mark.root]
NAME, WEB = "WKSHP-Fresh", "WKSHP-Ansible101"
LAST = FIRST + 2
# A private playbook, as a site writes it: ours does the work.
PLAYBOOK = """
- name: Podman
  ansible.builtin.import_playbook: "{{ WODANSIBLEDIR }}/setup_podman_based_appliance.yml"
"""


@pytest.fixture(scope="module")
def both(bare: Machine) -> Iterator[tuple[LinuxDeployment, Machine]]:
    """A backend whose service user has no key yet, and a machine that lets root in with a key of the operator's."""
    bare.shell("apt-get -qq update && apt-get -qq install --yes --no-install-recommends openssh-server >/dev/null")
    with linux_deployment() as site:
        for name in (NAME, WEB):
            site.workshop(name, monoappliance=True, range=[FIRST, LAST])
        private = site.folder / "private" / "ansible"
        (private / "group_vars").mkdir(parents=True)
        ways = {name: bare.environment[name] for name in ("http_proxy", "https_proxy")}
        values = {f"IP-{NAME}": bare.address, f"IP-{WEB}": bare.address, "wod_environment": ways}
        (private / "group_vars" / "production.yml").write_text(yaml.safe_dump(values))
        (private / f"setup_{NAME}.yml").write_text(PLAYBOOK)
        with site.file.open("a") as file:
            file.write("NOCHECKSSH: -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null\n")
        ssh = site.folder / "service" / ".ssh"
        ssh.mkdir(mode=0o700)
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / "id_ed25519")]
        subprocess.run(key, check=True)
        for path in (ssh, *ssh.iterdir()):
            shutil.chown(path, SERVICE, SERVICE)
        bare.write("/root/.ssh/authorized_keys", (ssh / "id_ed25519.pub").read_text(), "0600")
        yield site, bare


def test_from_a_fresh_debian_to_an_appliance(both: tuple[LinuxDeployment, Machine]) -> None:
    """The first time as root; afterwards root's key is not needed any more, and a second run changes nothing."""
    site, machine = both
    assert machine.run(["sh", "-c", "command -v python3 sudo"], check=False).status != 0
    done = results(told(site, "setup", "--login", "root", NAME))
    own = (f"setup_{NAME}.yml", "private", "changed")
    assert done == {machine.address: [("setup_appliance.yml", "public", "changed"), own]}
    machine.shell("rm /root/.ssh/authorized_keys")
    again = told(site, "setup", NAME)["appliances"][0]
    assert [each["changed"] for each in again["done"]] == [0, 0]
    assert told(site, "check", NAME)["appliances"][0]["result"] == "ok"
    assert machine.run(["podman", "--version"]).out.startswith("podman version")


def test_containers_of_a_seat_find_each_other_by_name(both: tuple[LinuxDeployment, Machine]) -> None:
    """A container `beside` another is reached by its name: netavark with aardvark-dns, which podman only recommends."""
    _, machine = both
    assert machine.run([*PODMAN, "info", "--format", "{{.Host.NetworkBackend}}"]).out == "netavark\n"
    machine.run([*PODMAN, "network", "create", "--opt", "isolate=true", "seat-1"])
    assert json.loads(machine.run([*PODMAN, "network", "inspect", "seat-1"]).out)[0]["dns_enabled"] is True
    machine.run([*PODMAN, "network", "rm", "seat-1"])


def test_students_are_let_in_and_limited(both: tuple[LinuxDeployment, Machine]) -> None:
    """With accounts of their own, no rights, and no more than their share."""
    _, machine = both
    assert machine.shell(f"id -u student{FIRST}") == f"{BASE + FIRST}\n"
    assert machine.run(["id", f"student{LAST + 1}"], check=False).status != 0
    limits = machine.shell(f"su - student{FIRST} -c 'ulimit -Hu; ulimit -Hn; ulimit -Hc'").split()
    assert limits == ["2048", "8192", "0"]
    assert machine.run(["su", "-", f"student{FIRST}", "-c", "sudo -n id"], check=False).status != 0
    said = machine.shell("sshd -T | grep -E '^(passwordauthentication|pubkeyauthentication|maxstartups)'")
    assert said.splitlines() == [
        "pubkeyauthentication yes",
        "passwordauthentication yes",
        "maxstartups 60:30:200",
    ]


BREAKS = {
    "All that it does as root, without a password": "chmod 0644 /etc/sudoers.d/wod-appliance",
    "Their accounts and homes": f"userdel -r student{FIRST} 2>/dev/null",
    "What a student may use": "sed -i s/2048/99999/ /etc/security/limits.d/90-wod-students.conf",
    "Students log in by key and by password, many at once": "rm /etc/ssh/sshd_config.d/10-wod-appliance.conf",
}


def test_what_is_broken_differs_is_mended_and_ok(both: tuple[LinuxDeployment, Machine]) -> None:
    site, machine = both
    for script in BREAKS.values():
        machine.shell(script)
    audited = told(site, "setup", "--check", NAME, status=2)["appliances"][0]["done"][0]
    assert (audited["result"], audited["words"].split("; ")) == ("differs", [*BREAKS, "Reload sshd"])
    assert machine.run(["id", f"student{FIRST}"], check=False).status != 0
    mended = told(site, "setup", NAME)["appliances"][0]["done"][0]
    assert set(BREAKS) <= set(mended["words"].split("; "))
    assert told(site, "setup", "--check", NAME)["appliances"][0]["result"] == "ok"


def test_a_workshop_with_pages_of_its_own(both: tuple[LinuxDeployment, Machine]) -> None:
    """Ansible101: its public playbook and the script made of its definition; a student's page asks for the password."""
    site, machine = both
    done = told(site, "setup", "--no-base", WEB)["appliances"][0]["done"]
    assert [(each["what"], each["where"]) for each in done] == [
        (f"setup_{WEB}.yml", "public"),
        (f"setup-{WEB}.sh", "public"),
    ]
    machine.run(["ansible", "--version"])
    machine.run(["rsync", "--version"])
    machine.shell(f"install -d /etc/wod /var/www/wod-ansible101/student{FIRST}; : >/etc/wod/ansible101.passwords")
    ask = "curl --silent --noproxy '*' --output /dev/null --write-out '%{http_code}'"
    assert machine.shell(f"{ask} http://127.0.0.1/") == "200"
    mine = f"http://127.0.0.1/student{FIRST}/"
    assert machine.shell(f"{ask} {mine}") == "401"
    # As the create script writes them. Another student's name and password open the page as little as none.
    for name, word in ((f"student{FIRST}", "Werty1234"), (f"student{LAST}", "Azert5678")):
        machine.shell(f"echo {name}:$(openssl passwd -6 {word}) >>/etc/wod/ansible101.passwords")
    machine.shell(f"echo mine >/var/www/wod-ansible101/student{FIRST}/index.html")
    assert machine.shell(f"{ask} --user student{FIRST}:Werty1234 {mine}") == "200"
    assert machine.shell(f"{ask} --user student{FIRST}:Azert5678 {mine}") == "401"
    assert machine.shell(f"{ask} --user student{LAST}:Azert5678 {mine}") == "401"
    again = told(site, "setup", "--no-base", WEB)["appliances"][0]
    assert [each["changed"] for each in again["done"]] == [0, 0]
