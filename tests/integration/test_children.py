"""Children with real processes: time limits, daemons, aborts, and an owner that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support import wait_until
from wodmail.children import MARKER, Children, Finished
from wodmail.errors import Failed

ENV = {"PATH": os.environ["PATH"]}
# A daemon as careful as they come: forks twice, a session of its own, no descriptor held, ignores TERM.
DAEMON = """
import os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
middle = os.getpid()
if os.fork():
    os._exit(0)
# Who looks for daemons after it has written is to find this one only.
while os.getppid() == middle:
    time.sleep(0.01)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
null = os.open(os.devnull, os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""


def run(children: Children, script: str, tmp_path: Path, timeout: float = 60, **more: object) -> Finished:
    argv = ["bash", "-c", script, "script", str(tmp_path)]
    return children.run(argv, job=1, env=ENV, cwd=tmp_path, timeout=timeout, **more)  # type: ignore[arg-type]


class Clock:
    """Time as `wodmail.children` sees it: it runs, and leaps past every limit when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        monkeypatch.setattr("wodmail.children.time", self)

    def monotonic(self) -> float:
        """Seconds, as `time.monotonic`."""
        return time.monotonic() + self.ahead

    def leap(self, line: str) -> None:
        """For `on_line`: the time is over when the script says so, however slow the machine is."""
        if line == "now":
            self.ahead += 3600


def pid_in(file: Path) -> int:
    return int(wait_until(lambda: file.exists() and file.read_text().strip(), what=str(file)))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_status_output_and_input_come_through(tmp_path: Path) -> None:
    lines: list[str] = []
    ended = run(Children(tmp_path), 'cat; echo "err" >&2; exit 3', tmp_path, stdin=b"one\ntwo", on_line=lines.append)
    assert (ended.status, ended.timed_out, ended.leftovers, ended.aborted) == (3, False, 0, False)
    assert lines == ["one", "twoerr"]
    assert ended.tail == "one\ntwoerr\n"
    assert list((tmp_path / "children").iterdir()) == []


def test_large_output_keeps_a_bounded_tail_and_unbroken_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    ended = run(
        Children(tmp_path), "seq 1 200000; head -c 300000 /dev/zero | tr '\\0' x", tmp_path, on_line=lines.append
    )
    assert lines[:200000] == [str(number) for number in range(1, 200001)]
    assert "".join(lines[200000:]) == "x" * 300000
    assert max(map(len, lines)) <= 64 * 1024
    assert ended.tail == "x" * 16 * 1024


def test_input_that_is_never_read_does_not_hang(tmp_path: Path) -> None:
    assert run(Children(tmp_path), "exec 0<&-; true", tmp_path, stdin=b"x" * 1_000_000).status == 0


def test_a_child_that_closes_its_output_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    children = Children(tmp_path)
    assert run(children, "exec >&- 2>&-; sleep 0.2; exit 4", tmp_path).status == 4
    ended = run(children, "exec >&- 2>&-; sleep 600", tmp_path, timeout=0.3)
    assert ended.timed_out
    assert ended.status == -signal.SIGTERM


def test_a_background_process_that_holds_the_pipe_is_ended(tmp_path: Path) -> None:
    ended = run(Children(tmp_path), 'sleep 600 & echo $! >"$1/pid"; echo last', tmp_path)
    assert (ended.status, ended.leftovers, ended.tail) == (0, 1, "last\n")
    assert gone(pid_in(tmp_path / "pid"))


def test_a_daemon_in_a_session_of_its_own_is_ended(tmp_path: Path) -> None:
    daemon = tmp_path / "daemon.py"
    daemon.write_text(DAEMON)
    script = f'{sys.executable} {daemon} "$1/pid"; until [ -s "$1/pid" ]; do sleep 0.01; done'
    ended = run(Children(tmp_path), script, tmp_path)
    assert (ended.status, ended.leftovers) == (0, 1)
    assert gone(pid_in(tmp_path / "pid"))


def test_the_time_limit_ends_the_whole_tree_even_when_term_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = "while :; do sleep 0.1; done"
    script = f"trap '' TERM; (trap '' TERM; echo $BASHPID >\"$1/inner\"; echo now; {forever}) & {forever}"
    ended = run(Children(tmp_path), script, tmp_path, on_line=Clock(monkeypatch).leap)
    assert ended.timed_out
    assert ended.status == -signal.SIGKILL
    assert gone(pid_in(tmp_path / "inner"))


def test_a_script_may_tidy_up_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "trap 'echo tidy; exit 9' TERM; echo now; sleep 600 & wait"
    ended = run(Children(tmp_path), script, tmp_path, on_line=Clock(monkeypatch).leap)
    assert (ended.timed_out, ended.status, ended.tail) == (True, 9, "now\ntidy\n")


def test_something_that_forks_on_and_on_is_ended(tmp_path: Path) -> None:
    again = "again() { for _ in 1 2 3; do sleep 0.05 & done; wait; again & }"
    script = f"trap '' TERM; {again}; again; again; wait; sleep 600"
    ended = run(Children(tmp_path), script, tmp_path, timeout=0.5)
    marked = [
        each
        for each in psutil.process_iter(["environ"])
        if str(tmp_path) in " ".join((each.info["environ"] or {}).values())
    ]
    assert ended.timed_out
    assert [each for each in marked if not gone(each.pid)] == []


def test_abort_from_another_thread_ends_that_job_alone(tmp_path: Path) -> None:
    children = Children(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with ThreadPoolExecutor(2) as pool:
        ended = pool.submit(run, children, 'echo $$ >"$1/pid"; sleep 600', tmp_path)
        reader = ["sh", "-c", "echo $$ >other; cat fifo"]
        other = pool.submit(children.run, reader, job=2, env=ENV, cwd=tmp_path, timeout=60)
        pid_in(tmp_path / "pid")
        pid_in(tmp_path / "other")
        assert children.end_job(1) >= 1
        assert ended.result(60).aborted
        assert not ended.result().timed_out
        (tmp_path / "fifo").write_text("still here")
        assert (other.result(60).status, other.result().tail, other.result().aborted) == (0, "still here", False)


def test_a_listener_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(line: str) -> None:
        raise OSError(line)

    with pytest.raises(OSError, match="boom"):
        run(Children(tmp_path), 'echo $$ >"$1/pid"; echo boom; sleep 600', tmp_path, on_line=fail)
    assert gone(pid_in(tmp_path / "pid"))


def test_what_can_not_start_says_so(tmp_path: Path) -> None:
    children = Children(tmp_path)
    with pytest.raises(Failed) as error:
        children.run(["true"], job=1, env=ENV, cwd=tmp_path / "missing", timeout=60)
    assert "missing" in error.value.operator
    ended = children.run(["no-such-program"], job=1, env=ENV, cwd=tmp_path, timeout=60)
    assert ended.status == 127
    assert "no-such-program" in ended.tail


def test_fifty_at_once_from_fifty_threads(tmp_path: Path) -> None:
    children = Children(tmp_path)
    with ThreadPoolExecutor(50) as pool:
        ended = list(pool.map(lambda number: run(children, f"sleep 0.1; echo {number}", tmp_path), range(50)))
    assert [each.tail for each in ended] == [f"{number}\n" for number in range(50)]
    assert all(each.status == 0 and each.leftovers == 0 for each in ended)


def test_the_prefix_guards_a_program_that_others_start(tmp_path: Path) -> None:
    children = Children(tmp_path)
    argv, env = children.prefix(7)
    child = subprocess.Popen([*argv, "bash", "-c", f"sleep 600 & echo $! >{tmp_path}/pid; exit 0"], env={**ENV, **env})
    sleeper = pid_in(tmp_path / "pid")
    assert child.wait(60) == 0
    assert os.getsid(sleeper) == child.pid != os.getsid(0)
    assert children.end_started(env) == 1
    assert gone(sleeper)
    assert list((tmp_path / "children").iterdir()) == []


def test_abort_reaches_a_prefixed_program(tmp_path: Path) -> None:
    children = Children(tmp_path)
    argv, env = children.prefix(7)
    child = subprocess.Popen([*argv, "sleep", "600"], env={**ENV, **env}, start_new_session=True)
    waiter = threading.Thread(target=child.wait)
    waiter.start()
    wait_until(lambda: psutil.Process(child.pid).name() == "sleep", what="the program behind the launcher")
    assert children.end_job(8) == 0
    assert children.end_job(7) == 1
    waiter.join(60)
    assert child.returncode == -signal.SIGTERM


OWNER = """
import os, sys
from pathlib import Path
from wodmail.children import Children
here = Path(sys.argv[1])
argv = ["bash", "-c", sys.argv[2], "script", str(here)]
Children(here).run(argv, job=3, env={"PATH": os.environ["PATH"]}, cwd=here, timeout=600)
"""


def test_what_a_killed_owner_left_is_ended_whole(tmp_path: Path) -> None:
    daemon = tmp_path / "daemon.py"
    daemon.write_text(DAEMON)
    script = f'{sys.executable} {daemon} "$1/daemon"; sleep 600 & echo $! >"$1/sleeper"; echo $$ >"$1/leader"; wait'
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), script])
    pids = [pid_in(tmp_path / name) for name in ("daemon", "sleeper", "leader")]
    assert Children(tmp_path).end_orphans() == 0  # its owner lives
    owner.kill()
    # Not reaped yet: a killed owner is a zombie, which is as dead as can be.
    wait_until(lambda: psutil.Process(owner.pid).status() == psutil.STATUS_ZOMBIE, what="the owner's end")
    assert not any(gone(pid) for pid in pids)
    assert Children(tmp_path / "elsewhere").end_orphans() == 0  # another state folder's business
    assert Children(tmp_path).end_orphans() == 3
    assert all(gone(pid) for pid in pids)
    assert list((tmp_path / "children").iterdir()) == []
    owner.wait()


def test_a_reused_pid_is_never_ended(tmp_path: Path) -> None:
    children = Children(tmp_path)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        stat = Path(f"/proc/{stranger.pid}/stat").read_text()
        front, _, rest = stat.rpartition(")")
        fields = rest.split()
        fields[19] = str(int(fields[19]) - 1)
        (tmp_path / "children" / f"{boot}:{os.getpid()}:1:3:1").write_text(f"{front}) {' '.join(fields)}\n")
        (tmp_path / "children" / f"{boot}:{os.getpid()}:1:3:2").write_text("")  # killed while it wrote
        (tmp_path / "children" / f"00000000:{os.getpid()}:1:3:3").write_text(stat)  # before the last boot
        assert children.end_orphans() == 0
        assert stranger.poll() is None
        stranger.kill()
    assert list((tmp_path / "children").iterdir()) == []


def test_the_servers_mask_is_not_passed_on(tmp_path: Path) -> None:
    children = Children(tmp_path)
    before = os.umask(0o077)
    try:
        assert run(children, "umask", tmp_path).tail == "0022\n"
    finally:
        os.umask(before)


def test_the_marker_names_owner_and_job(tmp_path: Path) -> None:
    tail = run(Children(tmp_path), f"echo ${MARKER}", tmp_path).tail
    assert f":{os.getpid()}:" in tail
    assert tail.strip().endswith(":1:1")
