"""Schedules run for real: results, logs, mails, locks; units that systemd takes, a file for cron."""

from __future__ import annotations

import email
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from tests.commandline import wodmail
from tests.linux_students import SERVICE, users
from tests.parts import require
from tests.support import wait_until
from wodmail import schedule, schedulerun, scheduleunits
from wodmail.cli.root import root
from wodmail.config import load
from wodmail.errors import Failed, Refused
from wodmail.logs import Masker
from wodmail.schedule import TABLE, Schedule
from wodmail.schedulerecords import Busy
from wodmail.scheduleunits import UNITS

RETENTION = schedule.named("retention")
DELIVER = schedule.named("deliver")
GATE = "echo begun; until test -e {}/gate; do sleep 0.02; done"


def written(folder: Path, **extra: Any) -> Path:
    """A configuration of the sandbox."""
    file = folder / "wod.yml"
    values = {"WODSANDBOX": True, "WODSTATEDIR": str(folder / "state"), "WODMONITOR": "ops@localhost", **extra}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def place(folder: Path, **extra: Any) -> schedulerun.Site:
    """Where schedules of that configuration run."""
    file = written(folder, **extra)
    masker = Masker()
    masker.register("hunter2secret")
    return schedulerun.Site(load(file, files=False), file, masker, {"https_proxy": "http://proxy:1", "SHELL": "/x"})


def shell(text: str) -> list[str]:
    """A program in the place of a schedule's own."""
    return ["/bin/sh", "-c", text]


def mails(folder: Path) -> list[Any]:
    """What went out."""
    new = folder / "state" / "outbox" / "new"
    return [email.message_from_bytes(file.read_bytes()) for file in sorted(new.glob("*"))] if new.is_dir() else []


def test_a_run_that_goes_well(tmp_path: Path) -> None:
    where = place(tmp_path)
    lines: list[str] = []
    found = schedulerun.run(
        where, RETENTION, "timer", argv=shell("echo out hunter2secret; env >&2"), on_line=lines.append
    )
    assert (found["state"], found["status"], found["by"], found["reason"]) == ("ok", 0, "timer", "")
    assert found["last_ok"] == found["finished"]
    log = where.records.log("retention").read_text()
    assert "out ****" in log and "hunter2secret" not in log + found["output"] + "".join(lines)
    assert f"WOD_CONFIG={where.file}" in lines
    assert "https_proxy=http://proxy:1" in lines
    assert not any(line.startswith("SHELL=") for line in lines)
    assert mails(tmp_path) == []
    assert where.records.read("retention") == found


def test_a_failing_run_is_told_and_told_once(tmp_path: Path) -> None:
    where = place(tmp_path)
    schedulerun.run(where, RETENTION, "timer", argv=shell("exit 0"))
    found = schedulerun.run(where, RETENTION, "cron", argv=shell("echo the disk is full; exit 3"))
    assert (found["state"], found["status"], found["reason"]) == ("failed", 3, "exit status 3")
    assert (found["told"], found["last_ok"] is not None) == (True, True)
    schedulerun.run(where, DELIVER, "cron", argv=shell("exit 0"))
    (mail,) = mails(tmp_path)
    assert mail["Subject"] == "localhost: schedule retention failed: exit status 3"
    assert "the disk is full" in mail.get_payload()
    assert "wod-schedule run retention" in mail.get_payload()
    assert where.records.log("retention").with_name("retention.log.1").read_text() == ""


def test_what_can_not_be_mailed_now_is_mailed_by_a_later_run(tmp_path: Path) -> None:
    away = place(tmp_path, WODSMTPURL="smtp://127.0.0.1:1")
    found = schedulerun.run(away, RETENTION, "timer", argv=shell("exit 9"))
    assert found["told"] is False
    where = place(tmp_path)
    schedulerun.run(where, DELIVER, "timer", argv=shell("exit 0"))
    assert [mail["Subject"] for mail in mails(tmp_path)] == ["localhost: schedule retention failed: exit status 9"]
    assert (where.records.read("retention") or {})["told"] is True


