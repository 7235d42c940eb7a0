"""`wod-test-action`: send a command to the backend by mail and, if wanted, follow it to its end.

PDF and WORD need no mail: they are done at once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from wodmail import exporting, follow, submit
from wodmail import students as accounting
from wodmail.catalog import Catalog
from wodmail.config import Settings, load
from wodmail.errors import ConfigError, Refused, Temporary, WodmailError
from wodmail.mail.command import Broken, Limits, parse
from wodmail.mail.grammar import visible
from wodmail.mail.message import workshop as checked_workshop
from wodmail.mail.report import size_of
from wodmail.model import Action, Command, State
from wodmail.students.base import folder_of
from wodmail.students.exports import Document
from wodmail.trace import trace_path

ACTIONS = ("CREATE", "CLEANUP", "RESET", "PURGE", "PDF", "WORD")
SYNTAX = f"wod-test-action <{'|'.join(ACTIONS)}> WKSHOP [MIN[,MAX]]"
EX_FAILED, EX_USAGE, EX_UNAVAILABLE, EX_TEMPFAIL, EX_CONFIG = 1, 64, 69, 75, 78
DESCRIPTION = """Send a command to the backend by mail and, with --wait, follow it to its end. PDF and WORD are done
at once, without mail: the documents are in the workshop's folder then."""
EPILOG = """Without MIN the workshop's own range is used. CREATE and CLEANUP send one mail a student, RESET
one for the range, PURGE takes one student; PDF and WORD don't heed --wait and --timeout.
Exit status: 0 done (without --wait: sent), 1 failed or refused,
64 usage, 69 no server, 75 not ended within the time, 78 configuration.
Example: wod-test-action --wait CREATE WKSHP-API101 121"""


