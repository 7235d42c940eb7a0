"""Seats when things go wrong: the engine's daemon is down, definitions change, calls are given up and go on there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.appliances import Appliances
from tests.e2e import appliancesite
from tests.e2e.linuxsite import LinuxDeployment
from tests.e2e.seatsite import Engine, delivered, fresh_home, script, seat_site
from tests.linux_students import FIRST
from tests.support import wait_until

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("container-trouble")]
DOWN = "failed: Error: Cannot connect to the daemon. Is it running?"
# A call that takes for ever there, whose own time is short here.
ENDLESS = """
. "${0%/*}/appliance.sh"
appliance_begin
appliance_limit() { echo 2; }
printf '%s\\n' 'exec -a wod-endless sleep infinity' | appliance_call "$stdid"
"""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend with two definitions of its own, without a server."""
    with seat_site() as made:
        yield made


site = pytest.fixture(appliancesite.backend)


@pytest.fixture
def engine(both: tuple[LinuxDeployment, Appliances]) -> Engine:
    """The stand-in on the appliance, with nothing made yet."""
    engine = Engine(both[1], both[1].base)
    engine.install()
    return engine


@pytest.fixture(scope="module")
def tree(both: tuple[LinuxDeployment, Appliances]) -> Path:
    """The scripts as they are delivered; of WKSHP-Bare, too, which is WKSHP-Seat without notebooks."""
    tree = delivered(both[0])
    for file in tree.glob("*-WKSHP-Seat.sh"):
        text = "\n".join(line for line in file.read_text().split("\n") if not line.startswith("notebooks "))
        (tree / file.name.replace("Seat", "Bare")).write_text(text)
    return tree


@pytest.fixture
def seat(site: LinuxDeployment, engine: Engine, tree: Path) -> dict[str, str]:
    """What scripts are told; the first student has a seat, two containers."""
    fresh_home(site)
    there = {"WODRTARGET": engine.address}
    status, said = script(site, tree, "create-WKSHP-Seat", **there)
    assert (status, engine.there("container")) == (0, [f"seat-{FIRST}", f"seat-{FIRST}-db"]), said
    return there


def test_an_engine_that_is_down_is_not_one_without_seats(
    site: LinuxDeployment, engine: Engine, tree: Path, seat: dict[str, str]
) -> None:
    """Nobody is told that a container is gone that comes back with the daemon."""
    engine.lab.shell(engine.address, "touch /run/engine/down")
    # `Bare` has no notebooks to bring home; an interrupted CLEANUP may find none.
    for name, attempt in (
        ("reset-WKSHP-Seat", "1"),
        ("cleanup-WKSHP-Bare", "1"),
        ("cleanup-WKSHP-Seat", "1"),
        ("cleanup-WKSHP-Seat", "2"),
        ("create-WKSHP-Seat", "1"),
    ):
        status, said = script(site, tree, name, **seat, WODATTEMPT=attempt)
        assert (status, "no seat any more" in said) == (71, False), f"{name}: {said}"
        assert DOWN in said, name
    status, said = script(site, tree, "cleanup-container-ratio", **seat, NAME="seat-", TMPDIR="/var/tmp")
    assert (status, "docker does not answer" in said) == (71, True), said
    engine.lab.shell(engine.address, "rm /run/engine/down")
    assert engine.there("container") == [f"seat-{FIRST}", f"seat-{FIRST}-db"]
    status, said = script(site, tree, "reset-WKSHP-Seat", **seat)
    assert (status, [engine.there(kind) for kind in ("container", "volume", "network")]) == (0, [[], [], []]), said


def test_what_an_older_definition_made_goes_too(
    site: LinuxDeployment, engine: Engine, tree: Path, seat: dict[str, str]
) -> None:
    """And nothing of others, whose names begin alike."""
    mine = [f"seat-{FIRST}-cache", f"seat-{FIRST}-old1"]
    others = [f"my-seat-{FIRST}", f"seat-{FIRST}0", f"seat-{FIRST}-7", f"seat-{FIRST}-db-7", f"seat-{FIRST}0-db"]
    folders = [f"/run/engine/{kind}/{name}" for kind in ("container", "volume", "network") for name in mine + others]
    engine.lab.run(engine.address, ["mkdir", "-p", *folders])
    status, said = script(site, tree, "cleanup-WKSHP-Bare", **seat)
    assert status == 0, said
    for kind in ("container", "volume", "network"):
        assert engine.there(kind) == sorted(others), kind


def test_a_call_that_was_given_up_makes_no_seat_after_it_was_removed(
    site: LinuxDeployment, engine: Engine, tree: Path, seat: dict[str, str]
) -> None:
    """CLEANUP comes while a CREATE, which nobody waits for any more, still fetches the image there."""
    engine.lab.shell(engine.address, "rm -r /run/engine/image/*; mkfifo /run/engine/gate")
    seat = {**seat, "WODSCRIPTTIMEOUT": "1200"}  # no call here is over before the test is
    asked = len(engine.calls("pull"))

    def waits() -> bool:
        """Whether CLEANUP waits for the lock."""
        return engine.lab.run(engine.address, ["pgrep", "-x", "flock"], check=False) != ""

    with ThreadPoolExecutor(2) as pool:
        create = pool.submit(script, site, tree, "create-WKSHP-Bare", **seat)
        try:
            wait_until(lambda: len(engine.calls("pull")) > asked, what="the fetch of an image")
            cleanup = pool.submit(script, site, tree, "cleanup-WKSHP-Bare", **seat)
            wait_until(lambda: waits() or cleanup.done(), what="CLEANUP")
            assert not cleanup.done(), cleanup.result()
        finally:
            engine.lab.shell(engine.address, "mv /run/engine/gate /run/engine/open; : >/run/engine/open")
        assert (create.result()[0], cleanup.result()[0]) == (0, 0)
    assert engine.there("container") == []
    status, said = script(site, tree, "create-WKSHP-Bare", **seat)
    assert status == 0, f"what runs on has no lock: {said}"


def test_what_runs_there_ends_with_its_call(
    site: LinuxDeployment, engine: Engine, tree: Path, seat: dict[str, str]
) -> None:
    """To end ssh here would leave it."""
    (tree / "endless.sh").write_text(ENDLESS)
    status, said = script(site, tree, "endless", **seat)
    assert (status, "not done after 2 s" in said) == (69, True), said
    ask = ["pgrep", "-f", "^wod-endless"]
    wait_until(lambda: engine.lab.run(engine.address, ask, check=False) == "", what="the end of what runs there")
