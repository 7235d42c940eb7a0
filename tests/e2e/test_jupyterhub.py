"""With a real JupyterHub: mailed passwords log in through PAM, servers run as the students, CLEANUP ends both."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.contract.hub_contract import HubContract
from tests.e2e.harness import NOTEBOOK, step_of
from tests.e2e.linuxsite import LinuxDeployment, install_helper, linux_deployment
from tests.e2e.watching import watching
from tests.hubsite import HubSite, StudentAtWork, hub_site
from tests.linux_students import BASE, FIRST, LAST, running
from tests.support import wait_until
from wodmail import paths
from wodmail.errors import Failed
from wodmail.hub import Hub, for_settings

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("jupyterhub")]

READER = "reader-7" * 4


def installed(pattern: str) -> str:
    """The lines of wod-install's configuration of the hub that begin so."""
    text = (paths.share("sys") / "jupyterhub_config.py.j2").read_text(encoding="utf-8")
    return "\n".join(re.findall(rf"^{pattern}.*$", text, re.MULTILINE))


# What a restart leaves running; a service that may read only; a hook by which an operator refuses servers, of students
# that a file names.
MORE = f"""
{installed("c[.]JupyterHub[.]cleanup_")}
c.ConfigurableHTTPProxy.pid_file = "proxy.pid"
c.JupyterHub.services.append({{"name": "reader", "api_token": "{READER}"}})
c.JupyterHub.load_roles.append({{"name": "reader", "scopes": ["read:users"], "services": ["reader"]}})

import os
from tornado import web

def hook(spawner):
    if os.path.exists("refuse-" + spawner.user.name):
        error = web.HTTPError(500, "refused by the hook")
        error.jupyterhub_message = "no room for " + spawner.user.name
        raise error

c.Spawner.pre_spawn_hook = hook
"""
NAME = f"student{FIRST}"
READ_ME = "WKSHP-Work/0-ReadMeFirst.ipynb"


@pytest.fixture(scope="module")
def jupyterhub() -> Iterator[HubSite]:
    """One hub for this file."""
    with hub_site(MORE) as made:
        yield made


@pytest.fixture(scope="module")
def site(jupyterhub: HubSite) -> Iterator[LinuxDeployment]:
    """One deployment that uses it, its server running."""
    with linux_deployment(**jupyterhub.keys, WODREPLYCREDENTIALS=True, WODHUBPATIENCE=0.5) as made:
        folder = made.workshop("WKSHP-Work")
        cells: list[dict[str, Any]] = [
            {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["You are student {{ STDID }}"]},
            *(
                {"cell_type": "code", "id": f"b{number}", "metadata": {}, "outputs": [], "source": [text]}
                | {"execution_count": None}
                for number, text in enumerate(["import os; print(os.getuid())", "6 * 7", "'never executed'"])
            ),
        ]
        (folder / "0-ReadMeFirst.ipynb").write_text(json.dumps({**NOTEBOOK, "cells": cells}), encoding="utf-8")
        made.workshop("WKSHP-Held")
        made.script("create-WKSHP-Held.sh", f"touch {made.state}/began\nwhile [ ! -e {made.folder}/go ]; do :; done\n")
        installed = install_helper(made)
        assert installed.returncode == 0, installed.stderr
        made.start()
        yield made


@pytest.fixture(autouse=True)
def nothing_leaks(site: LinuxDeployment, jupyterhub: HubSite) -> Iterator[None]:
    """All tests of this file are watched, those with a hub that is down among them."""
    with watching(site, {"WODBETOKEN": jupyterhub.token}):
        yield


def servers(student: int) -> list[psutil.Process]:
    """The student's servers: what runs as the student and was started by a hub."""
    made = []
    for found in running(BASE + student):
        with contextlib.suppress(psutil.NoSuchProcess):  # another one may end meanwhile
            if "jupyterhub-singleuser" in " ".join(found.cmdline()):
                made.append(found)
    return made


def reply(site: LinuxDeployment, row: dict[str, Any]) -> str:
    """The text of the result mail."""
    mails = wait_until(lambda: site.replies(row["id"]), what="the reply")
    part = next(part for part in mails[0].walk() if part.get_content_type() == "text/plain")
    text = part.get_payload(decode=True)
    assert isinstance(text, bytes)
    return text.decode()


def mailed_password(site: LinuxDeployment, row: dict[str, Any], student: int) -> str:
    """The password in the result mail."""
    found = re.search(rf"password of student{student}: (\S+)", reply(site, row))
    assert found, reply(site, row)
    return found[1]


class TestRealHub(HubContract):
    student = LAST

    @pytest.fixture
    def hub(self, site: LinuxDeployment) -> Iterator[Hub]:
        made = for_settings(site.settings)
        yield made
        made.close()


