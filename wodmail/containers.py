"""A workshop with a seat for each student on an appliance: a file in conf/containers/ (docs/container-workshops.md)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from wodmail import containersecrets
from wodmail.errors import Problem
from wodmail.yamlfile import read_mapping

FILE = re.compile(r"(WKSHP-[A-Za-z0-9][A-Za-z0-9._-]{0,63})\.yml")
PLACE = re.compile(r"\$\{([^}]*)\}")
GIVEN = frozenset({"STDID", "ADDRESS", "BACKEND", "PASSWORD", "PUBLICKEY"})
"""What an environment may use besides the names of ports, tokens and secrets."""
# What docker and podman give a container by themselves; more than that would let a student out of it.
CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID"}
    | {"SYS_CHROOT"}
)
SECURITY = frozenset(
    {"label=disable", "seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined", "unmask=ALL"}
)
DEVICES = frozenset({"/dev/fuse", "/dev/net/tun"})
NEVER = {
    "privileged": "never: a student would be root on the appliance; see capabilities, devices, security",
    "network": "there is a network a workshop (a seat, with containers beside it); name ports instead",
    "restart": "containers are always started again; there is nothing to choose",
    "password": "no password stands in a file; name a token, made anew for each student",
}
_PORTS_END = 32768  # from here on the kernel gives ports to outgoing connections (ip_local_port_range)


def _one_line(text: object) -> object:
    """Numbers and truth values as they are meant, a text as it is."""
    if isinstance(text, bool):
        return str(text).lower()
    return str(text) if isinstance(text, int | float) else text


Line = Annotated[str, BeforeValidator(_one_line), Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Variable = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,99}$")]
Folder = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]{1,100}){1,20}$")]
Environment = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")], Line]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,31}$")]


WRITTEN_OUT = "a secret is written out, the same for every seat; name a token or a secret, and use it in environment"


def _without_secret(words: list[str]) -> list[str]:
    if containersecrets.in_words(words):
        raise ValueError(WRITTEN_OUT)
    return words


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Port(_Model):
    """A port of the seat.

    Args:
        inside: where the program in the container listens, 1 to 65535.
        first: on the appliance, for the first student of the range; group variable NAME-<workshop> goes before it.
    """

    inside: int = Field(ge=1, le=65535)
    first: int = Field(ge=1024, lt=_PORTS_END)


class Ready(_Model):
    """How it is seen that a seat answers: by an HTTP answer below 500 on the first port, or by a command in it.

    Args:
        path: what is asked of the first port.
        command: run in the container; ready when it ends with 0. Use one of the two.
        seconds: how long it may take, 5 to 280.
    """

    path: str = Field("/", pattern=r"^/[!-~]{0,200}$")
    command: list[Line] = []
    seconds: int = Field(120, ge=5, le=280)

    @field_validator("command")
    @classmethod
    def _no_secret(cls, value: list[str]) -> list[str]:
        return _without_secret(value)


class Web(_Model):
    """A student's entry in a file of passwords (of httpd, StackStorm) on the appliance, and a page behind it.

    Args:
        passwords: the file, lines NAME:HASH (SHA-512 of crypt(5)).
        groups: of these the first that there is may read it.
        pages: folder for a page of each student; none without it.
    """

    passwords: Folder
    groups: list[Name] = Field(min_length=1)
    pages: Folder | None = None


class Container(_Model):
    """One container.

    Args:
        image: registry, name and tag; with `build` the name and tag for what is built.
        build: a Containerfile; setup builds the image of it, from nothing but this text.
        environment: variables; ${NAME} stands for a port, a token, a secret or one of `GIVEN`.
        command: arguments after the image.
        user: number or name in the container.
        volume: folder in the container that is kept when it is started again; removed with the seat.
        memory: at most, such as 2g.
        cpus: at most, 0.1 to 64.
        pids: processes at most, 16 to 100000.
        capabilities: what is left of the engine's default set, of `CAPABILITIES`; none by default.
        devices: of `DEVICES`.
        security: options for --security-opt, of `SECURITY`.
        new_privileges: whether set-uid programs work inside.
    """

    image: str = Field(pattern=r"^[a-z0-9][a-z0-9._/:-]{0,200}:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")
    build: str = Field("", max_length=20_000)
    environment: Environment = {}
    command: list[Line] = []
    user: str = Field("", pattern=r"^([A-Za-z0-9_.-]{1,32}(:[A-Za-z0-9_.-]{1,32})?)?$", coerce_numbers_to_str=True)
    volume: Folder | None = None
    memory: str = Field("2g", pattern=r"^[1-9][0-9]{0,5}[mg]$")
    cpus: float = Field(1.0, ge=0.1, le=64)
    pids: int = Field(512, ge=16, le=100_000)
    capabilities: list[str] = []
    devices: list[str] = []
    security: list[str] = []
    new_privileges: bool = False

    @field_validator("capabilities", "devices", "security")
    @classmethod
    def _known(cls, value: list[str], info: Any) -> list[str]:
        possible = {"capabilities": CAPABILITIES, "devices": DEVICES, "security": SECURITY}[info.field_name]
        for each in value:
            if each not in possible:
                raise ValueError(f"{each[:60]!r} is not possible; there are {', '.join(sorted(possible))}")
        return value

    @field_validator("build")
    @classmethod
    def _containerfile(cls, value: str) -> str:
        if value and not value.lstrip().startswith(("FROM ", "#")):
            raise ValueError("a Containerfile begins with FROM image:tag")
        if containersecrets.in_build(value):
            raise ValueError(WRITTEN_OUT)
        return value

    @field_validator("command")
    @classmethod
    def _no_secret_word(cls, value: list[str]) -> list[str]:
        return _without_secret(value)

    @field_validator("environment")
    @classmethod
    def _no_secret(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if containersecrets.in_environment(name, text):
                raise ValueError(f"{name} is written out; name a token or a secret, and write ${{NAME}} here")
        return value

    @model_validator(mode="after")
    def _from_a_registry(self) -> Self:
        """Podman takes no image without its registry; what is built has none."""
        if not self.build and "." not in self.image.partition("/")[0]:
            raise ValueError("image: name its registry too, as in docker.io/library/postgres:17")
        return self


class Definition(_Model):
    """A workshop's seats on its appliance.

    Args:
        description: one line for people.
        engine: docker, podman, or any: whichever is there.
        seats: students that ports are kept for, from the first of the range on, 1 to 2000.
        ports: by the variable that tells notebooks the number, such as HTTPPORT, SSHPORT.
        tokens: variables with a new random value for each student, told to the notebooks.
        secrets: the same, for the containers alone.
        ready: see `Ready`.
        notebooks: folder in the container that the workshop's notebooks are put into, and brought home from.
        container: the seat; none for a workshop that needs an account there and no more.
        beside: containers of the same seat, reached from it by their name.
        web: see `Web`.
    """

    description: Line = ""
    engine: Literal["any", "docker", "podman"] = "any"
    seats: int = Field(100, ge=1, le=2000)
    ports: dict[Variable, Port] = {}
    tokens: list[Variable] = []
    secrets: list[Variable] = []
    ready: Ready = Ready()
    notebooks: Folder | None = None
    container: Container | None = None
    beside: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,19}$")], Container] = {}
    web: Web | None = None

    @property
    def containers(self) -> dict[str, Container]:
        """All by name, those beside the seat first, so that it finds them; the seat's own has the name ""."""
        return {**self.beside, "": self.container} if self.container is not None else {}

    @property
    def names(self) -> frozenset[str]:
        """What ${NAME} may stand for."""
        return GIVEN | set(self.ports) | set(self.tokens) | set(self.secrets)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.container is None:
            self._without_container()
            return self
        if not self.ports:
            raise ValueError("ports: a seat without a port can't be reached; name one, such as HTTPPORT")
        named = [*self.ports, *self.tokens, *self.secrets]
        for twice in {name for name in named if named.count(name) > 1 or name in GIVEN | {"PASSSTU"}}:
            raise ValueError(f"{twice} is used twice, or by wodmail itself; choose another name")
        for name, port in self.ports.items():
            if port.first + self.seats > _PORTS_END:
                raise ValueError(f"ports: {name} ends at {port.first + self.seats - 1}; stay below {_PORTS_END}")
        for container in self.containers.values():
            self._places(container)
        return self

    def _without_container(self) -> None:
        alone = ("ports", "tokens", "secrets", "notebooks", "beside")
        for name in alone:
            if getattr(self, name):
                raise ValueError(f"{name}: only with a container")

    def _places(self, container: Container) -> None:
        """Secrets reach a container through its environment alone: a command line can be read by every user."""
        for key, text in container.environment.items():
            for place in PLACE.findall(text):
                if place not in self.names:
                    raise ValueError(f"environment: {key}: ${{{place}}} is nothing; there are {sorted(self.names)}")
        for text in [*container.command, *self.ready.command, container.build]:
            if any(place in self.names for place in PLACE.findall(text)):
                raise ValueError("command, build: ${NAME} is filled in by wodmail in environment alone")


def read(file: Path) -> tuple[Definition | None, list[Problem]]:
    """A definition and everything that is wrong with it; None when it can't be used.

    Args:
        file: WKSHP-Name.yml.
    """
    if FILE.fullmatch(file.name) is None:
        return None, [Problem(str(file), "its name is not WKSHP-Name.yml: nothing would use it")]
    data, problems = read_mapping(file)
    if data is None or problems:
        return None, problems
    try:
        return Definition.model_validate(data), []
    except ValidationError as error:
        return None, [_problem(file, detail) for detail in error.errors(include_url=False, include_input=False)]


def _problem(file: Path, detail: ErrorDetails) -> Problem:
    """One mistake; what was written is not repeated, it may be a secret."""
    where = ".".join(str(part) for part in detail["loc"])
    words = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        key = str(detail["loc"][-1])
        words = NEVER.get(key, "there is no such key; docs/container-workshops.md has them all")
    return Problem(str(file), f"{where}: {words}" if where else words)
