"""A restart of the hub as wod-install configures it: a student's server, and the proxy to it, go on."""

from __future__ import annotations

import re

import httpx
import psutil
import pytest

from tests.hubsite import HubSite, hub_site
from tests.linux_students import FIRST, running, site
from tests.support import wait_until
from wodmail import paths

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux-users")]
NAME = f"student{FIRST}"


def installed(pattern: str) -> str:
    """The lines of the installed configuration that begin so."""
    text = (paths.share("sys") / "jupyterhub_config.py.j2").read_text(encoding="utf-8")
    return "\n".join(re.findall(rf"^{pattern}.*$", text, re.MULTILINE))


def status(hub: HubSite) -> int:
    """What the student's server answers through the proxy."""
    return httpx.get(f"{hub.url}/user/{NAME}/api", trust_env=False, timeout=10).status_code


def server(uid: int) -> list[psutil.Process]:
    """The student's server."""
    return [each for each in running(uid) if "jupyterhub-singleuser" in " ".join(each.cmdline())]


def test_a_students_server_outlives_the_hub() -> None:
    more = installed(r"c\.JupyterHub\.cleanup_") + '\nc.ConfigurableHTTPProxy.pid_file = "proxy.pid"\n'
    with site() as students, hub_site(more) as hub:
        assert hub.api("POST", f"/users/{NAME}").status_code == 201
        hub.api("POST", f"/users/{NAME}/server").raise_for_status()
        wait_until(lambda: (hub.server(NAME) or {}).get("ready"), what="the student's server")
        (before,) = server(students.uid(FIRST))
        hub.stop()
        assert server(students.uid(FIRST)) == [before], "it goes on without the hub"
        assert status(hub) == 200, "and the student reaches it"
        hub.start()
        assert (hub.server(NAME) or {})["ready"], "the new hub knows it"
        wait_until(lambda: status(hub) == 200, what="the way through the new proxy")
        assert server(students.uid(FIRST)) == [before]
        assert hub.api("DELETE", f"/users/{NAME}/server").status_code in (202, 204)
        wait_until(lambda: not server(students.uid(FIRST)), what="the end of the server")


def test_systemd_ends_the_hub_alone() -> None:
    unit = (paths.share("sys") / "jupyterhub.service.j2").read_text(encoding="utf-8")
    assert re.findall(r"^KillMode=(.*)$", unit, re.MULTILINE) == ["process"]
    assert "RuntimeDirectoryPreserve=yes" in unit
    assert '"/run/jupyterhub/proxy.pid"' in installed(r"c\.ConfigurableHTTPProxy\.pid_file")
