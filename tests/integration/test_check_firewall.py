"""What the firewall is to let in, and whom it has let in already, as the playbook of the checks reckons it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.parts import require
from tests.support import free_port
from wodmail import checking, maintenance, paths
from wodmail.maintenance import Played
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
# Narrower than it seems (an interface, a destination, a port of the sender, outgoing, routed), or forbidden before.
NARROW = """\
### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_eth0
### tuple ### allow tcp 22 192.0.2.1 any 0.0.0.0/0 in
### tuple ### allow tcp 22 0.0.0.0/0 1024 0.0.0.0/0 in
### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 out
### tuple ### route:allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### deny tcp 8000 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 8000 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### reject any 9000:9100,9200 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 9050 0.0.0.0/0 any 192.0.2.7 in
### tuple ### limit tcp 9200 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### deny any any 0.0.0.0/0 any 198.51.100.0/24 in
### tuple ### deny udp 443 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### deny tcp 443 0.0.0.0/0 any 0.0.0.0/0 in_eth1
### tuple ### allow tcp 443 0.0.0.0/0 any 0.0.0.0/0 in comment=776f64
### tuple ### allow_log-all tcp 60000:61000 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 80 0.0.0.0/0 any 0.0.0.0/0 Nginx%20HTTP - in
### tuple ### allow tcp 81 0.0.0.0/0 any 198.51.100.0/24 in
"""
RULES6 = """\
### tuple ### allow tcp 22 ::/0 any ::/0 in
### tuple ### allow tcp 10025 ::/0 any 2001:db8::/32 in
### tuple ### allow tcp 10025 ::/0 any 2001:db8::7 in
"""


def firewall() -> dict[str, Any]:
    """The block of the item."""
    found: dict[str, Any] = yaml.safe_load((ANSIBLE / "tasks/firewall.yml").read_text(encoding="utf-8"))[0]
    return found


def firewall_tasks() -> list[dict[str, Any]]:
    """The tasks of the item."""
    found: list[dict[str, Any]] = firewall()["block"]
    return found


def script(folder: Path, kind: str, *, ports: str = "22", before: str = "") -> subprocess.CompletedProcess[str]:
    """The item's own script, with files of ufw in a folder and programs of ours there found first.

    Args:
        folder: where the files and programs are.
        kind: ufw or firewalld.
        ports: wod_ssh_ports.
        before: what is done first, in a mount namespace of its own; none is made without.
    """
    text = firewall()["vars"]["wod_firewall_script"].replace("/etc/ufw", str(folder))
    text = f"PATH={folder}:$PATH\n{before}\n{text}"
    argv = ["/bin/sh", "-c", text, "sh", kind, ports]
    return subprocess.run([*(["unshare", "-m"] if before else []), *argv], capture_output=True, text=True, check=False)


def look(folder: Path, rules: str = RULES) -> list[str]:
    """What the item's own script finds in files of ufw."""
    (folder / "user.rules").write_text(rules)
    (folder / "user6.rules").write_text(RULES6)
    done = script(folder, "ufw")
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith(("ssh ", "bar "))]


