"""What keys must be like together, and what the files they name must be like. Pure apart from looking at files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wodmail.errors import Problem
from wodmail.schema import Settings, secret_keys

SERVICES = {
    "API-DB": (("WODAPIDBEXTURL", "WODAPIDBUSER", "WODAPIDBUSERPWD"), ("WODAPIDBURL",)),
    "JupyterHub": (("WODBEAPIURL", "WODBETOKEN"), ()),
    "LDAP": (
        ("WODLDAPSRVNAME", "WODLDAPDMN", "WODLDAPPWD"),
        ("WODLDAPPORT", "WODLDAPBINDDN", "WODLDAPTLS", "WODLDAPSETUPUSER"),
    ),
}
"""By service: the keys that it needs, and those that make sense with it alone."""

PRIVATE = ("WODANSIBLEPRIVDIR", "WODSCRIPTPRIVDIR", "WODSYSPRIVDIR")
THERE, ABSENT, HIDDEN = "there", "absent", "hidden"
VAULT_SECRET = "vault_secret"  # noqa: S105 - the name of a file


def values(settings: Settings) -> list[Problem]:
    """Everything wrong with the values together; looks at no file."""
    return [*_services(settings), *_students(settings), *_door(settings), *_urls(settings), *_names(settings)]


def files(settings: Settings) -> list[Problem]:
    """Everything wrong with the files and folders that the settings name."""
    return [*_private_files(settings), *_folders(settings), *_state(settings)]


def advice(settings: Settings, file: Path) -> list[Problem]:
    """What works but is probably not meant."""
    return [
        *_open_secrets(settings, file),
        *_two_passwords(settings),
        *_pass_folder(settings),
        *_open_ldap(settings),
        *_senders(settings),
        *_postfix_advice(settings),
        *_blanks(settings),
        *absent(settings),
    ]


def absent(settings: Settings, names: Iterable[str] = PRIVATE) -> Iterator[Problem]:
    """Private folders that the configuration names itself and that aren't there; those below WODPRIVDIR need not be.

    Args:
        settings: the configuration.
        names: keys to look at.
    """
    for name in names:
        folder: Path | None = getattr(settings, name)
        if name in settings.model_fields_set and folder is not None and _seen(folder) == ABSENT:
            yield Problem(
                name,
                f"there is no folder {folder}, so nothing private is taken from there; make it or write another path",
            )


def _seen(folder: Path) -> str:
    """What can be seen of a folder; one behind a folder that this account can't enter can't be judged."""
    try:
        return THERE if folder.is_dir() else ABSENT
    except PermissionError:
        return HIDDEN


def _written(settings: Settings, name: str) -> bool:
    default: Any = Settings.model_fields[name].default
    return name in settings.model_fields_set and getattr(settings, name) != default


def _services(settings: Settings) -> Iterator[Problem]:
    """Half-configured services: a lost key must never silently change what a mail means."""
    for service, (needed, further) in SERVICES.items():
        written = [name for name in (*needed, *further) if _written(settings, name)]
        if not written:
            continue
        for name in needed:
            if not getattr(settings, name):
                yield Problem(name, f"{service} is half configured ({', '.join(written)}): write this key too, or none")


def _students(settings: Settings) -> Iterator[Problem]:
    if settings.WODUSERMIN > settings.WODUSERMAX:
        yield Problem("WODUSERMIN", f"must not be above WODUSERMAX ({settings.WODUSERMAX})")
    if "WODMAXCOUNT" in settings.model_fields_set and settings.WODMAXCOUNT > settings.WODUSERMAX:
        yield Problem("WODMAXCOUNT", f"must not be above WODUSERMAX ({settings.WODUSERMAX})")


def _door(settings: Settings) -> Iterator[Problem]:
    """Keys of the front door that need or exclude each other."""
    for name, other in (("WODTLSCERT", "WODTLSKEY"), ("WODTLSKEY", "WODTLSCERT")):
        if getattr(settings, name) and not getattr(settings, other):
            yield Problem(other, f"{name} is written: write the other half of the pair too, or neither")
    if settings.WODREQUIRESIGNATURE is not False and settings.WODSIGNKEYFILE is None:
        yield Problem("WODSIGNKEYFILE", "WODREQUIRESIGNATURE needs a file of keys: write its path")
    if settings.WODDOOR != "postfix":
        return
    for name in ("WODTLSCERT", "WODTLSKEY", "WODAUTHFILE"):
        if getattr(settings, name):
            yield Problem(name, "belongs to the listener; with WODDOOR postfix remove it and configure Postfix instead")
    if isinstance(settings.WODREQUIRESIGNATURE, list):
        yield Problem(
            "WODREQUIRESIGNATURE", "Postfix doesn't tell the peer, so no network can be exempt: true or false"
        )


def _urls(settings: Settings) -> Iterator[Problem]:
    schemes = {
        "WODSMTPURL": ("smtp",),
        "WODDATABASEURL": ("postgresql", "sqlite"),
        "WODAPIDBEXTURL": ("http", "https"),
        "WODBEAPIURL": ("http", "https"),
    }
    for name, known in schemes.items():
        text = getattr(settings, name)
        if text and not _url_ok(text, known):
            yield Problem(name, f"must begin with {' or '.join(f'{scheme}://' for scheme in known)} and name a host")
    if not set(settings.WODLDAPSRVNAME).isdisjoint("/ @"):
        yield Problem("WODLDAPSRVNAME", "must be a host's name or address alone; the port belongs in WODLDAPPORT")
    for name in ("WODAPIDBEXTURL", "WODBEAPIURL"):
        if "@" in getattr(settings, name).partition("://")[2].partition("/")[0]:
            yield Problem(name, "must not hold a user or a password, which scripts and programs would show; remove it")
    if settings.WODAPIDBEXTURL and not settings.WODAPIDBEXTURL.rstrip("/").endswith("/api"):
        yield Problem("WODAPIDBEXTURL", "must end in /api")


def _url_ok(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return False
    return url.scheme in schemes and bool(url.hostname or url.scheme == "sqlite")


def _names(settings: Settings) -> Iterator[Problem]:
    """Names that end up in mail headers or in a shared queue."""
    for name in ("WODSENDER", "WODMONITOR"):
        if not _address_ok(getattr(settings, name)):
            yield Problem(name, "must be one mail address: name@host")
    for number, address in enumerate(settings.WODALLOWEDSENDERS, 1):
        if not _address_ok(address):
            yield Problem("WODALLOWEDSENDERS", f"entry {number} must be one mail address: name@host")
    shared = settings.WODDATABASEURL.startswith("postgresql")
    if shared and not settings.WODSANDBOX and not {"WODBACKEND", "WODBEFQDN"} & settings.model_fields_set:
        yield Problem("WODBACKEND", "with a shared database write this host's own name here, or in WODBEFQDN")


def _address_ok(text: str) -> bool:
    local, at, host = text.rpartition("@")
    return not text or bool(local and at and host and text.isprintable() and not set(text) & set(' <>,;"'))


def _private_files(settings: Settings) -> Iterator[Problem]:
    """Files that must exist; those with secrets must be closed to others."""
    for name in ("WODSIGNKEYFILE", "WODTLSCERT", "WODTLSKEY", "WODAUTHFILE"):
        file: Path | None = getattr(settings, name)
        if file is None:
            continue
        problem = _file_problem(file, private=name != "WODTLSCERT")
        if problem:
            yield Problem(name, problem)
    yield from _vault_secret(settings)


def _vault_secret(settings: Settings) -> Iterator[Problem]:
    """The file of the vault's password, which has no key of its own: it is known by its name."""
    folder = settings.WODANSIBLEPRIVDIR
    file = folder / VAULT_SECRET if folder is not None else None
    if file is not None and os.path.lexists(file):
        problem = secret_problem(file)
        if problem:
            yield Problem("WODANSIBLEPRIVDIR", problem)


