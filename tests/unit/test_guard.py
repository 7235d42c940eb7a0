"""What the guard takes offence at, and what it then does: the pure parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guards import policy, seen
from wodmail.config import Settings
from wodmail.guard import load
from wodmail.guard.evidence import surplus
from wodmail.guard.judge import Finding, Judge
from wodmail.guard.ladder import Cases
from wodmail.guard.policy import Rung
from wodmail.guard.programs import Programs, path_pattern, python_target
from wodmail.guard.sockets import Connection, connections
from wodmail.guard.tracks import Everything, Look, Track
from wodmail.guard.watch import ExeFile, Seen, Students, descendants

STUDENTS = Students(2000, 1, 40)
POLICY = policy(Settings())


def burn(judge: Judge, cores: list[float], *, every: float = 15.0, start: float = 0.0) -> list[tuple[float, str]]:
    """Let one process use that many cores in each interval; gives when which rule found it."""
    cpu, found = start, []
    for turn, rate in enumerate([0.0, *cores]):
        cpu += rate * every
        look = Look(turn * every, [seen(cpu_seconds=cpu, age_seconds=5000 + turn * every)])
        found += [(look.now, finding.rule) for finding in judge.judge(look)]
    return found


def test_cpu_counts_by_rate_and_only_after_five_minutes() -> None:
    found = burn(Judge(POLICY), [1.0] * 30)
    assert found[0] == (315.0, "cpu")
    assert all(rule == "cpu" for _, rule in found)


def test_a_long_idle_process_that_begins_to_burn_is_found_as_soon() -> None:
    # Over its life it used hardly anything: an average over the lifetime would not find it for days.
    assert 3300 < burn(Judge(POLICY), [0.0] * 200 + [1.0] * 30)[0][0] <= 3375  # the window has to fill as well


def test_what_was_used_before_is_no_rate() -> None:
    assert burn(Judge(POLICY), [0.1] * 60, start=1e6) == []


def test_one_percent_of_a_core_is_not_ninety() -> None:
    assert burn(Judge(POLICY), [0.01] * 100) == []
    assert burn(Judge(POLICY), [0.45] * 100) == []


def test_a_burst_is_not_found_and_a_pausing_miner_is() -> None:
    burst = [4.0] * 16 + [0.0] * 40
    assert burn(Judge(POLICY), burst) == []
    pausing = ([1.0] * 16 + [0.0] * 4) * 4
    assert burn(Judge(POLICY), pausing)


def test_many_short_processes_count_together() -> None:
    judge, found, reaped = Judge(POLICY), [], 0.0
    for turn in range(40):
        now = turn * 15.0
        parent = seen(10, cpu_seconds=0.0, children_seconds=reaped, age_seconds=100 + now)
        child = seen(1000 + turn, parent=10, cpu_seconds=13.0, age_seconds=14.0)
        other = seen(5000 + turn, parent=10, cpu_seconds=13.0, age_seconds=14.0)
        found += [(now, each.rule) for each in judge.judge(Look(now, [parent, child, other]))]
        reaped += 26.0
    assert found[0][1] == "cpu-together"
    assert 300 <= found[0][0] <= 400
    # Time that passes from a child to its parent is not counted twice.
    assert judge.together[1].rate_cores == pytest.approx(26 / 15, rel=0.05)


def test_after_a_stop_the_processes_together_are_counted_anew() -> None:
    judge = Judge(POLICY)
    burn(judge, [1.5] * 30)
    judge.stopped(1)
    found = judge.judge(Look(31 * 15.0, [seen(77, cpu_seconds=20.0, age_seconds=14.0)]))
    assert found == []


ENV = Path("/usr/bin/env").resolve()
BUILDS = policy(Settings(), {"allowed": [{"what": "builders", "exe": [str(ENV)]}]})


def builder() -> dict[str, object]:
    """What is seen of an allowed program: one of this system stands for make."""
    status = ENV.stat()
    return {
        "exe": str(ENV),
        "file": ExeFile(status.st_dev, status.st_ino, status.st_uid, status.st_gid, status.st_mode),
    }


def built(slices: list[float], **more: object) -> list[tuple[float, str, list[int]]]:
    """A make whose children end between two looks: when it is found by which rule, and the processes."""
    judge, children, found = Judge(BUILDS), 0.0, []
    for turn, cores in enumerate(slices):
        now, children = turn * 15.0, children + 15.0 * cores
        make = seen(10, children_seconds=children, age_seconds=100 + now, **more)
        found += [(now, each.rule, [one.pid for one in each.processes]) for each in judge.judge(Look(now, [make]))]
    return found


def test_work_in_short_slices_below_an_allowed_program_is_found_in_the_end() -> None:
    make = builder()
    assert built([3.0] * 100, **make) == []  # 25 minutes
    (now, rule, pids), *_ = built([3.0] * 140, **make)
    assert (1800 < now <= 1900, rule, pids) == (True, "cpu-long", [10])
    # A class that builds as much as it can, with its pauses, for four hours.
    assert built(([3.0] * 40 + [0.0] * 45) * 11, **make) == []


def test_an_allowed_program_is_not_allowed_for_ever() -> None:
    judge, found = Judge(BUILDS), []
    for turn in range(140):
        compiler = seen(cpu_seconds=14.0 * turn, age_seconds=100 + 15.0 * turn, **builder())
        found += [(turn * 15.0, each.rule, each.then) for each in judge.judge(Look(turn * 15.0, [compiler]))]
    assert {each[1:] for each in found} == {("cpu-long", Rung.STOP)}
    assert 1800 < found[0][0] <= 1900


def test_a_kernel_that_ends_is_not_counted_in_its_server() -> None:
    everything, last = Everything(), {}
    for turn in range(100):  # it computes all the time, and is started anew in every second look
        now, pid = turn * 15.0, 1000 + turn // 2
        server = seen(10, children_seconds=30.0 * (turn // 2), age_seconds=100 + now)
        kernel = seen(pid, parent=10, cpu_seconds=15.0 + 15.0 * (turn % 2), age_seconds=15.0 + 15.0 * (turn % 2))
        everything.measure(Look(now, [server, kernel]), last, lambda _seen: True, 30.0, POLICY.cpu)
        last = {each.key: each for each in (server, kernel)}
    assert (everything.tracks[1].over_seconds, everything.tracks[1].rate_cores) == (0, 0)


def test_a_track_takes_nothing_for_the_time_in_which_nobody_looked() -> None:
    track = Track()
    for now, cpu in [(0.0, 0.0), (10000.0, 9000.0)]:
        track.add(now, cpu, 60.0, 0.5, 30.0)
    assert (track.over_seconds, track.rate_cores) == (30.0, 0.9)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"exe": "/student/student1/xmrig-6.21"}, "name"),
        ({"name": "EthMiner"}, "name"),
        ({"argv": ("/tmp/packetcrypt", "ann")}, "name"),
        ({"argv": ("./a", "-o", "stratum+tcp://pool.example:443")}, "command-line"),
        ({"argv": ("./a", "--donate-level", "1")}, "command-line"),
        ({"exe": "/student/student1/xmrig (deleted)"}, "name"),
        ({"argv": ("python3", "notes-on-xmrig.py")}, ""),
        ({"argv": ("ls", "stratum")}, ""),
    ],
)
def test_denied(change: dict[str, object], rule: str) -> None:
    programs = Programs(POLICY)
    assert programs.denied(seen(**change))[0] == rule


def test_becoming_another_program_is_noticed() -> None:
    programs = Programs(POLICY)
    assert programs.denied(seen())[0] == ""
    assert programs.denied(seen(argv=("./x", "stratum+ssl://p")))[0] == "command-line"


@pytest.mark.parametrize(
    ("argv", "target"),
    [
        ("python3 -m ipykernel_launcher -f /x.json", ("module", "ipykernel_launcher")),
        ("python3 -Xfrozen_modules=off -X dev -mipykernel_launcher", ("module", "ipykernel_launcher")),
        ("python3 -Im ipykernel_launcher", ("module", "ipykernel_launcher")),
        (
            "python3 -W ignore /opt/hub/bin/jupyterhub-singleuser --port=1",
            ("script", "/opt/hub/bin/jupyterhub-singleuser"),
        ),
        ("python3 -c pass -m ipykernel_launcher", ("", "")),
        ("python3 miner.py -m ipykernel_launcher", ("script", "miner.py")),
        ("python3 -", ("", "")),
        ("python3", ("", "")),
        ("", ("", "")),
    ],
)
def test_what_python_runs(argv: str, target: tuple[str, str]) -> None:
    assert python_target(argv.split(" ")) == target


def test_patterns_of_paths() -> None:
    import re

    assert re.fullmatch(path_pattern("/usr/bin/python3*"), "/usr/bin/python3.11")
    assert not re.fullmatch(path_pattern("/usr/bin/python3*"), "/usr/bin/python3/x")
    assert re.fullmatch(path_pattern("/opt/**"), "/opt/a/b/c")
    assert not re.fullmatch(path_pattern("/usr/bin/g++"), "/usr/bin/ggg")


def test_a_name_does_not_make_a_program_allowed() -> None:
    programs = Programs(POLICY)
    argv = ("/usr/bin/python3", "-m", "ipykernel_launcher")
    assert programs.allowed(seen(name="python3", argv=argv)) is None
    assert programs.allowed(seen(name="python3", argv=argv, exe="/usr/bin/python3.11")) is None  # not root's file


def test_students_are_nobody_else() -> None:
    assert [STUDENTS.number(uid) for uid in (0, 1, 999, 2000, 2001, 2040, 2041, 65534)] == [
        None, None, None, None, 1, 40, None, None,
    ]  # fmt: skip
    status = "Name:\tx\nUid:\t{}\t{}\t{}\t{}\nGid:\t1\t1\t1\t1\n"
    named = [
        STUDENTS.named(status.format(*uids).encode())
        for uids in [(2003,) * 4, (2003, 0, 0, 0), (2003, 2003, 0, 2003), (0, 2003, 0, 2003)]
    ]
    assert named == [3, None, None, None]
    # Even a configuration that nonsense was written into does not reach the system's accounts.
    assert Students(-5, 1, 4000).number(0) is None


def test_relatives() -> None:
    family = [seen(1, parent=0), seen(2, parent=1), seen(3, parent=2), seen(4, parent=9), seen(5, parent=4)]
    assert {each.pid for each in descendants(family, [family[1]])} == {2, 3}


TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0100007F:0D05 01 00000000:00000000 00:00000000 00000000  2001        0 111 1 0
   1: 0A00000A:C350 08080808:0D05 02 00000000:00000000 00:00000000 00000000  2002        0 112 1 0
   2: 0A00000A:C351 08080808:0D05 01 00000000:00000000 00:00000000 00000000     0        0 113 1 0
   3: 0A00000A:C352 08080808:01BB 01 00000000:00000000 00:00000000 00000000  2002        0 114 1 0
   4: 0A00000A:C353 08080808:0D05 06 00000000:00000000 00:00000000 00000000  2002        0 115 1 0
   5: 0A00000A:C354 0A00000A:0D05 01 00000000:00000000 00:00000000 00000000  2003        0 116 1 0
"""
TABLE6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:B0F4 00000000000000000000000001000000:115C 01 0:0 00:0 0  2004        0 117 1
   1: 0000000000000000FFFF00000A00000A:B0F5 0000000000000000FFFF000008080808:115C 01 0:0 00:0 0  2005        0 118 1
