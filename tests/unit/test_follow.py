"""Following requests: what is told at each look, when it ends, and which line of the trace belongs to a job."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from wodmail import follow
from wodmail.trace import Trace


def request(state: str, steps: list[tuple[str, str]], *, reason: str = "", **more: Any) -> dict[str, Any]:
    """A request of student 121 as the store describes it."""
    rows = [
        {"name": name, "state": how, "seconds": 0.5, "error": "no disk" if how == "failed" else ""}
        for name, how in steps
    ]
    job = {"student": 121, "students": [121], "state": state, "steps": rows}
    jobs = [job] if steps else []
    return {
        "id": 7,
        "state": state,
        "reason": reason,
        "action": "CREATE",
        "workshop": "WKSHP-Tea",
        "jobs": jobs,
        **more,
    }


LIFE = [
    None,
    request("waiting", []),
    request("running", [("validate", "done"), ("erase", "running")]),
    request("running", [("validate", "done"), ("erase", "running")]),
    request("done", [("validate", "done"), ("erase", "done")]),
]


def playing(life: list[dict[str, Any] | None]) -> follow.Ask:
    """Gives one state after the other, then the last again and again."""
    rest = list(life)
    return lambda _: rest.pop(0) if len(rest) > 1 else rest[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.001)


def test_lines_tell_each_event_once() -> None:
    told: list[str] = []
    (last,) = follow.follow(["<1@x>"], playing(LIFE), follow.Lines(told.append), seconds=10)
    assert last is not None and last["state"] == "done"
    assert told == ["[7 student121] validate: done 0.5 s", "[7 student121] erase: done 0.5 s", "request 7 done"]


def test_lines_tell_why_it_failed() -> None:
    told: list[str] = []
    life = [request("failed", [("erase", "failed")], reason="step erase failed")]
    follow.follow(["<1@x>"], playing(list(life)), follow.Lines(told.append), seconds=10)
    assert told == ["[7 student121] erase: failed 0.5 s - no disk", "request 7 failed: step erase failed"]


@pytest.mark.parametrize("state", ["done", "failed", "refused", "duplicate", "aborted", "shelved"])
def test_every_final_state_ends_it(state: str) -> None:
    assert follow.ended(request(state, []))


def test_time_is_up() -> None:
    asked: list[str] = []

    def never(message_id: str) -> dict[str, Any] | None:
        asked.append(message_id)
        return None

    assert follow.follow(["<1@x>"], never, follow.Lines(print), seconds=0.02) == [None]
    assert len(asked) > 1


def test_all_requests_are_awaited() -> None:
    slow = playing(LIFE)
    found = follow.follow(
        ["<1@x>", "<2@x>"],
        lambda message_id: slow(message_id) if message_id == "<1@x>" else request("done", []),
        follow.Lines(lambda _: None),
        seconds=10,
    )
    assert [entry and entry["state"] for entry in found] == ["done", "done"]


def test_terminal_gets_a_live_table() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    follow.watch(["<1@x>"], playing(LIFE), console, seconds=10)
    assert "student121" in screen.getvalue()
    assert "2 steps" in screen.getvalue()


def test_no_terminal_gets_plain_lines() -> None:
    screen = io.StringIO()
    life = [request("refused", [], reason="There is no [workshop] of that name: " + "x" * 200)]
    follow.watch(["<1@x>"], playing(list(life)), Console(file=screen), seconds=10)
    assert screen.getvalue() == f"request 7 refused: There is no [workshop] of that name: {'x' * 200}\n"


def test_range_is_one_job() -> None:
    wide = request("running", [("erase", "done")])
    wide["jobs"][0]["students"] = [1, 2, 3]
    told: list[str] = []
    follow.Lines(told.append).update([wide])
    assert told == ["[7 student1-3] erase: done 0.5 s"]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path / ".mail" / "from")


def test_credentials_line_of_the_job(trace: Trace) -> None:
    noon = datetime(2023, 3, 3, 12, tzinfo=UTC)
    trace.end(121, "old12345", "WKSHP-Tea", "CREATE", noon.replace(hour=11))
    trace.end(121, "werty123", "WKSHP-Tea", "CREATE", noon)
    trace.end(121, "-", "WKSHP-Tea", "CLEANUP", noon)
    trace.end(12, "other123", "WKSHP-Tea", "CREATE", noon)
    trace.line(9, 121, "a later line")
    found = follow.credentials(trace.path, 121, "WKSHP-Tea", "CREATE", noon.timestamp() + 0.9)
    assert found == (
        "end of procmail-action for student 121 (passwd werty123) with workshop WKSHP-Tea "
        "with action CREATE at Fri Mar  3 12:00:00 UTC 2023"
    )


def test_older_lines_are_of_other_jobs(trace: Trace) -> None:
    noon = datetime(2023, 3, 3, 12, tzinfo=UTC)
    trace.end(121, "werty123", "WKSHP-Tea", "CREATE", noon)
    assert follow.credentials(trace.path, 121, "WKSHP-Tea", "CREATE", noon.timestamp() + 1) is None


def test_rotated_trace_is_looked_at_too(trace: Trace) -> None:
    noon = datetime(2023, 3, 3, 12, tzinfo=UTC)
    trace.end(121, "werty123", "WKSHP-Tea", "CREATE", noon)
    trace.path.rename(trace.path.with_name("from.20230303T120001Z"))
    trace.line(9, 121, "a new file")
    found = follow.credentials(trace.path, 121, "WKSHP-Tea", "CREATE", noon.timestamp())
    assert found is not None and "werty123" in found


def test_no_trace_at_all(tmp_path: Path) -> None:
    assert follow.credentials(tmp_path / "from", 1, "WKSHP-Tea", "CREATE", 0) is None
