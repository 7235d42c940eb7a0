"""What schedules and operators call, on real users: old processes, homes to empty, WKSHP-Template for developers."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.commandline import wodmail
from tests.linux_students import BASE, FIRST, LAST, SERVICE, Site, running
from tests.linux_students import site as made_site
from tests.support import wait_until
from wodmail import cleanupusers, drained, leftovers, processes
from wodmail.becoming import as_user
from wodmail.cli.root import root
from wodmail.leftovers import DAY
from wodmail.store import Store, open_store

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("linux-helper")]
GROUP = f"{SERVICE}-devs"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Real students, once for this file."""
    with made_site() as made:
        yield made


@pytest.fixture
def file(site: Site, tmp_path: Path) -> Path:
    """The configuration of these students; the first has a new home."""
    site.renew_home(FIRST)
    values = {name: value for name, value in site.settings.variables().items() if value not in ("", [], {})}
    values |= {"WODNOBO": str(tmp_path / "notebooks"), "WODDEVGROUP": GROUP}
    made = tmp_path / "wod.yml"
    made.write_text(yaml.safe_dump(values), encoding="utf-8")
    return made


# -- old processes --------------------------------------------------------------------------------------------------


def test_only_students_old_processes_are_ended(site: Site, file: Path) -> None:
    stubborn = site.start(FIRST, "/bin/sh", "-c", "trap '' TERM; while :; do sleep 600; done")
    others = subprocess.Popen(["/bin/sleep", "600"], user=SERVICE, cwd="/")
    ours = subprocess.Popen(["/bin/sleep", "600"], cwd="/")
    try:
        wait_until(lambda: len(running(site.uid(FIRST))) == 2, what="the student's processes")
        assert wodmail(file, "cleanup-processes")["processes"] == []
        would = wodmail(file, "cleanup-processes", "--days", "0", "--dry-run")["processes"]
        assert {(row["student"], row["ended"]) for row in would} == {(FIRST, False)}
        assert len(running(site.uid(FIRST))) == 2
        uids = leftovers.student_uids(site.settings)
        found = leftovers.find(uids, 0.0)
        assert next(each.process.pid for each in found) == stubborn.pid
        assert leftovers.end(uids, 0.0, found, grace=0.2) == []
        assert running(site.uid(FIRST)) == []
        assert (others.poll(), ours.poll()) == (None, None)
    finally:
        for process in (stubborn, others, ours):
            process.kill()
            process.wait()


