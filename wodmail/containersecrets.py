"""Secrets that are written out in a definition of seats (wodmail/containers.py), where all seats share them.

What is found is what looks like one: by the name that it is given to, or by where it stands. Pure.
"""

from __future__ import annotations

import re
from itertools import pairwise

_NAME = (
    r"passw(or)?ds?|passphrase|passcode|pwd|secrets?|token"
    # Not in compass, bypass, trespass; keys of doors and of keyboards are none.
    r"|(?<![a-z])pass|(?<=db|my|pg)pass|(?<=sql)pass|(?<=root|user)pass|(?<=admin|login|owner)pass"
    r"|(?<![a-z])pw|(?<=db)pw|(?<=root|user)pw|(?<=admin)pw"
    r"|(api|access|account|auth|encryption|master|private|secret|signing|storage)_?key(_?base)?"
)
SECRET_WORD = re.compile(rf"(?i)({_NAME})[0-9]*$")
"""The end of a name whose value nobody else may know."""
_SWITCH = re.compile(
    r"(?i)((.*_)?(allow|disable|empty|enable|no|require|skip|use|without)_.*)=(yes|no|on|off|true|false)"
)
_GIVEN = re.compile(r"(?<![\w-])-{0,2}([A-Za-z_][\w-]*)=[\"']?([^\s\"'|;&]+)")
_OPTION = re.compile(r"--?([A-Za-z][\w-]*)")
_LOGIN = re.compile(r"://[^\s/@:\"']*:([^\s/@\"']+)@")
_ENV = re.compile(r"(?im)^\s*ENV\s+(\w+)\s+(\S+)")
_CHPASSWD = re.compile(r"(?m)^(?!\s*#)[^$\n]*\bchpasswd\b[^$\n]*$")


def in_environment(name: str, value: str) -> bool:
    """Whether a variable holds a secret that is written out: no ${NAME}, which is filled in for each student."""
    return (_secret(name, value) and "${" not in value) or any("${" not in word for word in _LOGIN.findall(value))


def in_words(words: list[str]) -> bool:
    """Whether a command's arguments hold one: --password=word, --password word, WORD=word, user:word@host."""
    options = ((found[1], value) for option, value in pairwise(words) if (found := _OPTION.fullmatch(option)))
    return any(map(_in_text, words)) or any(not value.startswith("-") and _told(name, value) for name, value in options)


def in_build(text: str) -> bool:
    """Whether a Containerfile holds one: in ENV, ARG or a command; or sets a password, which all seats would share."""
    return _in_text(text) or any(_told(*pair) for pair in _ENV.findall(text)) or _CHPASSWD.search(text) is not None


def _in_text(text: str) -> bool:
    return any(_told(*pair) for pair in _GIVEN.findall(text)) or any(map(_is_plain, _LOGIN.findall(text)))


def _told(name: str, value: str) -> bool:
    return _secret(name.replace("-", "_"), value) and _is_plain(value)


def _secret(name: str, value: str) -> bool:
    return bool(value and SECRET_WORD.search(name)) and _SWITCH.fullmatch(f"{name}={value}") is None


def _is_plain(value: str) -> bool:
    """Whether no shell fills it in: neither $NAME nor $(command) nor `command`."""
    return "$" not in value and "`" not in value
