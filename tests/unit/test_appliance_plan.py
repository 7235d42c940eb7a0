"""Which appliances there are, what is told about wrong ones, how they are reached; the scripts with the old names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wodmail import appliances, paths, rendering
from wodmail.applianceplay import inventory, own_key, why
from wodmail.appliances import Appliance, Use
from wodmail.errors import Failed, Refused
from wodmail.maintenance import Played
from wodmail.maintenancetasks import TaskResult
from wodmail.schema import Settings
from wodmail.wodyml import Workshop

BASE = "192.0.2.10"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A backend of students 1 to 8 whose group_vars say where WKSHP-A, B and Odd are."""
    folder = tmp_path / "ansible" / "group_vars"
    folder.mkdir(parents=True)
    values = {
        "IP-WKSHP-A": BASE,
        "IP-WKSHP-B": BASE,
        "IP-WKSHP-Odd": "-oProxyCommand=x",
        "IP-WKSHP-Name": "lab.example",
    }
    (folder / "production.yml").write_text(yaml.safe_dump(values))
    return Settings(
        WODSANDBOX=True, WODANSIBLEDIR=tmp_path / "ansible", WODNOBO=tmp_path, WODUSERMAX=8, WODSTATEDIR=tmp_path
    )


def workshop(name: str, first: int, last: int, **more: Any) -> Workshop:
    """A workshop with a range."""
    return Workshop(f"WKSHP-{name}", range=(first, last), **more)


def test_machines_that_workshops_share_are_there_once(settings: Settings) -> None:
    one = workshop("A", 5, 7, monoappliance=True)
    machines, problems = appliances.plan(settings, [one, workshop("B", 5, 7, multiappliance=True)])
    assert problems == []
    assert machines == [
        Appliance(BASE, (Use("WKSHP-A", (5, 7)), Use("WKSHP-B", (5, 5)))),
        Appliance("192.0.2.11", (Use("WKSHP-B", (6, 6)),)),
        Appliance("192.0.2.12", (Use("WKSHP-B", (7, 7)),)),
    ]
    assert machines[0].students == (5, 6, 7)


def test_students_of_other_backends_have_no_machine_here(settings: Settings) -> None:
    machines, _ = appliances.plan(settings, [workshop("B", 7, 40, multiappliance=True)])
    assert [machine.address for machine in machines] == [BASE, "192.0.2.11"]
    machines, _ = appliances.plan(settings, [workshop("A", 20, 40, monoappliance=True)])
    assert machines[0].students == ()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            workshop("Nowhere", 1, 2, monoappliance=True),
            "set IP-WKSHP-Nowhere in group_vars/production (it is missing)",
        ),
        (workshop("Odd", 1, 2, monoappliance=True), "is neither an address nor a host name"),
        (workshop("Name", 1, 2, multiappliance=True), "must be an IPv4 address to count from"),
        (Workshop("WKSHP-A", monoappliance=True), "it has no range in its wod.yml"),
    ],
)
def test_what_is_wrong_is_told_and_stops_no_other(settings: Settings, made: Workshop, words: str) -> None:
    machines, problems = appliances.plan(settings, [made, workshop("B", 1, 1, monoappliance=True)])
    assert [problem.path for problem in problems] == [made.name]
    assert words in problems[0].message
    assert BASE in [machine.address for machine in machines]


def test_addresses_end_with_their_network() -> None:
    assert appliances.nth("WKSHP-A", "192.0.2.250", 5, (1, 9)) == "192.0.2.254"
    with pytest.raises(Failed, match="the last number would be 255"):
        appliances.nth("WKSHP-A", "192.0.2.250", 6, (1, 9))


def test_one_machine_by_its_address() -> None:
    machines = [Appliance("192.0.2.1", ()), Appliance("192.0.2.2", ())]
    assert appliances.only(machines, "192.0.2.2") == machines[1:]
    with pytest.raises(Refused, match=r"no workshop asked for runs on 192\.0\.2\.3; there are: 192\.0\.2\."):
        appliances.only(machines, "192.0.2.3")


def test_the_site_s_options_for_ssh_come_first(settings: Settings) -> None:
    ours = settings.model_copy(update={"NOCHECKSSH": "-o ConnectTimeout=3  -p 2222"})
    host = inventory(ours, BASE)["production"]["hosts"][BASE]
    words = host["ansible_ssh_args"].split()
    assert words.index("ConnectTimeout=3") < words.index("ConnectTimeout=10")
    assert words.index("BatchMode=yes") < words.index("ConnectTimeout=3")
    assert (host["ansible_user"], host["ansible_become"]) == (settings.WODUSER, True)
    assert inventory(ours, BASE, "root")["production"]["hosts"][BASE]["ansible_user"] == "root"


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (
            "unreachable",
            "Failed to connect: Permission denied (publickey).",
            "name an account that it knows with --login",
        ),
        ("unreachable", "Host key verification failed.", "its host key is not known here"),
        ("unreachable", "No route to host", f"{BASE} does not answer: No route to host"),
        ("failed", "no such package", "Install it: no such package"),
    ],
)
def test_why_a_playbook_failed(status: str, message: str, words: str) -> None:
    task = TaskResult(BASE, "Install it", "x.yml:1", (), status, message)
    assert words in why(BASE, Played(4, (task,), ""))


def test_a_key_is_made_once(tmp_path: Path) -> None:
    ssh = tmp_path / ".ssh"
    assert own_key(make=False, folder=ssh) == ""
    made = own_key(make=True, folder=ssh)
    assert made.startswith("ssh-ed25519 ")
    assert own_key(make=True, folder=ssh) == made
    assert (ssh / "id_ed25519").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("script", "arguments", "status", "called"),
    [
        ("setup-appliance", ["WKSHP-A"], 0, "appliance setup --group production -- WKSHP-A"),
        ("setup-appliance", ["WKSHP-A", "test"], 0, "appliance setup --group test -- WKSHP-A"),
        ("setup-appliance", [], 64, ""),
        ("setup-appliance", ["--help"], 64, ""),
        ("setup-globalappliance", [], 0, "appliance setup --group production"),
        ("setup-globalappliance", ["test", BASE], 0, f"appliance setup --group test --host {BASE}"),
        ("setup-globalappliance", ["-x"], 64, ""),
    ],
)
def test_the_old_names(tmp_path: Path, script: str, arguments: list[str], status: int, called: str) -> None:
    """They call the command, which a stand-in shows here."""
    file = tmp_path / f"{script}.sh"
    file.write_text(rendering.render(paths.share("scripts") / f"{script}.sh.j2", {"WODGROUP": "production"}))
    (tmp_path / "wodmail").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "wodmail").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(file), *arguments], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (status, called)
    assert ("Syntax" in done.stderr) == (status == 64)
