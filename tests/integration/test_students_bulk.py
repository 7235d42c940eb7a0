"""`wod-students` on real files of accounts and homes: interrupted anywhere, beside other tools, hostile ones."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bulksite import BASE, FIRST, SERVICE, BulkSite, bulk_site
from tests.contract.scriptedhub import scripted_hub
from wodmail.students.rootlimits import hold

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("students-bulk")]

INTERRUPTED = """
import json, os, signal, subprocess, sys
from wodmail.config import load
from wodmail.students.upkeep import Upkeep

settings = load(None, files=False)
students = range(settings.WODUSERMIN, settings.WODUSERMIN + 2)
CALLS = ("link", "rename", "replace", "mkdir", "rmdir", "unlink", "fsync", "fchown", "open", "write", "setxattr")

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(70)
    return os.waitpid(pid, 0)[1]

def killed_at(moment, work):
    left = [moment]
    def counting(call):
        def counted(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)
        return counted
    def run():
        for name in CALLS:
            setattr(os, name, counting(getattr(os, name)))
        work()
    return child(run) == signal.SIGKILL

def ensure():
    Upkeep(settings).ensure(students)

def remove():
    Upkeep(settings).remove(students)

trouble, moments = [], {}
def check(what, moment, state):
    for name in ("pwck", "grpck") if what.startswith("again") else ():
        done = subprocess.run([name, "-r", "-q"], capture_output=True, text=True)
        wrong = [line for line in done.stdout.splitlines() if "student" in line and "does not exist" not in line]
        if wrong:
            trouble.append([what, moment, wrong])
    found = Upkeep(settings).status(students).counts()
    if state and found != {state: len(students)}:
        trouble.append([what, moment, found])
    if what.startswith("again") and (os.listdir(settings.WODSTUDDIR / ".wodmail")
            or [name for name in os.listdir("/etc") if name.endswith(".wodmail")]):
        trouble.append([what, moment, "something is left"])

child(remove)
for what, work, other in (("ensure", ensure, remove), ("remove", remove, ensure)):
    moment = int(sys.argv[2])
    while True:
        moment += int(sys.argv[1])
        if not killed_at(moment, work):
            break
        check(what, moment, None)
        if child(work):
            trouble.append([what, moment, "can't be completed"])
        check("again " + what, moment, "ok" if work is ensure else "missing")
        child(other)
    moments[what] = moment
print(json.dumps([moments, trouble]))
"""


@pytest.fixture(scope="module")
def site() -> Iterator[BulkSite]:
    with bulk_site(30) as made:
        yield made


def test_from_nothing_then_nothing_changes(site: BulkSite) -> None:
    assert site.call("status")[0] == 2
    status, data = site.call("ensure")
    assert (status, data["changed"], data["counts"]) == (0, True, {"made": 30})
    name, uid = f"student{FIRST}", str(BASE + FIRST)
    assert site.passwd[name] == [name, "x", uid, uid, "", str(site.home(FIRST)), "/bin/bash"]
    assert site.lines("group")[name] == [name, "x", uid, ""]
    assert site.lines("shadow")[name][1] == "!*"
    assert stat.S_IMODE((site.etc.folder / "shadow").stat().st_mode) == 0o640
    before = {name: (site.etc.folder / name).stat().st_ino for name in ("passwd", "group", "shadow", "gshadow")}
    status, data = site.call("ensure")
    assert (status, data["changed"], data["counts"]) == (0, False, {"ok": 30})
    assert before == {name: (site.etc.folder / name).stat().st_ino for name in before}
    assert site.call("status")[0] == 0


def test_a_home_is_the_students_and_wodusers(site: BulkSite) -> None:
    site.call("ensure")
    home, uid = site.home(FIRST), BASE + FIRST
    assert {path.name for path in home.iterdir()} >= {".bashrc", ".profile"}
    assert {path.lstat().st_uid for path in (home, *home.rglob("*"))} == {uid}
    for user in (SERVICE, f"student{FIRST}"):
        work = f"cd {home} && cat .bashrc > of-{user} && rm -f .bash_logout && mkdir -p made && touch made/{user}"
        site.etc.must("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "bash", "-c", work)
    other = site.etc.run(["setpriv", f"--reuid=student{FIRST + 1}", "--clear-groups", "ls", str(home)])
    assert other.returncode != 0 and "Permission denied" in other.stderr


SOAK = [pytest.param(8, start, marks=pytest.mark.soak) for start in range(-7, 1)]


@pytest.mark.parametrize(("step", "start"), [(29, 0), *SOAK])
def test_an_interruption_anywhere_is_completed(site: BulkSite, step: int, start: int) -> None:
    """Killed before every so-and-so-many-th call; the soak's runs together before each of them."""
    moments, trouble = site.program(INTERRUPTED, str(step), str(start))
    assert moments["ensure"] > 90 and moments["remove"] > 70
    assert trouble == []


