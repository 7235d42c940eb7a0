"""The stand-in of the API-DB itself: what the contract suite can't see. Its faults, its log, its life."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.apidb import tokens
from tests.apidb.faults import KINDS
from tests.apidb.server import SIDE_DOOR
from tests.apidb.site import ROOT, ApiDbSite
from tests.apidb.state import shown
from tests.support import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ApiDbSite]:
    """A stand-in in a thread, with a workshop, a few seats and one participant on the third."""
    made = ApiDbSite(tmp_path, base=1000, booleans="real")
    made.add_workshop("WKSHP-One", range=[1, 6])
    made.add_students(range(1, 7))
    made.add_customer("WKSHP-One", 3, id=57)
    with made:
        yield made


@pytest.fixture
def api(site: ApiDbSite) -> Iterator[httpx.Client]:
    """A client with a token."""
    with client(site) as made:
        yield made


def client(site: ApiDbSite, timeout: float = 10) -> httpx.Client:
    """A client that has logged in."""
    said = httpx.post(f"{site.url}/login", json={"username": site.user, "password": site.password})
    headers = {"x-access-token": said.json()["accessToken"]}
    return httpx.Client(base_url=site.url + "/", timeout=timeout, headers=headers)


def test_a_student_has_the_base_added(site: ApiDbSite, api: httpx.Client) -> None:
    assert api.get("students/1003").json()["username"] == "student3"
    assert api.get("customers/57").json()["studentId"] == 1003
    assert site.student(3)["assigned"] is True
    assert site.student(4)["assigned"] is False


def test_the_log_shows_what_was_asked_and_no_secret(site: ApiDbSite, api: httpx.Client) -> None:
    api.put("student/1003", json={"password": "s3cret88"})
    api.put("customer/57", json={"active": "true"})
    api.put("customer/58", json={"active": True})
    assert site.puts() == [("/student/1003", {"password": shown("s3cret88")}), ("/customer/57", {"active": "true"})]
    assert [path for path, _ in site.puts(all_of_them=True)] == ["/student/1003", "/customer/57", "/customer/58"]
    logged = site.log_file.read_text()
    for secret in ("s3cret88", site.password, api.headers["x-access-token"]):
        assert secret not in logged
    assert site.log()[-1]["token"] == tokens.name_of(api.headers["x-access-token"])
    assert [line["status"] for line in site.log()] == [200, 200, 200, 400]
    assert SIDE_DOOR not in logged
    assert site.student(3)["password"] == "s3cret88"
    assert site.customer(57)["active"] is True


def test_a_field_that_the_contract_does_not_name_is_refused(site: ApiDbSite, api: httpx.Client) -> None:
    for path, body in (
        ("customer/57", {"studentId": 4}),
        ("customer/57", {"active": 1.5}),
        ("customer/57", {"completionPercentage": 101}),
        ("student/1003", {"password": ""}),
        ("workshop/1", {"capacity": "many"}),
        ("workshop/1", {}),
    ):
        assert api.put(path, json=body).status_code == 400
    assert api.put("workshop/1", content='{"capacity": 5}').status_code == 400  # no content type
    assert site.puts() == []


def test_what_is_no_part_of_the_api_is_not_found(site: ApiDbSite, api: httpx.Client) -> None:
    assert api.delete("customers/57").status_code == 404
    assert api.get("nothing").status_code == 404
    assert httpx.get(f"http://127.0.0.1:{site.port}/workshops").status_code == 404


@pytest.mark.parametrize("seconds", [1, 0.3])
def test_a_token_expires(site: ApiDbSite, seconds: float) -> None:
    site.configure(token_seconds=seconds)
    with client(site) as api:
        wait_until(lambda: api.get("students").status_code == 401, what="the end of the token")
        assert api.get("students").json() == {"message": "Unauthorized!"}
        claims = tokens.claims_of(api.headers["x-access-token"])
        assert claims["exp"] - claims["iat"] == pytest.approx(seconds)


def test_all_tokens_expire_at_once(site: ApiDbSite, api: httpx.Client) -> None:
    assert api.get("students").status_code == 200
    site.expire_tokens()
    assert api.get("students").status_code == 401
    with client(site) as again:
        assert again.get("students").status_code == 200


@pytest.mark.parametrize(
    ("kind", "more", "status"),
    [
        ("unauthorized", {}, 401),
        ("forbidden", {}, 403),
        ("html", {}, 200),
        ("html", {"status": 502}, 502),
        ("broken", {}, 200),
        ("busy", {"seconds": 7}, 429),
        ("error", {}, 503),
        ("error", {"status": 500}, 500),
        ("slow", {"seconds": 0.1}, 200),
    ],
)
def test_faults_that_answer(site: ApiDbSite, api: httpx.Client, kind: str, more: dict[str, float], status: int) -> None:
    site.fault(kind, 2, path="^/students", **more)
    answers = [api.get("students") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert answers[2].json()[0]["username"] == "student1"
    assert [line.get("fault") for line in site.log()[-3:]] == [kind, kind, None]
    first = answers[0]
    if kind == "html":
        assert first.text.startswith("<!DOCTYPE html>")
    if kind == "busy":
        assert first.headers["retry-after"] == "7"
    if kind == "broken":
        with pytest.raises(json.JSONDecodeError):
            first.json()


@pytest.mark.parametrize(("kind", "written"), [("drop", False), ("lost", True)])
def test_faults_that_end_the_connection(site: ApiDbSite, api: httpx.Client, kind: str, written: bool) -> None:
    site.fault(kind, 1, method="PUT")
    assert api.get("customers/57").status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        api.put("customer/57", json={"cleaned": True})
    assert site.customer(57)["cleaned"] is written
    assert api.put("customer/57", json={"cleaned": True}).status_code == 200


def test_hanging_until_the_client_leaves(site: ApiDbSite) -> None:
    site.configure(absent="hang")
    with client(site, timeout=0.3) as api:
        known = len(site.log())
        with pytest.raises(httpx.ReadTimeout):
            api.put("customer/99", json={"active": True})
        # A slow server reads the request after the client has left; the fault is for the one that comes next.
        wait_until(lambda: len(site.log()) == known + 1, what="the end of the first")
        site.fault("hang", 1)
        with pytest.raises(httpx.ReadTimeout):
            api.get("students")
        wait_until(lambda: len(site.log()) == known + 2, what="the end of the second")
        assert api.get("students", timeout=20).status_code == 200
    assert [line["status"] for line in site.log()[-3:]] == [0, 0, 200]
    wait_until(lambda: not serving(), what="the end of the threads that hung")
    assert site.running


def serving() -> list[str]:
    """The threads that serve a connection."""
    return [thread.name for thread in threading.enumerate() if "process_request" in thread.name]


def test_unauthorized_for_ever_until_cleared(site: ApiDbSite, api: httpx.Client) -> None:
    site.fault("unauthorized")
    for _ in range(3):
        assert api.get("customers").status_code == 401
        with client(site) as again:  # the login itself is well
            assert again.get("customers").status_code == 401
    site.clear_faults()
    assert api.get("customers").status_code == 200


def test_a_fault_that_is_none(site: ApiDbSite) -> None:
    with pytest.raises(ValueError, match="unauthorized"):
        site.fault("sulks")
    assert "sulks" not in KINDS


def test_an_account_changes(site: ApiDbSite, api: httpx.Client) -> None:
    site.set_account(site.user, "another", ["ROLE_USER"])
    assert api.get("students").status_code == 403
    answer = api.post("login", json={"username": site.user, "password": site.password})
    assert answer.status_code == 401


def test_down_means_refused_and_rows_stay(site: ApiDbSite, api: httpx.Client) -> None:
    api.put("customer/57", json={"completionPercentage": 40})
    site.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(site.url + "/workshops")
    assert site.customer(57)["completionPercentage"] == 40
    site.add_customer("WKSHP-One", 4, id=58)
    site.start()
    assert api.get("customers/58").json()["studentId"] == 1004
    assert site.puts() == [("/customer/57", {"completionPercentage": 40})]


def test_killed_while_written_to(tmp_path: Path) -> None:
    """Nothing that was answered is lost, rows and log; the client goes on as soon as it is back."""
    site = ApiDbSite(tmp_path, process=True)
    site.add_workshop("WKSHP-One", capacity=0)
    site.start()
    answered = 0
    with client(site) as api:
        for kill in (False, True, False, True, False):
            for _ in range(20):
                assert api.put("workshop/1", json={"capacity": answered + 1}).status_code == 200
                answered += 1
            if kill:
                site.restart()
        assert site.row("workshops", 1)["capacity"] == answered
    assert [body["capacity"] for _, body in site.puts()] == list(range(1, answered + 1))
    site.stop()


def test_started_by_hand(tmp_path: Path) -> None:
    files = ["--log", str(tmp_path / "api.log"), "--token-seconds", "60"]
    given = ["--port", "0", *files, "--workshop", "WKSHP-Demo101", "--students", "1-3", "--base", "10"]
    command = [sys.executable, "-m", "tests.apidb", *given]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert [row["notebook"] for row in httpx.get(f"{url}/workshops").json()] == ["WKSHP-Demo101"]
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert '"/api/workshops"' in (tmp_path / "api.log").read_text()
    kept = json.loads((tmp_path / "api.log.data").read_text())
    assert sorted(kept["students"]) == ["11", "12", "13"]
    assert kept["settings"]["token_seconds"] == 60


def test_help_has_an_example() -> None:
    shows = subprocess.run([sys.executable, "-m", "tests.apidb", "--help"], cwd=ROOT, capture_output=True, check=True)
    assert b"python -m tests.apidb --port 8021" in shows.stdout
