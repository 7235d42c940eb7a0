"""Runs one of our playbooks for an operator: check, install, setup (docs/check.md).

Variables come in layers, later ones win: the configuration's names, public group_vars, private group_vars, what the
caller gives. What may hold a secret goes through files of mode 0600 in a folder of mode 0700 that is removed
afterwards, in memory (/run) when root calls; nothing of it is on a command line or in the environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible_runner  # noqa: F401 - whole and first: two threads that import parts of it at once get it half made
from ansible_runner.config.runner import RunnerConfig
from ansible_runner.runner import Runner
from ansible_runner.utils import signal_handler

from wodmail import ansible_run, paths, processes, treetrust, vaultkeys
from wodmail.errors import Failed
from wodmail.logs import Masker
from wodmail.maintenancetasks import TaskResult, read_event
from wodmail.processes import Process
from wodmail.schema import Settings

__all__ = ["Played", "TaskResult", "find", "play", "sweep"]

LOCAL = "127.0.0.1"
MEMORY = Path("/run")
PREFIX = "wodmail-play-"
TAIL_LINES = 60
POLL_SECONDS = 1
GRACE = 2.0
"""Seconds between TERM and KILL for what an ended run has left."""
# Private group_vars win over public ones, wherever the playbook lies.
PRECEDENCE = (
    "all_inventory,groups_inventory,all_plugins_play,groups_plugins_play,all_plugins_inventory,groups_plugins_inventory"
)


@dataclass(frozen=True, slots=True)
class Played:
    """What a run came to.

    Args:
        status: exit status of ansible-playbook: 0 done, 2 a task failed, 4 a host can't be reached, 1 and others: it
            could not begin.
        tasks: every task on every host, in the order they ended.
        text_tail: the last lines that it printed, secrets masked.
    """

    status: int
    tasks: tuple[TaskResult, ...]
    text_tail: str

    @property
    def changed(self) -> int:
        """How many tasks changed something (in check mode: would have)."""
        return sum(task.status == "changed" for task in self.tasks)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is asked of ansible-playbook beside the playbook."""

    check: bool
    diff: bool
    tags: Sequence[str]
    skip_tags: Sequence[str]
    variables: Mapping[str, Any]
    inventory: Path | None
    timeout: float | None
    cancelled: Callable[[], bool] | None


def play(
    settings: Settings,
    playbook: str,
    *,
    check: bool = False,
    diff: bool = False,
    tags: Sequence[str] = (),
    skip_tags: Sequence[str] = (),
    variables: Mapping[str, Any] | None = None,
    inventory: Path | None = None,
    on_task: Callable[[TaskResult], None] | None = None,
    timeout: float | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Played:
    """Run a playbook, on this machine unless an inventory is given.

    Args:
        settings: the configuration; its names are variables.
        playbook: name of a playbook in WODANSIBLEDIR, else in wodmail's own folder; or an absolute path.
        check: change nothing, tell what would be changed.
        diff: keep what differs in each task's `diff`.
        tags: run only tasks with one of these.
        skip_tags: leave out tasks with one of these.
        variables: win over everything else; may hold secrets.
        inventory: run on the hosts of this inventory instead of this machine.
        on_task: called after each task of each host.
        timeout: longest time for the whole run, in seconds.
        cancelled: asked every second whether to end the run; by default SIGINT and SIGTERM end it, in the main thread.

    Raises:
        Failed: there is no such playbook, ansible-playbook can't be started, it took too long or was interrupted.
        ConfigError: root calls, and others can change what it would run (WODTRUSTTREES).
    """
    order = _Order(check, diff, tuple(tags), tuple(skip_tags), dict(variables or {}), inventory, timeout, cancelled)
    file = find(settings, playbook)
    treetrust.demand(settings, [*treetrust.of_play(settings, file), *([inventory] if inventory is not None else [])])
    place = MEMORY if os.geteuid() == 0 and os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    sweep(place)
    try:
        private = Path(tempfile.mkdtemp(prefix=_mark(), dir=place))
    except OSError as error:
        raise Failed("there is no room for a playbook's temporary folder", str(error)) from error
    try:
        return _run(settings, file, order, private, on_task)
    except OSError as error:
        raise Failed(f"the playbook {file.name} could not be started", str(error)) from error
    finally:
        shutil.rmtree(private, ignore_errors=True)


def find(settings: Settings, playbook: str) -> Path:
    """The file of a playbook.

    Args:
        settings: names WODANSIBLEDIR.
        playbook: see `play`; the ending .yml may be left off.

    Raises:
        Failed: it isn't there.
    """
    name = playbook if playbook.endswith((".yml", ".yaml")) else f"{playbook}.yml"
    for folder in (settings.WODANSIBLEDIR, paths.share("ansible")):
        if (folder / name).is_file():
            return folder / name
    raise Failed(f"there is no playbook {name} in {settings.WODANSIBLEDIR}; is WODANSIBLEDIR right?")


def sweep(place: Path) -> None:
    """Remove folders of runs that were killed; those of living processes, and other people's, stay."""
    for path in place.glob(f"{PREFIX}*"):
        pid, start, *_ = [*path.name.removeprefix(PREFIX).split("-"), "", ""]
        living = processes.lookup(int(pid)) if pid.isdigit() else None
        gone = living is None or (start.isdigit() and living.start != int(start))
        if gone and not path.is_symlink() and path.is_dir() and path.stat().st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)


