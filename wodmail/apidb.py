"""The API-DB's client: one login for all threads, calls that are repeated, and errors that say what to do.

What is called when, and what happens while the service is away, is in docs/api-db.md.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from wodmail.apidbwire import Answer, Call, Row, Trouble, Wire, pause_after, shown
from wodmail.breaker import Breaker
from wodmail.errors import Away, Failed, NotLetIn
from wodmail.logs import Masker
from wodmail.schema import Settings

__all__ = ["ApiDb", "NoRow", "Row", "token_life"]

log = structlog.get_logger("wodmail.apidb")

TOKEN_LIFE = 180.0  # seconds, when the token itself doesn't tell
LONGEST_LIFE = 3600.0
MARGIN = 30.0  # seconds before its end from which a token is renewed, at most a third of its life
TOKENS_MASKED = 16  # scripts may print a token long after it was renewed
SLOW_TRIES = 2  # a time-out costs a worker WODAPIDBTIMEOUT
_ONE_ROW = re.compile(r"/([a-z]+)/([0-9]+)")
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,8192}")
_BEGIN_LOGIN = "The API-DB refuses the login of this backend"


class NoRow(Failed):
    """The API-DB has no row of that number."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    life: float
    since: float

    def left(self) -> float:
        return self.since + self.life - time.monotonic()


def token_life(token: str) -> float:
    """Seconds that a token lives from its making: `exp` minus `iat` of the JWT (RFC 7519, 4.1), else 180.

    The difference only: the clock of the API-DB's host may be another than ours.
    """
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        life = float(claims["exp"]) - float(claims["iat"])
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return TOKEN_LIFE
    return min(life, LONGEST_LIFE) if life > 0 else TOKEN_LIFE


