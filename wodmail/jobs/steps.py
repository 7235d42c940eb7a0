"""What each kind of step does. Every function is safe to run twice: it looks first, or does the same again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from wodmail import compiling, completion, vault, vaultkeys
from wodmail.catalog import Workshop
from wodmail.errors import Away, Failed, Overtaken, Refused
from wodmail.jobs import earlier, exports
from wodmail.jobs.plan import AWAIT_REGISTRY
from wodmail.jobs.services import StepContext
from wodmail.model import Action, State, StepResult
from wodmail.newpassword import new_password
from wodmail.scripts import Kind

WAIT_POLL = 20.0
WAIT_LIMIT = 15 * 60.0

_DONE = StepResult(State.DONE)


def _written(*notes: str) -> StepResult:
    """The end of a step that told the registry something; what is kept for later is worth a warning."""
    kept = tuple(dict.fromkeys(note for note in notes if note))
    return StepResult(State.DONE, note="; ".join(kept), warnings=kept)


def _skipped(why: str) -> StepResult:
    return StepResult(State.SKIPPED, note=why)


def _workshop(ctx: StepContext) -> Workshop:
    found = ctx.workshop
    if found is None:
        raise Refused(f"The workshop {ctx.spec.ws} is not there any more. Check its folder under the notebooks.")
    return found


# -- looking ----------------------------------------------------------------------------------------------------


def await_registry(ctx: StepContext) -> StepResult:
    """Stands in for the whole plan while the API-DB, which says what belongs to it, is away: then plan anew."""
    with contextlib.suppress(Refused):  # `validate` says it
        ctx.services.registry.workshop(ctx.spec.ws)
    return StepResult(State.WAITING, note="the API-DB is back")


def validate(ctx: StepContext) -> StepResult:
    """Check what can be checked before anything is changed."""
    spec, services = ctx.spec, ctx.services
    for student in spec.students:
        services.accounts.check(student)
    if spec.action is Action.PURGE:
        if spec.participant:
            services.registry.check_participant(spec.participant, spec.students[0], None)
        return _DONE
    if spec.action is Action.CLEANUP:
        earlier.check_session(services.store, spec)
    workshop = _workshop(ctx)
    if spec.participant:
        services.registry.check_participant(spec.participant, spec.students[0], spec.workshop)
        if spec.action is Action.CLEANUP and services.settings.apidb:
            _not_cleaned_before(ctx)
    if spec.action is Action.RESET and not services.scripts.exists("reset", spec.ws):
        raise Refused(
            f"{spec.ws} says reset: true but there is no reset-{spec.ws}.sh to run. "
            "Add the script, or set reset: false."
        )
    if spec.action is Action.CREATE and workshop.compile:  # told before anything is changed
        compiling.find(workshop.compile, *compiling.folders(services.settings))
        compiling.check_tools()
    return StepResult(State.DONE, warnings=_range_warnings(ctx, workshop))


def _range_warnings(ctx: StepContext, workshop: Workshop) -> tuple[str, ...]:
    if workshop.range is None:
        return ()
    low, high = workshop.range
    outside = [student for student in ctx.spec.students if not low <= student <= high]
    if not outside:
        return ()
    named = ", ".join(str(student) for student in outside[:5]) + (" …" if len(outside) > 5 else "")
    return (f"student {named} is outside the range {low}-{high} of {ctx.spec.ws}",)


def _not_cleaned_before(ctx: StepContext) -> None:
    """A CLEANUP that comes again must not touch a seat that is free, or is being given to somebody else.

    One that an operator retries may: it has something to make good, and newer jobs of the student forbid the retry.

    Raises:
        Refused: the participant is cleaned and the seat is free.
    """
    if earlier.was_retried(ctx.services.store, ctx.spec.job):
        return
    participant, student, registry = ctx.spec.participant, ctx.spec.students[0], ctx.services.registry
    if registry.is_clean(participant) and not registry.seat(student).assigned:
        raise Refused(
            f"Participant {participant} was cleaned before and the seat of student {student} is free: there is "
            "nothing to clean up. Nothing was changed."
        )


def nothing_to_reset(ctx: StepContext) -> StepResult:
    """RESET of a workshop with `reset: false`."""
    return StepResult(State.DONE, note=f"{ctx.spec.ws} says reset: false; there is nothing to do")


def wait_cleaned(ctx: StepContext) -> StepResult:
    """Ask again every 20 s, for 15 minutes at most, then go on with a warning."""
    participant = ctx.spec.participant
    if ctx.services.registry.is_clean(participant):
        return StepResult(State.DONE, note=f"participant {participant} is cleaned")
    waited = time.time() - (ctx.waiting_since or time.time())
    if waited >= WAIT_LIMIT:
        return StepResult(
            State.DONE, warnings=(f"participant {participant} is not cleaned after {waited / 60:.0f} min; going on",)
        )
    return StepResult(State.WAITING, note=f"participant {participant} is not cleaned yet", again_in=WAIT_POLL)


def validate_again(ctx: StepContext) -> StepResult:
    """After a wait, and before a PURGE erases: the seat may have become another customer's."""
    if not ctx.spec.participant:
        return _skipped("no participant")
    ctx.services.registry.check_participant(ctx.spec.participant, ctx.spec.students[0], None)
    for student in ctx.spec.students:
        seat = ctx.services.registry.seat(student)
        if seat.active and seat.participant not in (0, ctx.spec.participant):
            raise Refused(
                f"The seat of student {student} now belongs to participant {seat.participant}, who is active. "
                "Nothing was erased."
            )
    return _DONE


