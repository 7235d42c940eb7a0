"""One exchange with the API-DB: what is sent, what comes back, what is tried again. Rows and logins are `apidb`'s."""

from __future__ import annotations

import json
import random
import re
import shlex
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any

import httpx

from wodmail import __version__
from wodmail.errors import Failed
from wodmail.schema import Settings

Row = dict[str, Any]

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0
LONGEST_RETRY_AFTER = 10.0
MAX_BYTES = 32 * 1024 * 1024
CONNECTIONS = 64
SHOWN = 200
BUSY = frozenset({408, 425, 429})
GATEWAY = frozenset({502, 503, 504})
_INSECURE = re.compile(r"-[A-Za-z]*k[A-Za-z]*|--insecure")


class Trouble(Exception):
    """One try failed in a way that may be over at the next.

    Args:
        words: what is wrong, for everybody.
        cause: the same in detail, for the operator.
        away: whether it concerns the whole service, not this call alone.
        slow: whether WODAPIDBTIMEOUT was waited out.
        silent: whether that was for an answer.
        after: seconds that the service asked us to wait.
        told: the service's own text, uncut, as secrets are looked for in the whole of it; comes after `cause`.
    """

    def __init__(
        self,
        words: str,
        cause: str,
        *,
        away: bool = True,
        slow: bool = False,
        silent: bool = False,
        after: float | None = None,
        told: str = "",
    ) -> None:
        super().__init__(words)
        self.words, self.cause, self.away, self.after = words, cause, away, after
        self.slow, self.silent, self.told = slow or silent, silent, told


@dataclass(frozen=True, slots=True)
class Call:
    """One request: method, path below the base URL, JSON body; `tries` at most."""

    method: str
    path: str
    body: Row | None = None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the JSON in it (None when it is none) and its text."""

    status: int
    data: Any
    text: str


def retry_pause(tries: int, chance: float = 1.0) -> float:
    """Seconds before a call is repeated (pure): 0.25, 0.5, 1 … at most 4, up to a half less by chance.

    Args:
        tries: how often it was tried, at least 1.
        chance: 0 to 1.
    """
    return float(min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)) * (0.5 + chance / 2)


def pause_after(trouble: Trouble, tries: int) -> float:
    """Seconds before the next try: what the service asked for, else `retry_pause` with chance."""
    return trouble.after if trouble.after is not None else retry_pause(tries, random.random())  # noqa: S311


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, both of its forms (RFC 9110, 10.2.3), at most 10; None without."""
    if not header:
        return None
    if re.fullmatch(r"[0-9]{1,9}", header.strip(), re.ASCII):
        return min(float(header), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER)


def certificates(url: str, options: str) -> ssl.SSLContext | bool:
    """How certificates are checked: with the host's own list, or as curl's options say (-k, --cacert FILE).

    Args:
        url: what will be called; plain http checks none.
        options: WODCURLOPT.

    Raises:
        Failed: the file of --cacert can't be used.
    """
    if not url.startswith("https:"):
        return False
    try:
        words = shlex.split(options)
    except ValueError:  # a quote that isn't closed
        words = options.split()
    if any(_INSECURE.fullmatch(word) for word in words):
        return False
    file = next((after for word, after in pairwise(words) if word == "--cacert"), None)
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        told = "Certificates can't be checked: look at --cacert in WODCURLOPT."
        raise Failed(told, f"{file}: {error}") from error


def plain_url(url: str) -> str:
    """A URL as it may be shown: without a user and a password in it (RFC 3986, 3.2.1)."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url)


def shown(text: str) -> str:
    """The beginning of a text on one line, printable."""
    line = " ".join(text[: 4 * SHOWN].split())
    return "".join(c if c.isprintable() else "?" for c in line)[:SHOWN] or "(nothing)"


class Wire:
    """The connections to the API-DB, shared by all threads.

    Args:
        settings: WODAPIDBEXTURL, WODAPIDBTIMEOUT, WODCURLOPT and WODWORKERS are used; never a proxy or anything else
            of the environment.
    """

    def __init__(self, settings: Settings) -> None:
        self.base = settings.WODAPIDBEXTURL.rstrip("/")
        self.shown_base = plain_url(self.base)
        self.closing = threading.Event()
        self._timeout = settings.WODAPIDBTIMEOUT
        most = max(CONNECTIONS, settings.WODWORKERS + 8)
        self._client = httpx.Client(
            timeout=self._timeout,
            verify=certificates(self.base, settings.WODCURLOPT),
            trust_env=False,
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
            headers={"accept": "application/json", "user-agent": f"wodmail/{__version__}"},
        )

    def close(self) -> None:
        """Give the connections back; who waits for the next try stops waiting."""
        self.closing.set()
        self._client.close()

    def send(self, call: Call, token: str) -> Answer:
        """Try once.

        Raises:
            Trouble: no answer of the API-DB came that counts.
        """
        headers = {"x-access-token": token} if token else {}
        began = time.monotonic()
        try:
            request = self._client.build_request(call.method, self.base + call.path, json=call.body, headers=headers)
            response = self._client.send(request, stream=True)
            try:
                text = self._text(response, began)
            finally:
                response.close()
        except (httpx.ConnectTimeout, httpx.ConnectError) as error:
            slow = isinstance(error, httpx.TimeoutException)
            words = "it can't be reached"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                words = "its certificate isn't trusted here: see --cacert and -k in WODCURLOPT"
            raise Trouble(words, f"{type(error).__name__}: {error}", slow=slow) from error
        except httpx.TimeoutException as error:
            words = f"it doesn't answer within {self._timeout:g} s"
            raise Trouble(words, type(error).__name__, silent=True) from error
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
            raise Trouble("the connection broke off", f"{type(error).__name__}: {error}") from error
        return sense(response, text)

    def _text(self, response: httpx.Response, began: float) -> str:
        """The answer's text; the whole call has WODAPIDBTIMEOUT, however slowly it comes."""
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise Trouble("its answer is far too long", f"more than {MAX_BYTES} bytes")
            if time.monotonic() > began + self._timeout:
                raise httpx.ReadTimeout("the answer came too slowly")
        return b"".join(parts).decode("utf-8", "replace")


def sense(response: httpx.Response, text: str) -> Answer:
    """The answer, when the API-DB itself can have given it (pure).

    Raises:
        Trouble: it is busy, or something else has answered in its place.
    """
    status = response.status_code
    try:
        data, is_json = json.loads(text), True
    except (ValueError, RecursionError):
        data, is_json = None, False
    if status in BUSY or status >= 500:
        after = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
        raise Trouble(f"it answers {status}", str(status), away=status in GATEWAY, after=after, told=text)
    foreign = status >= 400 and text.lstrip()[:1] == "<"  # the API-DB itself sends no pages
    if 300 <= status < 400 or foreign or (status < 300 and not is_json):
        kind = response.headers.get("content-type", "no type")
        words = f"what answers with {status} is not the API-DB: check WODAPIDBEXTURL and what stands in front of it"
        raise Trouble(words, f"{status}, {kind}:", told=text)
    return Answer(status, data, text)
