"""The job of a playbook run that a person started: from the variables of a command line. Inside Ansible only."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wodmail import config, students, vaultkeys
from wodmail.copyfolder.job import Job, plain
from wodmail.copyfolder.request import from_settings
from wodmail.errors import Failed, Refused
from wodmail.schema import Settings

USAGE = "give -e STDID=121 (or 121,122) and -e WORKSHOP=WKSHP-Name or -e CHALLENGE=CHLG-Name"
WHICH = "give -e SCRIPTS=a.sh,b.sh, the scripts to compile"


def job(extra: Mapping[str, Any], loader: Any) -> Job:
    """The run's job.

    Args:
        extra: the command line's variables.
        loader: Ansible's data loader, reads the configuration file.

    Raises:
        Failed: a part of it is missing or makes no sense.
        Refused: a student number is none.
    """
    challenge = str(extra.get("CHALLENGE") or extra.get("WORKSHOP") or "")
    if not challenge:
        raise Failed(USAGE)
    settings = _settings(extra, loader)
    made = from_settings(
        settings,
        students=numbers(extra.get("STDID", extra.get("STUDENTS"))),
        challenge=challenge,
        writer=tuple(students.for_settings(settings).writer_argv()),
        secrets=vaultkeys.known(settings),
        workshop=str(extra.get("WORKSHOP") or ""),
        modews=str(extra.get("MODEWS") or ""),
        folder=Path(str(extra.get("DIR") or "")).name,
        scripts=names(extra.get("SCRIPTS")),
    )
    # Facts gathered from a shell may hold what is in that shell's environment; they are not kept.
    return dataclasses.replace(made, facts="")


def numbers(value: Any) -> tuple[int, ...]:
    """Student numbers from a number, a text like "121,122" or a list.

    Raises:
        Refused: there is none, or something else among them.
    """
    words = [str(each) for each in value] if isinstance(value, list) else re.split(r"[\s,]+", str(value or "").strip())
    if not all(re.fullmatch(r"[1-9][0-9]{0,8}", word) for word in words):
        raise Refused(f"{value!r} are no student numbers; {USAGE}")
    return tuple(dict.fromkeys(int(word) for word in words))


def names(value: Any) -> tuple[str, ...]:
    """Names of scripts from a text like "a.sh,b.sh" or a list; none from nothing."""
    words = [str(each) for each in value] if isinstance(value, list) else re.split(r"[\s,]+", str(value or ""))
    return tuple(dict.fromkeys(word for word in words if word))


def _settings(extra: Mapping[str, Any], loader: Any) -> Settings:
    """The configuration file when there is one, changed by the command line's variables of its names."""
    file = config.find()
    values: dict[str, Any] = {}
    if file.is_file() or os.environ.get("WOD_CONFIG"):
        values = dict(loader.load_from_file(str(file), cache="none") or {})
    values.update({name: value for name, value in extra.items() if name in Settings.model_fields})
    try:
        return Settings.model_validate(plain(values))
    except ValidationError as error:
        words = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise Failed("the configuration can't be used; `wodmail config check` says more", words) from error