class UsageError(Exception):
    """The command line makes no sense."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


@dataclass(frozen=True, slots=True)
class Order:
    """One mail to send: what it says and whom it concerns."""

    command: Command
    subject: str
    who: str


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status."""
    try:
        status = run(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        _complain(f"Syntax: {SYNTAX}\n{error}")
        status = EX_USAGE
    except ConfigError as error:
        _complain(str(error))
        status = EX_CONFIG
    except Temporary as error:
        _complain(error.sender)
        status = EX_UNAVAILABLE
    except WodmailError as error:
        _complain(error.sender)
        status = EX_FAILED
    except KeyboardInterrupt:
        status = 130
    raise SystemExit(status)


def run(argv: Sequence[str]) -> int:
    """Send, and follow when asked to.

    Args:
        argv: the command line without the program's name.

    Returns:
        The exit status.

    Raises:
        UsageError: the command line makes no sense.
        WodmailError: see `main` for the exit statuses.
    """
    options = parser().parse_args(argv)
    action = _action(options.action)
    if not options.workshop:
        raise UsageError("WKSHOP is mandatory")
    settings = load(options.config, files=False)
    workshop = _workshop(options.workshop, action)
    students = _students(options.range, action, workshop, settings)
    orders = _orders(action, students, settings)
    print(f"Action: {action}")
    print(f"We are working on {workshop}")
    print(f"Student range: {students}")
    if action in exporting.FORMS:
        return _export(settings, orders, workshop)
    begun = time.time()
    sent = [_send(settings, order, workshop) for order in orders]
    return _wait(settings, sent, begun, options.timeout) if options.wait else 0


def parser() -> argparse.ArgumentParser:
    """The command line; a mistake in it is a `UsageError`."""
    options = _Parser(prog="wod-test-action", usage=SYNTAX, description=DESCRIPTION, epilog=EPILOG)
    options.add_argument("action", nargs="?", metavar="ACTION", help=", ".join(ACTIONS))
    options.add_argument("workshop", nargs="?", metavar="WKSHOP", help="WKSHP-Name or CHLG-Name; PURGE: any word")
    options.add_argument("range", nargs="?", metavar="MIN[,MAX]", help="student number, or first and last of a range")
    options.add_argument(
        "--config", metavar="PATH", type=Path, help="configuration; else $WOD_CONFIG, else /etc/wod.yml"
    )
    options.add_argument("--wait", action="store_true", help="follow the request to its end")
    options.add_argument("--timeout", type=seconds, default=900.0, metavar="S", help="with --wait, seconds (900)")
    return options


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _action(word: str | None) -> Action:
    if not word:
        raise UsageError("ACTION is mandatory")
    if word.upper() not in ACTIONS:
        raise UsageError(f"ACTION must be one of {', '.join(ACTIONS)}, not {word!r}")
    return Action(word.upper())


def _workshop(word: str, action: Action) -> str:
    try:
        return checked_workshop(word, action)
    except Refused as error:
        raise UsageError(f"WKSHOP must be WKSHP-Name or CHLG-Name, not {word!r}") from error


def _students(word: str | None, action: Action, workshop: str, settings: Settings) -> str:
    """The students as a subject names them; without any, those of the workshop's own range."""
    if word is not None:
        return word
    if action is Action.PURGE:
        raise UsageError("PURGE needs the student: MIN is mandatory")
    folder = "WKSHP" + workshop[4:] if workshop.startswith("CHLG-") else workshop
    known = Catalog(settings.WODNOBO, settings.WODPRIVNOBO).find(folder)
    if known is None or known.range is None:
        raise UsageError(f"MIN is mandatory: {workshop} has no range of its own")
    return f"{known.range[0]},{known.range[1]}"


def _orders(action: Action, students: str, settings: Settings) -> list[Order]:
    """The mails to send: one a student, for RESET one for the whole range."""
    count = settings.WODUSERMAX if action is not Action.PURGE else 1
    limits = Limits(settings.WODUSERMIN, settings.WODUSERMAX, count)
    whole = _order(action, students, limits)
    first, last = whole.command.first, whole.command.last
    if last is None or action is Action.RESET or first is None:
        return [whole]
    return [_order(action, str(student), limits) for student in range(first, last + 1)]


def _order(action: Action, students: str, limits: Limits) -> Order:
    subject = f"{action} {students} 0"
    try:
        command = parse(subject, limits=limits)
    except Refused as error:
        raise UsageError(error.sender) from error
    if isinstance(command, Broken):
        raise UsageError(f"{students!r} is no student")
    return Order(command, subject, f"student {students}" if "," not in students else f"students {students}")


def _send(settings: Settings, order: Order, workshop: str) -> str:
    """Send one mail and show the server's replies; gives its Message-ID."""
    print(f"Sending a mail to {order.command.action} {order.who} for workshop {workshop}", flush=True)
    mail = submit.build(settings, order.command, order.subject, workshop)
    submit.send(settings, mail, lambda line: print(line, flush=True))
    return str(mail["Message-ID"])


def _export(settings: Settings, orders: Sequence[Order], workshop: str) -> int:
    """Export at once, one student after another, and say what was made."""
    exporting.require()
    status = 0
    accounts = accounting.for_settings(settings)
    try:
        for order in orders:
            student = order.command.first or 0
            print(f"Exporting the notebooks of {order.who} in {workshop}", flush=True)
            try:
                accounts.check(student)
                found = accounts.export(student, workshop, exporting.FORMS[order.command.action])
            except WodmailError as error:
                _complain(error.sender)
                status = EX_FAILED
                continue
            status = _told(accounts.home(student), workshop, found) or status
    finally:
        accounts.close()
    return status


def _told(home: Path, workshop: str, found: Sequence[Document]) -> int:
    """Print the documents and what failed; gives the exit status."""
    folder = home / folder_of(workshop)
    for each in found:
        if each.path:
            print(f"{folder / visible(each.path)}  {size_of(each.size)}")
        else:
            _complain(f"{visible(each.notebook)}: {visible(each.error, 300)}")
    return EX_FAILED if any(not each.path for each in found) else 0


def _wait(settings: Settings, sent: Sequence[str], begun: float, seconds: float) -> int:
    """Follow the requests, print their credentials lines, and say by the exit status how they ended."""
    from wodmail import store  # the database's driver takes a while to load and only --wait needs it

    database = store.open_readonly(settings)
    try:
        found = follow.watch(sent, database.find_by_message_id, Console(), seconds=seconds)
    finally:
        database.close()
    for request in found:
        _tell(settings, request, begun)
    if not all(follow.ended(request) for request in found):
        _complain(f"Not ended after {seconds:g} s. It goes on; look with: wodmail requests")
        return EX_TEMPFAIL
    return 0 if all(request and request["state"] == State.DONE for request in found) else EX_FAILED


def _tell(settings: Settings, request: dict[str, Any] | None, begun: float) -> None:
    """The last words about a request: its jobs' lines in the trace, and what to do when it did not end well."""
    if request is None or not follow.ended(request):
        return
    trace = trace_path(settings)
    students = [student for job in request["jobs"] for student in job.get("students") or [job["student"]]]
    try:
        lines = [
            follow.credentials(trace, student, request["workshop"], request["action"], begun) for student in students
        ]
    except OSError as error:
        lines = []
        _complain(f"The credentials are in the last lines of {trace}, which can't be read here: {error.strerror}")
    for line in lines:
        if line is not None:
            print(line)
    if request["state"] != State.DONE:
        _complain(f"Request {request['id']} is {request['state']}. Look with: wodmail show {request['id']}")


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
