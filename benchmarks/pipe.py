"""The pipe that procmail starts for every mail, against the start of Python with the parser of mails."""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, spread, timed
from benchmarks.site import ROOT

MAIL = b"From bench@example.org  Fri Mar  3 09:08:35 2023\nSubject: CREATE 1\nFrom: bench@example.org\n\nWKSHP-Bench\n"


def pipe(folder: Path, runs: int) -> list[Figure]:
    """Both programs in turn, medians compared.

    Args:
        folder: for the spool; made.
        runs: how often each.
    """
    folder.mkdir(parents=True)
    ours = [sys.executable, "-I", str(ROOT / "wodmail" / "mail" / "pipe.py"), "--spool", str(folder / "spool")]
    theirs = [sys.executable, "-c", "import email.parser"]
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for argv, times in zip((ours, theirs), took, strict=True):
            times.append(timed(partial(subprocess.run, argv, input=MAIL, check=True)))
    stored = len(list((folder / "spool" / "new").iterdir()))
    if stored != runs:
        raise RuntimeError(f"the pipe stored {stored} of {runs} mails")
    ratio = statistics.median(took[0]) / statistics.median(took[1])
    told = f"{spread(took[0])}; import email.parser {spread(took[1])}"
    return [Figure("the pipe, against `import email.parser`", ratio, "x", 3.0, detail=told)]
