"""The stand-in of the API-DB as a program."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from tests.apidb.server import SIDE_DOOR, RequestLog, Server
from tests.apidb.state import PASSWORD, USER, VISITOR, State, student_row, workshop_row

EXAMPLE = f"""\
example:
  python -m tests.apidb --port 8021 --log /tmp/api.log --data /tmp/api.json --workshop WKSHP-Demo101 --students 1-20
  curl http://127.0.0.1:8021/api/workshops

and in the configuration of wodmail:
  WODAPIDBEXTURL: http://127.0.0.1:8021/api
  WODAPIDBUSER: {USER}
  WODAPIDBUSERPWD: {PASSWORD}

The account {VISITOR} (same password) has no role. Tests add rows and switch faults on below {SIDE_DOOR}/:
  curl -H 'content-type: application/json' -d '{{"kind": "error", "times": 3}}' http://127.0.0.1:8021{SIDE_DOOR}/fault
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.apidb",
        description="A stand-in of the API-DB, for tests and for trying things out. Listens on 127.0.0.1 alone.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, required=True, help="TCP port; 0 for any")
    parser.add_argument("--log", type=Path, required=True, metavar="FILE", help="request log, a line of JSON each")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the rows; kept over a restart (default: LOG.data)")
    parser.add_argument("--token-seconds", type=float, help="life of a token (180)")
    parser.add_argument("--absent", choices=("error", "hang"), help="a PUT of an absent row: 400, or no answer (error)")
    parser.add_argument(
        "--booleans", choices=("real", "strings", "mixed"), help='true, "true", or each in every second answer (mixed)'
    )
    parser.add_argument("--workshop", action="append", default=[], metavar="WKSHP-NAME", help="add a workshop")
    parser.add_argument("--students", metavar="FIRST-LAST", help="add free students that aren't there yet")
    parser.add_argument("--base", type=int, default=0, help="WODBASESTDID: a student's id is its number plus this (0)")
    return parser.parse_args()


def prepared(given: argparse.Namespace) -> State:
    """The rows of the file, with what the command line adds."""
    state = State(given.data or given.log.with_name(given.log.name + ".data"))
    chosen = {name: getattr(given, name) for name in ("token_seconds", "absent", "booleans")}
    state.configure({name: value for name, value in chosen.items() if value is not None})
    there = {row["notebook"] for row in state.rows("workshops")}
    state.add("workshops", [workshop_row(name) for name in given.workshop if name not in there])
    if given.students:
        first, _, last = given.students.partition("-")
        known = {row["id"] for row in state.rows("students")}
        numbers = [n for n in range(int(first), int(last or first) + 1) if n + given.base not in known]
        state.add("students", [student_row(number, id=number + given.base) for number in numbers])
    return state


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    given = arguments()
    server = Server(given.port, prepared(given), RequestLog(given.log))
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}/api", flush=True)
    asked.wait()
    server.end()


if __name__ == "__main__":
    main()
