"""Hand a student's tree to whoever may write into the home: ourselves in the sandbox, the root helper else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
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


class DirectWriter:
    """Writes as the running user, for sandbox homes; a missing home is made.

    Args:
        homes: the folder of all homes (WODSTUDDIR).
    """

    def __init__(self, homes: str) -> None:
        self._homes = homes

    def write(self, student: int, workshop: str, remove: Sequence[str], entries: Sequence[Entry]) -> None:
        """See `Writer.write`."""
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
            treewriter.install(home, remove, entries)
        except (OSError, treewriter.BadPathError) as error:
            raise Failed(f"the files of {workshop} could not be written into the home of {name}", f"{error}") from error
        finally:
            os.close(home)


class HelperWriter:
    """Writes through the root helper, one process for the whole run; the tree travels as a tar archive.

    The dialogue is JSON lines (docs/accounts.md): a request `{"op": "install_tree", "student", "workshop", "remove",
    "bytes"}` followed by that many bytes of tar; the answer `{"ok": true}` or `{"ok": false, "error", "cause"}`.

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
        archive = treewriter.pack(entries)
        request = {
            "op": "install_tree",
            "student": student,
            "workshop": workshop,
            "remove": list(remove),
            "bytes": len(archive),
        }
        answer = self._ask(json.dumps(request).encode() + b"\n" + archive)
        if answer.get("ok") is not True:
            words = f"the files of {workshop} could not be written into the home of student{student}"
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
