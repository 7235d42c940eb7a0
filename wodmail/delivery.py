"""Sends writes to the API-DB at once when it is there; else they are kept and delivered in order when it is back.

A write that was sent but not yet struck off the list when the server died is sent again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from wodmail.errors import Away, Failed, NotLetIn, Overtaken, Temporary
from wodmail.jobs import atwork
from wodmail.model import Write
from wodmail.secretstore import Secrets

if TYPE_CHECKING:  # the tables are not for everybody: scripts ask by processes that have to start quickly
    from wodmail.overtaken import Later
    from wodmail.writes import KeptWrites

log = structlog.get_logger("wodmail.delivery")

NOTE = "kept: the API-DB is away; delivered when it is back"
BEHIND = "kept behind earlier ones; delivered when the API-DB takes them"
UNREAD = "kept until the mails that wait here have been read; delivered then unless they say otherwise"
ACTIVE = {"active": True}
COURIERS = 4  # a write that hangs holds up one of them
EVERY = 0.5  # seconds between two looks for lanes that are due
AFTER_FAULT = 2.0


class Putter(Protocol):
    """What sends a write."""

    @property
    def away(self) -> bool:
        """See `ApiDb.away`."""
        ...

    def put(self, path: str, body: dict[str, Any], *, tries: int | None = None) -> Any:
        """See `ApiDb.put`."""
        ...


class Writes:
    """Sends writes, keeps those that can't be sent, and delivers them later. Safe for many threads.

    Args:
        api: sends them.
        secrets: turns references into passwords.
        kept: where they are kept; without one they fail with `Away` instead.

    Attributes:
        agrees: says whether a mail's participant, student and workshop (None to ignore it) belong together in the
            API-DB now; raises as a read does.
        back: set when the API-DB has come back.
    """

    def __init__(self, api: Putter, secrets: Secrets, kept: KeptWrites | None) -> None:
        self._api, self._secrets, self._kept = api, secrets, kept
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._unread = threading.Event()
        self.back = threading.Event()
        self.agrees: Callable[[int, int, str | None], bool] = lambda _participant, _student, _workshop: True

    def write(self, write: Write) -> str:
        """Send it, or keep it when that can't be done now or older ones of its lane still wait.

        Returns:
            empty when it was delivered, else words for the transcript.

        Raises:
            Failed: the API-DB refuses it, or its student's password before it.
            Overtaken: it is active=true, and the participant was given up or ended meanwhile.
            Away: it can't be sent and there is nowhere to keep it.
        """
        if self._kept is None:
            self._send(write, None)
            return ""
        with self._lane(write.lane):
            if self._kept.last(write.lane) is not None:
                self._kept.keep(write, "")
                return BEHIND
            if self._unread.is_set() and write.body == ACTIVE:
                self._kept.keep(write, "")
                return UNREAD
            try:
                if write.body == ACTIVE:
                    self._look(self._kept, write, atwork.current().job)
                self._send(write, None)
            except Away as error:
                self._kept.keep(write, error.operator)
                return NOTE
        return ""

    def _lane(self, lane: str) -> threading.Lock:
        """One write at a time in each lane."""
        with self._guard:
            return self._locks[lane]

    def _send(self, write: Write, tries: int | None) -> None:
        body = dict(write.body)
        if write.password:
            word = self._secrets.resolve(write.password)
            if word is None:
                words = "The password for the API-DB is not known any more. `wodmail retry` makes a new one."
                raise Failed(words, f"{write.path}: {write.password} was forgotten")
            body["password"] = word
        self._api.put(write.path, body, tries=tries)

    def behind(self, lane: str) -> bool:
        """Whether writes of that lane are kept, so that the API-DB doesn't know yet what is true here."""
        return self._kept is not None and self._kept.last(lane) is not None

    def idle(self) -> bool:
        """Whether nothing is kept that could be delivered now; never before a new life has begun to deliver."""
        if self._kept is None:
            return True
        return not self._unread.is_set() and (self._api.away or not self._kept.due_lanes())

    # -- delivering -------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Until `begin`, what the mails that wait could overtake is kept, and nothing kept should be delivered."""
        self._unread.set()

    def begin(self) -> None:
        """A new life, whose mails have been read: every kept write may be tried at once."""
        if self._kept is not None:
            self._kept.try_all_now()
        self._unread.clear()

    def due(self) -> list[str]:
        """Lanes with kept writes that may be tried, the oldest first."""
        return self._kept.due_lanes() if self._kept is not None else []

    def deliver(self, lane: str) -> list[int]:
        """Deliver a lane's kept writes until none is left or one can't be delivered now.

        Returns:
            The requests whose writes were settled, delivered or refused.
        """
        settled: list[int] = []
        while self._kept is not None:
            with self._lane(lane):
                row = self._kept.first(lane)
                if row is None or row["next_try"] > time.time() or not self._deliver(self._kept, row):
                    break
            settled.append(row["request"])
        return settled

    def _deliver(self, kept: KeptWrites, row: dict[str, Any]) -> bool:
        write = kept.meant(row)
        try:
            self._look(kept, write, row["job"])
            self._send(write, 1)
        except (Away, NotLetIn) as error:
            if isinstance(error, NotLetIn) or not self._api.away:
                kept.defer(row, error)
            return False
        except Overtaken as error:
            kept.overtake(row, error)
            return True
        except Failed as error:
            kept.refuse(row, error)
            return True
        kept.strike_off(row)
        seconds = round(time.time() - float(row["kept_at"]), 1)
        log.info("write-delivered", path=row["path"], request=row["request"], seconds=seconds)
        return True

    def _look(self, kept: KeptWrites, write: Write, job: int) -> None:
        """Right before a write is sent: must it not be?

        Raises:
            Overtaken: the frontend has gone on without it.
            Failed: it is active=true, and with it the frontend would mail a password that was refused.
            Away, NotLetIn: that can't be found out now.
        """
        if write.body == ACTIVE and kept.password_refused(write.lane, job):
            words = "The API-DB refused the student's new password after it had been kept"
            raise Failed(f"{words}, so the participant is not set active: a wrong password would be mailed.")
        found = self._overtaken_by(kept.later(write, job))
        if found is not None:
            fields = ", ".join(f"{name}={str(value).lower()}" for name, value in write.body.items())
            log.warning("write-overtaken", path=write.path, by=str(found))
            words = f"The API-DB was not told {fields} ({write.path}): {found} came since"
            raise Overtaken(f"{words}. Send the mail of this request anew if that is wrong.")

    def _overtaken_by(self, later: list[Later]) -> Later | None:
        """The first of these mails that is right: it was validated, or the API-DB says so now.

        It is asked rather than waited for: their validation may wait for the very write that waits for them.
        """
        for found in later:
            try:
                if found.checked or self.agrees(found.participant, found.student, found.workshop):
                    return found
            except NotLetIn:
                raise
            except Failed as error:  # no reason to refuse the write
                raise Away(error.sender, error.operator) from error
        return None


