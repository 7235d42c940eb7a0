"""`wodmail serve` that kills itself with signal 9 at a chosen point, once.

Run as `python -m tests.e2e.crashserver serve POINT --config FILE`. POINT is `start:STEP` or `end:STEP` (before the step
does anything; after it has done it and before that is recorded), `intake` (between the 250 and the request), `settle`
(between the request and the move of its mail to cur/), `reply` (between the hand-over of a mail and its record),
`noted:STEP` (between our record of the step's end and the engine's), or `each` (for student N: before its Nth step).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wodmail.config import load
from wodmail.intake import Intake
from wodmail.jobs.plan import plan
from wodmail.jobs.runner import Runner
from wodmail.jobs.services import StepContext
from wodmail.jobs.steps import STEPS
from wodmail.logs import Masker, setup
from wodmail.mail.send import Sender
from wodmail.mail.spool import Spool
from wodmail.server import Server, build_services, serve


def die_once(mark: Path) -> None:
    """Kill this process, unless that was done before."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def before(work: Callable[..., Any], mark: Path) -> Callable[..., Any]:
    """The function, preceded by death."""

    def dying(*args: Any, **kwargs: Any) -> Any:
        die_once(mark)
        return work(*args, **kwargs)

    return dying


def after(work: Callable[..., Any], mark: Path) -> Callable[..., Any]:
    """The function, followed by death."""

    def dying(*args: Any, **kwargs: Any) -> Any:
        result = work(*args, **kwargs)
        die_once(mark)
        return result

    return dying


def after_step(work: Callable[..., Any], step: str, mark: Path) -> Callable[..., Any]:
    """The function that records a step's end, followed by death when it is that step's."""

    def dying(runner: Runner, context: StepContext, *args: Any) -> Any:
        result = work(runner, context, *args)
        if context.step.name == step:
            die_once(mark)
        return result

    return dying


def at_its_own_step(work: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """The step's function, preceded by death when it is the student's own: the first step of student 1, and so on."""

    def dying(context: StepContext) -> Any:
        student = context.spec.students[0]
        planned = plan(context.spec, context.workshop)
        if planned[student - 1].name == context.step.name:
            die_once(folder / f"died-{student}")
        return work(context)

    return dying


def arm(point: str, mark: Path) -> None:
    """Put the charge where it belongs."""
    when, _, step = point.partition(":")
    if when == "intake":
        Intake._take_all = before(Intake._take_all, mark)  # type: ignore[method-assign]
    elif when == "settle":
        Spool.settle = before(Spool.settle, mark)  # type: ignore[method-assign]
    elif when == "each":
        for kind, work in list(STEPS.items()):
            STEPS[kind] = at_its_own_step(work, mark.parent)
    elif when == "noted":
        Runner._record_step = after_step(Runner._record_step, step, mark)  # type: ignore[method-assign]
    elif when == "reply":
        Sender.send = after(Sender.send, mark)  # type: ignore[method-assign]
    else:
        STEPS[step] = {"start": before, "end": after}[when](STEPS[step], mark)


def main() -> None:
    """Serve, armed."""
    _, _, point, _, file = sys.argv
    settings = load(Path(file))
    arm(point, settings.WODSTATEDIR / "died")
    masker = Masker()
    setup(masker)
    serve(Server(settings, lambda: build_services(settings, masker, Path(file))))


if __name__ == "__main__":
    main()
