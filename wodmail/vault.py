"""Variable files of single students, encrypted as ansible-vault does (docs/variables.md).

Scripts read and write the same files with the `ansible-vault` command: the text in them is plain YAML, a line a name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import yaml

from wodmail import vaultformat, vaultkeys
from wodmail.errors import Failed
from wodmail.schema import Settings

_STRING = "tag:yaml.org,2002:str"
_MARKS = ("{{", "{%", "{#")


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


def write(path: Path, variables: Mapping[str, str], secret: str) -> None:
    """Write a variable file, encrypted, whole or not at all, mode 0600.

    Args:
        path: the file; folders in between are made (0700).
        variables: names and values, e.g. {"PASSSTU": "…"}.
        secret: the vault's password.

    Raises:
        Failed: it can't be written.
    """
    _write(path, _merged(path, "", variables), secret)


def add(path: Path, variables: Mapping[str, str], settings: Settings) -> None:
    """Put variables into a variable file and keep the others that it holds; one that isn't there is made.

    Args:
        path: the file; it may be encrypted or not, afterwards it is.
        variables: names and values; a value is a text that is used as it is, template marks in it included.
        settings: tells the vault's passwords.

    Raises:
        Failed: it can't be read, opened or written.
    """
    with _alone(path):
        secret = vaultkeys.password(settings)
        _write(path, _merged(path, read(path, settings), variables), secret)


def read(path: Path, settings: Settings) -> str:
    """The text of a variable file, opened; empty when there is none.

    Raises:
        Failed: it can't be read, or none of the passwords opens it; names the file and where they are from.
    """
    try:
        data = path.read_bytes()
        return (opened(data, settings) if vaultformat.is_encrypted(data) else data).decode()
    except FileNotFoundError:
        return ""
    except vaultformat.WrongKeyError as error:
        raise Failed(wrong_key(path.name), f"{path}: {error}; tried: {vaultkeys.tried(settings)}") from None
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "damaged, or no UTF-8 text"
        raise Failed(f"the variable file {path.name} can't be read", f"{path}: {cause}") from None


def opened(data: bytes, settings: Settings) -> bytes:
    """What an ansible-vault text holds.

    Raises:
        vaultformat.WrongKeyError: none of the passwords opens it.
        ValueError: it is damaged.
        Failed: see `vaultkeys.keys`.
    """
    return vaultformat.decrypted(data, vaultkeys.known(settings))


def wrong_key(name: str) -> str:
    """The words about a variable file that was encrypted with another password."""
    return other_key(f"the variable file {name}")


def other_key(what: str) -> str:
    """The words about something that was encrypted with another password."""
    return (
        f"{what} was encrypted with another password than this backend's vault has; encrypt it anew, "
        f"or correct {vaultkeys.SECRET_FILE} in WODANSIBLEPRIVDIR (VAULTPWD where there is no such file)"
    )


def forget(path: Path) -> None:
    """Remove a variable file, and what a killed process left of writing it; a missing one is fine.

    Raises:
        Failed: it can't be removed.
    """
    try:
        path.unlink(missing_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise Failed(f"the variable file {path.name} can't be removed", str(error)) from error


def _merged(path: Path, text: str, variables: Mapping[str, str]) -> bytes:
    """A YAML text with some of its variables replaced or added; tags of the others (!vault, !unsafe) stay."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:  # its text would quote the file
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise Failed(f"the variable file {path.name} is no valid YAML", f"{where}: no valid YAML") from None
    if root is None:
        root = yaml.MappingNode("tag:yaml.org,2002:map", [], flow_style=False)
    if not isinstance(root, yaml.MappingNode):
        raise Failed(f"the variable file {path.name} is no mapping of names to values", str(path))
    root.value = [pair for pair in root.value if getattr(pair[0], "value", None) not in variables]
    for name, value in variables.items():
        tag = "!unsafe" if any(mark in value for mark in _MARKS) else _STRING
        root.value.append((yaml.ScalarNode(_STRING, name), yaml.ScalarNode(tag, value, style='"')))
    made: str = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=2**30)
    return made.encode()


def _write(path: Path, text: bytes, secret: str) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        vaultkeys.write_new(fresh, vaultformat.encrypted(text, secret))
        fresh.replace(path)
        _sync(path.parent)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise Failed(f"the variable file {path.name} can't be written", str(error)) from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One change at a time in that folder, of all threads and processes."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"the variable file {path.name} can't be written", str(error)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _folder(settings: Settings) -> Path:
    above = settings.WODANSIBLEPRIVDIR or settings.WODSTATEDIR / "variables"
    return above / settings.WODGROUP / "pass"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
