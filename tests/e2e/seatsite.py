"""A stand-in for docker and podman on a test's appliance: records what it is asked, and keeps what it would have made.

Everything is below /run/engine: `log` has a line of JSON for each call (arguments, the env file's text and mode), and
container/, volume/, network/, image/ have a folder for each thing that is there. A container's folder is its root; one
with a published port answers HTTP there until it is removed. With a file `down` there every call but --version fails as
without a daemon; with a pipe `gate` a pull takes until that is opened.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests import asuser
from tests.appliances import Appliances
from tests.e2e.appliancesite import THIRD, appliance_site
from tests.e2e.linuxsite import LinuxDeployment
from tests.linux_students import FIRST, SERVICE
from wodmail import configtext, containerscripts, paths, variables
from wodmail.deliver import Site, deliver

FIRST_PORT = 18000
DEFINITION = """---
seats: 3
ports:
  HTTPPORT: {inside: 8888, first: 20000}
tokens: [SEATTOK]
secrets: [DATABASEPWD]
ready: {path: /api, seconds: 10}
notebooks: /home/jovyan
container:
  image: example.org/seat:1
  environment:
    JUPYTER_TOKEN: "${SEATTOK}"
    DATABASE_PASSWORD: "${DATABASEPWD}"
    WHO: "student${STDID} at ${ADDRESS}:${HTTPPORT}"
  volume: /home/jovyan/data
  memory: 1g
beside:
  db:
    image: docker.io/library/postgres:17
    environment:
      POSTGRES_PASSWORD: "${DATABASEPWD}"
"""
WEB = """---
web:
  passwords: /etc/wod/web.passwords
  groups: [nobody-has-this, www-data]
  pages: /srv/pages
"""
CELL = {"cell_type": "markdown", "id": "b", "metadata": {}, "source": ["{{ SEATTOK }} at {{ HTTPPORT }}"]}
_ENGINE = """#!/usr/bin/python3
import http.server, json, os, pathlib, shutil, signal, subprocess, sys

STATE = pathlib.Path("/run/engine")
OWN = {"--all", "--detach", "--interactive", "--force", "--volumes", "--quiet", "--pull"}


def refuse(words):
    print(f"Error: {words}", file=sys.stderr)
    raise SystemExit(1)


def serve(port):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    http.server.HTTPServer(("0.0.0.0", port), Answer).serve_forever()


def split(words):
    '''Options with their values, and the rest from the first word on that is none.'''
    options, words = {}, list(words)
    while words and words[0].startswith("--"):
        name, _, value = words.pop(0).partition("=")
        if not value and name not in OWN:
            value = words.pop(0)
        options.setdefault(name, []).append(value)
    return options, words


def listed(kind, options):
    wanted = options.get("--filter", ["name="])[0].removeprefix("name=")
    folder = STATE / kind
    print(*sorted(each for each in (os.listdir(folder) if folder.exists() else []) if wanted in each), sep="\\n")