def secret_problem(file: Path) -> str:
    """What is wrong with a file that holds a password for ansible-vault, "" when nothing is."""
    problem = _file_problem(file, private=True)
    if problem or not file.stat().st_mode & stat.S_IXUSR:
        return problem
    return f"{file} is executable, so that ansible-vault runs it instead of reading it; chmod 0600"


def _file_problem(file: Path, *, private: bool) -> str:
    try:
        status = file.stat()
    except OSError as error:
        return f"{file}: {error.strerror}; write the path of an existing file"
    if not stat.S_ISREG(status.st_mode):
        return f"{file} is no file"
    if private and status.st_mode & 0o037:
        mode = stat.S_IMODE(status.st_mode)
        return f"{file} has mode {mode:04o} and is open to others; chmod 0600 (0640 when a group must read it)"
    if not os.access(file, os.R_OK):
        return f"{file} can't be read by this account"
    return ""


def _folders(settings: Settings) -> Iterator[Problem]:
    """Folders that were written must exist; workshops must be somewhere."""
    for name in ("WODROOTDIR", "WODBEDIR", "WODANSIBLEDIR", "WODSCRIPTDIR", "WODNOBO", "WODPRIVDIR", "WODPRIVNOBO"):
        folder = getattr(settings, name)
        seen = _seen(folder) if name in settings.model_fields_set and folder is not None else THERE
        if seen == ABSENT:
            yield Problem(name, f"there is no folder {folder}; make it or write another path")
        elif seen == HIDDEN:
            yield Problem(name, f"{folder} can't be reached by this account, which a folder above it shuts out")
    private = settings.WODPRIVNOBO
    nowhere = _seen(settings.WODNOBO) != THERE and (private is None or _seen(private) != THERE)
    if nowhere and "WODNOBO" not in settings.model_fields_set:
        yield Problem("WODNOBO", f"there are no workshops in {settings.WODNOBO}; write the folder that holds WKSHP-*")