def test_other_programs_change_accounts_meanwhile(site: BulkSite) -> None:
    site.call("ensure")
    stranger = site.etc.must("openssl", "passwd", "-6", "word").strip()

    def others(number: int) -> None:
        site.etc.must("useradd", "-M", f"other{number}")
        done = site.etc.run(["chpasswd", "-e"], text=f"other{number}:{stranger}\n")
        assert done.returncode == 0, done.stderr

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(others, number) for number in range(9)]
        rounds = 0
        while not all(future.done() for future in waiting) or rounds < 2:
            assert site.call("remove", "--yes")[1]["counts"] == {"removed": 30}
            assert site.call("ensure")[1]["counts"] == {"made": 30}
            rounds += 1
        for future in waiting:
            future.result()
    assert {site.lines("shadow")[f"other{number}"][1] for number in range(9)} == {stranger}
    assert {f"other{number}" for number in range(9)} <= site.lines("group").keys() & site.passwd.keys()
    for number in range(9):
        site.etc.must("userdel", f"other{number}")


def spoil(site: BulkSite, student: int) -> None:
    """Give an account another shell."""
    site.etc.must("usermod", "--shell", "/bin/sh", f"student{student}")


def test_seats_in_use_are_left(site: BulkSite) -> None:
    site.call("ensure")
    working, helped, waiting, seated, free = range(FIRST, FIRST + 5)
    for student in (working, helped, waiting, seated, free):
        spoil(site, student)
    process = site.start(working, "sleep", "600")
    lock = hold(f"student{helped}")
    office(site, waiting, seated)
    try:
        told = site.told("ensure")
        assert {student: state for student, (state, _) in told.items()} == {
            working: "in use",
            helped: "in use",
            waiting: "in use",
            seated: "in use",
            free: "repaired",
        }
        assert [told[student][1] for student in (working, helped, waiting, seated)] == [
            ["its student's processes run"],
            ["the root helper works on it"],
            ["job 1 is not finished"],
            ["the registry says that it is taken"],
        ]
        assert site.passwd[f"student{free}"][6] == "/bin/bash"
        assert {site.passwd[f"student{student}"][6] for student in (working, helped, waiting, seated)} == {"/bin/sh"}
        status, data = site.call("remove", "--yes", "--students", f"{working}-{free}")
        assert (status, data["counts"]) == (2, {"in use": 4, "removed": 1})
        status, data = site.call("remove", "--yes", "--force", "--students", f"{working}-{free}")
        assert (status, data["counts"]) == (2, {"ok": 1, "removed": 2, "in use": 2})
        assert process.wait(10) != 0
        assert not site.home(working).exists() and site.home(waiting).exists()
    finally:
        process.kill()
        os.close(lock)
        close_office(site)
    assert site.call("ensure")[1]["counts"] == {"ok": 25, "made": 3, "repaired": 2}


OFFICE = """
import os, pwd, sqlite3, sys
from wodmail.config import load
from wodmail import registry
from wodmail.store import jobs, lanes, open_store, requests

settings = load(None, files=False)
waiting, seated = map(int, sys.argv[1:])
open_store(settings).close()  # what this loads, this python's folder may be shut for others
user = pwd.getpwnam(settings.WODUSER)
os.setgroups([])
os.setresgid(*[user.pw_gid] * 3)
os.setresuid(*[user.pw_uid] * 3)
store = open_store(settings)
store.migrate()
with store.transaction() as connection:
    mail = {"backend": store.backend, "spool_key": "a", "state": "running", "received": "", "received_at": 0.0}
    connection.execute(requests.insert().values(**mail))
    job = {"request": 1, "backend": store.backend, "action": "CREATE", "students": "[]", "workshop": ""}
    connection.execute(jobs.insert().values(**job, state="running"))
    connection.execute(lanes.insert().values(job=1, student=waiting))
seats = registry.for_settings(settings)
with seats._seat_writing(seated):
    seats._database.execute("UPDATE seat SET assigned = 1 WHERE student = ?", (seated,))
seats.close()
"""


