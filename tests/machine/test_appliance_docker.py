"""A fresh Debian becomes an appliance from within, by `wod-install.sh -t appliance`; its checks; Debian's Docker.

Docker's daemon runs in that machine and answers; containers don't, as they need control groups of their own there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.machine.installed import repository
from tests.machine.machine import PODMAN, Machine

pytestmark = pytest.mark.machine

CHECKOUT = "/opt/wod/wod-backend"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHo+mbdZZBlHl89IzvUzdv/qxN6Khe7jZilw0gQndYE1 wodadmin@backend"
# As docs/appliances.md has it: who works here, and the backend's key.
CONFIGURED = f"WODUSERMIN: 3\nWODUSERMAX: 5\nwod_appliance_key: {KEY}\n"
# What `wodmail appliance setup` does over ssh, on the machine itself.
PLAY = """
import json
from wodmail import config, maintenance
variables = {"wod_environment": %r}
played = maintenance.play(config.load(None, files=False), "setup_docker_based_appliance", variables=variables)
print(json.dumps([played.status, [task.name for task in played.tasks if task.status == "changed"], played.text_tail]))
"""

# The playbooks of the workshops with seats, as `wodmail appliance setup` plays them after the base; Ansible101's has a
# test of its own (test_appliance_machine.py).
NINE = "Concourse101 DataVisu101 Docker101 ML101 Podman101 Podman201 Spark101 StackStorm101 Tensorflow101"
PLAY_ALL = """
import json, sys
from wodmail import config, maintenance
variables = {"wod_environment": %r, "wod_appliance_base_done": True}
for name in sys.argv[1:]:
    played = maintenance.play(config.load(None, files=False), f"setup_WKSHP-{name}", variables=variables)
    changed = [task.name for task in played.tasks if task.status == "changed"]
    print(json.dumps([name, played.status, len(played.tasks), changed, "" if played.status == 0 else played.text_tail]))
"""


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that became an appliance; the tests follow each other on it."""
    tree = repository(tmp_path_factory.mktemp("tree") / "wodmail")
    with Machine(tmp_path_factory.mktemp("appliance"), binds={tree: "/srv/wodmail"}) as machine:
        machine.shell("apt-get -qq update && apt-get -qq install --yes git >/dev/null")
        machine.shell(f"git clone --quiet /srv/wodmail {CHECKOUT}")
        machine.write("/etc/wod.yml", CONFIGURED)
        machine.shell(f"{CHECKOUT}/scripts/wod-install.sh -t appliance --without others", timeout=900)
        yield machine


def check(machine: Machine, *words: str, status: int = 0) -> dict[str, str]:
    """wod-check: its items and their verdicts."""
    done = machine.run(["wod-check", "--json", *words], check=False, timeout=600)
    assert done.status == status, done.out[-4000:] + done.err[-4000:]
    return {item["id"]: item["status"] for item in json.loads(done.out)["items"]}


def test_twice_and_all_is_well(appliance: Machine) -> None:
    """The system's items and the appliance's own; installing again changes nothing, either."""
    assert set(check(appliance).values()) <= {"ok", "fixed"}
    again = check(appliance)
    assert set(again.values()) == {"ok"}, again
    assert {"limits", "firewall", "appliance_user", "appliance_students", "appliance_limits", "appliance_sshd"} <= set(
        again
    )
    done: dict[str, Any] = json.loads(appliance.run([f"{CHECKOUT}/scripts/wod-install.sh", "--json"], timeout=600).out)
    assert (done["ok"], done["changed"]) == (True, 0), done


def test_who_may_come_in(appliance: Machine) -> None:
    """The backend's WODUSER with its key and sudo; the students of the configuration, and no others; ports."""
    assert appliance.read("/home/wodadmin/.ssh/authorized_keys") == KEY + "\n"
    assert appliance.run(["sudo", "-n", "id", "-u"], user="wodadmin").out == "0\n"
    found = appliance.shell("getent passwd | grep ^student | cut -d: -f1").split()
    assert found == ["student3", "student4", "student5"]
    assert appliance.run(["sudo", "-n", "id"], user="student3", check=False).status != 0
    rules = appliance.run(["ufw", "status"]).out
    assert [port in rules for port in ("22/tcp", "80/tcp", "20000:32767/tcp", "8000")] == [True, True, True, False]


BREAKS = {
    "appliance_user": "chmod 0644 /etc/sudoers.d/wod-appliance; rm /home/wodadmin/.ssh/authorized_keys",
    "appliance_students": "userdel -r student4 2>/dev/null",
    "appliance_limits": "rm /etc/security/limits.d/90-wod-students.conf",
    "appliance_sshd": "systemctl disable --quiet --now ssh",
    "firewall": "ufw delete allow 80/tcp",
}


def test_what_is_broken_differs_is_fixed_and_ok(appliance: Machine) -> None:
    for script in BREAKS.values():
        appliance.shell(script)
    words = [word for name in BREAKS for word in ("--item", name)]
    assert check(appliance, "--check", *words, status=2) == dict.fromkeys(BREAKS, "differs")
    assert appliance.run(["id", "student4"], check=False).status != 0
    assert check(appliance, *words) == dict.fromkeys(BREAKS, "fixed")
    assert check(appliance, "--check", *words) == dict.fromkeys(BREAKS, "ok")


def test_docker_by_hand(appliance: Machine) -> None:
    """As docs/install.md has it: /etc/wod.yml alone says that Docker is to be the distribution's."""
    appliance.shell(f"cd {CHECKOUT}/ansible && ansible-playbook -e @/etc/wod.yml install_docker.yml", timeout=600)
    assert "docker.io" in appliance.shell("dpkg-query --show docker.io docker-compose")
    assert appliance.run(["ls", "/etc/apt/sources.list.d"]).out == ""
    assert appliance.run(["systemctl", "is-enabled", "docker"]).out == "enabled\n"
    assert appliance.run(["docker", "info", "--format", "{{.ServerVersion}}"]).out.strip()


def test_an_appliance_with_docker_twice(appliance: Machine) -> None:
    """The second time changes nothing; Docker runs after a reboot, and is root's alone."""
    program = PLAY % {name: appliance.environment[name] for name in ("http_proxy", "https_proxy")}
    for again in (False, True):
        done = appliance.run(["/opt/wodmail/bin/python", "-c", program], timeout=600).out
        status, changed, tail = json.loads(done)
        assert status == 0, tail
        assert not (again and changed), changed
    appliance.reboot()
    assert appliance.run(["systemctl", "is-active", "docker"]).out == "active\n"
    assert appliance.run(["docker", "ps", "--quiet"]).out == ""
    assert appliance.run(["docker", "ps"], user="student3", check=False).status != 0
    assert set(check(appliance).values()) == {"ok"}


def test_the_playbooks_of_workshops_twice(appliance: Machine) -> None:
    """On an appliance with Docker; the second time changes nothing."""
    program = PLAY_ALL % {name: appliance.environment[name] for name in ("http_proxy", "https_proxy")}
    for again in (False, True):
        done = appliance.run(["/opt/wodmail/bin/python", "-c", program, *NINE.split()], timeout=1200).out
        played = [json.loads(line) for line in done.splitlines()]
        assert [each[:2] for each in played] == [[name, 0] for name in NINE.split()], done
        assert not again or [each[3] for each in played] == [[]] * 9, done
    units = appliance.run(["systemctl", "is-enabled", "docker", "podman-restart"]).out
    assert units == "enabled\nenabled\n"
    assert appliance.run([*PODMAN, "info", "--format", "{{.Host.NetworkBackend}}"]).out == "netavark\n"
