"""New passwords."""

from __future__ import annotations

import secrets
import string

ALPHABET = string.ascii_letters + string.digits


def new_password(length: int) -> str:
    """A random password of ASCII letters and digits, at least one letter and one digit.

    Args:
        length: number of characters, at least 8.
    """
    while True:
        word = "".join(secrets.choice(ALPHABET) for _ in range(length))
        if any(c.isdigit() for c in word) and any(c.isalpha() for c in word):
            return word