"""


def rows(folder: Path, *texts: str) -> list[Connection]:
    """Connections to two mining ports in tables of the kernel's form."""
    for name, text in zip(("tcp", "tcp6"), texts, strict=False):
        (folder / name).write_text(text, encoding="ascii")
    (folder / "given").write_text("32768\t60999\n", encoding="ascii")
    tables = [str(folder / name) for name in ("tcp", "tcp6", "none")]
    return connections(STUDENTS, [3333, 4444], tables, str(folder / "given"))


def test_connections_to_mining_ports(tmp_path: Path) -> None:
    found = [(each.student, each.address, each.port, each.here) for each in rows(tmp_path, TABLE, TABLE6)]
    assert found == [
        (1, "127.0.0.1", 3333, True),
        (2, "8.8.8.8", 3333, False),
        (3, "10.0.0.10", 3333, True),
        (4, "::1", 4444, True),
        (5, "8.8.8.8", 4444, False),
    ]


LISTENING = """   6: 00000000:{:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000  {}        0 119 1 0
"""


def test_what_came_in_is_no_call(tmp_path: Path) -> None:
    # A listener at its port, in whichever table and whoever's: it came in. Who still asks to be connected, calls.
    came = rows(tmp_path, TABLE + LISTENING.format(0x1F90, 2001) + LISTENING.format(0xB0F5, 0), TABLE6)
    assert [(each.student, each.calls) for each in came] == [(2, True), (3, True), (4, True)]
    assert [each.student for each in rows(tmp_path, TABLE + LISTENING.format(0xC350, 2002))] == [1, 2, 3, 4, 5]
    # Port 8080 is none that the system gives to who calls: a service may have listened there.
    found = Judge(POLICY).judge(Look(1.0, [], rows(tmp_path, TABLE.replace("0100007F:0D05", "08080808:0D05"), "")))
    assert [(each.student, each.rule, each.then) for each in found][:2] == [
        (1, "port", Rung.WARN),
        (2, "port", Rung.PURGE),
    ]


