"""Students' accounts and their hub users together: `wodmail students`, and what the check of a backend calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from wodmail.errors import WodmailError
from wodmail.hubroster import HubRoster
from wodmail.schema import Settings
from wodmail.students.bulk import ETC, Advance, Against, Bulk
from wodmail.students.report import BAD, Report, State

NO_HUB_USER = "no hub user"
SERVER = "its hub server runs"
HUB_REMOVED = "hub user removed"
ANEW = "would be removed and made anew (CLEAN)"
KEPT = (State.IN_USE, *BAD)


class Upkeep:
    """All students of a backend.

    Args:
        settings: the configuration.
        hub: whether JupyterHub's users are seen to, when a hub is configured.
        etc: where the files of accounts are.
        advance: is told how far it is.

    Raises:
        ConfigError: see `Bulk`.
        Failed: the hub's token or certificates can't be used.
    """

    def __init__(
        self, settings: Settings, *, hub: bool = True, etc: Path = ETC, advance: Advance = lambda *_: None
    ) -> None:
        self._clean = settings.CLEAN
        self._bulk = Bulk(settings, etc=etc, advance=advance)
        self._hub = HubRoster(settings) if hub and settings.WODBEAPIURL else None
        self._advance = advance

    def close(self) -> None:
        """Give the connections to the hub back."""
        if self._hub is not None:
            self._hub.close()

    def status(self, students: Sequence[int]) -> Report:
        """What there is of students; changes nothing. With CLEAN what `ensure` would make anew differs.

        Raises:
            WodmailError: it can't be found out.
        """
        report = self._bulk.status(students)
        if self._clean:
            with self._trouble(report):
                self._tell_anew(report, students)
        with self._trouble(report):
            for student in self._without_hub_user(report, students):
                report.add(student, State.DIFFERS, NO_HUB_USER)
        return report

    def ensure(self, students: Sequence[int]) -> Report:
        """Make what is missing and mend what differs; with CLEAN everything is removed first.

        Raises:
            WodmailError: nothing, or nothing more, can be done; what was done stays done.
        """
        removed = self.remove(students) if self._clean else Report()
        report = self._bulk.ensure(students)
        for student, row in removed.rows.items():
            if row.state in KEPT and report.rows[student].state is State.OK:
                report.rows[student] = row
        with self._trouble(report):
            todo = set(self._without_hub_user(report, students)).intersection(
                report.students(State.OK, State.MADE, State.REPAIRED)
            )
            failed = self._hub.make(todo, self._counter("hub users made", len(todo))) if self._hub else {}
            for student in sorted(todo):
                if student in failed:
                    report.add(student, State.FAILED, failed[student])
                else:
                    report.add(student, State.REPAIRED, NO_HUB_USER)
        return report

    def remove(self, students: Sequence[int], *, force: bool = False) -> Report:
        """Remove hub users, accounts and homes, but for seats in use.

        Args:
            students: their numbers.
            force: also those that the registry calls taken, and those whose processes run: these are ended.

        Raises:
            WodmailError: nothing, or nothing more, can be done; what was done stays done.
        """

        def from_hub(lot: list[int]) -> Against:
            return self._from_hub(lot, force=force)

        report = self._bulk.remove(students, force=force, before=from_hub)
        alone = report.students(State.OK)  # somebody may have removed their accounts by other means
        if self._hub is not None and alone:
            with self._trouble(report):
                known = self._hub.users()
                against = self._from_hub(alone, force=force)
                for student in sorted(known.keys() & alone):
                    state, words = against.get(student, (State.REMOVED, HUB_REMOVED))
                    report.add(student, state, words)
        return report

    def _tell_anew(self, report: Report, students: Sequence[int]) -> None:
        found = self._bulk.removable(students)
        # One reason, such as an API-DB that is away, is told once.
        report.trouble += dict.fromkeys(words for row in found.rows.values() if row.state in BAD for words in row.words)
        known = self._hub.users() if self._hub is not None else {}
        for student in found.students(State.DIFFERS):
            if not known.get(student) and report.rows[student].state in (State.OK, State.DIFFERS):
                report.add(student, State.DIFFERS, ANEW)

    def _from_hub(self, students: Sequence[int], *, force: bool) -> Against:
        """Remove hub users with their servers before the accounts; gives those that must be left, and why."""
        if self._hub is None or not students:
            return {}
        known = self._hub.users()
        running = {student for student in students if known.get(student) and not force}
        todo = [student for student in students if student in known and student not in running]
        failed = self._hub.remove(todo, self._counter("hub users removed", len(todo)))
        against: Against = dict.fromkeys(running, (State.IN_USE, SERVER))
        return against | {student: (State.FAILED, words) for student, words in failed.items()}

    def _without_hub_user(self, report: Report, students: Sequence[int]) -> list[int]:
        if self._hub is None:
            return []
        known = self._hub.users()
        return [
            student for student in students if student not in known and report.rows[student].state is not State.WRONG
        ]

    @contextlib.contextmanager
    def _trouble(self, report: Report) -> Iterator[None]:
        """A hub that can't be reached doesn't hide what came of the accounts."""
        try:
            yield
        except WodmailError as error:
            report.trouble.append(error.sender)

    def _counter(self, what: str, of: int) -> Counter:
        return Counter(self._advance, what, of)


class Counter:
    """Adds up what is told in parts.

    Args:
        advance: is told the sum.
        what: is done.
        of: how many there are.
    """

    def __init__(self, advance: Advance, what: str, of: int) -> None:
        self._advance, self._what, self._of, self._done = advance, what, of, 0

    def __call__(self, more: int) -> None:
        """So many more are done."""
        self._done += more
        self._advance(self._what, self._done, self._of)
