"""Runs a schedule: its command as its user, output into a log, result into a record, a failure to WODMONITOR."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import structlog

from wodmail.config import Settings
from wodmail.errors import Failed, Refused
from wodmail.logs import Masker
from wodmail.mail import notice
from wodmail.mail.letter import host
from wodmail.schedule import TABLE, Schedule
from wodmail.schedulerecords import Records
from wodmail.store import iso

log = structlog.get_logger("wodmail.schedule")

KEPT_LINES, KEPT_CHARACTERS = 60, 8000
GRACE = 10.0
NOTICE = "schedule-failed"
ENDED = 124  # what timeout(1) says
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Site:
    """Where schedules run.

    Args:
        settings: the configuration.
        file: where it was read from; the commands read the same one.
        masker: knows its secrets.
        environment: of the process; only its proxies are handed on.
    """

    settings: Settings
    file: Path
    masker: Masker
    environment: Mapping[str, str]

    @property
    def records(self) -> Records:
        """The records of its state folder."""
        return Records(self.settings.WODSTATEDIR)


def command(schedule: Schedule) -> list[str]:
    """The program that a schedule runs: this very wodmail."""
    return [sys.executable, "-I", "-m", "wodmail", *schedule.words]


def run(
    site: Site,
    schedule: Schedule,
    by: str,
    *,
    argv: list[str] | None = None,
    on_line: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a schedule to its end, keep its result and tell WODMONITOR when it failed.

    Args:
        site: where.
        schedule: what.
        by: what started it: timer, systemd, cron or hand.
        argv: another program in its place.
        on_line: called with each line that it prints, secrets masked.

    Returns:
        The record.

    Raises:
        Busy: it is at work already.
        Refused: this user may not run it.
        Failed: the state folder can't be written.
    """
    user = _user(site.settings, schedule)
    records = site.records
    _state_folder(site.settings)
    with records.running(schedule.name):
        before = records.read(schedule.name) or {}
        began = time.time()
        record: dict[str, Any] = {
            "state": "running",
            "by": by,
            "started": iso(began),
            "started_at": began,
            "last_ok": before.get("last_ok"),
            "log": str(records.log(schedule.name)),
        }
        records.write(schedule.name, record)
        log.info("schedule-started", schedule=schedule.name, by=by)
        with records.logging(schedule.name) as sink:
            child = _Child(site, schedule, argv or command(schedule), user, sink, on_line)
            status = child.run()
        record |= _ended(schedule, began, status, child.tail())
        record["told"] = False if status and site.settings.WODMONITOR else None
        records.write(schedule.name, record)
        _log_end(schedule, record)
        tell_failures(site)
        return records.read(schedule.name) or record


def _ended(schedule: Schedule, began: float, status: int, tail: str) -> dict[str, Any]:
    now = time.time()
    found: dict[str, Any] = {
        "state": "ok" if status == 0 else "failed",
        "status": status,
        "finished": iso(now),
        "seconds": round(max(0.0, now - began), 1),
        "output": tail,
        "reason": "",
    }
    if status == 0:
        found["last_ok"] = iso(now)
    elif status == ENDED:
        found["reason"] = f"it was ended after {schedule.limit} s"
    else:
        found["reason"] = f"signal {-status} ended it" if status < 0 else f"exit status {status}"
    return found


def _log_end(schedule: Schedule, record: Mapping[str, Any]) -> None:
    told = {"schedule": schedule.name, "seconds": record["seconds"], "status": record["status"]}
    if record["state"] == "ok":
        log.info("schedule-ended", **told)
    else:
        log.error("schedule-failed", reason=record["reason"], **told)


def _user(settings: Settings, schedule: Schedule) -> pwd.struct_passwd | None:
    """Whom to become; None to stay who we are."""
    if settings.WODSANDBOX:
        return None
    if os.geteuid() == 0:
        if schedule.root:
            return None
        try:
            return pwd.getpwnam(settings.WODUSER)
        except KeyError as error:
            raise Refused(f"WODUSER is {settings.WODUSER}, and there is no such user here.") from error
    if schedule.root:
        raise Refused(f"{schedule.name} runs as root. Try again with: sudo wod-schedule run {schedule.name}")
    return None


