"""Schedules as the system knows them: systemd timers and services, or a file for cron where there is no systemd."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from wodmail import paths
from wodmail.config import Settings
from wodmail.errors import Failed, Refused
from wodmail.privatefile import write_whole
from wodmail.rendering import render
from wodmail.schedule import TABLE, Schedule, When, times

Manager = Literal["systemd", "cron"]
BOOTED = Path("/run/systemd/system")
UNITS, CRON = Path("etc/systemd/system"), Path("etc/cron.d/wodmail-schedules")
TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be installed.

    Args:
        settings: the configuration.
        file: where it was read from.
        program: the program wod-schedule, absolute.
        manager: who starts them.
        root: the folder that is / for the files; anything else than / is not the machine that runs.
    """

    settings: Settings
    file: Path
    program: Path
    manager: Manager
    root: Path = Path("/")

    @property
    def live(self) -> bool:
        """Whether this is the machine that runs."""
        return self.root == Path("/")


@dataclass(frozen=True, slots=True)
class Change:
    """One file or timer: what became of it (new, changed, removed, enabled, started, same)."""

    what: str
    outcome: str


def manager_here() -> Manager:
    """systemd when it has booted this machine (sd_booted(3)), else cron."""
    return "systemd" if BOOTED.is_dir() else "cron"


def files(plan: Plan) -> dict[Path, str]:
    """Every file that belongs to the plan, with its content; those of schedules that are off are not among them.

    Raises:
        Failed: a template can't be expanded.
        Refused: a path of the configuration can't stand in such a file.
    """
    due = {name: when for name, when in times(plan.settings.WODSCHEDULES).items() if when is not None}
    made = {each: due[each.name] for each in TABLE if each.name in due}
    return _units(plan, made) if plan.manager == "systemd" else _cron(plan, made)


def _units(plan: Plan, made: Mapping[Schedule, When]) -> dict[Path, str]:
    found = {}
    for schedule, when in made.items():
        values = {
            "schedule": schedule,
            "when": when.calendar(),
            "program": _unit_word(plan.program),
            "environment": _unit_word(f"WOD_CONFIG={plan.file.absolute()}"),
            "user": plan.settings.WODUSER,
            "state": _unit_word(plan.settings.WODSTATEDIR),
        }
        for kind in ("service", "timer"):
            template = paths.share("sys") / f"wod-schedule.{kind}.j2"
            found[UNITS / f"{schedule.unit}.{kind}"] = render(template, values)
    return found


def _cron(plan: Plan, made: Mapping[Schedule, When]) -> dict[Path, str]:
    lines = [
        {
            "name": schedule.name,
            "description": schedule.description,
            "fields": when.cron(),
            "user": "root" if schedule.root else plan.settings.WODUSER,
        }
        for schedule, when in made.items()
    ]
    for path in (plan.program, plan.file.absolute()):
        if re.search(r"[%\n\"\\]", str(path)):
            raise Refused(f"{path} can't stand in a file of cron; use a path without %, quotes and backslashes.")
    monitor = plan.settings.WODMONITOR
    values = {
        "config": str(plan.file.absolute()),
        "lines": lines,
        "program": shlex.quote(str(plan.program)),
        "monitor": monitor if re.fullmatch(r"[A-Za-z0-9._+@-]+", monitor) else "root",
    }
    return {CRON: render(paths.share("sys") / "wod-schedules.cron.j2", values)} if lines else {}


def _unit_word(value: object) -> str:
    """A word in a unit file, where blanks, quotes, % and $ mean something (systemd.syntax(7), systemd.service(5))."""
    text = str(value)
    if any(not letter.isprintable() for letter in text):
        raise Refused(f"{text!r} can't stand in a unit; use a path of printable characters.")
    text = text.replace("%", "%%")
    if not re.search(r"[\s\"'\\$;]", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def install(plan: Plan, *, check: bool = False) -> list[Change]:
    """Write the files that are new or different, remove those of schedules that are off, let systemd know.

    Args:
        plan: what.
        check: write nothing, tell what would be done.

    Raises:
        Failed: a file can't be written, or systemd refuses a unit.
    """
    wanted = files(plan)
    if plan.manager == "systemd" and plan.program.exists():
        verify(wanted)
    done = [_put(plan.root / path, text, check) for path, text in sorted(wanted.items())]
    done += [_take(plan.root / path, check) for path in _others(plan, wanted)]
    timers = sorted(path.name for path in wanted if path.suffix == ".timer")
    if not check:
        _clear_links(plan, {f"{each.unit}.timer" for each in TABLE} - set(timers))
    if plan.manager == "systemd":
        touched = any(each.outcome != "same" for each in done)
        done += _timers_on(plan, timers, touched=touched, check=check)
    return done


def remove(plan: Plan) -> list[Change]:
    """Take every file of ours away, units and cron file alike, and stop the timers."""
    ours = [plan.root / path for path in _others(plan, {})]
    timers = [path.name for path in ours if path.suffix == ".timer"]
    if timers and plan.manager == "systemd":
        _systemctl(plan, "disable", *(["--now"] if plan.live else []), *timers)
    done = [_take(path, check=False) for path in ours]
    if done and plan.manager == "systemd" and plan.live:
        _systemctl(plan, "daemon-reload")
    return done


def _others(plan: Plan, wanted: Mapping[Path, str]) -> list[Path]:
    """Files of ours that are there and not wanted."""
    known = [CRON, *(UNITS / f"{each.unit}.{kind}" for each in TABLE for kind in ("timer", "service"))]
    return [path for path in known if path not in wanted and (plan.root / path).is_file()]


def _put(path: Path, text: str, check: bool) -> Change:
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if before == text:
            return Change(str(path), "same")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text, 0o644)
    except OSError as error:
        raise Failed(f"{path} can't be written: {error.strerror}. Run this as root.") from error
    return Change(str(path), "new" if before is None else "changed")


