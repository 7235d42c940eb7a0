"""Schedules and drain on a backend with its own systemd: timers, runs, failures that are told, a reboot in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.machine.installed import Installed
from tests.machine.machine import Machine
from tests.support import wait_until
from wodmail.schedule import NAMES

pytestmark = pytest.mark.machine

STATE = "/var/lib/wodmail"
OUTBOX = f"{STATE}/outbox"
CONFIGURED = f"""\
WODMONITOR: operators@example.org
WODOUTBOX: {OUTBOX}
WODDEVGROUP: developers
"""
MINUTELY = """\
[Timer]
OnActiveSec=1s
AccuracySec=1s
"""


@pytest.fixture(scope="module")
def backend(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """An installed backend whose mails go into a folder."""
    with Machine(tmp_path_factory.mktemp("scheduled"), below=[installed.folder]) as machine:
        old = machine.read("/etc/wod.yml").splitlines(keepends=True)
        named = tuple(line.partition(":")[0] + ":" for line in CONFIGURED.splitlines())
        kept = "".join(line for line in old if not line.startswith(named))
        machine.run(["tee", "/etc/wod.yml"], text=kept + CONFIGURED)
        machine.shell("groupadd developers && systemctl restart wodmail")
        yield machine


def command(machine: Machine, *words: str, status: int = 0) -> dict[str, Any]:
    """One of our commands with --json."""
    done = machine.run([*words, "--json"], check=False, timeout=900)
    assert done.status == status, done
    found: dict[str, Any] = json.loads(done.out)
    assert found["version"] == 1
    return found


def last(machine: Machine, name: str) -> dict[str, Any]:
    """The record of a schedule's last run."""
    rows = {row["name"]: row for row in command(machine, "wod-schedule", "list")["schedules"]}
    found: dict[str, Any] = rows[name]["last"] or {}
    return found


def test_every_schedule_has_its_timer(backend: Machine) -> None:
    found = command(backend, "wod-schedule", "list")
    assert found["manager"] == "systemd"
    rows = {row["name"]: row for row in found["schedules"]}
    assert list(rows) == list(NAMES)
    assert all(row["installed"] and row["next"] for row in rows.values())
    listed = backend.shell("systemctl list-timers --all --no-legend 'wod-*.timer'")
    assert [name for name in NAMES if f"wod-{name}.timer" not in listed] == []
    assert backend.shell("systemd-analyze verify --man=no /etc/systemd/system/wod-*.service 2>&1") == ""
    assert command(backend, "wod-schedule", "install")["changed"] == []


def test_one_is_run_by_hand_and_its_result_is_kept(backend: Machine) -> None:
    found = command(backend, "wod-schedule", "run", "retention")
    assert (found["state"], found["by"], found["reason"]) == ("ok", "systemd", "")
    assert last(backend, "retention") == found | {"version": 1}
    assert "deleted" in backend.shell("journalctl -u wod-retention -o cat")
    owners = backend.shell(f"stat -c %U {STATE}/schedules {STATE}/schedules/retention.*")
    assert set(owners.split()) == {"wodadmin"}
    assert backend.run(["wod-schedule", "run", "retention"], user="wodadmin", check=False).status == 1


def test_the_timer_starts_it(backend: Machine) -> None:
    backend.write("/etc/systemd/system/wod-template-check.timer.d/now.conf", MINUTELY)
    backend.shell("systemctl daemon-reload && systemctl restart wod-template-check.timer")
    ran = wait_until(
        lambda: (found := last(backend, "template-check")).get("state") == "ok" and found,
        seconds=120,
        what="the run by the timer",
        every=0.5,
    )
    assert ran["by"] == "timer"
    backend.shell("rm -r /etc/systemd/system/wod-template-check.timer.d && systemctl daemon-reload")
    backend.shell("systemctl restart wod-template-check.timer")


def test_a_failing_one_is_told(backend: Machine) -> None:
    backend.shell("groupdel developers")
    try:
        found = command(backend, "wod-schedule", "run", "template-check", status=1)
    finally:
        backend.shell("groupadd developers")
    assert (found["state"], found["told"]) == ("failed", True)
    assert "there is no such group" in found["output"]
    mail = backend.shell(f"cat {OUTBOX}/new/*")
    assert "schedule template-check failed: exit status 1" in mail
    assert "To: operators@example.org" in mail
    assert "wod-template-check.service" in backend.shell("systemctl --failed --no-legend")
    assert command(backend, "wod-schedule", "run", "template-check")["state"] == "ok"
    assert "wod-template-check.service" not in backend.shell("systemctl --failed --no-legend")


def test_one_that_is_turned_off_is_gone(backend: Machine) -> None:
    backend.shell("echo 'WODSCHEDULES: {process-cleanup: off, deliver: Sat 13:30}' >>/etc/wod.yml")
    changed = command(backend, "wod-schedule", "install")["changed"]
    assert sum("process-cleanup" in what for what in changed) == 2
    assert backend.shell("systemctl is-active wod-process-cleanup.timer", check=False) != "active\n"
    rows = {row["name"]: row for row in command(backend, "wod-schedule", "list")["schedules"]}
    assert (rows["process-cleanup"]["when"], rows["process-cleanup"]["next"]) == ("off", None)
    assert "Sat" in backend.shell("systemctl show -p TimersCalendar wod-deliver.timer")
    backend.shell("sed -i /^WODSCHEDULES/d /etc/wod.yml")
    command(backend, "wod-schedule", "install")
    assert backend.shell("systemctl is-active wod-process-cleanup.timer") == "active\n"


