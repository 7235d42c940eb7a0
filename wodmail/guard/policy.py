"""The policy: what the guard takes offence at, what it then does, and what may be busy.

Shipped as sys/guard.yml; WODSYSPRIVDIR/guard.yml goes over it. Units are in the names: `_cores` (1.0 is one core),
`_percent` (1 to 100), `_seconds`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from wodmail.config import Settings
from wodmail.errors import ConfigError, Problem
from wodmail.yamlfile import read_mapping

NAME = "guard.yml"
PATTERN_LENGTH = 500


class Rung(IntEnum):
    """How far up the ladder a finding may lead."""

    WARN = 1
    STOP = 2
    PURGE = 3

    @property
    def word(self) -> str:
        """As the policy writes it."""
        return self.name.lower()


def _rung(value: object) -> object:
    words = {rung.word: rung for rung in Rung}
    if isinstance(value, Rung):
        return value
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"must be one of: {', '.join(words)}")
    return words[value]


def _regular_expression(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be a text; put the expression in quotes")  # noqa: TRY004 - pydantic wants ValueError
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return value


def _number(value: object) -> object:
    """True is 1 to pydantic; where a number belongs it is a slip of the pen."""
    if isinstance(value, bool):
        raise ValueError("write a number, not true or false")  # noqa: TRY004 - pydantic wants ValueError
    return value


Cores = Annotated[float, BeforeValidator(_number), Field(gt=0, le=4096, allow_inf_nan=False)]
Percent = Annotated[float, BeforeValidator(_number), Field(ge=1, le=100)]
Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=31 * 86400)]
Pause = Annotated[float, BeforeValidator(_number), Field(ge=0, le=31 * 86400)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1, le=100_000)]
Port = Annotated[int, BeforeValidator(_number), Field(ge=1, le=65535)]
Then = Annotated[Rung, BeforeValidator(_rung)]
Text = Annotated[str, Field(min_length=1, max_length=PATTERN_LENGTH)]
Pattern = Annotated[str, BeforeValidator(_regular_expression), Field(min_length=1, max_length=PATTERN_LENGTH)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cpu(_Section):
    """Busy programs: those that are not allowed, and `all_` of them but for kernels and servers."""

    limit_cores: Cores
    together_limit_cores: Cores
    window_seconds: Seconds
    longer_than_seconds: Pause
    then: Then
    all_limit_cores: Cores
    all_longer_than_seconds: Pause
    all_then: Then
    all_again_then: Then


class Denied(_Section):
    """Programs by name and command line."""

    names: list[Text]
    command_lines: list[Pattern]
    readers: list[Text]
    then: Then


class Connections(_Section):
    """TCP connections by the other side's port."""

    ports: list[Port]
    then: Then
    loopback_then: Then


class Kernels(_Section):
    """How long a kernel may live."""

    limit_seconds: Seconds
    then: Then


class Gpu(_Section):
    """GPU time of programs that are not allowed."""

    limit_percent: Percent
    longer_than_seconds: Pause
    then: Then


class Allowed(_Section):
    """One kind of program that may be busy.

    Args:
        what: its name for people.
        exe: patterns of real paths.
        modules: with interpreters, the modules (python -m); empty with programs.
        scripts: with interpreters, patterns of paths of scripts, or of the archives of java -jar.
        kernel: whether it is a notebook kernel; it counts only below a server that the hub has started.
        parents: with servers, patterns of the hub's program or script, which must have started it.
        longer_than_seconds: how long it may be busy; None for cpu.all_longer_than_seconds, with kernels for any time.
    """

    what: Text
    exe: list[Text]
    modules: list[Text] = []
    scripts: list[Text] = []
    kernel: bool = False
    parents: list[Text] = []
    longer_than_seconds: Pause | None = None

    @field_validator("exe", "scripts", "parents")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if not pattern.startswith(("/", "{JPHUB}/")):
                raise ValueError(f"{pattern!r} is no absolute path; begin with / or {{JPHUB}}/")
        return value


class Ladder(_Section):
    """When the next rung is taken."""

    stop_after_seconds: Pause
    purge_after_stops: Count
    purge_window_seconds: Seconds
    purge_again_seconds: Seconds
    again_after_stops: Count
    again_window_seconds: Seconds
    forget_seconds: Seconds
    mails_an_hour: Count


class Load(_Section):
    """When the machine as a whole has too much to do."""

    load_limit_per_core: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1000)]
    memory_limit_percent: Percent
    gpu_limit_percent: Percent
    gpu_memory_limit_percent: Percent
    longer_than_seconds: Pause
    again_seconds: Seconds


class Evidence(_Section):
    """How much is kept."""

    hash_limit_bytes: Annotated[int, BeforeValidator(_number), Field(ge=4096, le=2**34)]
    processes_at_most: Count


