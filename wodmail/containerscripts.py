"""The scripts of a workshop with seats on an appliance, made of its definition (docs/container-workshops.md).

`scripts_of` is pure. A script is a few lines: it gives the recipe, which says all that the definition says, to
scripts/container-workshop.sh, which does the work for every such workshop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wodmail import paths
from wodmail.containers import Container, Definition, read
from wodmail.errors import Failed, Problem
from wodmail.schema import Settings

FOLDER = Path("conf") / "containers"
KINDS = ("create", "post-copy", "cleanup", "reset", "setup")
MARK = "# Made by wodmail of conf/containers/"
END = "END-OF-RECIPE"
_WORDS = {
    "create": "makes the student's account ready on the appliance, and the seat there",
    "post-copy": "puts the student's notebooks into the seat",
    "cleanup": "removes the student's seat from the appliance",
    "reset": "locks the students of this RESET out of the appliance, and removes their seats",
    "setup": "prepares an appliance, $WODRTARGET, for the seats: images, networks",
}


@dataclass(frozen=True, slots=True)
class Found:
    """The definitions of a backend.

    Args:
        definitions: by WKSHP-Name; a private one takes the place of a public one.
        files: where each is.
        problems: what keeps others from being used.
    """

    definitions: Mapping[str, Definition]
    files: Mapping[str, Path]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class GivesWay:
    """A definition that came with wodmail and is not used.

    Args:
        file: the definition.
        own: the site's script that it gives way to.
        made: scripts that were made of it and still lie in WODSCRIPTDIR; no job runs them.
    """

    file: Path
    own: Path
    made: tuple[Path, ...]

    @property
    def words(self) -> str:
        """What is so."""
        stale = f"; made of it once, and not run by jobs: {', '.join(map(str, self.made))}" if self.made else ""
        return f"the shipped definition {self.file} gives way to {self.own}{stale}"

    def advice(self, settings: Settings) -> str:
        """What to do for both."""
        target = folders(settings)[0] / self.file.name if settings.WODPRIVDIR else f"<WODPRIVDIR>/{FOLDER}"
        remove = "remove the scripts made of it, or " if self.made else ""
        return f"{remove}copy it to {target} to keep both"


def folders(settings: Settings) -> list[Path]:
    """Where definitions are, private first."""
    found = [settings.WODPRIVDIR, settings.WODBEDIR]
    return [folder / FOLDER for folder in found if folder is not None]


def file_of(settings: Settings, ws: str) -> Path | None:
    """The file that defines a workshop's seats; None for a workshop without, and where the site's own scripts count."""
    file = _written(settings, ws)
    return None if file is not None and _yields_to(settings, file) is not None else file


def gives_way(settings: Settings, ws: str) -> GivesWay | None:
    """Why a workshop's definition that came with wodmail is not used; None when there is none, or it is."""
    file = _written(settings, ws)
    own = _yields_to(settings, file) if file is not None else None
    if file is None or own is None:
        return None
    made = (settings.WODSCRIPTDIR / f"{kind}-{ws}.sh" for kind in KINDS)
    return GivesWay(file, own, tuple(script for script in made if script.is_file() and was_made(script)))


def _written(settings: Settings, ws: str) -> Path | None:
    candidates = (folder / f"{ws}.yml" for folder in folders(settings))
    return next((file for file in candidates if file.is_file()), None)


def _yields_to(settings: Settings, file: Path) -> Path | None:
    """The site's script that a definition which came with wodmail gives way to, as a whole; None when it counts.

    A seat is the work of all its scripts: ours after the site's would look for a container that nobody made. A private
    script alone is a hook of the site's, which runs after ours; who has a private create and another one has a seat.
    """
    if file.parent != settings.WODBEDIR / FOLDER or not (paths.share("conf") / "containers" / file.name).is_file():
        return None
    public, private = (_by_hand(folder, file.stem) for folder in (settings.WODSCRIPTDIR, settings.WODSCRIPTPRIVDIR))
    if public:
        return next(iter(public.values()))
    return private["create"] if "create" in private and len(private) > 1 else None


def _by_hand(folder: Path | None, ws: str) -> dict[str, Path]:
    """The scripts of a seat in a folder that were not made of a definition, by kind; setup makes no seat."""
    if folder is None:
        return {}
    files = {folder / f"{kind}-{ws}.sh{end}": kind for kind in KINDS if kind != "setup" for end in ("", ".j2")}
    return {kind: file for file, kind in files.items() if file.is_file() and not was_made(file)}


def find(settings: Settings) -> Found:
    """All definitions of a backend, and what is wrong with the others."""
    files: dict[str, Path] = {}
    for folder in reversed(folders(settings)):
        files |= {file.stem: file for file in sorted(folder.glob("*.yml")) if not file.name.startswith(".")}
    files = {name: file for name, file in files.items() if _yields_to(settings, file) is None}
    definitions, problems = {}, []
    for name, file in sorted(files.items()):
        definition, wrong = read(file)
        problems += wrong
        if definition is not None:
            definitions[name] = definition
    return Found(definitions, {name: files[name] for name in definitions}, tuple(problems))


