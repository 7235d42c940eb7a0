"""The trace's form, its safety, its rotation."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wodmail.config import Settings
from wodmail.errors import Failed
from wodmail.logs import Masker
from wodmail.trace import Trace, date_text, trace_path, who

WHEN = datetime(2023, 3, 3, 9, 11, 39, tzinfo=UTC)


def test_the_form_of_a_job(tmp_path: Path) -> None:
    masker = Masker()
    masker.register("werty123")
    trace = Trace(tmp_path / ".mail" / "from", masker)
    trace.mail(57, 121, ["From xyz@example.org  Fri Mar  3 09:08:35 2023", " Subject: CREATE 121 0"])
    trace.line(57, 121, "+ passwd: werty123\nok\n")
    trace.end(121, "werty123", "WKSHP-API101", "CREATE", WHEN)
    assert trace.path.read_text().splitlines() == [
        "[57 student121] From xyz@example.org  Fri Mar  3 09:08:35 2023",
        "[57 student121]  Subject: CREATE 121 0",
        "[57 student121] + passwd: ****",
        "[57 student121] ok",
        "end of procmail-action for student 121 (passwd werty123) with workshop WKSHP-API101 with action CREATE"
        " at Fri Mar  3 09:11:39 UTC 2023",
    ]


def test_modes(tmp_path: Path) -> None:
    trace = Trace(tmp_path / ".mail" / "from", max_bytes=40)
    trace.path.parent.mkdir()
    trace.path.touch(0o644)
    for _ in range(3):
        trace.line(1, 2, "some words that fill the file")
    files = [file for file in trace.path.parent.iterdir() if not file.name.startswith(".")]
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_date_is_what_date_prints() -> None:
    assert date_text(WHEN.astimezone(timezone(timedelta(hours=5)))) == "Fri Mar  3 09:11:39 UTC 2023"
    printed = subprocess.run(
        ["date", "-u", "-d", "@1700000000"], env={"LC_ALL": "C", "PATH": os.environ["PATH"]}, capture_output=True
    )
    assert date_text(datetime.fromtimestamp(1700000000, UTC)) == printed.stdout.decode().strip()


def test_job_without_password(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "from")
    trace.end(7, None, "VOID", "PURGE", WHEN)
    assert "student 7 (passwd -) with workshop VOID with action PURGE at" in trace.path.read_text()


@pytest.mark.parametrize(
    ("students", "text"),
    [(7, "student7"), ([7], "student7"), ([3, 1, 2], "student1-3"), ([1, 3], "student1,3"), ([], "-")],
)
def test_who(students: int | list[int], text: str) -> None:
    assert who(students) == text


@given(st.text(max_size=300))
def test_no_text_leaves_its_prefix_or_reaches_the_terminal(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(Path(folder) / "from")
        trace.line(1, 2, text)
        content = trace.path.read_bytes().decode()
    assert content.endswith("\n")
    assert all(line.startswith("[1 student2]") for line in content[:-1].split("\n"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", content)


def test_a_script_can_not_fake_a_last_line(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "from")
    trace.line(1, 2, "x\rend of procmail-action for student 3\nend of procmail-action for student 4")
    assert not re.search(r"^end of", trace.path.read_text(), re.MULTILINE)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("safe")
    (tmp_path / "from").symlink_to(victim)
    with pytest.raises(Failed, match="trace"):
        Trace(tmp_path / "from").line(1, 2, "text")
    assert victim.read_text() == "safe"


def test_a_second_name_and_a_pipe_are_not_written(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    os.link(tmp_path / "victim", tmp_path / "from")
    with pytest.raises(Failed):
        Trace(tmp_path / "from").line(1, 2, "text")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Failed):
        Trace(tmp_path / "fifo").line(1, 2, "text")
    assert (tmp_path / "victim").read_text() == "safe"


def everything(trace: Trace) -> list[str]:
    return [line for file in (*trace.copies(), trace.path) for line in file.read_text().splitlines()]


def test_threads_and_a_second_process_lose_no_line_over_rotations(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "from", max_bytes=2000)
    program = (
        "import sys; from pathlib import Path; from wodmail.trace import Trace\n"
        "t = Trace(Path(sys.argv[1]), max_bytes=2000)\n"
        "for n in range(100): t.line(9, 9, f'other {n}')\n"
    )
    with (
        subprocess.Popen([sys.executable, "-c", program, str(trace.path)]) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda n: trace.line(n, 1, f"own {n} a\nown {n} b"), range(100)))
        assert other.wait(60) == 0
    lines = everything(trace)
    assert len(lines) == 300
    assert len(trace.copies()) > 2
    assert [line for line in lines if "other" in line] == [f"[9 student9] other {n}" for n in range(100)]
    for n in range(100):
        at = lines.index(f"[{n} student1] own {n} a")
        assert lines[at + 1] == f"[{n} student1] own {n} b"


def test_tail_follows_a_rotation(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "from", max_bytes=200)
    trace.line(1, 1, "begin")
    command = ["tail", "-n", "+1", "-s", "0.05", "-F", str(trace.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tail:
        assert tail.stdout is not None
        seen = [tail.stdout.readline()]
        for n in range(20):
            trace.line(1, 1, f"line {n}")
            seen.append(tail.stdout.readline())
        tail.terminate()
    assert len(trace.copies()) > 0
    assert seen == ["[1 student1] begin\n", *[f"[1 student1] line {n}\n" for n in range(20)]]


def test_sweep_ends_the_week_and_old_copies(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "from", retention_days=90)
    trace.line(1, 1, "old")
    now = trace.path.stat().st_mtime
    assert trace.sweep(now + 3600) == 0
    assert trace.copies() == ()
    assert trace.sweep(now + 8 * 86400) == 0
    (copy,) = trace.copies()
    assert "old" in copy.read_text()
    trace.line(1, 1, "new")
    os.utime(copy, (now - 90 * 86400, now - 90 * 86400))
    assert trace.sweep(now + 3600) == 1
    assert not copy.exists()
    assert "new" in trace.path.read_text()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace(tmp_path / "from")
    trace.line(1, 1, "whole")
    real = os.write
    answers = iter([10])

    def short(handle: int, data: bytes) -> int:
        size = next(answers, None)
        if size is None:
            raise OSError(28, "No space left on device")
        return real(handle, bytes(data[:size]))

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(Failed) as caught:
        trace.line(1, 1, "half of this")
    monkeypatch.undo()
    assert "No space left" in caught.value.operator
    assert trace.path.read_text() == "[1 student1] whole\n"


def test_where_it_is(tmp_path: Path) -> None:
    sandbox = Settings(WODSANDBOX=True, WODSTATEDIR=tmp_path)
    assert trace_path(sandbox) == tmp_path / ".mail" / "from"
    assert trace_path(Settings(WODUSER="root")) == Path(pwd.getpwnam("root").pw_dir) / ".mail" / "from"
    assert trace_path(Settings(WODUSER="nobody-of-that-name")) == Path.home() / ".mail" / "from"
