"""Workshops with appliances: real jobs on a Linux backend, over real ssh, on hosts with sshd and sudo of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliances import Appliances
from tests.e2e.appliancesite import (
    SCRIPT_SECONDS,
    SECOND,
    THIRD,
    WITH_ADDRESS,
    appliance_site,
    container,
    lands,
    trust,
)
from tests.e2e.harness import step_of
from tests.e2e.linuxsite import LinuxDeployment
from tests.e2e.watching import watching
from tests.linux_students import FIRST
from tests.support import wait_until

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("appliances")]
SECRETS = {"VAULTPWD": "of-the-vault"}
CALL = 'set -eu\n. "$WODFUNCTIONS"\n'


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend whose workshops' scripts call the functions for appliances; its server runs."""
    with appliance_site() as (site, lab):
        for name in WITH_ADDRESS:
            site.script(f"create-WKSHP-{name}.sh", f"{CALL}wod_create_appliance\n")
            site.script(f"reset-WKSHP-{name}.sh", f"{CALL}wod_reset_appliance\n")
        site.script("cleanup-WKSHP-Box.sh", f"{CALL}NAME=lab- TMPDIR=/var/tmp wod_cleanup_container_ratio\n")
        for name in ("Missing", "Placeholder"):
            site.script(f"create-WKSHP-{name}.sh", "echo never\n")
        site.start()
        yield site, lab


@pytest.fixture
def site(both: tuple[LinuxDeployment, Appliances]) -> LinuxDeployment:
    """The backend."""
    return both[0]


@pytest.fixture(autouse=True)
def nothing_leaks(site: LinuxDeployment) -> Iterator[None]:
    """All tests of this file are watched."""
    with watching(site, SECRETS):
        yield


@pytest.fixture
def lab(both: tuple[LinuxDeployment, Appliances]) -> Appliances:
    """The appliances."""
    return both[1]


@pytest.fixture
def home(site: LinuxDeployment) -> Path:
    """A new home of the first student."""
    return site.renew_home(FIRST)


def reply(site: LinuxDeployment, row: dict[str, object], to: str = "") -> str:
    """The text of the result mail that the sender, or somebody else, gets."""
    address = to or site.sender
    mails = wait_until(
        lambda: [mail for mail in site.replies(int(str(row["id"]))) if mail["To"] == address], what=f"mail to {address}"
    )
    part = next(each for each in mails[0].walk() if each.get_content_type() == "text/plain")
    text = part.get_payload(decode=True)
    assert isinstance(text, bytes)
    return " ".join(text.decode().split())


def test_create_lets_in_and_reset_locks_out(site: LinuxDeployment, lab: Appliances, home: Path) -> None:
    row = site.one(f"CREATE {FIRST} 0", "WKSHP-Mono")
    assert row["state"] == "done", reply(site, row)
    word = site.password(FIRST)
    assert lands(FIRST, lab.base) == f"student{FIRST} appliance1"
    assert lands(FIRST, lab.base, password=word) == f"student{FIRST} appliance1"
    assert lands(FIRST, lab.base, password=word + "x") == ""
    shown = lab.shell(lab.base, f"cd /home/student{FIRST}; stat -c '%n %a %U' . .ssh .ssh/authorized_keys .profile")
    name = f"student{FIRST}"
    wanted = [f". 700 {name}", f".ssh 700 {name}", f".ssh/authorized_keys 600 {name}", f".profile 644 {name}"]
    assert shown.splitlines() == wanted
    assert word not in site.log() + site.trace().replace(f"(passwd {word})", "")
    (home / "key").write_bytes((home / ".ssh/id_ed25519").read_bytes())
    (home / "key").rename(site.folder / "kept")
    row = site.one(f"RESET {FIRST} 0", "WKSHP-Mono")
    assert row["state"] == "done", reply(site, row)
    assert lab.shell(lab.base, f"cd /home/student{FIRST}; ls -d .ssh 2>&1 || :").endswith("No such file or directory\n")
    assert lands(FIRST, lab.base, password=word) == ""
    assert lands(FIRST, lab.base, password=site.password(FIRST, "RESET")) == f"student{FIRST} appliance1"


