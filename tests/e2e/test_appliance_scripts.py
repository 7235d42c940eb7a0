"""The scripts for appliances as existing workshops call them, from a delivered tree; what is wrong, who is hostile."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import asuser
from tests.appliances import UIDS, Appliances, answers
from tests.e2e import appliancesite
from tests.e2e.appliancesite import ABSENT, SECOND, THIRD, appliance_site, container, lands, trust
from tests.e2e.linuxsite import LinuxDeployment
from tests.linux_students import BASE, FIRST, SERVICE
from tests.support import wait_until
from wodmail import configtext, paths, variables
from wodmail.deliver import Outcome, Site, deliver

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("appliance-scripts")]
WORD = "Werty1234"
HOME = f"/home/student{FIRST}"
# Waits at the door of the program that sets passwords, so that a test can look at the process list.
SLOW_CHPASSWD = """#!/bin/sh
touch /run/began
while [ ! -e /run/go ]; do sleep 0.02; done
exec /usr/sbin/chpasswd
"""
# What a student leaves on the appliance for whoever empties the home, and a process that puts it back all the time.
PLANTED = """
cd
rm -rf .ssh
ln -s /srv/victim .ssh
ln -sf /srv/victim/passwd .profile
ln -sf /srv/victim/passwd .bashrc
ln -s /srv/victim linked
mkdir -p shut/deep 'new
line'
ln -s /srv/victim/passwd 'shut/deep/--no-preserve-root'
touch -- -rf
chmod 0 shut/deep shut
setfacl -m u:student{friend}:rwx -d -m u:student{friend}:rwx . || :
chmod 777 .
setsid sh -c 'trap "" TERM HUP; while :; do
    mkdir .ssh && cp /srv/own.pub .ssh/authorized_keys; ln -s /srv/victim .ssh; ln -s /srv/victim/passwd .profile
done' >/dev/null 2>&1 </dev/null &
"""
# Ends and stops whatever the student may end or stop, but for itself.
FIGHTER = """
setsid setpriv --reuid={uid} --regid={uid} --clear-groups bash -c 'trap "" TERM HUP
    touch /tmp/fights
    while :; do kill -STOP -1; kill -KILL -1; done' >/dev/null 2>&1 </dev/null &
until [ -e /tmp/fights ]; do sleep 0.02; done
"""

# Answer at once, for more students than there are accounts.
FUNCTIONS = """
wod_get_workshop_id() {{ echo 1; }}
wod_get_ldap_status() {{ echo false; }}
wod_get_appliance_target() {{ echo {base}; }}
"""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend without a server, and its appliances."""
    with appliance_site() as made:
        yield made


site, lab = pytest.fixture(appliancesite.backend), pytest.fixture(appliancesite.lab)


@pytest.fixture(scope="module")
def tree(both: tuple[LinuxDeployment, Appliances]) -> Path:
    """The scripts as `wodmail deliver` leaves them."""
    folder = both[0].folder / "delivered"
    shutil.copytree(paths.share("scripts"), folder)
    delivered = deliver([folder], Site(variables.for_group(both[0].settings)))
    assert {each.outcome for each in delivered} == {Outcome.NEW}
    assert os.access(folder / "create-appliance.sh", os.X_OK)
    return folder


@pytest.fixture
def home(site: LinuxDeployment) -> Path:
    """The first student's home with a new key pair, as `erase` leaves it."""
    home = site.renew_home(FIRST)
    argv = [*asuser.prefix(SERVICE), sys.executable, "-m", "wodmail", "query", "erase", str(FIRST)]
    environment = {**asuser.environment(SERVICE), "WOD_CONFIG": str(site.file)}
    subprocess.run(argv, env=environment, cwd="/", check=True)
    return home