def office(site: BulkSite, waiting: int, seated: int) -> None:
    """WODUSER's database has a job for one student, its registry says that another has a seat."""
    site.etc.must(sys.executable, "-c", OFFICE, str(waiting), str(seated))


def close_office(site: BulkSite) -> None:
    """Neither database nor registry is there any more."""
    for file in (site.folder / "state").iterdir():
        file.unlink()


def test_nobody_but_woduser_owns_what_lies_in_its_state(site: BulkSite) -> None:
    spoil(site, FIRST)
    office(site, FIRST + 1, FIRST + 2)
    assert site.told("ensure")[FIRST][0] == "repaired"
    owners = {path.stat().st_uid for path in (site.folder / "state").iterdir()}
    assert owners == {int(site.passwd[SERVICE][2])}
    close_office(site)
    spoil(site, FIRST)
    assert site.told("ensure")[FIRST][0] == "repaired"
    assert not list((site.folder / "state").iterdir())  # nothing is made where no server has run


def test_what_is_missing_is_made_for_a_taken_seat(site: BulkSite) -> None:
    """A run that was interrupted is completed also when the frontend has given the seats meanwhile."""
    site.call("ensure")
    take_home(site, FIRST)
    site.etc.must("userdel", f"student{FIRST + 1}")
    office(site, FIRST, FIRST + 1)
    try:
        assert {state for state, _ in site.told("ensure").values()} == {"repaired"}
    finally:
        close_office(site)
    assert site.call("status")[0] == 0


def test_who_is_known_from_elsewhere_is_left_alone(site: BulkSite) -> None:
    site.call("remove", "--yes", "--students", f"{FIRST}-{FIRST + 3}")
    told = site.program(ELSEWHERE, str(FIRST))
    assert [row[0] for row in told] == ["wrong", "wrong", "wrong", "made"]
    assert told[1][1][0].startswith("mallory, of whom /etc knows nothing")
    assert site.call("ensure")[1]["counts"] == {"ok": 27, "made": 3}


ELSEWHERE = """
import grp, json, pwd, sys, types
from wodmail.config import load
from wodmail.students.upkeep import Upkeep

first = int(sys.argv[1])
uids, names, gids = pwd.getpwuid, pwd.getpwnam, grp.getgrgid
settings = load(None, files=False)

def named(name):
    return types.SimpleNamespace(pw_name=name) if name == f"student{first}" else names(name)

def by_uid(uid):
    return types.SimpleNamespace(pw_name="mallory") if uid == settings.UIDBASE + first + 1 else uids(uid)

def by_gid(gid):
    return types.SimpleNamespace(gr_name="staff") if gid == settings.GIDBASE + first + 2 else gids(gid)

pwd.getpwnam, pwd.getpwuid, grp.getgrgid = named, by_uid, by_gid
report = Upkeep(settings).ensure(range(first, first + 4))
print(json.dumps([[row.state, row.words] for row in report.rows.values()]))
"""


def test_a_registry_that_is_away_leaves_what_exists(site: BulkSite) -> None:
    site.call("ensure")
    spoil(site, FIRST)
    site.call("remove", "--yes", "--students", str(FIRST + 1))
    away = {
        "WODAPIDBEXTURL": "http://127.0.0.1:9/api",
        "WODAPIDBUSER": "u",
        "WODAPIDBUSERPWD": "p",
        "WODAPIDBRETRIES": 0,
    }
    site.configure(**away)
    try:
        told = site.told("ensure")
    finally:
        site.configure()
    assert (told[FIRST][0], told[FIRST + 1][0]) == ("failed", "made")
    assert "The API-DB is away" in told[FIRST][1][0]
    assert site.call("ensure")[1]["counts"] == {"ok": 29, "repaired": 1}


