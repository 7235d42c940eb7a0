"""A container for each student: one YAML file, real mails, jobs and ssh; a stand-in for the container engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliances import Appliances
from tests.e2e.appliancesite import SECOND, THIRD, notebook
from tests.e2e.harness import step_of
from tests.e2e.linuxsite import LinuxDeployment
from tests.e2e.seatsite import FIRST_PORT, Engine, delivered, fresh_home, script, seat_site
from tests.e2e.watching import watching
from tests.leaks import in_files
from tests.linux_students import FIRST

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("container-workshops")]
SECRETS = {"VAULTPWD": "of-the-vault"}


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend with two definitions of its own; its server runs."""
    with seat_site() as (site, lab):
        site.start()
        yield site, lab


@pytest.fixture
def site(both: tuple[LinuxDeployment, Appliances]) -> LinuxDeployment:
    """The backend."""
    return both[0]


@pytest.fixture
def engine(both: tuple[LinuxDeployment, Appliances]) -> Engine:
    """The stand-in on the appliance, with nothing made yet."""
    engine = Engine(both[1], both[1].base)
    engine.install()
    return engine


def tokens(site: LinuxDeployment, student: int) -> tuple[str, int]:
    """Token and port as the student's notebook tells them."""
    text = (site.home(student) / "WKSHP-Seat/1-Seat.ipynb").read_text()
    found = re.search(r"([A-Za-z0-9]{40}) at ([0-9]+)", text)
    assert found is not None, text
    return found[1], int(found[2])


def test_from_create_to_reset(site: LinuxDeployment, engine: Engine) -> None:
    for student in (FIRST, SECOND):
        site.renew_home(student)
    with watching(site, SECRETS) as sampler:
        row = site.one(f"CREATE {FIRST} 2", "WKSHP-Seat")
        assert [job["state"] for job in row["jobs"]] == ["done", "done"], site.trace()
        told = {student: tokens(site, student) for student in (FIRST, SECOND)}
        runs = {call["argv"][call["argv"].index("--name") + 1]: call for call in engine.calls("run")}
        assert sorted(runs) == [f"seat-{FIRST}", f"seat-{FIRST}-db", f"seat-{SECOND}", f"seat-{SECOND}-db"]
        secret: dict[str, str] = {}
        for place, student in enumerate((FIRST, SECOND)):
            token, port = told[student]
            run, beside = runs[f"seat-{student}"], runs[f"seat-{student}-db"]
            database = beside["environment"][0].partition("=")[2]
            assert port == FIRST_PORT + place
            assert f"{port}:8888" in run["argv"] and not any("--publish" in word for word in beside["argv"])
            assert run["environment"] == [
                f"JUPYTER_TOKEN={token}",
                f"DATABASE_PASSWORD={database}",
                f"WHO=student{student} at {engine.address}:{port}",
            ]
            assert (run["mode"], beside["mode"]) == ("0o600", "0o600")
            assert {"--memory=1g", "--pids-limit=512", "--cap-drop=ALL", "always"} < set(run["argv"])
            secret |= {f"token {student}": token, f"database {student}": database}
            inside = f"/run/engine/container/seat-{student}/home/jovyan/WKSHP-Seat/1-Seat.ipynb"
            assert token in engine.lab.run(engine.address, ["cat", inside])
        assert len(set(secret.values())) == 4
        assert sampler.findings(secret) == []
    assert not any(word in json.dumps(call["argv"]) for call in engine.calls() for word in secret.values())
    assert engine.lab.run(engine.address, ["bash", "-c", "ls -d /run/wod-seat-*"], check=False) == ""
    assert engine.there("network") == [f"seat-{FIRST}", f"seat-{SECOND}"]

    work = f"/run/engine/container/seat-{FIRST}/home/jovyan/WKSHP-Seat/0-ReadMeFirst.ipynb"
    engine.lab.write(engine.address, work, notebook(1, 2, 3, None))
    site.mail(f"CLEANUP {FIRST} 0", "WKSHP-Seat")
    row = site.ended(3)[1]  # the third is the RESET that follows
    assert (row["state"], step_of(row, "ratio")["note"]) == ("done", "75 %"), site.trace()
    assert site.trace().count(f"student {FIRST} has no seat any more") == 2
    assert engine.there("container") == [f"seat-{SECOND}", f"seat-{SECOND}-db"]
    assert (engine.there("volume"), engine.there("network")) == ([f"seat-{SECOND}"], [f"seat-{SECOND}"])
    row = site.one(f"RESET {FIRST},{SECOND} 0", "WKSHP-Seat")
    assert row["state"] == "done", site.trace()
    assert [engine.there(kind) for kind in ("container", "volume", "network")] == [[], [], []]
    assert in_files([site.state], secret, allowed={site.state / "student"}) == []
    assert not any(word in site.log() + site.trace() for word in secret.values())


@pytest.fixture(scope="module")
def tree(both: tuple[LinuxDeployment, Appliances]) -> Path:
    """The scripts as they are delivered, those of the definitions among them."""
    return delivered(both[0])


@pytest.fixture
def home(site: LinuxDeployment) -> Path:
    """The first student's home with a new key pair, as `erase` leaves it."""
    return fresh_home(site)


