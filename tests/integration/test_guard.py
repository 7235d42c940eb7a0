"""wod-kill-processes on real processes of real Linux students: what is caught, what is left alone, who is never hit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from tests import asuser
from tests.guards import configured, mails, own_copy, run_as
from tests.linux_students import BASE, FIRST, SERVICE, running, users
from tests.parts import missing
from tests.support import free_port, wait_until
from wodmail import processes
from wodmail.catalog import Catalog
from wodmail.cli import guard as commands
from wodmail.errors import Temporary
from wodmail.guard import evidence, lines, load, policy, purge, scan, stop
from wodmail.guard.judge import Finding
from wodmail.guard.lineage import Origin
from wodmail.guard.policy import Rung
from wodmail.guard.scan import Watcher
from wodmail.guard.sittings import Asker, Beside, Sittings
from wodmail.guard.watch import Seen, Students
from wodmail.guard.work import Cycle, Guard
from wodmail.intake import Intake
from wodmail.mail.listener import Listener
from wodmail.mail.spool import Spool
from wodmail.model import State
from wodmail.registry.embedded import EmbeddedRegistry
from wodmail.store import iso, jobs, open_store, requests, sessions

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("guard")]

FIRST_UID = BASE + FIRST
NOBODY = 65534
BURN = ("sha256sum", "/dev/zero")
KERNEL = "while True: pass\n"
KERNEL_WORDS = ("-m", "ipykernel_launcher")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Real students, once for this file."""
    with users() as made:
        yield made


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of a test; all that is left of them and of students ends with it."""
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()
    while left := running(*range(FIRST_UID, FIRST_UID + 4)):
        for each in left:
            os.kill(each.pid, signal.SIGKILL)


@pytest.fixture
def site(folder: Path) -> Iterator[Path]:
    """The folder without what an earlier test left in it."""
    yield folder
    for name in ("private", "state", "outbox"):
        shutil.rmtree(folder / name, ignore_errors=True)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is only slow, never away, unless a test says otherwise."""
    monkeypatch.setattr(Beside.__init__, "__defaults__", (60.0,))


def home(site: Path, student: int = FIRST) -> Path:
    return site / "students" / f"student{student}"


def found_by(guard: Guard, rule: str, *, seconds: float = 60) -> Cycle:
    """Run cycles until one finds something by that rule."""

    def look() -> Cycle | None:
        cycle = guard.cycle()
        return cycle if rule in {each.rule for each in cycle.findings} else None

    cycle = wait_until(look, seconds=seconds, every=0.1, what=f"a finding by {rule}")
    assert cycle is not None
    return cycle


PYTHON = str(Path("/usr/bin/python3").resolve())
SPAWNS = """import subprocess, sys
home, uid = sys.argv[1], int(sys.argv[2])
below = "import subprocess, sys; subprocess.run(sys.argv[1:])"
subprocess.run([sys.argv[3], "-c", below, *sys.argv[3:]], user=uid, group=uid, extra_groups=[], cwd=home)
"""


def hub(site: Path, *argv: str) -> subprocess.Popen[bytes]:
    """A hub in Python that has started a student's server; below that Python runs what is given."""
    if not Path(PYTHON).exists():
        missing("python", "no /usr/bin/python3 here; a kernel must be a program of the system")
    script = site / "hub" / "bin" / "jupyterhub"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SPAWNS, encoding="ascii")
    (home(site) / "ipykernel_launcher.py").write_text(KERNEL, encoding="ascii")
    return run_as(0, PYTHON, str(script), str(home(site)), str(FIRST_UID), PYTHON, *argv)


