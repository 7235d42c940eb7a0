"""The contract of the API-DB as an HTTP client sees it: plain calls against a base URL, nothing of wodmail.

It runs on our stand-in, and on a real one (see `test_apidb.py`): what it writes it has read before, so it changes
nothing, and it needs one row in each table.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

ABSENT = 99_999_999
WORKSHOP_FIELDS = {
    *("id", "name", "notebook", "description", "capacity", "priority", "range", "reset", "varpass", "ldap"),
    *("monoappliance", "multiappliance", "compile", "location", "alternateLocation", "duration", "active", "beta"),
    "category",
}
STUDENT_FIELDS = {"id", "url", "username", "password", "assigned", "location"}
CUSTOMER_FIELDS = {
    *("id", "name", "email", "company", "sessionName", "sessionType", "location", "active", "cleaned"),
    *("lastEmailSent", "notebook", "hours", "startDate", "endDate", "completionPercentage", "studentId"),
}
TRUTHS = (True, False, "true", "false")


@dataclass(frozen=True)
class ApiAccess:
    """Where the API is, and an account that may read and write; `visitor` is one without the role, or empty."""

    url: str
    user: str
    password: str
    visitor: str = ""
    token_seconds: int = 180


def login(client: httpx.Client, user: str, password: str) -> httpx.Response:
    """One login."""
    return client.post("login", json={"username": user, "password": password})


class ApiDbContract:
    """Run on every API-DB; a subclass gives the `access` fixture."""

    @pytest.fixture
    def bare(self, access: ApiAccess) -> Iterator[httpx.Client]:
        """A client without a token."""
        with httpx.Client(base_url=access.url + "/", timeout=10) as client:
            yield client

    @pytest.fixture
    def api(self, access: ApiAccess, bare: httpx.Client) -> httpx.Client:
        """A client with a token."""
        bare.headers["x-access-token"] = login(bare, access.user, access.password).json()["accessToken"]
        return bare

    # -- login and token --------------------------------------------------------------------------------------

    def test_login(self, access: ApiAccess, bare: httpx.Client) -> None:
        answer = login(bare, access.user, access.password)
        assert answer.status_code == 200
        said = answer.json()
        assert {"id", "username", "email", "roles", "accessToken"} <= set(said)
        assert said["username"] == access.user
        assert isinstance(said["roles"], list)

    def test_token_is_a_jwt_with_its_life(self, access: ApiAccess, bare: httpx.Client) -> None:
        header, claims, signature = login(bare, access.user, access.password).json()["accessToken"].split(".")
        said = _decoded(claims)
        assert _decoded(header)["alg"] == "HS256"
        assert said["exp"] - said["iat"] == access.token_seconds
        assert signature

    def test_unknown_user(self, bare: httpx.Client) -> None:
        answer = login(bare, "nobody-of-that-name", "x")
        assert answer.status_code == 404
        assert set(answer.json()) == {"message"}

    def test_wrong_password(self, access: ApiAccess, bare: httpx.Client) -> None:
        answer = login(bare, access.user, access.password + "x")
        assert answer.status_code == 401
        assert answer.json()["accessToken"] is None
        assert answer.json()["message"]

    @pytest.mark.parametrize("path", ["students", "students/1", "customers", "customers/1"])
    def test_no_token(self, bare: httpx.Client, path: str) -> None:
        answer = bare.get(path)
        assert answer.status_code == 403
        assert answer.json()["message"]

    @pytest.mark.parametrize("path", ["student/1", "customer/1", "workshop/1"])
    def test_no_write_without_a_token(self, bare: httpx.Client, path: str) -> None:
        assert bare.put(path, json={"assigned": False}).status_code == 403

    @pytest.mark.parametrize("spoilt", ["{0}AAAAAA", "x", "a.b.c"])
    def test_bad_token(self, api: httpx.Client, spoilt: str) -> None:
        headers = {"x-access-token": spoilt.format(api.headers["x-access-token"][:-6])}
        answer = api.get("students", headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"message": "Unauthorized!"})
        assert api.put("student/1", json={"assigned": False}, headers=headers).status_code == 401

    def test_account_without_the_role(self, access: ApiAccess, bare: httpx.Client) -> None:
        if not access.visitor:
            pytest.skip("no account without the role is known here")
        token = login(bare, access.visitor, access.password).json()["accessToken"]
        answer = bare.get("students", headers={"x-access-token": token})
        assert answer.status_code == 403
        assert answer.json()["message"]

    # -- reading ----------------------------------------------------------------------------------------------

    def test_workshops_need_no_token(self, bare: httpx.Client) -> None:
        answer = bare.get("workshops")
        assert answer.status_code == 200
        for row in answer.json():
            assert set(row) >= WORKSHOP_FIELDS
            assert row["notebook"].startswith("WKSHP-")
            low, high = row["range"]
            assert isinstance(low, int)
            assert isinstance(high, int)
            assert isinstance(row["alternateLocation"], list)
            assert row["compile"] in (None, False, "false", "") or row["compile"].endswith(".sh")
            for name in ("reset", "varpass", "ldap", "monoappliance", "multiappliance"):
                assert row[name] in TRUTHS

    def test_one_workshop(self, api: httpx.Client) -> None:
        first = api.get("workshops").json()[0]
        answer = api.get(f"workshops/{first['id']}")
        assert (answer.status_code, answer.json()["notebook"]) == (200, first["notebook"])

    def test_students(self, api: httpx.Client) -> None:
        rows = api.get("students").json()
        assert all(set(row) >= STUDENT_FIELDS and row["assigned"] in TRUTHS for row in rows)
        one = api.get(f"students/{rows[0]['id']}")
        assert (one.status_code, one.json()["username"]) == (200, rows[0]["username"])

    def test_customers(self, api: httpx.Client) -> None:
        rows = api.get("customers").json()
        assert all(set(row) >= CUSTOMER_FIELDS for row in rows)
        assert all(row["active"] in TRUTHS and row["cleaned"] in TRUTHS for row in rows)
        one = api.get(f"customers/{rows[0]['id']}")
        assert (one.status_code, one.json()["studentId"]) == (200, rows[0]["studentId"])

    @pytest.mark.parametrize(
        ("path", "words"), [("students", "Student Not Found"), ("customers", "Customer Not Found")]
    )
    def test_absent_row(self, api: httpx.Client, path: str, words: str) -> None:
        answer = api.get(f"{path}/{ABSENT}")
        assert (answer.status_code, answer.text) == (400, words)

    def test_absent_workshop(self, api: httpx.Client) -> None:
        answer = api.get(f"workshops/{ABSENT}")
        assert answer.status_code == 400
        assert not answer.headers["content-type"].startswith("application/json")
        assert answer.text

    # -- writing ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("table", "noun", "name"),
        [
            ("workshops", "workshop", "capacity"),
            ("students", "student", "password"),
            ("students", "student", "assigned"),
            ("customers", "customer", "active"),
            ("customers", "customer", "completionPercentage"),
            ("customers", "customer", "cleaned"),
        ],
    )
    def test_write(self, api: httpx.Client, table: str, noun: str, name: str) -> None:
        row = api.get(table).json()[-1]
        value = {"true": True, "false": False}.get(row[name], row[name])
        answer = api.put(f"{noun}/{row['id']}", json={name: value})
        assert answer.status_code == 200
        assert answer.json()["id"] == row["id"]
        assert str(api.get(f"{table}/{row['id']}").json()[name]).lower() == str(value).lower()

    @pytest.mark.parametrize(
        ("noun", "body"),
        [("workshop", {"capacity": 1}), ("student", {"assigned": False}), ("customer", {"cleaned": True})],
    )
    def test_write_of_an_absent_row(self, api: httpx.Client, noun: str, body: dict[str, object]) -> None:
        try:
            answer = api.put(f"{noun}/{ABSENT}", json=body, timeout=0.5)
        except httpx.ReadTimeout as silence:
            assert silence.request.method == "PUT"
            return
        assert (answer.status_code, answer.json()) == (400, {"error": {}})


def _decoded(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