def finding(processes: tuple[Seen, ...] = (seen(),), then: Rung = Rung.PURGE, rule: str = "cpu") -> Finding:
    return Finding(1, rule, then, "words", processes)


def test_the_ladder_warns_then_stops_then_purges() -> None:
    cases = Cases(POLICY.ladder)
    assert [step.kind for step in cases.look([finding()], 0, 1000)] == ["open"]
    assert cases.look([finding()], 59, 1059) == []
    (stop,) = cases.look([finding()], 60, 1060)
    assert (stop.kind, cases.stopped(stop, 60, left=False)) == ("stop", False)
    (again,) = cases.look([finding()], 400, 1400)
    assert cases.stopped(again, 400, left=False) is True
    assert cases.wanted() == {1: stop.case.name}
    cases.purged(1, 401)
    assert cases.wanted() == {}
    for moment in (420, 440):  # not asked for again so soon
        (more,) = cases.look([finding()], moment, 1000 + moment)
        assert cases.stopped(more, moment, left=True) is False


def test_one_case_is_told_once_and_a_finding_that_comes_back_late_is_a_new_one() -> None:
    cases = Cases(POLICY.ladder)
    opened = [step for turn in range(50) for step in cases.look([finding(then=Rung.WARN)], turn * 15, turn * 15)]
    assert [step.kind for step in opened] == ["open"]
    cases.untold()[0].told = True
    assert cases.untold() == []
    assert cases.look([], 800, 800) == []
    assert [step.kind for step in cases.look([finding(then=Rung.WARN)], 735 + 901, 1)] == ["open"]