def played(
    folder: Path, tasks: list[dict[str, Any]], variables: dict[str, Any], *, check: bool = False, **keys: object
) -> Played:
    """What tasks come to on this machine, with the defaults of the checks."""
    public = folder / "public" / "ansible"
    public.mkdir(parents=True)
    (public / "roles").symlink_to(ANSIBLE / "roles")
    play = {"name": "Trial", "hosts": "production", "gather_facts": False, "roles": [{"role": "wod"}], "tasks": tasks}
    (public / "trial.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    settings = Settings.model_validate({"WODBEDIR": public.parent, "WODSTATEDIR": folder / "state", **keys})
    variables = {"ansible_facts": {"os_family": "Debian"}, **variables}
    return maintenance.play(settings, "trial", variables=variables, timeout=120, check=check)


def reckoned(folder: Path, found: list[str], **keys: object) -> tuple[list[list[str]], list[int]]:
    """The rules that are missing, and the hub's ports for the jail, where these were found."""
    (wanted,) = [task for task in firewall_tasks() if task["name"] == "Rules that are wanted"]
    told = {"name": "Told", "ansible.builtin.debug": {"msg": "{{ [wod_firewall_missing, wod_hub_ports] | to_json }}"}}
    variables = {"wod_firewall": "ufw", "wod_firewall_look": {"stdout_lines": found}, "wod_ssh_ports": [22]}
    done = played(folder, [wanted, told], variables, **keys)
    assert done.status == 0, done.text_tail
    missing, ports = yaml.safe_load(done.tasks[-1].message)
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


def test_a_narrower_rule_and_one_that_comes_too_late_do_not_count(tmp_path: Path) -> None:
    found = look(tmp_path, NARROW)
    assert [line for line in found if "::" not in line and "2001" not in line and "0.0.0.0/0" not in line] == [
        "shut tcp 8000 any",
        "shut tcp 9050 192.0.2.7",
        "shut tcp 9200 any",
        "tcp 443 any",
        "tcp 60000:61000 any",
        "tcp 80 any",
        "shut tcp 81 198.51.100.0/24",
    ]
    missing, _ = reckoned(tmp_path, found, WODBETOKEN="0123456789abcdef", WODBEAPIURL="http://127.0.0.1:8000")
    assert missing == [["tcp", "22", "any"]], "what is shut is not made again: ufw would say that it is there"


def test_a_rule_that_comes_too_late_is_told_and_not_made_again(tmp_path: Path) -> None:
    """The whole item but for ufw itself, which isn't asked: nothing is missing."""
    text = (ANSIBLE / "tasks/firewall.yml").read_text(encoding="utf-8").replace("/etc/ufw", str(tmp_path))
    late = "### tuple ### deny tcp 8000 0.0.0.0/0 any 0.0.0.0/0 in\n"
    (tmp_path / "user.rules").write_text(late + RULES)
    (tmp_path / "user6.rules").write_text(RULES6)
    block = yaml.safe_load(text)[0]
    given = {"wod_firewall": "ufw", "wod_ssh_ports": [22], "wod_failed": [], "wod_running": []}
    keys = {"WODBETOKEN": "0123456789abcdef", "WODBEAPIURL": "http://127.0.0.1:8000"}
    done = played(tmp_path, [block], given, **keys)
    (item,) = checking.items(done.tasks, check=False)
    assert (done.status, item.verdict) == (0, checking.Verdict.DIFFERS), done.text_tail
    assert [line for line in item.what if "tcp 8000 any: a rule before it forbids" in line]


def test_an_audit_tells_what_is_shut_beside_what_is_missing(tmp_path: Path) -> None:
    """The rules are looked at again, which changes nothing."""
    text = (ANSIBLE / "tasks/firewall.yml").read_text(encoding="utf-8").replace("/etc/ufw", str(tmp_path))
    late = "### tuple ### deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n"
    (tmp_path / "user.rules").write_text(late + RULES.replace("tcp 8000", "tcp 8001"))
    (tmp_path / "user6.rules").write_text(RULES6)
    block = yaml.safe_load(text)[0]
    block["block"] = [task for task in block["block"] if "community.general.ufw" not in task]
    given = {"wod_firewall": "ufw", "wod_ssh_ports": [22], "wod_failed": [], "wod_running": []}
    keys = {"WODBETOKEN": "0123456789abcdef", "WODBEAPIURL": "http://127.0.0.1:8000"}
    done = played(tmp_path, [block], given, check=True, **keys)
    (item,) = checking.items(done.tasks, check=True)
    assert (done.status, item.verdict) == (0, checking.Verdict.DIFFERS), done.text_tail
    assert [line for line in item.what if "tcp 8000 any" in line], item.what
    assert [line for line in item.what if "tcp 22 any: a rule before it forbids" in line], item.what


ALL4, ALL6 = "allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", "allow tcp 22 ::/0 any ::/0 in"


@pytest.mark.parametrize(
    ("four", "six", "barred"),
    [
        ([ALL4], [ALL6], None),
        (["deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_eth0", ALL4], [ALL6], 0),
        (["deny any any 192.0.2.10 any 0.0.0.0/0 in", ALL4], [ALL6], 0),
        (["reject_log tcp 20:30 0.0.0.0/0 any 198.51.100.0/24 in", ALL4], [], 0),
        (["deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in_eth0", ALL4], [], 0),
        ([ALL4], ["deny tcp 22 ::/0 any ::/0 in", ALL6], 0),
        (["allow tcp 22 0.0.0.0/0 any 10.0.0.0/8 in", "deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", ALL4], [], 1),
        ([ALL4, "deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_eth0"], [ALL6, "deny any any ::/0 any 2001:db8::7 in"], None),
        (["deny udp 22 0.0.0.0/0 any 0.0.0.0/0 in", "deny tcp 23 0.0.0.0/0 any 0.0.0.0/0 in", ALL4], [], None),
        (["deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 out", "route:deny any any 0.0.0.0/0 any 0.0.0.0/0 in", ALL4], [], None),
    ],
)
def test_what_forbids_sshd_to_anybody_before_all_are_let_in(
    tmp_path: Path, four: list[str], six: list[str], barred: int | None
) -> None:
    """Whatever interface, address or family: a firewall that is on may shut the operator out."""
    for name, rules in (("user.rules", four), ("user6.rules", six)):
        (tmp_path / name).write_text("".join(f"### tuple ### {rule}\n" for rule in rules))
    done = script(tmp_path, "ufw", ports="22")
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("bar 22")]
    rule = (six if four == [ALL4] else four)[barred] if barred is not None else ""
    assert sorted(set(found)) == ([f"bar 22: {rule}"] if rule else [])


