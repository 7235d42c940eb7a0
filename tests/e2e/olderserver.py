"""`wodmail serve` as an earlier version of it: its CREATEs have a step more, and it dies when all have come to theirs.

Run as `python -m tests.e2e.olderserver serve STEP,STEP --config FILE`. The first student has the first STEP before
`post-copy-script`, the second the second one: a name that this version has too, or one that it has lost.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from wodmail.catalog import Workshop
from wodmail.config import load
from wodmail.jobs import plan, runner
from wodmail.jobs.plan import PlannedStep
from wodmail.jobs.services import StepContext
from wodmail.jobs.steps import STEPS
from wodmail.logs import Masker, setup
from wodmail.model import JobSpec
from wodmail.server import Server, build_services, serve


def main() -> None:
    """Serve with another plan."""
    _, _, names, _, file = sys.argv
    added = names.split(",")
    everybody = threading.Barrier(len(added))
    planned = plan.plan

    def die(_: StepContext) -> NoReturn:
        everybody.wait()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still there")

    def older(spec: JobSpec, workshop: Workshop | None) -> list[PlannedStep]:
        steps = planned(spec, workshop)
        at = [each.name for each in steps].index("post-copy-script")
        return [*steps[:at], plan.named(added[spec.students[0] - 1], spec.students[0]), *steps[at:]]

    STEPS.update(dict.fromkeys(added, die))
    runner.plan = older
    settings = load(Path(file))
    masker = Masker()
    setup(masker)
    serve(Server(settings, lambda: build_services(settings, masker, Path(file))))


if __name__ == "__main__":
    main()