def test_students_land_each_on_their_own_and_a_reset_reaches_all(site: LinuxDeployment, lab: Appliances) -> None:
    students = (FIRST, SECOND, THIRD)
    for student in students:
        site.renew_home(student)
    row = site.one(f"CREATE {FIRST} 3", "WKSHP-Multi")
    assert [job["state"] for job in row["jobs"]] == ["done"] * 3, reply(site, row)
    kept = {}
    for number, student in enumerate(students):
        assert lands(student, lab.addresses[number]) == f"student{student} appliance{number + 1}"
        assert lands(student, lab.addresses[number - 1]) == ""
        kept[student] = (site.home(student) / ".ssh/id_ed25519").read_bytes()
    row = site.one(f"RESET {FIRST},{THIRD} 0", "WKSHP-Multi")
    assert (row["state"], len(row["jobs"])) == ("done", 1), reply(site, row)
    for address, student in zip(lab.addresses, students, strict=True):
        (site.home(student) / ".ssh" / "id_ed25519").write_bytes(kept[student])
        assert lands(student, address) == ""
        assert lands(student, address, password=site.password(student, "RESET")) != ""


@pytest.mark.parametrize("name", ["Missing", "Placeholder"])
def test_no_base_address(site: LinuxDeployment, home: Path, name: str) -> None:
    row = site.one(f"CREATE {FIRST} 0", f"WKSHP-{name}")
    step = step_of(row, "create-script")
    assert (row["state"], step["state"]) == ("failed", "failed")
    found = {"Missing": "missing", "Placeholder": "x.y.z.t"}[name]
    advice = f"set IP-WKSHP-{name} in group_vars/production (it is {found})"
    assert step["error"] == f"The address of the appliance of WKSHP-{name} is not configured: {advice}."
    assert "never" not in site.trace()
    assert step["error"] in reply(site, row)
    assert advice in reply(site, row, "monitor@localhost")
    assert site.untold(row)
    assert not site.seat(FIRST).assigned


def test_a_host_key_that_has_changed(site: LinuxDeployment, lab: Appliances, home: Path) -> None:
    """Nothing is sent to a machine that is not the known one; the sender is told what to do."""
    lab.change_host_key(lab.base)
    try:
        row = site.one(f"CREATE {FIRST} 0", "WKSHP-Mono")
        told = reply(site, row)
        assert step_of(row, "create-script")["error"].endswith("exit status 76.")
        assert f"appliance {lab.base} (WKSHP-Mono): its host key has changed. See that it is the right machine" in told
        assert f"ssh-keygen -R {lab.base}, and log in once" in told
        assert site.untold(row)
        assert not site.seat(FIRST).assigned
        assert step_of(row, "copy-folder")["state"] == "waiting"
    finally:
        trust(site, lab)


def test_an_appliance_that_is_down(site: LinuxDeployment, lab: Appliances) -> None:
    site.renew_home(SECOND)
    lab.down(lab.addresses[1])
    try:
        began = time.monotonic()
        row = site.one(f"CREATE {SECOND} 0", "WKSHP-Multi")
        assert time.monotonic() - began < SCRIPT_SECONDS - 10
    finally:
        lab.up(lab.addresses[1])
    assert row["state"] == "failed"
    assert step_of(row, "create-script")["error"].endswith("exit status 69.")
    assert f"appliance {lab.addresses[1]} (WKSHP-Multi) does not answer" in reply(site, row)
    assert step_of(row, "copy-folder")["state"] == "waiting"
    assert site.untold(row)


def test_the_ratio_is_that_of_the_container(site: LinuxDeployment, lab: Appliances, home: Path) -> None:
    row = site.one(f"CREATE {FIRST} 0", "WKSHP-Box")
    assert row["state"] == "done", reply(site, row)
    container(lab)
    row = site.one(f"CLEANUP {FIRST} 0", "WKSHP-Box")
    assert row["state"] == "done", reply(site, row)
    assert step_of(row, "ratio")["note"] == "75 %"
    lab.shell(lab.base, "rm -r /run/containers")
    row = site.one(f"CLEANUP {FIRST} 0", "WKSHP-Box")
    assert row["state"] == "failed"
    said = step_of(row, "cleanup-script")["output"]
    assert f"appliance {lab.base} (WKSHP-Box): there is no container lab-{FIRST}" in said
    assert step_of(row, "ratio")["state"] == "done", "a CLEANUP goes on"
