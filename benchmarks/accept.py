"""Mails a second: wodmail against Postfix, both fsyncing each mail before the 250, same client, same disk."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path

from benchmarks import postfix
from benchmarks.door import Door
from benchmarks.figures import Figure
from benchmarks.mails import rate
from benchmarks.site import Site

CONNECTIONS = (1, 8)
DOOR, SERVE, POSTFIX = "the listener and its spool alone", "serve, which works on them meanwhile", "Postfix"


def accept(folder: Path, mails: int, rounds: int) -> list[Figure]:
    """The listener alone, and the whole server, against Postfix with the discard transport.

    Args:
        folder: for all of them; made.
        mails: how many in each measurement.
        rounds: measurements of each; they take turns, medians are compared.
    """
    folder.mkdir(parents=True)
    reason = postfix.why_not()
    found: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        door = Site(folder / "door")
        stack.enter_context(Door(door.config))
        server = stack.enter_context(Site(folder / "serve"))
        ports = {DOOR: door.port, SERVE: server.port}
        if not reason:
            ports[POSTFIX] = stack.enter_context(postfix.Postfix(folder / "postfix")).port
        for connections in CONNECTIONS:
            for _ in range(rounds):
                for name, port in ports.items():
                    measured = rate(port, connections, mails, lambda number: f"PING {number}")
                    found.setdefault((name, connections), []).append(measured)
                    server.await_quiet(seconds=120)  # what it has left to do would be counted against the next one
    return [_figure(name, connections, found, reason) for name in (DOOR, SERVE) for connections in CONNECTIONS]


def _figure(name: str, connections: int, found: dict[tuple[str, int], list[float]], reason: str) -> Figure:
    title = f"mails accepted by {name}; {connections} connection{'s' if connections > 1 else ''}; against Postfix"
    mine = statistics.median(found[name, connections])
    if reason:
        return Figure(title, None, "x", 1.0, "at least", f"{mine:.0f}/s; {reason}")
    other = statistics.median(found[POSTFIX, connections])
    return Figure(title, mine / other, "x", 1.0, "at least", f"{mine:.0f}/s, Postfix {other:.0f}/s")
