"""The connection under an SMTP session: aiosmtpd's protocol, made to lose no mail.

aiosmtpd cancels the session's task when the connection is lost, and a reply to a dead client ends the connection
before everything was read. Here the task always runs to the end of what the peer has sent: a connection that is gone
means that nobody reads the replies, not that its mails are void.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, AnyStr, ClassVar

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from wodmail.config import Settings
from wodmail.errors import ConfigError
from wodmail.mail import dialect
from wodmail.mail.auth import AuthFile
from wodmail.mail.spool import Spool
from wodmail.mail.turns import Turns

log = logging.getLogger(__name__)

MAX_LOGINS = 3
MAX_COMMAND = 1024  # bytes of a command's line


class End(Exception):
    """The session is over."""


@dataclass
class Door:
    """What all sessions of one listener share.

    Args:
        settings: the configuration.
        spool: where mails are stored.
        pool: threads that store and check passwords, because both take milliseconds and others are to be served.
        on_stored: called in the listener's thread after a mail was stored.
        peer_allowed: whether this address (a str) may command.
        sender_allowed: whether this envelope sender may.
        users: who may log in, None without AUTH.
        tls: for STARTTLS, None without.
        timeout: seconds that a session may take from one command to the next, the mail included.
        limit: connections at a time; further ones get 421.
        sessions: those that are open, or whose mail is still being stored.
        draining: whether new mails are turned away.
        waiting: how many mails of clients that are gone wait for the spool's repair.
        stores_quickly: whether the last mail was stored so soon that the event loop may do the next one by itself.
        stopping: set when the listener ends.
        turns: the order of mails whose clients don't wait for an answer.
    """

    settings: Settings
    spool: Spool
    pool: Executor
    on_stored: Callable[[], None]
    peer_allowed: Callable[[str], bool]
    sender_allowed: Callable[[str], bool]
    users: AuthFile | None
    tls: ssl.SSLContext | None
    timeout: float
    limit: int
    sessions: set[Connection] = field(default_factory=set)
    draining: bool = False
    waiting: int = 0
    stores_quickly: bool = True
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    turns: Turns = field(default_factory=Turns)

    def busy_reply(self) -> str | None:
        """The 421 for a client that comes now, None when it is welcome."""
        if self.draining:
            return "421 4.3.2 this server is about to stop, please try again in a minute"
        if len(self.sessions) > self.limit:
            return "421 4.7.0 too many connections, please try again in a minute"
        return None


class _NoHandler:
    """aiosmtpd wants a handler and looks through its names for every session; the session itself does all here."""

    def __dir__(self) -> list[str]:
        return []


class Connection(SMTP):
    """The connection of one client: aiosmtpd's protocol that outlives it, and the login.

    Args:
        door: what it shares with the others.
        loop: the listener's event loop.
    """

    _names: ClassVar[list[str]] = []

    def __dir__(self) -> list[str]:
        # aiosmtpd looks twice through all names of each new session to find its commands; that took a quarter of the
        # time of a connection. These are the ones that it can find.
        if not self._names:
            type(self)._names = [name for name in super().__dir__() if name.startswith(("smtp_", "auth_"))]
        return self._names

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        # aiosmtpd reads both from the instance while it sets up. A line may fill the whole mail; the reader holds back
        # a peer that has sent twice this much unread.
        self.line_length_limit = door.settings.WODMAILSIZE + 4096
        self.command_size_limits = defaultdict(lambda: MAX_COMMAND)
        super().__init__(
            _NoHandler(),
            data_size_limit=door.settings.WODMAILSIZE,
            enable_SMTPUTF8=True,
            hostname=door.settings.WODBEFQDN,
            ident="ESMTP wodmail",
            tls_context=door.tls,
            timeout=door.timeout,
            loop=loop,
        )
        self.door = door
        self._ends: dialect.LineEnds | None = None
        self._logins = 0
        self._silent_until = 0.0
        self._input: asyncio.Future[None] | None = None
        self._lost = asyncio.Event()
        self.peer = ""
        self.in_data = False
        self.has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected, or STARTTLS is through (aiosmtpd starts the session's task the first time)."""
        self.peer = dialect.address(transport.get_extra_info("peername"))
        self._ends = dialect.LineEnds() if dialect.within(self.peer, self.door.settings.WODTRUSTEDPEERS) else None
        self._auth_require_tls = not dialect.is_loopback(self.peer)
        self.door.sessions.add(self)
        super().connection_made(transport)

    @property
    def trusted(self) -> bool:
        """Whether the peer may speak the lenient dialect."""
        return self._ends is not None

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; a trusted peer's bare LFs become CRLF here, so the rest knows CRLF alone."""
        if self._ends is not None:
            data = self._ends.feed(data)
        if self._input is not None and self._can_write and self._answered_at_once(data):
            return
        super().data_received(data)
        self._wake()

    def _answered_at_once(self, _data: bytes) -> bool:
        """Answer a command without the session's task, when nothing else is to be read and nothing to be waited for.

        Returns:
            False when that can't be done: the session's task then reads the data.
        """
        return False

    @property
    def _can_write(self) -> bool:
        # The client has taken all earlier replies and is still there: else a reply is for `push`, which can wait.
        transport = self._writer.transport
        return not (self._lost.is_set() or transport.is_closing() or transport.get_write_buffer_size())

    async def _await_input(self) -> None:
        """Wait until there is something to read: data, or the end of it."""
        if not self.has_input and not self._reader.at_eof():
            self._input = self.loop.create_future()
            try:
                await self._input
            finally:
                self._input = None

    def _wake(self) -> None:
        if self._input is not None:
            if not self._input.done():
                self._input.set_result(None)
            self._input = None

    def eof_received(self) -> bool:
        """The client sends no more, but may still read: the session goes on to the end of what has come."""
        self.has_ended = True
        asyncio.StreamReaderProtocol.eof_received(self)
        self._wake()
        return self.session is not None and self.session.ssl is None

    def connection_lost(self, _error: Exception | None) -> None:
        """The client is gone; what it has sent until then still counts."""
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        if self._original_transport is not None:
            self._original_transport.close()
        elif self.transport is not None:
            self._rescue_unread(self.transport)
        # Not the error itself: a reader that has one hands out nothing more of what it holds.
        asyncio.StreamReaderProtocol.connection_lost(self, None)
        self._lost.set()
        self._wake()

    def _rescue_unread(self, transport: asyncio.BaseTransport) -> None:
        # A reply to a dead client ends asyncio's connection while the kernel may hold more of what the client sent.
        descriptor = transport.get_extra_info("socket").fileno()
        unread = 4 * self.line_length_limit
        try:
            while unread > 0 and (data := os.read(descriptor, 1 << 18)):
                self.data_received(data)
                unread -= len(data)
        except OSError:  # nothing left, or the reset itself
            return

    def _reset_timeout(self, duration: float | None = None) -> None:
        # aiosmtpd makes a new timer with each command. Here it stays, and looks for itself whether its time has come.
        self._silent_until = self.loop.time() + (duration or self._timeout_duration)
        if self._timeout_handle is None or self._timeout_handle.when() > self._silent_until:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        self._timeout_handle = self.loop.call_at(self._silent_until, self._timeout_cb)

    def _timeout_cb(self) -> None:
        if self._timeout_handle is not None and self._silent_until > self._timeout_handle.when():
            self._set_timer()
        elif self.transport is not None and not self._lost.is_set():
            self._writer.write(b"421 4.4.2 you have been silent for too long\r\n")
            self._writer.close()

    async def push(self, status: AnyStr) -> None:
        """Send one reply line; to a client that is gone it is simply not sent."""
        data = status.encode("utf-8", "replace") if isinstance(status, str) else status
        if self._lost.is_set():
            return
        self._writer.write(data + b"\r\n")
        try:
            await self._writer.drain()
        except ConnectionError:
            self._lost.set()

    def hang_up(self) -> None:
        """End a session that is between two mails with a 421, at a stop of the server."""
        if not self._lost.is_set() and self.transport is not None:
            self._writer.write(b"421 4.3.2 this server stops now\r\n")
            self._writer.close()

    @property
    def has_input(self) -> bool:
        """Whether the peer has sent more than was read."""
        return bool(self.unread)

    @property
    def unread(self) -> bytearray:
        """What the peer has sent and was not read yet."""
        found: bytearray = self._reader._buffer  # type: ignore[attr-defined]
        return found

    @property
    def is_reset(self) -> bool:
        """Whether the client has answered a reply with a reset; asyncio doesn't look once it has seen EOF."""
        if self.transport is None:
            return True
        found: int = self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return found != 0

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The session's task."""
        return self._handler_coroutine

    async def smtp_EHLO(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        """EHLO: what is on offer, AUTH only where it is allowed (RFC 4954 section 4)."""
        if not arg or self.session is None:
            await self.push("501 5.5.4 Syntax: EHLO hostname")
            return
        self.envelope = self._create_envelope()
        self.session.extended_smtp = True
        self.session.host_name = arg
        offers = [self.hostname, f"SIZE {self.data_size_limit}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        if self.tls_context and not self._tls_protocol:
            offers.append("STARTTLS")
        if self.door.users is not None and (self._tls_protocol or not self._auth_require_tls):
            offers.append("AUTH LOGIN PLAIN")
        lines = [f"250-{offer}" for offer in offers[:-1]]
        await self.push("\r\n".join([*lines, f"250 {offers[-1]}"]))

    async def smtp_AUTH(self, arg: str) -> None:  # noqa: N802 - aiosmtpd's name
        """AUTH PLAIN and LOGIN, under TLS or on loopback only."""
        if self.door.users is None:
            await self.push("502 5.5.1 AUTH is not available here")
            return
        if self._logins >= MAX_LOGINS:
            await self.push("421 4.7.0 too many logins")
            raise End
        self._logins += 1
        await super().smtp_AUTH(arg)

    async def auth_PLAIN(self, _: Any, args: list[str]) -> AuthResult:  # noqa: N802 - aiosmtpd's name
        """Check the password of AUTH PLAIN (RFC 4616)."""
        return await self._verified(await super().auth_PLAIN(_, args))

    async def auth_LOGIN(self, _: Any, args: list[str]) -> AuthResult:  # noqa: N802 - aiosmtpd's name
        """Check the password of AUTH LOGIN."""
        return await self._verified(await super().auth_LOGIN(_, args))

    def _authenticate(self, _mechanism: str, auth_data: Any) -> AuthResult:
        # aiosmtpd asks in the event loop, where a hash would hold up every other session; `_verified` does the work.
        return AuthResult(success=False, handled=False, auth_data=auth_data)

    async def _verified(self, claim: AuthResult) -> AuthResult:
        login = claim.auth_data
        users = self.door.users
        if not isinstance(login, LoginPassword) or users is None:
            return claim
        user, password = (value.decode("utf-8", "surrogateescape") for value in login)
        try:
            fits = await self.loop.run_in_executor(self.door.pool, users.verify, user, password)
        except ConfigError as error:
            log.error("AUTH is broken: %s", error.operator)  # noqa: TRY400 - no traceback
            return AuthResult(success=False, handled=False, message="454 4.7.0 Temporary authentication failure")
        if not fits or self.session is None:
            log.warning("login refused for %r from %s", user, self.peer)
            return AuthResult(success=False, handled=False)
        # Done here, because aiosmtpd would log a warning about a name of its own with each success.
        self.session.authenticated = True
        await self.push("235 2.7.0 Authentication successful")
        return AuthResult(success=False, handled=True)
