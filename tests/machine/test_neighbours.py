"""The neighbours' machines: from a fresh Debian, by `wod-install -t api-db` and `-t frontend`; checks that mend."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machine.installed import repository
from tests.machine.machine import Machine
from tests.support import wait_until

pytestmark = pytest.mark.machine

CHECKOUT = "/opt/wod/wod-backend"
# A stand-in for code that isn't ours: says what its environment has opened.
SERVER = """\
const http = require('http');
const names = ['PGUSER', 'PGDATABASE', 'NODE_ENV'];
http.createServer((_, answer) => answer.end(names.map(name => process.env[name]).join(' ') + ' ' + process.getuid()))
  .listen(process.env.PORT);
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree as a repository."""
    return repository(tmp_path_factory.mktemp("tree") / "wodmail")


@pytest.fixture(scope="module")
def neighbour(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that became the API-DB's; the tests follow each other on it."""
    with Machine(tmp_path_factory.mktemp("neighbour"), binds={tree: "/srv/wodmail"}) as machine:
        machine.shell("apt-get -qq update && apt-get -qq install --yes git >/dev/null")
        machine.shell(f"git clone --quiet /srv/wodmail {CHECKOUT}")
        installed = f"{CHECKOUT}/scripts/wod-install.sh -t api-db --without others"
        machine.shell(installed, timeout=900)
        yield machine


def play(machine: Machine, *arguments: str, status: int = 0) -> dict[str, Any]:
    """The report of a command with --json."""
    done = machine.run([*arguments, "--json"], check=False, timeout=600)
    assert done.status == status, done.out[-4000:] + done.err[-4000:]
    report: dict[str, Any] = json.loads(done.out)
    return report


def items(report: dict[str, Any]) -> dict[str, str]:
    """The items of a check and their verdicts."""
    return {item["id"]: item["status"] for item in report["items"]}


def secret(machine: Machine, name: str) -> str:
    """A secret of the API-DB's environment."""
    found = re.search(rf"^{name}=(\w+)$", machine.read("/etc/wod-api-db.env"), re.MULTILINE)
    assert found is not None
    return found.group(1)


def test_postgresql_answers_with_a_password_made_here(neighbour: Machine) -> None:
    """The account is no superuser's, the password is random and root's alone."""
    word = secret(neighbour, "PGPASSWORD")
    assert len(word) == 40
    assert word != secret(neighbour, "JWT_SECRET")
    ask = ["env", f"PGPASSWORD={word}", "psql", "-h", "127.0.0.1", "-U", "wodapidb", "-XAtc"]
    made = neighbour.run([*ask, "create table if not exists seen(); select current_user", "wodapidb"])
    assert made.out.endswith("wodapidb\n")
    assert neighbour.run([*ask, "create role more", "wodapidb"], check=False).status != 0
    assert neighbour.run(["stat", "-c", "%a %U %G", "/etc/wod-api-db.env"]).out == "600 root root\n"
    found = neighbour.run(["grep", "-rlF", "--", word, "/var/log", "/etc", "/opt/wod", "/tmp"], check=False).out
    assert found.split() == ["/etc/wod-api-db.env"]


def test_the_unit_waits_for_its_code(neighbour: Machine) -> None:
    """Enabled, not started; with its code there it runs as its own account, after a reboot too."""
    states = neighbour.run(["systemctl", "show", "wod-api-db", "-P", "UnitFileState", "-P", "ActiveState"]).out.split()
    assert sorted(states) == ["enabled", "inactive"]
    neighbour.shell("install -d /opt/wod-api-db/node_modules")
    neighbour.write("/opt/wod-api-db/package.json", '{"scripts": {"start": "node server.js"}}')
    neighbour.write("/opt/wod-api-db/server.js", SERVER)
    assert items(play(neighbour, "wod-check"))["service"] == "fixed"
    neighbour.reboot()
    uid = neighbour.run(["id", "-u", "wodapidb"]).out.strip()
    ask = ["curl", "--silent", "--noproxy", "*", "http://127.0.0.1:8021/"]
    said = wait_until(lambda: neighbour.run(ask, check=False).out, what="the stand-in's answer", every=0.2)
    assert said == f"wodapidb wodapidb production {uid}"


BREAKS = {
    # Kept as PostgreSQL 13 would keep it, the password made anew would not open the door either.
    "database": "runuser -u postgres -- psql -q -c \"alter system set password_encryption to 'md5'\""
    " -c 'select pg_reload_conf()' -c \"alter role wodapidb password 'another'\"",
    "service_environment": "chmod 0644 /etc/wod-api-db.env",
    "service_user": "usermod --shell /bin/bash wodapidb",
    "service": "systemctl disable --quiet --now wod-api-db",
    "firewall": "ufw delete allow 8021/tcp",
}


def test_what_is_broken_differs_is_fixed_and_ok(neighbour: Machine) -> None:
    """Each item of ours: ok, broken, an audit that changes nothing, mended, ok."""
    before = items(play(neighbour, "wod-check", "--check"))
    assert {before[name] for name in BREAKS} == {"ok"}
    word = secret(neighbour, "PGPASSWORD")
    for script in BREAKS.values():
        neighbour.shell(script)
    for _ in range(2):
        audited = items(play(neighbour, "wod-check", "--check", status=2))
        assert {name: audited[name] for name in BREAKS} == dict.fromkeys(BREAKS, "differs")
    mended = items(play(neighbour, "wod-check"))
    assert {name: mended[name] for name in BREAKS} == dict.fromkeys(BREAKS, "fixed")
    after = items(play(neighbour, "wod-check", "--check"))
    assert {after[name] for name in BREAKS} == {"ok"}
    assert secret(neighbour, "PGPASSWORD") == word


def test_an_installation_again_changes_nothing(neighbour: Machine) -> None:
    again = play(neighbour, f"{CHECKOUT}/scripts/wod-install.sh")
    assert (again["ok"], again["changed"]) == (True, 0), again


def test_a_frontend(neighbour: Machine) -> None:
    """Its own account, its unit on port 80 without root, Postfix for this machine alone; again changes nothing."""
    play(neighbour, f"{CHECKOUT}/scripts/wod-install.sh", "-t", "frontend")
    again = play(neighbour, f"{CHECKOUT}/scripts/wod-install.sh", "-t", "frontend")
    assert (again["ok"], again["changed"]) == (True, 0), again
    neighbour.shell("cp -a /opt/wod-api-db /opt/wod-frontend")
    assert items(play(neighbour, "wod-check"))["service"] == "fixed"
    ask = ["curl", "--silent", "--noproxy", "*", "http://127.0.0.1/"]
    said = wait_until(lambda: neighbour.run(ask, check=False).out, what="the stand-in's answer", every=0.2)
    assert said == f"  production {neighbour.run(['id', '-u', 'wodfrontend']).out.strip()}"
    listening = neighbour.shell("ss -Hltn 'sport = :25' | awk '{print $4}'").split()
    assert listening
    assert {address.rpartition(":")[0] for address in listening} <= {"127.0.0.1", "[::1]"}
    neighbour.shell("postconf -e inet_interfaces=all")
    assert items(play(neighbour, "wod-check", "--check", status=2))["sending"] == "differs"
    assert items(play(neighbour, "wod-check"))["sending"] == "fixed"
    assert items(play(neighbour, "wod-check", "--check"))["sending"] == "ok"
