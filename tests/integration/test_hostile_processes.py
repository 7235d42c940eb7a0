"""Students whose processes fight the root helper: they can't end, stop or slow down anything of the helper's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.linux_students import BASE, FIRST, Site, running, site
from tests.support import wait_until
from wodmail.errors import Failed
from wodmail.students import install

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux-helper")]

BEGIN = """
import ctypes, json, os, platform, signal, threading, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
def fight(*numbers):
    for number in numbers:
        try:
            os.kill(-1, number)
        except ProcessLookupError:
            pass
print("on", flush=True)
"""
KILLER = "while True: fight(signal.SIGKILL)"
STOPPER = "while True: fight(signal.SIGSTOP, signal.SIGCONT, signal.SIGSTOP)"
# As many as the limit lets it have, each of them born all the time and stopping what it can.
BOMB = """
while True:
    try:
        os.fork()
    except OSError:
        fight(signal.SIGSTOP)
"""
# Its first thread ends, and it looks dead in the process list.
HIDDEN = """
threading.Thread(target=lambda: [time.sleep(1) for _ in iter(int, 1)]).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""
# Does what it can to a process that works on its files, the first that it meets, and says how that went.
MEDDLER = """
me = os.getuid()
def met():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/status") as file:
                uids = [int(uid) for uid in file.read().partition("Uid:")[2].split("\\n")[0].split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if me in uids and uids != [me] * 4:
            return int(name), uids
while not (found := met()):
    pass
pid, uids = found
libc = ctypes.CDLL(None, use_errno=True)
def trace():
    if libc.ptrace(16, pid, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
tricks = {
    "stop": lambda: os.kill(pid, signal.SIGSTOP),
    "kill": lambda: os.kill(pid, signal.SIGKILL),
    "trace": trace,
    "nice": lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
    "idle": lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
    "pin": lambda: os.sched_setaffinity(pid, {0}),
    "files": lambda: os.listdir(f"/proc/{pid}/fd"),
}
said = {"uids": len(set(uids))}
for name, trick in tricks.items():
    try:
        trick()
        said[name] = "done"
    except OSError as error:
        said[name] = type(error).__name__
print(json.dumps(said), flush=True)
"""
# Run as root: takes a student's rights and tries to get root's back.
POWERLESS = """
import json, os, sys
from wodmail.students import rootidentity
from wodmail.students.rootlimits import Account
uid, guard = map(int, sys.argv[1:3])
getattr(rootidentity, sys.argv[3])(Account("student", uid, uid, "/", guard))
rootidentity._libc.setfsuid(0)
for trick in (lambda: os.setresuid(0, 0, 0), lambda: os.setuid(0), lambda: os.setgroups([0]),
              lambda: os.setresgid(0, 0, 0), lambda: open("/etc/shadow"), lambda: os.kill(os.getppid(), 0),
              lambda: rootidentity._keep_capabilities(1 << 7)):
    try:
        trick()
        sys.exit("that worked")
    except PermissionError:
        pass
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
ids = [list(map(int, status[key].split())) for key in ("Uid", "Gid", "Groups")]
print(json.dumps([*ids, status["CapPrm"].strip()]))
"""


@pytest.fixture(scope="module")
def users() -> Iterator[Site]:
    """Real users, once for this file."""
    with site() as made:
        yield made


@pytest.fixture
def linux(users: Site) -> Site:
    """The same, with a new home for the first student."""
    users.renew_home(FIRST)
    return users


def attack(linux: Site, program: str) -> subprocess.Popen[bytes]:
    """Start a program as the first student; it has begun."""
    uid = linux.uid(FIRST)
    argv = [*(["prlimit", "--nproc=50"] if program == BOMB else []), str(install.python()), "-c", BEGIN + program]
    made = subprocess.Popen(argv, user=uid, group=uid, extra_groups=[], cwd="/", stdout=subprocess.PIPE)
    assert made.stdout is not None
    assert made.stdout.readline() == b"on\n"
    return made


@pytest.mark.parametrize("program", [KILLER, STOPPER, BOMB, HIDDEN], ids=["killer", "stopper", "bomb", "hidden"])
def test_what_fights_back_is_ended(linux: Site, program: str) -> None:
    uid = linux.uid(FIRST)
    other = linux.start(FIRST + 1, "sleep", "600")
    attacker = attack(linux, program)
    if program == BOMB:
        wait_until(lambda: len(running(uid)) > 40, what="the bomb")
    if program == HIDDEN:
        wait_until(lambda: running(uid) == [], what="the end of the first thread")
    with pytest.raises(Failed, match="still run"):
        linux.accounts.verify_erased(FIRST)
    linux.accounts.set_password(FIRST, "Werty123")
    assert linux.accounts.notebooks(FIRST, "WKSHP-Try101") == []
    linux.accounts.erase(FIRST)
    linux.accounts.verify_erased(FIRST)
    assert running(uid) == []
    assert attacker.wait(10) == -signal.SIGKILL
    assert attacker.stdout is not None
    attacker.stdout.close()
    assert other.poll() is None
    assert linux.accounts.end_processes(FIRST + 1) == 1
    assert other.wait(10) == -signal.SIGTERM


def test_a_student_cannot_touch_who_reads_the_notebooks(linux: Site) -> None:
    folder = linux.accounts.home(FIRST) / "WKSHP-Try101"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}.ipynb").write_bytes(b"x" * 40_000)
    meddler = attack(linux, MEDDLER)
    read = []
    wait_until(lambda: read.append(linux.accounts.notebooks(FIRST, "WKSHP-Try101")) or meddler.poll() == 0, what="it")
    out, _ = meddler.communicate()
    said = json.loads(out)
    assert said.pop("uids") == 2
    assert said == dict.fromkeys(("stop", "kill", "trace", "nice", "idle", "pin", "files"), "PermissionError")
    assert {len(each) for each in read} == {400}


@pytest.mark.parametrize(
    ("way", "effective"), [("become", 2_147_000_001), ("become_sender", BASE + FIRST)], ids=["become", "become_sender"]
)
def test_who_took_a_students_rights_never_gets_roots_back(way: str, effective: int) -> None:
    uid, guard = BASE + FIRST, 2_147_000_001
    argv = [sys.executable, "-c", POWERLESS, str(uid), str(guard), way]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    groups = [uid] if way == "become" else []
    assert json.loads(done.stdout) == [[guard, effective, guard, uid], [uid] * 4, groups, "0" * 16]