def _mark() -> str:
    own = processes.lookup(os.getpid())
    return f"{PREFIX}{os.getpid()}-{own.start if own else ''}-"


def _run(
    settings: Settings, file: Path, order: _Order, private: Path, on_task: Callable[[TaskResult], None] | None
) -> Played:
    masker = Masker()
    masker.register_settings(settings)
    tasks: list[TaskResult] = []
    lines: list[str] = []
    hidden: set[tuple[str, str]] = set()

    def keep(event: dict[str, Any]) -> bool:
        lines.extend(str(event.get("stdout") or "").splitlines())
        del lines[:-TAIL_LINES]
        task = read_event(event, masker.mask_value, hidden)
        if task is not None:
            tasks.append(task)
            if on_task is not None:
                on_task(task)
        return False  # not into a file as well

    config = _config(settings, file, order, private)
    with _interruptible() as interrupted:
        runner = Runner(config, event_handler=keep, cancel_callback=interrupted)
        runner.run()
    tail = masker.mask("\n".join(lines))
    if runner.timed_out or runner.canceled:
        _end_rest(private)
    if runner.timed_out:
        raise Failed(f"the playbook {file.name} took longer than {order.timeout:g} s and was ended", output=tail)
    if runner.canceled:
        raise Failed(f"the playbook {file.name} was interrupted; call it again to finish its work", output=tail)
    return Played(int(runner.rc), tuple(tasks), tail)