def kernel(site: Path) -> int | None:
    """The pid of the student's kernel, when it runs."""
    found = [each for each in Watcher(Students(BASE, FIRST, FIRST)).scan() if each.argv[1:3] == KERNEL_WORDS]
    return found[0].pid if found else None


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a process of a test."""
    process.kill()
    process.wait()


def test_a_renamed_burner_is_warned_of_stopped_and_purged_by_mail(site: Path, started: list[Any]) -> None:
    settings = configured(site, WODPOSTPORT=free_port())
    copy = own_copy("sha256sum", home(site), "python3", FIRST_UID)
    # It takes a kernel's name, and one that would write into a terminal.
    argv = ["python3 -m ipykernel_launcher\n\x1b[2J\x07[red]", "/dev/zero"]
    started.append(run_as(FIRST_UID, *argv, executable=str(copy)))
    guard = Guard(settings)
    cycle = found_by(guard, "cpu")
    assert started[0].wait(10) == -signal.SIGKILL
    (case,) = guard.cases.cases.values()
    assert (case.student, case.stops, guard.cases.wanted()) == (FIRST, 1, {})
    assert cycle.done[1].startswith("stopped 1 process(es)")

    kept = json.loads(guard.evidence.file(case).read_text(encoding="ascii"))
    (process,) = kept["processes"]
    assert process["command_line"] == argv
    assert process["program"]["path"] == str(copy) and process["program"]["owner"] == FIRST_UID
    digest = subprocess.run(["sha256sum", copy], capture_output=True, text=True, check=True).stdout.split()[0]
    assert process["program"]["sha256"] == digest
    assert process["cpu_rate_cores"] > 0.1 and process["cpu_series_cores"]
    assert (kept["actions"][0]["action"], guard.evidence.file(case).stat().st_mode & 0o777) == ("stop", 0o600)

    started.append(run_as(FIRST_UID, *argv, executable=str(copy)))  # and again: the second stop leads to a PURGE
    found_by(guard, "cpu")
    assert guard.cases.wanted() == {FIRST: case.name}  # no backend answers yet
    (mail, trouble) = mails(site) if "could not be asked" in mails(site)[1] else mails(site)[::-1]
    assert "No mail server answers" in trouble
    assert "\\n\\x1b[2J\\x07[red]" in mail and "\x1b" not in mail and "\x07" not in mail
    assert digest in mail and str(copy) in mail

    _accepted(guard, settings, case.name)
    assert [text for text in mails(site) if f"PURGE {FIRST} 0 was sent" in text]
    assert len(mails(site)) == 3


def _accepted(guard: Guard, settings: Any, name: str) -> None:
    """The guard's mail reaches a listener, and intake makes a PURGE of exactly that student of it."""
    spool = Spool(settings.WODSTATEDIR / "spool")
    listener = Listener(settings, spool, lambda: None)
    listener.start()
    try:
        guard._next_purge = 0.0
        assert f"PURGE {FIRST} 0: sent" in guard.cycle().done
    finally:
        listener.stop()
    (key,) = spool.new()
    assert spool.read(key).raw.splitlines().count(f"Subject: PURGE {FIRST} 0".encode()) == 1
    store = open_store(settings)
    store.migrate()
    try:
        seats = EmbeddedRegistry(settings, Catalog(settings.WODNOBO))
        intake = Intake(settings, spool, store, seats, lambda: None, lambda _spec, step: [step.what])
        assert intake.run() == 1
        (row,) = store.rows(sa.select(requests.c.id))
        (request,) = store.describe([row["id"]])
    finally:
        store.close()
    assert (request["action"], request["students"], request["state"]) == ("PURGE", [FIRST], State.WAITING)
    assert guard.cases.wanted() == {}
    assert guard.cases.seats[FIRST].purged is not None


def test_a_busy_kernel_is_left_alone_until_its_session_is_over(site: Path, started: list[Any]) -> None:
    settings = configured(site, {"kernels": {"limit_seconds": 3000}}, JPHUB=str(site / "hub"))
    started.append(hub(site, "-m", "ipykernel_launcher", "-f", "k.json"))
    pid = wait_until(lambda: kernel(site), what="the kernel")
    track = wait_until(lambda: _over(Guard(settings), pid, 0), what="a look at the kernel below its server")
    ended(started[0])  # the hub is away, so the server is nobody's child any more; the guard was there before
    guard = Guard(settings)
    track = wait_until(lambda: _over(guard, pid, 1.0), every=0.1, what="a second of a busy kernel")
    assert track.rate_cores > 0.1
    assert (guard.cycle().findings, kernel(site)) == ([], pid)
    change = guard.policy.kernels.model_copy(update={"limit_seconds": 0.5})
    guard.judge.replace(guard.policy.model_copy(update={"kernels": change}))
    store = open_store(settings)
    store.migrate()
    ends = {"remind": time.time() + 60, "ends": time.time() + 3600, "reminded": False, "state": "on"}
    who = {"job": 1, "backend": store.backend, "request": 1, "student": FIRST, "workshop": "WKSHP-X", "participant": 0}
    with store.transaction() as connection:
        connection.execute(sessions.insert(), {**who, **ends})
    guard._next_sessions = float("-inf")
    assert (guard.cycle().findings, kernel(site)) == ([], pid)  # its session goes on
    with store.transaction() as connection:
        connection.execute(sessions.delete())
    store.close()
    guard._next_sessions = float("-inf")
    (found,) = guard.cycle().findings
    assert (found.rule, found.then.word, kernel(site)) == ("kernel-age", "stop", None)
    assert guard.cases.seats == {}  # an old kernel is no reason for a PURGE


def _over(guard: Guard, pid: int, seconds: float) -> Any:
    guard.cycle()
    tracks = [track for key, track in guard.judge.tracks.items() if key[0] == pid]
    return tracks[0] if tracks and tracks[0].over_seconds >= seconds else None


FAKES = {
    "a module of the student's own": [PYTHON, "-m", "notebook"],
    "a kernel that no server has started": [PYTHON, "-m", "ipykernel_launcher", "-f", "k.json"],
    "a daemon": ["setsid", "--fork", PYTHON, "-m", "jupyterhub.singleuser"],
}


