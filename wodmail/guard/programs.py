"""What a process really is: by its program's file, never by what it calls itself.

A program is *installed* when its file and all folders above it are root's and no student can write there. The
allow-list speaks of installed programs alone; a copy that a student made, under whatever name, is none.
"""

from __future__ import annotations

import fnmatch
import grp
import os
import re
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from wodmail.guard.policy import Allowed, Policy
from wodmail.guard.watch import ExeFile, Seen

_DELETED = " (deleted)"
_KEPT_SECONDS = 300.0
_SEARCHED = 8192  # characters of a command line that patterns are searched in


def path_pattern(pattern: str) -> str:
    """A pattern of paths as a regular expression (pure): ** is anything, * and ? stay within one name."""
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(words.get(part, re.escape(part)) for part in parts)


def _any_path(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(path_pattern, patterns)) or r"(?!)", re.DOTALL)


def python_target(argv: Sequence[str]) -> tuple[str, str]:
    """What a Python command line runs (pure): ("module", NAME), ("script", PATH) or ("", "") for neither."""
    words = iter(argv[1:])
    for word in words:
        if word.startswith("--"):
            if word == "--check-hash-based-pycs":
                next(words, "")
            continue
        if not word.startswith("-") or word == "-":
            return ("script", word) if word != "-" else ("", "")
        for place, letter in enumerate(word[1:], 2):
            if letter == "m":
                return "module", word[place:] or next(words, "")
            if letter == "c":
                return "", ""
            if letter in "WX":
                if not word[place:]:
                    next(words, "")
                break
    return "", ""


# Switches, numbers and properties, but none that names a file of options or of code, a folder of these, or a command.
_JAVA_HARMLESS = re.compile(
    r"-X(m[nsx]|ss)\d+\w?|--add-(opens|exports)=.*"
    r"|-XX:([+-]\w+|((Max|Min|Initial)\w+|\w+(Size|Threads|Count|Ratio|Percent|Percentage))=[\d.]+\w?)"
    r"|-D(?!(java\.(class|endorsed|ext|home|library|system)|jdk|sun)\.).*",
    re.DOTALL,
)


def java_target(argv: Sequence[str]) -> tuple[str, str]:
    """What a java command line runs (pure): ("script", PATH) for an archive; ("", "") for all else.

    Before -jar there may be options that bring no code of their own; an agent, a path of classes or a file of options
    does.
    """
    words = iter(argv[1:])
    for word in words:
        if word == "-jar":
            return "script", next(words, "")
        if word in ("--add-opens", "--add-exports"):
            next(words, "")
        elif not _JAVA_HARMLESS.fullmatch(word):
            break
    return "", ""


