"""The listener: wodmail's own SMTP server, in a thread and event loop of its own. Sessions: `wodmail.mail.session`."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wodmail.config import Settings
from wodmail.errors import ConfigError, Failed, Problem
from wodmail.mail.auth import AuthFile
from wodmail.mail.connection import Door
from wodmail.mail.session import DoorSession
from wodmail.mail.spool import Spool

log = logging.getLogger(__name__)

BACKLOG = 1024  # clients that the kernel keeps for us while we are busy; their mails wait in their sockets
STORING_THREADS = 16  # mails stored at the same time; they share the folder's fsync
TIMEOUT = 300.0  # seconds, RFC 5321 section 4.5.3.2.7
LIMIT = 200  # connections; each may hold twice WODMAILSIZE in memory

Judge = Callable[[Settings, str], bool]


def _default_judge(name: str) -> Judge:
    from wodmail.mail import trust

    judge: Judge = getattr(trust, name)
    return judge


class Listener:
    """Accepts mails on WODLISTEN:WODPOSTPORT into the spool.

    Args:
        settings: WODLISTEN, WODPOSTPORT, WODTRUSTEDPEERS, WODMAILSIZE, WODTLSCERT, WODTLSKEY, WODAUTHFILE are used.
        spool: where the mails go.
        on_stored: called in the listener's thread after each stored mail; must be quick and thread-safe.
        peer_allowed: whether a client's address may command; `mail.trust.peer_allowed` by default.
        sender_allowed: whether an envelope sender may; `mail.trust.sender_allowed` by default.
        timeout: seconds from one command to the next, the mail included.
        limit: connections at a time.

    Raises:
        ConfigError: certificate, key or the file of users can't be used.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        on_stored: Callable[[], None],
        *,
        peer_allowed: Judge | None = None,
        sender_allowed: Judge | None = None,
        timeout: float = TIMEOUT,
        limit: int = LIMIT,
    ) -> None:
        self._settings = settings
        judge_peer = peer_allowed or _default_judge("peer_allowed")
        judge_sender = sender_allowed or _default_judge("sender_allowed")
        self._pool = ThreadPoolExecutor(STORING_THREADS, thread_name_prefix="store")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._server: asyncio.Server | None = None
        self._door = Door(
            settings=settings,
            spool=spool,
            pool=self._pool,
            on_stored=on_stored,
            peer_allowed=lambda peer: judge_peer(settings, peer),
            sender_allowed=lambda sender: judge_sender(settings, sender),
            users=AuthFile(settings.WODAUTHFILE) if settings.WODAUTHFILE else None,
            tls=tls_context(settings),
            timeout=timeout,
            limit=limit,
        )

    def start(self) -> None:
        """Open the port and serve.

        Raises:
            Failed: the port can't be opened.
        """
        self._thread.start()
        host, port = self._settings.WODLISTEN, self._settings.WODPOSTPORT
        try:
            self._call(self._open(host, port))
        except OSError as error:
            self._end_thread()
            raise Failed(f"can't listen on {host} port {port}: {error.strerror or error}") from error

    @property
    def port(self) -> int:
        """The port that is open; 0 when the listener does not run."""
        if self._server is None or not self._server.sockets:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def waiting(self) -> int:
        """How many mails of clients that are gone are held in memory until the spool works again."""
        return self._door.waiting

    def stop_accepting(self) -> None:
        """From now on new clients get 421, also those that begin another mail; mails under way are finished."""
        self._loop.call_soon_threadsafe(self._drain)

    def stop(self, grace: float = 10.0) -> None:
        """Close the port and end all sessions; those in the middle of a mail have the grace time to finish.

        Args:
            grace: seconds, 0 or more.
        """
        if not self._thread.is_alive():
            return
        self._call(self._close(grace))
        self._end_thread()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_thread(self) -> None:
        self._pool.shutdown(wait=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self, host: str, port: int) -> None:
        self._server = await self._loop.create_server(
            lambda: DoorSession(self._door, self._loop), host, port, backlog=BACKLOG
        )

    def _drain(self) -> None:
        self._door.draining = True

    async def _close(self, grace: float) -> None:
        self._drain()
        server, self._server = self._server, None
        if server is not None:
            await asyncio.sleep(0)  # clients whom the kernel has already connected come in before the port closes
            server.close()
        tasks = []
        for session in list(self._door.sessions):
            if session.task is not None:
                tasks.append(session.task)
            if not session.in_data and not session.has_input:
                session.hang_up()
        self._door.stopping.set()
        if tasks:
            await self._finish(tasks, grace)

    async def _finish(self, tasks: list[asyncio.Task[None]], grace: float) -> None:
        _, unfinished = await asyncio.wait(tasks, timeout=grace)
        for task in unfinished:
            task.cancel()
        if unfinished:
            log.warning("%d SMTP sessions were cut off in the middle of a mail at the server's stop", len(unfinished))
            await asyncio.wait(unfinished)


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The context for STARTTLS from WODTLSCERT and WODTLSKEY, None when neither is set.

    Raises:
        ConfigError: one is missing, unreadable, or they don't fit each other.
    """
    if settings.WODTLSCERT is None and settings.WODTLSKEY is None:
        return None
    if settings.WODTLSCERT is None or settings.WODTLSKEY is None:
        missing = "WODTLSCERT" if settings.WODTLSCERT is None else "WODTLSKEY"
        raise ConfigError([Problem(missing, "STARTTLS needs both WODTLSCERT and WODTLSKEY")])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.WODTLSCERT, settings.WODTLSKEY)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([Problem("WODTLSCERT", f"{settings.WODTLSCERT}: {error}")]) from error
    return context
