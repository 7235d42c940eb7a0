"""What the stand-in knows: accounts, workshops, students, customers; in a file, so that a restart keeps it."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]

TABLES = ("workshops", "students", "customers")
BOOLEANS = frozenset(
    {"active", "assigned", "beta", "cleaned", "ldap", "monoappliance", "multiappliance", "reset", "varpass"}
)
USER, PASSWORD = "backend", "stand-in-Pa55"
VISITOR = "visitor"
ROLE = "ROLE_ADMIN"
SETTINGS: dict[str, Any] = {"token_seconds": 180, "absent": "error", "booleans": "mixed"}


def shown(password: object) -> str:
    """How the request log shows a password: enough to compare two of them."""
    return "sha256:" + hashlib.sha256(str(password).encode()).hexdigest()[:12]


def workshop_row(notebook: str, **fields: Any) -> Row:
    """A workshop as the API-DB knows it, everything it does switched off."""
    title = notebook.partition("-")[2]
    plain = {
        "name": title,
        "notebook": notebook,
        "description": f"{title}, for a test",
        "capacity": 20,
        "priority": 1,
        "range": [1, 100],
        "reset": False,
        "varpass": False,
        "ldap": False,
        "compile": None,
        "duration": 4,
        "monoappliance": False,
        "multiappliance": False,
        "location": "TEST",
        "alternateLocation": [],
        "active": True,
        "beta": False,
        "category": ["test"],
    }
    return {**plain, **fields}


def student_row(student: int, **fields: Any) -> Row:
    """A free seat; `student` is the student's number, the row's id is for the caller to give."""
    name = f"student{student}"
    plain = {"url": f"http://backend.test/user/{name}/lab", "username": name, "password": ""}
    return {**plain, "assigned": False, "location": "TEST", **fields}


def customer_row(notebook: str, student_id: int | None, **fields: Any) -> Row:
    """A participant who has registered: not active yet, not cleaned."""
    plain = {
        "name": "Ada Example",
        "email": "ada@example.org",
        "company": "Example",
        "sessionName": notebook,
        "sessionType": "Workshops-on-Demand",
        "location": "TEST",
        "active": False,
        "cleaned": False,
        "lastEmailSent": None,
        "notebook": notebook,
        "hours": 4,
        "startDate": None,
        "endDate": None,
        "completionPercentage": 0,
        "studentId": student_id,
    }
    return {**plain, **fields}


class State:
    """All rows. Every change is in the file before the method returns, so a kill loses nothing.

    Args:
        file: where it is kept; read when it exists.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lock = threading.RLock()
        self._data: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        if self.file.exists():
            found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
            return found
        fresh: dict[str, Any] = {"version": 1, "key": secrets.token_hex(32), "settings": dict(SETTINGS)}
        fresh["accounts"] = {
            USER: self._account(1, PASSWORD, [ROLE]),
            VISITOR: self._account(2, PASSWORD, ["ROLE_USER"]),
        }
        return fresh | {table: {} for table in TABLES}

    def save(self) -> None:
        """Replace the file as a whole."""
        with self.lock:
            beside = self.file.with_name(self.file.name + ".new")
            beside.write_text(json.dumps(self._data), encoding="utf-8")
            beside.replace(self.file)

    # -- rows -------------------------------------------------------------------------------------------------

    def rows(self, table: str) -> list[Row]:
        """All rows of a table in the order of their ids.

        One more table, `history`, says when a participant's `active` became another: fields customer, studentId,
        active, time (seconds since 1970). The API doesn't show it.
        """
        with self.lock:
            if table == "history":
                return list(self._data.get(table, []))
            return [dict(row) for _, row in sorted(self._data[table].items(), key=lambda item: int(item[0]))]

    def row(self, table: str, number: int) -> Row | None:
        """One row, None when absent."""
        with self.lock:
            found = self._data[table].get(str(number))
            return dict(found) if found is not None else None

    def add(self, table: str, rows: list[Row]) -> list[int]:
        """Add rows; one without `id` gets the next number. An id that is taken is an error (ValueError)."""
        with self.lock:
            held, numbers = self._data[table], []
            for row in rows:
                number = row.get("id") or max([0, *map(int, held)]) + 1
                if str(number) in held:
                    raise ValueError(f"{table} has a row {number} already")
                held[str(number)] = {"id": number, **row}
                numbers.append(number)
            self.save()
            return numbers

    def update(self, table: str, number: int, fields: Mapping[str, Any]) -> Row | None:
        """Change fields of a row; the row as it then is, None when absent."""
        with self.lock:
            row = self._data[table].get(str(number))
            if row is None:
                return None
            before = row.get("active")
            row.update({name: _truth(name, value) for name, value in fields.items()})
            if table == "customers" and row["active"] != before:
                note = {"customer": number, "studentId": row["studentId"], "active": row["active"], "time": time.time()}
                self._data.setdefault("history", []).append(note)
            self.save()
            return dict(row)

    # -- accounts and settings --------------------------------------------------------------------------------

    @property
    def key(self) -> bytes:
        """What tokens are signed with."""
        return bytes.fromhex(self._data["key"])

    def expire_tokens(self) -> None:
        """From now on no token that was given before is good."""
        with self.lock:
            self._data["key"] = secrets.token_hex(32)
            self.save()

    def setting(self, name: str) -> Any:
        """One of `SETTINGS`."""
        return self._data["settings"][name]

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Change some of `SETTINGS`; KeyError for a name that isn't one."""
        with self.lock:
            for name, value in settings.items():
                if name not in SETTINGS:
                    raise KeyError(name)
                self._data["settings"][name] = value
            self.save()

    @staticmethod
    def _account(number: int, password: str, roles: list[str]) -> Row:
        salt = secrets.token_hex(8)
        return {"id": number, "salt": salt, "hash": _hashed(salt, password), "roles": roles}

    def set_account(self, name: str, password: str, roles: list[str]) -> None:
        """Add an account, or replace it (its password has changed)."""
        with self.lock:
            accounts = self._data["accounts"]
            number = accounts[name]["id"] if name in accounts else len(accounts) + 1
            accounts[name] = self._account(number, password, roles)
            self.save()

    def account(self, name: object) -> Row | None:
        """id and roles of an account."""
        found: Row | None = self._data["accounts"].get(name) if isinstance(name, str) else None
        return found

    def roles_of(self, number: object) -> list[str] | None:
        """The roles of the account that a token names, None when there is none."""
        accounts = self._data["accounts"].values()
        return next((account["roles"] for account in accounts if account["id"] == number), None)


def password_fits(account: Row, password: object) -> bool:
    """Whether it is the account's password."""
    return hmac.compare_digest(account["hash"], _hashed(account["salt"], str(password)))


def _hashed(salt: str, password: str) -> str:
    return hashlib.sha256(f"{salt}:{password}".encode()).hexdigest()


def _truth(name: str, value: Any) -> Any:
    """Booleans are kept as booleans, also when they came as text."""
    return value == "true" if name in BOOLEANS and value in ("true", "false") else value
