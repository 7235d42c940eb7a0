"""The guard on a real backend: its unit, as it was installed, and the way from a miner to an empty home."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.machine.installed import Installed
from tests.machine.machine import Machine
from tests.support import wait_until

pytestmark = pytest.mark.machine

SERVICE = "wod-kill-processes"
POLICY = """\
interval_seconds: 1
cpu: {limit_cores: 0.1, window_seconds: 2, longer_than_seconds: 2}
ladder: {stop_after_seconds: 0, purge_after_stops: 1}
"""


@pytest.fixture(scope="module")
def backend(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine that was installed, booted once more."""
    with Machine(tmp_path_factory.mktemp("guarded"), below=[installed.folder]) as machine:
        yield machine


def private(machine: Machine) -> str:
    """Where the private policy belongs; the configuration gets a private tree when it has none."""
    asked = ["wodmail", "config", "show", "--json"]
    if not json.loads(machine.run(asked).out)["settings"]["WODSYSPRIVDIR"]:
        machine.shell("echo 'WODPRIVDIR: /srv/private' >>/etc/wod.yml")
    return f"{json.loads(machine.run(asked).out)['settings']['WODSYSPRIVDIR']}/guard.yml"


def test_it_runs_with_three_capabilities_and_says_so(backend: Machine) -> None:
    """As WODUSER; its status can be asked for."""
    assert backend.run(["systemctl", "is-active", SERVICE]).out == "active\n"
    pid = backend.run(["systemctl", "show", "--property=MainPID", "--value", SERVICE]).out.strip()
    status = dict(line.split(":\t", 1) for line in backend.read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    wanted = 1 << 2 | 1 << 5 | 1 << 19  # DAC_READ_SEARCH, KILL, SYS_PTRACE
    assert {int(status[f"Cap{each}"], 16) for each in ("Bnd", "Eff", "Prm")} == {wanted}
    assert "0" not in status["Uid"].split() and status["NoNewPrivs"] == "1"
    wait_until(lambda: backend.run(["wod-kill-processes", "status"], check=False).status == 0, what="a first look")


def test_a_miner_is_stopped_and_its_seat_purged(backend: Machine) -> None:
    """A copied program under a kernel's name; root's own copy beside it is left alone."""
    backend.write(private(backend), POLICY)
    backend.run(["systemctl", "restart", SERVICE])
    copy = "/student/student2/python3"
    backend.shell(f"cp /usr/bin/sha256sum {copy} && chown student2 {copy} && cp /usr/bin/sha256sum /root/python3")
    for name, program in (("student2", copy), ("root", "/root/python3")):
        unit = ["systemd-run", f"--unit=burner-{name}", f"--uid={name}"]
        backend.run([*unit, "bash", "-c", f"exec -a ipykernel_launcher {program} /dev/zero"])
    gone = ["systemctl", "is-active", "burner-student2"]
    wait_until(lambda: backend.run(gone, check=False).out != "active\n", seconds=60, every=0.5, what="the miner's end")
    done = "wodmail requests --json | grep -q PURGE"
    wait_until(lambda: backend.run(["bash", "-c", done], check=False).status == 0, seconds=30, what="the PURGE")
    wait_until(
        lambda: backend.run(["test", "-e", copy], check=False).status != 0, seconds=120, every=0.5, what="an empty home"
    )
    assert backend.run(["systemctl", "is-active", "burner-root"]).out == "active\n"
    assert '"sha256": "' in backend.shell("cat /var/lib/wodmail/guard/evidence/*student2*.json")
    backend.run(["systemctl", "stop", "burner-root"])


def test_the_policy_is_read_again_on_reload(backend: Machine) -> None:
    """A mistake changes nothing and is in the log."""
    backend.write(private(backend), "cpu: {limit_cores: none}\n")
    backend.run(["systemctl", "reload", SERVICE])
    log = f"journalctl --unit {SERVICE} --output cat"
    wait_until(lambda: "guard-policy-refused" in backend.shell(log), what="the policy's refusal")
    assert backend.run(["systemctl", "is-active", SERVICE]).out == "active\n"