# -- passwords ----------------------------------------------------------------------------------------------------


def password(ctx: StepContext) -> StepResult:
    """Make a password (once a job, also when the step runs again) and set it for the account."""
    student, services = ctx.step.student, ctx.services
    word = ctx.password(student)
    if not word:
        word = new_password(services.settings.WODPASSWORDLENGTH)
        services.passwords.put(ctx.spec.job, student, word)
    services.accounts.set_password(student, word)
    return _DONE


def ldap_password(ctx: StepContext) -> StepResult:
    """Set the password in the directory."""
    if not ctx.services.directory.enabled:
        return StepResult(State.SKIPPED, warnings=(f"{ctx.spec.ws} says ldap: true but no LDAP is configured",))
    ctx.services.directory.set_password(ctx.step.student, ctx.password(ctx.step.student))
    return _DONE


def pass_file(ctx: StepContext) -> StepResult:
    """Write PASSSTU for the notebooks' templates, encrypted."""
    student, settings = ctx.step.student, ctx.services.settings
    key = vaultkeys.password(settings)
    ctx.services.masker.register(key)
    vault.write(vault.pass_file(settings, ctx.spec.workshop, student), {"PASSSTU": ctx.password(student)}, key)
    return _DONE


def _renew_pass_file(ctx: StepContext) -> None:
    """As it was before a script that was interrupted: it may have left the file in clear, or half done."""
    workshop = ctx.workshop
    vault.forget(vault.pass_file(ctx.services.settings, ctx.spec.workshop, ctx.step.student))
    if workshop is not None and (workshop.ldap or workshop.varpass):
        pass_file(ctx)


def forget_variables(ctx: StepContext) -> StepResult:
    """Remove the variable files of every student of the job."""
    there = [file for student in ctx.spec.students for file in vault.pass_files(ctx.services.settings, student)]
    for file in there:
        vault.forget(file)
    return _DONE if there else _skipped("there were none")


# -- homes and servers --------------------------------------------------------------------------------------------


def hub_stop(ctx: StepContext) -> StepResult:
    """Stop the student's JupyterHub server, before its processes are ended, and end the hub's logins of that user.

    A browser that is still logged in could start the server again, whatever the password is now; only a hub user made
    anew shuts it out.
    """
    hub, student = ctx.services.hub, ctx.step.student
    if not hub.enabled:
        return _skipped("no hub configured")
    note = hub.stop(student)
    hub.remove(student)
    hub.ensure(student)
    return StepResult(State.DONE, note=f"{note}, logins ended")


