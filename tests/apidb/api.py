"""What the API-DB answers: from method, path, token and body to status and value. No sockets here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.apidb import tokens
from tests.apidb.state import BOOLEANS, ROLE, State, password_fits


@dataclass(frozen=True)
class Answer:
    """An answer.

    Args:
        status: HTTP status; 0 means that none is given until the client leaves.
        value: what is sent as JSON; text is sent as it is.
        kind: the content type of a text.
        headers: more headers.
    """

    status: int
    value: Any
    kind: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


NEVER = Answer(0, None)
WRITABLE = {
    "workshop": ("workshops", ("capacity",)),
    "student": ("students", ("password", "assigned")),
    "customer": ("customers", ("active", "completionPercentage", "cleaned")),
}
NAMES = {"workshops": "Workshop", "students": "Student", "customers": "Customer"}


def answer(state: State, method: str, path: str, token: str, body: Any) -> Answer:
    """The answer to one request; changes the state where it is a PUT.

    Args:
        state: the rows.
        method: GET, POST or PUT; anything else is unknown.
        path: below /api, e.g. /student/3.
        token: the header x-access-token, empty when absent.
        body: the JSON that came; None when none came or it is none.
    """
    parts = path.strip("/").split("/")
    if (method, path) == ("POST", "/login"):
        return _login(state, body)
    if (method, path) == ("GET", "/workshops"):
        return Answer(200, spoken(state, state.rows("workshops")))
    if method == "GET" and parts[0] in NAMES and len(parts) <= 2:
        return _barred(state, token) or _read(state, parts[0], parts[1:])
    if method == "PUT" and parts[0] in WRITABLE and len(parts) == 2:
        return _barred(state, token) or _write(state, parts[0], parts[1], body)
    return Answer(404, f"<!DOCTYPE html>\n<html><body><pre>Cannot {method} /api{path}</pre></body></html>\n")


def _login(state: State, body: Any) -> Answer:
    given = body if isinstance(body, dict) else {}
    account = state.account(given.get("username"))
    if account is None:
        return Answer(404, {"message": "User Not found."})
    if not password_fits(account, given.get("password")):
        return Answer(401, {"accessToken": None, "message": "Invalid Password!"})
    name = given["username"]
    token = tokens.issue(state.key, account["id"], state.setting("token_seconds"))
    known = {"id": account["id"], "username": name, "email": f"{name}@api.test", "roles": account["roles"]}
    return Answer(200, {**known, "accessToken": token})


def _barred(state: State, token: str) -> Answer | None:
    """The answer to one who may not ask, None for those who may."""
    if not token:
        return Answer(403, {"message": "No token provided!"})
    roles = state.roles_of(tokens.account_of(state.key, token))
    if roles is None:
        return Answer(401, {"message": "Unauthorized!"})
    if ROLE not in roles:
        return Answer(403, {"message": "Require Admin Role!"})
    return None


def _read(state: State, table: str, rest: list[str]) -> Answer:
    if not rest:
        return Answer(200, spoken(state, state.rows(table)))
    row = state.row(table, _number(rest[0]))
    return Answer(200, spoken(state, row)) if row is not None else Answer(400, f"{NAMES[table]} Not Found")


def _write(state: State, noun: str, number: str, body: Any) -> Answer:
    """Change a row. Whatever the contract doesn't name is refused aloud, so that a client's mistake is seen."""
    table, writable = WRITABLE[noun]
    if not isinstance(body, dict) or not body:
        return Answer(400, "the body must be a JSON object with content-type application/json")
    wrong = [name for name, value in body.items() if name not in writable or not _sane(name, value)]
    if wrong:
        return Answer(400, f"{noun}: no such field, or no such value for it: {', '.join(wrong)}")
    row = state.update(table, _number(number), body)
    if row is None:
        return NEVER if state.setting("absent") == "hang" else Answer(400, {"error": {}})
    return Answer(200, spoken(state, row))


def _sane(name: str, value: Any) -> bool:
    if name in BOOLEANS:
        return value in (True, False, "true", "false")
    if name == "password":
        return isinstance(value, str) and bool(value)
    limit = 100 if name == "completionPercentage" else 10_000
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else -1


_answers = iter(range(2**62))


def spoken(state: State, value: Any) -> Any:
    """Rows as they go out: booleans are sometimes text; `mixed` makes them so in every second answer."""
    how = state.setting("booleans")
    if how == "real" or (how == "mixed" and next(_answers) % 2 == 0):
        return value
    if isinstance(value, list):
        return [_as_text(row) for row in value]
    return _as_text(value)


def _as_text(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in row.items()}