def _take(path: Path, check: bool) -> Change:
    if not check:
        path.unlink(missing_ok=True)
    return Change(str(path), "removed")


def verify(wanted: Mapping[Path, str]) -> None:
    """Have systemd-analyze read the units before they are installed; nothing happens where it is missing.

    Raises:
        Failed: it finds one wrong; its words.
    """
    with tempfile.TemporaryDirectory(prefix="wod-schedule-") as folder:
        units = []
        for path, text in wanted.items():
            file = Path(folder) / path.name
            file.write_text(text, encoding="utf-8")
            units.append(str(file))
        if not units:
            return
        try:
            done = subprocess.run(
                ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units],
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT,
            )
        except FileNotFoundError:
            return
    if done.returncode:
        raise Failed("systemd would not take the schedules' units; nothing was installed.", done.stderr.strip())


def _timers_on(plan: Plan, timers: Sequence[str], *, touched: bool, check: bool) -> list[Change]:
    """Enable timers that are not, start those that do not run; those whose files were touched are started anew."""
    late = [timer for timer in timers if _ask(plan, "is-enabled", timer) != "enabled"]
    idle = [timer for timer in timers if plan.live and _ask(plan, "is-active", timer) != "active"]
    if not check:
        if plan.live and touched:
            _systemctl(plan, "daemon-reload")
            _stop_removed(plan, timers)
        if late:
            _systemctl(plan, "enable", *late)
        again = timers if touched else idle
        if plan.live and again:
            _systemctl(plan, "restart", *again)
    return [Change(timer, "enabled") for timer in late] + [
        Change(timer, "started") for timer in idle if timer not in late
    ]


def _stop_removed(plan: Plan, timers: Sequence[str]) -> None:
    """A timer whose file is gone would go on until the next reboot."""
    off = [f"{each.unit}.timer" for each in TABLE if f"{each.unit}.timer" not in timers]
    running = [timer for timer in off if _ask(plan, "is-active", timer) == "active"]
    if running:
        _systemctl(plan, "stop", *running)


def _clear_links(plan: Plan, off: Iterable[str]) -> None:
    """The links of timers that are off: their units are gone, so `systemctl disable` would not know them."""
    for timer in off:
        link = plan.root / UNITS / "timers.target.wants" / timer
        if link.is_symlink():
            link.unlink()


def _argv(plan: Plan, *words: str) -> list[str]:
    return ["systemctl", "--no-ask-password", *([] if plan.live else [f"--root={plan.root}"]), *words]


def _ask(plan: Plan, *words: str) -> str:
    done = subprocess.run(_argv(plan, *words), capture_output=True, text=True, check=False, timeout=TIMEOUT)
    return done.stdout.strip()


def _systemctl(plan: Plan, *words: str) -> None:
    done = subprocess.run(_argv(plan, *words), capture_output=True, text=True, check=False, timeout=TIMEOUT)
    if done.returncode:
        raise Failed(f"systemctl {words[0]} failed.", done.stderr.strip() or f"exit status {done.returncode}")


# -- what the system says -------------------------------------------------------------------------------------------


def next_runs(manager: Manager, due: Mapping[str, When | None], now: datetime) -> dict[str, datetime]:
    """When each schedule runs next: as systemd says of its timers, else by the time of the table.

    Args:
        manager: who starts them.
        due: see `schedule.times`.
        now: naive local time.
    """
    found = {name: when.next(now) for name, when in due.items() if when is not None}
    if manager == "systemd":
        found |= {name: moment for name, moment in _timers().items() if name in found}
    return found


def _timers() -> dict[str, datetime]:
    argv = ["systemctl", "list-timers", "--all", "--output=json", "wod-*.timer"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        rows: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    except (OSError, ValueError):
        return {}
    units = {f"{each.unit}.timer": each.name for each in TABLE}
    return {
        units[row["unit"]]: datetime.fromtimestamp(row["next"] / 1_000_000, UTC).astimezone().replace(tzinfo=None)
        for row in rows
        if row.get("unit") in units and row.get("next")
    }


def installed(manager: Manager, root: Path = Path("/")) -> set[str]:
    """The schedules that the system would start."""
    if manager == "cron":
        text = ""
        with contextlib.suppress(OSError):
            text = (root / CRON).read_text(encoding="utf-8")
        return {each.name for each in TABLE if f" run {each.name} " in text}
    return {each.name for each in TABLE if (root / UNITS / "timers.target.wants" / f"{each.unit}.timer").exists()}


def start(schedule: Schedule) -> int:
    """Run a schedule through systemd and wait for its end; returns the exit status of systemctl.

    Raises:
        Refused: this user may not.
    """
    if os.geteuid() != 0:
        raise Refused(f"systemd starts it for root alone. Try again with: sudo wod-schedule run {schedule.name}")
    argv = ["systemctl", "--no-ask-password", "start", f"{schedule.unit}.service"]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
