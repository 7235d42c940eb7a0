"""The API-DB's client where no network is needed: pauses, headers, certificates, tokens' lives, the breaker."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.support import wait_until
from wodmail import apidbwire, breaker
from wodmail.apidb import TOKEN_LIFE, token_life
from wodmail.breaker import Breaker
from wodmail.errors import Away, Failed
from wodmail.shared import Shared
from wodmail.writes import pause_after

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def jwt(**claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256'})}.{part(claims)}.c2ln"


@pytest.mark.parametrize(
    ("token", "life"),
    [
        (jwt(iat=1000, exp=1180), 180.0),
        (jwt(iat=1000, exp=1002), 2.0),
        (jwt(iat=1000, exp=10**9), 3600.0),
        (jwt(iat=1000, exp=900), TOKEN_LIFE),
        (jwt(exp=1180), TOKEN_LIFE),
        (jwt(iat="yesterday", exp=1180), TOKEN_LIFE),
        (jwt(iat=None, exp=[1]), TOKEN_LIFE),
        ("no-jwt", TOKEN_LIFE),
        ("a.b.c", TOKEN_LIFE),
        ("a.%%%.c", TOKEN_LIFE),
        (f"a.{base64.urlsafe_b64encode(b'[1]').decode()}.c", TOKEN_LIFE),
    ],
)
def test_life_of_a_token(token: str, life: float) -> None:
    assert token_life(token) == life


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("0", 0.0),
        ("86400", 10.0),
        ("soon", None),
        ("-4", None),
        ("999999999999", None),
        (format_datetime(NOW + timedelta(seconds=4), usegmt=True), 4.0),
        (format_datetime(NOW + timedelta(days=4), usegmt=True), 10.0),
        (format_datetime(NOW - timedelta(days=4), usegmt=True), 0.0),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert apidbwire.retry_after(header, NOW) == seconds


def test_pauses_grow_to_a_limit() -> None:
    assert [apidbwire.retry_pause(tries) for tries in range(1, 8)] == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert apidbwire.retry_pause(3, 0.0) == 0.5
    assert [pause_after(tries) for tries in (1, 2, 3, 7, 10_000)] == [1.0, 2.0, 4.0, 60.0, 60.0]


@pytest.mark.parametrize("options", ["-k", "--insecure", "-s -k", "-sk", "-s --insecure -L", "-k 'unclosed"])
def test_checks_are_off(options: str) -> None:
    assert apidbwire.certificates("https://api.example/api", options) is False


@pytest.mark.parametrize("options", ["", "-s", "--insecurely", "-o network", "--keepalive-time 3", "-S kk"])
def test_checks_are_on(options: str) -> None:
    found = apidbwire.certificates("https://api.example/api", options)
    assert isinstance(found, ssl.SSLContext)
    assert (found.verify_mode, found.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_certificates_of_a_file_that_is_not_there() -> None:
    with pytest.raises(Failed, match="--cacert in WODCURLOPT"):
        apidbwire.certificates("https://api.example/api", "--cacert /nowhere/ca.pem")


def test_plain_http_needs_no_certificates() -> None:
    assert apidbwire.certificates("http://api.example/api", "--cacert /nowhere/ca.pem") is False


def test_shown_is_short_and_printable() -> None:
    assert apidbwire.shown("a\nb\x1b[31m\tc") == "a b?[31m c"
    assert len(apidbwire.shown("x" * 10_000)) == apidbwire.SHOWN
    assert apidbwire.shown("") == "(nothing)"


# -- the breaker ----------------------------------------------------------------------------------------------------


def open_breaker() -> tuple[Breaker, list[float]]:
    clock = [100.0]
    found = Breaker(lambda: clock[0])
    assert found.found_away(Away("gone", "connection refused"))
    return found, clock


def tried(found: Breaker) -> bool:
    try:
        with found.trying():
            return True
    except Away as error:
        assert (error.sender, error.operator) == ("gone", "connection refused")
        return False


def test_breaker_lets_nobody_through_for_a_while() -> None:
    found, clock = open_breaker()
    assert not tried(found)
    clock[0] += breaker.FIRST_PAUSE
    assert tried(found)


def test_breaker_lets_one_through_at_a_time() -> None:
    found, clock = open_breaker()
    clock[0] += breaker.FIRST_PAUSE
    with found.trying():
        assert not tried(found)
    assert tried(found)


def test_breaker_waits_longer_each_time_and_starts_anew() -> None:
    found, clock = open_breaker()
    pauses = []
    for _ in range(6):
        clock[0] += 100
        assert not found.found_away(Away("gone", "connection refused"))
        pauses.append(found.pause())
    assert not found.found_away(Away("gone", "by another at the same time"))
    assert pauses == sorted(pauses)
    assert found.pause() == pauses[-1]
    assert breaker.FIRST_PAUSE < pauses[0] < pauses[-1] == breaker.LONGEST_PAUSE
    assert found.found_well()
    assert not found.found_well()
    assert tried(found)
    found.found_away(Away("gone", "connection refused"))
    assert found.pause() == breaker.FIRST_PAUSE


# -- one answer for many --------------------------------------------------------------------------------------------


def test_many_ask_at_once_and_two_fetch() -> None:
    begun, go = threading.Event(), threading.Event()
    fetched: list[int] = []
    looks: list[float] = []

    def clock() -> float:
        looks.append(1.0)
        return float(len(looks))

    def fetch() -> int:
        fetched.append(1)
        begun.set()
        go.wait(60)
        return len(fetched)

    shared = Shared(fetch, clock)
    first: list[int] = []
    leader = threading.Thread(target=lambda: first.append(shared.get()))
    leader.start()
    begun.wait(60)
    later: list[int] = []
    others = [threading.Thread(target=lambda: later.append(shared.get())) for _ in range(8)]
    for thread in others:
        thread.start()
    wait_until(lambda: len(looks) == 10, what="all to have asked")
    go.set()
    for thread in (leader, *others):
        thread.join(60)
    assert first == [1]
    assert later == [2] * 8  # they asked after the first fetch had begun, so its answer was too old for them


def test_an_answer_is_good_for_a_while() -> None:
    numbers = iter(range(10))
    shared = Shared(lambda: next(numbers))
    assert [shared.get(60), shared.get(60), shared.get(), shared.get(60)] == [0, 0, 1, 1]
    assert shared.latest() == 1


def test_an_error_is_not_kept() -> None:
    answers: list[Away | int] = [Away("gone", "why"), 7]

    def fetch() -> int:
        found = answers.pop(0)
        if isinstance(found, Away):
            raise found
        return found

    shared = Shared(fetch)
    with pytest.raises(Away, match="gone"):
        shared.get(60)
    assert shared.get(60) == 7


def test_http_client_is_not_loaded_without_an_api_db(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from wodmail import registry, delivery, requests; "
        "from wodmail.schema import Settings; "
        "registry.for_settings(Settings(WODSTATEDIR=Path(sys.argv[1]), WODNOBO=Path(sys.argv[1]))); "
        "print('httpx' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
