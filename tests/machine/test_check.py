"""wod-check on an installed backend: every item broken, seen, mended, well; what can't be mended is told."""

from __future__ import annotations

import difflib
import json
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.machine.installed import Installed
from tests.machine.machine import Machine
from wodmail import paths

pytestmark = pytest.mark.machine

TREE = "/opt/wod/wod-backend"
PRIVATE = "/opt/wod/wod-private"
PRIVATE_TASKS = """---
- name: A file of this site
  ansible.builtin.copy:
    content: "users before: {{ ansible_check_mode or lookup('file', '/etc/passwd') is search('student3:') }}\\n"
    dest: /etc/wod-site
    force: false
    owner: root
    group: root
    mode: "0644"
"""
# ufw keeps a single host's address without its prefix.
VARIABLES = """
wod_firewall_udp:
  backend: [53, {port: 5353, from: [192.0.2.7/32, "2001:db8::7/128", "2001:db8::/32"]}]
"""
BREAKS = {
    "limits": "sed -i s/800000/5000/ /etc/security/limits.d/99-wodmail.conf",  # enough for items that become WODUSER
    "sysctl": "rm /etc/sysctl.d/99-wodmail.conf",
    "firewall": "ufw delete allow 8000/tcp; ufw delete allow 53/udp",
    "firewall_service": "ufw disable; systemctl disable --now ufw",
    "time": "systemctl disable --now chrony",
    "accounts": "echo 'ulimit -n 10' >/etc/profile.d/wod-limits.sh",
    "skel": "echo other >/etc/skel/.bashrc; rm -r /etc/skel/.config",
    "profile": "echo 'if then' >/home/wodadmin/.profile",
    "editor": "update-alternatives --install /usr/bin/editor editor /bin/ls 1;update-alternatives --set editor /bin/ls",
    "logind": "rm /etc/systemd/system/user-.slice.d/50-wodmail.conf",
    "hosts": "sed -i 's/^127.0.1.1 .*/127.0.1.1 other/' /etc/hosts",
    "config": "chmod 0644 /etc/wod.yml; echo >>/etc/wod.sh",
    "trees": f"chmod o+w {TREE}/setup.cfg; chmod 0777 {TREE}/docs",
    "helper": "rm /etc/sudoers.d/wodmail",
    "utilities": "rm /usr/local/bin/wod-test-action.sh /usr/local/bin/wod-students",
    "deliver": f"echo broken >>{TREE}/scripts/functions.sh",
    "schedules": "systemctl disable --now wod-deliver.timer; rm /etc/systemd/system/wod-package-update.timer",
    "mail": "echo '10025 inet n - y - - smtpd' >>/etc/postfix/master.cf",
    "services": "systemctl disable --now wodmail",
    "fail2ban": "systemctl stop fail2ban; rm /etc/fail2ban/jail.d/wodmail.conf",
    "private": "rm /etc/wod-site",
    "users": "userdel -r student3",
}
"""For each item of the check what breaks it."""


@dataclass(frozen=True)
class Story:
    """The runs of wod-check before, on and after a broken machine."""

    before: dict[str, Any]
    audit: dict[str, Any]
    fix: dict[str, Any]
    after: dict[str, Any]
    again: dict[str, Any]
    seconds: float
    listed: tuple[str, str]


# Names, kinds, modes, owners, links, inodes of files (one that is written anew has another), contents; then what is at
# work: rules of the firewall, values of the kernel, units and whether they run.
LISTING = """
places="/etc /home /opt/wod /opt/wodmail/bin /student /usr/local /var/spool/cron"
find $places '(' -type d -printf '%p d %m %U %G\\n' -o -printf '%p %y %m %U %G %i %l\\n' ')' | sort
find $places -type f -print0 | sort -z | xargs -0 sha256sum
ufw status verbose
iptables-save | sed '/^#/d; s/\\[[0-9:]*\\]//'
sysctl net.ipv4.tcp_keepalive_time kernel.threads-max kernel.pid_max vm.max_map_count
systemctl list-unit-files --no-legend --no-pager
for unit in wodmail jupyterhub wod-kill-processes fail2ban chrony ufw postfix cron wod-deliver.timer; do
  echo "$unit $(systemctl show -P ActiveState -P MainPID -P InvocationID "$unit" | tr '\\n' ' ')"
done
"""


def listing(machine: Machine) -> str:
    """What an audit must leave as it is, line by line."""
    return machine.shell(LISTING)


