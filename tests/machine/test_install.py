"""From a fresh Debian, by the words of README.md, to a backend that does its main job; again; after a reboot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from tests.hubsite import login
from tests.machine.installed import SENDER, Installed
from tests.machine.machine import Machine

pytestmark = pytest.mark.machine

SERVICES = ("jupyterhub", "wodmail", "postfix", "fail2ban", "ssh", "cron")
WORKSHOP = "WKSHP-Demo101"
NOTEBOOK = f"{WORKSHOP}/1-The-Logbook.ipynb"


@pytest.fixture(scope="module")
def backend(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine that was installed, booted once more."""
    with Machine(tmp_path_factory.mktemp("backend"), below=[installed.folder]) as machine:
        yield machine


def command(machine: Machine, action: str, student: int) -> str:
    """Send a command by mail as an operator does, wait for its end; gives what was printed."""
    argv = ["wod-test-action", "--wait", "--timeout", "120", action, WORKSHOP, str(student)]
    return machine.run(argv, user="wodadmin", timeout=180).out


def word(printed: str, student: int) -> str:
    """The student's password in the last line of a CREATE."""
    found = re.search(rf"procmail-action for student {student} \(passwd (\S+)\)", printed)
    assert found is not None, printed
    return found.group(1)


def active(machine: Machine) -> dict[str, str]:
    """What systemd says of the services."""
    said = machine.run(["systemctl", "is-active", *SERVICES], check=False).out.split()
    return dict(zip(SERVICES, said, strict=True))


def test_the_installation_tells_what_it_did(installed: Installed) -> None:
    """In few lines; no secret is among them."""
    assert "done; every task is in /var/log/wod-install.log" in installed.printed
    assert "left to do: nobody is told about failures" in installed.printed
    assert "failed:" not in installed.printed


def test_every_service_runs_after_the_boot(backend: Machine) -> None:
    """By themselves, with nothing failed beside them."""
    assert active(backend) == dict.fromkeys(SERVICES, "active")
    assert backend.run(["systemctl", "--failed", "--no-legend"]).out == ""


def test_the_configuration_is_in_order(backend: Machine) -> None:
    """Nothing to mend, no warning; secrets are random and shut."""
    checked = json.loads(backend.run(["wodmail", "config", "check", "--json"], user="wodadmin").out)
    assert (checked["problems"], checked["warnings"]) == ([], [])
    assert backend.run(["wodmail", "helper", "check"], user="wodadmin").out == "the root helper works\n"
    modes = backend.run(["stat", "-c", "%a %U %G", "/etc/wod.yml", "/etc/wod.sh", "/etc/jupyterhub/wodmail-token"]).out
    assert modes.splitlines() == ["640 root wodadmin", "640 root wodadmin", "600 root root"]
    assert re.search(r"^WODBETOKEN: [0-9a-f]{64}$", backend.read("/etc/wod.yml"), re.MULTILINE)


def test_no_secret_is_in_a_log_or_open_to_students(backend: Machine) -> None:
    """Of the configuration's secrets, in all that the installation left behind."""
    text = backend.read("/etc/wod.yml")
    for name in ("WODBETOKEN", "VAULTPWD"):
        secret = re.search(rf"^{name}: (\S+)$", text, re.MULTILINE)
        assert secret is not None
        found = backend.run(
            ["grep", "-rlF", "--", secret.group(1), "/var/log", "/etc", "/opt/wod", "/tmp"], check=False
        ).out
        held = {"/etc/wod.yml", "/etc/wod.sh"} | ({"/etc/jupyterhub/wodmail-token"} if name == "WODBETOKEN" else set())
        assert set(found.split()) == held


def test_the_main_job(backend: Machine) -> None:
    """A mail makes a seat: the student logs in at the hub and executes a notebook; CLEANUP ends all of that."""
    url = f"http://{backend.address}:8000"
    password = word(command(backend, "CREATE", 1), 1)
    assert login(url, "student1", "wrong") is None
    student = login(url, "student1", password)
    assert student is not None
    try:
        assert student.enter()
        student.execute(NOTEBOOK)
        assert "student1" in backend.run(["ps", "-eo", "user:20,args"]).out
        command(backend, "CLEANUP", 1)
        assert not student.enter()
    finally:
        student.close()
    assert login(url, "student1", password) is None
    assert backend.run(["ls", f"/student/student1/{WORKSHOP}"], check=False).status != 0


def test_only_students_come_in(backend: Machine) -> None:
    """Whoever else has a password on the machine is no user of the hub."""
    backend.shell("echo wodadmin:Valid-word-1 | chpasswd && echo root:Valid-word-1 | chpasswd")
    for name in ("wodadmin", "root"):
        assert login(f"http://{backend.address}:8000", name, "Valid-word-1") is None