def test_from_create_to_cleanup(site: LinuxDeployment, jupyterhub: HubSite) -> None:
    row = site.one(f"CREATE {FIRST} 0", "WKSHP-Work")
    assert row["state"] == "done", row
    assert step_of(row, "hub-start")["note"] == "started"
    password = mailed_password(site, row, FIRST)

    assert servers(FIRST), "the server runs with the student's uid"
    student = jupyterhub.login(NAME, password)
    assert student is not None and student.enter()
    assert student.notebook(READ_ME)["cells"][0]["source"] == f"You are student {FIRST}"
    assert student.execute(READ_ME, 2) == 2
    first, second, third = student.notebook(READ_ME)["cells"][1:]
    assert first["outputs"][0]["text"] == f"{BASE + FIRST}\n"
    assert (second["execution_count"], second["outputs"][0]["data"]["text/plain"]) == (2, "42")
    assert third["execution_count"] is None
    restart_under(jupyterhub, student)

    row = site.one(f"CLEANUP {FIRST} 0", "WKSHP-Work")
    assert row["state"] == "done", row
    assert step_of(row, "ratio")["note"] == "66 %"
    assert step_of(row, "hub-stop")["note"] == "stopped, logins ended"
    assert jupyterhub.server(NAME) is None
    assert running(BASE + FIRST) == []
    assert jupyterhub.login(NAME, password) is None
    assert not student.enter(), "nor is a browser let in that was logged in before"
    student.close()


def restart_under(jupyterhub: HubSite, student: StudentAtWork) -> None:
    """A restart of the hub, configured as wod-install does it, while a student works."""
    before = servers(FIRST)
    jupyterhub.stop()
    assert servers(FIRST) == before, "the server goes on without the hub"
    assert student.notebook(READ_ME)["cells"], "and the student's browser reaches it"
    jupyterhub.start()
    wait_until(lambda: (jupyterhub.server(NAME) or {}).get("ready"), what="the new hub to know it")
    assert servers(FIRST) == before
    assert student.execute(READ_ME, 2) == 2


def test_systemd_ends_the_hub_alone() -> None:
    unit = (paths.share("sys") / "jupyterhub.service.j2").read_text(encoding="utf-8")
    assert re.findall(r"^KillMode=(.*)$", unit, re.MULTILINE) == ["process"]
    assert "RuntimeDirectoryPreserve=yes" in unit
    assert '"/run/jupyterhub/proxy.pid"' in installed(r"c\.ConfigurableHTTPProxy\.pid_file")


def test_a_server_that_does_not_start(site: LinuxDeployment, jupyterhub: HubSite) -> None:
    (jupyterhub.folder / f"refuse-{NAME}").touch()
    row = site.one(f"CREATE {FIRST} 0", "WKSHP-Work")
    (jupyterhub.folder / f"refuse-{NAME}").unlink()
    assert row["state"] == "failed"
    told = step_of(row, "hub-start")["error"]
    assert re.search(rf"server of {NAME} did not start\. JupyterHub says: .*no room for {NAME}", told), told
    assert site.one(f"CLEANUP {FIRST} 0", "WKSHP-Work")["state"] == "done"


@pytest.mark.parametrize("token", [READER, "0" * 32])
def test_a_token_that_is_not_enough(site: LinuxDeployment, token: str) -> None:
    made = for_settings(site.settings.model_copy(update={"WODBETOKEN": token}))
    with pytest.raises(Failed, match=r"403 .*check WODBETOKEN and the scopes") as caught:
        made.start(FIRST)
    assert token not in f"{caught.value.sender}{caught.value.operator}"
    made.close()


def test_the_hub_is_away(site: LinuxDeployment, jupyterhub: HubSite) -> None:
    before = len(site.requests())
    site.mail(f"CREATE {FIRST} 0", "WKSHP-Held")
    wait_until((site.state / "began").exists, what="the script")
    jupyterhub.close()
    (site.folder / "go").touch()
    late = site.ended(before + 1)[-1]
    assert_away(site, late, "hub-start")
    assert site.seat(FIRST).active, "the seat was taken before the server could not be started"

    row = site.one(f"CREATE {FIRST + 1} 0", "WKSHP-Work")
    assert_away(site, row, "hub-stop")
    assert (step_of(row, "erase")["state"], step_of(row, "registry-active")["state"]) == ("waiting", "waiting")
    assert not site.seat(FIRST + 1).active

    row = site.one(f"CLEANUP {FIRST} 0", "WKSHP-Held")
    assert_away(site, row, "hub-stop")
    assert {step["name"] for step in row["jobs"][0]["steps"] if step["state"] == "failed"} == {"hub-stop"}
    assert not site.seat(FIRST).assigned, "a hub that is away keeps no seat"
    assert not list(site.home(FIRST).glob("WKSHP-*"))


def assert_away(site: LinuxDeployment, row: dict[str, Any], step: str) -> None:
    """The request failed at that step, and its sender is told why and what to do."""
    assert row["state"] == "failed"
    told = step_of(row, step)
    assert told["state"] == "failed", row
    assert re.search(r"JupyterHub is away .*Connection refused.*: check WODBEAPIURL", told["error"]), told
    assert "check WODBEAPIURL" in reply(site, row)


def test_the_token_is_nowhere(site: LinuxDeployment, jupyterhub: HubSite) -> None:
    """Looked for last: in the server's log, the trace, the mails and the state folder."""
    kept = [file.read_bytes() for file in site.state.rglob("*") if file.is_file()]
    mails = [mail.as_bytes() for mail in site.outbox()]
    assert kept and mails
    assert all(jupyterhub.token.encode() not in text for text in [*kept, *mails])
    assert jupyterhub.token not in site.log() + site.trace()