class Policy(_Section):
    """The whole policy."""

    interval_seconds: Annotated[float, BeforeValidator(_number), Field(ge=0.05, le=300)]
    cpu: Cpu
    denied: Denied
    connections: Connections
    kernels: Kernels
    gpu: Gpu
    allowed: list[Allowed]
    ladder: Ladder
    load: Load
    evidence: Evidence

    def as_data(self) -> dict[str, Any]:
        """As plain data, the way guard.yml writes it."""

        def plain(value: Any) -> Any:
            if isinstance(value, Rung):
                return value.word
            if isinstance(value, dict):
                return {name: plain(inner) for name, inner in value.items()}
            return [plain(inner) for inner in value] if isinstance(value, list) else value

        data: dict[str, Any] = plain(self.model_dump())
        return data


def files(settings: Settings) -> list[Path]:
    """The policy's files, the public one first; the private one only when it is there."""
    found = [settings.WODSYSDIR / NAME]
    private = settings.WODSYSPRIVDIR / NAME if settings.WODSYSPRIVDIR is not None else None
    return [*found, private] if private is not None and private.exists() else found


def stamp(settings: Settings) -> tuple[tuple[str, int, int], ...]:
    """Something that differs when a file of the policy has changed."""
    stamps = []
    for file in files(settings):
        try:
            status = file.stat()
            stamps.append((str(file), status.st_mtime_ns, status.st_size))
        except OSError:
            stamps.append((str(file), 0, -1))
    return tuple(stamps)


def load(settings: Settings) -> Policy:
    """Read and check the policy.

    Args:
        settings: WODSYSDIR, WODSYSPRIVDIR and JPHUB are used.

    Raises:
        ConfigError: everything that is wrong, each with its file and key.
    """
    data: dict[str, Any] = {}
    problems: list[Problem] = []
    names = files(settings)
    for file in names:
        part, wrong = read_mapping(file)
        problems += wrong
        data = over(data, part or {})
    if not problems:
        try:
            return _placed(Policy.model_validate(data), settings)
        except ValidationError as error:
            where = " and ".join(str(file) for file in names)
            problems = [Problem(where, words) for words in map(_words, error.errors(include_url=False))]
    raise ConfigError(problems)


def advice(policy: Policy, cores: int) -> list[str]:
    """What is probably a mistake (pure).

    Args:
        policy: the policy.
        cores: how many the machine has.
    """
    limits = {
        "cpu.limit_cores": policy.cpu.limit_cores,
        "cpu.together_limit_cores": policy.cpu.together_limit_cores,
        "cpu.all_limit_cores": policy.cpu.all_limit_cores,
    }
    warnings = [
        f"{name} is {limit:g}, and this machine has {cores} core(s): it can't be reached. 0.5 is half a core"
        for name, limit in limits.items()
        if limit >= cores
    ]
    if any(each.kernel for each in policy.allowed) and not any(each.parents for each in policy.allowed):
        warnings.append("no entry of allowed has parents: no server is one of the hub's, so no kernel may be busy")
    if policy.cpu.window_seconds < policy.interval_seconds:
        warnings.append("cpu.window_seconds is shorter than interval_seconds: the rate is taken from look to look")
    return warnings


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping laid over another (pure): sections are merged, everything else is replaced."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _placed(policy: Policy, settings: Settings) -> Policy:
    """The policy with {JPHUB} filled in."""
    hub = settings.JPHUB.rstrip("/")

    def filled(patterns: list[str]) -> list[str]:
        return [pattern.replace("{JPHUB}", hub) for pattern in patterns]

    allowed = [
        each.model_copy(update={name: filled(getattr(each, name)) for name in ("exe", "scripts", "parents")})
        for each in policy.allowed
    ]
    return policy.model_copy(update={"allowed": allowed})


def _words(detail: Any) -> str:
    """A pydantic error as the key's path and what to write instead."""
    steps = [f"entry {step + 1}" if isinstance(step, int) else str(step) for step in detail["loc"]]
    key = ".".join(steps).replace(".entry", ", entry")
    kind, context = detail["type"], detail.get("ctx", {})
    units = ""
    if steps and steps[-1].endswith("_percent"):
        units = " (a percentage from 1 to 100, not a fraction)"
    if steps and "_cores" in steps[-1]:
        units = " (processor cores: 0.5 is half a core, not a percentage)"
    texts = {
        "missing": "is missing",
        "extra_forbidden": "is no key of the policy; see docs/guard.md",
        "value_error": "{error}",
        "float_parsing": "must be a number",
        "float_type": "must be a number",
        "int_parsing": "must be a whole number, written in digits",
        "int_type": "must be a whole number, written in digits",
        "string_type": "must be a text; put it in quotes",
        "list_type": "must be a list: [first, second]",
        "model_type": "must be a section: keys and values, indented",
        "greater_than": "must be more than {gt}",
        "greater_than_equal": "must be {ge} or more",
        "less_than_equal": "must be {le} or less",
    }
    told = texts[kind].format(**context) if kind in texts else detail["msg"][:1].lower() + detail["msg"][1:]
    return f"{key} {told}{units}"
