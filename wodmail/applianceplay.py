"""One playbook on one appliance over ssh: the inventory, WODUSER's key, and why it failed in words."""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wodmail import maintenance
from wodmail.errors import Failed
from wodmail.installing import sources
from wodmail.maintenance import Played
from wodmail.schema import Settings

if TYPE_CHECKING:
    from wodmail.appliancesetup import Site
    from wodmail.appliancetodo import Order

KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
WORDS = 300


def play(
    site: Site, address: str, playbook: Path, order: Order, variables: Mapping[str, Any], login: str = ""
) -> Played:
    """Run a playbook there.

    Args:
        site: the configuration; whether to stop.
        address: the appliance.
        playbook: the file.
        order: whether to change anything; how long it may take.
        variables: win over everything else.
        login: the account to log in as; "" for WODUSER.

    Raises:
        Failed: ansible-playbook can't be started, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="wodmail-appliance-") as folder:
        file = Path(folder) / "hosts.json"
        file.write_text(json.dumps(inventory(site.settings, address, login)), encoding="utf-8")
        without = sources(site.settings.WODWITHOUT)
        # A private playbook finds ours: import_playbook: "{{ WODANSIBLEDIR }}/setup_docker_based_appliance.yml"
        ours = {"WODANSIBLEDIR": str(site.settings.WODANSIBLEDIR), "wod_without": list(without)}
        return maintenance.play(
            site.settings,
            str(playbook),
            check=order.check,
            skip_tags=[*order.skip_tags, *(f"source_{name}" for name in without)],
            variables={**ours, **variables},
            inventory=file,
            timeout=order.timeout,
            cancelled=site.stop.is_set,
        )


def inventory(settings: Settings, address: str, login: str = "") -> dict[str, Any]:
    """An inventory of one appliance, in the group WODGROUP; ssh is told what the shared scripts tell it (pure).

    Args:
        settings: the configuration; NOCHECKSSH holds the site's options.
        address: the appliance.
        login: see `play`.
    """
    # ssh takes the first value that it is given: a site's own come before our defaults, but not before BatchMode.
    options = ["-a", "-x", "-o", "BatchMode=yes", *settings.NOCHECKSSH.split(), "-o", "LogLevel=ERROR"]
    options += ["-o", "ConnectionAttempts=1", "-o", "ConnectTimeout=10"]
    options += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
    # One connection for all tasks; it ends soon after the last.
    options += ["-o", "ControlMaster=auto", "-o", "ControlPersist=15s"]
    host = {
        "ansible_connection": "ssh",
        "ansible_user": login or settings.WODUSER,
        "ansible_become": True,
        "ansible_ssh_args": shlex.join(options),
        "ansible_python_interpreter": "auto_silent",
    }
    return {settings.WODGROUP: {"hosts": {address: host}}}


def own_key(*, make: bool, folder: Path | None = None) -> str:
    """The public key of whoever calls this, one line; "" when there is none and none is made.

    Args:
        make: whether a key pair is made when there is none.
        folder: where keys are; ~/.ssh by default.

    Raises:
        Failed: it can't be made or read.
    """
    ssh = folder if folder is not None else Path.home() / ".ssh"
    try:
        found = next((ssh / f"{name}.pub" for name in KEYS if (ssh / f"{name}.pub").is_file()), None)
        if found is None and make:
            found = _new_key(ssh)
        return found.read_text(encoding="utf-8").strip() if found is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"The ssh key in {ssh} can't be had: {error}.", str(error)) from error


def _new_key(ssh: Path) -> Path:
    ssh.mkdir(mode=0o700, exist_ok=True)
    file = ssh / KEYS[0]
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise Failed(f"No ssh key could be made in {ssh}.", done.stderr.strip())
    return file.with_name(f"{file.name}.pub")


def why(address: str, played: Played) -> str:
    """Why a playbook failed, and what to do where that is known (pure)."""
    for task in played.tasks:
        if task.status == "unreachable":
            return _unreachable(address, task.message)
    for task in played.tasks:
        if task.status == "failed":
            return f"{task.name}: {task.message[:WORDS] or 'it gave no reason'}"
    return f"the playbook ended with status {played.status}: {' '.join(played.text_tail.split())[-WORDS:]}"


def _unreachable(address: str, message: str) -> str:
    words = " ".join(message.split())[:WORDS]
    advice = (
        (
            "IDENTIFICATION HAS CHANGED",
            f"its host key has changed. See that it is the right machine, then, as WODUSER on"
            f" this backend: ssh-keygen -R {address}, and log in once",
        ),
        (
            "Host key verification failed",
            "its host key is not known here. Log in once as WODUSER from this backend, or set NOCHECKSSH",
        ),
        (
            "Permission denied",
            "it lets nobody in with this backend's key; the first time name an account that it knows with --login",
        ),
    )
    for sign, told in advice:
        if sign in message:
            return f"{address}: {told}"
    return f"{address} does not answer: {words}"