def test_what_differs_is_mended_or_named(site: BulkSite) -> None:
    site.call("ensure")
    shell, gid, uid, foreign, shadow, acl, loose = range(FIRST, FIRST + 7)
    for argv in (
        ("usermod", "--shell", "/bin/sh", "--home", "/nowhere", f"student{shell}"),
        ("groupmod", "--gid", "299999", f"student{gid}"),
        ("usermod", "--uid", "299998", f"student{uid}"),
        ("userdel", f"student{foreign}"),
        ("useradd", "-M", "--uid", str(BASE + foreign), "mallory"),
        ("sed", "-i", f"/^student{shadow}:/d", "/etc/shadow", "/etc/gshadow"),
        ("passwd", "-d", f"student{loose}"),
    ):
        site.etc.must(*argv)
    home = site.home(acl)
    os.removexattr(home, "system.posix_acl_default")
    home.chmod(0o777)
    told = site.told("status")
    assert {student: state for student, (state, _) in told.items()} == {
        **dict.fromkeys((shell, gid, shadow, acl, loose), "differs"),
        **dict.fromkeys((uid, foreign), "wrong"),
    }
    assert told[shell][1] == [f"home /nowhere, must be {site.home(shell)}", "shell /bin/sh, must be /bin/bash"]
    status, data = site.call("ensure")
    assert (status, data["counts"]) == (1, {"ok": 23, "repaired": 5, "wrong": 2})
    wrong = {row["student"]: row["what"][0] for row in data["students"] if row["state"] == "wrong"}
    assert wrong[uid].startswith(f"uid 299998, must be {BASE + uid}")
    assert wrong[foreign].startswith(f"uid {BASE + foreign} belongs to mallory")
    assert site.lines("shadow")[f"student{loose}"][1] == "!*"
    status, data = site.call("remove", "--yes", "--force", "--students", f"{uid}-{foreign}")
    assert (status, data["counts"]) == (1, {"wrong": 2})  # mallory's processes are safe from --force
    site.etc.must("userdel", "mallory")
    site.etc.must("userdel", f"student{uid}")
    take_home(site, uid)
    assert site.call("ensure")[1]["counts"] == {"ok": 28, "made": 1, "repaired": 1}


def take_home(site: BulkSite, student: int) -> None:
    """Take a home away by hand, as root."""
    shutil.rmtree(site.home(student), ignore_errors=True)


def test_hostile_homes(site: BulkSite) -> None:
    site.call("ensure")
    link, inside, foreign, file = range(FIRST, FIRST + 4)
    victim = site.folder / "victim"
    victim.mkdir(mode=0o755)
    (victim / "keep").write_text("kept", encoding="utf-8")
    for student in (link, foreign, file):
        shutil.rmtree(site.home(student))
    site.home(link).symlink_to(victim)
    site.home(foreign).mkdir()
    (site.home(foreign) / "of-root").touch()
    site.home(file).touch()
    # What a student can do in the own home: links, hard links, shut folders, a ladder of folders, another mode.
    own = site.home(inside)
    work = f"""
        cd {own} && ln -s {victim} .ssh-link && ln -s /etc/passwd p && mkdir -p shut/in && chmod 000 shut/in shut
        for n in {{1..300}}; do mkdir d && cd d || exit 1; done; ln -s {victim} v; cd {own} && chmod 000 .
    """
    uid = BASE + inside
    subprocess.run(["bash", "-c", work], check=True, user=uid, group=uid, extra_groups=[])
    before = (victim.lstat(), os.listxattr(victim))
    told = site.told("ensure")
    assert {student: state for student, (state, _) in told.items()} == {
        link: "wrong",
        foreign: "wrong",
        file: "wrong",
        inside: "repaired",
    }
    assert "is a link" in told[link][1][0] and "belongs to uid 0" in told[foreign][1][0]
    assert "is no folder" in told[file][1][0]
    status, data = site.call("remove", "--yes", "--students", f"{link}-{file}")
    assert (status, data["counts"]) == (1, {"removed": 1, "wrong": 3})
    assert not own.exists()
    assert (victim.lstat(), os.listxattr(victim)) == before
    assert (victim / "keep").read_text(encoding="utf-8") == "kept"
    for student in (link, file):
        site.home(student).unlink()
    shutil.rmtree(site.home(foreign))
    assert site.call("ensure")[1]["counts"] == {"ok": 26, "repaired": 3, "made": 1}


def test_a_mount_below_a_home_is_left(site: BulkSite) -> None:
    site.call("ensure")
    point = site.home(FIRST) / "shared disk"
    point.mkdir()
    site.etc.must("mount", "-t", "tmpfs", "tmpfs", str(point))
    site.etc.must("touch", str(point / "precious"))
    try:
        told = site.told("remove", "--yes", "--students", str(FIRST))
        assert told[FIRST] == ("wrong", [f"{point} is a mount point; unmount it first"])
        assert "precious" in site.etc.must("ls", str(point))
    finally:
        site.etc.must("umount", str(point))
    point.rmdir()


