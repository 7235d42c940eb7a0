"""The passwords of the Ansible vault: where they are from, and which one is used (docs/variables.md)."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from wodmail import checks, vaultformat
from wodmail.errors import Failed
from wodmail.schema import Settings

SECRET_FILE = checks.VAULT_SECRET


@dataclass(frozen=True, slots=True)
class Key:
    """A password of the vault.

    Args:
        name: where it is from: a key of the configuration, or a file.
        word: the password.
    """

    name: str
    word: str = field(repr=False)


def secret_file(settings: Settings) -> Path | None:
    """The file that existing scripts give `ansible-vault --vault-password-file`; None where there is none.

    Raises:
        Failed: nobody lets us look.
    """
    folder = settings.WODANSIBLEPRIVDIR
    try:
        return folder / SECRET_FILE if folder is not None and (folder / SECRET_FILE).exists() else None
    except OSError as error:
        raise Failed("The file of the vault's password can't be read; the operator has to look.", str(error)) from error


def keys(settings: Settings) -> list[Key]:
    """The passwords that there are, the one to encrypt with first; each is tried when something is to be opened.

    The file comes before VAULTPWD, because the scripts that open our files are given the file.

    Raises:
        Failed: the file is there and can't be used; says what to do.
    """
    found = []
    file = secret_file(settings)
    if file is not None:
        found.append(Key(str(file), _from_file(file)))
    if settings.VAULTPWD:
        found.append(Key("VAULTPWD", settings.VAULTPWD))
    if _key_file(settings).is_file():
        found.append(Key(str(_key_file(settings)), _kept(settings)))
    return [key for at, key in enumerate(found) if key.word not in {earlier.word for earlier in found[:at]}]


def _from_file(file: Path) -> str:
    """A password as Ansible reads it from a file: without the blanks around it."""
    words = "The vault's password can't be used; the operator has to look at its file."
    problem = checks.secret_problem(file)
    if problem:
        raise Failed(words, problem)
    try:
        word = file.read_bytes().strip().decode()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise Failed(words, f"{file}: {cause}") from None
    if not word or vaultformat.is_encrypted(word.encode()):
        raise Failed(words, f"{file} {'is itself encrypted' if word else 'is empty'}: write the password there, alone")
    return word


def password(settings: Settings) -> str:
    """The vault's password: WODANSIBLEPRIVDIR/vault_secret, else VAULTPWD, else a random one that this backend keeps.

    Raises:
        Failed: a key file can't be read or written.
    """
    known = keys(settings)
    return known[0].word if known else _kept(settings)


def known(settings: Settings) -> tuple[str, ...]:
    """All passwords that may open something, the one to encrypt with first; none when no secret was ever kept.

    Raises:
        Failed: see `keys`.
    """
    return tuple(key.word for key in keys(settings))


def _kept(settings: Settings) -> str:
    """The random password in WODSTATEDIR (0600), made when it isn't there."""
    file = _key_file(settings)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _write_once(file, secrets.token_urlsafe(32).encode())
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise Failed("the key of the variable files can't be read", str(error)) from error


def tried(settings: Settings) -> str:
    """Where the passwords are from, for an operator."""
    return ", ".join(key.name for key in keys(settings)) or f"none: neither {SECRET_FILE} nor VAULTPWD is there"


def _key_file(settings: Settings) -> Path:
    return settings.WODSTATEDIR / "secrets" / "vault.key"


def _write_once(file: Path, data: bytes) -> None:
    """Make a file appear with its content at once; raises FileExistsError when it is there already."""
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    write_new(fresh, data)
    try:
        # Unlike a rename, a link never replaces the key that another process has just made.
        os.link(fresh, file)
    finally:
        fresh.unlink()


def write_new(file: Path, data: bytes) -> None:
    """Write a file that isn't there yet, mode 0600, and see that it is on the disk; raises OSError."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
