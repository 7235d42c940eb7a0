"""Passwords of the listener's SMTP AUTH: scrypt hashes (RFC 7914) in a file of `user:hash` lines."""

from __future__ import annotations

import base64
import binascii
import getpass
import hashlib
import hmac
import os
import sys
import threading
from pathlib import Path

from wodmail.errors import ConfigError, Problem

# 2**14 blocks of 8: 16 MiB and some 40 ms a try, which a login can spare and a guesser can't.
_LOG_N, _R, _P = 14, 8, 1
_SALT_BYTES, _KEY_BYTES = 16, 32
_MEMORY = 64 * 1024 * 1024
_PREFIX = "$scrypt$"


def hash_password(password: str) -> str:
    """The hash to put behind `user:` in WODAUTHFILE: `$scrypt$ln=14,r=8,p=1$SALT$KEY`, both base64.

    Args:
        password: the clear password, not empty.

    Raises:
        ValueError: the password is empty.
    """
    if not password:
        raise ValueError("an empty password can't be hashed")
    salt = os.urandom(_SALT_BYTES)
    key = _derive(password, salt, _LOG_N, _R, _P)
    return f"{_PREFIX}ln={_LOG_N},r={_R},p={_P}${_encode(salt)}${_encode(key)}"


def verify_password(password: str, hashed: str) -> bool:
    """Whether the password belongs to the hash; takes the same time whether or not it does.

    Raises:
        ValueError: the hash is none of ours.
    """
    log_n, r, p, salt, key = _split(hashed)
    return hmac.compare_digest(_derive(password, salt, log_n, r, p), key)


def _derive(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    secret = password.encode("utf-8", "surrogateescape")
    return hashlib.scrypt(secret, salt=salt, n=1 << log_n, r=r, p=p, maxmem=_MEMORY, dklen=_KEY_BYTES)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _split(hashed: str) -> tuple[int, int, int, bytes, bytes]:
    try:
        _, name, costs, salt, key = hashed.split("$")
        pairs = dict(pair.split("=") for pair in costs.split(","))
        log_n, r, p = int(pairs["ln"]), int(pairs["r"]), int(pairs["p"])
        parts = (log_n, r, p, _decode(salt), _decode(key))
    except (ValueError, KeyError, binascii.Error) as error:
        raise ValueError("not a hash as `wodmail auth hash` prints it") from error
    # The upper bounds keep one login within _MEMORY and a fraction of a second.
    if name != "scrypt" or not (10 <= log_n <= 15 and 1 <= r <= 8 and 1 <= p <= 4) or len(parts[4]) != _KEY_BYTES:
        raise ValueError("not a hash as `wodmail auth hash` prints it")
    return parts


class AuthFile:
    """The users of WODAUTHFILE; read again when the file changes.

    Args:
        path: lines `user:hash`; empty lines and lines that begin with # are skipped.

    Raises:
        ConfigError: the file can't be read or has wrong lines (all of them are named by number).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._nobody = hash_password(os.urandom(8).hex())
        self._read_at = self._stamp()
        self._users = read_users(path)

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)

    def verify(self, user: str, password: str) -> bool:
        """Whether user and password belong together; an unknown user takes as long as a wrong password.

        Raises:
            ConfigError: the file has changed and can't be used any more; nobody can log in then.
        """
        with self._lock:
            stamp = self._stamp()
            if stamp != self._read_at:
                self._users = read_users(self._path)
                self._read_at = stamp
            hashed = self._users.get(user)
        fits = verify_password(password, hashed or self._nobody)
        return fits and hashed is not None


def read_users(path: Path) -> dict[str, str]:
    """User → hash of a file of `user:hash` lines.

    Raises:
        ConfigError: see `AuthFile`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("WODAUTHFILE", f"{path}: {error}")]) from error
    users: dict[str, str] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, hashed = line.strip().partition(":")
        try:
            _split(hashed)
        except ValueError as error:
            problems.append(Problem("WODAUTHFILE", f"{path}, line {number}: {error}"))
            continue
        if not user or user in users:
            problems.append(Problem("WODAUTHFILE", f"{path}, line {number}: a user name is missing or used twice"))
        users[user] = hashed
    if problems:
        raise ConfigError(problems)
    return users


def main() -> int:
    """`wodmail auth hash`: read a password from stdin (a terminal is asked without echo), print its hash.

    Returns:
        0, or 64 when there was no password or it was not repeated alike.
    """
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            sys.stderr.write("the two passwords differ, nothing was hashed\n")
            return 64
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        sys.stderr.write("no password on stdin; usage: wodmail auth hash < FILE, then put USER:HASH in WODAUTHFILE\n")
        return 64
    sys.stdout.write(hash_password(password) + "\n")
    return 0
