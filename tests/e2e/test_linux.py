"""As in production: real Linux students, `wodmail serve` as a user without rights and with one line for sudo."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import asuser
from tests.contract.accounts_contract import notebook
from tests.e2e.harness import step_of
from tests.e2e.linuxsite import SUDOERS, LinuxDeployment, install_helper, linux_deployment
from tests.linux_students import BASE, FIRST, LAST, SERVICE, logs_in, running
from tests.parts import missing, require
from tests.support import wait_until
from wodmail.students import install

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux")]
TOKEN = "mltok-4711-secret"
# Ignores TERM and has itself born again in a session of its own, for as long as it may.
RESPAWN = """
trap '' TERM HUP INT
echo on
while :; do (setsid sh -c 'trap "" TERM; sleep 0.2; exec sleep 788' &) ; sleep 0.1; done
"""

SWAP = """
import os, sys
name, elsewhere = sys.argv[1:]
print("on", flush=True)
while True:
    for change in (
        lambda: os.rename(name, ".aside"),
        lambda: os.symlink(elsewhere, name),
        lambda: os.unlink(name),
        lambda: os.rename(".aside", name),
    ):
        try:
            change()
        except OSError:
            pass
"""


@pytest.fixture(scope="module")
def site() -> Iterator[LinuxDeployment]:
    """One deployment for this file, its server running."""
    with linux_deployment() as made:
        made.workshop("WKSHP-Test", {"run.sh": "echo {{ STDID }}\n", "data.bin": "\x00{{ no }}"})
        (made.notebooks / "WKSHP-Test" / "deep").mkdir()
        (made.notebooks / "WKSHP-Test" / "deep" / "note.py").write_text("# {{ STDID }}\n")
        made.workshop("WKSHP-Again", reset=True)
        made.script("reset-WKSHP-Again.sh", 'echo "reset by $(id -un)"\n')
        made.workshop("WKSHP-Held")
        held = f"touch {made.folder}/state/began-$stdid\nwhile [ ! -e {made.folder}/go-$stdid ]; do sleep 0.05; done\n"
        made.script("create-WKSHP-Held.sh", held)
        made.workshop("WKSHP-Program", compile="train.sh")
        made.script("train.sh.j2", "#!/bin/bash\necho $(id -u) {{ MLTOK }}\nread -r word\necho $word\n")
        (made.folder / "private/ansible/production").mkdir(parents=True)
        (made.folder / "private/ansible/production/variables_WKSHP-Program.yml").write_text(f"MLTOK: {TOKEN}\n")
        installed = install_helper(made)
        assert installed.returncode == 0, installed.stderr
        made.start()
        yield made


@pytest.fixture
def home(site: LinuxDeployment) -> Path:
    """A new home of the first student."""
    return site.renew_home(FIRST)


@pytest.fixture
def held(site: LinuxDeployment) -> Iterator[tuple[Path, Path]]:
    """What the first student's script in WKSHP-Held makes when it begins, and the file for which it waits."""
    began, go = site.state / f"began-{FIRST}", site.folder / f"go-{FIRST}"
    yield began, go
    go.touch()
    site.ended(1)
    began.unlink(missing_ok=True)
    go.unlink()


def as_student(student: int, script: str, cwd: Path) -> None:
    """Run a shell script as a student."""
    uid = BASE + student
    subprocess.run(["sh", "-ec", script], user=uid, group=uid, extra_groups=[], cwd=cwd, check=True)