class Programs:
    """Answers about programs; what it found on the disk it keeps for five minutes.

    Args:
        policy: its lists.
    """

    def __init__(self, policy: Policy) -> None:
        self._allowed = [(each, _any_path(each.exe), _any_path(each.scripts)) for each in policy.allowed]
        names = "|".join(fnmatch.translate(name) for name in policy.denied.names)
        self._names = re.compile(names or r"(?!)", re.IGNORECASE)
        self._lines = [re.compile(pattern, re.IGNORECASE) for pattern in policy.denied.command_lines]
        self._readers = frozenset(policy.denied.readers)
        self._installed: dict[tuple[str, ExeFile | None], tuple[float, bool]] = {}
        self.hub = _any_path(path for each in policy.allowed for path in each.parents)
        self._verdicts: dict[tuple[int, int], tuple[Seen, Allowed | None, tuple[str, str]]] = {}

    def allowed(self, seen: Seen) -> Allowed | None:
        """The entry of the allow-list that the process is one of by its program; its origin is `Lineage`'s."""
        return self._verdict(seen)[0]

    def denied(self, seen: Seen) -> tuple[str, str]:
        """Why it is denied: the rule (`name` or `command-line`) and what matched; two empty texts when it is not."""
        return self._verdict(seen)[1]

    def search(self, line: str) -> str | None:
        """What of a command line a denied pattern matches; None when none does."""
        matches = (pattern.search(line[:_SEARCHED]) for pattern in self._lines)
        return next((match[0] for match in matches if match), None)

    def forget(self, alive: set[tuple[int, int]]) -> None:
        """Forget processes that are gone, and files looked at too long ago."""
        self._verdicts = {key: value for key, value in self._verdicts.items() if key in alive}
        before = time.monotonic() - _KEPT_SECONDS
        self._installed = {key: value for key, value in self._installed.items() if value[0] > before}

    def installed(self, path: str, file: ExeFile | None) -> bool:
        """Whether the program at a path is installed; see the module.

        Args:
            path: its real path; with " (deleted)" behind it when it was replaced or removed since it was started.
            file: what the kernel says of the running file; None for a script, of which only the path is known.
        """
        key = (path, file)
        known = self._installed.get(key)
        if known is not None and known[0] > time.monotonic() - _KEPT_SECONDS:
            return known[1]
        answer = _is_installed(path, file)
        self._installed[key] = (time.monotonic(), answer)
        return answer

    def _verdict(self, seen: Seen) -> tuple[Allowed | None, tuple[str, str]]:
        """Both answers, found out again only when the process has become another program or changed its words."""
        known = self._verdicts.get(seen.key)
        if known is None or _says(known[0]) != _says(seen):
            known = (seen, self._find_allowed(seen), self._find_denied(seen))
            self._verdicts[seen.key] = known
        return known[1], known[2]

    def _find_allowed(self, seen: Seen) -> Allowed | None:
        path = seen.exe.removesuffix(_DELETED)
        for entry, exe, scripts in self._allowed:
            if not exe.fullmatch(path) or seen.file is None or not self.installed(seen.exe, seen.file):
                continue
            if not entry.modules and not entry.scripts:
                return entry
            kind, what = (java_target if path.endswith("/java") else python_target)(seen.argv)
            if kind == "module" and what in entry.modules:
                return entry
            if kind == "script" and scripts.fullmatch(what) and self.installed(what, None):
                return entry
        return None

    def _find_denied(self, seen: Seen) -> tuple[str, str]:
        file = PurePosixPath(seen.exe.removesuffix(_DELETED)).name
        first = PurePosixPath(seen.argv[0]).name if seen.argv else ""
        for name in (file, first, seen.name):
            if self._names.fullmatch(name):
                return "name", name
        if file in self._readers and self.installed(seen.exe, seen.file):
            return "", ""
        matched = self.search(seen.command_line) if seen.searched is None else seen.searched.matched
        return ("", "") if matched is None else ("command-line", matched)


def _says(seen: Seen) -> tuple[object, ...]:
    """What a process is and says."""
    return seen.name, seen.argv, seen.exe, seen.file, seen.searched


def _is_installed(path: str, file: ExeFile | None) -> bool:
    deleted = file is not None and path.endswith(_DELETED)
    place = PurePosixPath(path.removesuffix(_DELETED) if deleted else path)
    if not place.is_absolute() or ".." in place.parts:
        return False
    if file is not None and not (stat.S_ISREG(file.mode) and _out_of_reach(file.uid, file.gid, file.mode)):
        return False
    try:
        if not (_folders_are_roots(place) and _folders_are_roots(PurePosixPath(os.path.realpath(place)))):
            return False
        if deleted:  # an update took its place; the file itself was judged above
            return True
        status = os.stat(place)  # noqa: PTH116 - its folders are root's, so a link there is root's too
    except OSError:
        return False
    if file is not None:  # a student's own view of the file system may show another file under that path
        return (status.st_dev, status.st_ino) == (file.device, file.inode)
    return stat.S_ISREG(status.st_mode) and _out_of_reach(status.st_uid, status.st_gid, status.st_mode)


def _folders_are_roots(place: PurePosixPath) -> bool:
    """Whether only root can change what the path means; a link counts by its owner, as nobody can write to one."""
    for folder in place.parents:
        status = os.lstat(folder)
        mode = 0o755 if stat.S_ISLNK(status.st_mode) else status.st_mode
        if not _out_of_reach(status.st_uid, status.st_gid, mode):
            return False
    return True


def _out_of_reach(uid: int, gid: int, mode: int) -> bool:
    """Whether only root can write to it; a group of the system without members (Debian's staff) is nobody."""
    if uid != 0 or mode & stat.S_IWOTH:
        return False
    if not mode & stat.S_IWGRP or gid == 0:
        return True
    try:
        return gid < 1000 and not grp.getgrgid(gid).gr_mem
    except KeyError:
        return False
