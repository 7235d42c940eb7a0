"""The text of ansible-vault files (formats 1.1 and 1.2, AES256), written and read without starting Ansible.

Half a second a file is what the `ansible-vault` command costs. Ansible's documentation, "Ansible Vault payload format",
says what is where.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from binascii import hexlify, unhexlify
from collections.abc import Sequence

HEADER = b"$ANSIBLE_VAULT;"
ROUNDS = 10_000
WIDTH = 80


class WrongKeyError(ValueError):
    """None of the passwords opens it."""


def is_encrypted(data: bytes) -> bool:
    """Whether that is an ansible-vault file."""
    return data.startswith(HEADER)


def encrypted(data: bytes, secret: str) -> bytes:
    """The data as the text of an ansible-vault file (1.1, which knows no vault id and so opens under any)."""
    # Imported late: 6 MB that most servers never need.
    from cryptography.hazmat.primitives.padding import PKCS7

    salt = secrets.token_bytes(32)
    key, signing, counter = _derived(secret, salt)
    padder = PKCS7(128).padder()
    hidden = _counted(key, counter, padder.update(data) + padder.finalize())
    signature = hmac.new(signing, hidden, hashlib.sha256).hexdigest().encode()
    body = hexlify(b"\n".join((hexlify(salt), signature, hexlify(hidden))))
    lines = [HEADER + b"1.1;AES256", *(body[start : start + WIDTH] for start in range(0, len(body), WIDTH))]
    return b"\n".join(lines) + b"\n"


def decrypted(text: bytes, passwords: Sequence[str]) -> bytes:
    """What an ansible-vault file holds.

    Args:
        text: the file; its vault id, when it has one, does not matter: every password is tried, as Ansible does.
        passwords: the passwords that may open it.

    Raises:
        WrongKeyError: none of them does.
        ValueError: it is no such file, or damaged.
    """
    head, *lines = text.split()
    fields = head.split(b";")
    if fields[0] + b";" != HEADER or fields[1:2] not in ([b"1.1"], [b"1.2"]) or fields[2:3] != [b"AES256"]:
        raise ValueError("no ansible-vault file of format 1.1 or 1.2 with AES256")
    # binascii's error is a ValueError too
    salt, signature, hidden = map(unhexlify, unhexlify(b"".join(lines)).split(b"\n", 2))
    for password in passwords:
        key, signing, counter = _derived(password, salt)
        if hmac.compare_digest(hmac.digest(signing, hidden, "sha256"), signature):
            return _unpadded(_counted(key, counter, hidden))
    raise WrongKeyError("it was encrypted with another password")


def _derived(secret: str, salt: bytes) -> tuple[bytes, bytes, bytes]:
    """Key of the cipher, key of the signature, first counter."""
    made = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, ROUNDS, dklen=80)
    return made[:32], made[32:64], made[64:]


def _counted(key: bytes, counter: bytes, data: bytes) -> bytes:
    """AES in counter mode, where encrypting and decrypting are the same."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return cipher.update(data) + cipher.finalize()


def _unpadded(data: bytes) -> bytes:
    from cryptography.hazmat.primitives.padding import PKCS7

    unpadder = PKCS7(128).unpadder()
    return unpadder.update(data) + unpadder.finalize()
