"""One look at all students: their accounts and homes, and who else has what is to be theirs. Changes nothing."""

from __future__ import annotations

import contextlib
import grp
import pwd
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wodmail.students import accountfiles, roster
from wodmail.students.housing import Home, Housing
from wodmail.students.report import Row, State
from wodmail.students.roster import Wanted

OFTEN = 100  # students between two words about how far it is


@dataclass
class Survey:
    """One look at everything: accounts and homes by student."""

    accounts: dict[int, roster.Found]
    homes: dict[int, Home]

    def new(self, student: int) -> bool:
        """Whether there is nothing at all of a student."""
        return not self.accounts[student].there and not self.homes[student].there

    def adds(self, student: int) -> bool:
        """Whether only what is missing would be made, and nothing that is there changed."""
        account, home = self.accounts[student], self.homes[student]
        return not (account.there and account.mendable) and not home.mendable

    def state(self, student: int) -> Row:
        """The student's state, and in what it differs."""
        account, home = self.accounts[student], self.homes[student]
        if self.new(student) and not account.wrong:
            return Row(student, State.MISSING, ("no account, no home",))
        mendable = (*(account.mendable if account.there else ("no account",)), *home.mendable)
        if not home.there:
            mendable = (*mendable, "no home")
        if wrong := (*account.wrong, *home.wrong):
            return Row(student, State.WRONG, wrong)
        return Row(student, State.DIFFERS if mendable else State.OK, mendable)


def survey(
    etc: Path, housing: Housing, wants: Sequence[Wanted], advance: Callable[[int, int], None] = lambda *_: None
) -> Survey:
    """Look at everything.

    Args:
        etc: the folder of the files of accounts.
        housing: the homes, opened.
        wants: the accounts as they should be.
        advance: is told how many were looked at, and of how many.

    Raises:
        Failed: the files of accounts can't be read.
    """
    files = accountfiles.read(etc)
    index = roster.index_of(files)
    accounts = {want.student: roster.compare(index, files, want) for want in wants}
    homes: dict[int, Home] = {}
    for count, want in enumerate(wants, 1):
        homes[want.student] = housing.look(want)
        if count % OFTEN == 0 or count == len(wants):
            advance(count, len(wants))
    return Survey(accounts, homes)


def elsewhere(etc: Path, wants: Iterable[Wanted]) -> dict[int, str]:
    """Accounts that can't be made: their name, uid or gid is taken, though the files know nothing of it (LDAP, say).

    Args:
        etc: the folder of the files of accounts; the system's own.
        wants: accounts that passwd lacks.

    Returns:
        Who has it, in words, by student.
    """
    groups = roster.index_of(accountfiles.read(etc)).groups
    found: dict[int, str] = {}
    for want in wants:
        for other in _owners(want, own_group=want.name in groups):
            words = f"{other}, of whom {etc} knows nothing (LDAP?), has its name, uid {want.uid} or gid {want.gid}"
            found[want.student] = words
    return found


def _owners(want: Wanted, *, own_group: bool) -> set[str]:
    """Who has the name, uid or gid of an account that passwd lacks, from wherever nsswitch.conf lets the system look.

    Args:
        want: the account.
        own_group: whether its group is there.
    """
    found = set()
    with contextlib.suppress(KeyError):
        found.add(pwd.getpwnam(want.name).pw_name)
    with contextlib.suppress(KeyError):
        found.add(pwd.getpwuid(want.uid).pw_name)
    with contextlib.suppress(KeyError):
        found |= {grp.getgrgid(want.gid).gr_name} - ({want.name} if own_group else set())
    return found