def test_setup_by_hand(site: LinuxDeployment, engine: Engine, tree: Path) -> None:
    asked = len(engine.calls())
    only = {"stdid": "", "w": "", "WODAPPLIANCESCRIPTS": "", "WODRTARGET": engine.address}
    status, said = script(site, tree, "setup-WKSHP-Seat", **only)
    assert (status, said) == (0, f"appliance {engine.address} is ready for WKSHP-Seat\n")
    pulled = [call["argv"] for call in engine.calls()[asked:] if call["argv"][0] == "pull"]
    assert pulled == [["pull", "--quiet", "docker.io/library/postgres:17"], ["pull", "--quiet", "example.org/seat:1"]]
    status, said = script(site, tree, "setup-WKSHP-Docker101", **only)
    assert status == 0, said
    (built,) = engine.calls("build")
    assert built["argv"][:-1] == ["build", "--pull", "--tag", "wod-docker101:1", "--file", "-"]
    assert built["file"].startswith("FROM docker.io/library/docker:")
    assert "\n    'PasswordAuthentication no'" in built["file"], "lines keep their indentation"
    assert "wod-wkshp-docker101" in engine.there("network")


def test_what_is_wrong_is_told(site: LinuxDeployment, engine: Engine, tree: Path, home: Path) -> None:
    there, where = {"WODRTARGET": engine.address}, f"appliance {engine.address} (WKSHP-Seat): "

    def failing(name: str = "create-WKSHP-Seat", **more: str) -> tuple[int, str]:
        status, said = script(site, tree, name, **{**there, **more})
        return status, said.splitlines()[-1].removeprefix(where)

    status, said = failing(WODRTARGET="")
    assert (status, "WODRTARGET is empty: WKSHP-Seat has no appliance" in said) == (64, True), said
    status, said = failing(stdid=str(FIRST + 5))
    assert status == 64
    assert said.startswith(f"there is no seat for student {FIRST + 5}: ports are kept for students {FIRST} to {THIRD}")
    away = (tree / "setup-WKSHP-Seat.sh").read_text().replace("docker.io/library/postgres:17", "nowhere.example/none:1")
    (tree / "setup-WKSHP-Away.sh").write_text(away)
    words = "docker pull failed: Error: manifest for nowhere.example/none:1 not found"
    assert failing("setup-WKSHP-Away") == (71, words)
    engine.lab.shell(engine.address, "touch /run/engine/dumb")
    quick = (tree / "create-WKSHP-Seat.sh").read_text().replace("seconds 10", "seconds 1")
    (tree / "create-WKSHP-Quick.sh").write_text(quick)
    words = f"the container seat-{FIRST} does not answer after 1 s; look at: docker logs seat-{FIRST}"
    assert failing("create-WKSHP-Quick") == (71, words)
    engine.lab.shell(engine.address, "rm /run/engine/dumb")
    assert engine.there("container") == [f"seat-{FIRST}", f"seat-{FIRST}-db"], "left to be looked at"
    assert failing()[0] == 0, "the next CREATE replaces it"
    assert engine.lab.run(engine.address, ["bash", "-c", "ls -d /run/wod-seat-*"], check=False) == ""
    status, said = script(site, tree, "cleanup-WKSHP-Seat", **there)
    assert (status, engine.there("container")) == (66, []), "no notebooks were put there, and the seat is gone"
    status, said = script(site, tree, "cleanup-WKSHP-Seat", **there, WODATTEMPT="2")
    assert status == 0, "a CLEANUP that was interrupted has had what it wanted"


def test_podman_has_a_network_a_seat(site: LinuxDeployment, engine: Engine, tree: Path, home: Path) -> None:
    engine.install("podman")
    engine.lab.shell(engine.address, "mkdir -p /run/engine/image/wod-podman101:1")
    asked = len(engine.calls())
    with (site.folder / "private/ansible/group_vars/production.yml").open("a") as file:
        file.write(f"IP-WKSHP-Podman101: {engine.address}\n")
    site.workshop("WKSHP-Podman101", monoappliance=True, range=[FIRST, THIRD])
    more = {"WODRTARGET": engine.address, "w": "WKSHP-Podman101"}
    status, said = script(site, tree, "create-WKSHP-Podman101", **more)
    assert status == 0, said
    calls = [call["argv"] for call in engine.calls()[asked:]]
    assert ["network", "create", "--opt", "isolate=true", f"podman101-{FIRST}"] in calls
    assert ["exec", f"podman101-{FIRST}", "podman", "info"] in calls
    key = (home / ".ssh/id_ed25519.pub").read_text().split()[1]
    (ran,) = [call for call in engine.calls()[asked:] if call["argv"][0] == "run"]
    assert ran["environment"] == [f"STUDENT_KEY=ssh-ed25519 {key}"]
    status, said = script(site, tree, "reset-WKSHP-Podman101", **more)
    assert (status, engine.there("container"), engine.there("volume")) == (0, [], []), said
    assert f"podman101-{FIRST}" not in engine.there("network")


def test_a_page_behind_the_password_and_no_container(
    site: LinuxDeployment, engine: Engine, tree: Path, home: Path
) -> None:
    asked, more = len(engine.calls()), {"WODRTARGET": engine.address, "w": "WKSHP-Web"}
    file, page = "/etc/wod/web.passwords", f"/srv/pages/student{FIRST}/index.html"
    for _ in ("first", "again"):
        status, said = script(site, tree, "create-WKSHP-Web", **more)
        assert status == 0, said
    (line,) = engine.lab.run(engine.address, ["cat", file]).splitlines()
    asks = ["openssl", "passwd", "-6", "-salt", line.split("$")[2], "-stdin"]
    assert line == f"student{FIRST}:" + engine.lab.run(engine.address, asks, "Werty1234\n").strip()
    assert engine.lab.run(engine.address, ["stat", "--format", "%a %U %G", file]) == "640 root www-data\n"
    assert f"student{FIRST}" in engine.lab.run(engine.address, ["cat", page])
    status, said = script(site, tree, "cleanup-WKSHP-Web", **more)
    assert status == 0, said
    assert engine.lab.run(engine.address, ["cat", file]) == engine.lab.run(engine.address, ["ls", "/srv/pages"]) == ""
    assert len(engine.calls()) == asked