def test_servers_and_kernels_are_what_the_hub_has_started(site: Path, started: list[Any]) -> None:
    # Nothing is stopped: on a busy machine all of them together may be found before one of them is.
    settings = configured(site, {"ladder": {"stop_after_seconds": 600}}, JPHUB=str(site / "hub"))
    for name in ("notebook", "ipykernel_launcher", "jupyterhub/singleuser"):
        (home(site) / f"{name}.py").parent.mkdir(exist_ok=True)
        (home(site) / f"{name}.py").write_text(KERNEL, encoding="ascii")
    started.append(hub(site, "-c", "import signal; signal.pause()", "below"))
    # As a student's below `su`: root's process that is no hub, whose words say that it were one.
    code = "import subprocess, sys; subprocess.run(sys.argv[3:], user=int(sys.argv[2]), extra_groups=[])"
    below_su = [sys.executable, "-c", code, str(site / "hub" / "bin" / "jupyterhub.py"), str(FIRST_UID)]
    started.append(run_as(0, *below_su, *FAKES["a module of the student's own"], cwd=home(site)))
    for argv in FAKES.values():
        started.append(run_as(FIRST_UID, *argv, cwd=home(site)))
    guard = Guard(settings)
    wait_until(lambda: len([each for each in guard.watcher.scan() if "-m" in each.argv]) == 4, what="all four")
    wait_until(lambda: len([each for each in guard.watcher.scan() if "below" in each.argv]) == 2, what="the server")
    look = guard.watcher.scan()
    guard.judge.lineage.look(look)
    assert [each.argv for each in look if guard.judge.allowed(each) is not None] == []
    assert [guard.judge.lineage.of(each) for each in look if "below" in each.argv] == [Origin.SERVER, Origin.BELOW]
    cycle = found_by(guard, "cpu")
    assert {each.pid for each in next(f for f in cycle.findings if f.rule == "cpu").processes} <= {
        each.pid for each in look if "-m" in each.argv
    }


def test_root_and_others_are_never_touched(site: Path, started: list[Any]) -> None:
    everything = {"names": ["*"], "command_lines": [".*"], "readers": []}
    settings = configured(site, {"denied": everything, "cpu": {"limit_cores": 0.0001, "longer_than_seconds": 0}})
    below, above = BASE + FIRST - 1, BASE + FIRST + 4
    others = [run_as(uid, "sleep", "60") for uid in (0, NOBODY, below, above)]
    mixed = subprocess.Popen(
        ["setpriv", f"--ruid={FIRST_UID}", "sleep", "60"]
    )  # a student's program with root's rights
    started += [*others, mixed, run_as(FIRST_UID, "sleep", "60")]
    wait_until(lambda: psutil.Process(mixed.pid).uids().real == FIRST_UID, what="setpriv to have done its work")
    guard = Guard(settings)
    assert found_by(guard, "name").processes == 1
    assert started[-1].wait(10) == -signal.SIGKILL
    assert [process.poll() for process in [*others, mixed]] == [None] * 5
    assert {each.student for each in guard.watcher.scan()} <= {FIRST}
    # Nor by a signal that is aimed at one of them.
    for process in [*others, mixed]:
        known = processes.lookup(process.pid)
        assert known is not None
        aimed = _seen(known.pid, known.start)
        assert not stop.send(guard.watcher.students, aimed, signal.SIGKILL)
        assert not stop.send(Students(0, 0, 10**6), aimed, signal.SIGKILL) or process is others[-1]
    assert others[0].poll() is None


def _seen(pid: int, start: int, student: int = FIRST) -> Seen:
    return Seen(pid, start, student, 1, "x", ("x",), "/x", None, 0.0, 0.0, 1.0, False)


def test_a_pid_that_is_another_by_now_is_not_hit(site: Path, started: list[Any]) -> None:
    started.append(run_as(FIRST_UID, "sleep", "60"))
    known = processes.lookup(started[0].pid)
    assert known is not None
    students = Students(BASE, FIRST, FIRST + 3)
    for wrong in (_seen(known.pid, known.start - 1), _seen(known.pid, known.start, FIRST + 1)):
        assert not stop.send(students, wrong, signal.SIGKILL)
    assert started[0].poll() is None
    assert stop.send(students, _seen(known.pid, known.start), signal.SIGKILL)
    assert started[0].wait(10) == -signal.SIGKILL
    assert not stop.send(students, _seen(known.pid, known.start), signal.SIGKILL)


BOMB = """
import os, resource, signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_NPROC, (15, 15))
while True:
    try:
        if os.fork() and os.getpid() % 3 == 0:
            os._exit(0)  # a parent that is gone: its children are nobody's
    except OSError:
        pass
"""


def test_a_student_that_forks_faster_than_it_is_killed(site: Path, started: list[Any]) -> None:
    settings = configured(site, {"cpu": {"together_limit_cores": 0.03, "longer_than_seconds": 0.2}})
    started.append(run_as(FIRST_UID, "/usr/bin/python3", "-c", BOMB))
    started.append(run_as(FIRST_UID + 1, "sleep", "60"))
    wait_until(lambda: len(running(FIRST_UID)) > 8, what="a bomb")
    guard = Guard(settings)

    def over() -> bool:
        guard.cycle()
        return not running(FIRST_UID) or FIRST in guard.cases.wanted()

    assert wait_until(over, seconds=120, every=0.1, what="the end of the bomb, or the PURGE that ends it")
    assert started[1].poll() is None
    assert {case.student for case in guard.cases.cases.values()} == {FIRST}


