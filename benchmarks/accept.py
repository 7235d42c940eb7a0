"""Mails a second: wodmail against Postfix, both fsyncing each mail before the 250, same client, same disk."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path

from benchmarks import postfix
from benchmarks.figures import Figure
from benchmarks.mails import rate
from benchmarks.site import Site

CONNECTIONS = (1, 8)


def accept(folder: Path, mails: int, rounds: int) -> list[Figure]:
    """The whole server, which also reads and answers what it accepts, against Postfix with the discard transport.

    Args:
        folder: for both; made.
        mails: how many in each measurement.
        rounds: measurements of each; they take turns, medians are compared.
    """
    folder.mkdir(parents=True)
    reason = postfix.why_not()
    figures = []
    with ExitStack() as stack:
        site = stack.enter_context(Site(folder / "site"))
        other = None if reason else stack.enter_context(postfix.Postfix(folder / "postfix"))
        for connections in CONNECTIONS:
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(rounds):
                ours.append(rate(site.port, connections, mails, lambda number: f"PING {number}"))
                if other is not None:
                    theirs.append(rate(other.port, connections, mails, lambda number: f"PING {number}"))
            figures.append(_figure(connections, ours, theirs, reason))
    return figures


def _figure(connections: int, ours: list[float], theirs: list[float], reason: str) -> Figure:
    name = f"mails accepted, {connections} connection{'s' if connections > 1 else ''}, against Postfix"
    mine = statistics.median(ours)
    if not theirs:
        return Figure(name, None, "x", 1.0, "at least", f"{mine:.0f}/s; {reason}")
    other = statistics.median(theirs)
    return Figure(name, mine / other, "x", 1.0, "at least", f"{mine:.0f}/s, Postfix {other:.0f}/s")
