"""One call of wod-deliver: all templates, then the check of the machine, then a mail when anything failed.

Nothing that fails keeps the later parts from being tried, and everything that fails makes the exit status 1
(docs/deliver.md).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from wodmail import (
    checking,
    checkrun,
    checks,
    deliver,
    deliverseats,
    maintenance,
    paths,
    rootplays,
    treetrust,
    variables,
)
from wodmail.catalog import Catalog
from wodmail.checking import Item, Verdict
from wodmail.config import Settings
from wodmail.deliver import Delivery, Outcome, Site
from wodmail.errors import WodmailError
from wodmail.logs import Masker
from wodmail.mail import notice
from wodmail.maintenance import Played, TaskResult
from wodmail.maintenancetasks import ITEM
from wodmail.privatefile import group_of
from wodmail.schema import secret_keys

DONE, FAILED, WOULD_CHANGE = 0, 1, 2
NOTICE = "deliver-failed"
DELIVER = f"{ITEM}deliver"
TAIL_CHARACTERS = 3000


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of the playbook that checks this machine.

    Args:
        name: for example check_backend.yml.
        status: ok, failed, "differs" when only a person can mend something, or "left out".
        remark: why it is so.
        changed: how many tasks changed something (with `check`: would have).
        failed: the tasks that failed.
        differs: the items that only a person can mend.
        tail: the last lines that it printed.
    """

    name: str
    status: str
    remark: str = ""
    changed: int = 0
    failed: tuple[TaskResult, ...] = ()
    differs: tuple[Item, ...] = ()
    tail: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a call.

    Args:
        deliveries: one a template.
        playbook: the check of the machine; None when nobody wanted it.
        problem: what kept all templates from being delivered; "" when nothing did.
        mail: what became of the mail about a failure, "" when it was sent or none was due.
    """

    deliveries: tuple[Delivery, ...] = ()
    playbook: Checked | None = None
    problem: str = ""
    mail: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything did."""
        broken = any(each.outcome is Outcome.FAILED for each in self.deliveries)
        return bool(self.problem) or broken or (self.playbook is not None and self.playbook.status == "failed")

    @property
    def wanting(self) -> bool:
        """Whether a person has to do something."""
        return self.failed or (self.playbook is not None and self.playbook.status == "differs")

    def status(self, *, check: bool) -> int:
        """The exit status.

        Args:
            check: whether nothing was written.
        """
        written = any(each.outcome in (Outcome.NEW, Outcome.CHANGED) for each in self.deliveries)
        changes = written or (self.playbook is not None and self.playbook.changed > 0)
        if self.failed or (self.wanting and not check):
            return FAILED
        return WOULD_CHANGE if check and (changes or self.wanting) else DONE


