"""Hand a student's tree to whoever may write into the home: ourselves in the sandbox, the root helper else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol

from wodmail.errors import Failed
from wodmail.students import treewriter
from wodmail.students.treewriter import Entry


class Writer(Protocol):
    """Writes trees into homes."""

    def write(self, student: int, workshop: str, remove: Sequence[str], entries: Sequence[Entry]) -> None:
        """Remove the paths from the student's home, then write the entries there.

        Args:
            student: the student's number.
            workshop: name of the workshop's folder.
            remove: paths relative to the home.
            entries: see `treewriter.Entry`.

        Raises:
            Failed: the home could not be written.
        """

    def put_programs(self, student: int, programs: Sequence[Entry]) -> None:
        """Put programs into the student's home, in the place of files of their names.

        Args:
            student: the student's number.
            programs: files, their paths plain names; they get mode 0700.

        Raises:
            Failed: the home could not be written, or a folder of such a name is there.
        """


@contextlib.contextmanager
def opened(argv: Sequence[str], homes: str) -> Iterator[Writer]:
    """The writer for a run.

    Args:
        argv: argv of the root helper; empty to write directly (the sandbox).
        homes: the folder of all homes (WODSTUDDIR).
    """
    if not argv:
        yield DirectWriter(homes)
        return
    with HelperWriter(argv) as helper:
        yield helper


class DirectWriter:
    """Writes as the running user, for sandbox homes; a missing home is made.

    Args:
        homes: the folder of all homes (WODSTUDDIR).
    """

    def __init__(self, homes: str) -> None:
        self._homes = homes

    def write(self, student: int, workshop: str, remove: Sequence[str], entries: Sequence[Entry]) -> None:
        """See `Writer.write`."""
        with self._home(student, f"the files of {workshop}") as home:
            treewriter.install(home, remove, entries)

    def put_programs(self, student: int, programs: Sequence[Entry]) -> None:
        """See `Writer.put_programs`."""
        with self._home(student, _named(programs)) as home:
            treewriter.put_programs(home, programs)

    @contextlib.contextmanager
    def _home(self, student: int, what: str) -> Iterator[int]:
        """The home as a descriptor, what goes wrong with it told."""
        name = f"student{student}"
        try:
            os.makedirs(self._homes, mode=0o755, exist_ok=True)  # noqa: PTH103 - a text all the way
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{self._homes}/{name}", 0o700)  # noqa: PTH102 - a text all the way
            home = treewriter.open_home(self._homes, name)
        except OSError as error:
            words = f"the home of {name} is no folder of its own; nothing was written"
            raise Failed(words, f"{self._homes}/{name}: {error}") from error
        try:
            yield home
        except (OSError, treewriter.BadPathError) as error:
            raise Failed(f"{what} could not be written into the home of {name}: {error}", f"{error}") from error
        finally:
            os.close(home)


class HelperWriter:
    """Writes through the root helper, one process for the whole run; the tree travels as a tar archive.

    The dialogue is JSON lines (docs/accounts.md): a request `{"op": "install_tree", "student", "workshop", "remove",
    "bytes"}` or `{"op": "install_programs", "student", "bytes"}` followed by that many bytes of tar; the answer
    `{"ok": true}` or `{"ok": false, "error", "cause"}`.

    Args:
        argv: how the helper is started, e.g. ["sudo", "-n", "/usr/local/libexec/wodmail-helper"].
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = list(argv)
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> HelperWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._errors.close()

    def write(self, student: int, workshop: str, remove: Sequence[str], entries: Sequence[Entry]) -> None:
        """See `Writer.write`."""
        request = {"op": "install_tree", "student": student, "workshop": workshop, "remove": list(remove)}
        self._install(request, entries, f"the files of {workshop}")

    def put_programs(self, student: int, programs: Sequence[Entry]) -> None:
        """See `Writer.put_programs`."""
        self._install({"op": "install_programs", "student": student}, programs, _named(programs))

    def _install(self, request: dict[str, object], entries: Sequence[Entry], what: str) -> None:
        archive = treewriter.pack(entries)
        answer = self._ask(json.dumps({**request, "bytes": len(archive)}).encode() + b"\n" + archive)
        if answer.get("ok") is not True:
            words = f"{what} could not be written into the home of student{request['student']}"
            reason = [str(answer[key]) for key in ("error", "cause") if answer.get(key)]
            raise Failed(f"{words}: {reason[0]}" if reason else words, " ".join(reason) or "the helper gave no reason")

    def _ask(self, message: bytes) -> dict[str, object]:
        try:
            process = self._process or self._start()
            if process.stdin is None or process.stdout is None:
                raise BrokenPipeError("no pipes")
            process.stdin.write(message)
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
        except (OSError, ValueError) as error:
            self._close()
            raise Failed("the helper that writes into homes did not answer", self._why(error)) from error
        return answer if isinstance(answer, dict) else {}

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        return self._process

    def _close(self) -> None:
        """Close its input, which tells it to end, and wait for that."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            process.communicate(timeout=10)

    def _why(self, error: Exception) -> str:
        self._errors.seek(0)
        said = self._errors.read(2000).decode(errors="replace").strip()
        return f"{' '.join(self._argv)}: {said or error}"


def _named(programs: Sequence[Entry]) -> str:
    return f"the compiled {', '.join(program.path for program in programs)}"