def test_without_days_a_month_is_the_border(site: Site, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real processes on both sides of it: the clock since the boot stands 30 days after a moment between them."""
    old = site.start(FIRST, "/bin/sleep", "600")
    began = wait_until(lambda: processes.lookup(old.pid), what="the older process").start
    ticks = os.sysconf("SC_CLK_TCK")
    wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * ticks > began + 2, what="another moment")
    young = site.start(FIRST, "/bin/sleep", "600")
    try:
        later = wait_until(lambda: processes.lookup(young.pid), what="the younger process").start
        assert later > began
        wait_until(lambda: len(running(site.uid(FIRST))) == 2, what="both as the student")
        assert wodmail(file, "cleanup-processes")["processes"] == []
        now = (began + later) / 2 / ticks + 30 * DAY
        monkeypatch.setattr(leftovers, "time", SimpleNamespace(clock_gettime=lambda _: now, CLOCK_BOOTTIME=None))
        would = wodmail(file, "cleanup-processes", "--dry-run")
        assert (would["days"], [row["pid"] for row in would["processes"]]) == (30.0, [old.pid])
        ended = wodmail(file, "cleanup-processes")["processes"]
        assert [(row["pid"], row["student"], row["ended"]) for row in ended] == [(old.pid, FIRST, True)]
        assert old.wait(60) == -signal.SIGTERM
        assert [process.pid for process in running(site.uid(FIRST))] == [young.pid]
    finally:
        for process in (old, young):
            process.kill()
            process.wait()


def test_who_is_no_student_is_not_looked_at(site: Site) -> None:
    uids = leftovers.student_uids(site.settings)
    assert set(uids) == {BASE + student for student in range(FIRST, LAST + 1)}
    wide = site.settings.model_copy(update={"UIDBASE": 0, "WODUSERMIN": 1, "WODUSERMAX": 70000})
    known = {account.pw_uid for account in pwd.getpwall() if not account.pw_name.startswith("student")}
    assert not known & set(leftovers.student_uids(wide))


def test_a_process_with_a_strange_uid_is_nobodys(site: Site) -> None:
    """A program that root started with a student's effective uid alone may be root's own."""
    text = f"import os, time; os.setresuid(0, {site.uid(FIRST)}, 0); print(1, flush=True); time.sleep(600)"
    child = subprocess.Popen(["/usr/bin/python3", "-c", text], stdout=subprocess.PIPE, cwd="/")
    try:
        assert child.stdout is not None and child.stdout.readline() == b"1\n"
        assert leftovers.find(leftovers.student_uids(site.settings), 0.0) == []
    finally:
        child.kill()
        child.wait()


def test_a_reused_process_id_is_not_hit(site: Site) -> None:
    process = site.start(FIRST, "/bin/sleep", "600")
    try:
        uids = leftovers.student_uids(site.settings)
        (found,) = wait_until(lambda: leftovers.find(uids, 0.0), what="the student's process")
        earlier = processes.Process(found.process.pid, found.process.start - 1, 1, 1, 1, dead=False)
        stale = leftovers.Leftover(earlier, FIRST, "sleep", 40 * DAY, 0.0)
        assert leftovers.end(uids, 0.0, [stale], grace=0.1) == []
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


# -- homes to empty -------------------------------------------------------------------------------------------------


def test_homes_are_emptied_but_for_seats_in_use(site: Site, file: Path) -> None:
    for student in range(FIRST, LAST + 1):
        site.renew_home(student)
        (site.accounts.home(student) / "work.txt").write_text("mine")
    busy = site.start(FIRST + 1, "/bin/sleep", "600")
    try:
        would = wodmail(file, "cleanup-users", str(FIRST), str(LAST), "--dry-run")
        assert FIRST + 1 not in would["would"]
        found = wodmail(file, "cleanup-users", str(FIRST), str(LAST), "--yes", status=1)
    finally:
        busy.kill()
        busy.wait()
    rows = {row["student"]: row for row in found["students"]}
    assert rows[FIRST + 1]["outcome"] == "in use"
    assert {row["outcome"] for student, row in rows.items() if student != FIRST + 1} == {"emptied"}
    left = [student for student in rows if (site.accounts.home(student) / "work.txt").exists()]
    assert left == [FIRST + 1]
    store = open_store(site.settings)
    assert not store.made() or not drained.current(store).on
    store.close()


def test_it_asks_first(site: Site, file: Path) -> None:
    mark = site.accounts.home(FIRST) / "work.txt"
    mark.write_text("mine")
    line = ["cleanup-users", str(FIRST), str(FIRST), "--config", str(file)]
    for said in ("n\n", "\n", ""):
        done = CliRunner().invoke(root, line, input=said)
        assert "Empty 1 home(s)" in done.output
        assert done.exit_code == 1
        assert mark.exists()
    assert CliRunner().invoke(root, line, input="y\n", standalone_mode=False).return_value == 0
    assert not mark.exists()


CUT_OFF = """
import signal, sys
from wodmail.students.linux import LinuxAccounts

def erase(self, student):
    print("at work", flush=True)
    while True:
        signal.pause()

LinuxAccounts.erase = erase
from wodmail.cli.cleanup_users import main
sys.exit(main())
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_that_is_cut_off_leaves_nothing_drained(site: Site, file: Path, number: int, status: int) -> None:
    """Root's process, of which the server, another user, finds out that it is gone."""
    service = pwd.getpwnam(SERVICE)
    site.settings.WODSTATEDIR.mkdir(exist_ok=True)
    shutil.chown(site.settings.WODSTATEDIR, SERVICE)

    def asked(work: Callable[[Store], object]) -> Any:
        """Ask the database as the server does."""

        def ask() -> object:
            store = open_store(site.settings)
            store.migrate()
            try:
                return work(store)
            finally:
                store.close()

        return as_user(service, ask, umask=0o077)

    asked(lambda _: None)
    line = [sys.executable, "-c", CUT_OFF, "--config", str(file), "--yes", str(FIRST), str(FIRST)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"at work\n"
        assert not asked(drained.drop_ended)
        assert asked(lambda store: drained.current(store).reason) == cleanupusers.REASON
        os.killpg(process.pid, number)
        assert process.wait(20) == status
    finally:
        process.kill()
        process.communicate()
    assert asked(drained.drop_ended) is (number == signal.SIGKILL)
    assert not asked(lambda store: drained.current(store).on)


# -- the template ---------------------------------------------------------------------------------------------------


@pytest.fixture
def developer(tmp_path: Path) -> Iterator[Path]:
    """A developer's home."""
    name = f"{SERVICE}-dev"
    home = tmp_path / "home" / name
    home.parent.mkdir()
    for folder in (home.parent, *home.parent.parents):
        if folder.stat().st_uid == os.geteuid() and folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o011)
    subprocess.run(["groupadd", GROUP], check=True)
    subprocess.run(
        ["useradd", "--no-user-group", "-g", "nogroup", "-G", GROUP, "-m", "-d", str(home), name], check=True
    )
    try:
        yield home
    finally:
        subprocess.run(["userdel", name], check=True)
        subprocess.run(["groupdel", GROUP], check=True)


def test_developers_get_the_template_and_lose_nothing(developer: Path, file: Path, tmp_path: Path) -> None:
    template = tmp_path / "notebooks" / "WKSHP-Template"
    (template / "pictures").mkdir(parents=True)
    (template / "0-ReadMeFirst.ipynb").write_text("one")
    (template / "old.txt").write_text("old")
    (template / "pictures" / "a.png").write_bytes(b"png")
    (template / "link").symlink_to("old.txt")
    mine = developer / "WKSHP-Template"
    would = wodmail(file, "check-template", "--dry-run")["copies"][0]
    assert (would["outcome"], len(would["written"]), mine.exists()) == ("changed", 4, False)
    assert wodmail(file, "check-template")["copies"][0]["outcome"] == "changed"
    assert (mine / "pictures" / "a.png").read_bytes() == b"png"
    assert {path.owner() for path in mine.rglob("*") if not path.is_symlink()} == {developer.name}
    assert wodmail(file, "check-template")["copies"][0]["outcome"] == "same"

    (template / "0-ReadMeFirst.ipynb").write_text("two")
    (template / "pictures" / "a.png").write_bytes(b"new")
    (template / "old.txt").unlink()
    (mine / "0-ReadMeFirst.ipynb").write_text("my own")
    (mine / "notes.txt").write_text("notes")
    done = wodmail(file, "check-template")["copies"][0]
    assert done["kept"] == ["0-ReadMeFirst.ipynb.yours"]
    assert (done["removed"], sorted(done["written"])) == (["old.txt"], ["0-ReadMeFirst.ipynb", "pictures/a.png"])
    assert (mine / "0-ReadMeFirst.ipynb").read_text() == "two"
    assert (mine / "0-ReadMeFirst.ipynb.yours").read_text() == "my own"
    assert (mine / "notes.txt").read_text() == "notes"
    assert wodmail(file, "check-template")["copies"][0]["outcome"] == "same"


def test_what_is_in_the_way_of_the_template_is_kept(developer: Path, file: Path, tmp_path: Path) -> None:
    """A second change beside the first, a folder where a file must be, a file where a folder must be."""
    template, mine = tmp_path / "notebooks" / "WKSHP-Template", developer / "WKSHP-Template"
    (template / "pictures").mkdir(parents=True)
    for name in ("one.ipynb", "two.ipynb", "pictures/a.png"):
        (template / name).write_text("first")
    (template / "link").symlink_to("one.ipynb")
    wodmail(file, "check-template")
    for text in ("my first", "my second"):
        (template / "one.ipynb").write_text(f"new after {text}")
        (mine / "one.ipynb").write_text(text)
        assert wodmail(file, "check-template", "--dry-run")["copies"][0]["kept"] != []
        assert wodmail(file, "check-template")["copies"][0]["outcome"] == "changed"
    for folder, target in ((mine, "my.ipynb"), (template, "two.ipynb")):
        (folder / "link").unlink()
        (folder / "link").symlink_to(target)
    (mine / "two.ipynb").unlink()
    (mine / "two.ipynb").mkdir()
    (mine / "two.ipynb" / "work.txt").write_text("work")
    shutil.rmtree(mine / "pictures")
    (mine / "pictures").write_text("a list of pictures")
    done = wodmail(file, "check-template")["copies"][0]
    assert sorted(done["kept"]) == ["link.yours", "pictures.yours", "two.ipynb.yours"]
    assert (str((mine / "link").readlink()), str((mine / "link.yours").readlink())) == ("two.ipynb", "my.ipynb")
    assert (mine / "one.ipynb.yours").read_text() == "my first"
    assert (mine / "one.ipynb.yours-2").read_text() == "my second"
    assert (mine / "two.ipynb.yours" / "work.txt").read_text() == "work"
    assert (mine / "pictures.yours").read_text() == "a list of pictures"
    assert (mine / "two.ipynb").read_text() == (mine / "pictures" / "a.png").read_text() == "first"
    assert wodmail(file, "check-template")["copies"][0]["outcome"] == "same"


def test_a_link_in_a_developers_home_leads_nowhere(developer: Path, file: Path, tmp_path: Path) -> None:
    template = tmp_path / "notebooks" / "WKSHP-Template"
    template.mkdir(parents=True)
    (template / "0-ReadMeFirst.ipynb").write_text("one")
    victim = tmp_path / "victim"
    victim.mkdir()
    (developer / "WKSHP-Template").symlink_to(victim)
    assert wodmail(file, "check-template")["copies"][0]["kept"] == ["WKSHP-Template.yours"]
    assert (developer / "WKSHP-Template.yours").readlink() == victim
    assert list(victim.iterdir()) == []
    assert (developer / "WKSHP-Template" / "0-ReadMeFirst.ipynb").read_text() == "one"
    shutil.rmtree(developer / "WKSHP-Template")
    (developer / "WKSHP-Template").write_text("my list")
    assert wodmail(file, "check-template")["copies"][0]["kept"] == ["WKSHP-Template.yours-2"]
    assert (developer / "WKSHP-Template.yours-2").read_text() == "my list"
    shutil.rmtree(developer)
    assert wodmail(file, "check-template", status=1)["copies"][0]["outcome"] == "failed"


def test_nothing_to_do_is_no_failure(file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text().replace(f"WODDEVGROUP: {GROUP}\n", ""))
    assert wodmail(file, "check-template")["remark"].startswith("there is no ")
    (tmp_path / "notebooks" / "WKSHP-Template").mkdir(parents=True)
    assert wodmail(file, "check-template")["remark"].startswith("there are no developers")