def run(
    settings: Settings,
    config: Path,
    *,
    check: bool = False,
    diff: bool = False,
    playbook: bool | None = None,
    mail: bool = True,
    on_task: Callable[[TaskResult], None] | None = None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Run:
    """Deliver.

    Args:
        settings: the configuration.
        config: its file; the check of the machine reads the same one.
        check: write nothing, send nothing, tell what would be done.
        diff: keep what differs.
        playbook: whether check_<WODTYPE>.yml is run afterwards; None: when root calls, outside of the sandbox.
        mail: tell WODMONITOR about failures, and about what only a person can mend.
        on_task: called after each task of the playbook.
        on_wait: told for whom it waits, when another play of root's is at work.
    """
    done = _templates(settings, check=check, diff=diff)
    told = _machine(settings, config, playbook, check=check, diff=diff, on_task=on_task, on_wait=on_wait)
    done = replace(done, playbook=told)
    if done.wanting and mail and not check:
        done = replace(done, mail=_tell(settings, done))
    return done


def site(settings: Settings) -> Site:
    """What this backend's templates are expanded with.

    Raises:
        Failed: a variable file can't be read.
    """
    workshops = Catalog(settings.WODNOBO, settings.WODPRIVNOBO).all()
    configured = {str(getattr(settings, name)) for name in secret_keys()}
    return Site(
        variables=variables.for_group(settings),
        compiled=frozenset(name for workshop in workshops for name in workshop.compile),
        secrets=configured | variables.from_vault(settings),
        group=group_of(settings.WODUSER),
    )


def script_folders(settings: Settings) -> list[Path]:
    """The public folder of scripts, which must be there, and the private one when it is."""
    private = settings.WODSCRIPTPRIVDIR
    return [settings.WODSCRIPTDIR, *([private] if private is not None and private.is_dir() else [])]


def variable_folders(settings: Settings) -> list[Path]:
    """The folders <WODGROUP> below the public and the private playbooks that there are."""
    parents = [settings.WODANSIBLEDIR, settings.WODANSIBLEPRIVDIR]
    folders = [parent / settings.WODGROUP for parent in parents if parent is not None]
    return [folder for folder in folders if folder.is_dir()]


def _templates(settings: Settings, *, check: bool, diff: bool) -> Run:
    """All templates; what keeps them all from being delivered is a problem."""
    try:
        treetrust.demand(settings, treetrust.of_deliver(settings))
        if not check:  # an audit of wod-install goes on with it
            rootplays.demand_own_code(settings)
        made = site(settings)
        files = variable_folders(settings)
        done = _absent(settings)
        done += deliver.deliver(script_folders(settings), made, variables=files, check=check, diff=diff)
        done += deliverseats.deliver(settings, made, check=check, diff=diff)
    except WodmailError as error:
        cause = f" ({error.operator})" if error.operator != error.sender else ""
        return Run(problem=_masker(settings).mask(f"{error.sender}{cause}"))
    except Exception as error:  # noqa: BLE001 - told in full; a fault of ours must keep neither check nor mail
        place = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"a fault of wodmail, {Path(place.filename).name}:{place.lineno}: {type(error).__name__}: {error}"
        return Run(problem=_masker(settings).mask(fault))
    return Run(tuple(done))


def _absent(settings: Settings) -> list[Delivery]:
    """Private folders that the configuration names and that aren't there, a row each: their templates are missed."""
    problems = checks.absent(settings, ("WODPRIVDIR", "WODANSIBLEPRIVDIR", "WODSCRIPTPRIVDIR"))
    folders = {problem: Path(getattr(settings, problem.path)) for problem in problems}
    return [Delivery(folder, folder, Outcome.FAILED, str(problem)) for problem, folder in folders.items()]


def _masker(settings: Settings) -> Masker:
    masker = Masker()
    masker.register_settings(settings)
    return masker


def _machine(
    settings: Settings,
    config: Path,
    wanted: bool | None,
    *,
    check: bool,
    diff: bool,
    on_task: Callable[[TaskResult], None] | None,
    on_wait: Callable[[str], None],
) -> Checked | None:
    """The check of the machine; its scripts were delivered just now, so it leaves that out."""
    name = checkrun.playbook(settings)
    if wanted is False:
        return None
    why = _left_out(settings, name, wanted)
    if why:
        return Checked(name, "left out", why)
    given = {"wodmail_config": str(config)}
    try:
        rootplays.demand_own_code(settings)
        with rootplays.alone(config, "wod-deliver", waiting=on_wait):
            played = maintenance.play(
                settings, name, check=check, diff=diff, skip_tags=[DELIVER], variables=given, on_task=on_task
            )
    except WodmailError as error:
        return Checked(name, "failed", error.sender, tail=str(getattr(error, "output", ""))[-TAIL_CHARACTERS:])
    return _judged(settings, name, played)


def _judged(settings: Settings, name: str, played: Played) -> Checked:
    """What the check came to, as wod-check judges it; what it mended, or could, is no reason to call a person."""
    found = checkrun.judge(settings, played, check=False)
    changed = sum(task.status == "changed" and checking.LOOK not in task.tags for task in played.tasks)
    stuck = tuple(item for item in found if item.verdict is Verdict.DIFFERS)
    if checking.status(found, played.status) == 1:
        bad = tuple(task for task in played.tasks if task.status in ("failed", "unreachable"))
        items = ", ".join(item.id for item in found if item.verdict is Verdict.FAILED)
        remark = (
            f"items that failed: {items}"
            if not played.status
            else f"ansible-playbook ended with status {played.status}"
        )
        return Checked(name, "failed", remark, changed, bad, stuck, played.text_tail[-TAIL_CHARACTERS:])
    if stuck:
        return Checked(name, "differs", f"only a person can mend {_ids(stuck)}", changed, differs=stuck)
    return Checked(name, "ok", changed=changed)


def _ids(items: tuple[Item, ...]) -> str:
    return ", ".join(item.id for item in items)


def _left_out(settings: Settings, name: str, wanted: bool | None) -> str:
    """Why the check isn't run, "" when it is. The sandbox never changes the machine underneath."""
    own = not (settings.WODANSIBLEDIR / name).is_file() or settings.WODANSIBLEDIR.resolve() == paths.share("ansible")
    if settings.WODSANDBOX and (wanted is None or own):
        return "the sandbox has no machine of its own"
    return "only root can run it" if wanted is None and os.geteuid() != 0 else ""


def _tell(settings: Settings, done: Run) -> str:
    """Mail WODMONITOR what failed, and what only a person can mend."""
    broken = [each for each in done.deliveries if each.outcome is Outcome.FAILED]
    machine = done.playbook if done.playbook is not None and done.playbook.status in ("failed", "differs") else None
    values = {
        "problem": done.problem,
        "failed": broken,
        "counts": counted(done.deliveries),
        "playbook": machine,
        "all_done": not done.failed,
    }
    what = "failed" if done.failed else "done, but something differs"
    subject = f"{settings.WODBEFQDN}: wod-deliver {what}: {', '.join(_what(done, broken, machine))}"
    return notice.tell(settings, NOTICE, subject, values, datetime.now(UTC))


def _what(done: Run, broken: list[Delivery], machine: Checked | None) -> Iterator[str]:
    if done.problem:
        yield "no template was delivered"
    if broken:
        yield f"{len(broken)} template{'s' if len(broken) > 1 else ''}"
    if machine is not None:
        yield machine.name if machine.status == "failed" else _ids(machine.differs)


def counted(deliveries: tuple[Delivery, ...]) -> str:
    """How many of each outcome, as words; "" for none at all."""
    return (
        ", ".join(f"{count} {outcome}" for outcome, count in deliver.counts(deliveries).items()) if deliveries else ""
    )
