"""The demonstration: a real processor in a folder of its own, real mails, and what came of them.

What it shows are commands as they are run with their output, lines of files, and mails; it checks each of them, and
ends with an error when one is not as it should be.
"""

from __future__ import annotations

import difflib
import mailbox
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import TypeVar

import click
import yaml

from wodmail import paths
from wodmail.config import Settings, load
from wodmail.errors import Failed, Refused
from wodmail.trace import trace_path

T = TypeVar("T")
STUDENTS = (1, 2, 3)
START_SECONDS = 30.0
MAIL_SECONDS = 20.0
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Demo:
    """A demonstration that is set up.

    Args:
        folder: holds everything that it makes.
        file: its configuration.
        settings: what the file says.
        workshop: the demo workshop's name.
    """

    folder: Path
    file: Path
    settings: Settings
    workshop: str


def run(folder: Path | None = None, *, keep: bool = False) -> None:
    """Run the demonstration.

    Args:
        folder: an empty or absent folder for everything; a temporary one when None.
        keep: leave the processor running and say how to talk to it; else everything is stopped, and a temporary folder
            removed.

    Raises:
        Refused: the folder is not empty.
        Failed: something did not come out as it should.
    """
    demo = prepare(folder)
    server = start(demo)
    kept = False
    try:
        show_create(demo)
        show_refusal(demo)
        show_cleanup(demo)
        kept = keep
    finally:
        if not kept:
            stop(demo, server)
    if kept:
        say_how_to_talk(demo, server)
    elif folder is None:
        shutil.rmtree(demo.folder)


def prepare(folder: Path | None) -> Demo:
    """Make the folder and the configuration in it."""
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="wodmail-demo-"))
    elif folder.exists() and any(folder.iterdir()):
        raise Refused(f"{folder} is not empty; name another folder")
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "wod.yml"
    names = {"WODSANDBOX": True, "WODSTATEDIR": "state", "WODPOSTPORT": _free_port(), "WODUSERMAX": 20}
    file.write_text(yaml.safe_dump(names, sort_keys=False), encoding="utf-8")
    workshops = sorted(path.name for path in (paths.share("demo") / "notebooks").glob("WKSHP-*"))
    if not workshops:
        raise Failed("The demo workshop is missing from this installation; reinstall wodmail.")
    return Demo(folder, file, load(file), workshops[0])


def start(demo: Demo) -> subprocess.Popen[bytes]:
    """Start the processor and wait until it takes mail.

    Raises:
        Failed: it ended, or did not answer in time.
    """
    _show_file(demo.file)
    argv = [*_program("wodmail"), "serve", "--config", str(demo.file)]
    _show_command(argv, "&")
    log = demo.folder / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=demo.folder, start_new_session=True
        )
    try:
        _await(lambda: server.poll() is not None or _greeting(demo.settings), START_SECONDS, "the processor's greeting")
    except Failed:
        stop(demo, server)
        raise
    if server.poll() is not None:
        raise Failed(f"The processor ended at once:\n{log.read_text(encoding='utf-8', errors='replace')}")
    _show_file(log)
    return server


def stop(demo: Demo, server: subprocess.Popen[bytes]) -> None:
    """End the processor as systemd would.

    Raises:
        Failed: it did not end by itself, or with an error.
    """
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
    try:
        status = server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        server.kill()
        server.wait()
        raise Failed(f"The processor did not end on SIGTERM within {STOP_SECONDS:g} s.") from error
    if status != 0:
        raise Failed(f"The processor ended with status {status}; see {demo.folder / 'serve.log'}.")


def show_create(demo: Demo) -> None:
    """CREATE for some students: progress, the personalised notebook, the result mails, the trace."""
    _order(demo, "CREATE", demo.workshop, f"{STUDENTS[0]},{STUDENTS[-1]}", expect=0)
    show_notebook(demo, STUDENTS[0])
    subjects = [f"Re: CREATE {student} 0: done" for student in STUDENTS]
    show_mails(demo, subjects, whole=1)
    show_last_line(demo)


def show_refusal(demo: Demo) -> None:
    """A mail that asks for a workshop that isn't there."""
    _order(demo, "CREATE", f"{demo.workshop}-missing", str(STUDENTS[-1] + 1), expect=1)
    show_mails(demo, [f"Re: CREATE {STUDENTS[-1] + 1} 0: refused"], whole=1)


def show_cleanup(demo: Demo) -> None:
    """CLEANUP of those students: their homes are as new, and the requests are on record."""
    _order(demo, "CLEANUP", demo.workshop, f"{STUDENTS[0]},{STUDENTS[-1]}", expect=0)
    for student in STUDENTS:
        left = demo.settings.WODSTUDDIR / f"student{student}" / demo.workshop
        if left.exists():
            raise Failed(f"{left} is still there after CLEANUP.")
    show_mails(demo, [f"Re: CLEANUP {student} 0: done" for student in STUDENTS], whole=0)
    _run([*_program("wodmail"), "requests", "--config", str(demo.file)], expect=0)
    show_last_line(demo)


