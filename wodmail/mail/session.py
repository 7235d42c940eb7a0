"""One SMTP session of the listener: the commands, the mail, and the replies (docs/mail-doors.md has their table)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import ClassVar

from aiosmtpd.smtp import Envelope, TLSSetupException

from wodmail.errors import Temporary
from wodmail.mail import dialect
from wodmail.mail.connection import MAX_COMMAND, Connection, End

log = logging.getLogger(__name__)

MAX_RECIPIENTS = 100  # RFC 5321 section 4.5.3.1.8
MAX_BOGUS_COMMANDS = 20
QUICK = 0.02  # seconds for storing a mail; who comes meanwhile may wait that long for the greeting
EARLY_TALK = 2.0  # seconds that a trusted peer whom we turn away has for the mail it may have sent before our greeting
GONE_NOTICE = 5.0  # seconds that a client which didn't wait for our 354 has for showing that it is gone
GONE_CHECK = 0.1  # seconds from one look to the next
MAX_WAITING = 256  # mails held in memory for clients that are gone while the spool is in trouble
RETRY_EVERY = 1.0  # seconds between two tries to store the mail of a client that is gone
NULL_SENDER = "<>"  # stands for "" in aiosmtpd's envelope, which takes "" for "no MAIL yet"


class _Rejected(Exception):
    """The mail just read is not accepted; the argument is the reply."""


class DoorSession(Connection):
    """The session of one client; see `Connection` for the arguments."""

    _early_only = False
    _talked_early = False
    _bogus = 0
    _is_allowed: bool | None = None

    async def _handle_client(self) -> None:
        try:
            await self._greet()
            while True:
                await self._await_input()
                if self.in_data:
                    await self._take_mail()
                else:
                    await self._obey(await self._read_line())
        except (End, TLSSetupException):
            return
        finally:
            self.door.sessions.discard(self)
            self._writer.close()

    async def _greet(self) -> None:
        busy = self.door.busy_reply()
        if busy is None:
            await self.push(f"220 {self.hostname} {self.__ident__}")
            return
        await self.push(busy)
        if not self.trusted:
            raise End
        # A frontend that takes our first byte for success has sent its mail by now: it must not be lost.
        self._early_only = True
        self._timeout_duration = EARLY_TALK
        self._reset_timeout()

    async def _read_line(self) -> bytes:
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            raise End from error
        except asyncio.LimitOverrunError as error:
            await self.push("500 5.5.6 line too long")
            raise End from error
        if not line.endswith(b"\r\n"):
            # Only a strict peer gets here. Whatever else it has sent may be a smuggled mail (RFC 5321 section 2.3.8).
            await self.push("500 5.5.2 lines must end with CRLF")
            raise End
        return line[:-2]

    async def _obey(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        command = word.decode("ascii", "replace").upper()
        method = self._smtp_methods.get(command)
        if method is None:
            self._bogus += 1
            await self.push("500 5.5.2 unknown command")
            if self._bogus >= MAX_BOGUS_COMMANDS:
                await self.push("421 4.7.0 too many unknown commands")
                raise End
            return
        if len(line) > self.command_size_limits[command] * (12 if command == "AUTH" else 1):
            await self.push("500 5.5.6 line too long")
            return
        self._reset_timeout()
        await method(rest.strip().decode("utf-8", "surrogateescape") or None)

    def _answered_at_once(self, data: bytes) -> bool:
        # Nearly all of a session's commands come like this, alone and whole; waking the task for each of them took a
        # fifth of the listener's time.
        if self.in_data or self.envelope is None or not data.endswith(b"\r\n") or data.find(b"\n") + 1 < len(data):
            return False
        word, _, rest = data[:-2].partition(b" ")
        answer = self._AT_ONCE.get(word.upper())
        if answer is None or len(data) > MAX_COMMAND or self._turned_away or not (self.trusted or self._has_greeted):
            return False
        self._reset_timeout()
        reply = answer(self, self.envelope, rest.strip().decode("utf-8", "surrogateescape") or None)
        self._writer.write(reply.encode("utf-8", "replace") + b"\r\n")
        return True

    @property
    def _has_greeted(self) -> bool:
        return bool(self.session and self.session.host_name)

    async def check_helo_needed(self, helo: str = "HELO") -> bool:
        """Whether the peer must greet first (says so); a trusted peer need not, except before AUTH."""
        if self.trusted and helo == "HELO":
            return False
        return await super().check_helo_needed(helo)

    async def smtp_QUIT(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        """QUIT."""
        if arg and not self.trusted:
            await self.push("501 5.5.4 Syntax: QUIT")
            return
        await self.push("221 2.0.0 Bye")
        raise End

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        """MAIL FROM: the peer and the sender are judged here."""
        if await self.check_helo_needed() or self.envelope is None:
            return
        if self._turned_away and not (self.trusted and self.has_input):
            await self.push(self.door.busy_reply() or "421 4.3.2 please try again in a minute")
            raise End
        await self.push(self._begin(self.envelope, arg))

    @property
    def _turned_away(self) -> bool:
        return self._early_only or self.door.draining

    def _begin(self, envelope: Envelope, arg: str | None) -> str:
        if envelope.mail_from:
            return "503 5.5.1 nested MAIL command"
        path = dialect.path("FROM", arg, lenient=self.trusted)
        reply = "501 5.5.4 Syntax: MAIL FROM:<address>" if path is None else self._judge(*path)
        if reply is None and path is not None:
            envelope.mail_from = path[0] or NULL_SENDER
            envelope.mail_options.extend(path[1])
            reply = "250 2.1.0 sender ok"
        return str(reply)

    def _judge(self, sender: str, options: Sequence[str]) -> str | None:
        size = dialect.announced_size(options)
        if size is None:
            return "555 5.5.4 unknown MAIL parameter"
        if size > self.door.settings.WODMAILSIZE:
            return self._too_large()
        authenticated = bool(self.session and self.session.authenticated)
        if self._is_allowed is None:
            self._is_allowed = self.door.peer_allowed(self.peer)
        if not authenticated and not self._is_allowed:
            log.warning("mail refused: peer %s is not in WODALLOWEDPEERS", self.peer)
            return "550 5.7.1 your address is not allowed to send commands here"
        if not self.door.sender_allowed(sender):
            log.warning("mail refused: sender %r (peer %s) is not in WODALLOWEDSENDERS", sender, self.peer)
            return "550 5.7.1 this sender is not allowed to send commands here"
        return None

    def _too_large(self) -> str:
        return f"552 5.3.4 the mail is larger than {self.door.settings.WODMAILSIZE} bytes"

    async def smtp_RCPT(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        """RCPT TO: any recipient is ours, nothing is ever relayed."""
        if await self.check_helo_needed() or self.envelope is None:
            return
        await self.push(self._add_recipient(self.envelope, arg))

    def _add_recipient(self, envelope: Envelope, arg: str | None) -> str:
        path = dialect.path("TO", arg, lenient=self.trusted)
        if not envelope.mail_from:
            return "503 5.5.1 need MAIL command"
        if path is None or not path[0] or path[1]:
            return "501 5.5.4 Syntax: RCPT TO:<address>"
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(path[0])
        return "250 2.1.5 recipient ok"

    # --- the mail -------------------------------------------------------------------------------------------------

    async def smtp_DATA(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        """DATA: read the mail, store it, and only then say 250."""
        if await self.check_helo_needed() or self.envelope is None:
            return
        await self.push(self._open_mail(self.envelope, arg))
        if not self.in_data and not arg and self.has_input:
            raise End  # it didn't wait for our answer, so what follows is a mail and no commands

    def _open_mail(self, envelope: Envelope, arg: str | None) -> str:
        if arg:
            return "501 5.5.4 Syntax: DATA"
        if not envelope.rcpt_tos:
            return "503 5.5.1 need RCPT command"
        self.in_data = True
        self._talked_early = self.has_input
        return "354 End data with <CR><LF>.<CR><LF>"

    _AT_ONCE: ClassVar[dict[bytes, Callable[[DoorSession, Envelope, str | None], str]]] = {
        b"MAIL": _begin,
        b"RCPT": _add_recipient,
        b"DATA": _open_mail,
    }

    async def _take_mail(self) -> None:
        try:
            reply = await self._take(await self._read_mail())
        except _Rejected as rejected:
            reply = str(rejected)
        finally:
            self.in_data = False
        self.envelope = self._create_envelope()
        await self.push(reply)

    async def _read_mail(self) -> bytes:
        if length := dialect.whole_mail(self.unread, self.door.settings.WODMAILSIZE):
            return self._checked(dialect.without_dots(await self._reader.readexactly(length)))
        lines: list[bytes] = []
        size, middle_of_line = 0, False
        limit = self.door.settings.WODMAILSIZE
        while True:
            try:
                line = await self._reader.readuntil(b"\r\n")
            except asyncio.LimitOverrunError as error:
                line = await self._reader.read(error.consumed)
            except asyncio.IncompleteReadError as error:
                if error.partial != b"." or middle_of_line or not self.trusted:
                    raise End from error
                line = b".\r\n"  # a trusted peer's last line may lack its end
            if line == b".\r\n" and not middle_of_line:
                break
            if line.startswith(b".") and not middle_of_line:
                line = line[1:]
            middle_of_line = not line.endswith(b"\r\n")
            size += len(line)
            if size <= limit:
                lines.append(line)
        if size > limit:
            raise _Rejected(self._too_large())
        return self._checked(b"".join(lines))

    def _checked(self, mail: bytes) -> bytes:
        if not self.trusted and dialect.has_bare_line_end(mail):
            raise _Rejected("554 5.6.0 lines must end with CRLF, no CR or LF may stand alone")
        mail = mail.replace(b"\r\n", b"\n")
        if not dialect.has_content(mail):
            raise _Rejected("554 5.6.0 the mail has neither a subject nor a body")
        return mail

    async def _take(self, mail: bytes) -> str:
        try:
            key = await self._store(mail)
        except Temporary as error:
            log.error("mail from %s not stored: %s", self.peer, error.operator)  # noqa: TRY400 - no traceback
            if not await self._is_gone() or not await self._store_later(mail):
                return f"451 4.3.0 {error.sender}"
            return ""
        self.loop.call_soon(self.door.on_stored)
        return f"250 2.0.0 stored as {key}"

    async def _is_gone(self) -> bool:
        """Whether this is a trusted client that has left, so that a 451 would tell nobody to come again.

        Only one that didn't wait for our 354 is suspected of that; a client that waits is answered at once.
        """
        if not self.trusted or not self._talked_early:
            return False
        deadline = self.loop.time() + GONE_NOTICE
        probed = False
        while self.loop.time() < deadline:
            if await _happens(self._lost, GONE_CHECK) or self.is_reset:
                return True
            if self.has_ended and not probed:
                # A client that has closed looks like one that only sends no more, until something is written to it:
                # the first line of the reply is the probe.
                await self.push("451-4.3.0 the spool is in trouble")
                probed = True
        return False

    async def _store_later(self, mail: bytes) -> bool:
        """Try again until the mail is stored; False when the server stops before or too many wait already."""
        if self.door.waiting >= MAX_WAITING:
            log.error("the mail of a client that is gone (%s) is lost: too many wait for the spool", self.peer)
            return False
        self.door.waiting += 1
        try:
            while not await _happens(self.door.stopping, RETRY_EVERY):
                try:
                    await self._store(mail)
                except Temporary:
                    continue
                self.loop.call_soon(self.door.on_stored)
                return True
        finally:
            self.door.waiting -= 1
        log.error("the mail of a client that is gone (%s) is lost: no spool before the server's stop", self.peer)
        return False

    async def _store(self, mail: bytes) -> str:
        sender = str(self.envelope.mail_from) if self.envelope else NULL_SENDER
        authenticated = bool(self.session and self.session.authenticated)
        # Who takes our greeting for success sends the next mail while this one is being written: a CLEANUP must not
        # be overtaken by the RESET that was sent after it.
        turn = self.door.turns.take() if self._talked_early else None

        def store() -> str:
            return self.door.spool.store(
                mail,
                peer=self.peer,
                sender="" if sender == NULL_SENDER else sender,
                authenticated=authenticated,
                door="listener",
                turn=turn,
            )

        began = self.loop.time()
        try:
            if self.door.stores_quickly and len(self.door.sessions) == 1 and not self.has_input:
                # Nobody else is here who would have to wait, and a thread costs a third of the mail's time. Not for a
                # client that doesn't wait for replies: it could go on and on, and nobody else would get in.
                return store()
            return await self.loop.run_in_executor(self.door.pool, store)
        finally:
            if turn is not None:
                turn.give_up()
            self.door.stores_quickly = self.loop.time() - began < QUICK


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
