"""Who may command: peers, senders, signatures."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from wodmail.config import Settings
from wodmail.errors import ConfigError, Refused
from wodmail.mail import command, message, trust
from wodmail.model import Command

DOCS = Path(__file__).parents[2] / "docs" / "mail.md"
LIMITS = command.Limits(1, 2000, 100)
KEY = b"0123456789abcdef-new"
OLD = b"0123456789abcdef-old"
NOW = 1_700_000_000
SIGNED = Settings(WODBEFQDN="backend.example.org", WODREQUIRESIGNATURE=True)


def parsed(subject: str) -> Command:
    found = command.parse(subject, limits=LIMITS)
    assert isinstance(found, Command)
    return found


CREATE = parsed("CREATE 121 0")


def mail(*signatures: str) -> message.Message:
    headers = "".join(f"X-WOD-Signature: {value}\n" for value in signatures)
    return message.read(f"{headers}Subject: CREATE 121 0\n\nWKSHP-API101\n".encode())


def signature(key: bytes = KEY, t: int = NOW, subject: str = "CREATE 121 0", workshop: str = "WKSHP-API101") -> str:
    return trust.sign(key, SIGNED.WODBEFQDN, parsed(subject), workshop, t, "nonce-0123456789")


def verify(*signatures: str, settings: Settings = SIGNED, at: float = NOW, peer: str = "") -> trust.Verdict | None:
    return trust.verify(settings, [KEY, OLD], mail(*signatures), CREATE, "WKSHP-API101", at, peer=peer)


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1%eth0", True),
        ("::ffff:8.8.8.8", False),
        ("8.8.8.8", False),
        ("2001:db8::1", False),
        ("", False),
        ("localhost", False),
        ("010.1.2.3", False),
    ],
)
def test_peers(peer: str, allowed: bool) -> None:
    assert trust.peer_allowed(Settings(), peer) is allowed


def test_few_peers_are_trusted() -> None:
    assert trust.peer_trusted(Settings(), "::ffff:127.0.0.1")
    assert not trust.peer_trusted(Settings(), "10.1.2.3")


def test_senders() -> None:
    settings = Settings(WODSENDER="Wod@Example.org", WODALLOWEDSENDERS=["ops@example.net"], WODSANDBOX=True)
    assert trust.sender_allowed(settings, "<Wod@EXAMPLE.ORG>")
    assert trust.sender_allowed(settings, "ops@example.net")
    assert not trust.sender_allowed(settings, "wod@example.org")
    assert not trust.sender_allowed(settings, "ops@example.net.evil.example")
    assert not trust.sender_allowed(settings, "")


def test_without_any_sender_only_the_sandbox_listens() -> None:
    assert trust.sender_allowed(Settings(WODSANDBOX=True), "anybody@example.org")
    assert not trust.sender_allowed(Settings(), "anybody@example.org")
    assert not trust.sender_allowed(Settings(WODALLOWEDSENDERS=[" "]), "")


def test_peer_and_sender_must_both_pass() -> None:
    settings = Settings(WODSENDER="wod@example.org")
    trust.may_command(settings, peer="10.0.0.1", sender="wod@example.org")
    trust.may_command(settings, peer="8.8.8.8", sender="wod@example.org", authenticated=True)
    trust.may_command(settings, peer="", sender="wod@example.org", piped=True)
    with pytest.raises(Refused) as refused:
        trust.may_command(settings, peer="8.8.8.8", sender="wod@example.org")
    assert "8.8.8.8" in refused.value.operator
    assert "8.8.8.8" not in refused.value.sender
    with pytest.raises(Refused):
        trust.may_command(settings, peer="8.8.8.8", sender="x@example.org", authenticated=True)


def test_a_sandbox_without_senders_listens_to_trusted_peers_only() -> None:
    sandbox = Settings(WODSANDBOX=True)
    trust.may_command(sandbox, peer="127.0.0.1", sender="anybody@example.org")
    trust.may_command(sandbox, peer="10.0.0.1", sender="anybody@example.org", authenticated=True)
    trust.may_command(sandbox, peer="", sender="anybody@example.org", piped=True)
    with pytest.raises(Refused) as refused:
        trust.may_command(sandbox, peer="10.0.0.1", sender="anybody@example.org")
    assert "WODTRUSTEDPEERS" in refused.value.operator


def test_a_right_signature() -> None:
    verdict = verify(signature())
    assert verdict is not None
    assert verdict.nonce == "nonce-0123456789"
    assert verdict.signed_text.splitlines() == [
        *["v1", "backend.example.org", "CREATE", "121", "", "0", "", "WKSHP-API101", str(NOW), "nonce-0123456789"]
    ]


def test_an_older_key_and_the_edges_of_the_window_are_right() -> None:
    assert verify(signature(OLD)) is not None
    assert verify(signature(), at=NOW + 300) is not None
    assert verify(signature(), at=NOW - 300) is not None


@pytest.mark.parametrize(
    "values",
    [
        (),
        (signature(), signature()),
        (signature(b"another key of somebody"),),
        (signature(subject="CREATE 122 0"),),
        (signature(subject="PURGE 121 0"),),
        (signature(workshop="WKSHP-K8S101"),),
        (signature(t=NOW - 301),),
        (signature(t=NOW + 301),),
        (signature()[:-1],),
        (signature().replace("v1", "v2"),),
        (signature().replace("nonce-0123456789", "short"),),
        ("v1; t=1; n=" + "é" * 16 + "; s=" + "0" * 64,),
        (signature().replace("; n=", "; t=1; n="),),
    ],
)
def test_wrong_signatures(values: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="Nothing was changed"):
        verify(*values)
    assert verify(*values, settings=SIGNED.model_copy(update={"WODREQUIRESIGNATURE": False})) is None


def test_exempt_peers_need_no_signature() -> None:
    exempt = SIGNED.model_copy(update={"WODREQUIRESIGNATURE": [ipaddress.ip_network("10.0.0.0/8")]})
    assert verify(settings=exempt, peer="10.2.3.4") is None
    assert verify(settings=exempt, peer="::ffff:10.2.3.4") is None
    for peer in ("192.168.1.1", ""):
        with pytest.raises(Refused):
            verify(settings=exempt, peer=peer)


def test_another_backends_signature_is_wrong() -> None:
    with pytest.raises(Refused, match="another command or backend"):
        verify(signature(), settings=SIGNED.model_copy(update={"WODBEFQDN": "other.example.org"}))


def test_a_plan_signs_as_its_action_and_ping_without_a_student() -> None:
    assert trust.canonical_text("b", parsed("PLAN RESET 1,9 0"), "W", 1, "n") == "v1\nb\nRESET\n1\n9\n0\n\nW\n1\nn"
    assert trust.canonical_text("b", parsed("PING hi"), "", 1, "n") == "v1\nb\nPING\n\n\n0\n\n\n1\nn"


def test_the_test_vector_of_the_documentation() -> None:
    block = DOCS.read_text(encoding="utf-8").partition("```json vector\n")[2].partition("```")[0]
    vector = json.loads(block)
    mail_command = parsed(vector["subject"])
    arguments = (vector["backend"], mail_command, vector["workshop"], vector["t"], vector["n"])
    assert trust.canonical_text(*arguments) == "\n".join(vector["lines"])
    assert trust.sign(vector["key"].encode(), *arguments) == vector["header"]


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# newest first\n\n 0123456789abcdef-new \n0123456789abcdef-old\n", encoding="utf-8")
    assert trust.read_keys(file) == (KEY, OLD)


@pytest.mark.parametrize(("content", "words"), [("# none\n", "no signing key"), ("short\n", "shorter"), (None, "read")])
def test_key_files_that_can_not_be_used(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        trust.read_keys(file)
    assert words in str(error.value)
    assert "short\n" not in str(error.value)