def run(options, words):
    name = options["--name"][0]
    if not (STATE / "image" / words[0].replace("/", "+")).exists():
        refuse(f"no image {words[0]}")
    root = STATE / "container" / name
    if root.exists():
        refuse(f"the name {name} is in use")
    if not (STATE / "network" / options["--network"][0]).exists():
        refuse("no such network")
    root.mkdir(parents=True)
    for volume in options.get("--volume", []):
        (STATE / "volume" / volume.partition(":")[0]).mkdir(parents=True)
    (root / "home/jovyan").mkdir(parents=True)
    ports = [each.partition(":")[0] for each in options.get("--publish", [])]
    if ports and not (STATE / "dumb").exists():
        server = subprocess.Popen([sys.executable, "-I", __file__, "serve", ports[0]], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        (root / "pid").write_text(str(server.pid))


def main(words):
    if words[0] == "serve":
        serve(int(words[1]))
    if words == ["--version"]:
        print(f"{pathlib.Path(sys.argv[0]).name} version 0")
        return
    record = {"argv": words}
    if "--env-file" in words:
        file = pathlib.Path(words[words.index("--env-file") + 1])
        record |= {"environment": file.read_text().splitlines(), "mode": oct(file.stat().st_mode & 0o777)}
    verb = words[0]
    if verb == "build":
        record["file"] = sys.stdin.read()
    STATE.mkdir(exist_ok=True)
    with (STATE / "log").open("a") as log:
        log.write(json.dumps(record) + "\\n")
    if (STATE / "down").exists():
        refuse("Cannot connect to the daemon. Is it running?")
    if verb == "ps":
        listed("container", split(words[1:])[0])
        return
    if verb in ("volume", "network") and words[1] == "ls":
        listed(verb, split(words[2:])[0])
        return
    if verb in ("container", "volume", "network", "image"):
        options, rest = split(words[2:])
        thing = STATE / verb / rest[0].replace("/", "+")
        if words[1] == "create":
            thing.mkdir(parents=True)
        elif not thing.exists():
            refuse(f"no such {verb}: {rest[0]}")
        elif words[1] == "rm":
            shutil.rmtree(thing)
        return
    options, rest = split(words[1:])
    if verb == "pull" and rest[0].startswith("nowhere"):
        refuse(f"manifest for {rest[0]} not found")
    if verb == "pull" and (STATE / "gate").exists():
        (STATE / "gate").read_text()  # a pipe: until somebody opens it
    if verb in ("pull", "build"):
        (STATE / "image" / (options["--tag"][0] if verb == "build" else rest[0]).replace("/", "+")).mkdir(
            parents=True, exist_ok=True)
    elif verb == "run":
        run(options, rest)
    elif verb == "cp":
        name, _, folder = rest[0].partition(":")
        path = STATE / "container" / name / folder.lstrip("/")
        if not path.exists():
            refuse("no such path")
        os.execvp("tar", ["tar", "-C", str(path.parent), "-c", path.name])
    else:
        root = STATE / "container" / rest[0]
        if not root.exists():
            refuse(f"no such container: {rest[0]}")
        if verb == "rm":
            if (root / "pid").exists():
                os.kill(int((root / "pid").read_text()), signal.SIGKILL)
            shutil.rmtree(root)
        elif verb == "inspect":
            print("/home/jovyan")
        elif verb == "exec" and rest[1] == "tar":
            os.execvp("tar", ["tar", "-xf", "-", "-C", str(root / rest[-1].lstrip("/"))])


main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Engine:
    """The stand-in on one host.

    Args:
        lab: the hosts.
        address: the host.
    """

    lab: Appliances
    address: str

    def install(self, name: str = "docker") -> None:
        """Put it there under that name alone, with nothing made yet."""
        pids = "cat /run/engine/container/*/pid 2>/dev/null | xargs -r -n 1 kill -KILL"
        self.lab.shell(self.address, f"{pids}; rm -rf /run/engine /usr/local/bin/docker /usr/local/bin/podman")
        self.lab.write(self.address, f"/usr/local/bin/{name}", _ENGINE, "0755")

    def calls(self, verb: str = "") -> list[dict[str, Any]]:
        """What it was asked, all or those that begin with a verb."""
        text = self.lab.run(self.address, ["cat", "/run/engine/log"], check=False)
        return [call for call in map(json.loads, text.splitlines()) if verb in ("", call["argv"][0])]

    def there(self, kind: str) -> list[str]:
        """The containers, volumes, networks or images that there are."""
        return sorted(self.lab.run(self.address, ["ls", f"/run/engine/{kind}"], check=False).split())


@contextmanager
def seat_site() -> Iterator[tuple[LinuxDeployment, Appliances]]:
    """A backend with two definitions among its private files and nothing else for these workshops, without a server."""
    with appliance_site() as (site, lab):
        conf = site.folder / "private/conf/containers"
        conf.mkdir(parents=True)
        span = [FIRST, THIRD]
        for name, text in (("Seat", DEFINITION), ("Web", WEB)):
            (conf / f"WKSHP-{name}.yml").write_text(text)
            told = {"1-Seat.ipynb": json.dumps({"cells": [CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})}
            site.workshop(f"WKSHP-{name}", told if name == "Seat" else {}, monoappliance=True, reset=True, range=span)
        with (site.folder / "private/ansible/group_vars/production.yml").open("a") as file:
            file.write(f"IP-WKSHP-Seat: {lab.base}\nIP-WKSHP-Web: {lab.base}\nHTTPPORT-WKSHP-Seat: {FIRST_PORT}\n")
        yield site, lab


def delivered(site: LinuxDeployment) -> Path:
    """The scripts as they are delivered, those of the definitions among them."""
    settings = site.settings
    folder = site.folder / "delivered"
    shutil.copytree(paths.share("scripts"), folder)
    deliver([folder], Site(variables.for_group(settings)))
    for ws, definition in containerscripts.find(settings).definitions.items():
        for name, text in containerscripts.scripts_of(ws, definition, variables.for_group(settings)).items():
            (folder / name).write_text(text)
    return folder


def fresh_home(site: LinuxDeployment, student: int = FIRST) -> Path:
    """A student's home with a new key pair, as `erase` leaves it."""
    home = site.renew_home(student)
    run(site, [sys.executable, "-m", "wodmail", "query", "erase", str(student)])
    return home


def run(site: LinuxDeployment, argv: list[str], **more: str) -> tuple[int, str]:
    """Run something as the service user: status, output with errors."""
    values = {**configtext.shell_variables(site.settings), **more, **asuser.environment(SERVICE)}
    values |= {"WOD_CONFIG": str(site.file)}
    done = subprocess.run(
        [*asuser.prefix(SERVICE), *argv], env=values, cwd="/", capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@cache
def number(site: LinuxDeployment, w: str) -> str:
    """A workshop's number, as a job gives it to scripts; 0 for none."""
    said = run(site, [sys.executable, "-m", "wodmail", "query", "workshop-id", w])[1].strip() if w else "0"
    assert said.isdigit(), said
    return said


def script(site: LinuxDeployment, tree: Path, name: str, **more: str) -> tuple[int, str]:
    """Run a delivered script of a workshop by hand, as a job would for the first student."""
    values = {"WODSCRIPTDIR": str(tree), "WODAPPLIANCESCRIPTS": str(tree), "stdid": str(FIRST), "w": "WKSHP-Seat"}
    values |= {
        "wid": number(site, more.get("w", "WKSHP-Seat")),
        "userid": "0",
        "randompw": "Werty1234",
        "stddir": str(site.home(FIRST)),
    }
    return run(site, ["bash", str(tree / f"{name}.sh")], **{**values, **more})
