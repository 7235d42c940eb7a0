"""All students of a backend at once: what there is of them, made and mended, removed.

Several hundred at a time: their seats are seen to be free and kept from the root helper, the files of accounts are
written once for all of them, then their homes are seen to. What is done is found out from what is there, so a run that
was interrupted is completed by the next (docs/students.md).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from wodmail.errors import ConfigError, Problem, WodmailError
from wodmail.schema import Settings
from wodmail.students import accountfiles, base, homes, occupancy, roster, survey
from wodmail.students.housing import Housing
from wodmail.students.report import Report, State
from wodmail.students.rootlimits import Account, HelperError, guard_of
from wodmail.students.rootprocesses import end_processes
from wodmail.students.roster import Wanted
from wodmail.students.survey import Survey

ETC = Path("/etc")
LOT = 400  # students at a time; each costs a descriptor, of which a process has 1024 as a rule
REMOVE_LOT = 100  # the root helper waits meanwhile, also while the hub removes its users, and not for ever
DAY = 86400
_CACHES = (("nscd", "-i", "passwd"), ("nscd", "-i", "group"), ("sss_cache", "-U", "-G"))

Advance = Callable[[str, int, int], None]
"""Called with what is done, how many are through, and of how many."""
Against = dict[int, tuple[State, str]]
"""What stands against touching students: the state that they are told in, and why."""


class Bulk:
    """The students' accounts and homes on this machine.

    Args:
        settings: the configuration.
        etc: where the files of accounts are.
        advance: is told how far it is.

    Raises:
        ConfigError: the configuration has no such accounts, WODUSER is missing, or the caller is not root.
    """

    def __init__(self, settings: Settings, *, etc: Path = ETC, advance: Advance = lambda *_: None) -> None:
        if settings.WODSANDBOX:
            raise ConfigError([Problem("WODSANDBOX", "students of a sandbox are plain folders, made when asked for")])
        if os.geteuid() != 0:
            raise ConfigError([Problem("wodmail students", "only root can see to accounts; call it with sudo")])
        try:
            user = pwd.getpwnam(settings.WODUSER).pw_uid
        except KeyError:
            words = f"there is no user {settings.WODUSER}; make it first"
            raise ConfigError([Problem("WODUSER", words)]) from None
        self._settings = settings
        self._etc = etc
        self._advance = advance
        self._housing = Housing(settings.WODSTUDDIR, user, base.skel(settings))
        self._backup = True

    # -- status -----------------------------------------------------------------------------------------------

    def status(self, students: Sequence[int]) -> Report:
        """What there is of students; changes nothing.

        Args:
            students: their numbers.

        Raises:
            WodmailError: it can't be found out.
        """
        with self._housing.opened(write=False):
            look = self._look(self._wanted(students))
        return Report({student: look.state(student) for student in students})

    def _wanted(self, students: Sequence[int]) -> list[Wanted]:
        return [roster.wanted(self._settings, student) for student in students]

    def _look(self, wants: Sequence[Wanted]) -> Survey:
        return survey.survey(self._etc, self._housing, wants, partial(self._advance, "looked at"))

    # -- ensure -----------------------------------------------------------------------------------------------

    def ensure(self, students: Sequence[int]) -> Report:
        """Make what is missing and mend what differs, but for seats in use.

        Args:
            students: their numbers.

        Raises:
            WodmailError: nothing, or nothing more, can be done; what was done stays done.
        """
        wants = {want.student: want for want in self._wanted(students)}
        with self._housing.opened(write=True):
            look = self._look(list(wants.values()))
            report = Report({student: look.state(student) for student in students})
            todo = report.students(State.MISSING, State.DIFFERS)
            self._elsewhere(report, [wants[student] for student in todo if not look.accounts[student].there])
            todo = report.students(State.MISSING, State.DIFFERS)
            for lot in _lots(todo):
                with self._free(report, [wants[student] for student in lot], look.adds) as free:
                    self._ensure(report, free, look)
                self._advance("accounts and homes made", todo.index(lot[-1]) + 1, len(todo))
        return report

    def _ensure(self, report: Report, free: Sequence[Wanted], look: Survey) -> None:
        with accountfiles.locked(self._etc):
            files = accountfiles.read(self._etc)
            roster.make(files, free, int(time.time()) // DAY)
            self._write(files, roster.MAKING)
            index = roster.index_of(accountfiles.read(self._etc))
            left = {want.student: roster.compare(index, files, want) for want in free}
        for want in free:
            found = left[want.student]
            if found.wrong or not found.there:  # came in between
                report.set(want.student, State.WRONG, *found.wrong)
                continue
            new = look.new(want.student)
            try:
                wrong = self._house(want)
            except OSError as error:
                report.set(want.student, State.FAILED, f"{want.home}: {error.strerror}")
                continue
            if wrong:
                report.set(want.student, State.WRONG, *wrong)
            elif new:
                report.set(want.student, State.MADE)
            else:
                report.set(want.student, State.REPAIRED, *look.state(want.student).words)

    def _house(self, want: Wanted) -> tuple[str, ...]:
        """Make or mend a home; gives what is wrong with it and was left."""
        home = self._housing.look(want)
        if home.wrong:
            return home.wrong
        if not home.there:
            self._housing.make(want)
        elif home.mendable:
            self._housing.mend(want)
        return ()

    def _elsewhere(self, report: Report, wants: Iterable[Wanted]) -> None:
        if self._etc == ETC:
            for student, words in survey.elsewhere(self._etc, wants).items():
                report.set(student, State.WRONG, words)

    # -- remove -----------------------------------------------------------------------------------------------

    def remove(
        self,
        students: Sequence[int],
        *,
        force: bool = False,
        before: Callable[[list[int]], Against] = lambda _: {},
    ) -> Report:
        """Remove accounts with their homes, but for seats in use.

        Args:
            students: their numbers; they may lie outside WODUSERMIN to WODUSERMAX.
            force: end the students' processes and don't ask the registry; jobs at work stay a reason against it.
            before: is called with students whose seats are free and held, before anything of theirs is removed; gives
                reasons against it, by student.

        Raises:
            WodmailError: nothing, or nothing more, can be done; what was done stays done.
        """
        wants = {want.student: want for want in self._wanted(students)}
        report = Report()
        with self._housing.opened(write=True):
            todo = self._removable(report, list(wants.values()))
            for lot in _lots(todo, REMOVE_LOT):
                with self._free(report, [wants[student] for student in lot], lambda _: False, force=force) as free:
                    self._remove(report, free, before, force=force)
                self._advance("removed", todo.index(lot[-1]) + 1, len(todo))
        report.rows = {student: report.rows[student] for student in students}
        return report

    def removable(self, students: Sequence[int]) -> Report:
        """What `remove` would do, without doing it: DIFFERS where something would be removed, OK where nothing is.

        The root helper's locks are not asked: it holds them for moments.

        Args:
            students: their numbers.

        Raises:
            WodmailError: it can't be found out.
        """
        wants = {want.student: want for want in self._wanted(students)}
        report = Report()
        with self._housing.opened(write=False):
            todo = [wants[student] for student in self._removable(report, list(wants.values()))]
            for student, (state, words) in self._busy(todo, todo, force=False).items():
                report.set(student, state, words)
        return report

    def _removable(self, report: Report, wants: Sequence[Wanted]) -> list[int]:
        """The students of whom there is something, and nothing against removing it."""
        files = accountfiles.read(self._etc)
        index = roster.index_of(files)
        left = roster.named(files)
        mounts = self._housing.mounts(wants)
        for want in wants:
            home = self._housing.look(want)
            if strange := roster.not_ours(index, want):
                report.set(want.student, State.WRONG, strange)
            elif want.student in mounts:
                report.set(want.student, State.WRONG, f"{mounts[want.student]} is a mount point; unmount it first")
            elif home.there and home.wrong:
                report.set(want.student, State.WRONG, *home.wrong)
            elif home.there or want.name in left:
                report.set(want.student, State.DIFFERS)
            else:
                report.set(want.student, State.OK)
        todo = set(report.students(State.DIFFERS))
        self._elsewhere(report, [want for want in wants if want.student in todo and want.name not in index.users])
        return report.students(State.DIFFERS)

    def _remove(
        self,
        report: Report,
        free: Sequence[Wanted],
        before: Callable[[list[int]], Against],
        *,
        force: bool,
    ) -> None:
        against = before([want.student for want in free])
        for student, (state, words) in against.items():
            report.set(student, state, words)
        todo = [want for want in free if want.student not in against]
        if force:
            todo = [want for want in todo if self._ended(report, want)]
        with accountfiles.locked(self._etc):
            files = accountfiles.read(self._etc)
            roster.strike(files, todo)
            self._write(files, roster.STRIKING)
        # Who came in while the account was still there has the home in use.
        late = occupancy.at_work({want.uid: want.student for want in todo})
        for want in todo:
            if want.student in late:
                report.set(want.student, State.IN_USE, f"{occupancy.WORKING}; the account is removed, the home is left")
                continue
            try:
                self._housing.remove(want)
                report.set(want.student, State.REMOVED)
            except (OSError, homes.NotEmptyError) as error:
                words = f"the account is removed, but not all that was in {want.home}: {error}"
                report.set(want.student, State.FAILED, words)

    def _ended(self, report: Report, want: Wanted) -> bool:
        try:
            account = Account(want.name, want.uid, want.gid, want.home, guard_of(want.student))
            end_processes(account)
        except (HelperError, OSError) as error:
            report.set(want.student, State.FAILED, getattr(error, "cause", str(error)))
            return False
        return True

    # -- both -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _free(
        self, report: Report, wants: Sequence[Wanted], adds: Callable[[int], bool], *, force: bool = False
    ) -> Iterator[list[Wanted]]:
        """Those whose seats are free, kept from the root helper for a while; the others are told as in use.

        Where something missing is only added, jobs and the registry have nothing to say.
        """
        with occupancy.kept_from_helper({want.student: want.name for want in wants}) as held:
            against = self._busy(wants, [want for want in wants if not adds(want.student)], force=force)
            against |= {want.student: (State.IN_USE, occupancy.HELPER) for want in wants if want.student not in held}
            for student, (state, words) in against.items():
                report.set(student, state, words)
            yield [want for want in wants if want.student not in against]

    def _busy(self, wants: Sequence[Wanted], changed: Sequence[Wanted], *, force: bool) -> Against:
        """Those who have processes, and of whom something would be changed while they have a job or a seat."""
        against = self._engaged(changed, force=force)
        working = set() if force else occupancy.at_work({want.uid: want.student for want in wants})
        return against | dict.fromkeys(working, (State.IN_USE, occupancy.WORKING))

    def _engaged(self, wants: Sequence[Wanted], *, force: bool) -> Against:
        """Those for whom a job is unfinished, or whose seat is taken; with `force` the registry isn't heard."""
        if not wants:
            return {}
        try:
            found = occupancy.engaged(self._settings)
        except WodmailError as error:
            words = f"it can't be found out whether its seat is in use: {error.sender}"
            return {want.student: (State.FAILED, words) for want in wants}
        heard = {student: words for student, words in found.items() if not (force and words == occupancy.TAKEN)}
        return {want.student: (State.IN_USE, heard[want.student]) for want in wants if want.student in heard}

    def _write(self, files: accountfiles.Files, order: tuple[str, ...]) -> None:
        if accountfiles.write(self._etc, files, order, backup=self._backup):
            self._backup = False  # the backups hold what was before the whole run
            if self._etc == ETC:
                for program, *arguments in _CACHES:
                    if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
                        subprocess.run([program, *arguments], capture_output=True, check=False)  # may not be running


def _lots(students: Sequence[int], size: int = LOT) -> Iterator[Sequence[int]]:
    for start in range(0, len(students), size):
        yield students[start : start + size]
