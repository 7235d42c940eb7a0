"""Make the job of a playbook run from the configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wodmail import paths, vault
from wodmail.copyfolder.job import Job
from wodmail.errors import Failed
from wodmail.schema import Settings

NAME = re.compile(r"(WKSHP|CHLG)-[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def from_settings(
    settings: Settings,
    *,
    students: tuple[int, ...],
    challenge: str,
    writer: tuple[str, ...],
    secrets: tuple[str, ...] = (),
    pass_files: Mapping[int, str] | None = None,
    workshop: str = "",
    modews: str = "",
    folder: str = "",
    scripts: tuple[str, ...] = (),
) -> Job:
    """The job for some students of a workshop under a configuration.

    Args:
        settings: the configuration.
        students: student numbers.
        challenge: the workshop as mailed, WKSHP-Name or CHLG-Name.
        writer: see `Job`.
        secrets: see `Job`.
        pass_files: variable files of students that aren't at the usual place.
        workshop: see `Job`; follows from the challenge by default.
        modews: see `Job`; follows from the challenge by default.
        folder: see `Job`; the workshop's name by default.
        scripts: see `Job`.

    Raises:
        Failed: a name that is no name of a workshop or folder.
    """
    workshop = workshop or re.sub("^CHLG", "WKSHP", challenge)
    folder = folder or workshop
    if not NAME.fullmatch(challenge) or not FOLDER.fullmatch(workshop) or not FOLDER.fullmatch(folder):
        raise Failed(f"{challenge!r} (folder {folder!r}) is no workshop; write WKSHP-Name or CHLG-Name")
    own = paths.share("ansible")
    return Job(
        students=students,
        workshop=workshop,
        challenge=challenge,
        modews=modews or challenge.partition("-")[0],
        folder=folder,
        notebooks=(_text(settings.WODNOBO), _text(settings.WODPRIVNOBO)),
        variable_folders=(_text(settings.WODANSIBLEDIR or own), _text(settings.WODANSIBLEPRIVDIR)),
        group=settings.WODGROUP,
        homes=str(settings.WODSTUDDIR),
        variables=_written(settings),
        pass_files={
            str(student): (pass_files or {}).get(student) or str(vault.pass_file(settings, challenge, student))
            for student in students
        },
        secrets=secrets,
        writer=writer,
        facts=str(settings.WODSTATEDIR / "facts.json"),
        pdf_script=str(own / "files" / "wod-generate-pdf.sh"),
        scripts=scripts,
        script_folders=(_text(settings.WODSCRIPTDIR), _text(settings.WODSCRIPTPRIVDIR)),
    )


def _text(folder: Path | None) -> str:
    return str(folder) if folder else ""


def _written(settings: Settings) -> dict[str, Any]:
    """The configuration's variables without those that nobody gave a value: a template that asks for one must fail."""
    given = settings.model_fields_set | set(settings.model_extra or {})
    values = {name: value for name, value in settings.variables().items() if name in given or value != ""}
    made: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return made
