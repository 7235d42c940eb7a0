"""Updates of the distribution's packages, by apt or dnf, without a question and without a fight over their locks.

Security updates alone unless more is asked for. What apt calls security is judged by where a new version comes from:
an archive whose name ends in -security (Debian, Ubuntu); dnf knows its advisories (dnf(8), --security).

apt-get install would mark what it is told to update as wanted by a person, and autoremove would never remove an old
kernel again. So apt-get always upgrades, and what is not to be updated is pinned to the version that is there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wodmail.errors import Failed, Temporary

Scope = Literal["security", "all"]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCK_PAUSE = 5.0
TAIL = 4000
DNF_UPDATES = 100  # what `dnf check-update` exits with when there are any
REBOOT_MARK = Path("run/reboot-required")
PREFERENCES = Path("etc/apt/preferences.d")
PIN = "Package: {update.name}\nPin: version {update.old}\nPin-Priority: 32767\n\n"
# A new kernel is a new package, so new ones are let in; nothing may be removed for them.
_UPGRADE = ("--no-remove", "--with-new-pkgs", "upgrade")
# When these are replaced, what runs goes on with the old ones until the machine is restarted.
WANTS_REBOOT = re.compile(
    r"(linux-image-.*|kernel(-core)?|libc6|glibc|systemd|dbus(-broker)?|openssl-libs|linux-firmware)"
)
_INST = re.compile(
    r"^Inst (?P<name>\S+)(?: \[(?P<old>[^\]]*)\])? \((?P<new>\S+) (?P<origins>.*?) \[[^\]]*\]\)", re.MULTILINE
)
_SECURITY = re.compile(r"-security(?:[,\s]|$)|Security:", re.IGNORECASE)
_LOCKED = re.compile(
    r"could not get lock|unable to (?:acquire|lock)|is locked by another|waiting for process", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Update:
    """One package: its name, the version that is there (empty when dnf doesn't say) and the new one."""

    name: str
    old: str
    new: str


@dataclass(slots=True)
class Report:
    """What became of a run.

    Args:
        tool: apt or dnf.
        scope: security or all.
        updates: what was to be updated; with security updates also what they can't do without.
        installed: whether it was.
        reboot: why the machine should be restarted, empty when it need not.
        held: newer versions that stay out.
    """

    tool: str
    scope: Scope
    updates: list[Update] = field(default_factory=list)
    installed: bool = False
    reboot: str = ""
    held: int = 0


class Updater:
    """Updates one machine.

    Args:
        lock_wait: how long another program may hold the packages' lock, seconds, 0 or more.
        root: the folder that is /.
        path: where programs are looked for.
        environment: of the process; only its proxies are handed on.
        on_line: called with what is done next.
    """

    def __init__(
        self,
        *,
        lock_wait: float = 600.0,
        root: Path = Path("/"),
        path: str = PATH,
        environment: Mapping[str, str] = os.environ,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._lock_wait, self._root, self._on_line = lock_wait, root, on_line
        found = {name: program for name in ("apt-get", "dnf") if (program := shutil.which(name, path=path))}
        if not found:
            raise Failed("There is neither apt-get nor dnf here; packages can't be updated.", f"PATH {path}")
        self.tool = next(iter(found))
        self._program = found[self.tool]
        proxies = {name: value for name, value in environment.items() if name.lower().endswith("_proxy")}
        self._environment = {
            **proxies,
            "PATH": path,
            "HOME": "/root",
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
            "DEBCONF_NONINTERACTIVE_SEEN": "true",
            "NEEDRESTART_SUSPEND": "1",  # it would restart services under sessions; the report tells when to restart
        }

    def run(self, scope: Scope, *, dry_run: bool = False) -> Report:
        """Look for updates and install them.

        Args:
            scope: security updates, or all.
            dry_run: install nothing.

        Raises:
            Temporary: another program holds the packages' lock for too long.
            Failed: the tool failed; the tail of what it printed.
        """
        report = Report(self.tool, scope)
        look, install = (self._apt, self._apt_install) if self.tool == "apt-get" else (self._dnf, self._dnf_install)
        report.updates, kept = look(scope)
        report.held = len(kept)
        if report.updates and not dry_run:
            self._on_line(f"installing {len(report.updates)} update(s)")
            install(scope, report.updates, kept)
            report.installed = True
        report.reboot = self._reboot(report)
        return report

    # -- apt --------------------------------------------------------------------------------------------------

    def _apt(self, scope: Scope) -> tuple[list[Update], list[Update]]:
        """What to update, and what to keep as it is."""
        self._on_line("apt-get update")
        self._call("update", "-qq")
        found = parse_apt(self._call("--simulate", *_UPGRADE))
        secure = [update for update, is_secure in found if is_secure]
        if scope == "all" or not secure:
            return ([update for update, _ in found], []) if scope == "all" else ([], [update for update, _ in found])
        # They bring along what they depend on, whatever archive it is from: a pin on that would keep them out.
        wanted = (f"{update.name}={update.new}" for update in secure)
        along = {update.name for update, _ in parse_apt(self._call("--simulate", "--no-remove", "install", *wanted))}
        with self._pinned([update for update, _ in found if update.name not in along]) as pins:
            updates = [update for update, _ in parse_apt(self._call("--simulate", *pins, *_UPGRADE))]
        names = {update.name for update in updates}
        return updates, [update for update, _ in found if update.name not in names]

    def _apt_install(self, _scope: Scope, _updates: Sequence[Update], kept: Sequence[Update]) -> None:
        quiet = ["-qq", "--yes", "-o", "Dpkg::Options::=--force-confdef"]
        quiet += ["-o", "Dpkg::Options::=--force-confold", "-o", f"DPkg::Lock::Timeout={int(self._lock_wait)}"]
        with self._pinned(kept) as pins:
            self._call(*quiet, *pins, *_UPGRADE)

    @contextmanager
    def _pinned(self, kept: Sequence[Update]) -> Iterator[list[str]]:
        """Options by which these stay at the version that is there; the machine's own preferences hold, too.

        Nothing of the machine is changed for it, so that nothing is left behind when a run is cut off. Ours is the
        highest priority that there is, and of several pins of a version the first one counts (apt_preferences(5)).
        """
        with tempfile.TemporaryDirectory(prefix="wod-upd-") as name:
            folder = Path(name)
            pins = "".join(PIN.format(update=update) for update in kept if update.old)
            (folder / "0-wod-upd.pref").write_text(pins, encoding="utf-8")
            for own in (self._root / PREFERENCES).glob("*"):
                if own.is_file():
                    shutil.copyfile(own, folder / f"1-{own.name}")
            yield ["-o", f"Dir::Etc::PreferencesParts={folder}"] if pins else []

    # -- dnf --------------------------------------------------------------------------------------------------

    def _dnf(self, scope: Scope) -> tuple[list[Update], list[Update]]:
        self._on_line("dnf check-update")
        everything = parse_dnf(self._call("--quiet", "check-update", "--refresh", fine=(0, DNF_UPDATES)))
        if scope == "all":
            return everything, []
        secure = parse_dnf(self._call("--quiet", "check-update", "--security", fine=(0, DNF_UPDATES)))
        return secure, [update for update in everything if update not in secure]

    def _dnf_install(self, scope: Scope, updates: Sequence[Update], _kept: Sequence[Update]) -> None:
        security = ["--security"] if scope == "security" else []
        self._call("--quiet", "--assumeyes", "upgrade", *security, *(update.name for update in updates))

    # -- both -------------------------------------------------------------------------------------------------

    def _call(self, *words: str, fine: Sequence[int] = (0,)) -> str:
        """Run the tool; while another program has its lock, wait and try again."""
        end = time.monotonic() + self._lock_wait
        while True:
            done = subprocess.run(
                [self._program, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd="/",
                check=False,
            )
            text = done.stdout.decode("utf-8", "replace")
            if done.returncode in fine:
                return text
            if not _LOCKED.search(text):
                words_ = f"{self.tool} {' '.join(words[:3])} … failed with status {done.returncode}"
                raise Failed(f"{self.tool} failed. See its words below.", words_, output=text[-TAIL:])
            if time.monotonic() + LOCK_PAUSE > end:
                holder = f"Another program has held the packages' lock for {self._lock_wait:.0f} s. Try again later."
                raise Temporary(holder, text.strip()[-500:])
            self._on_line("another program holds the packages' lock; waiting")
            time.sleep(LOCK_PAUSE)

    def _reboot(self, report: Report) -> str:
        """Why a restart is due: the distribution says so, or what was replaced runs on in its old version."""
        mark = self._root / REBOOT_MARK
        if mark.exists():
            names = mark.with_name("reboot-required.pkgs")
            who = sorted(set(names.read_text(encoding="utf-8").split())) if names.exists() else []
            return f"{mark} says so" + (f" for {', '.join(who)}" if who else "")
        if self.tool == "dnf" and (program := shutil.which("needs-restarting", path=self._environment["PATH"])):
            asked = subprocess.run([program, "-r"], capture_output=True, env=self._environment, check=False)
            if asked.returncode == 1:
                return "needs-restarting says so"
        core = sorted(update.name for update in report.updates if WANTS_REBOOT.fullmatch(update.name))
        return f"updated: {', '.join(core)}" if core and report.installed else ""


def parse_apt(text: str) -> list[tuple[Update, bool]]:
    """The updates that `apt-get --simulate` lists, and whether each comes from a security archive (pure)."""
    return [
        (Update(found["name"], found["old"] or "", found["new"]), _SECURITY.search(found["origins"]) is not None)
        for found in _INST.finditer(text)
    ]


def parse_dnf(text: str) -> list[Update]:
    """The updates that `dnf check-update` lists, up to the list of what they would make obsolete (pure)."""
    found = []
    for line in text.split("\nObsoleting Packages", 1)[0].splitlines():
        fields = line.split()
        if len(fields) == 3 and "." in fields[0] and fields[1][:1].isdigit():
            found.append(Update(fields[0].rpartition(".")[0], "", fields[1]))
    return found