def _state(settings: Settings) -> Iterator[Problem]:
    if os.path.lexists(settings.WODSTATEDIR) and _seen(settings.WODSTATEDIR) == ABSENT:
        yield Problem(
            "WODSTATEDIR", f"{settings.WODSTATEDIR} is no folder; write the path of one, it is made when absent"
        )


def _open_secrets(settings: Settings, file: Path) -> Iterator[Problem]:
    """A configuration with secrets in it should be closed to others."""
    held = sorted(name for name in secret_keys() & settings.model_fields_set if getattr(settings, name))
    if held and file.stat().st_mode & 0o007:
        yield Problem(
            str(file), f"holds {', '.join(held)} and is open to all; chmod 0640 it, owner root, group WODUSER"
        )


def _two_passwords(settings: Settings) -> Iterator[Problem]:
    """Scripts open with the file what wodmail has encrypted; VAULTPWD is then for reading alone."""
    folder = settings.WODANSIBLEPRIVDIR
    file = folder / VAULT_SECRET if folder is not None else None
    if file is None or not settings.VAULTPWD or not os.access(file, os.R_OK) or not file.is_file():
        return
    if file.read_bytes().strip() != settings.VAULTPWD.encode():
        yield Problem("VAULTPWD", f"is not what {file} holds, and that is used to encrypt; make them the same")


def _pass_folder(settings: Settings) -> Iterator[Problem]:
    """Where existing scripts have variable files in clear for a moment."""
    folder = (settings.WODANSIBLEPRIVDIR or Path()) / settings.WODGROUP / "pass"
    if settings.WODANSIBLEPRIVDIR is None or _seen(folder) != THERE:
        return
    if folder.stat().st_mode & 0o007:
        yield Problem("WODANSIBLEPRIVDIR", f"{folder} is open to all; chmod 0700, scripts decrypt passwords there")
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Problem("WODANSIBLEPRIVDIR", f"{folder} can't be written by this account; give it to WODUSER")


def _open_ldap(settings: Settings) -> Iterator[Problem]:
    """Passwords in clear on a network."""
    host = settings.WODLDAPSRVNAME
    if host and settings.WODLDAPTLS == "off" and host not in ("localhost", "::1") and not host.startswith("127."):
        yield Problem(
            "WODLDAPTLS", f"is off, so passwords cross the network to {host} in clear; write starttls or ldaps"
        )


def _postfix_advice(settings: Settings) -> Iterator[Problem]:
    if settings.WODDOOR == "postfix" and "WODALLOWEDPEERS" in settings.model_fields_set:
        yield Problem("WODALLOWEDPEERS", "has no effect with WODDOOR postfix; Postfix decides who may connect")


def _senders(settings: Settings) -> Iterator[Problem]:
    """With the sandbox off, an empty list of senders lets nobody command."""
    if not (settings.WODSANDBOX or settings.WODSENDER or settings.WODALLOWEDSENDERS):
        yield Problem("WODSENDER", "is empty, so nobody may command; write the envelope sender of the frontend's mails")


def _blanks(settings: Settings) -> Iterator[Problem]:
    """Existing scripts use these paths unquoted."""
    for name in ("WODANSIBLEDIR", "WODANSIBLEPRIVDIR", "WODSCRIPTDIR", "WODSCRIPTPRIVDIR", "WODNOBO", "WODSTUDDIR"):
        if any(character.isspace() for character in str(getattr(settings, name) or "")):
            yield Problem(name, "has a blank in its path; workshop scripts that use it unquoted will not find it")
