"""Who may command: the peer's address, the envelope sender, the signature (docs/mail.md). Pure but for reading keys."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wodmail.config import Network, Settings
from wodmail.errors import ConfigError, Problem, Refused
from wodmail.mail.message import Message
from wodmail.model import Command

SIGNATURE_HEADER = "X-WOD-Signature"
MIN_KEY = 16
_SIGNATURE = re.compile(
    r"v1\s*;\s*t=(?P<t>[0-9]{1,12})\s*;\s*n=(?P<nonce>[A-Za-z0-9_-]{16,128})\s*;\s*s=(?P<digest>[0-9a-fA-F]{64})\s*;?"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A signature that is right. Whether its nonce was seen before is for the database to say.

    Args:
        nonce: the word used once.
        signed_text: what was signed; the same nonce with another text is a replay that was tampered with.
    """

    nonce: str
    signed_text: str


def peer_allowed(settings: Settings, peer: str) -> bool:
    """Whether the address may connect at all (WODALLOWEDPEERS).

    Args:
        peer: an IPv4 or IPv6 address in text form; IPv4 within IPv6 counts as IPv4. Anything else is not allowed.
    """
    return _within(peer, settings.WODALLOWEDPEERS)


def peer_trusted(settings: Settings, peer: str) -> bool:
    """Whether the address may talk the lenient dialect (WODTRUSTEDPEERS); see `peer_allowed`."""
    return _within(peer, settings.WODTRUSTEDPEERS)


def sender_allowed(settings: Settings, sender: str) -> bool:
    """Whether the envelope sender may command: WODSENDER or one of WODALLOWEDSENDERS.

    With neither set nobody may, but in the sandbox everybody; `may_command` narrows that to trusted peers.

    Args:
        sender: the envelope sender, with or without angle brackets. The domain's letter case does not count, the
            local part's does (RFC 5321 section 2.4).
    """
    names = _named_senders(settings)
    return _normal(sender) in names if names else settings.WODSANDBOX


