"""The table of schedules: times as people write them, as systemd and cron read them, and as the configuration may."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parts import require
from wodmail import schedule
from wodmail.config import read
from wodmail.schedule import TABLE, WEEKDAYS, When
from wodmail.schema import Settings

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1))  # noqa: DTZ001 - local, as timers and cron are
WHENS = st.builds(
    When,
    st.none() | st.integers(0, 23),
    st.integers(0, 59),
    st.sets(st.integers(0, 6), max_size=6).map(lambda days: tuple(sorted(days))),
).map(lambda when: When(None, 5) if when.hour is None else when)


@pytest.mark.parametrize(
    ("text", "calendar", "cron"),
    [
        ("03:15", "*-*-* 03:15:00", "15 3 * * *"),
        ("Sun 3:15", "Sun *-*-* 03:15:00", "15 3 * * 0"),
        ("thu,Mon 23:59", "Mon,Thu *-*-* 23:59:00", "59 23 * * 1,4"),
        ("hourly", "*-*-* *:05:00", "5 * * * *"),
    ],
)
def test_a_time_for_systemd_and_for_cron(text: str, calendar: str, cron: str) -> None:
    when = When.parse(text)
    assert (when.calendar(), when.cron()) == (calendar, cron)


@pytest.mark.parametrize(
    "text", ["", "24:00", "3:5", "Sonntag 03:15", "Foo 03:15", "daily", "03:15; reboot", "Mon, 03:15"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write HH:MM"):
        When.parse(text)


@given(WHENS)
def test_a_time_is_written_as_it_is_read(when: When) -> None:
    assert When.parse(str(when)) == when


@given(WHENS, MOMENTS)
def test_the_next_run_is_the_first_that_fits(when: When, now: datetime) -> None:
    coming = when.next(now)
    assert coming > now
    assert coming - now <= timedelta(days=7)
    assert (coming.minute, coming.second) == (when.minute, 0)
    assert when.hour in (None, coming.hour)
    assert not when.days or coming.weekday() in when.days
    assert when.next(coming) > coming


def test_systemd_understands_every_time() -> None:
    program = require("systemd-analyze")
    known = [When.parse(each.when).calendar() for each in TABLE]
    asked = [*known, *(When.parse(f"{day} 07:30").calendar() for day in WEEKDAYS), When.parse("hourly").calendar()]
    done = subprocess.run([program, "calendar", *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next elapse: ") == len(asked)


def test_what_the_configuration_may_say(tmp_path: Path) -> None:
    file = tmp_path / "wod.yml"
    said = "WODSCHEDULES: {deliver: 13:30, retention: off, package-update: on, template-check: hourly}\n"
    file.write_text(f"WODSANDBOX: true\n{said}")
    found = read(file, files=False)
    assert found.problems == ()
    assert found.settings is not None
    due = schedule.times(found.settings.WODSCHEDULES)
    assert {name: str(when) if when else None for name, when in due.items()} == {
        "retention": None,
        "deliver": "13:30",
        "package-update": "04:20",
        "template-check": "hourly",
        "process-cleanup": "Sun 03:15",
    }


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{delivery: '03:00'}", "delivery: no schedule; there are retention, deliver"),
        ("{deliver: never}", "deliver: 'never' is no time; write HH:MM"),
        ("{deliver: 7}", "WODSCHEDULES"),
        ("daily", "WODSCHEDULES"),
    ],
)
def test_what_it_may_not_say(tmp_path: Path, said: str, words: str) -> None:
    file = tmp_path / "wod.yml"
    file.write_text(f"WODSANDBOX: true\nWODSCHEDULES: {said}\n")
    found = read(file, files=False)
    assert [words in str(problem) for problem in found.problems] == [True]


def test_by_itself_everything_is_on() -> None:
    assert None not in schedule.times(Settings().WODSCHEDULES).values()
    assert len({each.name for each in TABLE}) == len(TABLE)