def test_a_deliver_that_fails_is_mailed_once_even_if_later(tmp_path: Path) -> None:
    """The real wod-deliver, with a template that can't be expanded."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "broken.sh.j2").write_text("{{ NOWHERE }}\n")
    extra = {"WODBEDIR": str(tmp_path), "WODSCRIPTDIR": str(tmp_path / "scripts")}
    away = place(tmp_path, WODSMTPURL="smtp://127.0.0.1:1", **extra)
    found = schedulerun.run(away, DELIVER, "timer")
    assert (found["status"], found["told"]) == (1, False), found["output"]
    assert "NOWHERE" in found["output"]
    where = place(tmp_path, **extra)
    schedulerun.run(where, RETENTION, "timer", argv=shell("exit 0"))
    assert [mail["Subject"] for mail in mails(tmp_path)] == ["localhost: schedule deliver failed: exit status 1"]
    schedulerun.run(where, DELIVER, "timer")
    assert len(mails(tmp_path)) == 2


def test_a_run_that_takes_too_long_is_ended_whole(tmp_path: Path) -> None:
    where = place(tmp_path)
    mark = tmp_path / "pid"
    for limit in (1, 20):  # the longer one where a slow machine has not come to the mark in the shorter
        short = replace(RETENTION, limit=limit)
        found = schedulerun.run(where, short, "timer", argv=shell(f"sleep 600 & echo $! >{mark}; wait"))
        assert (found["state"], found["status"], found["reason"]) == ("failed", 124, f"it was ended after {limit} s")
        if mark.exists() and mark.read_text():
            break
    pid = int(mark.read_text())

    def gone() -> bool:
        try:
            return b"\nState:\tZ" in Path(f"/proc/{pid}/status").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(gone, what="the end of what it started")


def test_never_twice_at_once(tmp_path: Path) -> None:
    where = place(tmp_path)
    argv = shell(GATE.format(tmp_path))
    begun = threading.Event()
    first = threading.Thread(
        target=lambda: schedulerun.run(where, RETENTION, "timer", argv=argv, on_line=lambda _: begun.set())
    )
    first.start()
    try:
        assert begun.wait(60)
        with pytest.raises(Busy, match="at work already"):
            schedulerun.run(where, RETENTION, "hand", argv=shell("exit 0"))
        (row,) = [each for each in wodmail(where.file, "schedule", "list")["schedules"] if each["name"] == "retention"]
        assert (row["last"]["state"], row["last"]["by"]) == ("running", "timer")
    finally:
        (tmp_path / "gate").touch()
        first.join()
    assert (where.records.read("retention") or {})["state"] == "ok"


def test_a_run_that_was_cut_off_is_called_so(tmp_path: Path) -> None:
    file = written(tmp_path)
    argv = [sys.executable, "-m", "tests.integration.test_schedules", str(tmp_path)]
    child = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
    records = place(tmp_path).records
    try:
        wait_until(lambda: records.is_running("retention") and records.read("retention"), what="the run's record")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        (tmp_path / "gate").touch()
    (row,) = [each for each in wodmail(file, "schedule", "list")["schedules"] if each["name"] == "retention"]
    assert row["last"]["state"] == "interrupted"


def test_by_hand_and_what_the_list_says_then(tmp_path: Path) -> None:
    file = written(tmp_path, WODSCHEDULES={"deliver": "13:30", "package-update": False})
    found = wodmail(file, "schedule", "run", "retention", "--here")
    assert (found["state"], found["by"], found["name"]) == ("ok", "hand", "retention")
    assert "deleted" in found["output"]
    rows = {row["name"]: row for row in wodmail(file, "schedule", "list")["schedules"]}
    assert list(rows) == [each.name for each in TABLE]
    assert rows["retention"]["last"]["seconds"] == found["seconds"]
    assert (rows["package-update"]["when"], rows["deliver"]["when"]) == ("off", "13:30")
    assert rows["deliver"]["last"] is None
    assert Path(rows["retention"]["log"]).read_text() == found["output"]


def test_by_systemd_it_is_not_started_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = place(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\necho started >>{tmp_path}/started\nexit 1\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(scheduleunits, "BOOTED", tmp_path)
    monkeypatch.setattr(scheduleunits, "installed", lambda _: {"retention"})
    line = ["schedule", "run", "retention", "--config", str(where.file)]
    with where.records.running("retention"):
        done = CliRunner().invoke(root, line, standalone_mode=False)
    assert (done.return_value, "at work already" in done.output) == (75, True), done.output
    assert not (tmp_path / "started").exists()
    done = CliRunner().invoke(root, line, standalone_mode=False)
    assert isinstance(done.exception, (Failed, Refused)), (
        "the first one is root's alone, the other the program's answer"
    )


@pytest.mark.root
@pytest.mark.xdist_group("linux-helper")
def test_root_runs_them_as_their_user_and_follows_no_link(tmp_path: Path) -> None:
    with users(1):
        check_root(tmp_path)


def check_root(tmp_path: Path) -> None:
    """As root, with a service's user."""
    where = place(tmp_path, WODSANDBOX=False, WODUSER=SERVICE, WODOUTBOX=str(tmp_path / "out"))
    found = schedulerun.run(where, RETENTION, "timer", argv=shell("id -un; id -Gn"))
    assert found["output"].split("\n")[0] == SERVICE
    assert "root" not in found["output"]
    state = where.settings.WODSTATEDIR
    assert {path.owner() for path in (state, *state.rglob("*"))} == {SERVICE}
    assert schedulerun.run(where, DELIVER, "timer", argv=shell("id -un"))["output"] == "root\n"

    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("deliver.json", "deliver.log", "deliver.log.1"):
        (state / "schedules" / name).unlink(missing_ok=True)
        (state / "schedules" / name).symlink_to(victim)
    schedulerun.run(where, DELIVER, "timer", argv=shell("echo trampled"))
    assert victim.read_text() == "precious"
    assert victim.owner() == "root"
    (state / "schedules" / "deliver.lock").unlink()
    (state / "schedules" / "deliver.lock").hardlink_to(victim)
    with pytest.raises(Failed, match="no lock of ours"):
        schedulerun.run(where, DELIVER, "timer", argv=shell("echo trampled"))
    assert (victim.owner(), victim.read_text()) == ("root", "precious")
    assert not where.records.is_running("deliver")
    (state / "schedules" / "deliver.lock").unlink()
    (state / "schedules").rename(state / "moved")
    (state / "schedules").symlink_to(tmp_path)
    with pytest.raises(Failed, match="no folder but a link"):
        schedulerun.run(where, DELIVER, "timer", argv=shell("exit 0"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "victim", "wod.yml"]


def test_units_for_systemd(tmp_path: Path) -> None:
    require("systemd-analyze")
    file = written(tmp_path, WODSCHEDULES={"deliver": "Mon,Thu 13:30", "package-update": "off"}, WODUSER="daemon")
    where = ("--root", str(tmp_path / "root"), "--manager", "systemd")
    would = wodmail(file, "schedule", "install", *where, "--check", status=2)
    assert not (tmp_path / "root").exists()
    assert wodmail(file, "schedule", "install", *where)["changed"] == would["changed"]
    units = tmp_path / "root" / UNITS
    due = [each for each in TABLE if each.name != "package-update"]
    assert {path.name for path in units.glob("wod-*")} == {
        f"{each.unit}.{kind}" for each in due for kind in ("service", "timer")
    }
    assert {path.name for path in (units / "timers.target.wants").iterdir()} == {f"{each.unit}.timer" for each in due}
    assert "OnCalendar=Mon,Thu *-*-* 13:30:00\n" in (units / "wod-deliver.timer").read_text()
    assert "User=daemon\n" in (units / "wod-retention.service").read_text()
    assert "User=" not in (units / "wod-deliver.service").read_text()
    argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, units.glob("wod-*"))]
    checked = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert wodmail(file, "schedule", "install", *where)["changed"] == []
    (units / "wod-deliver.timer").write_text("broken")
    assert wodmail(file, "schedule", "install", *where)["changed"] == [str(units / "wod-deliver.timer")]
    written(tmp_path, WODSCHEDULES=dict.fromkeys(schedule.NAMES, "off"))
    wodmail(file, "schedule", "install", *where)
    assert [path for path in units.rglob("*") if not path.is_dir()] == []


