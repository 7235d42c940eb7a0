"""JSON Web Tokens, HS256 (RFC 7519, RFC 7515), as the API-DB gives them at a login."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any


def issue(key: bytes, account: int, seconds: float) -> str:
    """A token for an account.

    Args:
        key: what it is signed with.
        account: the account's number.
        seconds: its life; whole seconds give whole `iat` and `exp`, as the real one does.
    """
    now = time.time()
    begun = now if seconds % 1 else int(now)
    claims = {"id": account, "iat": begun, "exp": begun + (seconds if seconds % 1 else int(seconds))}
    text = ".".join(_encode(part) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{text}.{_signature(key, text)}"


def account_of(key: bytes, token: str) -> int | None:
    """The account of a token that is well signed and not expired, else None."""
    text, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(key, text).encode()):
        return None
    claims = claims_of(token)
    return int(claims["id"]) if time.time() < claims["exp"] else None


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, signature unchecked; ValueError when it is none."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("a token has three parts")
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    return claims


def name_of(token: str) -> str:
    """A short name for a token, good for a log: it can't be used as the token. Empty for none."""
    return hashlib.sha256(token.encode()).hexdigest()[:8] if token else ""


def _encode(part: dict[str, Any]) -> str:
    return _base64(json.dumps(part, separators=(",", ":")).encode())


def _signature(key: bytes, text: str) -> str:
    return _base64(hmac.new(key, text.encode(), hashlib.sha256).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