def load(file: Path) -> Definition:
    """One definition.

    Raises:
        Failed: names everything that is wrong with it.
    """
    definition, problems = read(file)
    if definition is None:
        words = f"The definition of the workshop's seats, {file.name}, can't be used; the operator has to look at it."
        raise Failed(words, "; ".join(map(str, problems)))
    return definition


def kinds_of(definition: Definition) -> tuple[str, ...]:
    """The kinds of scripts that a definition is made into (pure)."""
    return tuple(kind for kind in KINDS if kind != "post-copy" or definition.notebooks is not None)


def scripts_of(ws: str, definition: Definition, variables: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The scripts of a workshop by name, such as create-WKSHP-ML101.sh (pure).

    Args:
        ws: WKSHP-Name.
        definition: its seats.
        variables: the group's; HTTPPORT-<ws> and the like go before the definition's port.

    Raises:
        Failed: such a variable is no port.
    """
    recipe = "\n".join(_recipe(ws, definition, variables or {}))
    return {f"{kind}-{ws}.sh": _script(kind, ws, recipe) for kind in kinds_of(definition)}


def is_made(text: str) -> bool:
    """Whether a script was made by `scripts_of`: nobody's own work is lost when it is replaced."""
    return any(line.startswith(MARK) for line in text.splitlines()[:3])


def was_made(file: Path) -> bool:
    """Whether a script's file was made of a definition; then that, which may be newer, counts."""
    try:
        with file.open("rb") as source:
            return is_made(source.read(1000).decode(errors="replace"))
    except OSError:  # bash will say what is wrong with it
        return False


def _script(kind: str, ws: str, recipe: str) -> str:
    # What a job runs has WODFUNCTIONS; setup is called by hand too.
    functions = '"${WODFUNCTIONS:-${WODSCRIPTDIR:?}/functions.sh}"'
    lines = [
        "#!/bin/bash",
        f"{MARK}{ws}.yml: change that file, then say wodmail deliver.",
        f"# {ws.removeprefix('WKSHP-')}: {_WORDS[kind]}.",
        "set -eu",
        "",
        "# shellcheck source=/dev/null",
        f". {functions}",
        "",
        f"wod_container_workshop {kind} <<'{END}'",
        recipe,
        END,
    ]
    return "\n".join(lines) + "\n"


def _recipe(ws: str, definition: Definition, variables: Mapping[str, Any]) -> Iterator[str]:
    """A line a fact: a word, a blank, the value. Containers come last, each begins with its name."""
    yield f"workshop {ws}"
    yield f"name {ws.removeprefix('WKSHP-').lower()}-"
    yield f"engine {definition.engine}"
    yield f"seats {definition.seats}"
    for name, port in definition.ports.items():
        yield f"port {name} {first_port(name, ws, definition, variables)} {port.inside}"
    for name in definition.tokens:
        yield f"token {name}"
    for name in definition.secrets:
        yield f"secret {name}"
    if definition.web is not None:
        yield f"passwords {definition.web.passwords}"
        yield from (f"group {name}" for name in definition.web.groups)
        if definition.web.pages is not None:
            yield f"pages {definition.web.pages}"
    if definition.notebooks is not None:
        yield f"notebooks {definition.notebooks}"
    if definition.container is not None:
        yield f"seconds {definition.ready.seconds}"
        yield f"network {'own' if definition.beside else 'shared'}"
        yield from (f"probe {word}" for word in definition.ready.command)
        if not definition.ready.command:
            yield f"path {definition.ready.path}"
    for name, container in definition.containers.items():
        yield from _container(name, container)


def first_port(name: str, ws: str, definition: Definition, variables: Mapping[str, Any]) -> int:
    """The port of the first student of the range (pure).

    Args:
        name: one of the definition's ports, such as HTTPPORT.
        ws: WKSHP-Name.
        definition: its seats.
        variables: see `scripts_of`.

    Raises:
        Failed: the group variable is no port.
    """
    seats = definition.seats
    value = str(variables.get(f"{name}-{ws}", "")).strip() or str(definition.ports[name].first)
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0
    if not 0 < number <= 65536 - seats:
        advice = f"{name}-{ws} in group_vars must be the first of {seats} ports, it is {value[:20]!r}"
        raise Failed(f"The ports of {ws} are not usable: {advice}.", advice)
    return number


def _container(name: str, container: Container) -> Iterator[str]:
    yield f"container {name or '-'}"
    yield f"image {container.image}"
    yield from (f"build {line}" for line in container.build.splitlines())
    yield from (f"option {option}" for option in _options(name, container))
    if container.volume is not None:
        yield f"volume {container.volume}"
    yield from (f"env {key}={value}" for key, value in container.environment.items())
    yield from (f"argument {word}" for word in container.command)


def _options(name: str, container: Container) -> Iterator[str]:
    """Options of `docker run` and `podman run`, the same for every student."""
    yield f"--memory={container.memory}"
    yield f"--cpus={container.cpus:g}"
    yield f"--pids-limit={container.pids}"
    yield "--cap-drop=ALL"
    yield from (f"--cap-add={each}" for each in container.capabilities)
    if not container.new_privileges:
        yield "--security-opt=no-new-privileges"
    yield from (f"--security-opt={each}" for each in container.security)
    yield from (f"--device={each}" for each in container.devices)
    if container.user:
        yield f"--user={container.user}"
    if name:
        yield f"--network-alias={name}"