class ApiDb:
    """Calls of the API-DB at WODAPIDBEXTURL. Safe for many threads; one login serves them all.

    Every call raises `Away` when the service can't be reached, is too busy or makes no sense after the tries of
    WODAPIDBRETRIES, `NotLetIn` when it refuses our account, `NoRow` when it has no such row, `Failed` for every other
    4xx. No message holds a password or a token.

    Args:
        settings: the WODAPIDB… keys, WODCURLOPT and WODWORKERS are used.
        masker: learns the tokens; without one only what this client says is masked.
        on_back: called when the service answers again after it was away.
    """

    def __init__(
        self, settings: Settings, masker: Masker | None = None, on_back: Callable[[], object] = lambda: None
    ) -> None:
        self.on_back = on_back
        self.breaker = Breaker()
        self._settings = settings
        self._wire = Wire(settings)
        self._tries = settings.WODAPIDBRETRIES + 1
        self._masker = masker or Masker()
        self._masker.register(settings.WODAPIDBUSERPWD)
        self._login = threading.Lock()
        self._token: _Token | None = None
        self._masked: deque[str] = deque()
        self._failures = 0
        self._failure: Away | Failed = Away("no login has failed")

    def close(self) -> None:
        """Give the connections back; calls that wait for their next try fail."""
        self._wire.close()

    @property
    def away(self) -> bool:
        """Whether the service as a whole was found away when it was last tried."""
        return self.breaker.away is not None

    # -- what callers ask -------------------------------------------------------------------------------------

    def get(self, path: str, *, unnamed: bool = False, tries: int | None = None) -> Any:
        """Read something.

        Args:
            path: below the base URL, with the slash, e.g. /customers/57.
            unnamed: without a token, which would cost a login.
            tries: at most so many; WODAPIDBRETRIES + 1 when None.

        Raises:
            NoRow: one row was asked for, and there is none.
        """
        call = Call("GET", path, None, tries or self._tries)
        answer = self._exchange(call, "") if unnamed else self._named(call)
        if answer.status == 400 and _ONE_ROW.fullmatch(path):
            raise NoRow(f"The API-DB has no {_in_words(path)}.", self._said(call, answer))
        return self._checked(call, answer).data

    def row(self, path: str, *, tries: int | None = None) -> Row:
        """One row; see `get`.

        Raises:
            Away: what came is no row.
        """
        found = self.get(path, tries=tries)
        if not isinstance(found, dict):
            raise self._nonsense(path, f"a {type(found).__name__} in place of a row")
        return found

    def rows(self, path: str, *, unnamed: bool = False) -> list[Row]:
        """A list of rows; see `get`.

        Raises:
            Away: what came is no list of rows.
        """
        found = self.get(path, unnamed=unnamed)
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise self._nonsense(path, f"a {type(found).__name__} in place of a list of rows")
        return found

    def put(self, path: str, body: Row, *, tries: int | None = None) -> Any:
        """Change one row; doing it twice is like doing it once.

        Args:
            path: e.g. /student/1121.
            body: the fields to change.
            tries: at most so many; WODAPIDBRETRIES + 1 when None.

        Raises:
            NoRow: there is no such row; also found out when the API-DB gives no answer at all, as it may then do.
        """
        call = Call("PUT", path, body, tries or self._tries)
        answer = self._named(call)
        if answer.status == 400:
            self._row_is_there(path)
        return self._checked(call, answer).data

    def token(self, share: float = 0.0) -> str:
        """A valid token; logs in when there is none or its life is nearly over.

        Args:
            share: how much of its life it must still have, 0 to 0.9; more than a moment in any case.

        Raises:
            NotLetIn: the API-DB doesn't know our account, or its password is another.
        """
        token = self._token
        if token is not None and token.left() > max(min(MARGIN, token.life / 3), share * token.life):
            return token.text
        return self._renewed(token)

    # -- the login --------------------------------------------------------------------------------------------

    def _renewed(self, worn: _Token | None) -> str:
        """A token newer than `worn`: one thread logs in, those that come meanwhile share what comes of it."""
        failures = self._failures
        with self._login:
            if self._token is not None and self._token is not worn:
                return self._token.text
            if self._failures != failures:
                raise type(self._failure)(self._failure.sender, self._failure.operator)
            try:
                self._token = self._logged_in()
            except (Away, Failed) as error:
                self._failures, self._failure = self._failures + 1, error
                raise
            return self._token.text

    def _logged_in(self) -> _Token:
        settings = self._settings
        body = {"username": settings.WODAPIDBUSER, "password": settings.WODAPIDBUSERPWD}
        call = Call("POST", "/login", body, self._tries)
        since = time.monotonic()
        answer = self._exchange(call, "")
        if answer.status >= 400:
            why = {404: "no such account", 401: "wrong password"}.get(answer.status, f"it answers {answer.status}")
            words = f"{_BEGIN_LOGIN}: {why}. An operator has to mend WODAPIDBUSER or WODAPIDBUSERPWD."
            raise NotLetIn(words, self._said(call, answer))
        text = answer.data.get("accessToken") if isinstance(answer.data, dict) else None
        if not isinstance(text, str) or _PRINTABLE.fullmatch(text) is None:
            raise self._nonsense("/login", "no accessToken")
        self._mask(text)
        return _Token(text, token_life(text), since)

    def _mask(self, token: str) -> None:
        self._masker.register(token)
        self._masked.append(token)
        if len(self._masked) > TOKENS_MASKED:
            self._masker.unregister(self._masked.popleft())

    # -- one call ---------------------------------------------------------------------------------------------

    def _named(self, call: Call) -> Answer:
        """The call with our token, which is renewed once when the API-DB doesn't take it."""
        token = self.token()
        answer = self._exchange(call, token)
        if answer.status == 401:
            worn = self._token
            token = self._renewed(worn if worn is not None and worn.text == token else None)
            answer = self._exchange(call, token)
        if answer.status == 401:
            words = "The API-DB refuses the token that it has just given. An operator has to look at it, and at"
            raise NotLetIn(f"{words} WODAPIDBUSER and WODAPIDBUSERPWD.", self._said(call, answer))
        if answer.status == 403:
            words = "The API-DB says that this backend's account may not do that. An operator has to give WODAPIDBUSER"
            raise NotLetIn(f"{words} the role it needs (see WODAPIDBUSERPWD, too).", self._said(call, answer))
        return answer

    def _exchange(self, call: Call, token: str) -> Answer:
        """Try until an answer comes that counts.

        Raises:
            Away: none came.
        """
        tries = 0
        while True:
            tries += 1
            try:
                with self.breaker.trying():
                    answer = self._wire.send(call, token)
                    self._well()
                    return answer
            except Trouble as error:
                trouble = error
            there = trouble.silent and call.method == "PUT" and self._row_is_there(call.path)
            most = min(call.tries, SLOW_TRIES) if trouble.slow else call.tries
            if self.away:  # found away by another call meanwhile, or still so after the breaker's pause
                most = 1
            if there or tries >= most or self._wire.closing.is_set():
                raise self._away(call, trouble, tries, alone=there or not trouble.away) from None
            self._wire.closing.wait(pause_after(trouble, tries))

    def _row_is_there(self, path: str) -> bool:
        """Whether a row that a PUT named exists; False when that can't be found out now.

        Raises:
            NoRow: there is none.
        """
        match = _ONE_ROW.fullmatch(path)
        if match is None:
            return False
        try:
            self.get(f"/{match[1]}s/{match[2]}", tries=1)
        except Away:
            return False
        return True

    def _well(self) -> None:
        if self.breaker.found_well():
            log.info("service-back", service="API-DB")
            self.on_back()

    def _away(self, call: Call, trouble: Trouble, tries: int, *, alone: bool) -> Away:
        told = f" {shown(self._without_secrets(trouble.told, call))}" if trouble.told else ""
        what = f"{call.method} {self._wire.shown_base}{call.path}: {trouble.cause}{told} (tries: {tries})"
        error = Away(f"The API-DB is away: {trouble.words}.", self._without_secrets(what, call))
        if not alone and self.breaker.found_away(error):
            log.warning("service-away", service="API-DB", cause=error.operator)
        return error

    # -- words ------------------------------------------------------------------------------------------------

    def _checked(self, call: Call, answer: Answer) -> Answer:
        if answer.status >= 400:
            told = f"{answer.status}: {self._told(call, answer)}"
            raise Failed(f"The API-DB refuses {call.method} {call.path} with {told}", self._said(call, answer))
        return answer

    def _said(self, call: Call, answer: Answer) -> str:
        return f"{call.method} {self._wire.shown_base}{call.path}: {answer.status} {self._told(call, answer)}"

    def _told(self, call: Call, answer: Answer) -> str:
        told = answer.data.get("message") if isinstance(answer.data, dict) else answer.data
        return shown(self._without_secrets(told if isinstance(told, str) else answer.text, call))

    def _without_secrets(self, text: str, call: Call) -> str:
        with self._masker.registered(str((call.body or {}).get("password") or "")):
            return self._masker.mask(text)

    def _nonsense(self, path: str, what: str) -> Away:
        words = "The API-DB is away: its answer makes no sense. Check WODAPIDBEXTURL and what stands in front of it."
        return Away(words, f"{self._wire.shown_base}{path}: {what}")


def _in_words(path: str) -> str:
    """A row's path in words: /students/1121 is "student 1121"."""
    match = _ONE_ROW.fullmatch(path)
    return f"{match[1].removesuffix('s')} {match[2]}" if match else path