def test_updates_of_a_real_debian(backend: Machine) -> None:
    found = command(backend, "wod-upd", "--dry-run")
    assert (found["tool"], found["installed"]) == ("apt-get", False)
    known = backend.shell("apt-get --simulate --with-new-pkgs upgrade | grep -c ^Inst || true")
    assert len(found["updates"]) + found["left"] == int(known)


def test_old_processes_of_students(backend: Machine) -> None:
    backend.shell("runuser -u student1 -- setsid sleep 6000 >/dev/null 2>&1 &")
    wait_until(lambda: backend.shell("pgrep -u student1 || true"), what="the student's process")
    assert command(backend, "wod-schedule", "run", "process-cleanup")["state"] == "ok"
    assert backend.shell("pgrep -c -u student1") != "0\n", "it is not a month old"
    found = command(backend, "wod-cleanup-processes", "--days", "0")
    assert found["processes"] != []
    assert backend.shell("pgrep -c -u student1 || true") == "0\n"
    assert backend.shell("systemctl is-active wodmail jupyterhub") == "active\nactive\n"


def test_deliver_runs_to_the_end_of_its_playbook(backend: Machine) -> None:
    """As the timer starts it: templates, then the check of the machine, which mends what is broken."""
    backend.shell("rm /etc/security/limits.d/99-wodmail.conf; echo broken >>/opt/wod/wod-backend/scripts/functions.sh")
    found = command(backend, "wod-schedule", "run", "deliver")
    assert found["state"] == "ok", found
    assert "check_backend.yml" in found["output"]
    assert "nproc 800000" in backend.read("/etc/security/limits.d/99-wodmail.conf")
    assert "broken" not in backend.read("/opt/wod/wod-backend/scripts/functions.sh")


def test_updates_as_a_schedule(backend: Machine) -> None:
    """Its way to the network is systemd's own."""
    names = ("http_proxy", "https_proxy", "no_proxy")
    backend.run(["systemctl", "set-environment", *(f"{name}={backend.environment[name]}" for name in names)])
    found = command(backend, "wod-schedule", "run", "package-update")
    assert found["state"] == "ok", found
    assert last(backend, "package-update")["by"] == "systemd"
    backend.run(["systemctl", "unset-environment", *names])


def test_cron_starts_them(backend: Machine) -> None:
    """The real one takes our file; then the timers come back."""
    command(backend, "wod-schedule", "install", "--manager", "cron")
    file = "/etc/cron.d/wodmail-schedules"
    assert "MAILTO=operators@example.org\n" in backend.read(file)
    backend.shell(f"sed -i -E '/ run (retention|template-check) /s/^([^ ]+ ){{5}}/* * * * * /' {file}")
    names = ("retention", "template-check")  # one of WODUSER's, one of root's

    def both() -> bool:
        return all(
            (last(backend, name).get("by"), last(backend, name).get("state")) == ("cron", "ok") for name in names
        )

    wait_until(both, seconds=180, what="cron's run of both", every=1)
    assert "wod-retention.timer" in command(backend, "wod-schedule", "install", "--manager", "systemd")["changed"]
    assert backend.run(["test", "-e", file], check=False).status == 1


def test_drained_through_a_reboot_and_what_comes_first(backend: Machine) -> None:
    """Mails are accepted and kept; the spool's server is up before Postfix; the timers are there again."""
    assert command(backend, "wodmail", "drain", "--wait", "--reason", "a test")["running"] == []
    backend.shell("wod-test-action CREATE WKSHP-Demo101 1", user="wodadmin")
    backend.reboot()
    began = {
        unit: int(backend.shell(f"systemctl show -P ActiveEnterTimestampMonotonic {unit}"))
        for unit in ("wodmail", "jupyterhub", "postfix")
    }
    assert 0 < began["jupyterhub"] < began["wodmail"] < began["postfix"]
    assert "server-drained" in backend.shell("journalctl -b -u wodmail -o cat")
    assert "ordering cycle" not in backend.shell("journalctl -b -o cat")
    status = command(backend, "wodmail", "drain", "--status")
    assert (status["drained"], status["running"], status["kept"]) == (True, [], 1)
    listed = backend.shell("systemctl list-timers --no-legend 'wod-*.timer'")
    assert [name for name in NAMES if f"wod-{name}.timer" not in listed] == []
    assert command(backend, "wodmail", "resume")["kept"] == 1

    def newest() -> dict[str, Any]:
        row: dict[str, Any] = command(backend, "wodmail", "requests", "--limit", "1")["requests"][0]
        return row if row["finished"] else {}

    row = wait_until(newest, seconds=120, what="the kept CREATE", every=0.5)
    assert (row["subject"], row["state"]) == ("CREATE 1 0", "done")
