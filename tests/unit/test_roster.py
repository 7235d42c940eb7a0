"""What lines students' accounts need: pure, and the files written beside others' hands."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wodmail.cli.students import as_data, grouped
from wodmail.config import Settings
from wodmail.errors import Failed, Refused, Temporary
from wodmail.students import accountfiles, roster
from wodmail.students.accountfiles import Files, Table
from wodmail.students.report import Report, State

SETTINGS = Settings(WODUSERMIN=1, WODUSERMAX=20, UIDBASE=2000, GIDBASE=3000, WODSTUDDIR=Path("/student"))
FIVE = roster.wanted(SETTINGS, 5)
WELL = {
    "passwd": ["root:x:0:0:root:/root:/bin/bash", "student5:x:2005:3005::/student/student5:/bin/bash"],
    "shadow": ["root:*:1::::::", "student5:$y$hash:20000:0:99999:7:::"],
    "group": ["root:x:0:", "student5:x:3005:", "docker:x:999:student5,bob,student55"],
    "gshadow": ["root:*::", "student5:!::", "docker:!:student5:student5,bob"],
}


def files(**changed: list[str] | None) -> Files:
    """Files of accounts in which student 5 is well, but for some of them."""
    tables = {name: lines for name, lines in {**WELL, **changed}.items() if lines is not None}
    return Files({name: Table(name, list(lines)) for name, lines in tables.items()}, ("0", "99999", "7"))


def compared(found: Files, want: roster.Wanted = FIVE) -> roster.Found:
    return roster.compare(roster.index_of(found), found, want)


def text(found: Files, name: str) -> list[str]:
    return found.tables[name].data().decode("utf-8", "surrogateescape").splitlines()


def test_an_account_that_is_well() -> None:
    assert compared(files()) == roster.Found(True)
    assert compared(files(shadow=None, gshadow=None)) == roster.Found(True)
    assert roster.make(files(), [FIVE], 20000) == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("student5:x:2005:3005::/student/student5:/bin/sh", ["shell /bin/sh, must be /bin/bash"]),
        ("student5:x:2005:3005::/student/student5:", ["shell none, must be /bin/bash"]),
        (
            "student5:x:2005:100:Five:/home/five:/bin/bash",
            ["gid 100, must be 3005", "home /home/five, must be /student/student5"],
        ),
        ("student5::2005:3005::/student/student5:/bin/bash", ["its password is looked for in passwd, not in shadow"]),
    ],
)
def test_what_can_be_mended(line: str, words: list[str]) -> None:
    found = files(passwd=[WELL["passwd"][0], line, "bob:x:1000:1000::/home/bob:/bin/sh"])
    assert compared(found) == roster.Found(True, tuple(words))
    assert roster.make(found, [FIVE], 20000) == {5: (False, tuple(words))}
    assert compared(found) == roster.Found(True)
    gecos = line.split(":")[4]
    assert text(found, "passwd")[1] == f"student5:x:2005:3005:{gecos}:/student/student5:/bin/bash"
    assert text(found, "shadow") == WELL["shadow"]  # the password stays


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"passwd": ["student5:x:1234:3005::/student/student5:/bin/bash"]}, "uid 1234, must be 2005"),
        ({"passwd": [*WELL["passwd"], "bob:x:2005:1::/:/bin/sh"]}, "uid 2005 belongs to bob; change UIDBASE"),
        ({"group": [*WELL["group"], "staff:x:3005:"]}, "gid 3005 belongs to staff; change GIDBASE"),
        ({"passwd": [WELL["passwd"][1], WELL["passwd"][1]]}, "there are 2 lines student5 in passwd"),
        ({"group": ["student5:x:3005"]}, "the line student5 in group is broken"),
        ({"passwd": ["student5:x:2005:3005::/student/student5"]}, "the line student5 in passwd is broken"),
    ],
)
def test_what_an_operator_has_to_see_to(changed: dict[str, list[str]], words: str) -> None:
    found = files(**changed)
    assert any(each.startswith(words) for each in compared(found).wrong), compared(found)
    before = {name: text(found, name) for name in found.tables}
    assert roster.make(found, [FIVE], 20000) == {}
    assert before == {name: text(found, name) for name in found.tables}


@pytest.mark.parametrize("base", [1000, 65529, 65530])
def test_ids_that_are_none_for_a_student(base: int) -> None:
    settings = Settings(UIDBASE=max(base, 1000), GIDBASE=3000)
    want = roster.wanted(settings, 5)
    found = files(passwd=[], shadow=[])
    assert bool(compared(found, want).wrong) == (base in (65529, 65530))


def test_a_new_account() -> None:
    found = files(passwd=["root:x:0:0:root:/root:/bin/bash", "+::::::"], group=["root:x:0:"], gshadow=["root:*::"])
    assert roster.make(found, [FIVE, roster.wanted(SETTINGS, 6)], 20781) == {
        5: (True, ("no group",)),
        6: (True, ("no group",)),
    }
    assert text(found, "passwd") == [
        "root:x:0:0:root:/root:/bin/bash",
        "student5:x:2005:3005::/student/student5:/bin/bash",
        "student6:x:2006:3006::/student/student6:/bin/bash",
        "+::::::",
    ]
    assert text(found, "group")[1] == "student5:x:3005:"
    assert text(found, "gshadow")[2] == "student6:!::"
    # What an account left behind lets nobody in again.
    assert text(found, "shadow")[1:] == ["student5:!*:20781:0:99999:7:::", "student6:!*:20781:0:99999:7:::"]


@pytest.mark.parametrize("line", ["student5::20000::::::", None])
def test_no_password_at_all_is_no_password_that_fits(line: str | None) -> None:
    found = files(shadow=[WELL["shadow"][0], *([line] if line else [])])
    assert list(roster.make(found, [FIVE], 20781)) == [5]
    assert text(found, "shadow")[1] == "student5:!*:20781:0:99999:7:::"


def test_struck_out() -> None:
    found = files(subuid=["student5:100000:65536", "bob:165536:65536"])
    roster.strike(found, [FIVE])
    assert text(found, "passwd") == [WELL["passwd"][0]]
    assert text(found, "group") == ["root:x:0:", "docker:x:999:bob,student55"]
    assert text(found, "gshadow") == ["root:*::", "docker:!::bob"]
    assert (text(found, "shadow"), text(found, "subuid")) == (["root:*:1::::::"], ["bob:165536:65536"])


def test_what_is_not_ours_to_remove() -> None:
    assert roster.not_ours(roster.index_of(files()), FIVE) == ""
    assert roster.not_ours(roster.index_of(files(passwd=[])), FIVE) == ""
    bob = files(passwd=["bob:x:2005:1::/:/bin/sh"])
    assert roster.not_ours(roster.index_of(bob), FIVE).startswith("uid 2005 belongs to bob")
    another = files(passwd=["student5:x:1000:1000:A man:/home/five:/bin/sh"])
    assert roster.not_ours(roster.index_of(another), FIVE).startswith("uid 1000, not 2005")


def test_a_group_that_is_somebody_elses_stays() -> None:
    found = files(passwd=[*WELL["passwd"], "bob:x:1000:3005::/:/bin/sh"])
    roster.strike(found, [FIVE])
    assert text(found, "group")[1] == "student5:x:3005:"
    assert text(found, "gshadow")[1] == "student5:!::"


def test_lines_of_others_stay_as_they_are() -> None:
    odd = ["# a comment", "", "broken", "+@netgroup", b"k\xe4the:x:7:7::/:/bin/sh".decode("utf-8", "surrogateescape")]
    found = files(passwd=[*odd, *WELL["passwd"]])
    roster.make(found, [roster.wanted(SETTINGS, 6)], 20000)
    lines = found.tables["passwd"].data().splitlines()
    assert [line for line in lines if b"student" not in line][:3] == [b"# a comment", b"", b"broken"]
    assert b"k\xe4the:x:7:7::/:/bin/sh" in lines
    assert lines.index(b"student6:x:2006:3006::/student/student6:/bin/bash") < lines.index(b"+@netgroup")


@pytest.mark.parametrize(("text_", "first", "last"), [("7", 7, 7), ("7-9", 7, 9), (None, 1, 20), ("1-20", 1, 20)])
def test_students_named(text_: str | None, first: int, last: int) -> None:
    assert roster.numbers(SETTINGS, text_) == list(range(first, last + 1))


@pytest.mark.parametrize("text_", ["", "-", "5-", "-5", "9-7", "0", "0-3", "20-21", "a", "1-2-3", "٣", "1,2"])
def test_students_that_are_none(text_: str) -> None:
    with pytest.raises(Refused):
        roster.numbers(SETTINGS, text_)


def test_students_beyond_the_range() -> None:
    assert roster.numbers(SETTINGS, "21-22", beyond=True) == [21, 22]


# -- the files --------------------------------------------------------------------------------------------------


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    for name, lines in WELL.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (tmp_path / "shadow").chmod(0o640)
    (tmp_path / "login.defs").write_text("# PASS_MAX_DAYS 1\nPASS_MAX_DAYS\t90\nPASS_WARN_AGE 7\n", encoding="utf-8")
    return tmp_path


def test_written_with_backup_and_mode(etc: Path) -> None:
    labels = {}
    with contextlib.suppress(OSError):  # a filesystem that keeps none has nothing to lose
        os.setxattr(etc / "shadow", "user.label", b"kept")
        labels = {"user.label": b"kept"}
    found = accountfiles.read(etc)
    assert found.aging == ("", "90", "7")
    roster.make(found, [roster.wanted(SETTINGS, 6)], 20000)
    with accountfiles.locked(etc):
        assert accountfiles.write(etc, found, roster.MAKING, backup=True) == list(roster.MAKING)
    assert (etc / "shadow").read_text(encoding="utf-8").endswith("student6:!*:20000::90:7:::\n")
    assert (etc / "shadow").stat().st_mode & 0o777 == (etc / "shadow-").stat().st_mode & 0o777 == 0o640
    assert {name: os.getxattr(etc / "shadow", name) for name in labels} == labels
    assert (etc / "passwd-").read_text(encoding="utf-8").splitlines() == WELL["passwd"]
    with accountfiles.locked(etc):
        assert accountfiles.write(etc, accountfiles.read(etc), roster.MAKING, backup=True) == []


def test_what_is_no_system_with_accounts(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no system with accounts"):
        accountfiles.read(tmp_path)


LOCKER = """
import fcntl, sys
file = open(sys.argv[1] + "/.pwd.lock", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_another_program_has_the_lock(etc: Path) -> None:
    argv = [sys.executable, "-c", LOCKER, str(etc)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Temporary, match="Another program has locked the accounts"), accountfiles.locked(etc, 0.05):
            pytest.fail("the lock was the other's")
        ending = threading.Timer(0.1, other.stdin.close)
        ending.start()
        with accountfiles.locked(etc, 20):
            assert other.wait(60) == 0
        ending.join()


@pytest.mark.parametrize(
    ("pid", "lives"), [(os.getpid(), True), (2**22 + 1, False), (0, False)], ids=["lives", "gone", "none"]
)
def test_a_lock_file_of_vipw_counts_while_its_program_lives(etc: Path, pid: int, lives: bool) -> None:
    (etc / "group.lock").write_bytes(f"{pid}\0".encode())
    if lives:
        with pytest.raises(Temporary, match=f"Process {pid} has"), accountfiles.locked(etc, 0.05):
            pytest.fail("the lock was the other's")
    else:
        with accountfiles.locked(etc, 0.05), (etc / ".pwd.lock").open("w") as held:
            fcntl.lockf(held, fcntl.LOCK_EX)  # ours


def test_what_a_killed_run_left_goes(etc: Path) -> None:
    (etc / ".shadow.wodmail").touch()
    with accountfiles.locked(etc):
        assert not (etc / ".shadow.wodmail").exists()


def test_a_file_that_cannot_be_replaced_stays(etc: Path) -> None:
    found = accountfiles.read(etc)
    roster.make(found, [roster.wanted(SETTINGS, 6)], 20000)
    (etc / "gshadow").unlink()
    (etc / "gshadow").mkdir()
    with accountfiles.locked(etc), pytest.raises(Failed, match="gshadow can't be written: Is a directory"):
        accountfiles.write(etc, found, roster.MAKING, backup=False)
    assert (etc / "passwd").read_text(encoding="utf-8").splitlines() == WELL["passwd"]


# -- what is said -----------------------------------------------------------------------------------------------


def test_a_report() -> None:
    report = Report()
    report.set(1, State.OK)
    report.set(2, State.MADE)
    report.set(3, State.MADE)
    report.add(1, State.REPAIRED, "no hub user")
    report.add(2, State.REPAIRED, "no hub user")
    report.add(3, State.FAILED, "the hub says no")
    assert report.counts() == {"made": 1, "repaired": 1, "failed": 1}
    assert report.changed
    data = json.loads(json.dumps(as_data("ensure", report)))
    assert data["students"][2] == {"student": 3, "state": "failed", "what": ["the hub says no"]}
    report.set(4, State.MADE, "no hub user")
    assert [students for students, _, _ in grouped(report)] == [[1], [2, 4], [3]]
