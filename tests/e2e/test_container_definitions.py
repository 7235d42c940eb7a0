"""The ten definitions that come with wodmail: setup, create, cleanup and reset, and what docker or podman is asked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.appliances import Appliances
from tests.e2e import appliancesite
from tests.e2e.appliancesite import SECOND, THIRD
from tests.e2e.linuxsite import LinuxDeployment
from tests.e2e.seatsite import Engine, delivered, fresh_home, script, seat_site
from tests.linux_students import BASE, FIRST
from wodmail import paths, vault
from wodmail.containers import Container, Definition, read

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("container-definitions")]
FILES = sorted((paths.share("conf") / "containers").glob("*.yml"))
PLACE = 1  # the second student's, in a range that begins with the first
OPTIONS = {
    "--detach": 0,
    "--name": 1,
    "--restart": 1,
    "--network": 1,
    "--label": 1,
    "--log-driver": 1,
    "--log-opt": 1,
    "--volume": 1,
    "--publish": 1,
    "--env-file": 1,
}


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend without a server, and an appliance for all ten."""
    with seat_site() as (site, lab):
        for file in FILES:
            site.workshop(file.stem, monoappliance=True, reset=True, range=[FIRST, THIRD])
        with (site.folder / "private/ansible/group_vars/production.yml").open("a") as variables:
            variables.writelines(f"IP-{file.stem}: {lab.base}\n" for file in FILES)
        yield site, lab


site = pytest.fixture(appliancesite.backend)


@pytest.fixture(scope="module")
def tree(both: tuple[LinuxDeployment, Appliances]) -> Path:
    """The scripts as they are delivered; pages are where a host of namespaces has a disk to write to."""
    fresh_home(both[0], SECOND)
    tree = delivered(both[0])
    for made in tree.glob("*-WKSHP-Ansible101.sh"):
        made.write_text(made.read_text().replace("pages /var/www/", "pages /srv/www/"))
    return tree