def test_a_folder_of_homes_that_others_can_change_is_refused(site: BulkSite) -> None:
    site.call("ensure")
    homes_ = site.folder / "students"
    homes_.chmod(0o777)
    try:
        status, _, complaint = site.say("ensure")
    finally:
        homes_.chmod(0o755)
    assert status == 78 and f"{homes_} must belong to root" in complaint


def test_a_folder_of_homes_that_is_no_folder_is_told(site: BulkSite) -> None:
    site.call("ensure")
    homes_, kept = site.folder / "students", site.folder / "kept"
    homes_.rename(kept)
    try:
        for make in (homes_.touch, lambda: homes_.symlink_to("nowhere")):
            make()
            for words in (("status",), ("ensure",), ("remove", "--yes")):
                status, _, complaint = site.say(*words)
                assert status == 78 and f"WODSTUDDIR: {homes_} is no folder" in complaint, (words, complaint)
            homes_.unlink()
    finally:
        kept.rename(homes_)


def test_clean_makes_everything_anew(site: BulkSite) -> None:
    site.call("ensure")
    process = site.start(FIRST, "sleep", "600")
    (site.home(FIRST + 1) / "work").touch()
    site.configure(CLEAN=True)
    try:
        status, data = site.call("status")
        assert (status, data["counts"]) == (2, {"ok": 1, "differs": 29})
        assert data["students"][0]["what"] == ["would be removed and made anew (CLEAN)"]
        assert (site.home(FIRST + 1) / "work").exists()
        _, data = site.call("ensure")
        assert data["counts"] == {"made": 29, "in use": 1}
    finally:
        process.kill()
        process.wait()
        site.configure()
    assert not (site.home(FIRST + 1) / "work").exists()


def test_what_clean_would_do_can_not_always_be_told(site: BulkSite) -> None:
    """Who has a running server of the hub is left; a registry that is away is told once, not guessed about."""
    site.call("ensure")
    few = f"{FIRST}-{FIRST + 1}"
    there = [{"name": f"student{FIRST}", "servers": {"": {"ready": True}}}]
    there += [{"name": f"student{FIRST + 1}", "servers": {}}]
    away = {
        "WODAPIDBEXTURL": "http://127.0.0.1:9/api",
        "WODAPIDBUSER": "u",
        "WODAPIDBUSERPWD": "p",
        "WODAPIDBRETRIES": 0,
    }
    try:
        with scripted_hub() as hub:
            site.configure(CLEAN=True, WODBEAPIURL=hub.url, WODBETOKEN="c0ffee-of-the-tests", WODHUBPATIENCE=0)
            hub.answer("GET /users?offset=0&limit=200", (200, there))
            hub.answer("GET /users?offset=2&limit=200", (200, []))
            told = site.told("status", "--students", few)
            assert told == {FIRST + 1: ("differs", ["would be removed and made anew (CLEAN)"])}
        site.configure(CLEAN=True, **away)
        status, data = site.call("status", "--students", few)
        assert (status, data["counts"], len(data["trouble"])) == (1, {"ok": 2}, 1)
        assert "The API-DB is away" in data["trouble"][0]
    finally:
        site.configure()


def test_hub_users(site: BulkSite) -> None:
    site.call("remove", "--yes")
    few = f"{FIRST}-{FIRST + 2}"
    with scripted_hub() as hub:
        site.configure(WODBEAPIURL=hub.url, WODBETOKEN="c0ffee-of-the-tests", WODHUBPATIENCE=0)
        try:
            hub.answer("GET /users?offset=0&limit=200", (200, []))
            hub.answer("POST /users", (201, []))
            assert site.call("ensure", "--students", few)[1]["counts"] == {"made": 3}
            assert hub.asked[-2:] == ["GET /users?offset=0&limit=200", "POST /users"]
            assert site.told("status", "--students", few) == dict.fromkeys(
                range(FIRST, FIRST + 3), ("differs", ["no hub user"])
            )
            status, data = site.call("ensure", "--students", few, "--no-hub")
            assert (status, data["counts"]) == (0, {"ok": 3})
            assert site.told("ensure", "--students", few) == dict.fromkeys(
                range(FIRST, FIRST + 3), ("repaired", ["no hub user"])
            )
            there = [{"name": f"student{FIRST}", "servers": {"": {"ready": True}}}]
            there += [{"name": f"student{FIRST + 1}", "servers": {}}, {"name": f"student{FIRST + 2}", "servers": {}}]
            hub.answer("GET /users?offset=0&limit=200", (200, there))
            hub.answer("GET /users?offset=3&limit=200", (200, []))
            hub.answer(f"DELETE /users/student{FIRST + 1}", (204, {}))
            hub.answer(f"DELETE /users/student{FIRST + 2}", (409, {"message": "no"}))
            told = site.told("remove", "--yes", "--students", few)
            assert told[FIRST] == ("in use", ["its hub server runs"])
            assert told[FIRST + 1][0] == "removed" and told[FIRST + 2][0] == "failed"
            assert [site.home(FIRST + more).exists() for more in range(3)] == [True, False, True]
        finally:
            site.configure()


