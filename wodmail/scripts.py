"""Workshop scripts: found, rendered and run, public then private (docs/scripts.md)."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wodmail import appliances, configtext, containerscripts, paths, rendering, variables
from wodmail.catalog import Catalog, Workshop
from wodmail.children import Children, Finished
from wodmail.config import Settings
from wodmail.errors import Failed
from wodmail.model import Action, JobSpec

Kind = Literal["create", "cleanup", "reset", "post-copy"]
_NAME = re.compile(r"WKSHP-[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FUNCTIONS = "functions.sh"
_APPLIANCE = (
    "appliance.sh",
    "create-appliance.sh",
    "reset-appliance.sh",
    "cleanup-container-ratio.sh",
    "check-appliance.sh",
    "container-workshop.sh",
)
_GO_ON = frozenset({Action.CLEANUP, Action.RESET, Action.PURGE})
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Script:
    """A workshop script that there is.

    Args:
        name: e.g. create-WKSHP-Demo101.sh.
        where: "public" or "private".
        file: the script, or the template that it is rendered from.
    """

    name: str
    where: str
    file: Path


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """How one script ended.

    Args:
        name: e.g. create-WKSHP-Demo101.sh.
        where: "public" or "private".
        status: exit status, negative for the signal that ended it.
        seconds: how long it ran.
        leftovers: how many processes it left behind; they were ended.
    """

    name: str
    where: str
    status: int
    seconds: float
    leftovers: int = 0


class Scripts:
    """The workshop scripts of one backend; safe to use from many threads.

    Args:
        settings: the configuration.
        children: starts and ends them.
        workshop: describes a workshop by its name; by default its wod.yml does.
        config_file: the configuration file, for the `wodmail query` calls that scripts make.
    """

    def __init__(
        self,
        settings: Settings,
        children: Children,
        workshop: Callable[[str], Workshop] | None = None,
        config_file: Path | None = None,
    ) -> None:
        self._settings = settings
        self._children = children
        self._catalog = Catalog(settings.WODNOBO, settings.WODPRIVNOBO)
        self._workshop = workshop or self._in_catalog
        self._config_file = config_file
        self._folder = settings.WODSTATEDIR / "scripts"

    def find(self, kind: Kind, ws: str) -> list[Script]:
        """The scripts of that kind for a workshop, in the order in which they run; a template wins over a script.

        Args:
            kind: create, cleanup, reset or post-copy.
            ws: the workshop's folder name, WKSHP-Name.
        """
        if not _NAME.fullmatch(ws):
            raise Failed(f"{ws[:80]!r} is no workshop's folder.")
        return self.named(f"{kind}-{ws}.sh")

    def named(self, name: str) -> list[Script]:
        """The scripts of that name, public then private; a template wins over a script.

        Args:
            name: without `.j2`.
        """
        found = []
        for where, folder in (("public", self._settings.WODSCRIPTDIR), ("private", self._settings.WODSCRIPTPRIVDIR)):
            candidates = (folder / f"{name}.j2", folder / name) if folder is not None else ()
            own = [file for file in candidates if file.is_file() and not containerscripts.was_made(file)]
            found += [Script(name, where, file) for file in own[:1]]
        if "public" not in {script.where for script in found}:
            found = [*self._of_definition(name), *found]
        return found

    def _of_definition(self, name: str) -> list[Script]:
        """The script that the workshop's file in conf/containers/ is made into, if it has one."""
        kind, _, ws = name.removesuffix(".sh").partition("-WKSHP-")
        file = containerscripts.file_of(self._settings, f"WKSHP-{ws}") if ws else None
        if file is None or (kind == "post-copy" and containerscripts.load(file).notebooks is None):
            return []
        return [Script(name, "public", file)] if kind in containerscripts.KINDS else []

    def exists(self, kind: Kind, ws: str) -> bool:
        """Whether there is such a script, public or private."""
        return bool(self.find(kind, ws))

    def run(
        self, kind: Kind, spec: JobSpec, environment: Mapping[str, str], on_line: Callable[[str], None]
    ) -> list[ScriptRun]:
        """Render and run the scripts of that kind, public then private.

        CREATE stops at the first that fails; the other actions run both and then report every failure.

        Args:
            kind: create, cleanup, reset or post-copy.
            spec: the job.
            environment: what only the job knows: randompw, accessToken, wid, userid, stddir.
            on_line: called with each line that they print; may hold secrets.

        Returns:
            How each ended, all with status 0.

        Raises:
            Failed: one can't be rendered, ended with another status, or took too long; `output` is its last output.
        """
        ran: list[ScriptRun] = []
        failures: list[Failed] = []
        values = self._environment(spec, environment)
        if (way := containerscripts.gives_way(self._settings, spec.ws)) is not None:
            on_line(way.words)
        for script in self.find(kind, spec.ws):
            try:
                ran.append(self._run(script, spec, values, on_line))
            except Failed as error:
                if spec.action not in _GO_ON:
                    raise
                failures.append(error)
        if failures:
            words, causes = (" ".join(getattr(each, what) for each in failures) for what in ("sender", "operator"))
            raise Failed(words, causes, output="\n".join(each.output for each in failures))
        return ran

    def run_setup(
        self,
        script: Script,
        w: str,
        students: tuple[int, ...],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> ScriptRun:
        """Run a script that sets an appliance up (docs/appliances.md); `action` is SETUP.

        Args:
            script: as `named` gives it.
            w: the workshop, "" for what is no workshop's own.
            students: who work there; may be empty.
            environment: what comes on top.
            on_line: called with each line that it prints; may hold secrets.

        Raises:
            Failed: see `run`.
        """
        spec = JobSpec(0, 0, Action.CREATE, students or (0,), w)
        folder = str(self.appliance_scripts())
        own = {"action": "SETUP", "WODSTUDENTS": " ".join(map(str, students)), "WODAPPLIANCESCRIPTS": folder}
        more = {**own, **environment}
        return self._run(script, spec, self._environment(spec, more), on_line)

    def _run(self, script: Script, spec: JobSpec, values: dict[str, str], on_line: Callable[[str], None]) -> ScriptRun:
        file = self._made(script) if script.file.suffix == ".yml" else self._rendered(script.where, script.file)
        on_line(f"running {script.where} {script.name} ({file})")
        began = time.monotonic()
        ended = self._children.run(
            ["bash", str(file)],
            job=spec.job,
            env=values,
            cwd=self._settings.WODNOBO,
            timeout=self._settings.WODSCRIPTTIMEOUT,
            on_line=on_line,
        )
        seconds = time.monotonic() - began
        if ended.status or ended.timed_out or ended.aborted:
            raise self._failure(script, ended, seconds)
        return ScriptRun(script.name, script.where, ended.status, seconds, ended.leftovers)

    def _failure(self, script: Script, ended: Finished, seconds: float) -> Failed:
        what = f"The {script.where} script {script.name}"
        if ended.aborted:
            words = f"{what} was stopped on request."
        elif ended.timed_out:
            words = f"{what} was ended after its time limit of {self._settings.WODSCRIPTTIMEOUT:g} s."
        elif ended.status < 0:
            words = f"{what} was ended by signal {-ended.status}."
        else:
            words = f"{what} ended with exit status {ended.status}."
        return Failed(words, f"{script.file}: status {ended.status} after {seconds:.1f} s", output=ended.tail)

    def _rendered(self, where: str, file: Path) -> Path:
        """The script that bash runs: a plain one where it is, a template's result below WODSTATEDIR."""
        if file.suffix != ".j2":
            return file
        target = self._folder / where / file.stem
        try:
            _renew(target, self._text(file), 0o600)
        except OSError as error:
            raise Failed("A workshop script could not be made.", f"{target}: {error}") from error
        return target

    def _made(self, script: Script) -> Path:
        """A script made of a definition, as `wodmail deliver` would write it."""
        definition = containerscripts.load(script.file)
        ws = script.file.stem
        text = containerscripts.scripts_of(ws, definition, variables.for_group(self._settings))[script.name]
        target = self._folder / script.where / script.name
        try:
            _renew(target, text.encode(), 0o600)
        except OSError as error:
            raise Failed("A workshop script could not be made.", f"{target}: {error}") from error
        return target

    def _text(self, template: Path) -> bytes:
        return rendering.render(template, variables.for_group(self._settings)).encode()

    def _environment(self, spec: JobSpec, environment: Mapping[str, str]) -> dict[str, str]:
        """Everything a script is given; see docs/scripts.md."""
        student = spec.students[0]
        user = pwd.getpwuid(os.geteuid())
        values = configtext.shell_variables(self._settings) | {
            # The system's python3 and ansible-playbook first: a site's scripts rely on modules and collections there.
            "PATH": f"{_SYSTEM_PATH}:{Path(sys.executable).parent}",
            "HOME": user.pw_dir,
            "LOGNAME": user.pw_name,
            "USER": user.pw_name,
            "LANG": "C.UTF-8",
            "action": spec.action.value,
            "stdid": str(student),
            "dbstdid": str(student + self._settings.WODBASESTDID),
            "stddir": str(self._settings.WODSTUDDIR / f"student{student}"),
            "w": spec.workshop,
            "ws": spec.ws,
            "wid": "0",
            "userid": str(spec.participant),
            "MODEWS": spec.modews,
            "randompw": "",
            "accessToken": "",
            "WODATTEMPT": str(spec.attempt),
            "WODSTUDENTS": " ".join(map(str, spec.students)),
            "WODFUNCTIONS": str(self._functions()),
        }
        if self._config_file is not None:
            values["WOD_CONFIG"] = str(self._config_file.absolute())
        target = environment.get("WODRTARGET") or self.target(spec.workshop, student)
        if target is not None:
            values["WODRTARGET"] = target
            values["WODAPPLIANCESCRIPTS"] = str(self.appliance_scripts())
        return values | dict(environment)

    def _functions(self) -> Path:
        return self._rendered("public", self._shared(_FUNCTIONS))

    def _shared(self, name: str) -> Path:
        """A script that workshops share: the site's, else wodmail's own."""
        for folder in (self._settings.WODSCRIPTDIR, paths.share("scripts")):
            for file in (folder / f"{name}.j2", folder / name):
                if file.is_file():
                    return file
        raise Failed("A script that workshops share is missing.", f"no {name}.j2 in WODSCRIPTDIR")

    def appliance_scripts(self) -> Path:
        """WODAPPLIANCESCRIPTS: the scripts for appliances, side by side, as they source each other."""
        folder = self._folder / "appliance"
        for name in _APPLIANCE:
            file = self._shared(name)
            try:
                text = self._text(file) if file.suffix == ".j2" else file.read_bytes()
                _renew(folder / name, text, 0o700)
            except OSError as error:
                raise Failed("A script for the appliance could not be made.", f"{file}: {error}") from error
        return folder

    def target(self, w: str, student: int) -> str | None:
        """WODRTARGET: the address of the appliance that a student works on; None for workshops without one.

        Args:
            w: the workshop as mailed.
            student: the student's number.

        Raises:
            Failed: the group variable IP-<w> is missing or no address, or the student is outside the range.
        """
        return appliances.target(self._settings, self._workshop(w), w, student)

    def base_address(self, w: str) -> str:
        """The group variable IP-<w> (private before public; a challenge may use its workshop's).

        Raises:
            Failed: it is missing or still the placeholder x.y.z.t.
        """
        return appliances.base_address(self._settings, w)

    def _in_catalog(self, w: str) -> Workshop:
        found = self._catalog.find(w)
        return found if found is not None else Workshop(w)


def _renew(target: Path, text: bytes, mode: int) -> None:
    """Write a script whole or not at all, when it is not that already; one that runs keeps the text it began with."""
    with contextlib.suppress(FileNotFoundError):
        if target.read_bytes() == text:
            return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(text)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
