"""One exchange with JupyterHub's REST API: what is sent, what is tried again, which answers are errors for everybody.

What the answers mean for students and their servers is in `jupyterhub`; the rules are in docs/jupyterhub.md.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import structlog

from wodmail import __version__
from wodmail.apidbwire import certificates, plain_url, retry_after, retry_pause, shown
from wodmail.errors import Failed, Temporary
from wodmail.schema import Settings

log = structlog.get_logger("wodmail.hub")

QUICK = 10.0  # seconds for a call that changes no server
SLOW = 30.0  # seconds for one that starts or stops one: the hub itself answers after 10 as a rule
MEMORY = 60.0  # seconds for which a hub that was found away is known to be so
CONNECTIONS = 64
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the JSON in it (None when it is none), the hub's own words on one line."""

    status: int
    data: Any
    words: str


def api_url(written: str) -> str:
    """The API's base URL from WODBEAPIURL: a slash at its end, a path prefix and an appended /hub/api are all fine.

    Args:
        written: e.g. http://localhost:8000 or https://wod.example.org/jupyter/.
    """
    base = written.rstrip("/")
    return base.removesuffix("/hub/api").removesuffix("/hub") + "/hub/api"


class Outage:
    """How long the hub has been away, over all calls, so that only the first of many waits out the patience.

    Safe for several threads.

    Args:
        patience: WODHUBPATIENCE, seconds.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._since: float | None = None
        self._last = 0.0

    def found_away(self, now: float) -> tuple[float, bool]:
        """A call failed.

        Returns:
            The seconds for which it may still be repeated, and whether the outage is news.
        """
        with self._lock:
            news = self._since is None or now - self._last > MEMORY
            since = now if news or self._since is None else self._since
            self._since, self._last = since, now
            return max(since + self._patience - now, 0.0), news

    def found_well(self) -> bool:
        """A call came through; returns whether that is news."""
        with self._lock:
            news, self._since = self._since is not None, None
            return news


class Wire:
    """The connections to the hub, shared by all threads. No error and no log line holds the token.

    Args:
        settings: WODBEAPIURL, WODBETOKEN, WODHUBTIMEOUT, WODHUBPATIENCE, WODCURLOPT and WODWORKERS are used; never a
            proxy or anything else of the environment.

    Raises:
        Failed: the token can't be one, or WODCURLOPT names certificates that can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.base = api_url(settings.WODBEAPIURL)
        self._shown_base = plain_url(self.base)
        self.patience = settings.WODHUBPATIENCE
        self._token = settings.WODBETOKEN
        self._longest = settings.WODHUBTIMEOUT
        self._closing = threading.Event()
        self._outage = Outage(self.patience)
        if _TOKEN.fullmatch(self._token) is None:  # said here, because httpx would show it
            raise Failed("WODBETOKEN is no token: it has blanks or other than ASCII characters. Mend WODBETOKEN.")
        most = max(CONNECTIONS, settings.WODWORKERS + 8)
        self._client = httpx.Client(
            verify=certificates(self.base, settings.WODCURLOPT),
            trust_env=False,
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
            headers={
                "authorization": f"token {self._token}",
                "accept": "application/json",
                "user-agent": f"wodmail/{__version__}",
            },
        )

    def close(self) -> None:
        """Whoever waits stops waiting, with `Temporary`; the connections are given back."""
        self._closing.set()
        self._client.close()

    def wait(self, seconds: float) -> None:
        """Wait, holding nothing.

        Raises:
            Temporary: `close` was called.
        """
        if self._closing.wait(max(seconds, 0.0)):
            raise Temporary("The server goes down; JupyterHub is asked again after its next start.")

    def call(self, method: str, path: str, *, slow: bool = False, body: object = None) -> Answer:
        """One call, repeated while the hub is away or busy.

        Args:
            method: of HTTP.
            path: below the API's base, e.g. /users/student121.
            slow: whether it starts or stops a server, or is about many users.
            body: sent as JSON.

        Returns:
            The hub's answer: 2xx, 400, 404, 409, or a 500 in which it says why a server didn't start.

        Raises:
            Temporary: no answer came within WODHUBPATIENCE, or the hub was busy for WODHUBTIMEOUT.
            Failed: the hub says no for good: 401, 403, a redirect, any other 4xx, or it is no JupyterHub at all.
        """
        busy_until = time.monotonic() + self._longest
        away_until, tries = float("inf"), 0
        while True:
            tries += 1
            response, cause = self._sent(method, path, SLOW if slow else QUICK, body)
            now = time.monotonic()
            if response is None or (_away(response) and not (slow and _explained(method, response))):
                left, news = self._outage.found_away(now)
                away_until = min(away_until, now + self.patience)
                self._pause_while_away(f"{method} {path}: {cause}", min(left, away_until - now), tries, news=news)
                continue
            self._well()
            if response.status_code != 429:
                return self._sensible(method, path, response)
            self._wait_while_busy(response, tries, busy_until - now)

    def _sent(self, method: str, path: str, seconds: float, body: object) -> tuple[httpx.Response | None, str]:
        """One try: the response, or None, and what came of it in words."""
        try:
            response = self._client.request(method, self.base + path, timeout=seconds, json=body)
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
            return None, self._clean(f"{type(error).__name__}: {error}")
        return response, f"{response.status_code} {self._answer(response).words}"

    def said(self, path: str, seconds: float = 5.0) -> str:
        """The last event of a server's start, in the hub's words; empty when there is none to be had.

        Args:
            path: of the event stream (https://html.spec.whatwg.org/multipage/server-sent-events.html), below the base.
            seconds: for each part of it.
        """
        told = ""
        try:
            with self._client.stream("GET", self.base + path, timeout=seconds) as response:
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        event = _json(line.removeprefix("data:"))
                        told = str(event.get("message") or told) if isinstance(event, dict) else told
        except (httpx.HTTPError, RuntimeError) as error:  # the error that these words are for is told all the same
            log.warning("service-away", service="JupyterHub", cause=self._clean(f"GET {path}: {type(error).__name__}"))
        return self._clean(told)

    # -- between tries ----------------------------------------------------------------------------------------

    def _pause_while_away(self, what: str, left: float, tries: int, *, news: bool) -> None:
        cause = self._clean(f"{self._shown_base}: {what}")
        if news:
            log.warning("service-away", service="JupyterHub", cause=cause)
        if left <= 0:
            words = f"JupyterHub is away ({what}): check WODBEAPIURL ({self._shown_base}) and that the hub runs."
            raise Temporary(self._without_token(words), f"{cause} (tries: {tries})")
        self.wait(min(retry_pause(tries, random.random()), left))  # noqa: S311 - any chance will do

    def _wait_while_busy(self, response: httpx.Response, tries: int, left: float) -> None:
        if left <= 0:
            words = f"JupyterHub is too busy, for {self._longest:g} s now: {self._answer(response).words}"
            raise Temporary(words, f"{self._shown_base}: 429 (tries: {tries})")
        asked = retry_after(response.headers.get("retry-after"), datetime.now(UTC)) or 0.0
        self.wait(min(max(asked, retry_pause(tries)), left))

    def _well(self) -> None:
        if self._outage.found_well():
            log.info("service-back", service="JupyterHub")

    # -- answers ----------------------------------------------------------------------------------------------

    def _answer(self, response: httpx.Response) -> Answer:
        data = _json(response.text)
        words = data.get("message") if isinstance(data, dict) else None
        return Answer(response.status_code, data, self._clean(str(words or response.text)))

    def _sensible(self, method: str, path: str, response: httpx.Response) -> Answer:
        """The answer, when it can be the hub's and one of those that callers know.

        Raises:
            Failed: it can't, or it is a no for everybody.
        """
        answer = self._answer(response)
        told = f"{answer.status} {answer.words}"
        operator = f"{method} {self._shown_base}{path}: {told}"
        if answer.status in (401, 403):
            words = f"JupyterHub doesn't let wodmail do that ({told}): check WODBETOKEN and the scopes of its service."
            raise Failed(words, operator)
        if 300 <= answer.status < 400:
            words = f"What answers at WODBEAPIURL ({self._shown_base}) is no JupyterHub ({told}): check that URL."
            raise Failed(words, operator)
        if answer.status >= 400 and answer.status not in (400, 404, 409, 500):
            raise Failed(f"JupyterHub refuses {method} {path}: {told}", operator)
        return answer

    def _without_token(self, text: str) -> str:
        return text.replace(self._token, "****")

    def _clean(self, text: str) -> str:
        return shown(self._without_token(text)) if text.strip() else ""


def _away(response: httpx.Response) -> bool:
    """Whether something in front of the hub answers for it, or it is in trouble itself.

    While the hub restarts its proxy knows no route to it and says 404 with a page; the hub's own errors are JSON.
    """
    status = response.status_code
    strange = status >= 400 and status not in (401, 403, 429) and not isinstance(_json(response.text), dict)
    return status >= 500 or strange


def _explained(method: str, response: httpx.Response) -> bool:
    """Whether a start failed and the hub itself says so; anything in front of it would send a page."""
    return method == "POST" and response.status_code == 500 and isinstance(_json(response.text), dict)


def _json(text: str) -> Any:
    """What the JSON says, None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