def may_command(
    settings: Settings, *, peer: str, sender: str, authenticated: bool = False, piped: bool = False
) -> None:
    """Check peer and sender of a stored mail once more, before it is worked on.

    Args:
        peer: the address that it came from.
        sender: the envelope sender.
        authenticated: whether the peer had logged in, which counts as an allowed peer.
        piped: whether the local mail system handed it over; it has judged the peer then.

    Raises:
        Refused: one of the two may not command. The sender of such a mail gets no reply.
    """
    if not (authenticated or piped or peer_allowed(settings, peer)):
        raise Refused("This address may not send commands here.", f"peer {peer!r} is not in WODALLOWEDPEERS")
    if not sender_allowed(settings, sender):
        cause = f"envelope sender {sender!r} is neither WODSENDER nor in WODALLOWEDSENDERS"
        raise Refused("This sender may not send commands here.", cause)
    if not (_named_senders(settings) or authenticated or piped or peer_trusted(settings, peer)):
        cause = f"neither WODSENDER nor WODALLOWEDSENDERS is set, and peer {peer!r} is not in WODTRUSTEDPEERS"
        raise Refused("This address may not send commands here.", cause)


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Read the signing keys, one a line, newest first; empty lines and lines that begin with # don't count.

    Raises:
        ConfigError: the file can't be read, holds no key, or a key shorter than 16 bytes.
    """
    try:
        lines = [line.strip() for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise ConfigError([Problem(str(path), f"the signing keys can't be read: {error.strerror}")]) from error
    keys = tuple(line for line in lines if line and not line.startswith(b"#"))
    if not keys:
        raise ConfigError([Problem(str(path), "holds no signing key; write one a line, newest first")])
    if any(len(key) < MIN_KEY for key in keys):
        raise ConfigError([Problem(str(path), f"a signing key is shorter than {MIN_KEY} bytes")])
    return keys


def canonical_text(backend: str, command: Command, workshop: str, t: int, nonce: str) -> str:
    """The text that is signed.

    Args:
        backend: WODBEFQDN of the backend that the mail is for.
        command: the command; PLAN signs as its inner action.
        workshop: what `message.workshop` gave for the mail: empty for PING.
        t: when it was signed, unix seconds.
        nonce: a word used once, 16 to 128 of A-Z, a-z, 0-9, - and _.
    """
    first = "" if command.first is None else str(command.first)
    last = "" if command.last is None else str(command.last)
    lines = ["v1", backend, str(command.action), first, last, str(command.number or 0), command.email or ""]
    return "\n".join([*lines, workshop, str(t), nonce])


def sign(key: bytes, backend: str, command: Command, workshop: str, t: int, nonce: str) -> str:
    """The value of the X-WOD-Signature header; for the arguments see `canonical_text`."""
    digest = _digest(key, canonical_text(backend, command, workshop, t, nonce))
    return f"v1; t={t}; n={nonce}; s={digest}"


def verify(
    settings: Settings,
    keys: Sequence[bytes],
    message: Message,
    command: Command,
    workshop: str,
    stored_at: float,
    *,
    peer: str = "",
) -> Verdict | None:
    """Check a mail's signature.

    Args:
        settings: says whether a signature is demanded, of whom, and how old it may be.
        keys: the keys that are valid now, newest first.
        message: the mail.
        command: its command.
        workshop: see `canonical_text`.
        stored_at: when the mail was stored, unix seconds; how long it waited since then does not matter.
        peer: the address it came from, for the exempt networks.

    Returns:
        The verdict on a right signature; None when there is no right one and none is demanded.

    Raises:
        Refused: a signature is demanded and missing, malformed, wrong, or outside of WODSIGNWINDOW.
    """
    try:
        return _checked(settings, keys, message, command, workshop, stored_at)
    except Refused:
        if signature_demanded(settings, peer):
            raise
        return None


def _checked(
    settings: Settings, keys: Sequence[bytes], message: Message, command: Command, workshop: str, stored_at: float
) -> Verdict:
    values = message.all(SIGNATURE_HEADER)
    if len(values) != 1:
        raise _wrong(f"carries {len(values)} {SIGNATURE_HEADER} headers instead of one")
    found = _SIGNATURE.fullmatch(values[0].strip())
    if found is None:
        raise _wrong(f"has a malformed {SIGNATURE_HEADER} header (v1; t=seconds; n=nonce; s=hex)")
    t, nonce = int(found["t"]), found["nonce"]
    signed = canonical_text(settings.WODBEFQDN, command, workshop, t, nonce)
    # every key is tried, so that the time taken does not tell which one fitted
    hits = [hmac.compare_digest(_digest(key, signed), found["digest"].lower()) for key in keys]
    if not any(hits):
        raise _wrong("is signed with another key, or for another command or backend")
    if abs(stored_at - t) > settings.WODSIGNWINDOW:
        raise _wrong(
            f"was signed {abs(stored_at - t):.0f} s away from the time it arrived; "
            f"at most {settings.WODSIGNWINDOW} s are allowed (is a clock wrong?)"
        )
    return Verdict(nonce, signed)


def _wrong(what: str) -> Refused:
    return Refused(f"The mail {what}. Nothing was changed. Sign it as docs/mail.md says, and send it again.")


def signature_demanded(settings: Settings, peer: str) -> bool:
    """Whether mails from that address must be signed (WODREQUIRESIGNATURE).

    Args:
        settings: the demand: true, false, or the networks that are exempt from it.
        peer: see `peer_allowed`; a mail without an address is never exempt.
    """
    demand = settings.WODREQUIRESIGNATURE
    return demand if isinstance(demand, bool) else not _within(peer, demand)


def _digest(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8"), hashlib.sha256).hexdigest()


def _within(peer: str, networks: Iterable[Network]) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _named_senders(settings: Settings) -> set[str]:
    return {_normal(name) for name in (settings.WODSENDER, *settings.WODALLOWEDSENDERS) if name.strip()}


def _normal(sender: str) -> str:
    name = sender.strip().removeprefix("<").removesuffix(">")
    local, at, domain = name.rpartition("@")
    return local + at + domain.lower()