FIREWALLD = """#!/bin/sh
case $* in
  *--list-ports) echo 22/tcp 60000-61000/udp ;;
  *--list-rich-rules)
    echo 'rule family="ipv4" source address="10.0.0.0/8" port port="60000-61000" protocol="tcp" accept'
    echo 'rule family="ipv4" source address="192.0.2.7" port port="80" protocol="tcp" accept limit value="1/m"'
    echo 'rule family="ipv6" source address="2001:db8::/32" port port="443" protocol="tcp" accept' ;;
esac
"""


def test_a_range_for_a_network_is_found_again_in_firewalld(tmp_path: Path) -> None:
    (tmp_path / "firewall-cmd").write_text(FIREWALLD)
    (tmp_path / "firewall-cmd").chmod(0o755)
    done = script(tmp_path, "firewalld")
    found = [line for line in done.stdout.splitlines() if not line.startswith("ssh ")]
    assert found == ["tcp 22 any", "udp 60000:61000 any", "tcp 60000:61000 10.0.0.0/8", "tcp 443 2001:db8::/32"]


def sshd(folder: Path, lines: str) -> str:
    """What makes a configuration of the real sshd's: a program of its name, before it on the way, names it."""
    real = require("sshd")
    key = folder / "host_key"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (folder / "sshd_config").write_text(f"HostKey {key}\n{lines}")
    (folder / "sshd").write_text(f'#!/bin/sh\nexec {real} -f {folder}/sshd_config "$@"\n')
    (folder / "sshd").chmod(0o755)
    (folder / "user.rules").touch()
    (folder / "user6.rules").touch()
    return real