def test_a_hub_that_is_away_does_not_hinder_accounts(site: BulkSite) -> None:
    site.call("remove", "--yes")
    site.configure(WODBEAPIURL="http://127.0.0.1:9", WODBETOKEN="c0ffee-of-the-tests", WODHUBPATIENCE=0)
    try:
        status, data = site.call("ensure")
        assert (status, data["counts"]) == (1, {"made": 30})
        assert "JupyterHub is away" in data["trouble"][0]
        assert site.call("status")[0] == 1
        status, _, complaint = site.say("remove", "--yes")  # first the hub's users, then theirs
        assert status == 75 and "JupyterHub is away" in complaint
    finally:
        site.configure()
    assert site.call("status")[1]["counts"] == {"ok": 30}


def test_words_for_people(site: BulkSite) -> None:
    site.call("ensure")
    site.call("remove", "--yes", "--students", f"{FIRST + 3}-{FIRST + 7}")
    status, out, _ = site.say("status")
    assert status == 2
    assert [line.split() for line in out.splitlines()[:3]] == [["students", "number"], ["ok", "25"], ["missing", "5"]]
    assert f"{FIRST + 3}-{FIRST + 7}" in out
    assert site.say("status", "--students", "1")[2] == (
        f"wod-students: This backend has students {FIRST} to {FIRST + 29} (WODUSERMIN, WODUSERMAX), not 1.\n"
    )
    assert site.say("remove", "--students", str(FIRST))[0] == 130  # nobody there to say yes


ADVANCE = """
import json
from wodmail.config import load
from wodmail.students.upkeep import Upkeep

settings, told = load(None, files=False), []
students = range(settings.WODUSERMIN, settings.WODUSERMAX + 1)
upkeep = Upkeep(settings, advance=lambda *words: told.append(words))
upkeep.remove(students)
upkeep.ensure(students)
print(json.dumps(told))
"""


def test_how_far_it_is_is_told(site: BulkSite) -> None:
    """Each of the parts from its beginning to its end, never back."""
    site.call("ensure")
    told = site.program(ADVANCE)
    assert {(what, of) for what, _, of in told} == {
        ("looked at", 30),
        ("removed", 30),
        ("accounts and homes made", 30),
    }
    for what in ("removed", "accounts and homes made"):
        done = [count for name, count, _ in told if name == what]
        assert done == sorted(done) and done[-1] == 30


def test_how_far_it_is_is_shown_on_a_terminal(site: BulkSite) -> None:
    """And nowhere else: what is piped or read by a program stays clean."""
    site.call("remove", "--yes")
    assert site.say("ensure")[2] == ""
    site.call("remove", "--yes")
    terminal, theirs = pty.openpty()
    argv = [*site.etc.enter, sys.executable, "-m", "wodmail.cli.students", "ensure", "--json"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(terminal), b"")).decode()
        assert process.stdout is not None
        told = json.loads(process.stdout.read())
    os.close(terminal)
    assert (process.returncode, told["counts"]) == (0, {"made": 30})
    assert "looked at" in shown and "accounts and homes made" in shown and "30/30" in shown


def _read(terminal: int) -> bytes:
    """What a terminal shows next, b"" when nobody writes to it any more."""
    try:
        return os.read(terminal, 65536)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def test_two_at_once(site: BulkSite) -> None:
    holder = os.open(site.folder / "students" / ".wodmail", os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        status, _, complaint = site.say("ensure")
    finally:
        os.close(holder)
    assert status == 75 and "Another `wodmail students` is at work" in complaint


def test_only_root(site: BulkSite) -> None:
    drop = ["setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--clear-groups"]
    done = site.etc.run([*drop, sys.executable, "-m", "wodmail.cli.students", "status"])
    assert done.returncode == 78 and "only root can see to accounts" in done.stderr
