"""Workshops with appliances: real jobs on a Linux backend, over real ssh, on hosts with sshd and sudo of their own."""

from __future__ import annotations

import json
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import asuser
from tests.appliances import Appliances, appliances
from tests.e2e.harness import NOTEBOOK, step_of
from tests.e2e.linuxsite import LinuxDeployment, install_helper, linux_deployment
from tests.linux_students import BASE, FIRST, SERVICE
from wodmail import configtext, paths, rendering, variables

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux-users")]
SECOND, THIRD, ABSENT = FIRST + 1, FIRST + 2, FIRST + 3
SCRIPT_SECONDS = 40  # WODSCRIPTTIMEOUT; a call to an appliance may take a quarter of it
CALL = 'set -eu\n. "$WODFUNCTIONS"\n'
RATIO = "NAME=lab- TMPDIR=/var/tmp wod_cleanup_container_ratio\n"


@pytest.fixture(scope="module")
def site() -> Iterator[LinuxDeployment]:
    """A backend whose service user has a key; its server runs."""
    with linux_deployment() as made:
        _workshops(made)
        with made.file.open("a") as file:
            file.write(f"WODSCRIPTTIMEOUT: {SCRIPT_SECONDS}\nVAULTPWD: of-the-vault\n")
        ssh = made.folder / "service" / ".ssh"
        ssh.mkdir(mode=0o700)
        _quiet("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "backend", "-f", str(ssh / "id_ed25519"))
        for path in (ssh, *ssh.iterdir()):
            shutil.chown(path, SERVICE, SERVICE)
        installed = install_helper(made)
        assert installed.returncode == 0, installed.stderr
        yield made


@pytest.fixture(scope="module")
def lab(site: LinuxDeployment) -> Iterator[Appliances]:
    """Three appliances that know the backend and three of its students, and that the backend knows."""
    key = (site.folder / "service/.ssh/id_ed25519.pub").read_text()
    with appliances(3, [FIRST, SECOND, THIRD], key) as made:
        addresses = {f"IP-WKSHP-{name}": made.base for name in ("Mono", "Multi", "Ldap", "Box")}
        folder = site.folder / "private" / "ansible" / "group_vars"
        folder.mkdir(parents=True)
        shutil.chown(folder.parent, SERVICE, SERVICE)  # for the students' variable files
        (folder / "production.yml").write_text(yaml.safe_dump({**addresses, "IP-WKSHP-Placeholder": "x.y.z.t"}))
        trust(site, made)
        site.start()
        yield made


@pytest.fixture
def home(site: LinuxDeployment) -> Path:
    """A new home of the first student."""
    return site.renew_home(FIRST)


def _workshops(made: LinuxDeployment) -> None:
    made.workshop("WKSHP-Mono", monoappliance=True, reset=True)
    made.workshop("WKSHP-Multi", multiappliance=True, reset=True, range=[FIRST, THIRD])
    made.workshop("WKSHP-Ldap", monoappliance=True, ldap=True)
    for name in ("Mono", "Multi", "Ldap"):
        made.script(f"create-WKSHP-{name}.sh", f"{CALL}wod_create_appliance\n")
        made.script(f"reset-WKSHP-{name}.sh", f"{CALL}wod_reset_appliance\n")
    made.workshop("WKSHP-Box", monoappliance=True)
    made.script("cleanup-WKSHP-Box.sh", CALL + RATIO)
    for name in ("Missing", "Placeholder"):
        made.workshop(f"WKSHP-{name}", monoappliance=True)
        made.script(f"create-WKSHP-{name}.sh", "echo never\n")


def _quiet(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def trust(site: LinuxDeployment, lab: Appliances) -> None:
    """Make the hosts' keys known to the backend."""
    known = site.folder / "service/.ssh/known_hosts"
    known.write_text("".join(lab.host_key(address) for address in lab.addresses))
    shutil.chown(known, SERVICE, SERVICE)


def ssh(student: int, address: str, command: str, *more: str, password: str = "") -> subprocess.CompletedProcess[str]:
    """Log in there as the student does from the backend: with the home's key, or with a password."""
    home = pwd.getpwnam(f"student{student}").pw_dir
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": home}
    if password:
        environment |= {"SSH_ASKPASS": "/tmp/wodmail-askpass", "SSH_ASKPASS_REQUIRE": "force", "WORD": password}
        Path("/tmp/wodmail-askpass").write_text('#!/bin/sh\nprintf "%s\\n" "$WORD"\n')
        Path("/tmp/wodmail-askpass").chmod(0o755)
        options += ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"]
    else:
        options += ["-o", "BatchMode=yes", "-i", f"{home}/.ssh/id_ed25519"]
    argv = ["ssh", *options, *more, f"student{student}@{address}", command]
    ids = {"user": BASE + student, "group": BASE + student, "extra_groups": []}
    return subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, check=False, **ids)


def lands(student: int, address: str, **how: str) -> str:
    """The user and the host where a login lands; empty when it is refused."""
    done = ssh(student, address, "echo $(id -un) $(hostname)", **how)
    return done.stdout.strip() if done.returncode == 0 else ""


def reply(site: LinuxDeployment, row: dict[str, object]) -> str:
    """The result mail that the sender gets."""
    mails = [mail for mail in site.replies(int(str(row["id"]))) if mail["To"] == site.sender]
    parts = [part for mail in mails for part in mail.walk() if part.get_content_type() == "text/plain"]
    return " ".join(str(parts[0].get_payload()).split())


# -- jobs ------------------------------------------------------------------------------------------------------------


def test_create_lets_in_and_reset_locks_out(site: LinuxDeployment, lab: Appliances, home: Path) -> None:
    row = site.one(f"CREATE {FIRST} 0", "WKSHP-Mono")
    assert row["state"] == "done", reply(site, row)
    word = site.password(FIRST)
    assert lands(FIRST, lab.base) == f"student{FIRST} appliance1"
    assert lands(FIRST, lab.base, password=word) == f"student{FIRST} appliance1"
    assert lands(FIRST, lab.base, password=word + "x") == ""
    shown = lab.shell(lab.base, f"cd /home/student{FIRST}; stat -c '%n %a %U' . .ssh .ssh/authorized_keys .profile")
    name = f"student{FIRST}"
    assert shown.splitlines() == [
        f". 700 {name}",
        f".ssh 700 {name}",
        f".ssh/authorized_keys 600 {name}",
        f".profile 644 {name}",
    ]
    assert word not in site.log() + site.trace().replace(f"(passwd {word})", "")
    row = site.one(f"RESET {FIRST} 0", "WKSHP-Mono")
    assert row["state"] == "done", reply(site, row)
    assert lands(FIRST, lab.base) == ""
    assert lands(FIRST, lab.base, password=word) == ""
    assert lands(FIRST, lab.base, password=site.password(FIRST, "RESET")) == f"student{FIRST} appliance1"


def test_students_land_each_on_their_own_and_a_reset_reaches_all(site: LinuxDeployment, lab: Appliances) -> None:
    students = (FIRST, SECOND, THIRD)
    for student in students:
        site.renew_home(student)
    row = site.one(f"CREATE {FIRST} 3", "WKSHP-Multi")
    assert [job["state"] for job in row["jobs"]] == ["done"] * 3, row
    kept = {}
    for number, student in enumerate(students):
        assert [lands(student, address) for address in lab.addresses] == [
            f"student{student} appliance{number + 1}" if place == number else "" for place in range(3)
        ]
        kept[student] = (site.home(student) / ".ssh/id_ed25519").read_bytes()
    before = {student: site.password(student) for student in students}
    row = site.one(f"RESET {FIRST},{THIRD} 0", "WKSHP-Multi")
    assert (row["state"], len(row["jobs"])) == ("done", 1), row
    for address, student in zip(lab.addresses, students, strict=True):
        old = site.home(student) / ".ssh" / "id_ed25519"
        old.write_bytes(kept[student])
        assert lands(student, address) == ""
        assert lands(student, address, password=before[student]) == ""
        assert lands(student, address, password=site.password(student, "RESET")) != ""


def test_a_password_of_ldap_is_not_set_there(site: LinuxDeployment, lab: Appliances, home: Path) -> None:
    lab.shell(lab.base, f"echo student{FIRST}:of-ldap | chpasswd")
    row = site.one(f"CREATE {FIRST} 0", "WKSHP-Ldap")
    assert row["state"] == "done", reply(site, row)
    assert lands(FIRST, lab.base) == f"student{FIRST} appliance1"
    assert lands(FIRST, lab.base, password=site.password(FIRST)) == ""
    assert lands(FIRST, lab.base, password="of-ldap") == f"student{FIRST} appliance1"


@pytest.mark.parametrize("name", ["Missing", "Placeholder"])
def test_no_base_address(site: LinuxDeployment, lab: Appliances, home: Path, name: str) -> None:
    row = site.one(f"CREATE {FIRST} 0", f"WKSHP-{name}")
    step = step_of(row, "create-script")
    assert (row["state"], step["state"]) == ("failed", "failed")
    assert step["error"] == f"The address of the appliance of WKSHP-{name} is not configured."
    assert f"set IP-WKSHP-{name} in group_vars/production" in step["cause"]
    assert "never" not in site.trace()
    assert step["error"] in reply(site, row)


def test_an_appliance_that_is_down(site: LinuxDeployment, lab: Appliances, home: Path) -> None:
    site.renew_home(SECOND)
    lab.down(lab.addresses[1])
    try:
        began = time.monotonic()
        row = site.one(f"CREATE {SECOND} 0", "WKSHP-Multi")
        assert time.monotonic() - began < SCRIPT_SECONDS / 2
    finally:
        lab.up(lab.addresses[1])
    assert row["state"] == "failed"
    assert step_of(row, "create-script")["error"].endswith("exit status 69.")
    assert f"appliance {lab.addresses[1]} (WKSHP-Multi) does not answer" in reply(site, row)
    assert step_of(row, "copy-folder")["state"] in ("waiting", "skipped")


@pytest.fixture
def container(lab: Appliances) -> str:
    """The first student's container on the first appliance; gives the folder of WKSHP-Box in it, as seen from there."""
    lab.write(lab.base, "/usr/local/bin/docker", DOCKER, "0755")
    inside = f"/run/containers/lab-{FIRST}/home/jovyan/WKSHP-Box"
    lab.shell(lab.base, f"rm -rf /run/containers; mkdir -p {inside}/deep")
    lab.write(lab.base, f"{inside}/0-ReadMeFirst.ipynb", notebook(1, None))
    lab.write(lab.base, f"{inside}/deep/1-Lab.ipynb", notebook(2, 3))
    lab.write(lab.base, f"{inside}/other.txt", "not wanted")
    lab.shell(lab.base, f"ln -s /etc/shadow {inside}/2-Link.ipynb; mkfifo {inside}/3-Pipe.ipynb")
    return inside


def test_the_ratio_is_that_of_the_container(site: LinuxDeployment, lab: Appliances, home: Path, container: str) -> None:
    row = site.one(f"CREATE {FIRST} 0", "WKSHP-Box")
    assert row["state"] == "done", reply(site, row)
    row = site.one(f"CLEANUP {FIRST} 0", "WKSHP-Box")
    assert row["state"] == "done", reply(site, row)
    assert step_of(row, "ratio")["note"] == "75 %"
    lab.shell(lab.base, "rm -r /run/containers")
    row = site.one(f"CLEANUP {FIRST} 0", "WKSHP-Box")
    assert row["state"] == "failed"
    said = step_of(row, "cleanup-script")["output"]
    assert f"appliance {lab.base} (WKSHP-Box): there is no container lab-{FIRST}" in said
    assert step_of(row, "ratio")["state"] == "done", "a CLEANUP goes on"


# The one fake: a container's files are a folder below /run/containers. Only what the script asks for is known.
DOCKER = """#!/bin/sh
case "$1 $2" in
    'inspect --type') name=$6 ;;
    'cp '*) name=${2%%:*} folder=/run/containers/$name${2#*:} ;;
    *) exit 64 ;;
esac
[ -d "/run/containers/$name" ] || { echo "Error: No such container: $name" >&2; exit 1; }
[ "$1" = cp ] || { echo /home/jovyan; exit 0; }
[ -e "$folder" ] || { echo "Error: no such path" >&2; exit 1; }
exec tar -C "$(dirname "$folder")" -c "$(basename "$folder")"
"""


def notebook(*counts: int | None) -> str:
    """A notebook whose code cells have these execution counts."""
    empty = {"cell_type": "code", "metadata": {}, "outputs": [], "source": ""}
    cells = [{**empty, "id": f"c{place}", "execution_count": count} for place, count in enumerate(counts)]
    return json.dumps({**NOTEBOOK, "cells": cells})


# -- the scripts themselves, in a delivered tree ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(site: LinuxDeployment, lab: Appliances) -> Path:
    """The scripts rendered side by side, as a delivery leaves them."""
    folder = site.folder / "delivered"
    folder.mkdir()
    known = variables.for_group(site.settings)
    for template in paths.share("scripts").glob("*.sh.j2"):
        (folder / template.stem).write_text(rendering.render(template, known))
        (folder / template.stem).chmod(0o755)
    return folder


def run(site: LinuxDeployment, tree: Path, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A script as a workshop's script calls it, as the service user, for the first student of WKSHP-Mono."""
    values = configtext.shell_variables(site.settings) | {"WOD_CONFIG": str(site.file), "WODSCRIPTDIR": str(tree)}
    values |= {"stdid": str(FIRST), "stddir": str(site.home(FIRST)), "w": "WKSHP-Mono", "wid": "0", "userid": "0"}
    values |= {"randompw": "Werty1234", **more, **asuser.environment(SERVICE)}
    argv = [*asuser.prefix(SERVICE), str(tree / f"{script}.sh")]
    return subprocess.run(argv, env=values, cwd="/", capture_output=True, text=True, check=False, timeout=60)


def fresh(site: LinuxDeployment, home: Path) -> None:
    """A home with a key pair, as `erase` leaves it."""
    argv = [*asuser.prefix(SERVICE), sys.executable, "-m", "wodmail", "query", "erase", str(FIRST)]
    environment = {**asuser.environment(SERVICE), "WOD_CONFIG": str(site.file)}
    subprocess.run(argv, env=environment, cwd="/", check=True)


def test_without_an_appliance_nothing_is_done(site: LinuxDeployment, lab: Appliances, tree: Path) -> None:
    for script in ("create-appliance", "reset-appliance", "cleanup-container-ratio"):
        done = run(site, tree, script)
        assert done.returncode == 64
        assert "WODRTARGET is empty: WKSHP-Mono has no appliance" in done.stderr
        assert run(site, tree, script, WODRTARGET="-oProxyCommand=id").returncode == 64


def test_what_is_wrong_with_an_appliance_is_told_apart(
    site: LinuxDeployment, lab: Appliances, tree: Path, home: Path
) -> None:
    fresh(site, home)
    there, where = {"WODRTARGET": lab.base}, f"appliance {lab.base} (WKSHP-Mono)"
    done = run(site, tree, "create-appliance", **there)
    assert done.returncode == 0, done.stderr
    done = run(site, tree, "create-appliance", **there, stdid=str(ABSENT), stddir=str(site.home(ABSENT)))
    assert done.returncode != 0 and "no public ssh key" in done.stderr
    done = run(site, tree, "reset-appliance", **there, stdid=str(ABSENT))
    assert (done.returncode, done.stderr) == (
        67,
        f"{where}: there is no user student{ABSENT}. Make the students' accounts there\n",
    )
    lab.shell(lab.base, "mv /etc/sudoers.d/service /root.sudoers")
    done = run(site, tree, "create-appliance", **there)
    lab.shell(lab.base, "mv /root.sudoers /etc/sudoers.d/service")
    assert done.returncode == 78 and done.stderr.startswith(f"{where}: sudo refused: "), done.stderr
    keys = f"/home/{SERVICE}/.ssh/authorized_keys"
    lab.shell(lab.base, f"mv {keys} {keys}.aside")
    done = run(site, tree, "create-appliance", **there)
    lab.shell(lab.base, f"mv {keys}.aside {keys}")
    assert done.returncode == 77 and done.stderr.startswith(f"{where}: permission denied for {SERVICE}. "), done.stderr
    lab.change_host_key(lab.base)
    done = run(site, tree, "create-appliance", **there)
    assert done.returncode == 76 and f"{where}: its host key has changed. " in done.stderr, done.stderr
    (site.folder / "service/.ssh/known_hosts").unlink()
    done = run(site, tree, "create-appliance", **there)
    assert done.returncode == 76 and f"{where}: its host key is not known here. " in done.stderr, done.stderr
    done = run(site, tree, "create-appliance", **there, NOCHECKSSH="-o StrictHostKeyChecking=no")
    assert done.returncode == 0, done.stderr
    trust(site, lab)
    assert done.stdout == f"student {FIRST} is ready on appliance {lab.base} (WKSHP-Mono)\n"


def test_notebooks_come_home(
    site: LinuxDeployment, lab: Appliances, tree: Path, home: Path, container: str, tmp_path: Path
) -> None:
    fresh(site, home)
    (tmp_path / "outside").mkdir(mode=0o777)
    (home / "WKSHP-Box").symlink_to(tmp_path / "outside")
    values = {"WODRTARGET": lab.base, "w": "WKSHP-Box", "NAME": "lab-", "TMPDIR": "/var/tmp"}
    done = run(site, tree, "cleanup-container-ratio", **values)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "2 notebook(s)"
    found = sorted((home / "WKSHP-Box").rglob("*"))
    assert [str(path.relative_to(home / "WKSHP-Box")) for path in found] == [
        "0-ReadMeFirst.ipynb",
        "deep",
        "deep/1-Lab.ipynb",
    ]
    assert {path.lstat().st_uid for path in (home / "WKSHP-Box", *found)} == {BASE + FIRST}
    assert list((tmp_path / "outside").iterdir()) == []
    assert list(Path("/var/tmp").glob(f"notebooks-{FIRST}-*")) == []
    for more, status, words in (
        ({"NAME": "../x"}, 64, "NAME is no beginning"),
        ({"TMPDIR": "/nowhere"}, 64, "TMPDIR is no folder: '/nowhere'"),
        ({"CONTAINERDIR": "/srv"}, 66, f"the container lab-{FIRST} has no folder of the workshop"),
        ({"NAME": "other"}, 66, f"there is no container other{FIRST}"),
    ):
        done = run(site, tree, "cleanup-container-ratio", **{**values, **more})
        assert (done.returncode, words in done.stderr) == (status, True), done.stderr


def test_an_appliance_that_hangs_ends_in_time(site: LinuxDeployment, lab: Appliances, tree: Path, home: Path) -> None:
    lab.write(lab.base, f"/home/{SERVICE}/.bashrc", "exec sleep 60\n")
    began = time.monotonic()
    done = run(site, tree, "reset-appliance", WODRTARGET=lab.base, WODSCRIPTTIMEOUT="8")
    assert time.monotonic() - began < 6
    lab.shell(lab.base, f"rm /home/{SERVICE}/.bashrc")
    assert done.returncode == 69
    assert f"appliance {lab.base} (WKSHP-Mono) does not answer: not done after 2 s" in done.stderr