def test_a_file_for_cron(tmp_path: Path) -> None:
    file = written(tmp_path, WODSCHEDULES={"deliver": "Sun 13:30", "package-update": "off"}, WODUSER="daemon")
    where = ("--root", str(tmp_path / "root"))
    wodmail(file, "schedule", "install", *where, "--manager", "systemd")
    wodmail(file, "schedule", "install", *where, "--manager", "cron")
    (made,) = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert re.fullmatch(r"[A-Za-z0-9_-]+", made.name), "cron passes over other names"
    lines = [line for line in made.read_text().splitlines() if re.match(r"\d", line)]
    assert len(lines) == len(TABLE) - 1
    (line,) = [line for line in lines if " deliver " in line]
    assert line.startswith("30 13 * * 0 root /")
    assert line.endswith("/wod-schedule run deliver --here --by cron >/dev/null")
    assert "\nMAILTO=ops@localhost\n" in made.read_text()
    assert [" daemon " in line for line in lines if " retention " in line] == [True]
    assert f"WOD_CONFIG={file}\n" in made.read_text()
    assert wodmail(file, "schedule", "install", *where, "--manager", "cron")["changed"] == []
    assert wodmail(file, "schedule", "remove", *where, "--manager", "cron")["changed"] == [str(made)]
    assert not made.exists()


