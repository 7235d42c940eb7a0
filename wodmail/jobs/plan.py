"""From command and workshop to the list of steps (pure; docs/flow.md has the table).

A step's `kind` says which function runs it, its name is unique in the job: a RESET over a range has some kinds once a
student, named `erase-student12`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from wodmail.catalog import Workshop
from wodmail.model import Action, JobSpec


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a job.

    Args:
        name: unique in the job.
        kind: the function that runs it.
        student: the student it is for.
        always: runs also when an earlier step failed.
        stops: its failure ends the job (but for the `always` steps).
        what: what it would do, for PLAN.
    """

    name: str
    kind: str
    student: int
    always: bool = False
    stops: bool = True
    what: str = ""


ALWAYS = frozenset({"forget-variables", "trace"})
AWAIT_REGISTRY = "await-registry"
CHECKS = frozenset({"validate", "validate-again", "validate-seat", "nothing-to-reset", AWAIT_REGISTRY})
"""What ends also a job that goes on past other failures."""
_EACH = "-student"


def named(name: str, first: int) -> PlannedStep:
    """The step that a name stands for, without its sentence: what was planned once must run, whatever wod.yml says now.

    Args:
        name: as `plan` gave it.
        first: the job's first student.
    """
    kind, _, student = name.partition(_EACH)
    return PlannedStep(name, kind, int(student) if student else first, kind in ALWAYS, kind not in ALWAYS)


def recorded(names: list[str], spec: JobSpec) -> list[PlannedStep]:
    """The plan of a job that has begun: what was planned once is done, whatever the workshop says by now.

    Args:
        names: its steps in order, as recorded.
        spec: the job.
    """
    steps = [named(name, spec.students[0]) for name in names]
    if spec.action is Action.CREATE:
        return steps
    return [replace(step, stops=step.kind in CHECKS) for step in steps]


def _step(kind: str, what: str, *, stops: bool = True) -> PlannedStep:
    always = kind in ALWAYS
    return PlannedStep(kind, kind, 0, always, stops and not always, what)


def _create(spec: JobSpec, workshop: Workshop) -> list[PlannedStep]:
    steps = [
        _step("validate", "check student, range, workshop and home"),
        _step("password", "make a new password and set it for the account"),
    ]
    if workshop.ldap:
        steps.append(_step("ldap-password", "set the password in the directory"))
    if workshop.ldap or workshop.varpass:
        steps.append(_step("pass-file", "write PASSSTU into the student's vault file"))
    steps += [
        _step("hub-stop", "stop the student's JupyterHub server"),
        _step("erase", "end the student's processes, empty the home, copy the skeleton, make an ssh key pair"),
    ]
    if workshop.compile:
        steps.append(_step("compile", f"compile_scripts.yml: compile {', '.join(workshop.compile)} into the home"))
    steps += [
        _step("create-script", f"run create-{spec.ws}.sh, public then private"),
        _step("copy-folder", f"copy_folder.yml: personalise {spec.ws} ({spec.modews}) into the home"),
        _step("post-copy-script", f"run post-copy-{spec.ws}.sh, public then private"),
        _step("forget-variables", "remove the temporary variable files"),
        _step("registry-password", "tell the registry the student's password"),
        _step("registry-active", "take the seat: customer active"),
        _step("hub-start", "start the student's JupyterHub server"),
    ]
    return steps


def _cleanup(spec: JobSpec, workshop: Workshop) -> list[PlannedStep]:
    steps = [_step("password", "make a new password and set it for the account", stops=False)]
    if workshop.ldap:
        steps.append(_step("ldap-password", "set the password in the directory", stops=False))
    if workshop.ldap or workshop.varpass:
        steps.append(_step("pass-file", "write PASSSTU into the student's vault file", stops=False))
    steps += [
        _step("registry-password", "tell the registry the student's password", stops=False),
        _step("cleanup-script", f"run cleanup-{spec.ws}.sh, public then private", stops=False),
        _step("ratio", "read the completion ratio from the notebooks", stops=False),
        _step("registry-completion", "tell the registry the completion percentage", stops=False),
        _step("hub-stop", "stop the student's JupyterHub server", stops=False),
    ]
    if workshop.reset:
        steps.append(_step("keep-seat", "keep the seat until the RESET: assigned, not active", stops=False))
    else:
        steps.append(_step("erase", "end the student's processes, empty the home, copy the skeleton", stops=False))
        steps.append(_step("free-seat", "free the seat when the home is verified empty", stops=False))
    steps += [
        _step("forget-variables", "remove the temporary variable files"),
        _step("registry-cleaned", "tell the registry that the participant is cleaned", stops=False),
    ]
    return [_step("validate", "check student, workshop and home"), *steps]


