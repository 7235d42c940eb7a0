"""Masking in every form, and logs as events."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import string
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from wodmail import logs
from wodmail.config import Settings
from wodmail.logs import Masker

PASSWORDS = st.text(string.ascii_letters + string.digits, min_size=8, max_size=12)
SECRETS = st.text(st.characters(exclude_characters="*", exclude_categories=("Cs",)), min_size=6, max_size=20)


@given(PASSWORDS, st.text(max_size=30), st.text(max_size=30))
def test_a_password_in_any_line(password: str, before: str, after: str) -> None:
    masker = Masker()
    masker.register(password)
    masked = masker.mask(f"{before}passwd: {password}{after}")
    assert password not in masked
    assert logs.MASK in masked


@given(
    SECRETS,
    st.sampled_from(
        [
            lambda text: urllib.parse.quote(text, safe=""),
            urllib.parse.quote_plus,
            lambda text: json.dumps({"k": text}),
            lambda text: json.dumps([text], ensure_ascii=False),
            html.escape,
            lambda text: base64.b64encode(text.encode()).decode(),
            repr,
        ]
    ),
)
def test_every_form_is_masked(secret: str, form: Callable[[str], str]) -> None:
    masker = Masker()
    masker.register(secret)
    masked = masker.mask(f"x {form(secret)} y")
    assert logs.MASK in masked
    assert form(secret) not in masked


@given(st.binary(max_size=5), PASSWORDS, st.binary(max_size=5))
def test_inside_longer_base64(before: bytes, password: str, after: bytes) -> None:
    masker = Masker()
    masker.register(password)
    masked = masker.mask("Authorization: Basic " + base64.b64encode(before + password.encode() + after).decode())
    assert logs.MASK in masked


@given(st.lists(PASSWORDS, min_size=1, max_size=4), st.data())
def test_secrets_that_overlap_leave_no_rest(passwords: list[str], data: st.DataObject) -> None:
    masker = Masker()
    text = ""
    for password in passwords:
        masker.register(password)
        shared = data.draw(st.integers(0, 3))
        common = next((n for n in range(shared, 0, -1) if text.endswith(password[:n])), 0)
        text += password[common:]
    assert masker.mask(text) == logs.MASK


def test_text_without_secrets_stays() -> None:
    masker = Masker()
    masker.register("werty123")
    assert masker.mask("nothing to hide") == "nothing to hide"
    assert masker.mask("a werty123 b werty123") == "a **** b ****"


def test_short_secrets_only_as_words() -> None:
    masker = Masker()
    masker.register("abc")
    assert masker.mask("abc abcd (abc)") == "**** abcd (****)"


def test_empty_is_no_secret() -> None:
    masker = Masker()
    masker.register("")
    assert masker.mask("text") == "text"


def test_key_of_several_lines_line_by_line() -> None:
    masker = Masker()
    masker.register("-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\n")
    assert "MIIEpAIBAAKCAQEA" not in masker.mask("read: MIIEpAIBAAKCAQEA")


def test_registered_twice_unregistered_twice() -> None:
    masker = Masker()
    masker.register("werty123")
    with masker.registered("werty123", ""):
        assert masker.mask("werty123") == "****"
    assert masker.mask("werty123") == "****"
    masker.unregister("werty123")
    assert masker.mask("werty123") == "werty123"
    masker.unregister("werty123")
    masker.register("werty123")
    assert masker.mask("werty123") == "****"


def test_threads_register_and_mask() -> None:
    masker = Masker()

    def work(number: int) -> bool:
        secret = f"secret-{number:04d}-x"
        with masker.registered(secret):
            return secret not in masker.mask(f"a {secret} b")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))
    assert masker.mask("secret-0001-x") == "secret-0001-x"


def test_configuration_is_masked() -> None:
    masker = Masker()
    settings = Settings.model_validate(
        {
            "VAULTPWD": "vaultword1",
            "WODAPIDBUSERPWD": "apiword123",
            "MY_TOKEN": "tokenword1",
            "WODDATABASEURL": "postgresql://wod:p%40ssword@db/wod",
            "WODSMTPURL": "smtp://localhost:25",
        }
    )
    masker.register_settings(settings)
    masked = masker.mask("vaultword1 apiword123 tokenword1 p%40ssword p@ssword localhost:25")
    assert masked == "**** **** **** **** **** localhost:25"


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, object]]]]:
    """Logs of this test as JSON objects; puts the process's logging back afterwards."""
    root, kept = logging.getLogger(), logging.getLogger().handlers[:]
    level, masker, out = root.level, Masker(), io.StringIO()
    masker.register("werty123")
    logs.setup(masker, stream=out)
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    root.handlers, root.level = kept, level
    logging.captureWarnings(False)
    for name in logs.FOREIGN_LEVELS:
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


Lines = Callable[[], list[dict[str, object]]]


def test_event_with_what_is_bound(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(request=57, student=121, action="CREATE"):
        structlog.get_logger("wodmail.test").info(logs.Event.STEP_ENDED, step="validate", note="passwd: werty123")
    structlog.get_logger("wodmail.test").info(logs.Event.SWEPT)
    first, second = lines()
    assert first["event"] == "step-ended"
    assert (first["request"], first["student"], first["action"], first["level"]) == (57, 121, "CREATE", "info")
    assert first["note"] == "passwd: ****"
    assert "request" not in second
    assert str(first["timestamp"]).endswith("Z")


def test_secrets_inside_structures_and_tracebacks(lines: Lines) -> None:
    log = structlog.get_logger("wodmail.test")
    log.info("x", data={"werty123": ["a werty123", ("werty123", b"werty123")]}, other=ValueError("werty123"))
    try:
        int("werty123")
    except ValueError:
        log.exception(logs.Event.STEP_FAILED)
    text = json.dumps(lines())
    assert "werty123" not in text
    assert "invalid literal" in text
    assert "'****'" in text


@pytest.mark.parametrize("name", ["dbos", "mail.log", "ansible-runner", "some.library"])
def test_libraries_are_routed_and_masked(lines: Lines, name: str) -> None:
    logging.getLogger(name).warning("login with %s", "werty123")
    (line,) = lines()
    assert (line["event"], line["logger"], line["level"]) == ("login with ****", name, "warning")


def test_dbos_adds_no_handler_of_its_own(lines: Lines) -> None:
    from dbos._logger import dbos_logger, init_logger

    init_logger()
    assert [handler.name for handler in dbos_logger.handlers if handler.name] == []
    dbos_logger.warning("once")
    assert [line["event"] for line in lines()] == ["once"]


def test_quiet_libraries_and_warnings(lines: Lines) -> None:
    logging.getLogger("mail.log").info("chatter")
    logging.getLogger("ansible-runner.display").log(70, "a playbook's output")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("werty123 is old", stacklevel=1)
    (line,) = lines()
    assert "**** is old" in str(line["event"])


def test_console_form(lines: Lines) -> None:
    out, masker = io.StringIO(), Masker()
    masker.register("werty123")
    logs.setup(masker, stream=out, json_lines=False)
    structlog.get_logger("wodmail.test").info("job-ended", password="werty123", state="done")
    assert "job-ended" in out.getvalue()
    assert "state=done" in out.getvalue()
    assert "werty123" not in out.getvalue()
    assert lines() == []


def test_setup_twice_logs_once() -> None:
    kept, out = logging.getLogger().handlers[:], io.StringIO()
    logs.setup(Masker(), stream=io.StringIO())
    logs.setup(Masker(), stream=out)
    structlog.get_logger("wodmail.test").warning("once")
    logging.getLogger().handlers = kept
    assert len(out.getvalue().splitlines()) == 1
