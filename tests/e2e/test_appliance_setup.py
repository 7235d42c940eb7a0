"""`wodmail appliance`: real scripts and playbooks over real ssh, on hosts with sshd and sudo of their own.

The base of an appliance takes longer: tests/machine/test_appliance_base.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.appliances import Appliances
from tests.e2e import appliancesite
from tests.e2e.appliancesetting import hooks, results, setting, told
from tests.e2e.appliancesite import SECOND, THIRD
from tests.e2e.linuxsite import LinuxDeployment
from tests.linux_students import FIRST

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("appliance-setup")]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend and three appliances."""
    with setting() as made:
        yield made


site, lab = pytest.fixture(appliancesite.backend), pytest.fixture(appliancesite.lab)


def test_hooks_scripts_and_playbooks_of_all_workshops_are_run(site: LinuxDeployment, lab: Appliances) -> None:
    report = told(site, "setup", "--no-base")
    before, after = (
        [(f"setup-appliance-{when}.sh", where, "ok") for where in ("public", "private")] for when in ("pre", "post")
    )
    mono, multi = ("setup_WKSHP-Mono.yml", "private", "changed"), ("setup-WKSHP-Multi.sh", "public", "ok")
    assert results(report) == {
        lab.base: [*before, mono, multi, *after],
        **{address: [*before, multi, *after] for address in lab.addresses[1:]},
    }
    assert report["problems"] == []
    assert lab.shell(lab.base, "cat /srv/mono") == f"WKSHP-Mono {FIRST} {SECOND} {THIRD} hello\n"
    for number, address in enumerate(lab.addresses):
        assert lab.shell(address, "cat /srv/script") == f"WKSHP-Multi {FIRST + number} root appliance{number + 1}\n"
    ran = hooks(site)
    assert ran[:2] == ["public setup-globalappliance pre ", "private setup-globalappliance pre "]
    assert ran[-2:] == ["public setup-globalappliance post ", "private setup-globalappliance post "]
    around = {(where, when) for where in ("public", "private") for when in ("pre", "post")}
    wanted = {f"{where} setup-appliance {when} {address}" for where, when in around for address in lab.addresses}
    assert len(ran) == 4 + len(wanted)
    assert set(ran[2:-2]) == wanted


def test_one_that_is_down_stops_no_other(site: LinuxDeployment, lab: Appliances) -> None:
    lab.down(lab.addresses[1])
    try:
        report = told(site, "setup", "--no-base", "WKSHP-Multi", status=1)
    finally:
        lab.up(lab.addresses[1])
    by_address = {each["address"]: each for each in report["appliances"]}
    assert [by_address[address]["result"] for address in lab.addresses] == ["ok", "failed", "ok"]
    down = by_address[lab.addresses[1]]["done"]
    assert [done["result"] for done in down] == ["ok", "ok", "failed", "left", "left"]
    assert f"appliance {lab.addresses[1]} (WKSHP-Multi) does not answer" in down[2]["words"]
    assert not [line for line in hooks(site) if "globalappliance" in line or line.endswith(f"post {lab.addresses[1]}")]


def test_check_tells_what_is_missing(site: LinuxDeployment, lab: Appliances) -> None:
    assert {each["result"] for each in told(site, "check")["appliances"]} == {"ok"}
    lab.shell(lab.base, f"sed -i.old '/^student{SECOND}:/d' /etc/passwd; mv /home/student{FIRST} /home/away")
    try:
        report = told(site, "check", "WKSHP-Mono", status=1)
    finally:
        lab.shell(lab.base, f"mv /etc/passwd.old /etc/passwd; mv /home/away /home/student{FIRST}")
    words = report["appliances"][0]["done"][0]["words"]
    assert words == f"student{FIRST}: its home /home/student{FIRST} is missing; student{SECOND}: no such user"


def test_list_and_what_can_not_be(site: LinuxDeployment, lab: Appliances) -> None:
    listed = told(site, "list")["appliances"]
    assert [(each["address"], each["workshops"]) for each in listed] == [
        (lab.addresses[0], ["WKSHP-Mono", "WKSHP-Multi"]),
        *((address, ["WKSHP-Multi"]) for address in lab.addresses[1:]),
    ]
    for arguments, words in (
        (("setup", "WKSHP-Nothing"), "there is no workshop WKSHP-Nothing here"),
        (("setup", "--host", "198.51.100.1"), f"there are: {lab.addresses[0]}"),
        (("check", "--group", "elsewhere"), "IP-WKSHP-Mono in group_vars/elsewhere (it is missing)"),
    ):
        done = site.command("appliance", *arguments)
        assert done.returncode == 1
        assert words in " ".join((done.stdout + done.stderr).split())
