"""What the firewall is to let in, and whom it has let in already, as the playbook of the checks reckons it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wodmail import maintenance, paths
from wodmail.schema import Settings

ANSIBLE = paths.share("ansible")
NETWORKS = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "2001:db8::7/128"]
# As ufw keeps what it was told: a host's address without its prefix.
RULES = """\
### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### limit tcp 8000 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 10025 0.0.0.0/0 any 10.0.0.0/8 in
### tuple ### allow tcp 10025 0.0.0.0/0 any 192.0.2.7 in
"""
RULES6 = """\
### tuple ### allow tcp 22 ::/0 any ::/0 in
### tuple ### allow tcp 10025 ::/0 any 2001:db8::/32 in
### tuple ### allow tcp 10025 ::/0 any 2001:db8::7 in
"""


def firewall_tasks() -> list[dict[str, Any]]:
    """The tasks of the item."""
    text = (ANSIBLE / "tasks/firewall.yml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)[0]["block"]
    return found


def look(folder: Path) -> list[str]:
    """What the item's own script finds in files of ufw."""
    script = firewall_tasks()[0]["vars"]["wod_firewall_script"].replace("/etc/ufw", str(folder))
    (folder / "user.rules").write_text(RULES)
    (folder / "user6.rules").write_text(RULES6)
    done = subprocess.run(["/bin/sh", "-c", script, "sh", "ufw"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not line.startswith("ssh ")]


def reckoned(folder: Path, found: list[str], **keys: object) -> tuple[list[list[str]], list[int]]:
    """The rules that are missing, and the hub's ports for the jail, where these were found."""
    public = folder / "public" / "ansible"
    public.mkdir(parents=True)
    (public / "roles").symlink_to(ANSIBLE / "roles")
    wanted = firewall_tasks()[1]
    assert "wod_firewall_missing" in wanted["ansible.builtin.set_fact"]
    told = {"name": "Told", "ansible.builtin.debug": {"msg": "{{ [wod_firewall_missing, wod_hub_ports] | to_json }}"}}
    play = {"name": "Trial", "hosts": "production", "gather_facts": False, "roles": [{"role": "wod"}]}
    (public / "trial.yml").write_text(yaml.safe_dump([{**play, "tasks": [wanted, told]}], sort_keys=False))
    settings = Settings.model_validate({"WODBEDIR": public.parent, "WODSTATEDIR": folder / "state", **keys})
    variables = {"wod_firewall": "ufw", "wod_firewall_look": {"stdout_lines": found}, "wod_ssh_ports": [22]}
    variables |= {"ansible_facts": {"os_family": "Debian"}}
    played = maintenance.play(settings, "trial", variables=variables, timeout=120)
    assert played.status == 0, played.text_tail
    missing, ports = yaml.safe_load(played.tasks[-1].message)
    return missing, ports


@pytest.mark.parametrize(
    ("keys", "ports"),
    [
        ({"WODBEAPIURL": "http://127.0.0.1:8000"}, [8000]),
        ({"WODBEAPIURL": "http://127.0.0.1:8000", "WODBEPROTO": "https", "WODBEPORT": 443}, [8000, 443]),
        ({"WODBEAPIURL": "https://hub.example.org", "WODBEPORT": 443}, [443]),
    ],
)
def test_the_hub_s_own_port_is_let_in_and_the_one_that_students_see(
    tmp_path: Path, keys: dict[str, object], ports: list[int]
) -> None:
    """A web server in front may be here or elsewhere: either way students get to the hub, and the jail bans on both."""
    missing, jail = reckoned(tmp_path, ["tcp 22 any"], WODBETOKEN="0123456789abcdef", **keys)
    assert missing == [["tcp", str(port), "any"] for port in ports]
    assert jail == ports


def test_rules_for_single_hosts_are_found_again(tmp_path: Path) -> None:
    """ufw says 192.0.2.7 for 192.0.2.7/32; a network of IPv6 keeps its /32."""
    found = look(tmp_path)
    assert {"tcp 22 any", "tcp 8000 any", "tcp 10025 192.0.2.7", "tcp 10025 2001:db8::/32"} <= set(found)
    keys = {"WODLISTEN": "0.0.0.0", "WODALLOWEDPEERS": NETWORKS}  # noqa: S104 - a value, nothing listens
    missing, _ = reckoned(tmp_path, found, **keys)
    assert missing == []
    other, _ = reckoned(tmp_path / "other", [line for line in found if "192.0.2.7" not in line], **keys)
    assert other == [["tcp", "10025", "192.0.2.7"]]
