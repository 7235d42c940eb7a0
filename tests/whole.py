"""A whole deployment on this machine: API-DB and frontend, `wodmail serve` as a user without rights, JupyterHub, slapd,
an appliance, Linux students. All of it real but the API-DB, which is the stand-in of `tests/apidb`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests import asuser
from tests.apidb.frontend import Frontend
from tests.apidb.site import ApiDbSite
from tests.appliances import Appliances, appliances
from tests.e2e.harness import NOTEBOOK
from tests.e2e.linuxsite import LinuxDeployment
from tests.hubsite import HubSite
from tests.linux_students import FIRST, SERVICE, users
from tests.parts import jupyterhub_parts, require
from tests.slapdsite import Slapd
from wodmail.students import install

BASE = 1000  # WODBASESTDID
LAB = "1-Lab.ipynb"
CELLS = 8  # code cells of a workshop: LAB has all but one of them
WHO = "import os\nprint('worked as', os.getuid(), 'student {{ STDID }}', '%s')"
APPLIANCE = 'set -eu\n. "$WODFUNCTIONS"\nwod_%s_appliance\n'


@dataclass(frozen=True)
class Kind:
    """A workshop of this deployment.

    Args:
        name: WKSHP-Name.
        share: which part of the seats is its.
        words: what participants register for, WKSHP- or CHLG-; by turns.
        meta: more of its wod.yml, and of its row in the API-DB.
    """

    name: str
    share: float
    words: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)


KINDS = (
    Kind("WKSHP-Plain", 0.35, ("WKSHP-Plain", "CHLG-Plain")),
    Kind("WKSHP-Again", 0.25, ("WKSHP-Again",), {"reset": True}),
    Kind("WKSHP-Ldap", 0.2, ("WKSHP-Ldap",), {"ldap": True, "varpass": True}),
    Kind("WKSHP-Mono", 0.2, ("WKSHP-Mono",), {"reset": True, "monoappliance": True}),
)


class Whole:
    """The parts, once they run.

    Args:
        site: wodmail's deployment.
        api: the API-DB.
        hub: JupyterHub.
        slapd: the LDAP server.
        lab: the appliance.
        frontend: registers participants and sends the mails.
    """

    def __init__(
        self, site: LinuxDeployment, api: ApiDbSite, hub: HubSite, slapd: Slapd, lab: Appliances, frontend: Frontend
    ) -> None:
        self.site, self.api, self.hub, self.slapd, self.lab, self.frontend = site, api, hub, slapd, lab, frontend

    @property
    def students(self) -> range:
        """The students that this backend has, a seat each."""
        settings = self.site.settings
        return range(settings.WODUSERMIN, settings.WODUSERMAX + 1)

    def trust_lab(self) -> None:
        """Make the appliance's host key known to the backend."""
        known = self.site.folder / "service/.ssh/known_hosts"
        known.write_text(self.lab.host_key(self.lab.base))
        shutil.chown(known, SERVICE, SERVICE)


@contextmanager
def whole_system(seats: int, *, patience: float, insist: float = 0.0) -> Iterator[Whole]:
    """Everything, running; all of it is ended and removed afterwards.

    Args:
        seats: how many students there are, at least one for each of KINDS.
        patience: seconds after which the frontend gives a deployment up.
        insist: seconds after which it repeats CLEANUP, RESET and PURGE that nothing came of; 0 for never.
    """
    for part in ("root", "useradd", "sudo", "setfacl", "sshd", "ip", "slapd", "ssh-keygen"):
        require(part)
    jupyterhub_parts()
    with ExitStack() as stack:
        folder = stack.enter_context(users(seats))
        stack.enter_context(asuser.reachable(SERVICE))
        hub = HubSite(_aside(stack, "hub"))
        stack.callback(hub.close)
        hub.start(wait=False)  # it takes longest
        api = ApiDbSite(_aside(stack, "apidb"), base=BASE, process=True)
        stack.enter_context(api)
        slapd = Slapd(_aside(stack, "slapd") / "slapd", students=range(FIRST, FIRST + seats))
        stack.callback(slapd.stop)
        slapd.start()
        # Short where parts are killed and scripts hang; a machine that is only slow needs more.
        script = 24 if insist else 120
        more = {**api.keys, **hub.keys, **slapd.keys(), "VAULTPWD": "of-the-vault", "WODSCRIPTTIMEOUT": script}
        site = LinuxDeployment(folder, seats, WODREPLYBUDGET=10_000, **more)
        stack.callback(site.close)
        key = _key_pair(folder / "service")
        lab = stack.enter_context(appliances(1, range(FIRST, FIRST + seats), key))
        frontend = Frontend(api, site.port, every=1.0, patience=patience, insist=insist, sender=site.sender)
        made = Whole(site, api, hub, slapd, lab, frontend)
        _workshops(made, seats)
        made.trust_lab()
        sudoers = Path(f"/etc/sudoers.d/{SERVICE}-{os.getpid()}")
        stack.callback(sudoers.unlink, missing_ok=True)
        install.install_helper(site.settings, sudoers=sudoers)
        hub.await_ready()
        site.start()
        stack.callback(frontend.stop)
        frontend.start()
        yield made


def _aside(stack: ExitStack, name: str) -> Path:
    """A folder of a part's own, closed to others."""
    made = tempfile.mkdtemp(prefix=f"wodmail-whole-{name}-", dir="/var/tmp")
    stack.callback(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def _key_pair(home: Path) -> str:
    """The service user's ssh key pair; gives the public half."""
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "backend", "-f", str(ssh / "id_ed25519")]
    subprocess.run(argv, check=True, capture_output=True)
    for path in (ssh, *ssh.iterdir()):
        shutil.chown(path, SERVICE, SERVICE)
    return (ssh / "id_ed25519.pub").read_text()


def _workshops(made: Whole, seats: int) -> None:
    """Each with seats of its own, in wodmail's folders and in the API-DB."""
    first = FIRST
    made.api.add_students(range(FIRST, FIRST + seats))
    for place, kind in enumerate(KINDS):
        left = FIRST + seats - first
        count = left if place == len(KINDS) - 1 else max(1, round(seats * kind.share))
        meta = {"range": [first, first + count - 1], "capacity": count, **kind.meta}
        made.site.workshop(kind.name, {LAB: json.dumps(lab(varpass="varpass" in kind.meta))}, **meta)
        made.api.add_workshop(kind.name, **meta)
        first += count
    made.site.script("reset-WKSHP-Again.sh", 'echo "reset for $userid"\n')
    for name in ("create", "reset"):
        made.site.script(f"{name}-WKSHP-Mono.sh", APPLIANCE % name)
    folder = made.site.folder / "private" / "ansible" / "group_vars"
    folder.mkdir(parents=True)
    shutil.chown(folder.parent, SERVICE, SERVICE)  # for the students' variable files
    (folder / "production.yml").write_text(yaml.safe_dump({"IP-WKSHP-Mono": made.lab.base}))


def lab(*, varpass: bool) -> dict[str, Any]:
    """A notebook of cells that say who executes them, and of one that is never executed."""
    empty = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    source = WHO % ("{{ PASSSTU }}" if varpass else "no password")
    cells = [{**empty, "id": f"c{number}", "source": source} for number in range(CELLS - 1)]
    return {**NOTEBOOK, "cells": [*cells, {**empty, "id": "last", "source": "1/0"}]}


def proxies(hub: HubSite) -> list[psutil.Process]:
    """The proxies of a hub, whichever of its lives started them."""
    lines = ((each, each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"]))
    return [each for each, line in lines if str(hub.port) in line and any("http-proxy" in word for word in line)]
