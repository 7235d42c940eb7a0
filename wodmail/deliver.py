"""Deliver templates: scripts (`*.sh*.j2`) and variable files (`*.yml.j2`) expanded beside themselves (docs/deliver.md).

`kept_back`, `expand`, `mode_of` and `judge` decide and touch nothing but the template; `deliver` puts them to work.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from wodmail import deliverdiff, rendering
from wodmail.errors import Failed, WodmailError
from wodmail.logs import Masker

SCRIPTS = "*.sh*.j2"
VARIABLES = "*.yml.j2"
COMPILED_LATER = "get-"
SHORTEST_SECRET = 4
SHORTEST_LINE = 16


class Outcome(StrEnum):
    """What became, or would become, of one template."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"
    LEFT = "left"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One template and what became of it.

    Args:
        template: the template.
        target: the file beside it, its name without `.j2`.
        outcome: see `Outcome`.
        reason: why it was left alone or failed, with file:line and variable; a remark else. Secrets are masked.
        line: where in the template it failed, from 1; 0 when it didn't or that is not known.
        variable: the one that is missing; "" when none is.
        diff: what differs, as a unified diff with secrets masked; only when it was asked for.
    """

    template: Path
    target: Path
    outcome: Outcome
    reason: str = ""
    line: int = 0
    variable: str = ""
    diff: str = ""


@dataclass(frozen=True, slots=True)
class Expansion:
    """A template's result.

    Args:
        text: the bytes to be in the target.
        mode: permission bits that the target is to have.
        secret: whether the text holds a secret.
    """

    text: bytes
    mode: int
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """What templates are expanded with.

    Args:
        variables: names and values, as `wodmail.variables.for_group` gives them.
        compiled: scripts that workshops list under `compile` ("a.sh").
        secrets: values that other users of the machine must not read; shorter ones than four letters don't count.
        group: number of the group that may read what holds a secret, for root; None keeps the template's.
    """

    variables: Mapping[str, Any]
    compiled: Collection[str] = ()
    secrets: Collection[str] = ()
    group: int | None = None

    def masker(self) -> Masker:
        """Hides the secrets in texts."""
        made = Masker()
        for secret in self.secrets:
            made.register(secret.strip())
        return made


def templates(folder: Path, pattern: str = SCRIPTS) -> list[Path]:
    """The templates of a folder, in alphabetical order; subfolders and hidden files are no business of ours.

    Args:
        folder: where they are.
        pattern: `SCRIPTS` or `VARIABLES`.

    Raises:
        Failed: the folder can't be read.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.match(pattern) and not path.name.startswith("."))
        return [path for path in found if path.is_file()]
    except OSError as error:
        raise Failed(f"The folder of templates {folder} can't be read: {error.strerror}.", str(error)) from error


def kept_back(script: str, compiled: Collection[str]) -> str:
    """Why a script isn't expanded beside its template, "" when it is (pure).

    Args:
        script: the script's name, without `.j2`.
        compiled: see `Site`.
    """
    if script in compiled:
        return "a workshop lists it under compile: each student gets a program made of it"
    if script.startswith(COMPILED_LATER):
        return f"scripts named {COMPILED_LATER}… are made when they are compiled"
    return ""


def expand(template: Path, site: Site) -> Expansion:
    """A template's result.

    Raises:
        Failed: names file, line and variable; or a variable file would be no YAML.
    """
    text = rendering.render(template, site.variables)
    try:
        data, mode = text.encode(), stat.S_IMODE(template.stat().st_mode)
    except (OSError, UnicodeEncodeError) as error:
        raise Failed(f"The template {template.name} can't be expanded: {error}.", f"{template}: {error}") from error
    secret = any(shape in text for value in site.secrets for shape in _shapes(value))
    if template.match(VARIABLES):
        _check_yaml(template, text)
        return Expansion(data, mode & (0o640 if secret else 0o666), secret)
    return Expansion(data, mode_of(mode, secret=secret), secret)


def _check_yaml(template: Path, text: str) -> None:
    """A variable file must still be one YAML document; its tags (!vault) and values are not looked at."""
    try:
        yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1} of it: " if mark is not None else ""
        problem = getattr(error, "problem", None) or "it can't be read"
        words = f"The template {template.name} can be expanded, but the result is no YAML: {line}{problem}."
        raise Failed(f"{words} The file that is there stays as it is.", f"{template}: {line}{problem}") from error


def _shapes(secret: str) -> set[str]:
    """How a template may write a secret: as it is, through a filter, or, one of many lines, with its lines indented."""
    text = secret.strip()
    if len(text) < SHORTEST_SECRET:
        return set()
    coded = {base64.b64encode(each.encode()).decode() for each in (secret, text)}
    lines = {line.strip() for line in text.splitlines() if len(line.strip()) >= SHORTEST_LINE}
    return {text, shlex.quote(text), json.dumps(text)[1:-1]} | coded | lines