def start(site: LinuxDeployment, tree: Path, script: str, **more: str) -> subprocess.Popen[str]:
    """Start a script as a workshop's script does, as the service user, for the first student of WKSHP-Mono."""
    values = configtext.shell_variables(site.settings) | {"WOD_CONFIG": str(site.file), "WODSCRIPTDIR": str(tree)}
    values |= {"stdid": str(FIRST), "stddir": str(site.home(FIRST)), "w": "WKSHP-Mono", "wid": "0", "userid": "0"}
    values |= {"randompw": WORD, **more, **asuser.environment(SERVICE)}
    argv = [*asuser.prefix(SERVICE), str(tree / f"{script}.sh")]
    return subprocess.Popen(argv, env=values, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(site: LinuxDeployment, tree: Path, script: str, **more: str) -> tuple[int, str, str]:
    """Run a script to its end: status, output, errors."""
    process = start(site, tree, script, **more)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_without_an_appliance_nothing_is_done(site: LinuxDeployment, tree: Path) -> None:
    for script in ("create-appliance", "reset-appliance", "cleanup-container-ratio"):
        status, _, err = run(site, tree, script)
        assert (status, "WODRTARGET is empty: WKSHP-Mono has no appliance" in err) == (64, True), err
        assert run(site, tree, script, WODRTARGET="-oProxyCommand=id")[0] == 64
    assert run(site, tree, "reset-appliance", WODRTARGET="192.0.2.1", stdid="9001;id")[0] == 64
    status, _, err = run(site, tree, "reset-appliance", WODRTARGET="192.0.2.1", randompw="")
    assert (status, "no usable password" in err) == (64, True)


def test_a_password_of_ldap_is_not_set_there(site: LinuxDeployment, lab: Appliances, tree: Path, home: Path) -> None:
    lab.shell(lab.base, f"echo student{FIRST}:of-ldap | chpasswd")
    status, _, err = run(site, tree, "create-appliance", w="WKSHP-Ldap", WODRTARGET=lab.base, randompw="")
    assert status == 0, err
    assert lands(FIRST, lab.base) == f"student{FIRST} appliance1"
    assert lands(FIRST, lab.base, password="of-ldap") == f"student{FIRST} appliance1"


def test_what_is_wrong_with_an_appliance_is_told_apart(
    site: LinuxDeployment, lab: Appliances, tree: Path, home: Path
) -> None:
    there, where = {"WODRTARGET": lab.base}, f"appliance {lab.base} (WKSHP-Mono)"

    def failing(**more: str) -> tuple[int, str]:
        status, _, err = run(site, tree, "reset-appliance", **{**there, **more})
        return status, err.splitlines()[-1].partition(". ")[0]

    assert failing(stdid=str(ABSENT)) == (67, f"{where}: there is no user student{ABSENT}")
    lab.shell(lab.base, "mv /etc/sudoers.d/service /run/sudoers")
    status, words = failing()
    lab.shell(lab.base, "mv /run/sudoers /etc/sudoers.d/service")
    assert (status, words.startswith(f"{where}: sudo refused: ")) == (78, True), words
    keys = f"/home/{SERVICE}/.ssh/authorized_keys"
    lab.shell(lab.base, f"mv {keys} {keys}.aside")
    assert failing() == (77, f"{where}: permission denied for {SERVICE}")
    lab.shell(lab.base, f"mv {keys}.aside {keys}")
    lab.change_host_key(lab.base)
    assert failing() == (76, f"{where}: its host key has changed")
    (site.folder / "service/.ssh/known_hosts").unlink()
    assert failing() == (76, f"{where}: its host key is not known here")
    status, out, err = run(site, tree, "create-appliance", **there, NOCHECKSSH="-o StrictHostKeyChecking=no")
    trust(site, lab)
    assert (status, out) == (0, f"student {FIRST} is ready on appliance {lab.base} (WKSHP-Mono)\n"), err
    assert failing(WODRTARGET="nowhere.invalid")[0] == 69


def test_an_appliance_that_hangs_ends_in_time(site: LinuxDeployment, lab: Appliances, tree: Path) -> None:
    lab.write(lab.base, f"/home/{SERVICE}/.bashrc", "exec sleep 60\n")
    began = time.monotonic()
    status, _, err = run(site, tree, "reset-appliance", WODRTARGET=lab.base, WODSCRIPTTIMEOUT="12")
    lab.shell(lab.base, f"rm /home/{SERVICE}/.bashrc")
    assert time.monotonic() - began < 30  # it would sleep for 60; the words tell the limit
    assert (status, err) == (69, f"appliance {lab.base} (WKSHP-Mono) does not answer: not done after 3 s\n")


def test_many_that_hang_share_the_time_of_the_script(site: LinuxDeployment, lab: Appliances, tree: Path) -> None:
    """Five rounds: with a quarter of the time for each call, the script would be ended in the fifth."""
    students = range(FIRST, FIRST + 17)
    functions = site.folder / "functions.sh"
    functions.write_text(FUNCTIONS.format(base=lab.base))
    many = {
        "WODFUNCTIONS": str(functions),
        "WODSTUDENTS": " ".join(map(str, students)),
        "WODPASSWORDS": " ".join(f"{student}:{WORD}" for student in students),
        "WODRTARGET": lab.base,
        "WODSCRIPTTIMEOUT": "8",
    }
    lab.write(lab.base, f"/home/{SERVICE}/.bashrc", "exec sleep 60\n")
    began = time.monotonic()
    status, _, err = run(site, tree, "reset-appliance", **many)
    seconds = time.monotonic() - began
    lab.shell(lab.base, f"rm /home/{SERVICE}/.bashrc")
    assert seconds < 30
    # By what each call was given, not by the clock, for a busy machine adds to that: four at a time, 8 s in all.
    given = [int(found) for found in re.findall(r"not done after (\d+) s", err)]
    assert given and sum(given) < 4 * 8, err
    told = f"appliance {lab.base} (WKSHP-Mono)"
    assert (status, [line for line in err.splitlines() if not line.startswith(told)]) == (69, []), err
    assert len(err.splitlines()) == len(students)


def test_a_reset_of_many_goes_on_past_one_that_is_down(site: LinuxDeployment, lab: Appliances, tree: Path) -> None:
    students = (FIRST, SECOND, THIRD)
    for address, student in zip(lab.addresses, students, strict=True):
        lab.shell(address, f"install -d -o student{student} /home/student{student}/.ssh")
    lab.down(lab.addresses[1])
    try:
        many = {
            "WODSTUDENTS": " ".join(map(str, students)),
            "WODPASSWORDS": " ".join(f"{student}:Other{student}" for student in students),
            "WODRTARGET": lab.base,
            "randompw": f"Other{FIRST}",
        }
        status, out, err = run(site, tree, "reset-appliance", w="WKSHP-Multi", **many)
    finally:
        lab.up(lab.addresses[1])
    assert status == 69
    assert err.startswith(f"appliance {lab.addresses[1]} (WKSHP-Multi) does not answer: ") and err.count("\n") == 1
    assert len(out.splitlines()) == 2
    for address, student in zip(lab.addresses, students, strict=True):
        left = lab.run(address, ["ls", "-d", f"/home/student{student}/.ssh"], check=False)
        reached = address != lab.addresses[1]
        assert (left == "") == reached
        assert (lands(student, address, password=f"Other{student}") != "") == reached


def command_lines() -> list[bytes]:
    """Those of all processes that don't end just now."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes())
    return found


def test_the_password_is_on_no_command_line(site: LinuxDeployment, lab: Appliances, tree: Path, home: Path) -> None:
    lab.write(lab.base, "/usr/local/bin/chpasswd", SLOW_CHPASSWD, "0755")
    try:
        process = start(site, tree, "create-appliance", WODRTARGET=lab.base)
        wait_until(lambda: lab.run(lab.base, ["ls", "/run/began"], check=False), what="chpasswd")
        # The appliance's processes are among those of the machine around it.
        lines = command_lines()
        lab.shell(lab.base, "touch /run/go")
        assert process.wait(60) == 0
        process.communicate()
    finally:
        lab.shell(lab.base, "rm -f /run/began /run/go /usr/local/bin/chpasswd")
    assert any(b"chpasswd" in line for line in lines) and any(line.startswith(b"ssh\0") for line in lines)
    assert not any(WORD.encode() in line for line in lines)


@pytest.mark.parametrize("script", ["create-appliance", "reset-appliance"])
def test_what_is_planted_there_gains_nothing(
    site: LinuxDeployment, lab: Appliances, tree: Path, home: Path, script: str
) -> None:
    key = site.folder / "own"
    key.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    os.chown(key, BASE + FIRST, BASE + FIRST)
    lab.write(lab.base, "/srv/own.pub", key.with_suffix(".pub").read_text())
    lab.shell(lab.base, "mkdir -p /srv/victim; echo root:x:0:0 >/srv/victim/passwd")
    seen = "stat -c '%n %a %U %s %y' /srv/victim /srv/victim/*; cat /srv/victim/*"
    before = lab.shell(lab.base, seen)
    lab.shell(lab.base, PLANTED.format(friend=SECOND), user=f"student{FIRST}")
    running = f"pgrep -u {UIDS + FIRST} || :"
    assert lab.shell(lab.base, running) != ""
    status, _, err = run(site, tree, script, WODRTARGET=lab.base)
    assert status == 0, err
    assert lab.shell(lab.base, seen) == before
    assert lab.shell(lab.base, running) == ""
    assert lands(FIRST, lab.base, key=str(key)) == ""
    assert lands(FIRST, lab.base, password=WORD) == f"student{FIRST} appliance1"
    if script == "create-appliance":
        assert lab.shell(lab.base, f"stat -c '%a %U %F' {HOME} {HOME}/.ssh {HOME}/.profile").splitlines() == [
            f"700 student{FIRST} directory",
            f"700 student{FIRST} directory",
            f"644 student{FIRST} regular file",
        ]
        acl = lab.shell(lab.base, f"getfacl -cpE {HOME} {HOME}/.ssh/authorized_keys")
        assert f"student{SECOND}" not in acl
        assert lab.shell(lab.base, f"find {HOME} -type l; ls -A {HOME} | wc -l") == "4\n"
        assert lands(FIRST, lab.base) == f"student{FIRST} appliance1"


def test_what_fights_back_there_is_ended(site: LinuxDeployment, lab: Appliances, tree: Path, home: Path) -> None:
    lab.shell(lab.base, FIGHTER.format(uid=UIDS + FIRST))
    running = f"pgrep -u {UIDS + FIRST} || :"
    assert lab.shell(lab.base, running) != ""
    status, _, err = run(site, tree, "reset-appliance", WODRTARGET=lab.base)
    assert status == 0, err
    assert lab.shell(lab.base, running) == ""


def test_a_key_that_leads_elsewhere_is_not_sent(site: LinuxDeployment, lab: Appliances, tree: Path, home: Path) -> None:
    lab.shell(lab.base, f"rm -rf {HOME}/.ssh; touch {HOME}/work")
    public = home / ".ssh" / "id_ed25519.pub"
    public.unlink()
    public.symlink_to(site.folder / "service/.ssh/id_ed25519.pub")
    status, _, err = run(site, tree, "create-appliance", WODRTARGET=lab.base)
    assert (status, f"public ssh key in the home of student{FIRST} is not usable" in err) == (1, True), err
    assert "work" in lab.shell(lab.base, f"ls -A {HOME}"), "nothing was begun"


def test_notebooks_come_home(site: LinuxDeployment, lab: Appliances, tree: Path, home: Path, tmp_path: Path) -> None:
    container(lab)
    (tmp_path / "outside").mkdir(mode=0o777)
    (home / "WKSHP-Box").symlink_to(tmp_path / "outside")
    values = {"WODRTARGET": lab.base, "w": "WKSHP-Box", "NAME": "lab-", "TMPDIR": "/var/tmp"}
    status, out, err = run(site, tree, "cleanup-container-ratio", **values)
    assert (status, out.splitlines()[:1]) == (0, ["2 notebook(s)"]), err
    found = sorted((home / "WKSHP-Box").rglob("*"))
    names = [str(path.relative_to(home / "WKSHP-Box")) for path in found]
    assert names == ["0-ReadMeFirst.ipynb", "deep", "deep/1-Lab.ipynb"]
    assert {path.lstat().st_uid for path in (home / "WKSHP-Box", *found)} == {BASE + FIRST}
    assert list((tmp_path / "outside").iterdir()) == []
    assert list(Path("/var/tmp").glob(f"notebooks-{FIRST}-*")) == []
    for more, wanted, words in (
        ({"NAME": "../x"}, 64, "NAME is no beginning"),
        ({"TMPDIR": "/nowhere"}, 64, "TMPDIR is no folder: '/nowhere'"),
        ({"CONTAINERDIR": "/srv"}, 66, f"the container lab-{FIRST} has no folder of the workshop"),
        ({"NAME": "other"}, 66, f"there is no container other{FIRST}"),
    ):
        status, _, err = run(site, tree, "cleanup-container-ratio", **{**values, **more})
        assert (status, words in err) == (wanted, True), err


def test_hosts_of_a_killed_run_are_gone(lab: Appliances) -> None:
    program = """
import sys
from tests.appliances import Appliances
made = Appliances(1, [], "none")
made.start()
print(made.base, flush=True)
sys.stdin.read()
"""
    argv = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(argv, cwd=asuser.ROOT, text=True, **pipes)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert answers(address)
    process.kill()
    process.communicate()
    cards = Path("/sys/class/net")
    wait_until(lambda: not list(cards.glob(f"wt{process.pid}x*")), what="the end of the network card")
    assert not answers(address)