def check(machine: Machine, *words: str, status: int | None = None) -> dict[str, Any]:
    """wod-check --json with these words; the items by their id."""
    done = machine.run(["/opt/wodmail/bin/wod-check", "--json", *words], check=False, timeout=600)
    assert done.out.startswith("{"), done
    found = json.loads(done.out)
    assert found["version"] == 1
    assert found["status"] == done.status
    failed = [item for item in found["items"] if item["status"] == "failed"]
    assert status is None or done.status == status, f"status {done.status}, failed: {failed}, {found.get('text')}"
    return {item["id"]: item for item in found["items"]}


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    """What became of each item."""
    return {name: item["status"] for name, item in found.items()}


def prepare(machine: Machine) -> None:
    """Private files of a site, a port of UDP, one for single hosts."""
    machine.write(f"{PRIVATE}/ansible/check_backend.yml", PRIVATE_TASKS)
    machine.write(f"{PRIVATE}/ansible/group_vars/production.yml", VARIABLES)
    machine.write(f"{PRIVATE}/sys/skel/.config/site.conf", "of = site\n")
    machine.write(f"{PRIVATE}/sys/skel/.bashrc", "# the site's own\n")
    machine.shell(f"grep -q ^WODPRIVDIR: /etc/wod.yml || echo 'WODPRIVDIR: {PRIVATE}' >>/etc/wod.yml")
    assert "student3:" in machine.read("/etc/passwd")