def test_again_changes_nothing(backend: Machine) -> None:
    """An update without news leaves everything as it is, and says so; values and secrets are kept."""
    before = backend.read("/etc/wod.yml")
    audited = json.loads(backend.run(["wod-install", "--check", "--json"], timeout=300).out)
    done = json.loads(backend.run(["/opt/wod/wod-backend/scripts/wod-install.sh", "--json"], timeout=300).out)
    for said in (audited, done):
        assert said["ok"], said
        assert said["changed"] == 0, said
    assert backend.read("/etc/wod.yml") == before


def test_newer_playbooks_are_not_played_by_older_code(backend: Machine) -> None:
    """`wod-install` alone, after a `git pull`: refused with what to call instead; an audit goes on and counts it."""
    module, before = "/opt/wod/wod-backend/wodmail/paths.py", backend.read("/etc/wod.yml")
    text = backend.read(module)
    backend.write(module, text + "# a newer one\n")
    try:
        refused = backend.run(["wod-install", "-p", "10027"], check=False)
        audited = backend.run(["wod-install", "--check", "--json"], check=False, timeout=300)
    finally:
        backend.write(module, text)
    assert refused.status == 78
    assert "/opt/wod/wod-backend/scripts/wod-install.sh" in refused.err and "paths.py" in refused.err
    assert backend.read("/etc/wod.yml") == before
    assert audited.status == 2
    said = json.loads(audited.out)
    assert (said["ok"], said["changed"], said["modules"]) == (True, 1, ["paths.py"])


def test_a_change_of_the_configuration_is_carried_through(backend: Machine) -> None:
    """An option given anew changes its key, and what depends on it. A web server in front still gets to the hub."""
    assert f"WODSENDER: {SENDER}" in backend.read("/etc/wod.yml")
    backend.shell("ufw delete allow 8000/tcp")
    argv = ["wod-install", "-p", "10026", "-e", "https://lab.example.org", "--json"]
    done = json.loads(backend.run(argv, timeout=300).out)
    assert done["ok"]
    assert sorted(done["configuration"]) == ["WODBEEXTFQDN", "WODBEPORT", "WODBEPROTO", "WODPOSTPORT"]
    let_in = {line.split()[0] for line in backend.run(["ufw", "status"]).out.splitlines() if " ALLOW " in line}
    assert {"22/tcp", "443/tcp", "8000/tcp"} <= let_in
    assert "port = 8000,443\n" in backend.read("/etc/fail2ban/jail.d/wodmail.conf")
    assert ":10026 " in backend.run(["ss", "-Hltn"]).out
    assert "export WODPOSTPORT=10026" in backend.read("/etc/wod.sh")


def test_packages_for_containers_and_kernels_are_the_distributions(backend: Machine) -> None:
    """Also those that this installation left out can be had."""
    lists = yaml.safe_load(backend.read("/opt/wod/wod-backend/ansible/group_vars/Debian-12.yml"))
    names = {name for key, value in lists.items() if key.startswith("wod_packages_") for name in value}
    backend.run(["apt-get", "--simulate", "--yes", "install", *sorted(names)])
    play = "cd /opt/wod/wod-backend/ansible && ansible-playbook -e @/etc/wod.yml"
    assert '"msg": "Debian-12"' in backend.shell(f"{play} distrib.yml")


def test_podman_is_installed_once(backend: Machine) -> None:
    """By the words of docs/install.md; again changes nothing."""
    play = "cd /opt/wod/wod-backend/ansible && ansible-playbook -e @/etc/wod.yml install_podman.yml"
    assert "failed=0" in backend.shell(play, timeout=900)
    assert backend.run(["podman", "--version"]).status == 0
    again = backend.shell(play, timeout=900)
    assert "changed=0" in again and "failed=0" in again, again


def test_a_reboot_brings_everything_back(backend: Machine) -> None:
    """Without anybody's help, and with what was asked for before it."""
    password = word(command(backend, "CREATE", 2), 2)
    backend.reboot()
    assert active(backend) == dict.fromkeys(SERVICES, "active")
    student = login(f"http://{backend.address}:8000", "student2", password)
    assert student is not None
    student.close()
    assert "request" in command(backend, "CLEANUP", 2)


def test_a_checkout_that_others_can_change_is_not_run(backend: Machine) -> None:
    """Root would run what they wrote."""
    backend.shell("cp -r /opt/wod/wod-backend /opt/other && chmod o+w /opt/other")
    refused = backend.run(["wod-install", "--checkout", "/opt/other"], check=False)
    assert refused.status == 78 and "can be changed by others" in refused.err
    as_user = backend.run(["/opt/wod/wod-backend/scripts/wod-install.sh"], user="wodadmin", check=False)
    assert as_user.status == 77 and "call it as root" in as_user.err