def acl(path: Path) -> list[str]:
    """The lines of getfacl."""
    done = subprocess.run(["getfacl", "-pcE", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: owner, mode, links, size, time of the last change, content."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        owner = (status.st_uid, status.st_gid, stat.filemode(status.st_mode))
        found[str(path)] = (*owner, status.st_nlink, status.st_mtime_ns, content)
    return found


@pytest.fixture
def victim() -> Iterator[Path]:
    """A folder that looks like /etc, root's own but open to all, on the homes' file system."""
    folder = Path(tempfile.mkdtemp(prefix="wodmail-victim-", dir="/var/tmp"))
    for name in ("passwd", "0-ReadMeFirst.ipynb"):
        (folder / name).write_text("root:x:0:0")
        (folder / name).chmod(0o666)
    (folder / "ssh").mkdir()
    for each in (folder, folder / "ssh"):
        each.chmod(0o777)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


# -- the deployment itself -------------------------------------------------------------------------------------------


def test_the_configuration_is_in_order_for_the_service_user(site: LinuxDeployment) -> None:
    checked = site.command("config", "check")
    assert (checked.returncode, checked.stdout) == (0, f"{site.file}: in order\n")
    asked = site.command("helper", "check")
    assert (asked.returncode, asked.stdout) == (0, "the root helper works\n"), asked.stderr


def test_the_server_has_no_rights_but_one_line_for_sudo(site: LinuxDeployment) -> None:
    server = psutil.Process(site.running[-1].pid)
    service = pwd.getpwnam(SERVICE)
    assert service.pw_uid != 0
    assert set(server.uids()) == {service.pw_uid}
    assert set(server.gids()) == {service.pw_gid}
    status = Path(f"/proc/{server.pid}/status").read_text()
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    allowed = subprocess.run(["sudo", "-l", "-U", SERVICE], capture_output=True, text=True, check=True).stdout
    lines = [line.strip() for line in allowed.splitlines() if line.startswith("    (")]
    assert lines == [f'(root) NOPASSWD: {site.settings.WODHELPER} ""']
    assert len(SUDOERS.read_text().splitlines()) == 1


# -- the actions -----------------------------------------------------------------------------------------------------


def test_create(site: LinuxDeployment, home: Path) -> None:
    (home / "of somebody before").touch()
    row = site.one(f"CREATE {FIRST} 0")
    assert row["state"] == "done", row
    assert not (home / "of somebody before").exists()
    assert (home / "welcome.txt").read_text() == "welcome\n"
    assert (home / ".bashrc").is_file()
    password = site.password(FIRST)
    assert logs_in(FIRST, password)
    assert not logs_in(FIRST, password + "x")
    status = (site.folder / "service" / ".mail" / "from").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (pwd.getpwnam(SERVICE).pw_uid, 0o600)
    mail = site.replies(row["id"])[0]
    assert mail["To"] == "frontend@localhost"
    assert password not in mail.as_string(), "production keeps passwords out of result mails"


def test_pdf_is_made_as_the_student_and_comes_with_the_mail(site: LinuxDeployment, home: Path) -> None:
    if not install.exporter():
        missing("exporter", "wod-generate-pdf beside this python could be changed by others than root")
    folder = home / "WKSHP-Test"
    folder.mkdir()
    (folder / "1-Lab.ipynb").write_text(notebook("# Hello"))
    for path in (folder, folder / "1-Lab.ipynb"):
        os.chown(path, BASE + FIRST, BASE + FIRST)
    folder.chmod(0o700)
    with asuser.reachable(f"student{FIRST}"):
        row = site.one(f"PDF {FIRST} 0")
    assert row["state"] == "done", row
    status = (folder / "1-Lab.pdf").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (BASE + FIRST, BASE + FIRST, 0o644)
    made = {part.get_filename(): part.get_payload(decode=True) for part in site.replies(row["id"])[0].walk()}
    assert made["1-Lab.pdf"] == (folder / "1-Lab.pdf").read_bytes()
    wait_until(lambda: list((site.state / "documents").iterdir()) == [], what="the end of what was kept for the mail")


def test_what_create_leaves_belongs_to_the_student(site: LinuxDeployment, home: Path) -> None:
    assert site.one(f"CREATE {FIRST} 0")["state"] == "done"
    uid = BASE + FIRST
    ssh = home / ".ssh"
    for path, mode in ((ssh, 0o700), (ssh / "id_ed25519", 0o600)):
        status = path.stat()
        # The ACL's mask shows as the group's rights; what counts is that nobody else has any.
        assert (status.st_uid, status.st_gid, status.st_mode & 0o707) == (uid, uid, mode), path
    assert "group::---" in acl(ssh) and "other::---" in acl(ssh)
    assert stat.S_IMODE((ssh / "id_ed25519").stat().st_mode) == 0o600
    folder = home / "WKSHP-Test"
    written = [folder, *folder.rglob("*")]
    assert len(written) >= 7
    for path in written:
        wanted = 0o700 if path.is_dir() else 0o600
        assert (path.stat().st_uid, path.stat().st_mode & wanted) == (uid, wanted), path
        rights = acl(path)
        assert any(line.startswith(f"user:{SERVICE}:rw") for line in rights), path
        if path.is_dir():
            assert {f"user:{SERVICE}:rwx", f"default:user:{SERVICE}:rwx"} <= set(rights), path
    assert (folder / "deep" / "note.py").read_text() == f"# {FIRST}\n"
    as_student(FIRST, "echo mine > WKSHP-Test/mine", home)
    service = pwd.getpwnam(SERVICE)
    read = {"user": service.pw_uid, "group": service.pw_gid, "extra_groups": [], "cwd": "/", "capture_output": True}
    assert subprocess.run(["cat", str(folder / "mine")], check=False, **read).stdout == b"mine\n"
    other = {**read, "user": uid + 1, "group": uid + 1}
    assert subprocess.run(["ls", str(home)], check=False, **other).returncode != 0


def test_cleanup(site: LinuxDeployment, home: Path) -> None:
    assert site.one(f"CREATE {FIRST} 0")["state"] == "done"
    before = site.password(FIRST)
    as_student(FIRST, "mkdir -p a/b && echo x > a/b/c && chmod 0 a/b", home)
    uid = BASE + FIRST
    sleeper = subprocess.Popen(["sleep", "600"], user=uid, group=uid, extra_groups=[], cwd="/")
    row = site.one(f"CLEANUP {FIRST} 0")
    assert row["state"] == "done", row
    assert step_of(row, "free-seat")["state"] == "done"
    sleeper.wait(10)
    assert running(uid) == []
    assert not (home / "a").exists()
    assert not (home / "WKSHP-Test").exists()
    assert (home / "welcome.txt").is_file()
    assert not logs_in(FIRST, before)
    assert logs_in(FIRST, site.password(FIRST, "CLEANUP"))


def test_reset_over_a_range(site: LinuxDeployment) -> None:
    students = range(FIRST, LAST + 1)
    for student in students:
        (site.renew_home(student) / "left").touch()
    row = site.one(f"RESET {FIRST},{LAST} 0", "WKSHP-Again")
    assert (row["state"], len(row["jobs"])) == ("done", 1), row
    assert site.trace().count(f"reset by {SERVICE}\n") == 1
    words = [site.password(student, "RESET") for student in students]
    assert len(set(words)) == len(words)
    for student, word in zip(students, words, strict=True):
        assert not (site.home(student) / "left").exists()
        assert logs_in(student, word)


def test_purge(site: LinuxDeployment, home: Path) -> None:
    assert site.one(f"CREATE {FIRST} 0")["state"] == "done"
    row = site.one(f"PURGE {FIRST} 0", "VOID")
    assert row["state"] == "done", row
    assert not (home / "WKSHP-Test").exists()
    assert logs_in(FIRST, site.password(FIRST, "PURGE"))


def test_a_count_of_students_at_once(site: LinuxDeployment) -> None:
    row = site.one(f"CREATE {FIRST} {LAST - FIRST + 1}")
    assert [job["state"] for job in row["jobs"]] == ["done"] * (LAST - FIRST + 1), row
    for student in range(FIRST, LAST + 1):
        assert (site.home(student) / "WKSHP-Test" / "run.sh").read_text() == f"echo {student}\n"
        assert logs_in(student, site.password(student))


# -- hostile students --------------------------------------------------------------------------------------------------


def test_a_home_that_leads_elsewhere_changes_nothing_there(site: LinuxDeployment, home: Path, victim: Path) -> None:
    home.rmdir()
    home.symlink_to(victim)
    before = snapshot(victim)
    try:
        for subject in (f"CREATE {FIRST} 0", f"CLEANUP {FIRST} 0", f"PURGE {FIRST} 0"):
            row = site.one(subject)
            assert row["state"] == "failed", subject
            assert "is a link" in step_of(row, "validate")["error"]
            assert [step["state"] for step in row["jobs"][0]["steps"]].count("done") == 1, "the trace alone"
            told = {mail["To"] for mail in wait_until(lambda row=row: two(site, row), what="the monitor's mail")}
            assert told == {"frontend@localhost", "monitor@localhost"}
    finally:
        site.renew_home(FIRST)
    assert snapshot(victim) == before
    assert site.command("retry", str(row["id"])).returncode == 0
    mended = site.ended(1)[-1]
    assert (mended["id"], mended["state"]) == (row["id"], "done"), "a retry after the repair"


def two(site: LinuxDeployment, row: dict[str, object]) -> list[object]:
    """A failed request's mails: to its sender and to the monitor."""
    found = site.replies(int(str(row["id"])))
    return found if len(found) == 2 else []


def test_what_was_planted_in_a_workshop_is_removed_and_not_followed(
    site: LinuxDeployment, home: Path, victim: Path
) -> None:
    assert site.one(f"CREATE {FIRST} 0")["state"] == "done"
    os.link(victim / "passwd", home / "hard")
    planted = (
        f"cd WKSHP-Test && rm 0-ReadMeFirst.ipynb && ln -s {victim}/0-ReadMeFirst.ipynb . && "
        f"ln -s {victim} linked && ln -s {victim}/ssh deep/linked && mkfifo 1-Fifo.ipynb && mv ../hard 2-Hard.ipynb && "
        f"cd .. && rm -r .ssh && ln -s {victim}/ssh .ssh && ln -sf {victim}/passwd .bashrc"
    )
    as_student(FIRST, planted, home)
    before = snapshot(victim)
    row = site.one(f"CLEANUP {FIRST} 0")
    assert row["state"] == "done", row
    after = snapshot(victim)
    # The one thing a student's own link could change is its count.
    name = str(victim / "passwd")
    assert (before[name][3], after[name][3]) == (2, 1)
    assert {**after, name: ()} == {**before, name: ()}
    assert after[name][5] == before[name][5]
    assert (home / ".ssh").is_dir() and not (home / ".ssh").is_symlink()
    assert (home / ".bashrc").is_file() and not (home / ".bashrc").is_symlink()


def test_what_is_planted_while_the_copy_is_about_to_begin(
    site: LinuxDeployment, home: Path, victim: Path, held: tuple[Path, Path]
) -> None:
    began, go = held
    before_count = len(site.requests())
    site.mail(f"CREATE {FIRST} 0", "WKSHP-Held")
    wait_until(began.exists, what="the script between erase and copy")
    planted = f"ln -s {victim} WKSHP-Held && mkdir .jupyter && ln -s {victim}/ssh .jupyter/lab"
    as_student(FIRST, planted, home)
    before = snapshot(victim)
    go.touch()
    row = site.ended(before_count + 1)[-1]
    assert row["state"] == "done", row
    assert snapshot(victim) == before
    assert not (home / "WKSHP-Held").is_symlink()
    assert f"student {FIRST}" in (home / "WKSHP-Held" / "0-ReadMeFirst.ipynb").read_text()


def test_a_process_that_swaps_the_folder_for_a_link_all_the_time(
    site: LinuxDeployment, home: Path, victim: Path, held: tuple[Path, Path]
) -> None:
    began, go = held
    uid = BASE + FIRST
    before_count = len(site.requests())
    site.mail(f"CREATE {FIRST} 0", "WKSHP-Held")
    wait_until(began.exists, what="the script between erase and copy")
    before = snapshot(victim)
    swap = subprocess.Popen(
        [str(install.python()), "-c", SWAP, "WKSHP-Held", str(victim)],
        user=uid,
        group=uid,
        extra_groups=[],
        cwd=home,
        stdout=subprocess.PIPE,
    )
    assert swap.stdout is not None
    assert swap.stdout.readline() == b"on\n"
    go.touch()
    row = site.ended(before_count + 1)[-1]
    assert swap.poll() is None
    errors = [step["error"] for step in row["jobs"][0]["steps"] if step["state"] == "failed"]
    assert row["state"] == "done" or "could not be written into the home" in errors[0], row
    cleaned = site.one(f"CLEANUP {FIRST} 0", "WKSHP-Held")
    assert swap.wait(10) != 0
    swap.stdout.close()
    assert cleaned["state"] == "done", cleaned
    assert snapshot(victim) == before


@pytest.mark.parametrize("action", ["CREATE", "CLEANUP"])
def test_processes_that_are_born_again_end(site: LinuxDeployment, home: Path, action: str) -> None:
    uid = BASE + FIRST
    limited = ["prlimit", "--nproc=60", "sh", "-c", RESPAWN]
    bad = subprocess.Popen(limited, user=uid, group=uid, extra_groups=[], cwd="/", stdout=subprocess.PIPE)
    assert bad.stdout is not None
    assert bad.stdout.readline() == b"on\n"
    wait_until(lambda: len(running(uid)) > 5, what="its children")
    row = site.one(f"{action} {FIRST} 0")
    bad.stdout.close()
    assert bad.wait(10) == -9
    assert row["state"] == "done", row
    assert running(uid) == []


# -- crash -----------------------------------------------------------------------------------------------------------


def test_kill_in_the_middle_of_a_create(site: LinuxDeployment, home: Path, held: tuple[Path, Path]) -> None:
    began, go = held
    before = len(site.requests())
    site.mail(f"CREATE {FIRST} 0", "WKSHP-Held")
    wait_until(began.exists, what="the script")
    helpers = roots_below(site)
    assert helpers, "the server keeps a helper of root's running"
    server = site.running[-1]
    server.kill()
    server.wait()
    psutil.wait_procs(helpers, 60)
    assert not any(each.is_running() for each in helpers), "a helper ends with its server"
    began.unlink()
    site.start()
    wait_until(began.exists, what="the script's second run")
    go.touch()
    row = site.ended(before + 1)[-1]
    assert row["state"] == "done", row
    assert {step["name"]: step["runs"] for step in row["jobs"][0]["steps"] if step["runs"] > 1} == {"create-script": 2}
    assert logs_in(FIRST, site.password(FIRST))
    assert (home / "WKSHP-Held" / "0-ReadMeFirst.ipynb").stat().st_uid == BASE + FIRST
    wait_until(lambda: len(site.replies(row["id"])) == 1, what="one result mail")


@pytest.mark.parametrize("point", ["end:password", "end:erase", "end:copy-folder"])
def test_kill_at_the_steps_that_need_root(site: LinuxDeployment, home: Path, point: str) -> None:
    site.stop(site.running[-1])
    (site.state / "died").unlink(missing_ok=True)
    before = len(site.requests())
    armed = site.start("serve", point, module="tests.e2e.crashserver")
    site.mail(f"CREATE {FIRST} 0")
    assert armed.wait(timeout=60) == -9
    site.start()
    row = site.ended(before + 1)[-1]
    assert row["state"] == "done", row
    step = point.partition(":")[2]
    assert {found["name"]: found["runs"] for found in row["jobs"][0]["steps"] if found["runs"] > 1} == {step: 2}
    assert logs_in(FIRST, site.password(FIRST))
    assert (home / "WKSHP-Test" / "run.sh").read_text() == f"echo {FIRST}\n"
    wait_until(lambda: len(site.replies(row["id"])) == 1, what="one result mail")


def roots_below(site: LinuxDeployment) -> list[psutil.Process]:
    """The processes of root's that the server has started."""
    found = []
    for process in psutil.Process(site.running[-1].pid).children(recursive=True):
        if process.uids().real == 0:
            found.append(process)
    return found


def test_wod_test_action_as_the_service_user(site: LinuxDeployment, home: Path) -> None:
    program = Path(sys.executable).with_name("wod-test-action")
    argv = [*asuser.prefix(SERVICE), str(program), "CLEANUP", "WKSHP-Test", str(FIRST), "--wait", "--timeout", "60"]
    environment = {**asuser.environment(SERVICE), "WOD_CONFIG": str(site.file)}
    done = subprocess.run(argv, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"(passwd {site.password(FIRST, 'CLEANUP')})" in done.stdout


def test_a_compiled_script_is_the_students_and_runs_as_the_student(site: LinuxDeployment, home: Path) -> None:
    for part in ("shc", "cc", "strings"):
        require(part)
    row = site.one(f"CREATE {FIRST} 0", "WKSHP-Program")
    assert row["state"] == "done", row
    program = home / "train"
    status = program.lstat()
    assert (stat.filemode(status.st_mode), status.st_uid) == ("-rwx------", BASE + FIRST)
    printed = subprocess.run(["strings", "-a", str(program)], capture_output=True, text=True, check=True).stdout
    assert "GLIBC" in printed and TOKEN not in printed
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    uid = BASE + FIRST
    with subprocess.Popen([program], user=uid, group=uid, extra_groups=[], cwd=home, **pipes) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == f"{uid} {TOKEN}\n"
        # What docs/compile.md says plainly: a running program shows its script.
        assert TOKEN.encode() in Path(f"/proc/{started.pid}/cmdline").read_bytes()
        assert started.communicate("enough\n", timeout=20)[0] == "enough\n"
    assert list((site.state / "runs").iterdir()) == []
    assert site.one(f"CLEANUP {FIRST} 0", "WKSHP-Program")["state"] == "done"
    assert not program.exists()
