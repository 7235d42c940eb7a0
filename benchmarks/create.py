"""CREATE: one student, a burst of many, and how soon the first step begins."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, spread, until
from benchmarks.mails import send_one
from benchmarks.memory import MIB, Peak
from benchmarks.site import Site

LIMIT = 300.0


def _first_step(trace: Path, student: int, number: int) -> float:
    """The clock when the trace names the first step of a student's job; looked at every 2 ms."""
    mark = f"[{number} student{student}] + validate".encode()
    until(lambda: trace.exists() and mark in trace.read_bytes(), seconds=LIMIT, every=0.002, what="the first step")
    return time.time()


def _copy_seconds(request: dict[str, Any]) -> float:
    """Seconds of the copy step, as the request's record says."""
    jobs = request["jobs"]
    steps = [step for job in jobs for step in job["steps"] if "copy" in step["name"] and "post" not in step["name"]]
    return float(steps[0]["seconds"])


def one(folder: Path, yardstick: float, runs: int) -> list[Figure]:
    """One student at a time: mail sent to result mail, the copy step alone, the 250 to the first step."""
    whole: list[float] = []
    latency: list[float] = []
    with Site(folder) as site, ThreadPoolExecutor(1) as pool:
        for run in range(runs + 1):
            student = run + 1
            watch = pool.submit(_first_step, site.trace, student, run + 1)
            start = time.time()
            accepted = send_one(site.port, f"CREATE {student}", site.workshop, run)
            site.await_results(run + 1, LIMIT)
            whole.append(time.time() - start)
            latency.append(watch.result() - accepted)
        rows = site.insist_all_done(runs + 1)
    copies = [_copy_seconds(row) for row in rows[:-1]]
    first = f"; the first after the start {whole[0]:.3f} s"
    told = spread(whole[1:]) + first + f"; {site.workshop}"
    return [
        Figure("one CREATE, mail sent to result mail", statistics.median(whole[1:]) / yardstick, "x", 0.5, detail=told),
        Figure("its copy step alone", statistics.median(copies) / yardstick, "x", 0.25, detail=spread(copies)),
        Figure("from the 250 to the first step", max(latency[1:]), "s", 0.3, detail=_latency(latency)),
    ]


def _latency(latency: list[float]) -> str:
    return f"most of {spread(latency[1:])}; the first, right after the start, {latency[0]:.3f} s"


def burst(folder: Path, yardstick: float, students: int) -> list[Figure]:
    """That many CREATE mails, one a student, as fast as one client sends them."""
    with Site(folder) as site:
        with Peak(site.pid) as peak:
            start = time.time()
            for number in range(students):
                send_one(site.port, f"CREATE {number + 1}", site.workshop, number)
            sent = time.time() - start
            site.await_results(1, LIMIT)
            first = time.time() - start
            site.await_results(students, LIMIT)
            took = time.time() - start
        first = min(first, min(entry.stat().st_mtime for entry in site.results()) - start)
        site.insist_all_done(students)
    told = f"{took:.2f} s; mails sent within {sent:.2f} s"
    memory = f"server and children, PSS; RSS added up {peak.rss / MIB:.0f} MiB; most processes at once {peak.processes}"
    name = f"burst of {students} CREATE"
    return [
        Figure(f"{name}, all done", took / yardstick, "x", 3.0, detail=told),
        Figure(f"{name}, the first student ready", first / yardstick, "x", 0.5, detail=f"{first:.2f} s"),
        Figure(f"{name}, peak memory of everything", peak.pss / MIB, "MiB", 500.0, detail=memory),
    ]