def test_connections_to_a_mining_port(site: Path, started: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as pool:
        port = pool.getsockname()[1]
        settings = configured(site, {"connections": {"ports": [port], "loopback_then": "stop"}})
        program = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.recv(1)"
        started.append(run_as(FIRST_UID, "/usr/bin/python3", "-c", program))
        ours = socket.create_connection(("127.0.0.1", port))  # root's own connection is nobody's business
        guard = Guard(settings)
        (found,) = found_by(guard, "port-loopback").findings
        assert f"connected to 127.0.0.1 port {port}" in found.words
        assert [each.pid for each in found.processes] == [started[0].pid]
        ours.close()
    (case,) = guard.cases.cases.values()
    (process,) = json.loads(guard.evidence.file(case).read_text())["processes"]
    assert any(f"127.0.0.1 port {port} ESTABLISHED" in each for each in process["connections"])
    assert started[0].wait(10) == -signal.SIGKILL


SERVES = """import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=False)
made, _ = server.accept()
if sys.argv[2] == "once":
    server.close()
made.sendall(b"!")
made.recv(1)
"""


def called(site: Path, started: list[Any], port: int, manner: str) -> tuple[socket.socket, int]:
    """A connection to a student's service, and the port that it was made from."""
    started.append(run_as(FIRST_UID, "/usr/bin/python3", "-c", SERVES, str(port), manner))

    def connected() -> socket.socket | None:
        caller = socket.socket()
        try:
            caller.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            caller.close()
            return None
        return caller

    caller = wait_until(connected, what="the student's service")
    assert caller is not None and caller.recv(1) == b"!"
    return caller, caller.getsockname()[1]


def low_port() -> int:
    """A free port of those that the system gives to nobody who asks for none."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in range(lowest - 1, 1024, -1):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def test_whoever_calls_a_students_service_does_not_choose_what_the_student_is_found_for(
    site: Path, started: list[Any]
) -> None:
    caller, port = called(site, started, free_port(), "always")
    with caller:
        guard = Guard(configured(site, {"connections": {"ports": [port], "loopback_then": "purge"}}))
        assert guard.cycle().findings == []
    caller, port = called(site, started, low_port(), "once")
    with caller:
        guard = Guard(configured(site, {"connections": {"ports": [port], "loopback_then": "purge"}}))
        (found,) = guard.cycle().findings
        assert (found.then, found.words.endswith("by whom can't be told")) == (Rung.WARN, True)
        guard.cycle()
        assert started[-1].poll() is None


# Its first thread ends, and its own folder in /proc shows neither program nor command line nor descriptors any more.
HEADLESS = """
import ctypes, platform, socket, sys, threading
pool = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
threading.Thread(target=pool.recv, args=(1,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""
# A thread with descriptors of its own (CLONE_FILES undone), which the process's folder doesn't show.
APART = """
import ctypes, socket, sys, threading
def work():
    if ctypes.CDLL(None).unshare(0x400):
        return
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))).recv(1)
threading.Thread(target=work).start()
"""
# The connection is on its way from the process to itself, and in nobody's descriptors.
POSTED = """
import signal, socket, sys
ends = socket.socketpair()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as pool:
    socket.send_fds(ends[0], [b"x"], [pool.fileno()])
signal.pause()
"""


def wired(site: Path, started: list[Any], pool: socket.socket, program: str) -> tuple[Guard, socket.socket]:
    """A student's program that has connected to a pool, and a guard who takes offence at that."""
    port = pool.getsockname()[1]
    settings = configured(site, {"connections": {"ports": [port], "loopback_then": "purge"}})
    started.append(run_as(FIRST_UID, "/usr/bin/python3", "-c", program, str(port)))
    return Guard(settings), pool.accept()[0]


def descriptors(pid: int) -> int:
    """How many sockets a process holds."""
    return sum(target.startswith("socket:") for target in map(os.readlink, Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("program", [HEADLESS, APART], ids=["first thread has ended", "descriptors of its own"])
def test_a_connection_of_some_thread_is_its_processes(site: Path, started: list[Any], program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as pool:
        guard, connection = wired(site, started, pool, program)
        if program == HEADLESS:
            stat = Path(f"/proc/{started[0].pid}/stat")
            wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", what="the first thread's end")
        with connection:
            (found,) = found_by(guard, "port-loopback").findings
            (process,) = found.processes
            assert (process.exe, process.argv[1:2], process.pid) == (PYTHON, ("-c",), started[0].pid)
            (case,) = guard.cases.cases.values()
            (kept,) = json.loads(guard.evidence.file(case).read_text(encoding="ascii"))["processes"]
            assert kept["program"]["sha256"]
            assert bool(kept["connections"]) is (program == HEADLESS)
            assert started[0].wait(10) == -signal.SIGKILL


def test_a_connection_that_no_process_has_leads_to_a_purge(site: Path, started: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as pool:
        guard, connection = wired(site, started, pool, POSTED)
        with connection:
            # The program holds its own end for a moment still; then it has the pair only.
            wait_until(lambda: descriptors(started[0].pid) == 2, what="the end of its own descriptor")
            (found,) = wait_until(lambda: [f for f in guard.cycle().findings if not f.processes], what="nobody's")
            assert "a process that could not be found" in found.words
            wait_until(lambda: guard.cycle() and FIRST in guard.cases.wanted(), what="the PURGE")
            assert started[0].poll() is None


def test_five_hundred_processes_in_a_tenth_of_a_second(site: Path, started: list[Any]) -> None:
    settings = configured(site)
    program = "import os, signal\nfor _ in range(499):\n    if not os.fork(): break\nsignal.pause()"
    started.append(run_as(FIRST_UID, "/usr/bin/python3", "-c", program))
    wait_until(lambda: len(Watcher(Students.of(settings)).scan()) >= 500, what="500 processes")
    guard = Guard(settings)
    costs = []
    for _ in range(7):
        used = time.process_time()  # the clock on the wall would also measure what else this machine does
        look = guard._look(time.monotonic())
        guard.judge.judge(look)
        costs.append(time.process_time() - used)
        assert len(look.processes) >= 500
    assert min(costs) < 0.1, costs
    assert guard.watcher.hidden == {}
    # A whole cycle, files included, at the shipped interval.
    used = time.process_time()
    guard.cycle()
    shipped = policy.load(settings.model_copy(update={"WODSYSPRIVDIR": None})).interval_seconds
    assert (time.process_time() - used) / shipped < 0.01


def test_processes_that_hide_their_command_lines_hold_up_a_look_once(
    site: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their command lines never come, as in a file system of the student's own; an event stands for that."""
    sleeper = own_copy("sleep", home(site), "hides", FIRST_UID)
    started += [run_as(FIRST_UID, str(sleeper), "60") for _ in range(24)]
    started.append(run_as(FIRST_UID + 1, "sleep", "60"))
    wait_until(lambda: len(Watcher(Students.of(configured(site))).scan()) == 25, what="the processes")
    released, real, hiding = threading.Event(), scan._argv, {f"/proc/{each.pid}" for each in started[:-1]}

    def held(place: str) -> tuple[str, ...]:
        if place in hiding:
            released.wait(30)
        return real(place)

    monkeypatch.setattr(scan, "_argv", held)
    guard, beats = Guard(configured(site, {"ladder": {"stop_after_seconds": 60}})), []
    guard.watcher = Watcher(guard.watcher.students, 0.4, lambda: beats.append(1))
    try:
        begun = time.monotonic()
        (found,) = guard.cycle().findings
        assert time.monotonic() - begun < 8  # one after another they would take ten
        assert (found.rule, len(found.processes), len(beats) > 1) == ("hidden", 24, True)
        after = Guard(guard.settings)  # it knows them, and waits for none of them
        after.watcher._seconds = 20
        begun = time.monotonic()
        (found,) = after.cycle().findings
        assert (time.monotonic() - begun < 8, len(found.processes)) == (True, 24)
        after.cases.ladder = after.cases.ladder.model_copy(update={"stop_after_seconds": 0})
        after.cycle()
        assert [each.wait(10) for each in started[:-1]] == [-signal.SIGKILL] * 24
        assert started[-1].poll() is None
    finally:
        released.set()


def test_command_lines_take_no_more_memory_than_there_is_for_them(
    site: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"{number:05}" for number in range(15_000)]
    pattern = "stratum+tcp://pool.example"
    idle = ["sh", "-c", "kill -STOP $$", *["x"] * 1000, pattern, *words]
    started += [run_as(FIRST_UID, *idle) for _ in range(4)]
    watcher = Watcher(Students.of(configured(site)))
    first = wait_until(lambda: [e for e in watcher.scan() if e.argv[:1] == ("sh",)][3:] and watcher.scan(), what="four")
    for each in first:
        assert len(each.argv) <= 256 and sum(map(len, each.argv)) <= 8192
        assert Guard(configured(site)).judge.programs.denied(each) == ("command-line", "stratum+tcp://")
    again = watcher.scan()
    assert [one.argv is two.argv for one, two in zip(first, again, strict=True)] == [True] * 4
    monkeypatch.setattr(lines, "_KEPT", 2 * sum(map(sys.getsizeof, first[0].argv)))
    watcher.search = Guard(configured(site)).judge.programs.search
    cut = watcher.scan()
    assert sorted(len(each.argv) for each in cut) == [6, 6, 256, 256]
    denied = [Guard(configured(site)).judge.programs.denied(each) for each in cut]
    assert denied == [("command-line", "stratum+tcp://")] * 4
    monkeypatch.setattr(lines, "_KEPT", 0)
    (found,) = [each for each in Guard(configured(site)).cycle().findings if each.rule == "command-line"]
    assert len(found.processes) == 4


HIDES = "import ctypes, signal; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); signal.pause()"  # PR_SET_DUMPABLE
MOUNTS = 'mount --bind "$0" /usr/bin/python3 && exec -a python3 /usr/bin/python3 /dev/zero'


def test_tricks_that_make_a_process_look_like_anothers(site: Path, started: list[Any]) -> None:
    started.append(run_as(FIRST_UID, "/usr/bin/python3", "-c", HIDES))
    watcher = Watcher(Students(BASE, FIRST, FIRST + 3))
    folder = Path(f"/proc/{started[0].pid}")
    wait_until(lambda: (folder / "environ").stat().st_uid == 0, what="a process that hides from the student's own eyes")
    assert [each.pid for each in watcher.scan()] == [started[0].pid]
    started[0].kill()
    # A view of the file system in which the kernel's Python is the student's own program.
    copy = own_copy("sha256sum", home(site), "burner", FIRST_UID)
    started.append(
        run_as(FIRST_UID, "unshare", "--user", "--map-root-user", "--mount", "bash", "-c", MOUNTS, str(copy))
    )
    guard = Guard(configured(site))

    def burner() -> list[Seen] | int | None:
        return [each for each in watcher.scan() if "/dev/zero" in each.argv] or started[1].poll()

    found = wait_until(burner, what="the burner")
    if not isinstance(found, list):
        missing("unshare", "this kernel gives students no namespaces, so they can't try this")
    assert found[0].exe.startswith("/usr/bin/python3")
    assert guard.judge.programs.allowed(found[0]) is None
    assert guard.judge.programs.allowed(found[0]._replace(argv=("python3", "-m", "ipykernel_launcher"))) is None
    found_by(guard, "cpu")
    assert started[1].wait(10) == -signal.SIGKILL


def test_a_flood_of_findings_hides_neither_load_nor_purges(site: Path, started: list[Any]) -> None:
    changes = {"ladder": {"mails_an_hour": 1}, "load": {"load_limit_per_core": 0.0001, "longer_than_seconds": 0}}
    settings = configured(site, {**changes, "denied": {"names": ["sleep"], "then": "warn"}})
    started += [run_as(FIRST_UID + more, "sleep", "60") for more in range(3)]
    guard = Guard(settings.model_copy(update={"WODOUTBOX": None, "WODSMTPURL": f"smtp://127.0.0.1:{free_port()}"}))
    guard.cases.tell(FIRST, "a-case", "words", "")
    guard.cycle()
    guard.cycle()
    assert [kind.split("-")[0] for kind in guard.letters.waiting if kind.startswith("load")] == ["load"]
    assert guard.alarm._told == {}  # nothing was handed over
    later = Guard(settings)
    later.cycle()
    subjects = [text.partition("Subject: ")[2].splitlines()[0] for text in mails(site)]
    assert len([each for each in subjects if "denied" in each]) == 1
    assert len([each for each in subjects if "too much to do" in each or "PURGE" in each]) == 2
    assert (set(later.alarm._told), later.cases.letters) == ({"load"}, {})
    silent = Guard(settings.model_copy(update={"WODMONITOR": None}))
    silent.cases.tell(FIRST, "another", "words", "")
    silent.cycle()
    assert silent.cases.letters == {}  # nobody is to be told


def test_the_jobs_tell_who_sits_there_and_how_long(site: Path) -> None:
    workshop = site / "notebooks" / "WKSHP-Long"
    workshop.mkdir(parents=True, exist_ok=True)
    (workshop / "wod.yml").write_text("name: Long\nduration: 6\n", encoding="ascii")
    settings = configured(site, WODNOBO=str(site / "notebooks"), WODAPIDBEXTURL="https://api.example.org/api")
    asker = Asker(settings)
    assert asker.ask() is None
    store = open_store(settings)
    store.migrate()

    def done(student: int, action: str, at: float, state: str = "done") -> None:
        mail = {"backend": store.backend, "state": state, "action": action, "students": f"[{student}]"}
        with store.transaction() as connection:
            told = {"spool_key": f"{student}-{at}", "received": iso(at), "received_at": at}
            row = connection.execute(requests.insert(), {**told, **mail})
            values = {"request": row.inserted_primary_key[0], "workshop": "WKSHP-Long", "finished": iso(at), **mail}
            connection.execute(jobs.insert(), values)

    done(FIRST, "CREATE", 2000.0)
    done(FIRST + 1, "CREATE", 1000.0)
    first = asker.ask()
    assert first is not None and first == asker.ask()
    assert (set(first.who), first.limits) == ({FIRST, FIRST + 1}, {FIRST: 21600, FIRST + 1: 21600})
    done(FIRST, "CLEANUP", 500.0)  # the clock was set back
    done(FIRST + 1, "CLEANUP", 3000.0, "failed")
    found = asker.ask()
    store.close()
    assert found is not None and found.limits == {FIRST + 1: 21600}
    assert [found.who[each] == first.who[each] for each in (FIRST, FIRST + 1)] == [False, True]


def old_kernel(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard sees a kernel that is five hours old, and nothing else."""
    seen = _seen(100, 1000)._replace(age_seconds=5 * 3600.0)
    entry = next(each for each in guard.policy.allowed if each.kernel)
    monkeypatch.setattr(guard.watcher, "scan", lambda _only=None: [seen])
    monkeypatch.setattr(guard.judge.programs, "allowed", lambda _seen: entry)


def test_a_database_that_is_silent_neither_holds_up_the_guard_nor_ends_a_kernel(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/x"
        guard = Guard(configured(site, WODDATABASEURL=url), dry_run=True)
        answer, answered = threading.Event(), Sittings({}, {}, frozenset())
        asker = Asker(guard.settings)
        asked: list[object] = []

        def ask() -> Sittings | None:
            asked.append(0)
            if len(asked) == 1:
                with pytest.raises(Temporary):
                    asker.ask()
            answer.wait(60)
            return answered

        guard._sittings = Beside(ask, 0.1)
        old_kernel(guard, monkeypatch)
        for _ in range(3):
            guard._next_sessions = float("-inf")
            assert guard.cycle().findings == []
        assert len(asked) == 1
        answer.set()

        def found() -> list[str]:
            guard._next_sessions = float("-inf")
            return [each.rule for each in guard.cycle().findings]

        assert wait_until(found, seconds=60, what="the answer") == ["kernel-age"]


def test_a_guard_that_starts_without_a_database_ends_no_kernel(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = f"postgresql://u:p@127.0.0.1:{free_port()}/x"
    guard = Guard(configured(site, WODDATABASEURL=away), dry_run=True)
    old_kernel(guard, monkeypatch)
    assert guard.cycle().findings == []
    guard = Guard(configured(site), dry_run=True)  # no server has run yet: nobody has a session
    old_kernel(guard, monkeypatch)
    assert [each.rule for each in guard.cycle().findings] == ["kernel-age"]


def test_a_finding_is_of_whoever_sits_there_when_it_is_found(site: Path, started: list[Any]) -> None:
    """Also when the CREATE was done since the guard asked last."""
    guard = Guard(configured(site, {"denied": {"names": ["sleep"], "then": "warn"}}))
    who = ["1, a CREATE"]
    guard._sittings = Beside(lambda: Sittings({FIRST: who[-1]}, {}, frozenset()))
    guard.cycle()
    who.append("2, another CREATE")
    started.append(run_as(FIRST_UID, "sleep", "60"))
    found_by(guard, "name")
    guard.cycle()
    assert len(list((guard.folder / "evidence").iterdir())) == 1
    who.append("3, a CLEANUP")
    guard.cycle()
    assert len(list((guard.folder / "evidence").iterdir())) == 2


def test_dry_run_only_looks(site: Path, started: list[Any]) -> None:
    settings = configured(site, {"denied": {"names": ["sleep"]}})
    started.append(run_as(FIRST_UID, "sleep", "60"))
    guard = Guard(settings, dry_run=True)
    done = guard.cycle().done + guard.cycle().done
    assert done[:2] == [f"would warn: student{FIRST}: {guard.cycle().findings[0].words}", done[1]]
    assert "would stop 1 process(es)" in done[1] and any(words.startswith("would purge") for words in done)
    assert (started[0].poll(), settings.WODSTATEDIR.exists(), mails(site)) == (None, False, [])


def test_one_mail_a_finding_also_after_a_restart_and_a_mail_server_that_was_away(
    site: Path, started: list[Any]
) -> None:
    port = free_port()
    settings = configured(site, {"denied": {"names": ["sleep"], "then": "warn"}}, WODSMTPURL=f"smtp://127.0.0.1:{port}")
    started.append(run_as(FIRST_UID, "sleep", "60"))
    away = settings.model_copy(update={"WODOUTBOX": None})
    guard = Guard(away)
    for _ in range(3):
        guard.cycle()
    assert [case.told for case in guard.cases.cases.values()] == [False]
    later = Guard(settings)
    for _ in range(5):
        later.cycle()
    again = Guard(settings)
    again.cycle()
    assert len(mails(site)) == 1
    assert "this mail only tells you" in mails(site)[0]
    assert started[0].poll() is None


def test_commands_for_people_and_programs(site: Path, started: list[Any]) -> None:
    settings = configured(site, {"denied": {"names": ["sleep*"], "then": "warn"}})
    started.append(run_as(FIRST_UID, "sleep\x1b[31m[b]\n", "60", executable="/usr/bin/sleep"))
    config = ["--config", str(site / "wod.yml")]
    runner = CliRunner()
    silent = runner.invoke(commands.guard, ["status", *config], standalone_mode=False)
    assert (silent.return_value, "No guard has run here" in silent.output) == (3, True)
    done = runner.invoke(commands.guard, ["once", *config], standalone_mode=False)
    assert done.return_value == 2, done.output
    assert "\x1b" not in done.stdout and "\\x1b[31m[b]\\n" in done.stdout
    told = runner.invoke(commands.guard, ["status", "--json", *config], standalone_mode=False)
    data = json.loads(told.stdout)
    assert (told.return_value, data["version"], data["runs"]) == (2, 1, True)
    assert [each["rule"] for each in data["findings"]] == ["name"]
    assert "\x1b" not in told.stdout
    shown = runner.invoke(commands.guard, ["status", *config], standalone_mode=False)
    assert f"student{FIRST}" in shown.output and "\x1b" not in shown.output
    other = {"WODSTATEDIR": settings.WODSTATEDIR}
    assert other["WODSTATEDIR"].stat().st_mode & 0o077 == 0


def test_evidence_is_kept_as_long_as_the_configuration_says(site: Path, started: list[Any]) -> None:
    settings = configured(site, {"denied": {"names": ["sleep"], "then": "warn"}}, WODRETENTION=2)
    started.append(run_as(FIRST_UID, "sleep", "60"))
    guard = Guard(settings)
    guard.cycle()
    (file,) = (guard.folder / "evidence").iterdir()
    now = time.time()
    assert guard.evidence.sweep(now + 1 * evidence.DAY) == 0
    assert (guard.evidence.sweep(now + 3 * evidence.DAY), file.exists()) == (1, False)


def test_evidence_of_one_case_and_of_one_student_is_bounded(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(configured(site))
    longest = (b"\x80" * 8191).decode("utf-8", "surrogateescape")
    many = tuple(_seen(10**8 + turn, 1)._replace(argv=(longest,), exe="/" + "\x80" * 4000) for turn in range(20))
    steps = guard.cases.look([Finding(FIRST, "name", Rung.WARN, "words", many)], 0.0, time.time())
    data = evidence.collect(steps[0].case, steps[0].finding, {}, {}, guard.policy.evidence)
    assert (data["processes_found"], 1 < len(data["processes"]) < 20) == (20, True)
    guard.evidence.keep(steps[0].case, data)
    for turn in range(150):
        guard.evidence.note(steps[0].case, "stop", f"{turn} " + "x" * 5000)
    file = guard.evidence.file(steps[0].case)
    assert file.stat().st_size < 400_000
    for turn in range(6):
        file.with_name(f"2020-{turn}-student{FIRST + 1}-cpu.json").write_bytes(b"x" * 1000)
    monkeypatch.setattr(evidence, "_STUDENT", 3 * 4096)
    assert guard.evidence.sweep(time.time()) == 3
    left = sorted(each.name for each in file.parent.iterdir())
    assert left == [*(f"2020-{turn}-student{FIRST + 1}-cpu.json" for turn in (3, 4, 5)), file.name]


def test_the_hash_is_bounded_and_of_the_running_file(site: Path, started: list[Any]) -> None:
    copy = own_copy("sleep", home(site), "program", FIRST_UID)
    started.append(run_as(FIRST_UID, str(copy), "60"))
    watcher = Watcher(Students(BASE, FIRST, FIRST + 3))
    (seen,) = wait_until(lambda: [each for each in watcher.scan() if each.exe == str(copy)], what="the program")
    whole = copy.read_bytes()
    copy.unlink()
    copy.write_bytes(b"something else")
    assert evidence.digest(seen, 4096)["bytes_hashed"] == 4096
    told = evidence.digest(seen, 1 << 30)
    assert (told["bytes"], told["bytes_hashed"]) == (len(whole), len(whole))
    started[0].kill()
    started[0].wait()
    assert evidence.digest(seen, 4096)["sha256"] is None


SMI = """#!/bin/sh
case $1 in
--query-gpu=*) printf '0, 99, 15000, 16000\\n1, [N/A], 0, 16000\\n' ;;
pmon) printf '%s\\n' '# gpu pid type sm mem enc dec command' ' 0 {pid} C 97 30 - - miner' ' 1 - - - - - - -' ;;
esac
"""


def test_gpus_are_watched_where_nvidia_smi_is(site: Path, started: list[Any], tmp_path: Path) -> None:
    settings = configured(site, {"gpu": {"longer_than_seconds": 0}, "load": {"longer_than_seconds": 0}})
    started.append(run_as(FIRST_UID, "sleep", "60"))
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.replace("{pid}", str(started[0].pid)))
    program.chmod(0o755)
    guard = Guard(settings, smi=load.Smi(f"{tmp_path}:/usr/bin:/bin"))
    guard._gpus._every = 0.0
    guard.cycle()
    (found,) = guard.cycle().findings
    assert (found.rule, found.processes[0].pid) == ("gpu", started[0].pid)
    assert any("GPU 0: 99 % busy (limit 97 %)" in text for text in mails(site))
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed >&2\nexit 9\n")
    facts = guard.cycle().facts
    assert facts is not None and "ended with 9: NVIDIA-SMI has failed" in facts.gpu_trouble
    assert load.Smi(str(tmp_path / "none")).gpus() == ()


def test_the_service_works_as_its_user_with_three_capabilities(site: Path, started: list[Any]) -> None:
    """As the unit starts it: no root, a bounding set of three, a policy that is read again on SIGHUP."""
    settings = configured(site, {"denied": {"names": ["teapot"]}}, WODUSER=SERVICE)
    for name in ("state", "outbox"):
        (site / name).mkdir()
        shutil.chown(site / name, SERVICE, SERVICE)
    started.append(run_as(FIRST_UID, "sleep", "60"))
    wanted = "+dac_read_search,+kill,+sys_ptrace"
    rights = [f"--ambient-caps={wanted}", f"--inh-caps={wanted}", f"--bounding-set=-all,{wanted}", "--no-new-privs"]
    argv = [asuser.prefix(SERVICE)[0], *rights, *asuser.prefix(SERVICE)[1:]]
    argv += [sys.executable, "-m", "wodmail.cli.main", "guard", "--config", str(site / "wod.yml")]
    private = site / "private" / "sys" / "guard.yml"
    with asuser.reachable(SERVICE):
        code = "import sys; from wodmail.cli.main import main; sys.exit(main())"
        argv[argv.index("-m") : argv.index("guard")] = ["-c", code]
        with (site / "log").open("wb") as log:
            service = subprocess.Popen(argv, stderr=log, cwd="/", env=asuser.environment(SERVICE))
            started.append(service)
            status = settings.WODSTATEDIR / "guard" / "status.json"
            wait_until(status.exists, what=f"the first cycle; {(site / 'log').read_text()}")
            assert psutil.Process(service.pid).uids().effective != 0
            assert started[0].poll() is None
            private.write_text(private.read_text().replace("teapot", "sleep"))
            service.send_signal(signal.SIGHUP)
            wait_until(lambda: started[0].poll() == -signal.SIGKILL, what=(site / "log").read_text())
            service.send_signal(signal.SIGTERM)
            assert service.wait(60) == 0
    text = (site / "log").read_text()
    assert text.count("guard-policy-loaded") >= 1 and "guard-ended" in text
    assert {file.owner() for file in (settings.WODSTATEDIR / "guard").rglob("*")} == {SERVICE}
    assert json.loads(next((settings.WODSTATEDIR / "guard" / "evidence").iterdir()).read_text())["processes"][0][
        "program"
    ]["sha256"]


def test_purge_is_a_mail_that_names_the_number() -> None:
    assert purge.subject(42) == "PURGE 42 0"