def _end_rest(private: Path) -> None:
    """End what a run that was ended leaves: each of ansible's workers leads a session of its own, out of reach of
    ansible-runner's signal to the group."""
    mark = os.fsencode(private / "home")

    def find() -> set[Process]:
        everyone = processes.table()
        marked = [each for each in everyone if processes.environment_value(each.pid, b"ANSIBLE_HOME") == mark]
        return processes.descendants(everyone, marked)

    processes.end(find, GRACE)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool] | None]:
    """SIGINT and SIGTERM end the playbook in good order; None outside of the main thread, where signals don't come."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    asked = signal_handler()
    try:
        yield asked
    finally:
        for number, handler in before.items() if asked is not None else ():
            signal.signal(number, handler)


def _config(settings: Settings, file: Path, order: _Order, private: Path) -> RunnerConfig:
    """How ansible-runner is to start ansible-playbook."""
    sources, limit = _inventories(settings, order, private)
    given = {"wodmail_config": str(os.environ.get("WOD_CONFIG", "/etc/wod.yml")), **order.variables}
    extra = _write(private / "variables.json", given)
    config = RunnerConfig(str(private), playbook=str(file), inventory=sources, quiet=True, timeout=order.timeout)
    config.prepare()
    arguments = [*config.command[1:-1], "-e", f"@{extra}", *_options(order), *_limited(limit), config.command[-1]]
    config.command = [ansible_run.program(), *arguments]
    config.env = {**_environment(settings, private), **ansible_run.runners_own(config.env)}
    config.cwd = str(private)
    config.suppress_output_file = True
    config.pexpect_timeout = POLL_SECONDS
    return config


def _options(order: _Order) -> list[str]:
    switches = [*(["--check"] if order.check else []), *(["--diff"] if order.diff else [])]
    tags = ["--tags", ",".join(order.tags)] if order.tags else []
    return [*switches, *tags, *(["--skip-tags", ",".join(order.skip_tags)] if order.skip_tags else [])]


def _limited(limit: str) -> list[str]:
    return ["--limit", limit] if limit else []


def _inventories(settings: Settings, order: _Order, private: Path) -> tuple[list[str], str]:
    """Inventories, the lowest layer of variables first, and the host that the run is limited to."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    values: dict[str, Any] = {"all": {"vars": settings.variables()}}
    limit = ""
    if order.inventory is None:
        public = ansible_run.inventories(settings)
        limit = settings.WODBEFQDN if _lists(public, settings.WODBEFQDN) else LOCAL
        values[settings.WODGROUP] = {"hosts": {limit: local}}
    else:
        public = [str(order.inventory)]
    (private / "config").mkdir()
    first = _write(private / "config" / "hosts.json", values)
    return [str(first), *public, *_private_variables(settings, private)], limit


def _private_variables(settings: Settings, private: Path) -> list[str]:
    """An empty inventory beside a link to the private group_vars, so that Ansible finds them, last."""
    folder = settings.WODANSIBLEPRIVDIR / "group_vars" if settings.WODANSIBLEPRIVDIR is not None else None
    if folder is None or not folder.is_dir():
        return []
    (private / "last").mkdir()
    (private / "last" / "group_vars").symlink_to(folder)
    return [str(_write(private / "last" / "hosts.json", {"all": {}}))]


def _lists(inventories: Sequence[str], host: str) -> bool:
    """Whether an inventory file names that host."""
    line = re.compile(rf"^\s*{re.escape(host)}(?=[\s:]|$)", re.MULTILINE)
    files = [Path(name) for name in inventories if Path(name).is_file()]
    return any(line.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)


def _environment(settings: Settings, private: Path) -> dict[str, str]:
    """What ansible-playbook inherits: the process' own names, and ours; no setting of a stranger's."""
    own = paths.share("ansible")
    inherited = {name: os.environ[name] for name in ansible_run.INHERITED if name in os.environ}
    made = {
        "ANSIBLE_CONFIG": str(own / "ansible.cfg"),
        "ANSIBLE_HOME": str(private / "home"),
        "ANSIBLE_LOCAL_TEMP": str(private / "tmp"),
        "ANSIBLE_REMOTE_TEMP": "~/.ansible/tmp",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PRECEDENCE": PRECEDENCE,
        "ANSIBLE_VARS_ENABLED": "host_group_vars",
        "PYTHONUTF8": "1",
    }
    if "HOME" in inherited:
        for kind in ("COLLECTIONS", "ROLES"):
            below = f"ansible/{kind.lower()}"
            made[f"ANSIBLE_{kind}_PATH"] = f"{inherited['HOME']}/.{below}:/usr/share/{below}:/etc/{below}"
    vaults = [_write(private / f"vault{at}", word) for at, word in enumerate(vaultkeys.known(settings))]
    if vaults:
        made["ANSIBLE_VAULT_IDENTITY_LIST"] = ",".join(f"default@{file}" for file in vaults)
    return {"PATH": os.defpath, **inherited, **made}


def _write(file: Path, content: Mapping[str, Any] | str) -> Path:
    """A new file that only we can read."""
    text = content if isinstance(content, str) else json.dumps(content)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    return file