def hub_start(ctx: StepContext) -> StepResult:
    """Start the student's JupyterHub server."""
    if not ctx.services.hub.enabled:
        return _skipped("no hub configured")
    return StepResult(State.DONE, note=ctx.services.hub.start(ctx.step.student))


def erase(ctx: StepContext) -> StepResult:
    """End the student's processes, empty the home, copy the skeleton, make a key pair."""
    ctx.services.accounts.erase(ctx.step.student)
    return _DONE


def compile_scripts(ctx: StepContext) -> StepResult:
    """Make programs of the workshop's scripts in the student's home."""
    student, services, scripts = ctx.step.student, ctx.services, _workshop(ctx).compile
    if not scripts:
        return _skipped(f"{ctx.spec.ws} lists no scripts any more")
    file = vault.pass_file(services.settings, ctx.spec.workshop, student)
    made = services.playbooks.compile_scripts(ctx.spec, student, scripts, file if file.exists() else None, ctx.line)
    return StepResult(State.DONE, note=made.note)


def copy_folder(ctx: StepContext) -> StepResult:
    """Personalise the notebooks."""
    student, services = ctx.step.student, ctx.services
    file = vault.pass_file(services.settings, ctx.spec.workshop, student)
    copied = services.playbooks.copy_folder(ctx.spec, student, file if file.exists() else None, ctx.line)
    return StepResult(State.DONE, note=f"{copied.files} files, {copied.expanded} expanded")


# -- scripts ------------------------------------------------------------------------------------------------------


def _script(kind: Kind) -> Callable[[StepContext], StepResult]:
    def run(ctx: StepContext) -> StepResult:
        if not ctx.services.scripts.exists(kind, ctx.spec.ws):
            return _skipped(f"no {kind}-{ctx.spec.ws}.sh")
        if kind == "create" and ctx.spec.attempt > 1:
            _renew_pass_file(ctx)
        results = ctx.services.scripts.run(kind, ctx.spec, _script_environment(ctx), ctx.line)
        notes = [f"{ran.where} exit {ran.status}" for ran in results]
        left = [
            f"{ran.name} left {ran.leftovers} process(es) behind; they were ended" for ran in results if ran.leftovers
        ]
        return StepResult(State.DONE, note=", ".join(notes), warnings=tuple(left))

    return run


def _script_environment(ctx: StepContext) -> dict[str, str]:
    services, student, workshop = ctx.services, ctx.spec.students[0], ctx.workshop
    return {
        "randompw": ctx.password(student),
        "WODPASSWORDS": " ".join(f"{each}:{ctx.password(each)}" for each in ctx.spec.students),
        "accessToken": services.registry.session_token(),
        "wid": str(workshop.id if workshop else 0),
        "userid": str(ctx.spec.participant),
        "stddir": str(services.accounts.home(student)),
    }


# -- registry -----------------------------------------------------------------------------------------------------


def registry_password(ctx: StepContext) -> StepResult:
    """Tell the registry the student's password (the embedded one keeps none)."""
    student = ctx.step.student
    return _written(
        ctx.services.registry.set_password(student, ctx.services.passwords.reference(ctx.spec.job, student))
    )


def registry_active(ctx: StepContext) -> StepResult:
    """Take the seat, unless the participant was given up or ended while this job was at work."""
    services, spec = ctx.services, ctx.spec
    taken = services.registry.assign(ctx.step.student, spec.ws, spec.participant)
    try:
        return _written(taken, services.registry.set_active(spec.participant, ctx.step.student))
    except Overtaken as error:
        return StepResult(State.SKIPPED, note=error.sender, warnings=(error.sender,))


