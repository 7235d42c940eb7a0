"""What the students' accounts should be, what they are, and the lines that make the one of the other. No I/O.

A student's account is `student<N>` with uid UIDBASE + N, a group of the same name with gid GIDBASE + N, home
WODSTUDDIR/student<N>, bash, and no password until a CREATE sets one (docs/students.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wodmail.errors import Refused
from wodmail.schema import Settings
from wodmail.students.accountfiles import Files, Table

SHELL = "/bin/bash"
LOCKED = "!*"  # no password fits, and unlocking it can't leave none
LOWEST_ID = 1000
NO_IDS = (65534, 65535)  # nobody's, and -1 of old
MAKING = ("gshadow", "group", "shadow", "passwd")
"""The order of writing: an account shows in passwd when all the rest of it is there."""
STRIKING = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
"""And it is gone from there first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A student's account as it should be."""

    student: int
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of an account.

    Args:
        there: whether there is a line of it in passwd.
        mendable: what differs and can be mended in the files, in words.
        wrong: what differs and an operator has to see to, in words that say what to do.
    """

    there: bool
    mendable: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass
class Index:
    """The files of accounts by names and ids.

    Args:
        users: lines of passwd by name; `groups` those of group.
        uids: names of users by uid; `gids` those of groups by gid.
        shadow: a name's line and where it is; `gshadow` the same.
    """

    users: dict[str, list[tuple[int, list[str]]]] = field(default_factory=dict)
    groups: dict[str, list[tuple[int, list[str]]]] = field(default_factory=dict)
    uids: dict[int, list[str]] = field(default_factory=dict)
    gids: dict[int, list[str]] = field(default_factory=dict)
    shadow: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    gshadow: dict[str, tuple[int, list[str]]] = field(default_factory=dict)


def wanted(settings: Settings, student: int) -> Wanted:
    """What a student's account should be.

    Args:
        settings: UIDBASE, GIDBASE and WODSTUDDIR are used.
        student: the student's number.
    """
    name = f"student{student}"
    home = f"{str(settings.WODSTUDDIR).rstrip('/')}/{name}"
    return Wanted(student, name, settings.UIDBASE + student, settings.GIDBASE + student, home)


def numbers(settings: Settings, text: str | None, *, beyond: bool = False) -> list[int]:
    """The students that a text like 121-140 or 121 names; all of this backend without one.

    Args:
        settings: WODUSERMIN and WODUSERMAX are used.
        text: the text.
        beyond: whether they may lie outside WODUSERMIN to WODUSERMAX.

    Raises:
        Refused: it names none, or other students than this backend's.
    """
    first, last = settings.WODUSERMIN, settings.WODUSERMAX
    if text is None:
        return list(range(first, last + 1))
    low, _, high = text.partition("-")
    high = high if "-" in text else low
    if not all(part.isascii() and part.isdecimal() and len(part) < 8 for part in (low, high)) or int(low) > int(high):
        raise Refused(f"{text!r} names no students; write 121 or 121-140.")
    if int(low) < 1 or not (beyond or first <= int(low) <= int(high) <= last):
        raise Refused(f"This backend has students {first} to {last} (WODUSERMIN, WODUSERMAX), not {text}.")
    return list(range(int(low), int(high) + 1))


def index_of(files: Files) -> Index:
    """The files by names and ids; lines that are no entries are passed over."""
    index = Index()
    for table, named, numbered in (("passwd", index.users, index.uids), ("group", index.groups, index.gids)):
        for place, fields in files.tables[table].entries():
            named.setdefault(fields[0], []).append((place, fields))
            if len(fields) > 2 and fields[2].isascii() and fields[2].isdecimal():
                numbered.setdefault(int(fields[2]), []).append(fields[0])
    for table, places in (("shadow", index.shadow), ("gshadow", index.gshadow)):
        if table in files.tables:
            places.update({fields[0]: (place, fields) for place, fields in files.tables[table].entries()})
    return index


def compare(index: Index, files: Files, want: Wanted) -> Found:
    """How an account differs from what it should be.

    Args:
        index: of the files.
        files: the files; shadow and gshadow count where the system has them.
        want: the account as it should be.
    """
    wrong = [*_ids(index, want)]
    users, groups = index.users.get(want.name, []), index.groups.get(want.name, [])
    mendable = [*_group(groups, index, files, want)]
    for kind, lines in (("passwd", users), ("group", groups)):
        if len(lines) > 1:
            wrong.append(f"there are {len(lines)} lines {want.name} in {kind}; leave one (vipw)")
        elif lines and len(lines[0][1]) != {"passwd": 7, "group": 4}[kind]:
            wrong.append(f"the line {want.name} in {kind} is broken; mend it (vipw)")
    if not users:
        return Found(False, tuple(mendable), tuple(wrong))
    if not wrong:
        mark, uid, gid, home, shell = (users[0][1][field] for field in (1, 2, 3, 5, 6))
        if uid != str(want.uid):
            words = f"uid {uid}, must be {want.uid}; its files belong to {uid}"
            wrong.append(f"{words}: take the account and its home away by hand, then ensure")
        pairs = (("gid", gid, str(want.gid)), ("home", home, want.home), ("shell", shell, SHELL))
        mendable += [f"{what} {is_ or 'none'}, must be {must}" for what, is_, must in pairs if is_ != must]
        if "shadow" in files.tables:
            if mark != "x":
                mendable.append("its password is looked for in passwd, not in shadow")
            if _open(index, want.name):
                mendable.append("no line in shadow, or one that lets in without a password")
    return Found(True, tuple(mendable), tuple(wrong))


def _ids(index: Index, want: Wanted) -> Iterable[str]:
    for kind, number, names in (("uid", want.uid, index.uids), ("gid", want.gid, index.gids)):
        others = sorted(set(names.get(number, [])) - {want.name})
        if number < LOWEST_ID or number in NO_IDS:
            yield f"{kind} {number} is none for a student; change {kind.upper()}BASE"
        if others:
            base = "UIDBASE" if kind == "uid" else "GIDBASE"
            yield f"{kind} {number} belongs to {', '.join(others)}; change {base} or the id of {others[0]}"


def _group(groups: list[tuple[int, list[str]]], index: Index, files: Files, want: Wanted) -> Iterable[str]:
    if not groups:
        yield "no group"
    elif len(groups[0][1]) == 4 and groups[0][1][2] != str(want.gid):
        yield f"its group has gid {groups[0][1][2]}, must be {want.gid}"
    if groups and "gshadow" in files.tables and want.name not in index.gshadow:
        yield "no line in gshadow"


def make(files: Files, wants: Iterable[Wanted], today: int) -> dict[int, tuple[bool, tuple[str, ...]]]:
    """Change the files so that accounts are what they should be; those that `compare` finds wrong are passed over.

    Args:
        files: as read; changed.
        wants: the accounts.
        today: days since 1970, for shadow.

    Returns:
        By student: whether it is new, and what was mended.
    """
    index = index_of(files)
    done: dict[int, tuple[bool, tuple[str, ...]]] = {}
    for want in wants:
        found = compare(index, files, want)
        if found.wrong or (found.there and not found.mendable):
            continue
        _put(
            files.tables["group"], index.groups.get(want.name), [want.name, "x", str(want.gid), ""], {2: str(want.gid)}
        )
        fields = [want.name, "x", str(want.uid), str(want.gid), "", want.home, SHELL]
        must = {1: "x"} if "shadow" in files.tables else {}
        _put(files.tables["passwd"], index.users.get(want.name), fields, must | {3: fields[3], 5: want.home, 6: SHELL})
        if "gshadow" in files.tables and want.name not in index.gshadow:
            files.tables["gshadow"].put(None, [want.name, "!", "", ""])
        if "shadow" in files.tables and (not found.there or _open(index, want.name)):
            # A line that somebody's account left behind holds a password that must not count again.
            line = [want.name, LOCKED, str(today), *files.aging, "", "", ""]
            files.tables["shadow"].put(index.shadow.get(want.name, (None,))[0], line)
        done[want.student] = (not found.there, found.mendable)
    return done


def _open(index: Index, name: str) -> bool:
    """Whether no line in shadow says that a password is needed."""
    return not (name in index.shadow and index.shadow[name][1][1:2] not in ([], [""]))


def _put(table: Table, there: list[tuple[int, list[str]]] | None, line: list[str], must: Mapping[int, str]) -> None:
    """Put a new line, or change those fields of the line that is there."""
    if not there:
        table.put(None, line)
        return
    place, fields = there[0]
    changed = [must.get(number, text) for number, text in enumerate(fields)]
    if changed != fields:
        table.put(place, changed)


def not_ours(index: Index, want: Wanted) -> str:
    """Why what there is of a student must not be removed: it is somebody else's; empty when it is not.

    Args:
        index: of the files.
        want: the account as it should be.
    """
    others = sorted(set(index.uids.get(want.uid, [])) - {want.name})
    if others:
        return f"uid {want.uid} belongs to {', '.join(others)}: it may not be ours; see to it by hand"
    for _, fields in index.users.get(want.name, []):
        if fields[2:3] != [str(want.uid)]:
            return f"uid {fields[2] if len(fields) > 2 else '?'}, not {want.uid}: not one of ours; see to it by hand"
    return ""


def named(files: Files) -> set[str]:
    """Every name that has a line in any of the files."""
    return {fields[0] for table in files.tables.values() for _, fields in table.entries()}


def strike(files: Files, wants: Iterable[Wanted]) -> None:
    """Take accounts out of the files: their lines, their groups, and their names among the members of others.

    A group that is the first one of somebody else's account stays.

    Args:
        files: as read; changed.
        wants: the accounts.
    """
    names = {want.name for want in wants}
    first = {fields[3] for _, fields in files.tables["passwd"].entries() if fields[0] not in names and len(fields) > 3}
    groups = files.tables["group"]
    kept = {fields[0] for _, fields in groups.entries() if fields[0] in names and fields[2:3] and fields[2] in first}
    for name, table in files.tables.items():
        gone = names - kept if name in ("group", "gshadow") else names
        table.strike({place for place, fields in table.entries() if fields[0] in gone})
    for name, members in (("group", (3,)), ("gshadow", (2, 3))):
        if name in files.tables:
            _leave(files.tables[name], members, names)


def _leave(table: Table, members: tuple[int, ...], names: set[str]) -> None:
    for place, fields in list(table.entries()):
        changed = list(fields)
        for number in members:
            if number < len(fields) and names.intersection(fields[number].split(",")):
                changed[number] = ",".join(each for each in fields[number].split(",") if each not in names)
        if changed != fields:
            table.put(place, changed)
