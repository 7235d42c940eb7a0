"""A Linux backend and the appliances of its workshops, with what tests of them ask."""

from __future__ import annotations

import json
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.appliances import Appliances, appliances
from tests.e2e.harness import NOTEBOOK
from tests.e2e.linuxsite import LinuxDeployment, install_helper, linux_deployment
from tests.linux_students import BASE, FIRST, SERVICE

SECOND, THIRD, ABSENT = FIRST + 1, FIRST + 2, FIRST + 3
SCRIPT_SECONDS = 80  # a call to an appliance may take a quarter of it
WITH_ADDRESS = ("Mono", "Multi", "Ldap", "Box")

# The one fake: a container's files are a folder below /run/containers. Only what the script asks for is known.
DOCKER = """#!/bin/sh
[ ! -e /run/containers/down ] || { echo "Cannot connect to the daemon" >&2; exit 1; }
case "$1 $2" in
    'ps --quiet') exit 0 ;;
    'inspect --type') name=$6 ;;
    'cp '*) name=${2%%:*} folder=/run/containers/$name${2#*:} ;;
    *) exit 64 ;;
esac
[ -d "/run/containers/$name" ] || { echo "Error: No such container: $name" >&2; exit 1; }
[ "$1" = cp ] || { echo /home/jovyan; exit 0; }
[ -e "$folder" ] || { echo "Error: no such path" >&2; exit 1; }
exec tar -C "$(dirname "$folder")" -c "$(basename "$folder")"
"""
ASKPASS = '#!/bin/sh\nprintf "%s\\n" "$WORD"\n'


@contextmanager
def appliance_site() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend whose service user has a key, and three appliances that know it; its server is not started."""
    with linux_deployment() as site:
        ssh = site.folder / "service" / ".ssh"
        ssh.mkdir(mode=0o700)
        asked = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "backend", "-f", str(ssh / "id_ed25519")]
        subprocess.run(asked, check=True)
        for path in (ssh, *ssh.iterdir()):
            shutil.chown(path, SERVICE, SERVICE)
        (site.folder / "askpass").write_text(ASKPASS)
        (site.folder / "askpass").chmod(0o755)
        installed = install_helper(site)
        assert installed.returncode == 0, installed.stderr
        with appliances(3, [FIRST, SECOND, THIRD], (ssh / "id_ed25519.pub").read_text()) as lab:
            _workshops(site, lab)
            trust(site, lab)
            yield site, lab


def backend(both: tuple[LinuxDeployment, Appliances]) -> LinuxDeployment:
    """The backend of a file's `both`; a fixture where it is named as one."""
    return both[0]


def lab(both: tuple[LinuxDeployment, Appliances]) -> Appliances:
    """The appliances of a file's `both`; a fixture where it is named as one."""
    return both[1]


def _workshops(site: LinuxDeployment, lab: Appliances) -> None:
    site.workshop("WKSHP-Mono", monoappliance=True, reset=True)
    site.workshop("WKSHP-Multi", multiappliance=True, reset=True, range=[FIRST, THIRD])
    site.workshop("WKSHP-Ldap", monoappliance=True, ldap=True)
    site.workshop("WKSHP-Box", monoappliance=True)
    for name in ("Missing", "Placeholder"):
        site.workshop(f"WKSHP-{name}", monoappliance=True)
    group_vars = site.folder / "private" / "ansible" / "group_vars"
    group_vars.mkdir(parents=True)
    shutil.chown(group_vars.parent, SERVICE, SERVICE)  # for the students' variable files
    addresses = {f"IP-WKSHP-{name}": lab.base for name in WITH_ADDRESS}
    (group_vars / "production.yml").write_text(yaml.safe_dump({**addresses, "IP-WKSHP-Placeholder": "x.y.z.t"}))
    with site.file.open("a") as file:
        file.write(f"WODSCRIPTTIMEOUT: {SCRIPT_SECONDS}\nVAULTPWD: of-the-vault\n")


def trust(site: LinuxDeployment, lab: Appliances) -> None:
    """Make the hosts' keys known to the backend."""
    known = site.folder / "service/.ssh/known_hosts"
    known.write_text("".join(lab.host_key(address) for address in lab.addresses))
    shutil.chown(known, SERVICE, SERVICE)


def lands(student: int, address: str, *, password: str = "", key: str = "") -> str:
    """Log in there from the backend as the student does: gives the user and the host, nothing when it is refused.

    Args:
        student: the student's number.
        address: the appliance.
        password: log in with this password.
        key: log in with the private key in this file; without both, with that of the home.
    """
    home = Path(pwd.getpwnam(f"student{student}").pw_dir)
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    if password:
        askpass = {"SSH_ASKPASS": str(home.parents[1] / "askpass"), "SSH_ASKPASS_REQUIRE": "force"}
        environment |= {**askpass, "WORD": password}
        options += ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"]
    else:
        options += ["-o", "BatchMode=yes", "-i", key or f"{home}/.ssh/id_ed25519"]
    argv = ["ssh", *options, f"student{student}@{address}", "echo $(id -un) $(hostname)"]
    uid = BASE + student
    done = subprocess.run(
        argv,
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def container(lab: Appliances) -> None:
    """Put the first student's container on the first appliance, with a folder of WKSHP-Box."""
    lab.write(lab.base, "/usr/local/bin/docker", DOCKER, "0755")
    inside = f"/run/containers/lab-{FIRST}/home/jovyan/WKSHP-Box"
    lab.shell(lab.base, f"rm -rf /run/containers; mkdir -p {inside}/deep")
    lab.write(lab.base, f"{inside}/0-ReadMeFirst.ipynb", notebook(1, None))
    lab.write(lab.base, f"{inside}/deep/1-Lab.ipynb", notebook(2, 3))
    lab.write(lab.base, f"{inside}/other.txt", "not wanted")
    lab.shell(lab.base, f"ln -s /etc/shadow {inside}/2-Link.ipynb; mkfifo {inside}/3-Pipe.ipynb")


def notebook(*counts: int | None) -> str:
    """A notebook whose code cells have these execution counts."""
    empty = {"cell_type": "code", "metadata": {}, "outputs": [], "source": ""}
    cells = [{**empty, "id": f"c{place}", "execution_count": count} for place, count in enumerate(counts)]
    return json.dumps({**NOTEBOOK, "cells": cells})