def _state_folder(settings: Settings) -> None:
    state = settings.WODSTATEDIR
    if state.is_dir():
        return
    try:
        state.mkdir(mode=0o700, parents=True)
        if os.geteuid() == 0 and not settings.WODSANDBOX:
            owner = pwd.getpwnam(settings.WODUSER)
            os.chown(state, owner.pw_uid, owner.pw_gid)
    except (OSError, KeyError) as error:
        raise Failed(f"The state folder {state} can't be made; start wodmail once.", str(error)) from error


class _Child:
    """The schedule's program while it runs."""

    def __init__(
        self,
        site: Site,
        schedule: Schedule,
        argv: list[str],
        user: pwd.struct_passwd | None,
        sink: IO[bytes],
        on_line: Callable[[str], None],
    ) -> None:
        self._site, self._schedule, self._argv, self._user = site, schedule, argv, user
        self._sink, self._on_line = sink, on_line
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._over, self._closed = threading.Event(), threading.Event()

    def run(self) -> int:
        """Run it; returns its exit status, negative for a signal, 124 when its time was over."""
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=self._environment(),
                start_new_session=True,
                **self._identity(),
            )
        except OSError as error:
            self._take(f"{self._argv[0]} can't be started: {error}\n".encode())
            return 127
        watch = threading.Timer(self._schedule.limit, self._end, [process])
        watch.daemon = True
        watch.start()
        reader = threading.Thread(target=self._read, args=[process.stdout], daemon=True)
        reader.start()
        try:
            status = process.wait()
        except BaseException:  # interrupted by hand: the program must not go on alone
            _signal_group(process, signal.SIGTERM)
            process.wait()
            raise
        finally:
            watch.cancel()
            reader.join(GRACE)  # what it left running in the background may hold its output open
            self._closed.set()
        return ENDED if self._over.is_set() else status

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._over.set()
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)

    def _identity(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        groups = os.getgrouplist(self._user.pw_name, self._user.pw_gid)
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": groups, "umask": 0o077}

    def _environment(self) -> dict[str, str]:
        who = self._user or pwd.getpwuid(os.geteuid())
        here = str(Path(sys.executable).parent)
        found = {"PATH": f"{here}:{PATH}", "HOME": who.pw_dir, "USER": who.pw_name, "LOGNAME": who.pw_name}
        found |= {"LANG": "C.UTF-8", "WOD_CONFIG": str(self._site.file.absolute()), "PYTHONUNBUFFERED": "1"}
        return found | {name: self._site.environment[name] for name in PROXIES if name in self._site.environment}

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            if self._closed.is_set():
                return
            self._take(line)

    def _take(self, line: bytes) -> None:
        text = self._site.masker.mask(line.decode("utf-8", "replace"))
        self._sink.write(text.encode())
        self._lines.append(text)
        self._on_line(text.rstrip("\n"))

    def tail(self) -> str:
        """The last lines that it printed."""
        return "".join(self._lines)[-KEPT_CHARACTERS:]


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return


# -- telling --------------------------------------------------------------------------------------------------------


def tell_failures(site: Site) -> list[str]:
    """Mail WODMONITOR about every failed run that it doesn't know of; what can't be sent now is sent by a later run.

    Returns:
        The schedules that were told of.
    """
    told = []
    for schedule in TABLE:
        record = site.records.read(schedule.name)
        if record is None or record.get("told") is not False or not site.settings.WODMONITOR:
            continue
        problem = notice.tell(site.settings, NOTICE, *_notice(site.settings, schedule, record))
        if problem:
            log.warning("schedule-untold", schedule=schedule.name, cause=problem)
            continue
        site.records.write(schedule.name, {**record, "told": True})
        told.append(schedule.name)
    return told


def _notice(
    settings: Settings, schedule: Schedule, record: Mapping[str, Any]
) -> tuple[str, Mapping[str, object], datetime]:
    """The subject, the words and the moment of the mail about a failed run."""
    subject = f"{host(settings)}: schedule {schedule.name} failed: {record['reason']}"
    began = datetime.fromtimestamp(float(record["started_at"]), UTC)
    return subject, {"schedule": schedule, "record": record}, began