def _wait(spec: JobSpec) -> list[PlannedStep]:
    if not spec.participant:
        return []
    return [
        _step("wait-cleaned", "wait until the participant is cleaned, 15 min at most; holds no worker", stops=False),
        _step("validate-again", "check that the seat is still this participant's"),
    ]


def _purge(spec: JobSpec, _workshop: Workshop | None) -> list[PlannedStep]:
    return [
        _step("validate", "check student and home"),
        *_wait(spec),
        _step("hub-stop", "stop the student's JupyterHub server", stops=False),
        _step("password", "make a new password and set it for the account", stops=False),
        _step("registry-password", "tell the registry the student's password", stops=False),
        _step("validate-seat", "check once more that the seat is nobody else's"),
        _step("erase", "end the student's processes, empty the home, copy the skeleton", stops=False),
        _step("free-seat", "free the seat when the home is verified empty", stops=False),
        _step("forget-variables", "remove the temporary variable files"),
    ]


_RESET_EACH = {
    "hub-stop": "stop the student's JupyterHub server",
    "erase": "end the student's processes, empty the home, copy the skeleton",
    "free-seat": "free the seat when the home is verified empty",
}


def _each(kind: str, what: str, students: tuple[int, ...]) -> list[PlannedStep]:
    many = len(students) > 1
    return [
        PlannedStep(f"{kind}{_EACH}{student}" if many else kind, kind, student, stops=False, what=what)
        for student in students
    ]


def _reset(spec: JobSpec, workshop: Workshop) -> list[PlannedStep]:
    steps = [_step("validate", f"check students and workshop; reset-{spec.ws}.sh must exist"), *_wait(spec)]
    steps += _each("password", "make a new password and set it for the account", spec.students)
    if workshop.ldap:
        steps += _each("ldap-password", "set the password in the directory", spec.students)
    steps.append(_step("reset-script", f"run reset-{spec.ws}.sh, public then private", stops=False))
    if len(spec.students) > 1:
        steps.append(_step("registry-capacity", f"set the capacity to {len(spec.students)}", stops=False))
    for kind, what in _RESET_EACH.items():
        steps += _each(kind, what, spec.students)
    steps.append(_step("forget-variables", "remove the temporary variable files"))
    return steps


def _export(spec: JobSpec, _workshop: Workshop) -> list[PlannedStep]:
    form = "PDF" if spec.action is Action.PDF else "Word"
    return [
        _step("validate", "check student, workshop and home"),
        _step("export", f"export the notebooks of {spec.ws} to {form} as the student, for the result mail"),
    ]


_BY_ACTION: dict[Action, Callable[[JobSpec, Workshop], list[PlannedStep]]] = {
    Action.CREATE: _create,
    Action.CLEANUP: _cleanup,
    Action.RESET: _reset,
    Action.PDF: _export,
    Action.WORD: _export,
}


def await_registry(spec: JobSpec) -> list[PlannedStep]:
    """What a job does while nobody can say what belongs to its workshop: the API-DB is away."""
    return [
        PlannedStep(AWAIT_REGISTRY, AWAIT_REGISTRY, spec.students[0]),
        PlannedStep("trace", "trace", spec.students[0], True, False),
    ]


def plan(spec: JobSpec, workshop: Workshop | None) -> list[PlannedStep]:
    """The steps of a job, in order.

    Args:
        spec: the job.
        workshop: what the catalogue says of the workshop; None for PURGE, which ignores it, and for a workshop that
            has gone since the mail was accepted (then `validate` fails and says so).
    """
    trace = _step("trace", "write the trace's last line")
    if spec.action is Action.PURGE:
        steps = _purge(spec, workshop)
    elif workshop is None:
        steps = [_step("validate", "check student, workshop and home")]
    elif spec.action is Action.RESET and not workshop.reset:
        steps = [_step("nothing-to-reset", f"nothing: {spec.ws} says reset: false")]
    else:
        steps = _BY_ACTION[spec.action](spec, workshop)
    first = spec.students[0]
    return [PlannedStep(s.name, s.kind, s.student or first, s.always, s.stops, s.what) for s in [*steps, trace]]
