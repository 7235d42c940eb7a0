"""`python -m benchmarks.door CONFIG`: wodmail's listener and spool without the rest, until standard input ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from wodmail.config import load
from wodmail.mail.listener import Listener
from wodmail.mail.spool import Spool


class Door:
    """That program at work; a context manager.

    Args:
        config: a configuration whose server does not run.
    """

    def __init__(self, config: Path) -> None:
        argv = [sys.executable, "-m", "benchmarks.door", str(config)]
        here = Path(__file__).resolve().parents[1]
        self._process = subprocess.Popen(argv, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Door:
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the listener did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()


def main() -> None:
    """Open the door, say `ready`, and close it when standard input ends."""
    settings = load(Path(sys.argv[1]))
    listener = Listener(settings, Spool(settings.WODSTATEDIR / "spool"), lambda: None)
    listener.start()
    print("ready", flush=True)
    sys.stdin.read()
    listener.stop()


if __name__ == "__main__":
    main()
