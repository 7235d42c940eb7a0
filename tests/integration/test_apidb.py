"""The API-DB's client against the stand-in, and against servers that are worse than it."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import oddserver
from tests.apidb.site import ApiDbSite
from tests.slapdsite import Authority
from wodmail import apidbwire, breaker, logs
from wodmail.apidb import ApiDb, NoRow
from wodmail.errors import Away, Failed, NotLetIn, WodmailError
from wodmail.logs import Masker
from wodmail.schema import Settings

WORD, BACKEND_WORD = "Werty123", "Sesame-4711"
TOKEN = "aaaa.bbbb.cccc-0123456789"
LOGIN = oddserver.answer(200, json.dumps({"id": 1, "accessToken": TOKEN}), Content_Type="application/json")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apidbwire, "FIRST_PAUSE", 0.02)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ApiDbSite]:
    with ApiDbSite(tmp_path) as found:
        found.add_workshop("WKSHP-One")
        found.add_student(3)
        found.add_customer("WKSHP-One", 3, id=57)
        yield found


def client(keys: dict[str, Any], masker: Masker | None = None, **more: Any) -> ApiDb:
    return ApiDb(Settings(**{"WODAPIDBTIMEOUT": 20, "WODAPIDBRETRIES": 2, **keys, **more}), masker)


def odd_keys(odd: oddserver.Odd) -> dict[str, Any]:
    return {"WODAPIDBEXTURL": odd.url, "WODAPIDBUSER": "backend", "WODAPIDBUSERPWD": BACKEND_WORD}


def logins(site: ApiDbSite) -> int:
    return sum(line["path"] == "/api/login" for line in site.log())


# -- the login ------------------------------------------------------------------------------------------------------


def test_one_login_for_many_threads(site: ApiDbSite) -> None:
    api = client(site.keys)
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: api.row("/customers/57")["notebook"], range(60)))
    assert found == ["WKSHP-One"] * 60
    assert logins(site) == 1
    site.expire_tokens()
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: api.put("/customer/57", {"cleaned": True})["id"], range(60)))
    assert found == [57] * 60
    assert logins(site) == 2


def aged(api: ApiDb, seconds: float) -> None:
    """Make the token that much older."""
    assert api._token is not None
    api._token = replace(api._token, since=api._token.since - seconds)


def test_a_token_is_renewed_before_it_ends(site: ApiDbSite) -> None:
    api = client(site.keys)
    api.row("/customers/57")
    aged(api, 140)
    api.row("/customers/57")
    assert logins(site) == 1
    aged(api, 15)
    api.row("/customers/57")
    assert logins(site) == 2
    assert {line["status"] for line in site.log()} == {200}


def test_short_lives_are_renewed_too(site: ApiDbSite) -> None:
    site.configure(token_seconds=60)
    api = client(site.keys)
    assert api.token() == api.token()
    aged(api, 45)
    api.row("/customers/57")
    assert logins(site) == 2


def test_a_script_gets_a_token_with_most_of_its_life(site: ApiDbSite) -> None:
    api = client(site.keys)
    api.token()
    aged(api, 40)
    api.token(0.75)
    aged(api, 10)
    api.token()
    assert logins(site) == 1
    api.token(0.75)
    assert logins(site) == 2


def test_open_reads_need_no_login(site: ApiDbSite) -> None:
    assert client(site.keys).rows("/workshops", unnamed=True)[0]["notebook"] == "WKSHP-One"
    assert logins(site) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [({"WODAPIDBUSER": "nobody"}, "no such account"), ({"WODAPIDBUSERPWD": "wrong-Pa55"}, "wrong password")],
)
def test_a_wrong_login_names_its_keys(site: ApiDbSite, change: dict[str, str], words: str) -> None:
    with pytest.raises(NotLetIn, match=f"{words}.*WODAPIDBUSER or WODAPIDBUSERPWD") as caught:
        client({**site.keys, **change}).row("/customers/57")
    assert "wrong-Pa55" not in caught.value.operator
    assert logins(site) == 1


def test_many_share_one_refused_login(site: ApiDbSite) -> None:
    site.fault("slow", path="^/login", seconds=0.3)
    api = client({**site.keys, "WODAPIDBUSERPWD": "wrong-Pa55"})
    together = threading.Barrier(20)

    def refused(_: int) -> bool:
        together.wait()
        with pytest.raises(NotLetIn):
            api.row("/customers/57")
        return True

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(refused, range(20)))
    assert logins(site) < 10


def test_401_for_ever(site: ApiDbSite) -> None:
    site.fault("unauthorized")
    api = client(site.keys)
    with pytest.raises(NotLetIn, match="WODAPIDBUSER and WODAPIDBUSERPWD"):
        api.row("/customers/57")
    assert [line["path"] for line in site.log()] == ["/api/login", "/api/customers/57"] * 2


def test_a_role_that_is_missing(site: ApiDbSite) -> None:
    with pytest.raises(NotLetIn, match=r"may not do that.*WODAPIDBUSER") as caught:
        client({**site.keys, "WODAPIDBUSER": site.visitor}).put("/customer/57", {"active": True})
    assert "Require Admin Role!" in caught.value.operator


# -- answers --------------------------------------------------------------------------------------------------------


def test_a_row_that_is_not_there(site: ApiDbSite) -> None:
    api = client(site.keys)
    with pytest.raises(NoRow, match="no customer 99") as caught:
        api.row("/customers/99")
    assert "Customer Not Found" in caught.value.operator
    with pytest.raises(NoRow, match="no customer 99"):
        api.put("/customer/99", {"active": True})


def test_a_put_that_is_never_answered(site: ApiDbSite) -> None:
    site.configure(absent="hang")
    api = client(site.keys, WODAPIDBTIMEOUT=1)
    with pytest.raises(NoRow, match="no student 99"):
        api.put("/student/99", {"assigned": False})
    site.fault("hang", method="PUT")
    with pytest.raises(Away, match=r"doesn't answer within 1 s"):
        api.put("/student/3", {"assigned": False})
    assert not api.away
    assert api.row("/students/3")["assigned"] is not None
    assert len(site.puts(all_of_them=True)) == 2


def test_other_refusals_say_what_the_server_says(site: ApiDbSite) -> None:
    with pytest.raises(Failed, match=r"PUT /customer/57 with 400.*no such field") as caught:
        client(site.keys).put("/customer/57", {"nonsense": 1})
    assert not isinstance(caught.value, NoRow | NotLetIn)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop"},
        {"kind": "error"},
        {"kind": "error", "status": 500},
        {"kind": "busy", "seconds": 0},
        {"kind": "html"},
        {"kind": "broken"},
        {"kind": "lost"},
    ],
    ids=str,
)
def test_what_is_over_soon_is_not_noticed(site: ApiDbSite, fault: dict[str, Any]) -> None:
    site.fault(**fault, times=2, path="^/customer")
    assert client(site.keys).put("/customer/57", {"active": True})["id"] == 57
    assert site.customer(57)["active"] is True


@pytest.mark.parametrize(
    ("fault", "words", "whole"),
    [
        ({"kind": "drop"}, "broke off", True),
        ({"kind": "error"}, "answers 503", True),
        ({"kind": "error", "status": 500}, "answers 500", False),
        ({"kind": "busy", "seconds": 0}, "answers 429", False),
        ({"kind": "html"}, "check WODAPIDBEXTURL", True),
        ({"kind": "html", "status": 404}, "check WODAPIDBEXTURL", True),
        ({"kind": "broken"}, "check WODAPIDBEXTURL", True),
    ],
    ids=str,
)
def test_what_lasts_is_away(site: ApiDbSite, fault: dict[str, Any], words: str, *, whole: bool) -> None:
    api = client(site.keys)
    api.token()
    site.fault(**fault)
    with pytest.raises(Away, match=words):
        api.row("/customers/57")
    assert api.away is whole
    assert len(site.log()) == 1 + 3


def test_retry_after_is_honoured(site: ApiDbSite) -> None:
    api = client(site.keys)
    api.token()
    site.fault("busy", times=1, seconds=1)
    began = time.monotonic()
    api.row("/customers/57")
    assert time.monotonic() - began >= 1.0


# -- away -----------------------------------------------------------------------------------------------------------


def test_fifty_do_not_each_wait_out_the_time_outs(site: ApiDbSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 30.0)
    patient, api = client(site.keys), client(site.keys, WODAPIDBTIMEOUT=0.4)
    patient.token()
    api._token = patient._token
    site.fault("hang")
    with pytest.raises(Away):
        api.row("/customers/57")
    asked = len(site.log())

    def away(_: int) -> str:
        with pytest.raises(Away) as caught:
            api.put("/customer/57", {"active": True})
        return caught.value.sender

    began = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        words = set(pool.map(away, range(50)))
    assert time.monotonic() - began < 10
    assert words == {"The API-DB is away: it doesn't answer within 0.4 s."}
    assert len(site.log()) == asked


def test_a_service_that_is_back_is_heard_of(site: ApiDbSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE", 0.05)
    told = threading.Event()
    api = client(site.keys)
    api.on_back = told.set
    site.stop()
    with pytest.raises(Away, match="can't be reached"):
        api.token()
    assert api.away
    site.start()
    end = time.monotonic() + 60
    while api.away:
        assert time.monotonic() < end
        try:
            api.token()
        except Away:
            continue
    assert told.is_set()


# -- odd servers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "words"),
    [
        (oddserver.answer(200, "{}"), "makes no sense.*WODAPIDBEXTURL"),
        (oddserver.answer(200, '{"accessToken": null}'), "makes no sense"),
        (oddserver.answer(200, '{"accessToken": "two\\r\\nlines"}'), "makes no sense"),
        (oddserver.answer(200, '["token"]'), "makes no sense"),
        (oddserver.answer(302, "", Location="https://sign.in/"), "answers with 302.*WODAPIDBEXTURL"),
        (oddserver.answer(204, ""), "answers with 204"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broke off"),
        (oddserver.answer(200, "[" * 200_000), "is not the API-DB"),
        (oddserver.answer(418, "teapot"), "it answers 418.*WODAPIDBUSER"),
    ],
    ids=range(9),
)
def test_odd_logins(login: bytes, words: str) -> None:
    with oddserver.serving(lambda *_: login) as odd, pytest.raises(WodmailError, match=words):
        client(odd_keys(odd), WODAPIDBRETRIES=0).row("/customers/57")


@pytest.mark.parametrize(("ask", "text"), [("row", "[1]"), ("row", "null"), ("rows", "{}"), ("rows", "[1]")])
def test_json_of_the_wrong_shape(ask: str, text: str) -> None:
    def script(method: str, *_: object) -> bytes:
        return LOGIN if method == "POST" else oddserver.answer(200, text)

    with oddserver.serving(script) as odd, pytest.raises(Away, match="makes no sense"):
        getattr(client(odd_keys(odd)), ask)("/customers/57")


def test_an_answer_that_comes_too_slowly() -> None:
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b" "] * 1000]
    with oddserver.serving(lambda *_: pieces) as odd:
        began = time.monotonic()
        with pytest.raises(Away, match="doesn't answer within"):
            client(odd_keys(odd), WODAPIDBTIMEOUT=0.4, WODAPIDBRETRIES=0).rows("/workshops", unnamed=True)
        assert time.monotonic() - began < 20


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wodmail.apidbwire.MAX_BYTES", 1000)
    with oddserver.serving(lambda *_: oddserver.answer(200, " " * 5000)) as odd, pytest.raises(Away, match="too long"):
        client(odd_keys(odd), WODAPIDBRETRIES=0).rows("/workshops", unnamed=True)


def test_nothing_secret_in_errors_and_logs() -> None:
    """The server repeats all that it was told, in its refusals and where it must not."""

    def script(method: str, path: str, body: bytes) -> bytes:
        if method == "POST":
            return LOGIN
        said = json.dumps({"message": f"bad: {body.decode()} {TOKEN} {BACKEND_WORD} {path}"})
        return oddserver.answer(500 if path.endswith("/7") else 409, said)

    masker, out = Masker(), io.StringIO()
    logs.setup(masker, stream=out, json_lines=True, level="DEBUG")
    try:
        with oddserver.serving(script) as odd:
            api = client(odd_keys(odd), masker, WODAPIDBRETRIES=0)
            errors = []
            for path in ("/student/3", "/student/7"):
                with pytest.raises(WodmailError) as caught:
                    api.put(path, {"password": WORD})
                errors.append(f"{caught.value.sender} {caught.value.operator}")
                logging.getLogger("wodmail").exception("test", exc_info=caught.value)
    finally:
        logs.setup(Masker())
    everything = "\n".join([*errors, out.getvalue()])
    assert "****" in everything
    for secret in (WORD, TOKEN, BACKEND_WORD):
        assert secret not in everything
    assert WORD in odd.bodies[1].decode()


@pytest.mark.parametrize("status", [500, 200])
def test_a_secret_where_the_text_is_cut_is_not_shown_in_part(status: int) -> None:
    filler = "x" * (apidbwire.SHOWN - len(WORD) // 2)

    def script(method: str, _path: str, body: bytes) -> bytes:
        return LOGIN if method == "POST" else oddserver.answer(status, filler + json.loads(body)["password"])

    with oddserver.serving(script) as odd, pytest.raises(Away) as caught:
        client(odd_keys(odd), WODAPIDBRETRIES=0).put("/student/3", {"password": WORD})
    assert filler in caught.value.operator
    assert "xWert" not in caught.value.operator


def test_a_user_and_password_in_the_url_are_not_shown(site: ApiDbSite) -> None:
    """The configuration's check refuses them; whoever calls without it shows none all the same."""
    api = client({**site.keys, "WODAPIDBEXTURL": site.url.replace("://", "://carol:Sesame-815@")}, WODAPIDBRETRIES=0)
    with pytest.raises(NoRow) as absent:
        api.row("/customers/4711")
    with pytest.raises(Away) as nonsense:
        api.row("/customers")
    site.stop()
    with pytest.raises(Away) as away:
        api.row("/customers/57")
    for caught in (absent, nonsense, away):
        assert site.url in caught.value.operator
        assert "carol" not in f"{caught.value.sender} {caught.value.operator}"


def test_masker_learns_tokens_and_forgets_old_ones(site: ApiDbSite) -> None:
    masker = Masker()
    api = client(site.keys, masker)
    first = api.token()
    assert masker.mask(f"token {first}") == "token ****"
    for _ in range(16):
        site.expire_tokens()
        api.row("/customers/57")
    assert masker.mask(f"token {api.token()}") == "token ****"
    assert masker.mask(first) == first


def test_the_environment_names_no_proxy(site: ApiDbSite, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert client(site.keys).row("/customers/57")["id"] == 57


def test_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with oddserver.serving(lambda *_: oddserver.answer(200, "[]"), tls=(authority.cert, authority.key)) as odd:

        def rows(options: str) -> list[Any]:
            return client(odd_keys(odd), WODCURLOPT=options, WODAPIDBRETRIES=0).rows("/workshops", unnamed=True)

        with pytest.raises(Away, match=r"certificate isn't trusted here.*WODCURLOPT") as caught:
            rows("")
        assert "CERTIFICATE_VERIFY_FAILED" in caught.value.operator
        assert rows("-k") == rows(f"--cacert {authority.ca}") == []