def ssh_ports(folder: Path, before: str = "") -> set[int]:
    """The ports that the script finds."""
    done = script(folder, "ufw", ports="", before=before)
    assert done.returncode == 0, done.stderr
    return {int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ssh ")}


@pytest.mark.root
def test_every_port_of_sshd_is_let_in(tmp_path: Path) -> None:
    """Those of ListenAddress stand nowhere else; without /run/sshd sshd says nothing at all."""
    require("root")
    sshd(tmp_path, "ListenAddress 0.0.0.0:2222\nListenAddress [::1]:2223\nListenAddress 127.0.0.1:2224\n")
    empty = "mount -t tmpfs tmpfs /run"
    assert {2222, 2223, 2224} <= ssh_ports(tmp_path, empty)
    sshd(tmp_path, "Port 2225\nPort 2226\n")
    assert {2225, 2226} <= ssh_ports(tmp_path, empty)


STUDENTS = """
import os, socket
open("/proc/self/comm", "w").write("sshd")
os.setuid(65534)
with socket.create_server(("0.0.0.0", 0)) as door:
    print(door.getsockname()[1], flush=True)
    input()
"""


@pytest.mark.root
def test_the_port_that_sshd_listens_on_is_let_in_too(tmp_path: Path) -> None:
    """The file was changed and sshd has not been told; a port of a student's process of that name is not let in."""
    require("root")
    require("ip")
    real, port = sshd(tmp_path, "Port 22\n"), free_port()
    running = tmp_path / "running"
    running.write_text(f"Port {port}\nListenAddress 0.0.0.0\nPidFile none\nHostKey {tmp_path}/host_key\n")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    argv = [sys.executable, "-c", STUDENTS]
    with (
        subprocess.Popen([real, "-D", "-e", "-f", str(running)], stderr=subprocess.PIPE, text=True) as daemon,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as student,
    ):
        try:
            assert daemon.stderr is not None and student.stdout is not None
            assert "listening on 0.0.0.0" in daemon.stderr.readline()
            theirs = int(student.stdout.readline())
            found = ssh_ports(tmp_path)
        finally:
            daemon.terminate()
            student.terminate()
    assert {22, port} <= found
    assert theirs not in found


@pytest.mark.root
def test_an_sshd_that_cannot_be_asked_fails_the_item(tmp_path: Path) -> None:
    """No firewall is switched on with a guess; what the operator says is no guess."""
    require("root")
    sshd(tmp_path, "NoSuchWord yes\n")
    done = script(tmp_path, "ufw", ports="")
    assert done.returncode != 0
    assert "NoSuchWord" in done.stderr and "wod_ssh_ports" in done.stderr
    assert script(tmp_path, "ufw", ports="2222").returncode == 0


UNITS = ["unit ufw enabled", "unit firewalld disabled", "runs ufw"]


@pytest.mark.parametrize(
    ("lines", "chosen"),
    [
        (UNITS, "ufw"),
        ([*UNITS, "runs firewalld"], "firewalld"),  # ufw's unit is active, but ufw is off
        ([*UNITS, "runs firewalld", "ufw on"], "ufw"),
        ([*UNITS[1:], "runs firewalld"], "firewalld"),
        ([], ""),
    ],
)
def test_of_two_firewalls_the_one_that_runs_is_taken(tmp_path: Path, lines: list[str], chosen: str) -> None:
    facts = yaml.safe_load((ANSIBLE / "tasks/facts.yml").read_text(encoding="utf-8"))[1]
    told = {"name": "Told", "ansible.builtin.debug": {"msg": "{{ wod_firewall }}"}}
    done = played(tmp_path, [facts, told], {"wod_facts": {"stdout_lines": lines}})
    assert (done.status, done.tasks[-1].message) == (0, chosen), done.text_tail


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({"wod_firewall_ssh": ["tcp 22 any"], "wod_firewall_shut": ["tcp 8000 any"]}, "ok"),
        ({"wod_firewall_ssh": ["tcp 22 any"], "wod_firewall_shut": ["tcp 22 any"]}, "failed"),
        ({"wod_firewall_ssh": ["tcp 22 any"], "wod_firewall_bars": ["22: deny tcp 22 ::/0 any ::/0 in"]}, "failed"),
        ({"wod_firewall_ssh": ["tcp 22 any"], "wod_failed": ["firewall"]}, "failed"),
        ({}, "failed"),  # the item firewall was not looked at in this run
        ({"wod_check_skip": ["firewall"]}, "ok"),
        ({"wod_well": ["ufw"], "wod_ufw_on": True}, "skipped"),
    ],
)
def test_no_firewall_is_switched_on_before_sshd_is_let_in(
    tmp_path: Path, variables: dict[str, Any], status: str
) -> None:
    service = yaml.safe_load((ANSIBLE / "tasks/firewall.yml").read_text(encoding="utf-8"))[1]["block"]
    names = [task["name"] for task in service]
    guard = names.index("Its rules are in place before it is switched on")
    assert guard < min(names.index("The firewall is enabled"), names.index("The rules of ufw are at work"))
    given = {"wod_firewall": "ufw", "wod_failed": [], "wod_well": ["ufw"], "wod_ufw_on": False, **variables}
    done = played(tmp_path, [service[guard]], given)
    assert [task.status for task in done.tasks] == [status], done.text_tail
    for rule in variables.get("wod_firewall_bars", []):
        assert f"a rule comes first that forbids port {rule}" in done.tasks[0].message