@pytest.mark.parametrize("by", ["systemd", "cron"])
@pytest.mark.parametrize("wrong", ["WODUSERMAX: many\n", "WODUSERMAX: 'open\n", "WODUSERMAX: -1\n"])
def test_one_that_can_not_begin_is_told(tmp_path: Path, by: str, wrong: str) -> None:
    """A configuration that is wrong, or no YAML, keeps it from running, but not WODMONITOR from hearing of it."""
    file = written(tmp_path)
    file.write_text(file.read_text() + wrong)
    argv = [sys.executable, "-m", "wodmail", "schedule", "run", "retention", "--config", str(file), "--here"]
    done = subprocess.run([*argv, "--by", by], capture_output=True, text=True, check=False)
    (mail,) = mails(tmp_path)
    assert (done.returncode, mail["Subject"], mail["To"]) == (
        78,
        "localhost: schedule retention could not begin",
        "ops@localhost",
    )
    words = mail.get_payload(decode=True).decode()
    assert "USERMAX" in words or "line" in words
    assert "wod-schedule run retention" in words
    assert bool(done.stderr) == (by == "systemd"), "cron mails what is printed"


def test_one_that_can_tell_nobody_prints_it(tmp_path: Path) -> None:
    """For cron, which mails it to root."""
    file = written(tmp_path, WODMONITOR="", WODUSERMAX="many")
    argv = [
        sys.executable,
        "-m",
        "wodmail",
        "schedule",
        "run",
        "retention",
        "--config",
        str(file),
        "--here",
        "--by",
        "cron",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "nobody was told by mail" in done.stderr and "WODUSERMAX" in done.stderr
    where = ["--root", str(tmp_path / "etc")]
    wodmail(written(tmp_path, WODMONITOR=""), "schedule", "install", *where, "--manager", "cron")
    assert "\nMAILTO=root\n" in (tmp_path / "etc" / scheduleunits.CRON).read_text()


def test_cron_hears_nothing_of_what_is_mailed_already(tmp_path: Path) -> None:
    """A run that goes well, and one that fails."""
    argv = [sys.executable, "-m", "wodmail", "schedule", "run", "--here", "--by", "cron", "--config"]
    for name, status in {"retention": 0, "template-check": 1}.items():
        file = str(written(tmp_path, WODDEVGROUP="nobody-has-this-group"))
        done = subprocess.run([*argv, file, name], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (status, "")
    (mail,) = mails(tmp_path)
    assert "template-check failed" in mail["Subject"]


def test_the_commands_of_the_table_exist() -> None:
    for each in TABLE:
        command = root.get_command(click.Context(root), each.words[0])
        assert command is not None, each.name
        known = {option for found in command.params for option in found.opts}
        assert set(each.words[1:]) <= known, each.name
    odd = [each for each in TABLE if not re.fullmatch(r"[a-z]+(-[a-z]+)*", each.name)]
    assert odd == list[Schedule]()


if __name__ == "__main__":  # a run that a test cuts off
    schedulerun.run(place(Path(sys.argv[1])), RETENTION, "timer", argv=shell(GATE.format(sys.argv[1])))
