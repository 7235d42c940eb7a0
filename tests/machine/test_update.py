"""An update by the words of docs/operations.md: a mail that waits, a site's own lines, another JupyterHub."""

from __future__ import annotations

import json
import re
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.hubsite import StudentAtWork, login
from tests.integration.test_update_recipe import UPDATE
from tests.machine.installed import Installed
from tests.machine.machine import Machine
from tests.machine.test_install import NOTEBOOK, WORKSHOP, word
from tests.support import wait_until

pytestmark = pytest.mark.machine

CHECKOUT = "/opt/wod/wod-backend"
INSTALL = f"{CHECKOUT}/scripts/wod-install.sh"
PRIVATE = "/opt/wod/wod-private/ansible/group_vars/install.yml"
HUB = "/var/lib/jupyterhub"
NEWER = "# a newer one"
LINES = """\
---
wod_hub_packages: ["jupyterhub=={version}", "jupyter_server>=2.14,<3", "notebook>=7,<8", "ipykernel>=6.29,<8"]
wod_extra_packages: [tree]
wod_extra_pip_libraries: [tabulate]
wod_extra_pip_kernels: [{{name: calysto_scheme, package: calysto_scheme, module: calysto_scheme}}]
"""
EARLIER, LATER = "5.4.*", "6.*"


@pytest.fixture(scope="module")
def backend(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """An installed backend whose checkout has a repository of its own above it; the tests follow each other on it."""
    with Machine(tmp_path_factory.mktemp("updated"), below=[installed.folder]) as machine:
        machine.shell(
            f"git clone --quiet --bare {CHECKOUT} /srv/upstream.git && git clone -q /srv/upstream.git /srv/work"
        )
        machine.shell(f"git -C {CHECKOUT} remote set-url origin /srv/upstream.git")
        yield machine


def commit(machine: Machine) -> None:
    """A newer version, upstream."""
    machine.shell(
        f"cd /srv/work && echo '{NEWER}' >>wodmail/paths.py && git config user.name tests && git config user.email t@t"
        " && git commit --quiet --all --message newer && git push --quiet"
    )


def versions(machine: Machine) -> dict[str, str]:
    """What is installed for notebooks."""
    rows = json.loads(machine.run(["/opt/jupyterhub/bin/pip", "list", "--format", "json"]).out)
    return {row["name"]: row["version"] for row in rows}


def last_request(machine: Machine) -> dict[str, Any]:
    """The newest request; empty until it has ended."""
    said = json.loads(machine.run(["wodmail", "requests", "--limit", "1", "--json"]).out)["requests"]
    row: dict[str, Any] = said[0] if said else {}
    return row if row.get("finished") else {}


def test_an_update_with_a_mail_that_waits(backend: Machine) -> None:
    """With an earlier JupyterHub, by the words of docs/jupyterhub.md, so that there is a later one to go to."""
    commit(backend)
    backend.write(PRIVATE, LINES.format(version=EARLIER))
    backend.shell("wodmail drain --wait")
    backend.shell(f"wod-test-action CREATE {WORKSHOP} 1", user="wodadmin")
    backend.shell(
        f"systemctl kill jupyterhub; systemctl stop jupyterhub; mv {HUB}/jupyterhub.sqlite {HUB}/later.sqlite"
    )
    backend.shell(UPDATE, timeout=900)
    row = wait_until(lambda: last_request(backend), seconds=120, what="the kept CREATE", every=0.5)
    assert (row["subject"], row["state"]) == ("CREATE 1 0", "done")
    python = "import wodmail.paths, pathlib; print(pathlib.Path(wodmail.paths.__file__).read_text())"
    assert NEWER in backend.run(["/opt/wodmail/bin/python", "-I", "-c", python]).out
    assert backend.run(["git", "-C", CHECKOUT, "status", "--short", "--branch"]).out.startswith("## ")
    assert NEWER in backend.read(f"{CHECKOUT}/wodmail/paths.py")


def test_the_copy_before_it_is_whole(backend: Machine, tmp_path: Path) -> None:
    """Every database in it; root's alone."""
    (name,) = backend.shell("ls /root/before-update-*.tar").split()
    assert backend.run(["stat", "-c", "%a", name]).out == "600\n"
    with tarfile.open(backend.root / name.lstrip("/")) as packed:
        packed.extractall(tmp_path, filter="tar")
    databases = sorted((tmp_path / "wodmail").glob("*.sqlite"))
    assert [file.name for file in databases] == ["registry.sqlite", "wodmail.sqlite"]
    for file in databases:
        with closing(sqlite3.connect(file)) as database:
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_the_lines_of_the_site_are_in_place(backend: Machine) -> None:
    """A package, a library, a kernel that runs, the JupyterHub that was named."""
    assert backend.run(["tree", "--version"]).status == 0
    found = versions(backend)
    assert found["jupyterhub"].startswith("5.4.") and "tabulate" in found
    kernels = json.loads(backend.run(["/opt/jupyterhub/bin/jupyter", "kernelspec", "list", "--json"]).out)
    assert "calysto_scheme" in kernels["kernelspecs"]


@pytest.fixture(scope="module")
def student(backend: Machine) -> Iterator[StudentAtWork]:
    """The student of the kept CREATE, at work."""
    password = word(backend.shell("tail -n 1 /home/wodadmin/.mail/from"), 1)
    found = login(f"http://{backend.address}:8000", "student1", password)
    assert found is not None
    assert found.enter()
    yield found
    found.close()


def test_a_later_hub_while_a_student_is_at_work(backend: Machine, student: StudentAtWork) -> None:
    """The hub is another, with the users of before; the student's server is the same, and is still reached."""
    server = backend.shell("pgrep -u student1 -f jupyterhub-singleuser")
    student.execute(NOTEBOOK)
    backend.write(PRIVATE, LINES.format(version=LATER))
    backend.shell(f"wodmail drain --wait && {INSTALL} && wodmail resume", timeout=900)
    assert versions(backend)["jupyterhub"].startswith("6.")
    assert re.search(r"jupyterhub\.sqlite\.\d{4}-", backend.shell(f"ls {HUB}"))
    assert backend.shell("pgrep -u student1 -f jupyterhub-singleuser") == server
    student.execute(NOTEBOOK)
    printed = backend.run(
        ["wod-test-action", "--wait", "--timeout", "120", "CLEANUP", WORKSHOP, "1"], user="wodadmin", timeout=180
    ).out
    assert "request" in printed
    assert backend.run(["pgrep", "-u", "student1"], check=False).out == "", "the later hub could stop it"


def test_again_changes_nothing(backend: Machine) -> None:
    done = json.loads(backend.run([INSTALL, "--json"], timeout=600).out)
    assert (done["ok"], done["changed"]) == (True, 0), done


def test_a_hub_of_the_site_s_own_is_not_replaced(backend: Machine) -> None:
    """Refused before the configuration is written, which an option would change."""
    unit, file = "/etc/systemd/system/jupyterhub.service", "/etc/wod.yml"
    own = backend.read(unit).replace("Made by wod-install", "made by hand")
    backend.write(unit, own)
    before = backend.read(file)
    refused = backend.run(["wod-install", "-p", "10027"], check=False)
    assert refused.status == 78 and f"write wod_hub_here: false into {file}" in refused.err
    assert (backend.read(file), backend.read(unit)) == (before, own)
