"""Real Linux students behind the root helper: logging in, hostile homes and processes, and what it must refuse."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.linux_students import BASE, FIRST, LAST, SERVICE, Site, logs_in, running, site
from tests.support import wait_until
from wodmail.errors import ConfigError, Failed, Refused
from wodmail.students import install, treewriter
from wodmail.students.helperclient import HelperClient
from wodmail.students.treewriter import Entry

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux-helper")]
BOMB = """
import os, signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("on", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
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


@pytest.fixture
def client(linux: Site) -> Iterator[HelperClient]:
    """The helper spoken to directly, as the service user."""
    found = HelperClient(linux.accounts.writer_argv(), timeout=60)
    yield found
    found.close()


def test_the_password_really_logs_in(linux: Site) -> None:
    linux.accounts.set_password(FIRST, "Werty123")
    linux.accounts.set_password(FIRST + 1, "Other!#$%&'1")
    for student, word in ((FIRST, "Werty123"), (FIRST + 1, "Other!#$%&'1")):
        assert logs_in(student, word)
        assert not logs_in(student, word + "x")


def test_exactly_one_line_for_sudo_and_no_arguments(linux: Site) -> None:
    lines = linux.sudoers.read_text().splitlines()
    assert lines == [f'{SERVICE} ALL=(root) NOPASSWD: {linux.settings.WODHELPER} ""']
    for argv in ([str(linux.settings.WODHELPER), "anything"], ["/usr/bin/id"]):
        drop = linux.accounts.writer_argv()[:4]
        done = subprocess.run([*drop, "sudo", "-n", *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "password is required" in done.stderr


def test_the_home_and_its_rights(linux: Site) -> None:
    linux.accounts.erase(FIRST)
    home = linux.accounts.home(FIRST)
    assert {path.stat().st_uid for path in home.rglob("*")} == {BASE + FIRST}
    acl = subprocess.run(["getfacl", "-pcE", str(home)], capture_output=True, text=True, check=True).stdout
    for line in (f"user:{SERVICE}:rwx", f"default:user:{SERVICE}:rwx", "other::---", "default:other::---"):
        assert line in acl.split("\n")
    service = pwd.getpwnam(SERVICE)
    read = {"user": service.pw_uid, "group": service.pw_gid, "extra_groups": [], "cwd": "/", "capture_output": True}
    assert subprocess.run(["cat", f"{home}/.ssh/id_rsa.pub"], check=False, **read).returncode == 0
    assert subprocess.run(["cat", f"{home}/.ssh/id_rsa"], check=False, **read).returncode == 1


def test_rights_that_a_student_gave_away_are_taken_back(linux: Site) -> None:
    linux.accounts.erase(FIRST)
    home = linux.accounts.home(FIRST)
    subprocess.run(["setfacl", "-m", f"u:student{FIRST + 1}:rwx,d:u:student{FIRST + 1}:rwx", str(home)], check=True)
    home.chmod(0o777)
    linux.accounts.erase(FIRST)
    acl = subprocess.run(["getfacl", "-pc", str(home)], capture_output=True, text=True, check=True).stdout
    assert f"student{FIRST + 1}" not in acl
    assert "other::---" in acl.split("\n")


def test_a_shut_home_is_opened(linux: Site) -> None:
    home = linux.accounts.home(FIRST)
    (home / "notes").write_text("of the last student")
    home.chmod(0o000)
    linux.accounts.check(FIRST)
    assert [path.name for path in home.iterdir()] == ["notes"]
    linux.accounts.erase(FIRST)
    linux.accounts.verify_erased(FIRST)
    mode = stat.S_IMODE(home.stat().st_mode)
    assert (mode & stat.S_IRWXU, mode & stat.S_IRWXO) == (stat.S_IRWXU, 0)
    assert (home / ".ssh" / "id_rsa").is_file()
    assert not (home / "notes").exists()


ACCOUNTS = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid", "pwd", "sudoers", ".pwd")


def times_in_etc() -> dict[str, int]:
    """When what is in /etc was changed, but for what other tests change beside this one: accounts and their locks."""
    found = {}
    for path in Path("/etc").iterdir():
        if not path.name.startswith(ACCOUNTS):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.lstat().st_mtime_ns
    return found


def test_a_home_that_is_a_link_to_etc(linux: Site) -> None:
    home = linux.accounts.home(FIRST)
    aside = home.with_name("aside")
    home.rename(aside)
    before = times_in_etc()
    try:
        home.symlink_to("/etc")
        for ask in (linux.accounts.check, linux.accounts.erase, linux.accounts.verify_erased):
            with pytest.raises(Failed, match="it is a link"):
                ask(FIRST)
    finally:
        home.unlink()
        aside.rename(home)
    assert times_in_etc() == before


def test_a_home_of_somebody_else(linux: Site) -> None:
    home = linux.accounts.home(FIRST)
    (home / "file").touch()
    os.chown(home, BASE + LAST, BASE + LAST)
    home.chmod(0o777)
    try:
        for ask in (linux.accounts.check, linux.accounts.erase, linux.accounts.verify_erased):
            with pytest.raises(Failed, match="belongs to somebody else"):
                ask(FIRST)
        assert (home / "file").exists()
    finally:
        os.chown(home, BASE + FIRST, BASE + FIRST)


def test_what_belongs_to_root_in_a_home_is_named_and_the_seat_not_freed(linux: Site) -> None:
    linux.accounts.erase(FIRST)
    planted = linux.accounts.home(FIRST) / "planted"
    planted.mkdir(mode=0o700)
    (planted / "file").touch()
    try:
        with pytest.raises(Failed) as error:
            linux.accounts.erase(FIRST)
        assert "planted" in error.value.operator
        with pytest.raises(Failed, match="not empty"):
            linux.accounts.verify_erased(FIRST)
    finally:
        (planted / "file").unlink()
        planted.rmdir()
    linux.accounts.erase(FIRST)


def test_what_workshop_scripts_left_is_removed(linux: Site) -> None:
    linux.accounts.erase(FIRST)
    home = linux.accounts.home(FIRST)
    service = pwd.getpwnam(SERVICE)
    (home / "mine" / "shut").mkdir(parents=True)
    for folder in (home / "tools", home / "mine" / "shut" / "tools"):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").touch()
        for each in (folder, folder / "inner", folder / "inner" / "file"):
            os.chown(each, service.pw_uid, service.pw_gid)
        (folder / "inner").chmod(0o000)
        folder.chmod(0o700)
    for each in (home / "mine", home / "mine" / "shut"):
        os.chown(each, BASE + FIRST, BASE + FIRST)
        each.chmod(0o700)
    linux.accounts.erase(FIRST)
    linux.accounts.verify_erased(FIRST)
    assert sorted(path.name for path in home.iterdir()) == [".bash_logout", ".bashrc", ".profile", ".ssh"]


def test_processes_are_ended_and_counted_and_others_left_alone(linux: Site) -> None:
    mine = [linux.start(FIRST, "sleep", "600") for _ in range(3)]
    other = linux.start(FIRST + 1, "sleep", "600")
    assert linux.accounts.end_processes(FIRST) >= 3
    assert [each.wait(10) for each in mine] == [-signal.SIGTERM] * 3
    assert running(linux.uid(FIRST)) == []
    assert other.poll() is None
    assert linux.accounts.end_processes(FIRST + 1) == 1
    assert other.wait(10) == -signal.SIGTERM
    assert linux.accounts.end_processes(FIRST) == 0


def test_a_process_that_still_runs_keeps_the_seat(linux: Site) -> None:
    linux.accounts.erase(FIRST)
    process = linux.start(FIRST, "sleep", "600")
    with pytest.raises(Failed, match="still run") as error:
        linux.accounts.verify_erased(FIRST)
    assert str(process.pid) in error.value.operator
    linux.accounts.erase(FIRST)
    linux.accounts.verify_erased(FIRST)
    assert process.wait(10) == -signal.SIGTERM


def test_a_fork_bomb_that_ignores_term(linux: Site) -> None:
    uid = linux.uid(FIRST)
    limited = ["prlimit", "--nproc=40", str(install.python()), "-c", BOMB]
    bomb = subprocess.Popen(limited, user=uid, group=uid, extra_groups=[], cwd="/", stdout=subprocess.PIPE)
    assert bomb.stdout is not None
    assert bomb.stdout.readline() == b"on\n"
    wait_until(lambda: len(running(uid)) > 20, what="the bomb")
    linux.accounts.erase(FIRST)
    linux.accounts.verify_erased(FIRST)
    assert running(uid) == []
    bomb.stdout.close()
    assert bomb.wait(10) == -signal.SIGKILL


def test_a_tree_is_written_as_the_student(linux: Site, client: HelperClient) -> None:
    linux.accounts.erase(FIRST)
    home = linux.accounts.home(FIRST)
    (home / "WKSHP-Try101").mkdir()
    (home / "WKSHP-Try101" / "old").touch()
    os.chown(home / "WKSHP-Try101", BASE + FIRST, BASE + FIRST)
    tree = [
        Entry("WKSHP-Try101", "dir", 0o500),
        Entry("WKSHP-Try101/a.sh", "file", 0o755, b"run"),
        Entry("WKSHP-Try101/part/b.txt", "file", 0o444, b"text"),
        Entry("WKSHP-Try101/link", "link", target="part/b.txt"),
        Entry(".jupyter/lab/workspaces/x", "file", 0o644, b"{}"),
    ]
    answer = client.call("install_tree", treewriter.pack(tree), student=FIRST, workshop="WKSHP-Try101")
    assert answer.fields["files"] == 3
    folder = home / "WKSHP-Try101"
    assert sorted(path.name for path in folder.iterdir()) == ["a.sh", "link", "part"]
    assert (folder / "part" / "b.txt").read_bytes() == b"text"
    assert {path.lstat().st_uid for path in [folder, *folder.rglob("*")]} == {BASE + FIRST}
    listing = subprocess.run(
        ["getfacl", "-pcE", str(folder), str(folder / "a.sh"), str(folder / "part/b.txt")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    blocks = [block.split("\n") for block in listing.strip().split("\n\n")]
    assert f"default:user:{SERVICE}:rwx" in blocks[0]
    assert [f"user:{SERVICE}:rwx" in block for block in blocks] == [True, True, False]
    assert f"user:{SERVICE}:rw-" in blocks[2]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "part/../../../x"])
def test_a_link_that_leads_out_is_refused(linux: Site, client: HelperClient, target: str) -> None:
    linux.accounts.erase(FIRST)
    tree = [Entry("WKSHP-Try101/link", "link", target=target)]
    with pytest.raises(Refused, match="leads out of the home"):
        client.call("install_tree", treewriter.pack(tree), student=FIRST, workshop="WKSHP-Try101")
    assert not (linux.accounts.home(FIRST) / "WKSHP-Try101").exists()


def test_planted_links_lead_nowhere(linux: Site, client: HelperClient, tmp_path: Path) -> None:
    linux.accounts.erase(FIRST)
    home = linux.accounts.home(FIRST)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a").write_text("untouched")
    tmp_path.chmod(0o777)
    victim.chmod(0o777)
    (home / "WKSHP-Try101").symlink_to(victim)
    (home / ".jupyter").symlink_to(victim)
    tree = [Entry("WKSHP-Try101/a", "file", 0o644, b"new"), Entry(".jupyter/a", "file", 0o644, b"new")]
    client.call("install_tree", treewriter.pack(tree), student=FIRST, workshop="WKSHP-Try101")
    assert (victim / "a").read_text() == "untouched"
    assert (home / "WKSHP-Try101" / "a").read_bytes() == (home / ".jupyter" / "a").read_bytes() == b"new"


@pytest.mark.parametrize(
    "fields",
    [
        {"op": "install_tree", "student": FIRST, "workshop": "../etc"},
        {"op": "install_tree", "student": FIRST, "workshop": "WKSHP-A/../.."},
        {"op": "read_notebooks", "student": FIRST, "workshop": "/etc"},
        {"op": "erase", "student": FIRST - 1},
        {"op": "erase", "student": LAST + 1},
        {"op": "erase", "student": -1},
        {"op": "erase", "student": True},
        {"op": "erase", "student": str(FIRST)},
        {"op": "erase"},
        {"op": "set_password", "student": FIRST, "password": "x\nroot:x"},
        {"op": "set_password", "student": FIRST, "password": None},
        {"op": "run", "student": FIRST},
        {"op": "__class__", "student": FIRST},
    ],
)
def test_the_helper_itself_refuses(client: HelperClient, fields: dict[str, object]) -> None:
    before = passwords()
    with pytest.raises(Refused):
        client.call(str(fields.pop("op")), **fields)
    assert passwords() == before
    assert client.call("ping").fields["ok"] is True


def passwords() -> list[str]:
    """The shadow lines of root and of this file's students; other lines may be other tests' business."""
    ours = ("root:", *(f"student{number}:" for number in range(FIRST, LAST + 1)))
    return [line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(ours)]


@pytest.mark.parametrize("path", ["../outside", "/etc/wodmail-test", "WKSHP-Try101/../../x", "a//b", ""])
def test_a_tree_outside_the_home_is_not_written(linux: Site, client: HelperClient, path: str) -> None:
    linux.accounts.erase(FIRST)
    tree = [Entry(path, "file", 0o644, b"x")]
    with pytest.raises((Failed, Refused)):
        client.call("install_tree", treewriter.pack(tree), student=FIRST, workshop="WKSHP-Try101")
    with pytest.raises((Failed, Refused)):
        client.call("install_tree", treewriter.pack([]), student=FIRST, workshop="WKSHP-Try101", remove=[path])
    linux.accounts.verify_erased(FIRST)
    assert not Path("/etc/wodmail-test").exists()


def test_an_account_with_another_uid_is_refused(linux: Site) -> None:
    name = f"student{LAST}"
    subprocess.run(["usermod", "--uid", str(BASE + 900), name], check=True, capture_output=True)
    try:
        with pytest.raises(Failed, match="not what it should be"):
            linux.accounts.set_password(LAST, "Werty123")
    finally:
        subprocess.run(["usermod", "--uid", str(BASE + LAST), name], check=True, capture_output=True)
    linux.accounts.set_password(LAST, "Werty123")


def test_a_student_without_account(linux: Site) -> None:
    wide = linux.settings.model_copy(update={"WODUSERMAX": LAST + 5})
    with pytest.raises(Refused, match="not one of this backend's"):
        type(linux.accounts)(wide).check(LAST + 1)


def test_a_helper_that_was_killed_is_started_again(linux: Site) -> None:
    linux.accounts.check(FIRST)
    helpers = [
        each
        for each in psutil.process_iter(["cmdline"])
        if (each.info["cmdline"] or [])[-1:] == [str(linux.settings.WODHELPER)]
    ]
    assert helpers
    for each in helpers:
        each.kill()
    psutil.wait_procs(helpers, 10)
    linux.accounts.check(FIRST)


def test_nonsense_ends_the_helper_with_an_answer(linux: Site) -> None:
    for nonsense in (
        b"no json\n",
        b'{"op": "ping", "bytes": -1}\n',
        b'{"op": "ping", "bytes": 99999999999}\n',
        b"[]\n",
    ):
        done = subprocess.run([str(linux.settings.WODHELPER)], input=nonsense, capture_output=True, check=False)
        assert json.loads(done.stdout)["kind"] == "refused"
        assert done.returncode == 0


def test_work_is_finished_when_the_input_ends(linux: Site) -> None:
    request = json.dumps({"id": 1, "op": "set_password", "student": FIRST, "password": "AtTheEnd1"}).encode() + b"\n"
    done = subprocess.run([str(linux.settings.WODHELPER)], input=request, capture_output=True, check=False)
    assert json.loads(done.stdout)["ok"] is True
    assert logs_in(FIRST, "AtTheEnd1")


def test_limits_that_others_can_change_are_not_believed(linux: Site) -> None:
    limits = install.limits_file(linux.settings.WODHELPER)
    for spoil, mend in (
        (lambda: limits.chmod(0o666), lambda: limits.chmod(0o644)),
        (lambda: os.chown(limits, BASE + FIRST, 0), lambda: os.chown(limits, 0, 0)),
        (lambda: limits.parent.chmod(0o777), lambda: limits.parent.chmod(0o755)),
    ):
        spoil()
        try:
            done = subprocess.run([str(linux.settings.WODHELPER)], input=b"", capture_output=True, check=False)
            assert done.returncode == 77
            assert b"must belong to root" in done.stderr
        finally:
            mend()


def test_check_and_a_second_installation(linux: Site) -> None:
    helper = linux.settings.WODHELPER
    assert install.check_helper(linux.settings) == []
    wider = linux.settings.model_copy(update={"WODUSERMAX": LAST + 1})
    assert "limits are not those" in install.check_helper(wider)[0].message
    install.install_helper(linux.settings, sudoers=linux.sudoers)
    assert install.check_helper(linux.settings) == []
    assert sorted(path.name for path in helper.parent.iterdir()) == [helper.name, helper.name + ".json"]
    assert (stat.S_IMODE(helper.stat().st_mode), helper.stat().st_uid) == (0o755, 0)
    assert stat.S_IMODE(linux.sudoers.stat().st_mode) == 0o440
    helper.write_bytes(helper.read_bytes() + b"changed")
    assert any("another version" in problem.message for problem in install.check_helper(linux.settings))
    install.install_helper(linux.settings, sudoers=linux.sudoers)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("WODUSER", "root", "must not run as root"),
        ("WODUSER", "nobody-of-that-name", "make it first"),
        ("WODHELPER", Path("/tmp/with blank/helper"), "letters, digits"),
        ("WODSTUDDIR", Path("/student$(id)"), "letters, digits"),
    ],
)
def test_what_stands_against_an_installation(linux: Site, key: str, value: object, words: str) -> None:
    before = linux.sudoers.read_text()
    with pytest.raises(ConfigError, match=words):
        install.install_helper(linux.settings.model_copy(update={key: value}), sudoers=linux.sudoers)
    assert linux.sudoers.read_text() == before


def test_a_place_that_others_can_write_to_is_refused(linux: Site, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    open_place = linux.settings.model_copy(update={"WODHELPER": tmp_path / "helper"})
    with pytest.raises(ConfigError, match="must belong to root"):
        install.install_helper(open_place, sudoers=linux.sudoers)
    assert not (tmp_path / "helper").exists()
