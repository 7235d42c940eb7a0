"""Variable files of single students, encrypted as ansible-vault does (format 1.1, AES256).

Written here without starting `ansible-vault` (half a second each); Ansible itself reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from binascii import hexlify
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from wodmail.errors import Failed
from wodmail.schema import Settings

HEADER = b"$ANSIBLE_VAULT;1.1;AES256"
ROUNDS = 10_000
WIDTH = 80


def pass_file(settings: Settings, challenge: str, student: int) -> Path:
    """Where a student's variable file for one workshop belongs.

    Args:
        settings: the configuration; without a private Ansible folder the file lives below WODSTATEDIR.
        challenge: the workshop as mailed, WKSHP-Name or CHLG-Name. PURGE takes any word: what no workshop's name holds,
            "/" above all, is written as in URLs (%2F), so that the file never leaves the folder.
        student: the student's number.
    """
    return _folder(settings) / f"variables_{quote(challenge, safe='')}_{student}.yml"


def pass_files(settings: Settings, student: int) -> list[Path]:
    """The variable files there are of one student, whatever their workshops, in alphabetical order.

    Args:
        settings: the configuration, see `pass_file`.
        student: the student's number.

    Raises:
        Failed: the folder can't be read.
    """
    folder, end = _folder(settings), f"_{student}.yml"
    try:
        files = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Failed("the folder of the variable files can't be read", str(error)) from error
    return [file for file in files if file.name.startswith("variables_") and file.name.endswith(end)]


def password(settings: Settings) -> str:
    """The vault's password: VAULTPWD, else a random one that this backend keeps in WODSTATEDIR (0600).

    Raises:
        Failed: the key file can't be read or written.
    """
    if settings.VAULTPWD:
        return settings.VAULTPWD
    file = _key_file(settings)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _write_once(file, secrets.token_urlsafe(32).encode())
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise Failed("the key of the variable files can't be read", str(error)) from error


def known_password(settings: Settings) -> str:
    """As `password`, but "" when neither VAULTPWD nor a kept one is there."""
    return password(settings) if settings.VAULTPWD or _key_file(settings).is_file() else ""


def write(path: Path, variables: Mapping[str, str], secret: str) -> None:
    """Write a variable file, encrypted, whole or not at all, mode 0600.

    Args:
        path: the file; folders in between are made (0700).
        variables: names and values, e.g. {"PASSSTU": "…"}.
        secret: the vault's password.

    Raises:
        Failed: it can't be written.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(fresh, encrypted((json.dumps(dict(variables), indent=1) + "\n").encode(), secret))
        fresh.replace(path)
        _sync(path.parent)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise Failed(f"the variable file {path.name} can't be written", str(error)) from error


def forget(path: Path) -> None:
    """Remove a variable file; a missing one is fine.

    Raises:
        Failed: it can't be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Failed(f"the variable file {path.name} can't be removed", str(error)) from error


def encrypted(data: bytes, secret: str) -> bytes:
    """The data as the text of an ansible-vault file."""
    # Imported late: 6 MB that most servers never need.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    salt = secrets.token_bytes(32)
    derived = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, ROUNDS, dklen=80)
    key, signing, counter = derived[:32], derived[32:64], derived[64:]
    padder = PKCS7(128).padder()
    cipher = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    hidden = cipher.update(padder.update(data) + padder.finalize()) + cipher.finalize()
    signature = hmac.new(signing, hidden, hashlib.sha256).hexdigest().encode()
    body = hexlify(b"\n".join((hexlify(salt), signature, hexlify(hidden))))
    lines = [HEADER, *(body[start : start + WIDTH] for start in range(0, len(body), WIDTH))]
    return b"\n".join(lines) + b"\n"


def _folder(settings: Settings) -> Path:
    above = settings.WODANSIBLEPRIVDIR or settings.WODSTATEDIR / "variables"
    return above / settings.WODGROUP / "pass"


def _key_file(settings: Settings) -> Path:
    return settings.WODSTATEDIR / "secrets" / "vault.key"


def _write_once(file: Path, data: bytes) -> None:
    """Make a file appear with its content at once; raises FileExistsError when it is there already."""
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    _write_new(fresh, data)
    try:
        # Unlike a rename, a link never replaces the key that another process has just made.
        os.link(fresh, file)
    finally:
        fresh.unlink()


def _write_new(file: Path, data: bytes) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
