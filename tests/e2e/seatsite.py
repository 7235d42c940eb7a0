"""A stand-in for docker and podman on a test's appliance: records what it is asked, and keeps what it would have made.

Everything is below /run/engine: `log` has a line of JSON for each call (arguments, the env file's text and mode), and
container/, volume/, network/, image/ have a folder for each thing that is there. A container's folder is its root; one
with a published port answers HTTP there until it is removed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.appliances import Appliances

_ENGINE = """#!/usr/bin/python3
import http.server, json, os, pathlib, shutil, signal, subprocess, sys

STATE = pathlib.Path("/run/engine")
OWN = {"--detach", "--interactive", "--force", "--volumes", "--quiet", "--pull"}


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