@pytest.mark.parametrize("then", [Rung.WARN, Rung.STOP])
def test_the_ladder_ends_where_the_policy_says(then: Rung) -> None:
    cases = Cases(POLICY.ladder)
    stops = [
        step for turn in range(100) for step in cases.look([finding(then=then)], turn * 15, 0) if step.kind == "stop"
    ]
    assert bool(stops) == (then is Rung.STOP)
    assert [cases.stopped(step, 0, left=True) for step in stops] == [False] * len(stops)
    assert cases.wanted() == {}


def test_what_can_not_be_stopped_is_purged_at_once() -> None:
    cases = Cases(POLICY.ladder)
    cases.look([finding()], 0, 0)
    (stop,) = cases.look([finding()], 60, 60)
    assert cases.stopped(stop, 60, left=True) is True


def test_one_look_counts_as_one_stop_whatever_it_found() -> None:
    cases = Cases(POLICY.ladder)
    both = [finding(), finding(rule="port")]
    cases.look(both, 0, 0)
    stops = cases.look(both, 60, 60)
    assert [cases.stopped(stop, 60, left=False) for stop in stops] == [False, False]
    assert [cases.stopped(stop, 75, left=False) for stop in cases.look(both, 75, 75)] == [True, True]
    assert list(cases.wanted()) == [1]


def test_what_the_one_before_did_is_not_the_next_ones() -> None:
    """Told by what the backend did last, whatever the clocks show."""
    cases = Cases(POLICY.ladder)
    assert cases.changed({1: "7, a CREATE", 2: "3"}) == set()
    cases.look([finding()], 0, 1000)
    (stop,) = cases.look([finding()], 60, 1060)
    assert cases.stopped(stop, 60, left=True) is True
    assert cases.changed({1: "7, a CREATE", 2: "8"}) == set()  # somebody else's
    assert cases.changed({2: "8"}) == set()  # WODRETENTION has deleted it
    assert (cases.changed({1: "9, a CLEANUP"}), cases.wanted()) == ({1}, {})
    assert [step.kind for step in cases.look([finding()], 900, 5)] == ["open"]  # warned, and not stopped at once
    later = Cases(POLICY.ladder)
    later.restore(json.loads(json.dumps(cases.dump())))
    assert later.changed({1: "9, a CLEANUP"}) == set()
    assert later.look([finding()], 915, 20) == []
    (stop,) = later.look([finding()], 960, 65)
    assert (later.stopped(stop, 960, left=False), later.changed({1: "9, a CLEANUP"})) == (False, set())
    assert (later.changed({1: "9, a CLEANUP again"}), later.cases, later.seats) == ({1}, {}, {})