def mode_of(mode: int, *, secret: bool) -> int:
    """The mode of a delivered script: its template's, executable for who may read it, shut for others if secret (pure).

    Args:
        mode: the template's permission bits; set-id bits are dropped.
        secret: whether the text holds a secret.
    """
    mode = mode & 0o777 | (mode & 0o444) >> 2
    return mode & 0o750 if secret else mode


def judge(expansion: Expansion, present: tuple[bytes, int] | None) -> Outcome:
    """Whether a target is new, changed or the same (pure).

    Args:
        expansion: what is to be there.
        present: bytes and mode of the file that is there, None when there is none.
    """
    if present is None:
        return Outcome.NEW
    return Outcome.SAME if present == (expansion.text, expansion.mode) else Outcome.CHANGED


def deliver(
    folders: Iterable[Path],
    site: Site,
    *,
    variables: Iterable[Path] = (),
    check: bool = False,
    diff: bool = False,
) -> list[Delivery]:
    """Expand every template of these folders beside itself; what has not changed is not written.

    One that can't be expanded or written is told and stops no other; the file beside it stays as it was.

    Args:
        folders: folders of scripts.
        site: what the templates are expanded with.
        variables: folders of variable files.
        check: write nothing, tell what would be done.
        diff: keep what differs.

    Raises:
        Failed: a folder can't be read.
    """
    found = [template for folder in folders for template in templates(folder)]
    found += [template for folder in variables for template in templates(folder, VARIABLES)]
    masker = site.masker()
    return [_one(template, site, masker, check=check, diff=diff) for template in found]


def counts(deliveries: Iterable[Delivery]) -> dict[str, int]:
    """How many of each outcome, all of them named."""
    found = Counter(delivery.outcome for delivery in deliveries)
    return {outcome.value: found[outcome] for outcome in Outcome}


def _one(template: Path, site: Site, masker: Masker, *, check: bool, diff: bool) -> Delivery:
    target = template.with_suffix("")
    why = kept_back(target.name, site.compiled)
    if why:
        return Delivery(template, target, Outcome.LEFT, why)
    return put(template, target, lambda: expand(template, site), site, masker, check=check, diff=diff)


def put(
    template: Path,
    target: Path,
    make: Callable[[], Expansion],
    site: Site,
    masker: Masker,
    *,
    check: bool,
    diff: bool,
) -> Delivery:
    """Make one file, and write it when it has changed.

    Args:
        template: what it is made from; the file gets its owner.
        target: the file.
        make: what is to be in it; raises a WodmailError.
        site: whose group may read what holds a secret.
        masker: hides secrets in what is told.
        check: write nothing.
        diff: keep what differs.
    """
    try:
        expansion = make()
        present = _present(target)
        outcome = judge(expansion, present)
        if outcome is not Outcome.SAME:
            _writable(target.parent)
            if not check:
                _write(target, expansion, template, site.group)
    except rendering.Broken as error:
        reason = masker.mask(error.sender)
        return Delivery(template, target, Outcome.FAILED, reason, error.line, masker.mask(error.variable))
    except WodmailError as error:
        return Delivery(template, target, Outcome.FAILED, masker.mask(error.sender))
    except OSError as error:
        return Delivery(template, target, Outcome.FAILED, f"{target} can't be written: {error.strerror}")
    remark = "holds a secret: shut for others" if expansion.secret else ""
    told = deliverdiff.diff(target, present, (expansion.text, expansion.mode), masker) if diff else ""
    return Delivery(template, target, outcome, remark, diff=told)


def _present(target: Path) -> tuple[bytes, int] | None:
    """What is there; a link counts as another file, so that it is replaced and its target left alone."""
    try:
        status = target.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise Failed(f"{target} is a folder; remove or rename it")
    if not stat.S_ISREG(status.st_mode):
        return b"", -1
    return target.read_bytes(), stat.S_IMODE(status.st_mode)


def _writable(folder: Path) -> None:
    """See that files can be made in a folder; asked before the first try, so that `check` tells it too."""
    if os.access(folder, os.W_OK | os.X_OK):
        return
    owner = _owner(folder)
    words = f"the folder {folder} can't be written by this user, it belongs to {owner}: call wod-deliver as {owner}"
    raise Failed(f"{words}, or copy the folder and let the configuration name the copy")


def _owner(folder: Path) -> str:
    try:
        return folder.owner()
    except KeyError:
        return f"uid {folder.stat().st_uid}"


def _write(target: Path, expansion: Expansion, template: Path, group: int | None) -> None:
    """Write a script whole or not at all; one that is running keeps the text it began with."""
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(expansion.text)
            file.flush()
            if os.geteuid() == 0:
                owner = template.stat()
                readers = group if expansion.secret and group is not None else owner.st_gid
                os.fchown(file.fileno(), owner.st_uid, readers)
            os.fchmod(file.fileno(), expansion.mode)
            os.fsync(file.fileno())
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
