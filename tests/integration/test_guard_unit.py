"""The unit of wod-kill-processes: three capabilities, nothing to write to but the state, one that systemd accepts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jinja2
import pytest

from tests.parts import program
from wodmail.guard.rights import CAPABILITIES

TEMPLATE = Path(__file__).parents[2] / "sys" / "wod-kill-processes.service.j2"


def rendered(**variables: str) -> str:
    """The unit as Ansible would write it."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**variables)


def values(text: str, name: str) -> list[str]:
    """All values of one setting."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def test_it_has_no_more_rights_than_the_program_asks_for() -> None:
    text = rendered(WODUSER="wodadmin")
    for name in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert [set(value.split()) for value in values(text, name)] == [set(CAPABILITIES)]
    assert (values(text, "User"), values(text, "NoNewPrivileges")) == (["wodadmin"], ["yes"])
    # Whatever ends it, it comes back; but not when the configuration or the policy is wrong.
    assert (values(text, "Restart"), values(text, "RestartPreventExitStatus")) == (["always"], ["64 78"])
    assert (values(text, "ProtectSystem"), values(text, "ReadWritePaths")) == (["strict"], ["/var/lib/wodmail"])


def test_it_can_write_where_the_configuration_says() -> None:
    text = rendered(WODSTATEDIR="/srv/state", WODOUTBOX="/srv/outbox")
    assert values(text, "ReadWritePaths") == ["/srv/state", "/srv/outbox"]
    assert values(text, "StateDirectory") == []


def test_systemd_accepts_it(tmp_path: Path) -> None:
    verify = program("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze: not on this machine")
    file = tmp_path / "wod-kill-processes.service"
    file.write_text(rendered(WODUSER="root", wod_kill_processes_bin="/bin/true"), encoding="utf-8")
    done = subprocess.run([verify, "verify", str(file)], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, str(file) in done.stderr) == (0, False), done.stderr
