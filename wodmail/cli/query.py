"""`wodmail query`: what workshop scripts ask and tell; the functions of scripts/functions.sh call these.

One answer on standard output, exit status 0; anything else ends with another status and its reason on standard error.
A script asks many times, each time in a process of its own: so each command imports what it needs and no more.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wodmail import directory, registry, students
from wodmail.catalog import Workshop, folder_name
from wodmail.config import load
from wodmail.directory import Directory
from wodmail.errors import Away, Failed, Temporary
from wodmail.registry.base import Registry
from wodmail.schema import Settings
from wodmail.students import base

if TYPE_CHECKING:
    from wodmail.scripts import Scripts

FIRST_POLL_SECONDS, POLL_SECONDS = 0.5, 20.0
WAIT_SECONDS = 900.0
LONGEST = 64 * 1024
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
FIELDS = ("name", "reset", "ldap", "varpass", "monoappliance", "multiappliance", "compile", "range-min", "range-max")


class Backend:
    """What the answers come from, opened when first asked.

    Args:
        file: the configuration file; None for the usual place.
    """

    def __init__(self, file: Path | None) -> None:
        self.settings: Settings = load(file, files=False)

    @property
    def registry(self) -> Registry:
        """The registry of this backend."""
        return registry.for_settings(self.settings)

    @property
    def directory(self) -> Directory:
        """The directory of this backend."""
        return directory.for_settings(self.settings)

    @property
    def accounts(self) -> base.Accounts:
        """The students' accounts of this backend."""
        return students.for_settings(self.settings)


@click.group()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="Configuration file; without it $WOD_CONFIG, else /etc/wod.yml.",
)
@click.pass_context
def query(context: click.Context, file: Path | None) -> None:
    """Answer what workshop scripts ask (see docs/scripts.md)."""
    context.obj = Backend(file)


@query.command("session-token")
@click.pass_obj
def session_token(backend: Backend) -> None:
    """Print a token for the API-DB; an empty line where none is needed."""
    click.echo(backend.registry.session_token())


@query.command("workshop-id")
@click.argument("name")
@click.pass_obj
def workshop_id(backend: Backend, name: str) -> None:
    """Print the number of a workshop, WKSHP-Name or CHLG-Name."""
    click.echo(backend.registry.workshop(name).id)


@query.command("workshop")
@click.argument("number", type=int)
@click.argument("field", type=click.Choice(FIELDS))
@click.pass_obj
def workshop(backend: Backend, number: int, field: str) -> None:
    """Print one field of the workshop with that number: true or false, a number, or a text."""
    click.echo(_field(backend.registry.workshop_by_id(number), field))


def _field(found: Workshop, field: str) -> str:
    if field == "compile":
        return ",".join(found.compile) or "false"
    if field.startswith("range-"):
        if found.range is None:
            raise Failed(f"{found.name} has no range in its wod.yml.")
        return str(found.range[0 if field == "range-min" else 1])
    value = getattr(found, field)
    return str(value).lower() if isinstance(value, bool) else str(value)


@query.command("student")
@click.argument("student", type=int)
@click.pass_obj
def student_exists(backend: Backend, student: int) -> None:
    """End with status 0 when there is such a student here."""
    base.check_number(backend.settings, student)


@query.command("cleaned")
@click.argument("participant", type=int)
@click.pass_obj
def cleaned(backend: Backend, participant: int) -> None:
    """Print whether a participant's CLEANUP has ended: true or false."""
    click.echo(str(backend.registry.is_clean(participant)).lower())


@query.command("wait-cleaned")
@click.argument("participant", type=int)
@click.option("--timeout", type=float, default=WAIT_SECONDS, show_default=True, help="Seconds to wait at most.")
@click.pass_obj
def wait_cleaned(backend: Backend, participant: int, timeout: float) -> None:
    """Wait until a participant's CLEANUP has ended; exit status 75 when it takes too long."""
    registry = backend.registry
    end, pause = time.monotonic() + timeout, FIRST_POLL_SECONDS
    while not _is_clean(registry, participant):
        left = end - time.monotonic()
        if left <= 0:
            raise Temporary(f"participant {participant} is not cleaned after {timeout:g} s")
        time.sleep(min(pause, left))
        pause = min(2 * pause, POLL_SECONDS)


def _is_clean(registry: Registry, participant: int) -> bool:
    """Whether it is known that the participant is cleaned; a registry that is away for a moment ends no wait."""
    try:
        return registry.is_clean(participant)
    except Away:
        return False


@query.command("appliance-base")
@click.argument("name")
@click.pass_obj
def appliance_base(backend: Backend, name: str) -> None:
    """Print the address of a workshop's (first) appliance, the group variable IP-NAME."""
    click.echo(_scripts(backend).base_address(name))


@query.command("appliance-target")
@click.argument("name")
@click.argument("student", type=int)
@click.pass_obj
def appliance_target(backend: Backend, name: str, student: int) -> None:
    """Print the address of the appliance that a student works on, as WODRTARGET is made.

    NAME is the workshop as mailed, WKSHP-Name or CHLG-Name.
    """
    base.check_number(backend.settings, student)
    found = _scripts(backend).target(name, student)
    if found is None:
        raise Failed(f"{name} has no appliance; say monoappliance or multiappliance in its wod.yml")
    click.echo(found)


def _scripts(backend: Backend) -> Scripts:
    from wodmail.children import Children
    from wodmail.scripts import Scripts

    settings = backend.settings
    return Scripts(settings, Children(settings.WODSTATEDIR), backend.registry.workshop)