def parsed(argv: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The options of `docker run`, each with its values, and what stands after them: image and arguments."""
    found: dict[str, list[str]] = {}
    words = argv[1:]
    while words and words[0].startswith("-"):
        name, equals, value = words.pop(0).partition("=")
        if not equals:  # only what is known, so that nothing else is asked for
            value = words.pop(0) if OPTIONS[name] else ""
        found.setdefault(name, []).append(value)
    return found, words


def wanted(file: Path, definition: Definition, name: str, container: Container, kind: str) -> dict[str, list[str]]:
    """All options that a container of the second student may have, but for --env-file."""
    box = f"{file.stem.removeprefix('WKSHP-').lower()}-{SECOND}"
    shared = kind == "docker" and not definition.beside
    quiet = [] if container.new_privileges else ["no-new-privileges"]
    logs = ("local", ["max-size=10m", "max-file=3"]) if kind == "docker" else ("k8s-file", ["max-size=10mb"])
    ports = [f"{port.first + PLACE}:{port.inside}" for port in definition.ports.values()]
    options = {
        "--detach": [""],
        "--name": [f"{box}-{name}" if name else box],
        "--restart": ["always"],
        "--network": [f"wod-{file.stem.lower()}" if shared else box],
        "--label": [f"wod.workshop={file.stem}", f"wod.seat={box}"],
        "--log-driver": [logs[0]],
        "--log-opt": logs[1],
        "--volume": [f"{box}{'-' + name if name else ''}:{container.volume}"] if container.volume else [],
        "--publish": [] if name else ports,
        "--memory": [container.memory],
        "--cpus": [f"{container.cpus:g}"],
        "--pids-limit": [str(container.pids)],
        "--cap-drop": ["ALL"],
        "--cap-add": container.capabilities,
        "--security-opt": [*quiet, *container.security],
        "--device": container.devices,
        "--user": [container.user] if container.user else [],
        "--network-alias": [name] if name else [],
    }
    return {option: values for option, values in options.items() if values}


def filled(text: str, values: Mapping[str, str]) -> str:
    """An environment's text as a regular expression, with a group for what only the appliance is told."""
    parts = re.split(r"\$\{(\w+)\}", text)
    return "".join(values.get(part, "[A-Za-z0-9]{40}") if at % 2 else re.escape(part) for at, part in enumerate(parts))


def compare(site: LinuxDeployment, engine: Engine, file: Path, definition: Definition, kind: str) -> None:
    """What was run is the definition, no more and no less; ports and tokens are in the pass file, no secret is."""
    told = yaml.safe_load(vault.read(vault.pass_file(site.settings, file.stem, SECOND), site.settings))
    ports = {name: port.first + PLACE for name, port in definition.ports.items()}
    assert {name: int(told[name]) for name in ports} == ports
    assert set(told) == {*ports, *definition.tokens}
    assert all(re.fullmatch(r"[A-Za-z0-9]{40}", told[name]) for name in definition.tokens)
    key = (site.home(SECOND) / ".ssh/id_ed25519.pub").read_text().split()[:2]
    known = {"STDID": str(SECOND), "ADDRESS": engine.address, "PUBLICKEY": " ".join(key)}
    values = {name: re.escape(str(value)) for name, value in {**known, **told}.items()}
    runs = engine.calls("run")
    assert len(runs) == len(definition.containers)
    for call, (name, container) in zip(runs, definition.containers.items(), strict=True):
        options, words = parsed(call["argv"])
        del options["--env-file"]
        assert options == wanted(file, definition, name, container, kind)
        assert words == [container.image, *container.command]
        assert [line.partition("=")[0] for line in call["environment"]] == list(container.environment)
        for line in call["environment"]:
            key_, _, value = line.partition("=")
            assert re.fullmatch(filled(container.environment[key_], values), value), key_
    new_each_time(definition, runs, told)


def new_each_time(definition: Definition, runs: list[dict[str, Any]], told: Mapping[str, str]) -> None:
    """Secrets are the same in all containers of a seat, one is not another, and none is on a command line."""
    found: dict[str, set[str]] = {}
    for call, container in zip(runs, definition.containers.values(), strict=True):
        given = dict(line.split("=", 1) for line in call["environment"])
        for key, text in container.environment.items():
            for name in definition.secrets:
                if text == f"${{{name}}}":
                    found.setdefault(name, set()).add(given[key])
    assert set(found) == set(definition.secrets), "each secret has a variable of its own"
    secret = [word for words in found.values() for word in words] + [told[name] for name in definition.tokens]
    assert len(set(secret)) == len(secret) == len(definition.secrets) + len(definition.tokens)
    assert not any(word in json.dumps(call["argv"]) for call in runs for word in secret)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_from_setup_to_reset(
    site: LinuxDeployment, both: tuple[LinuxDeployment, Appliances], tree: Path, file: Path
) -> None:
    definition, _ = read(file)
    assert definition is not None
    kind = "podman" if definition.engine == "podman" else "docker"
    engine = Engine(both[1], both[1].base)
    engine.install(kind)
    home = {"stdid": str(SECOND), "stddir": str(site.home(SECOND))}
    more = {"WODRTARGET": engine.address, "w": file.stem, **home}

    def does(name: str) -> None:
        status, said = script(site, tree, f"{name}-{file.stem}", **more)
        assert status == 0, said

    does("setup")
    images = {container.image.replace("/", "+") for container in definition.containers.values()}
    assert engine.there("image") == sorted(images)
    does("create")
    if definition.containers:
        compare(site, engine, file, definition, kind)
    else:
        assert engine.calls() == []
    if definition.web is not None:
        entry = engine.lab.run(engine.address, ["cat", str(definition.web.passwords)])
        assert re.fullmatch(rf"student{SECOND}:\$6\$\S+\n", entry), entry
        page = f"/srv/www/wod-ansible101/student{SECOND}/index.html"
        assert (engine.lab.run(engine.address, ["cat", page], check=False) != "") == bool(definition.web.pages)
    if definition.notebooks is not None:
        work = site.home(SECOND) / file.stem
        work.mkdir()
        (work / "0-ReadMeFirst.ipynb").write_text(appliancesite.notebook(1))
        for path in (work, *work.iterdir()):
            os.chown(path, BASE + SECOND, BASE + SECOND)
        does("post-copy")
    networks = [name for name in engine.there("network") if name.startswith("wod-")]  # of the workshop, not of a seat
    does("cleanup")
    left = [engine.there(kind) for kind in ("container", "volume", "network")]
    assert left == [[], [], networks]
    does("reset")
    assert [engine.there(kind) for kind in ("container", "volume", "network")] == left
    if definition.web is not None:
        assert engine.lab.run(engine.address, ["cat", str(definition.web.passwords)]) == ""
        assert engine.lab.run(engine.address, ["ls", "/srv/www/wod-ansible101"], check=False) == ""
