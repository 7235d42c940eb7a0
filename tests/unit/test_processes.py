"""The process table: reading it, and never mistaking one process for another."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.support import wait_until
from wodmail import processes
from wodmail.processes import Process

STAT = "42 (odd ) name) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3"


def test_a_stat_line_with_a_hostile_name_is_read() -> None:
    assert processes.parse_stat(STAT) == Process(42, 987654, 7, 42, 41, dead=False)
    assert processes.parse_stat(STAT.replace(" S ", " Z ")).dead


@pytest.mark.parametrize("line", ["", "42", "42 (sh", "42 (sh) S 1 2", STAT[:-40]])
def test_a_cut_line_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="stat line"):
        processes.parse_stat(line)


def test_this_process_is_in_the_table() -> None:
    me = processes.lookup(os.getpid())
    assert me is not None
    assert me.parent == os.getppid()
    assert me in processes.table()
    assert processes.lives(me.pid, me.start)
    assert not processes.lives(me.pid, me.start + 1)


def test_the_dead_are_not_alive_and_a_reused_pid_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "600"], env={"MARK": "here", "MARKS": "there"}) as child:
        found = processes.lookup(child.pid)
        assert found is not None
        # Right after the fork there is none yet.
        wait_until(lambda: processes.environment_value(child.pid, b"MARK") == b"here", what="the child's environment")
        assert processes.environment_value(child.pid, b"MAR") is None
        stranger = Process(found.pid, found.start - 1, found.parent, found.group, found.session, dead=False)
        assert not processes.send(stranger, signal.SIGKILL)
        assert child.poll() is None
        assert not processes.wait_gone([found], 0.01)
        assert processes.send(found, signal.SIGKILL)
        assert processes.wait_gone([found], 10)
        assert not processes.lives(found.pid, found.start)  # a zombie until it is waited for
    assert processes.lookup(child.pid) != found


def test_descendants_are_found_through_generations() -> None:
    def process(pid: int, parent: int) -> Process:
        return Process(pid, 1, parent, pid, pid, dead=False)

    table = [process(2, 1), process(3, 2), process(4, 3), process(5, 1), process(6, 6)]
    assert {each.pid for each in processes.descendants(table, [table[0]])} == {2, 3, 4}
    assert {each.pid for each in processes.descendants(table, [table[4]])} == {6}


def test_ending_nothing_is_nothing() -> None:
    assert processes.end(list, 1.0) == 0