@query.command("new-password")
@click.pass_obj
def new_password(backend: Backend) -> None:
    """Print a new random password of letters and digits."""
    from wodmail.newpassword import new_password as make

    click.echo(make(backend.settings.WODPASSWORDLENGTH))


@query.command("completion")
@click.argument("student", type=int)
@click.argument("name")
@click.pass_obj
def completion_ratio(backend: Backend, student: int, name: str) -> None:
    """Print how far a student got in a workshop, in percent."""
    from wodmail import completion

    click.echo(completion.ratio(backend.accounts.notebooks(student, name)))


@query.command("public-key")
@click.argument("student", type=int)
@click.pass_obj
def public_key(backend: Backend, student: int) -> None:
    """Print a student's public ssh key in one line, without its comment."""
    from wodmail.students import publickey

    base.check_number(backend.settings, student)
    settings = backend.settings
    click.echo(publickey.read(settings.WODSTUDDIR, base.name_of(student), settings.WODSSHKEYTYPE))


@query.command("add-notebooks")
@click.argument("student", type=int)
@click.argument("name")
@click.pass_obj
def add_notebooks(backend: Backend, student: int, name: str) -> None:
    """Put the notebooks of a tar archive, read from standard input, into a student's folder of a workshop.

    The archive holds one folder; whatever its name, its notebooks go into the workshop's. NAME is WKSHP-Name or
    CHLG-Name.
    """
    from wodmail.students import broughthome

    folder = folder_name(name)
    if folder is None:
        raise Failed(f"{name!r} is no workshop; write WKSHP-Name or CHLG-Name")
    count = backend.accounts.add_notebooks(student, folder, broughthome.notebooks(sys.stdin.buffer))
    click.echo(f"{count} notebook(s)")


@query.command("notebooks")
@click.argument("student", type=int)
@click.argument("name")
@click.pass_obj
def notebooks(backend: Backend, student: int, name: str) -> None:
    """Write a student's notebooks of a workshop to standard output, as a tar archive with the workshop's folder in it.

    NAME is WKSHP-Name or CHLG-Name. They are read with the student's rights.
    """
    from wodmail.students import broughthome

    base.check_number(backend.settings, student)
    folder = folder_name(name)
    if folder is None:
        raise Failed(f"{name!r} is no workshop; write WKSHP-Name or CHLG-Name")
    broughthome.pack(folder, backend.accounts.notebooks(student, folder), sys.stdout.buffer)


@query.command("erase")
@click.argument("student", type=int)
@click.pass_obj
def erase(backend: Backend, student: int) -> None:
    """End a student's processes and make the home anew."""
    backend.accounts.erase(student)


@query.command("end-processes")
@click.argument("student", type=int)
@click.pass_obj
def end_processes(backend: Backend, student: int) -> None:
    """End everything that runs as a student."""
    backend.accounts.end_processes(student)


@query.command("directory-password")
@click.argument("student", type=int)
@click.pass_obj
def directory_password(backend: Backend, student: int) -> None:
    """Set a student's password in the directory (LDAP); the password is read from standard input."""
    base.check_number(backend.settings, student)
    backend.directory.set_password(student, _password())


@query.command("variable-password")
@click.argument("student", type=int)
@click.argument("name")
@click.pass_obj
def variable_password(backend: Backend, student: int, name: str) -> None:
    """Put PASSSTU into a student's vaulted variable file; the password is read from standard input.

    NAME is the workshop as mailed, WKSHP-Name or CHLG-Name.
    """
    _add_variable(backend.settings, student, name, {"PASSSTU": _password()})


@query.command("variable")
@click.argument("student", type=int)
@click.argument("name")
@click.argument("variable")
@click.pass_obj
def variable(backend: Backend, student: int, name: str, variable: str) -> None:
    """Put a variable into a student's vaulted variable file; its value is read from standard input.

    NAME is the workshop as mailed, WKSHP-Name or CHLG-Name. The newline at the end of the value is left out.
    """
    if not VARIABLE.fullmatch(variable):
        raise Failed(f"{variable!r} is no variable's name; write letters, digits and _, e.g. MLTOK")
    value = sys.stdin.read(LONGEST + 1)
    if not value or len(value) > LONGEST:
        raise Failed(f"{variable} has no value, or one longer than {LONGEST} characters; write it to standard input")
    _add_variable(backend.settings, student, name, {variable: value.removesuffix("\n")})


@query.command("variables")
@click.argument("student", type=int)
@click.argument("name")
@click.pass_obj
def variables(backend: Backend, student: int, name: str) -> None:
    """Put several variables into a student's vaulted variable file, from lines NAME=VALUE on standard input.

    NAME is the workshop as mailed, WKSHP-Name or CHLG-Name.
    """
    text = sys.stdin.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise Failed(f"the variables are longer than {LONGEST} characters")
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        variable, equals, value = line.partition("=")
        if not equals or not value or not VARIABLE.fullmatch(variable):
            raise Failed(f"line {number} of the variables is not NAME=VALUE")  # not quoted, it may be a secret
        values[variable] = value
    if not values:
        raise Failed("there are no variables; write lines NAME=VALUE to standard input")
    _add_variable(backend.settings, student, name, values)


def _add_variable(settings: Settings, student: int, name: str, values: dict[str, str]) -> None:
    from wodmail import vault

    base.check_number(settings, student)
    if folder_name(name) is None:
        raise Failed(f"{name!r} is no workshop; write WKSHP-Name or CHLG-Name")
    vault.add(vault.pass_file(settings, name, student), values, settings)


def _password() -> str:
    word = sys.stdin.readline().rstrip("\n")
    base.check_password(word)
    return word


@click.group()
def root() -> None:
    """The command line of `wodmail query` alone, see `wodmail.cli.main`."""


root.add_command(query)
