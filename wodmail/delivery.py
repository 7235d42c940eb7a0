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

from wodmail.errors import Away, Failed, NotLetIn, Temporary
from wodmail.model import Write
from wodmail.secretstore import Secrets

if TYPE_CHECKING:  # the tables are not for everybody: scripts ask by processes that have to start quickly
    from wodmail.writes import KeptWrites

log = structlog.get_logger("wodmail.delivery")

NOTE = "kept: the API-DB is away; delivered when it is back"
BEHIND = "kept behind earlier ones; delivered when the API-DB takes them"
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
    """

    def __init__(self, api: Putter, secrets: Secrets, kept: KeptWrites | None) -> None:
        self._api, self._secrets, self._kept = api, secrets, kept
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.back = threading.Event()

    def write(self, write: Write) -> str:
        """Send it, or keep it when that can't be done now or older ones of its lane still wait.

        Returns:
            empty when it was delivered, else words for the transcript.

        Raises:
            Failed: the API-DB refuses it.
            Away: it can't be sent and there is nowhere to keep it.
        """
        if self._kept is None:
            self._send(write, None)
            return ""
        with self._lane(write.lane):
            if self._kept.last(write.lane) is not None:
                self._kept.keep(write, "")
                return BEHIND
            try:
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
        """Whether nothing is kept that could be delivered now."""
        return self._kept is None or self._api.away or not self._kept.due_lanes()

    # -- delivering -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new life: every kept write may be tried at once."""
        if self._kept is not None:
            self._kept.try_all_now()

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
        if kept.overtaken(row):
            kept.strike_off(row)
            log.warning("write-overtaken", path=row["path"], request=row["request"])
            return True
        try:
            self._send(kept.meant(row), 1)
        except (Away, NotLetIn) as error:
            if isinstance(error, NotLetIn) or not self._api.away:
                kept.defer(row, error)
            return False
        except Failed as error:
            kept.refuse(row, error)
            return True
        kept.strike_off(row)
        seconds = round(time.time() - float(row["kept_at"]), 1)
        log.info("write-delivered", path=row["path"], request=row["request"], seconds=seconds)
        return True


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
        work = [self._dispatch, *[self._carry] * COURIERS]
        self._threads = [threading.Thread(target=part, name="writes", daemon=True) for part in work]

    def start(self) -> None:
        """Deliver from now on, what the last life left first.

        Raises:
            Temporary: the database can't be reached.
        """
        self._writes.begin()
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