@pytest.fixture(scope="module")
def backend(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """An installed backend with a few private files."""
    with Machine(tmp_path_factory.mktemp("checked"), below=[installed.folder]) as machine:
        prepare(machine)
        yield machine


@pytest.fixture(scope="module")
def story(backend: Machine) -> Story:
    """All items broken at once, an audit, a run that mends, an audit, a second run."""
    before = check(backend, status=0)
    backend.shell("\n".join(BREAKS.values()))
    listed = [listing(backend)]
    audit = check(backend, "--check", status=2)
    listed.append(listing(backend))
    fix = check(backend, status=0)
    after, seconds = timed_audit(backend)
    again = check(backend, status=0)
    return Story(before, audit, fix, after, again, seconds, (listed[0], listed[1]))


def timed_audit(machine: Machine) -> tuple[dict[str, Any], float]:
    """An audit that finds nothing, and the seconds of processor time that it takes."""
    script = "TIMEFORMAT='%U %S'; time /opt/wodmail/bin/wod-check --json --check"
    done = machine.run(["bash", "-c", script], timeout=600)
    seconds = sum(float(word) for word in done.err.split()[-2:])
    return {item["id"]: item for item in json.loads(done.out)["items"]}, seconds


def test_every_item_is_broken_here(backend: Machine) -> None:
    listed = json.loads(backend.run(["/opt/wodmail/bin/wod-check", "--list", "--json"]).out)
    assert [item["id"] for item in listed["items"]] == list(BREAKS)


@pytest.mark.parametrize("name", list(BREAKS))
def test_differs_fixed_ok(story: Story, name: str) -> None:
    assert story.before[name]["status"] in ("ok", "fixed")
    seen = [found[name]["status"] for found in (story.audit, story.fix, story.after, story.again)]
    assert seen == ["differs", "fixed", "ok", "ok"], [story.audit[name], story.fix[name], story.after[name]]
    assert story.audit[name]["what"], "it says what differs"


def test_an_audit_changes_nothing(story: Story) -> None:
    """No file, mode, owner or link; no rule of the firewall, no value of the kernel, no unit."""
    before, after = (listed.splitlines() for listed in story.listed)
    assert list(difflib.unified_diff(before, after, n=0, lineterm="")) == []
    assert {"/etc/passwd", "/home/wodadmin/.profile", "/student/student1"} <= {line.split(" ")[0] for line in before}
    assert "Status: inactive" in before and any(line.startswith("kernel.pid_max = ") for line in before)


def test_the_second_run_changes_nothing(story: Story) -> None:
    assert set(verdicts(story.again).values()) == {"ok"}


def test_an_audit_is_quick(story: Story) -> None:
    print(f"an audit that finds nothing: {story.seconds:.1f} s of processor time")
    assert story.seconds < 25


def test_what_differs_is_shown_line_by_line(story: Story) -> None:
    assert "+wodadmin hard nproc 800000" in story.audit["limits"]["diff"]
    assert "-wodadmin hard nproc 5000" in story.audit["limits"]["diff"]
    assert "tcp 8000 any" in " ".join(story.audit["firewall"]["what"])
    assert "1 missing" in " ".join(story.audit["users"]["what"])
    assert "functions.sh" in " ".join(story.audit["deliver"]["what"])


def test_no_secret_is_told(story: Story, backend: Machine) -> None:
    secrets = re.findall(r"^(?:WODBETOKEN|VAULTPWD): (\S+)$", backend.read("/etc/wod.yml"), re.MULTILINE)
    assert len(secrets) == 2
    told = json.dumps([story.audit, story.fix])
    assert not [secret for secret in secrets if secret in told]


def test_what_a_container_may_not_set_is_told(story: Story, backend: Machine) -> None:
    """The file is right, so the item is ok; the live value is not, and that is said."""
    assert story.after["sysctl"]["status"] == "ok"
    (told,) = story.after["sysctl"]["what"]
    assert "kernel.pid_max" in told and "container" in told
    assert "kernel.pid_max=200000" in backend.read("/etc/sysctl.d/99-wodmail.conf")
    assert "a container" in " ".join(story.after["time"]["what"])


def test_what_this_machine_may_set_is_at_work(story: Story, backend: Machine) -> None:
    """The keep-alive time belongs to the machine's own network, so here it may be set, as no other value of ours."""
    name, file = "net.ipv4.tcp_keepalive_time", "/proc/sys/net/ipv4/tcp_keepalive_time"
    assert story.after["sysctl"]["status"] == "ok"
    if backend.run(["test", "-w", file], check=False).status != 0:
        assert name in " ".join(story.after["sysctl"]["what"])
        return
    assert backend.read(file) == "1800\n"
    backend.shell(f"echo 7200 >{file}")
    audit = check(backend, "--check", "--item", "sysctl", status=2)["sysctl"]
    assert (audit["status"], backend.read(file)) == ("differs", "7200\n")
    assert check(backend, "--item", "sysctl", status=0)["sysctl"]["status"] == "fixed"
    assert backend.read(file) == "1800\n"
    assert check(backend, "--check", "--item", "sysctl", status=0)["sysctl"]["status"] == "ok"


def test_the_limits_are_at_work_in_a_login(story: Story, backend: Machine) -> None:
    """Of the service's user and of a student, as far as this kernel lets them be raised; nothing is said else."""
    assert story.after["accounts"]["status"] == "ok"
    there = backend.run(["bash", "-c", "ulimit -Hn; ulimit -Hu"]).out.split()
    nofile, nproc = (int(word) if word.isdigit() else sys.maxsize for word in there)
    for user in ("wodadmin", "student1"):
        done = backend.run(["su", "--login", user, "--command", "ulimit -Sn; ulimit -Su; echo $EDITOR"])
        found = done.out.split()
        assert (int(found[0]) in (65535, nofile), int(found[1]) in (641465, nproc)) == (True, True), (user, found)
        assert (found[2], done.err) == ("vim", "")


WRITTEN = {
    "/etc/sysctl.d/99-wodmail.conf": {
        "kernel.pid_max=200000",
        "kernel.threads-max=4096000",
        "net.ipv4.tcp_keepalive_time=1800",
        "vm.max_map_count=600000",
    },
    "/etc/systemd/system/user-.slice.d/50-wodmail.conf": {"[Slice]", "TasksMax=100000"},
    "/etc/security/limits.d/99-wodmail.conf": {
        f"wodadmin {kind} {what}" for kind in ("soft", "hard") for what in ("nproc 800000", "nofile 65535")
    },
}


def test_the_numbers_are_the_right_ones(story: Story, backend: Machine) -> None:
    """Literally, line by line; and systemd has read what it is told."""
    assert {story.after[name]["status"] for name in ("sysctl", "logind", "limits", "accounts")} == {"ok"}
    for file, wanted in WRITTEN.items():
        found = {line for line in backend.read(file).splitlines() if line and not line.startswith("#")}
        assert found == wanted, file
    login = backend.read("/etc/profile.d/wod-limits.sh")
    assert "ulimit -u 641465 " in login and "ulimit -n 65535 " in login
    assert "TasksMax=100000" in backend.run(["systemctl", "show", "-p", "TasksMax", "user-1000.slice"]).out


def test_private_files_win(story: Story, backend: Machine) -> None:
    assert story.after["skel"]["status"] == "ok"
    assert backend.read("/etc/skel/.bashrc") == "# the site's own\n"
    assert backend.read("/etc/skel/.config/site.conf") == "of = site\n"
    rules = backend.run(["ufw", "status"]).out
    assert "53/udp" in rules
    assert {"192.0.2.7", "2001:db8::7", "2001:db8::/32"} <= set(rules.split())


def test_private_tasks_come_before_the_users(story: Story, backend: Machine) -> None:
    assert story.fix["users"]["status"] == "fixed"
    assert backend.read("/etc/wod-site") == "users before: False\n"


def test_the_operator_is_not_locked_out(story: Story, backend: Machine) -> None:
    """With the firewall on, ssh answers and a port that nobody asked for doesn't."""
    assert story.after["firewall_service"]["status"] == "ok"
    backend.shell("systemd-run --quiet --unit=closed python3 -m http.server 9999")
    socket.create_connection((backend.address, 22), timeout=10).close()
    with pytest.raises(OSError, match=r"timed out|refused"):
        socket.create_connection((backend.address, 9999), timeout=2)


def test_one_item_alone(story: Story, backend: Machine) -> None:
    assert story.again["limits"]["status"] == "ok"
    backend.shell(BREAKS["limits"] + "; " + BREAKS["hosts"])
    assert verdicts(check(backend, "--item", "limits", status=0)) == {"limits": "fixed"}
    assert verdicts(check(backend, "--check", "--item", "limits", "--item", "hosts", status=2)) == {
        "limits": "ok",
        "hosts": "differs",
    }
    assert "hosts" not in check(backend, "--item", "hosts", "--item", "logind", "--skip", "hosts", status=0)
    assert verdicts(check(backend, "--item", "hosts", status=0)) == {"hosts": "fixed"}


def test_an_item_that_is_turned_off_is_left_alone(story: Story, backend: Machine) -> None:
    assert story.again["hosts"]["status"] == "ok"
    variables = f"{PRIVATE}/ansible/group_vars/production.yml"
    before = backend.read(variables)
    backend.write(variables, before + "wod_check_skip: [hosts]\n")
    backend.shell(BREAKS["hosts"])
    try:
        assert verdicts(check(backend, "--item", "hosts", status=0)) == {"hosts": "not applicable"}
    finally:
        backend.write(variables, before)
    assert verdicts(check(backend, "--item", "hosts", status=0)) == {"hosts": "fixed"}


def test_a_failing_item_stops_no_other(story: Story, backend: Machine) -> None:
    assert story.again["skel"]["status"] == "ok"
    backend.shell("mv /etc/skel /etc/skel.kept; touch /etc/skel; " + BREAKS["hosts"])
    backend.write(f"{TREE}/scripts/bad.sh.j2", "{{ no_such_thing }}\n")
    try:
        found = check(backend, "--item", "skel", "--item", "hosts", "--item", "deliver", status=1)
    finally:
        backend.shell(f"rm /etc/skel {TREE}/scripts/bad.sh.j2; mv /etc/skel.kept /etc/skel")
    assert {name for name, verdict in verdicts(found).items() if verdict == "failed"} == {"skel", "deliver"}
    assert found["hosts"]["status"] == "fixed"
    assert "no_such_thing" in " ".join(found["deliver"]["what"])


def test_more_rights_than_the_one_line_are_told(story: Story, backend: Machine) -> None:
    """They are not taken away: an operator may have had a reason."""
    assert story.again["helper"]["status"] == "ok"
    backend.write("/etc/sudoers.d/other", "wodadmin ALL=(ALL) NOPASSWD: ALL\n", "0440")
    try:
        found = check(backend, "--item", "helper", status=2)
    finally:
        backend.shell("rm /etc/sudoers.d/other")
    assert found["helper"]["status"] == "differs"
    assert "(ALL) NOPASSWD: ALL" in " ".join(found["helper"]["what"])


def test_write_bits_were_taken_away(story: Story, backend: Machine) -> None:
    told = " ".join(story.audit["trees"]["what"])
    assert f"2 files, such as {TREE}/docs, {TREE}/setup.cfg" in told
    assert backend.shell(f"stat -c '%a %U' {TREE}/docs {TREE}/setup.cfg").splitlines() == ["755 root", "644 root"]


def test_what_another_owns_is_told_and_left_alone(story: Story, backend: Machine) -> None:
    """A page that nobody plays; the vault's password is WODUSER's own, 0600, as docs/variables.md asks."""
    assert story.again["trees"]["status"] == "ok"
    secret, page = f"{PRIVATE}/ansible/vault_secret", f"{TREE}/docs/check.md"
    backend.write(secret, "a-word\n", "0600")
    backend.shell(f"chown wodadmin {secret}")
    try:
        assert verdicts(check(backend, "--item", "trees", status=0)) == {"trees": "ok"}
        backend.shell(f"chown wodadmin {page}")
        found = check(backend, "--item", "trees", status=2)
        left = backend.shell(f"stat -c '%a %U' {secret} {page}").splitlines()
    finally:
        backend.shell(f"rm {secret}; chown root {page}")
    assert left == ["600 wodadmin", "644 wodadmin"]
    assert found["trees"]["status"] == "differs"
    assert f"{page} (wodadmin)" in " ".join(found["trees"]["what"])
    assert secret not in " ".join(found["trees"]["what"])


def test_what_others_can_change_is_not_run(story: Story, backend: Machine) -> None:
    """With WODTRUSTTREES: false it is, and the item tells of it."""
    assert story.again["trees"]["status"] == "ok"
    playbook = f"{TREE}/ansible/check_backend.yml"
    backend.shell(f"chown wodadmin /opt/wod; chmod o+w {playbook}")
    try:
        refused = backend.run(["/opt/wodmail/bin/wod-check", "--item", "trees"], check=False)
        delivered = backend.run(["/opt/wodmail/bin/wod-deliver", "--no-mail"], check=False)
        backend.shell(f"chmod o-w {playbook}; echo 'WODTRUSTTREES: false' >>/etc/wod.yml")
        found = check(backend, "--item", "trees", status=2)
    finally:
        backend.shell(f"chown root /opt/wod; chmod o-w {playbook}; sed -i /^WODTRUSTTREES:/d /etc/wod.yml")
    assert (refused.status, delivered.status) == (78, 1)
    assert "/opt/wod: belongs to wodadmin" in refused.err
    assert f"{playbook}: can be written by others" in refused.err
    assert "/opt/wod: belongs to wodadmin" in delivered.err
    assert "/opt/wod" in " ".join(found["trees"]["what"])


def test_old_names_work(story: Story, backend: Machine) -> None:
    assert story.again["utilities"]["status"] == "ok"
    said = backend.run(["wod-test-action.sh"], user="wodadmin", check=False)
    assert "CREATE" in said.out + said.err
    assert "Example:" in backend.run(["wod-deliver.sh", "--help"]).out
    text = (paths.share("ansible") / "roles/wod/defaults/main.yml").read_text(encoding="utf-8")
    old = yaml.safe_load(text)["wod_utilities"]
    assert "wod-cleanup-users.sh" in old
    for name, program in old.items():
        assert f"usage: {program} " in backend.run([name, "--help"]).out.lower()


def test_failed_logins_are_found_in_the_hub_s_log(story: Story, backend: Machine) -> None:
    """By fail2ban's own reader, at the address that the proxy tells; a name can't pose as an address."""
    assert story.again["fail2ban"]["status"] == "ok"
    lines = (
        "[W 2026-11-24 01:02:03.456 JupyterHub log:192] 403 POST /hub/login?next=%2Fhub%2F (@198.51.100.7) 2066.8ms",
        "[W 2026-11-24 01:02:04.456 JupyterHub log:192] 403 POST /hub/login?(@203.0.113.9) (@::ffff:198.51.100.8) 1ms",
        "[I 2026-11-24 01:02:05.456 JupyterHub log:192] 302 POST /hub/login?next= -> /hub/ (student1@203.0.113.9) 1ms",
        "[W 2026-11-24 01:02:06.456 JupyterHub auth:1] PAM Authentication failed (x (@203.0.113.9) 1.0ms@198.51.100.9)",
    )
    text = "".join(f"Nov 24 01:02:0{at} backend jupyterhub[12]: {line}\n" for at, line in enumerate(lines))
    backend.write("/tmp/hub.log", text)
    said = backend.run(
        [
            "fail2ban-regex",
            "--print-all-matched",
            "--out",
            "ip",
            "/tmp/hub.log",
            "/etc/fail2ban/filter.d/wod-jupyterhub.conf",
        ]
    ).out
    assert said.split() == ["198.51.100.7", "198.51.100.8"]
    assert "wod-jupyterhub" in backend.run(["fail2ban-client", "status"]).out


def test_only_root_checks(story: Story, backend: Machine) -> None:
    assert story.again["limits"]["status"] == "ok"
    refused = backend.run(["wod-check", "--check"], user="wodadmin", check=False)
    assert (refused.status, "only root" in refused.err) == (1, True)


def test_postfix_as_the_door(story: Story, backend: Machine) -> None:
    """Port, mailbox_command, .procmailrc and .forward: a mail comes through to a request; and back to the listener."""
    assert story.again["mail"]["status"] == "ok"
    backend.shell("sed -i /^WODDOOR:/d /etc/wod.yml; echo 'WODDOOR: postfix' >>/etc/wod.yml")
    assert "wodmail" in backend.shell("ss -Hltnp 'sport = :10025'")
    audit = check(backend, "--check", "--item", "mail", "--item", "config", status=2)
    assert audit["mail"]["status"] == "differs"
    assert verdicts(check(backend, "--item", "config", "--item", "mail", "--item", "services", status=0)) == {
        "config": "fixed",
        "mail": "fixed",
        "services": "ok",
    }
    assert check(backend, "--item", "mail", status=0)["mail"]["status"] == "ok"
    the_site_s_own_recipes(backend)
    before = requests(backend)
    backend.run(["wod-test-action", "PLAN", "WKSHP-Demo101", "1"], user="wodadmin", check=False)
    done = backend.run(
        ["wod-test-action", "--wait", "--timeout", "120", "CREATE", "WKSHP-Demo101", "1"], user="wodadmin"
    )
    assert "procmail-action for student 1" in done.out
    assert requests(backend) > before
    assert "master" in backend.shell("ss -Hltnp 'sport = :10025'")
    backend.shell("sed -i /^WODDOOR:/d /etc/wod.yml")
    assert (
        check(backend, "--item", "mail", "--item", "config", "--item", "services", status=0)["mail"]["status"]
        == "fixed"
    )
    backend.run(["wod-test-action", "--wait", "--timeout", "120", "CLEANUP", "WKSHP-Demo101", "1"], user="wodadmin")
    assert "master" not in backend.shell("ss -Hltnp 'sport = :10025'")


def the_site_s_own_recipes(machine: Machine) -> None:
    """They are told and left alone; those that are missing are written, as WODUSER's."""
    recipes, forward = "/home/wodadmin/.procmailrc", "/home/wodadmin/.forward"
    machine.shell(f"echo HOST=none >{recipes}; rm {forward}")
    own = check(machine, "--item", "mail", status=2)["mail"]
    assert (own["status"], machine.read(recipes)) == ("differs", "HOST=none\n")
    assert ".procmailrc of wodadmin is not wodmail's" in " ".join(own["what"])
    machine.shell(f"rm {recipes}")
    assert check(machine, "--item", "mail", status=0)["mail"]["status"] == "fixed"
    modes = machine.shell(f"stat -c '%a %U' {recipes} {forward}").splitlines()
    assert modes == ["600 wodadmin", "644 wodadmin"]


def requests(machine: Machine) -> int:
    """How many requests there are."""
    return len(json.loads(machine.run(["wodmail", "requests", "--json", "--limit", "0"]).out)["requests"])


def test_firewalld_where_there_is_no_ufw(story: Story, backend: Machine) -> None:
    """The same rules, those for single networks too; one that was taken out comes back; sshd's port first of all."""
    assert story.again["firewall"]["status"] == "ok"
    backend.shell("apt-get -qq update && apt-get -qq install --yes --no-install-recommends firewalld", timeout=600)
    backend.shell(
        "apt-get -qq purge --yes ufw && sed -i /^WODLISTEN:/d /etc/wod.yml && echo WODLISTEN: 0.0.0.0 >>/etc/wod.yml"
    )
    words = ("--item", "firewall", "--item", "firewall_service")
    assert check(backend, *words, status=0)["firewall"]["status"] == "fixed"
    assert set(backend.run(["firewall-cmd", "--list-ports"]).out.split()) == {"22/tcp", "53/udp", "8000/tcp"}
    assert 'source address="10.0.0.0/8" port port="10025"' in backend.run(["firewall-cmd", "--list-rich-rules"]).out
    backend.shell("firewall-cmd --quiet --permanent --remove-port=8000/tcp; systemctl disable --now firewalld")
    assert set(verdicts(check(backend, "--check", *words, status=2)).values()) == {"differs"}
    assert set(verdicts(check(backend, *words, status=0)).values()) == {"fixed"}
    assert set(verdicts(check(backend, *words, status=0)).values()) == {"ok"}
    assert "8000/tcp" in backend.run(["firewall-cmd", "--list-ports"]).out