def show_notebook(demo: Demo, student: int) -> None:
    """The lines of the workshop's notebooks that were expanded for a student.

    Raises:
        Failed: nothing in them names the student.
    """
    source = paths.share("demo") / "notebooks" / demo.workshop
    home = demo.settings.WODSTUDDIR / f"student{student}" / demo.workshop
    lines: list[str] = []
    for notebook in sorted(source.glob("*.ipynb")):
        before, after = (_lines(folder / notebook.name) for folder in (source, home))
        names = str(source / notebook.name), str(home / notebook.name)
        lines += difflib.unified_diff(before, after, *names, lineterm="", n=0)
    expanded = [line for line in lines if line.startswith("+") and not line.startswith("+++")]
    if not any(re.search(rf"\b{student}\b", line) for line in expanded):
        raise Failed(f"The notebooks in {home} are not personalised.")
    click.echo("")
    for line in lines:
        click.echo(line)


def show_mails(demo: Demo, subjects: Sequence[str], *, whole: int) -> None:
    """Wait for the mails whose subjects begin so, and show them: the first ones whole, of the others the subject."""

    def arrived() -> list[EmailMessage] | None:
        mails = outbox(demo)
        found = [next((mail for mail in mails if _subject(mail).startswith(start)), None) for start in subjects]
        present = [mail for mail in found if mail is not None]
        return present if len(present) == len(subjects) else None

    for number, mail in enumerate(_await(arrived, MAIL_SECONDS, f"the mails {', '.join(subjects)}")):
        click.echo("")
        click.echo(f"Subject: {_subject(mail)}")
        if number < whole:
            body = mail.get_body(("plain",))
            click.echo(f"To: {mail['To']}\n\n{body.get_content() if body else ''}".rstrip())


def outbox(demo: Demo) -> list[EmailMessage]:
    """The mails that went out, into the sandbox's Maildir."""
    folder = demo.settings.WODOUTBOX
    if folder is None or not (folder / "new").is_dir():
        return []
    box = mailbox.Maildir(folder, create=False)
    return [
        BytesParser(_class=EmailMessage, policy=default).parsebytes(box.get_bytes(name)) for name in sorted(box.keys())
    ]


def show_last_line(demo: Demo) -> None:
    """The last line of the trace, which holds the credentials."""
    trace = trace_path(demo.settings)
    last = _lines(trace)[-1]
    if not last.startswith("end of procmail-action for student "):
        raise Failed(f"The last line of {trace} is not the end of a job: {last}")
    click.echo(f"\n==> {trace} <==\n{last}")


def say_how_to_talk(demo: Demo, server: subprocess.Popen[bytes]) -> None:
    """What to type while the processor is left running."""
    tool, command = (" ".join(_program(name)) for name in ("wod-test-action", "wodmail"))
    click.echo(f"""
The processor runs as process {server.pid} on {demo.settings.WODLISTEN} port {demo.settings.WODPOSTPORT}. To talk to it:
  export WOD_CONFIG={shlex.quote(str(demo.file))}
  {tool} --wait CREATE {demo.workshop} {STUDENTS[-1] + 1}
  {command} requests
  tail -f {shlex.quote(str(trace_path(demo.settings)))}
To end it:
  kill {server.pid}; rm -r {shlex.quote(str(demo.folder))}""")


def _order(demo: Demo, action: str, workshop: str, students: str, *, expect: int) -> None:
    options = ["--config", str(demo.file), "--wait", "--timeout", "60"]
    _run([*_program("wod-test-action"), *options, action, workshop, students], expect=expect)


def _run(argv: Sequence[str], *, expect: int) -> None:
    """Show a command and run it, its output going where ours goes."""
    _show_command(argv)
    status = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode
    if status != expect:
        raise Failed(f"{shlex.join(argv)} ended with status {status}, not {expect}.")


def _program(name: str) -> list[str]:
    """How to start one of our commands: the script beside this Python, else its module."""
    script = Path(sys.executable).with_name(name)
    module = {"wodmail": "wodmail", "wod-test-action": "wodmail.cli.test_action"}[name]
    return [str(script)] if script.is_file() else [sys.executable, "-m", module]


def _show_command(argv: Sequence[str], end: str = "") -> None:
    shown = [Path(argv[0]).name, *argv[1:]]
    click.echo(f"\n$ {shlex.join(shown)} {end}".rstrip())
    sys.stdout.flush()


def _show_file(file: Path) -> None:
    click.echo(f"==> {file} <==\n{file.read_text(encoding='utf-8', errors='replace').rstrip()}")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise Failed(f"{file} is missing.") from error


def _subject(mail: EmailMessage) -> str:
    return " ".join(str(mail["Subject"]).split())


def _greeting(settings: Settings) -> bool:
    """Whether the processor greets."""
    try:
        with socket.create_connection((settings.WODLISTEN, settings.WODPOSTPORT), timeout=1) as connection:
            return connection.recv(3) == b"220"
    except OSError:
        return False


def _await(ask: Callable[[], T | None], seconds: float, what: str) -> T:
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise Failed(f"Waited {seconds:g} s in vain for {what}.")
        time.sleep(0.05)
    return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