def test_a_stop_of_what_is_gone_is_none_unless_it_always_is() -> None:
    cases = Cases(POLICY.ladder)
    cases.look([finding()], 0, 0)
    stops = [cases.look([finding()], now, now)[0] for now in (60, 75)]
    assert [cases.stopped(stop, 60, left=False, ended=0) for stop in stops] == [False, False]
    assert (cases.seats, stops[0].case.stops) == ({}, 0)
    (stop,) = cases.look([finding()], 90, 90)
    assert cases.stopped(stop, 90, left=False, ended=0) is True


def test_a_connection_that_no_process_has_is_stopped_in_vain_and_then_purged() -> None:
    cases = Cases(POLICY.ladder)
    cases.look([finding((), rule="port")], 0, 0)
    for now, due in ((60, False), (75, False), (90, True)):
        (stop,) = cases.look([finding((), rule="port")], now, now)
        assert cases.stopped(stop, now, left=False, ended=0) is due
    assert cases.look([finding((), rule="cpu-together")], 0, 0)[0].kind == "open"
    assert cases.look([finding((), rule="cpu-together")], 100, 100) == []  # it has come to its end


def test_a_restart_remembers_cases_and_stops() -> None:
    cases, later = Cases(POLICY.ladder), Cases(POLICY.ladder)
    cases.look([finding()], 0, 0)
    (stop,) = cases.look([finding()], 60, 60)
    cases.stopped(stop, 60, left=False)
    later.restore(json.loads(json.dumps(cases.dump())))
    (again,) = later.look([finding()], 75, 75)
    assert (again.kind, later.stopped(again, 75, left=False)) == ("stop", True)


def test_nobody_pushes_out_what_is_kept_of_others() -> None:
    flood = {Path(f"{turn:03}-student7-{rule}.json"): 10 for turn in range(40) for rule in ("cpu", "name")}
    others = {Path("000-student1-cpu.json"): 30, Path("001-student2-port-loopback.json"): 30}
    gone = surplus({**others, **flood}, 1000, 200)
    assert gone == list(flood)[:66] and sum({**others, **flood}.values()) - 10 * len(gone) == 200
    assert surplus({**others, **flood}, 100, 10_000) == list(flood)[:70]
    assert surplus({Path("1-student3-cpu.json"): 500}, 100, 1000) == []  # the only one


def test_gpu_time_of_programs_that_are_not_allowed() -> None:
    judge, found = Judge(POLICY), []
    for turn in range(8):
        used = {100: 90.0} if turn < 7 else None
        found += [each.rule for each in judge.judge(Look(turn * 60.0, [seen()], [], used))]
    assert found == ["gpu", "gpu"]


def test_the_load_is_told_once_an_hour_and_only_when_it_lasts() -> None:
    alarm = load.Alarm(POLICY.load)
    busy = load.Facts(3.0, 4, 50.0, (load.Gpu(0, 99.0, 10.0),))
    assert alarm.look(busy, 0) == {}
    assert alarm.look(load.Facts(0.1, 4, 50.0), 100) == {}
    assert alarm.look(busy, 200) == {}
    due = alarm.look(busy, 330)
    assert set(due) == {"load", "gpu0"}
    assert "3.00 for each of 4 cores (limit 2)" in due["load"] and "GPU 0: 99 % busy" in due["gpu0"]
    alarm.told(due, 330)
    assert alarm.look(busy, 400) == {}
    assert set(alarm.look(load.Facts(3.0, 4, 99.0), 3931)) == {"load"}


def test_memory_and_trouble_with_gpus_are_told_too() -> None:
    over = load.exceeded(load.Facts(0.1, 4, 93.0, (), "driver gone"), POLICY.load)
    assert over["memory"].startswith("memory: 93 % used") and "driver gone" in over["nvidia-smi"]
