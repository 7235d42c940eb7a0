"""Deliver the scripts that a workshop's file in conf/containers/ is made into (docs/container-workshops.md)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from wodmail import containerscripts
from wodmail.catalog import Catalog
from wodmail.config import Settings
from wodmail.deliver import Delivery, Expansion, Outcome, Site, put
from wodmail.logs import Masker

MODE = 0o755


def deliver(settings: Settings, site: Site, *, check: bool = False, diff: bool = False) -> list[Delivery]:
    """Write the scripts of every workshop that there is and that has such a file into WODSCRIPTDIR.

    Args:
        settings: the configuration.
        site: the variables.
        check: write nothing, tell what would be done.
        diff: keep what differs.
    """
    found, masker = containerscripts.find(settings), site.masker()
    there = set(Catalog(settings.WODNOBO, settings.WODPRIVNOBO).names())
    broken = [(Path(each.path), each.message) for each in found.problems]
    done = [
        Delivery(file, settings.WODSCRIPTDIR / f"create-{file.stem}.sh", Outcome.FAILED, f"{file.name}: {words}")
        for file, words in broken
        if file.stem in there
    ]
    done += _unused(settings, sorted(there))
    for ws in sorted(there & set(found.definitions)):
        for kind in containerscripts.kinds_of(found.definitions[ws]):
            done.append(_one(settings, found, ws, kind, site, masker, check=check, diff=diff))
    return done


def _unused(settings: Settings, names: list[str]) -> Iterator[Delivery]:
    """Definitions that came with wodmail and give way to the site's own scripts, a row each."""
    for ws in names:
        if (way := containerscripts.gives_way(settings, ws)) is not None:
            words = f"{'warning: ' if way.made else ''}{way.words}; {way.advice(settings)}"
            yield Delivery(way.file, settings.WODSCRIPTDIR / f"create-{ws}.sh", Outcome.LEFT, words)


def _one(
    settings: Settings,
    found: containerscripts.Found,
    ws: str,
    kind: str,
    site: Site,
    masker: Masker,
    *,
    check: bool,
    diff: bool,
) -> Delivery:
    file = found.files[ws]
    target = settings.WODSCRIPTDIR / f"{kind}-{ws}.sh"
    if target.with_name(f"{target.name}.j2").is_file() or _somebodys(target):
        return Delivery(
            file, target, Outcome.LEFT, "a script of this name that was not made by wodmail is used instead"
        )
    return put(file, target, partial(_made, found, ws, target.name, site), site, masker, check=check, diff=diff)


def _made(found: containerscripts.Found, ws: str, name: str, site: Site) -> Expansion:
    return Expansion(containerscripts.scripts_of(ws, found.definitions[ws], site.variables)[name].encode(), MODE)


def _somebodys(target: Path) -> bool:
    """Whether somebody wrote that script by hand."""
    return target.is_file() and not containerscripts.is_made(target.read_text(encoding="utf-8", errors="replace"))
