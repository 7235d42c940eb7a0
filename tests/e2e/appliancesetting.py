"""A backend that sets three appliances up, for tests of `wodmail appliance`: hooks, scripts, a private playbook."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.appliances import Appliances
from tests.e2e.appliancesite import THIRD, appliance_site
from tests.e2e.linuxsite import LinuxDeployment
from tests.linux_students import FIRST

# What a host made of namespaces can't have: packages of its own, and services that systemd starts.
SKIP = ("--skip-tags", "packages,services")
_PLAYBOOK = """
- name: What the workshop wants
  hosts: all
  gather_facts: false
  tasks:
    - name: Write who works here
      ansible.builtin.copy:
        content: "{{ w }} {{ wod_appliance_students | join(' ') }} {{ greeting }}\\n"
        dest: /srv/mono
        mode: "0644"
"""
_SCRIPT = """set -eu
. "$WODAPPLIANCESCRIPTS/appliance.sh"
appliance_begin
printf 'echo "%s $(id -un) $(hostname)" >>/srv/script\\n' "$w $WODSTUDENTS" | appliance_call "$stdid"
echo "prepared $w"
"""


@contextmanager
def setting() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """WKSHP-Mono on the first with a private playbook, WKSHP-Multi on all, a student each, with a script; hooks."""
    with appliance_site() as (site, lab):
        for name in ("Mono", "Ldap", "Box", "Missing", "Placeholder"):
            shutil.rmtree(site.folder / "notebooks" / f"WKSHP-{name}")
        site.workshop("WKSHP-Mono", monoappliance=True, range=[FIRST, THIRD])
        private = site.folder / "private"
        (private / "scripts").mkdir()
        (private / "ansible" / "setup_WKSHP-Mono.yml").write_text(_PLAYBOOK)
        with (private / "ansible/group_vars/production.yml").open("a") as file:
            file.write("greeting: hello\n")
        site.script("setup-WKSHP-Multi.sh", _SCRIPT)
        note = site.folder / "service" / "hooks"
        for where, folder in (("public", site.folder / "scripts"), ("private", private / "scripts")):
            for name in ("setup-appliance", "setup-globalappliance"):
                for when in ("pre", "post"):
                    line = f'echo "{where} {name} {when} ${{WODRTARGET:-}}" >>{note}\n'
                    (folder / f"{name}-{when}.sh").write_text(line)
        yield site, lab


def told(site: LinuxDeployment, *arguments: str, status: int = 0) -> dict[str, Any]:
    """The report of a command of `wodmail appliance`, which must end with that status."""
    done = site.command("appliance", *arguments, "--json", seconds=900)
    assert done.returncode == status, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def results(report: dict[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    """By address: what was done, public or private, and its result."""
    return {
        each["address"]: [(done["what"], done["where"], done["result"]) for done in each["done"]]
        for each in report["appliances"]
    }


def hooks(site: LinuxDeployment) -> list[str]:
    """The hooks that have run, forgotten afterwards."""
    note = Path(site.folder / "service" / "hooks")
    ran = note.read_text().splitlines()
    note.unlink()
    return ran
