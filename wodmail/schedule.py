"""What a backend does regularly: the one table of schedules, and times as people write them (docs/schedules.md).

Units, cron lines, the list and the configuration's checks are all made from `TABLE`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
OFF, DEFAULT = "off", "on"
HOURLY = "hourly"
_TIME = re.compile(r"(?:([A-Za-z]{3}(?:,[A-Za-z]{3})*) )?([01]?\d|2[0-3]):([0-5]\d)")
_HOURLY_MINUTE = 5


@dataclass(frozen=True, slots=True)
class When:
    """The moments at which something is due, in the machine's local time.

    Args:
        hour: 0 to 23; None for every hour.
        minute: 0 to 59.
        days: weekdays, 0 is Monday; empty for every day.
    """

    hour: int | None
    minute: int
    days: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> When:
        """Read `HH:MM` (every day), `Sun HH:MM`, `Mon,Thu HH:MM` or `hourly`.

        Raises:
            ValueError: it is none of these; the words say what to write.
        """
        text = text.strip()
        if text.lower() == HOURLY:
            return cls(None, _HOURLY_MINUTE)
        found = _TIME.fullmatch(text)
        names = found[1].split(",") if found and found[1] else []
        days = [name.capitalize() for name in names]
        if found is None or not set(days) <= set(WEEKDAYS):
            raise ValueError(f"{text!r} is no time; write HH:MM, Sun HH:MM, Mon,Thu HH:MM, hourly, on or off")
        return cls(int(found[2]), int(found[3]), tuple(sorted({WEEKDAYS.index(day) for day in days})))

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.hour is None:
            return HOURLY
        names = ",".join(WEEKDAYS[day] for day in self.days)
        return f"{names} {self.hour:02}:{self.minute:02}".strip()

    def calendar(self) -> str:
        """The calendar event of a timer (systemd.time(7))."""
        days = ",".join(WEEKDAYS[day] for day in self.days)
        hour = "*" if self.hour is None else f"{self.hour:02}"
        return f"{days} *-*-* {hour}:{self.minute:02}:00".strip()

    def cron(self) -> str:
        """The five fields of a crontab line (crontab(5)); its Sunday is 0."""
        days = ",".join(str((day + 1) % 7) for day in self.days) or "*"
        return f"{self.minute} {'*' if self.hour is None else self.hour} * * {days}"

    def next(self, now: datetime) -> datetime:
        """The first moment after `now`, as naive local time like it."""
        if self.hour is None:
            found = now.replace(minute=self.minute, second=0, microsecond=0)
            return found if found > now else found + timedelta(hours=1)
        found = now.replace(hour=self.hour, minute=self.minute, second=0, microsecond=0)
        while found <= now or (self.days and found.weekday() not in self.days):
            found += timedelta(days=1)
        return found


@dataclass(frozen=True, slots=True)
class Schedule:
    """One regular task.

    Args:
        name: by which `wod-schedule` and the configuration know it; its units are wod-<name>.
        words: our own command, as the words after `wodmail`.
        when: when it is due unless the configuration says otherwise.
        root: whether it runs as root, else as WODUSER.
        limit: after so many seconds it is ended and has failed.
        description: a line for people.
    """

    name: str
    words: tuple[str, ...]
    when: str
    root: bool
    limit: int
    description: str

    @property
    def unit(self) -> str:
        """The name of its units, without what follows the dot."""
        return f"wod-{self.name}"


HOUR = 3600
TABLE = (
    Schedule(
        "retention", ("retention",), "01:30", False, HOUR, "delete requests, mails and traces older than WODRETENTION"
    ),
    # Its failures are mailed here as all others are, so that a mail that can't be sent is sent by a later run.
    Schedule("deliver", ("deliver", "--no-mail"), "02:10", True, 12 * HOUR, "expand templates, then check the backend"),
    Schedule("package-update", ("upd",), "04:20", True, 3 * HOUR, "security updates of the distribution's packages"),
    Schedule(
        "template-check", ("check-template",), "05:40", True, HOUR, "WKSHP-Template in developers' homes kept fresh"
    ),
    Schedule(
        "process-cleanup", ("cleanup-processes",), "Sun 03:15", True, HOUR, "end what students left running for a month"
    ),
)
NAMES = tuple(each.name for each in TABLE)


def named(name: str) -> Schedule:
    """The schedule of that name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in TABLE}[name]


def times(written: Mapping[str, str]) -> dict[str, When | None]:
    """When each schedule is due; None for one that is turned off.

    Args:
        written: WODSCHEDULES, a name each with a time, `on` (its own time) or `off`.

    Raises:
        ValueError: an unknown name, or no time.
    """
    unknown = sorted(set(written) - set(NAMES))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no schedule; there are {', '.join(NAMES)}")
    found: dict[str, When | None] = {}
    for each in TABLE:
        text = written.get(each.name, DEFAULT)
        try:
            found[each.name] = None if text == OFF else When.parse(each.when if text == DEFAULT else text)
        except ValueError as error:
            raise ValueError(f"{each.name}: {error}") from error
    return found


def readable(value: object) -> object:
    """WODSCHEDULES as written, with what YAML makes of times and switches made texts again.

    YAML 1.1 reads a bare `off` as false and a bare 13:30 as 810 minutes; others are left for the schema to judge.
    """
    if not isinstance(value, Mapping):
        return value
    return {name: _text(each) for name, each in value.items()}


def _text(value: object) -> object:
    if isinstance(value, bool):
        return DEFAULT if value else OFF
    if isinstance(value, int) and 60 <= value < 24 * 60:
        return f"{value // 60:02}:{value % 60:02}"
    return value