def ratio(ctx: StepContext) -> StepResult:
    """Read the completion ratio from the student's notebooks; not once more from a home that was emptied since."""
    notebooks = ctx.services.accounts.notebooks(ctx.step.student, ctx.spec.ws)
    if not notebooks and ctx.spec.participant and earlier.was_cleaned(ctx.services.store, ctx.spec):
        return _skipped("an earlier CLEANUP has read it, and the home is empty since")
    found = completion.completion(notebooks)
    return StepResult(State.DONE, note=f"{found.percent} %", warnings=found.problems, data={"ratio": found.percent})


def registry_completion(ctx: StepContext) -> StepResult:
    """Tell the registry the completion percentage."""
    percent = ctx.data.get("ratio")
    if not ctx.spec.participant:
        return _skipped("no participant")
    if not isinstance(percent, int):
        return _skipped("no ratio was read")
    kept = ctx.services.registry.set_completion(ctx.spec.participant, percent, ctx.step.student)
    return _written(kept) if kept else StepResult(State.DONE, note=f"{percent} %")


def registry_capacity(ctx: StepContext) -> StepResult:
    """Set the workshop's capacity to the size of the range."""
    kept = ctx.services.registry.set_capacity(ctx.spec.ws, len(ctx.spec.students))
    return _written(kept) if kept else StepResult(State.DONE, note=str(len(ctx.spec.students)))


def registry_cleaned(ctx: StepContext) -> StepResult:
    """Tell the registry that the participant is cleaned."""
    if not ctx.spec.participant:
        return _skipped("no participant")
    return _written(ctx.services.registry.set_cleaned(ctx.spec.participant, ctx.step.student))


def keep_seat(ctx: StepContext) -> StepResult:
    """Workshops with `reset: true`: the seat stays assigned until the RESET."""
    kept = ctx.services.registry.keep_seat(ctx.step.student, ctx.spec.participant)
    return _written(kept) if kept else StepResult(State.DONE, note="assigned until the RESET")


def free_seat(ctx: StepContext) -> StepResult:
    """Free the seat, only when the home is verified empty and no process of the student lives."""
    student = ctx.step.student
    try:
        ctx.services.accounts.verify_erased(student)
    except Failed as error:
        raise Failed(
            f"The seat of student {student} stays assigned: {error.sender}", error.operator, output=error.output
        ) from error
    if ctx.spec.participant and ctx.services.settings.apidb:
        try:
            ctx.services.registry.check_participant(ctx.spec.participant, student, None)
        except Refused as error:  # given away while this job was at work
            return StepResult(State.SKIPPED, note=error.sender, warnings=(f"the seat stays assigned: {error.sender}",))
        except Away as error:  # then the write is kept, and struck off when somebody else has the seat by then
            ctx.line(f"  {error.operator}")
    return _written(ctx.services.registry.free_seat(student))


def trace(ctx: StepContext) -> StepResult:
    """Write the line that operators `tail` for: the credentials."""
    for student in ctx.spec.students:
        ctx.services.trace.end(student, ctx.password(student) or None, ctx.spec.workshop, ctx.spec.action.value)
    return _DONE


STEPS: dict[str, Callable[[StepContext], StepResult]] = {
    AWAIT_REGISTRY: await_registry,
    "validate": validate,
    "validate-again": validate_again,
    "validate-seat": validate_again,
    "nothing-to-reset": nothing_to_reset,
    "wait-cleaned": wait_cleaned,
    "password": password,
    "ldap-password": ldap_password,
    "pass-file": pass_file,
    "forget-variables": forget_variables,
    "hub-stop": hub_stop,
    "hub-start": hub_start,
    "erase": erase,
    "compile": compile_scripts,
    "copy-folder": copy_folder,
    "create-script": _script("create"),
    "cleanup-script": _script("cleanup"),
    "reset-script": _script("reset"),
    "post-copy-script": _script("post-copy"),
    "registry-password": registry_password,
    "registry-active": registry_active,
    "ratio": ratio,
    "registry-completion": registry_completion,
    "registry-capacity": registry_capacity,
    "registry-cleaned": registry_cleaned,
    "keep-seat": keep_seat,
    "free-seat": free_seat,
    "export": exports.export,
    "trace": trace,
}