class Couriers:
    """Deliver kept writes in the background, several lanes at a time.

    Args:
        writes: whose.
        settled: called with a request's number when one of its kept writes has been settled.
    """

    def __init__(self, writes: Writes, settled: Callable[[int], object]) -> None:
        self._writes, self._settled = writes, settled
        self._guard = threading.Lock()
        self._busy: set[str] = set()
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._started = False
        work = [self._dispatch, *[self._carry] * COURIERS]
        self._threads = [threading.Thread(target=part, name="writes", daemon=True) for part in work]

    def start(self) -> None:
        """Deliver from now on, what the last life left first; not before its mails have been read. Once is enough.

        Raises:
            Temporary: the database can't be reached.
        """
        if self._started:
            return
        self._writes.begin()
        self._started = True
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End; a write that is on its way then is sent again in the next life.

        Args:
            timeout: seconds to wait for writes on their way.
        """
        self._stopping.set()
        self._writes.back.set()
        for _ in range(COURIERS):
            self._queue.put(None)
        end = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(end - time.monotonic(), 0.0))

    def _dispatch(self) -> None:
        """Give each lane that is due to one courier."""
        while not self._stopping.is_set():
            self._writes.back.clear()
            with self._guarded():
                due = self._writes.due()
                with self._guard:
                    fresh = [lane for lane in due if lane not in self._busy]
                    self._busy.update(fresh)
                for lane in fresh:
                    self._queue.put(lane)
            self._writes.back.wait(EVERY)

    def _carry(self) -> None:
        while not self._stopping.is_set():
            lane = self._queue.get()
            if lane is None:
                return
            with self._guarded():
                for request in self._writes.deliver(lane):
                    self._settled(request)
            with self._guard:
                self._busy.discard(lane)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """A round that must not end its thread."""
        try:
            yield
        except Temporary as error:
            log.warning("service-away", cause=error.operator)
            self._stopping.wait(AFTER_FAULT)
        except Exception:  # said in full, and tried again in the next round
            log.exception("server-fault")
            self._stopping.wait(AFTER_FAULT)


def writes_of(registry: object) -> Writes | None:
    """The writes of a registry that keeps them; None for one that doesn't."""
    found = getattr(registry, "writes", None)
    return found if isinstance(found, Writes) else None
