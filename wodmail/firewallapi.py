"""A firewall elsewhere that is told of bans over HTTP, by a site's own requests; docs/fail2ban.md has their file.

The file holds secrets: in URLs, headers and bodies. None of them is ever in an error, so of an answer only its status
is told, of an address on the network only host and port.
"""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from wodmail import __version__
from wodmail.apidbwire import retry_pause
from wodmail.bans import Address
from wodmail.errors import ConfigError, Failed, NotLetIn, Problem, Temporary
from wodmail.yamlfile import read_mapping

FILE = Path("/etc/wodmail/firewall.yml")
PLACES = ("{ip}", "{family}")
EXAMPLES = ("192.0.2.1", "198.51.100.1")
AGAIN = frozenset({408, 425, 429})
Status = Annotated[int, Field(ge=200, le=499)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Request(_Part):
    """One request: {ip} and {family} (4 or 6) are filled in, in the URL, headers and texts of the body."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    url: str = Field(repr=False)
    headers: dict[str, str] = Field(default={}, repr=False)
    body: Any = Field(default=None, repr=False)
    fine: list[Status] = []

    @field_validator("url")
    @classmethod
    def _safe(cls, value: str) -> str:
        try:
            url, other = (httpx.URL(filled(value, ipaddress.ip_address(ip), quoted=True)) for ip in EXAMPLES)
        except httpx.InvalidURL:
            raise ValueError("is no URL") from None  # its words would quote it
        if url.scheme not in ("http", "https") or not url.host or url.host != other.host:
            raise ValueError("must begin with https:// and a host")
        if url.scheme == "http" and url.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("must begin with https://, as secrets would go over the network in clear")
        return value

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not name.isascii() or not text.isascii() or not (name + text).isprintable():
                raise ValueError(f"the header {name!r} holds a character that can't be sent")
        return value


class Plan(_Part):
    """The file as a whole."""

    ban: Request
    unban: Request
    timeout_seconds: float = Field(default=5.0, gt=0, le=10)
    tries: int = Field(default=3, ge=1, le=3)
    ca_file: Path | None = None


def load(file: Path = FILE) -> Plan | None:
    """The site's requests; None when there is no such file.

    Raises:
        ConfigError: others may read or change it, or something in it is wrong.
    """
    try:
        found = file.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ConfigError([Problem(str(file), "must be a plain file of root's that nobody else can read: chmod 0600")])
    data, problems = read_mapping(file)
    if not problems:
        try:
            return Plan.model_validate(data or {})
        except ValidationError as error:
            problems = [
                Problem(str(file), f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}")
                for each in error.errors(include_url=False, include_input=False)
            ]
    raise ConfigError(problems)


def filled(text: str, address: Address, *, quoted: bool = False) -> str:
    """A text with {ip} and {family} filled in (pure).

    Args:
        text: the template.
        address: the address.
        quoted: whether it is a URL, where IPv6's colons are written as %3A.
    """
    values = (quote(str(address), safe="") if quoted else str(address), str(address.version))
    for place, value in zip(PLACES, values, strict=True):
        text = text.replace(place, value)
    return text


def body_for(template: Any, address: Address) -> Any:
    """The body with every text in it filled in, however deep (pure)."""
    if isinstance(template, str):
        return filled(template, address)
    if isinstance(template, list):
        return [body_for(each, address) for each in template]
    if isinstance(template, dict):
        return {key: body_for(value, address) for key, value in template.items()}
    return template


class FirewallApi:
    """Tells the firewall.

    Args:
        plan: see `load`.
        pause: called with the seconds before a request is repeated.
    """

    def __init__(self, plan: Plan, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._plan, self._pause = plan, pause

    def ban(self, address: Address) -> None:
        """Shut it out; 409 means that it is already.

        Raises:
            Temporary: the firewall is away or busy.
            Failed: it says no; `NotLetIn` when it refuses our credentials.
        """
        self._tell(self._plan.ban, address, {409})

    def unban(self, address: Address) -> None:
        """Let it in again; 404 and 410 mean that it is already.

        Raises:
            Temporary: the firewall is away or busy.
            Failed: it says no; `NotLetIn` when it refuses our credentials.
        """
        self._tell(self._plan.unban, address, {404, 410})

    def _tell(self, request: Request, address: Address, done: set[int]) -> None:
        url = httpx.URL(filled(request.url, address, quoted=True))
        where = f"{url.host}:{url.port or {'http': 80, 'https': 443}[url.scheme]}"
        fine = set(request.fine) or {*range(200, 300), *done}
        for tries in range(1, self._plan.tries + 1):
            if tries > 1:
                self._pause(retry_pause(tries - 1))
            status, words = self._once(request, url, address)
            if status in fine:
                return
            if status is not None and status < 500 and status not in AGAIN:
                break
        cause = f"{request.method} at {where}: {words}"
        if status in (401, 403):
            raise NotLetIn(f"The firewall refuses our credentials. Mend the headers in {FILE}.", cause)
        if status is not None and status < 500 and status not in AGAIN:
            raise Failed(f"The firewall did not take it. Look at the requests in {FILE}.", cause)
        raise Temporary("The firewall is away or busy. Try again later: wod-fail2ban-ip sync", cause)

    def _once(self, request: Request, url: httpx.URL, address: Address) -> tuple[int | None, str]:
        """One exchange: the status, None when there was no answer, and words for an operator."""
        headers = {"user-agent": f"wodmail/{__version__}"}
        headers |= {name.lower(): filled(text, address) for name, text in request.headers.items()}
        content = None
        if request.body is not None:
            headers.setdefault("content-type", "application/json")
            content = json.dumps(body_for(request.body, address)).encode()
        try:
            with httpx.Client(
                verify=self._certificates(url.scheme), trust_env=False, timeout=self._plan.timeout_seconds
            ) as client:
                status = client.request(request.method, url, headers=headers, content=content).status_code
        except httpx.HTTPError as error:
            return None, f"no answer ({type(error).__name__})"  # its words may quote what was sent
        return status, f"it answered {status}"

    def _certificates(self, scheme: str) -> ssl.SSLContext | bool:
        if scheme == "http":
            return False
        try:
            return ssl.create_default_context(cafile=self._plan.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Failed(f"Certificates can't be checked: look at ca_file in {FILE}.", str(error)) from error
