"""One live processor: the doors, intake, engine and outbox of one backend, put together, started and drained."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import sqlalchemy as sa
import structlog

from wodmail import __version__, directory, drained, hub, registry, requests, students, vaultkeys
from wodmail.alarms import Alarms
from wodmail.children import Children
from wodmail.config import Settings
from wodmail.delivery import Couriers, writes_of
from wodmail.documents import Documents
from wodmail.engine import Engine
from wodmail.errors import ConfigError, Problem, Temporary
from wodmail.intake import Intake
from wodmail.jobs.describe import Describer
from wodmail.jobs.passwords import Passwords
from wodmail.jobs.runner import Runner
from wodmail.jobs.services import Services
from wodmail.lanes import UNFINISHED
from wodmail.lock import Lock
from wodmail.logs import Masker
from wodmail.mail.listener import Listener
from wodmail.mail.send import Sender
from wodmail.mail.spool import Spool
from wodmail.outbox import Outbox
from wodmail.overdue import EVERY as OVERDUE_EVERY
from wodmail.overdue import Overdue
from wodmail.playbooks import Playbooks
from wodmail.scripts import Scripts
from wodmail.secretstore import Secrets
from wodmail.sessions import EVERY as SESSIONS_EVERY
from wodmail.sessions import Sessions
from wodmail.store import facts, iso, jobs, mails, open_store
from wodmail.systemd import notify_systemd
from wodmail.trace import Trace, trace_path
from wodmail.writes import kept

log = structlog.get_logger("wodmail.server")

TICK = 0.1
LULL = 0.02  # seconds without a mail, after which a flood is over
PATIENCE, FLOOD_PATIENCE, FLOOD = 0.1, 3.0, 20
CONTROL_EVERY = 1.0
OUTBOX_EVERY = 2.0
SWEEP_EVERY = 3600.0
DAY = 86400.0
UNWIND = 10.0  # seconds for threads whose children were just ended


def build_services(settings: Settings, masker: Masker, config_file: Path | None = None) -> Services:
    """Put the parts together that a configuration names.

    Args:
        settings: the configuration.
        masker: learns its secrets.
        config_file: where it was read from; workshop scripts ask `wodmail query` about the same one.

    Raises:
        Failed: one of them can't be opened.
    """
    state = settings.WODSTATEDIR
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    masker.register_settings(settings)
    for secret in vaultkeys.known(settings):
        masker.register(secret)
    children = Children(state)
    accounts = students.for_settings(settings)
    store = open_store(settings)
    seats = registry.for_settings(settings, store, masker)
    return Services(
        settings=settings,
        store=store,
        accounts=accounts,
        registry=seats,
        hub=hub.for_settings(settings),
        directory=directory.for_settings(settings),
        playbooks=Playbooks(settings, children, accounts),
        scripts=Scripts(settings, children, seats.workshop, config_file),
        children=children,
        passwords=Passwords(Secrets(state / "secrets"), masker),
        documents=Documents(state / "documents"),
        trace=Trace(trace_path(settings), masker, retention_days=settings.WODRETENTION),
        masker=masker,
    )


class Server:
    """The processor.

    Args:
        settings: the configuration.
        build: makes the parts once the lock is held.
        door: whether to open the SMTP listener (WODDOOR: listener).
    """

    def __init__(self, settings: Settings, build: Callable[[], Services], *, door: bool = True) -> None:
        self.settings = settings
        self.lock = Lock(settings.WODSTATEDIR / "lock")
        self.services = build()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._due = threading.Event()
        self._last_mail = 0.0
        self._streak = 0
        self._drained = False
        self.spool = Spool(settings.WODSTATEDIR / "spool")
        store = self.services.store
        self.runner = Runner(self.services, lambda: self.engine.draining)
        self.engine = Engine(store, self.runner, workers=settings.WODWORKERS)
        parts = self.services
        describe = Describer(parts)
        self.intake = Intake(settings, self.spool, store, parts.registry, self.engine.kick, describe, self._facts)
        self.alarms = Alarms(settings, store)
        self.sessions: Sessions | Overdue
        if settings.apidb:
            self.sessions = Overdue(settings, store, parts.registry, self.spool)
        else:
            self.sessions = Sessions(settings, store, parts.registry, self.spool)
        self.outbox = Outbox(self.services, Sender(settings), self._make_way)
        self.writes = writes_of(parts.registry)
        self.couriers = Couriers(self.writes, self._write_settled) if self.writes is not None else None
        if self.writes is not None:
            self.writes.hold()  # the mails that wait in the spool may say that a write is out of date
        self.listener = Listener(settings, self.spool, self._mail_stored) if door else None
        self._mailer = threading.Thread(target=self._mail_loop, name="outbox", daemon=True)

    # -- life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Settle what the last life left, then open the door.

        Raises:
            Temporary: the database can't be reached.
            ConfigError: the state folder has known an API-DB and none is configured.
        """
        ended = self.services.children.end_orphans()
        log.info("server-started", version=__version__, orphans=ended)
        self.services.store.migrate()
        self.services.store.claim()
        self._remember_reading()
        self.engine.on_change(self._changed)
        self.engine.start()
        self._tell_drained()
        self._mailer.start()
        if self.listener is not None:
            self.listener.start()
        log.info("server-ready", version=__version__, door=self.listener.port if self.listener else None)

    def _write_settled(self, request: int) -> None:
        """A kept write reached the API-DB or was refused: its password, or a mail about it, may be due."""
        requests.forget_secrets(self.services, request)
        self._due.set()

    def _changed(self) -> None:
        self._wake.set()
        self._due.set()

    def _remember_reading(self) -> None:
        """A lost API-DB key must never turn participants into counts: refuse to start."""
        settings = self.settings
        with self.services.store.transaction() as connection:
            known = connection.execute(facts.select().where(facts.c.name == "apidb")).first() is not None
            if settings.apidb and not known:
                connection.execute(facts.insert(), {"name": "apidb", "value": "configured"})
        if known and not settings.apidb and settings.WODSUBJECTNUMBER == "auto":
            words = (
                "this state folder has worked with an API-DB, where NUMBER is a participant, and now none is "
                "configured. Restore WODAPIDBEXTURL, or say WODSUBJECTNUMBER: participant or count"
            )
            raise ConfigError([Problem("WODAPIDBEXTURL", words)])

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Work until `until` says so or `request_stop` was called."""
        seen: tuple[int, int] | None = None
        last_control = last_sweep = last_sessions = -math.inf  # after a start of the machine, too
        while not self._stopping.is_set() and not until():
            stamp = self._spool_stamp()
            if self._wake.is_set() or stamp != seen:
                self._wake.clear()
                seen = stamp if self._take_in() else None
                if seen is None:
                    self._wake.set()
            now = time.monotonic()
            if now - last_control >= CONTROL_EVERY:
                last_control = now
                self._guarded(self._control)
            if now - last_sessions >= (OVERDUE_EVERY if self.settings.apidb else SESSIONS_EVERY):
                last_sessions = now
                self._guarded(self._look_after_sessions)
            if now - last_sweep >= SWEEP_EVERY:
                last_sweep = now
                self._guarded(self.sweep)
            self._wake.wait(TICK)

    def _mail_stored(self) -> None:
        now = time.monotonic()
        self._streak = self._streak + 1 if now - self._last_mail < LULL else 0
        self._last_mail = now
        self._wake.set()

    def _after_you(self) -> None:
        """While mails pour in, accepting them comes first: this thread would take its time from the listener's."""
        began = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            patience = FLOOD_PATIENCE if self._streak > FLOOD else PATIENCE
            if now >= self._last_mail + LULL or now >= began + patience:
                return
            self._stopping.wait(LULL)

    def _make_way(self) -> bool:
        """Asked before each mail that goes out; returns whether to stop."""
        self._after_you()
        return self._stopping.is_set()

    def _spool_stamp(self) -> tuple[int, int]:
        """Changes whenever the pipe adds a mail; one stat call, so it can be asked often."""
        found = (self.settings.WODSTATEDIR / "spool" / "new").stat()
        return found.st_mtime_ns, found.st_ino

    def _take_in(self) -> bool:
        """Take a batch in; returns whether that was all."""
        self._after_you()
        try:
            if self.intake.run(self._stopping.is_set):
                self._due.set()
                return False
            if self.couriers is not None and not self._stopping.is_set():
                self.couriers.start()
        except Temporary as error:
            log.warning("service-away", cause=error.operator)
            self._stopping.wait(1.0)
            return False
        return True

    def _guarded(self, work: Callable[[], object]) -> None:
        """A round of a loop that must not end before the server does."""
        try:
            work()
        except Temporary as error:
            log.warning("service-away", cause=error.operator)
        except Exception:  # said in full, and tried again in the next round
            log.exception("server-fault")
            self._stopping.wait(1.0)

    def _control(self) -> None:
        """What time brings, and what other processes asked for: the end of jobs.

        What they retry is found by the engine's own looks.
        """
        self._tell_drained()
        if self.intake.held:
            self._wake.set()
        if self.alarms.look():
            self._due.set()
        for job, begun in requests.to_abort(self.services.store):
            if begun:
                self.services.children.end_job(job)
            else:
                requests.abort_waiting(self.services, job)
                self._due.set()
            self.engine.kick()

    def _look_after_sessions(self) -> None:
        if self.sessions.look():
            self._wake.set()
            self._due.set()

    def _tell_drained(self) -> None:
        """Say in the log when the backend is found drained or resumed."""
        found = drained.current(self.services.store)
        if found.holders and drained.drop_ended(self.services.store):
            log.warning(
                "drain-dropped", cause="a program that held the backend drained was killed", reason=found.reason
            )
            found = drained.current(self.services.store)
        if found.on and not self._drained:
            log.warning("server-drained", since=iso(found.since), reason=found.reason)
        elif self._drained and not found.on:
            log.info("server-resumed")
            self.engine.kick()
        self._drained = found.on

    def _mail_loop(self) -> None:
        while not self._stopping.is_set():
            self._due.clear()
            self._guarded(self.outbox.run)
            self._due.wait(OUTBOX_EVERY)

    def request_stop(self) -> None:
        """Ask `run` to return; safe in a signal handler."""
        self._stopping.set()
        self._wake.set()
        self._due.set()

    def drain(self) -> None:
        """Accept nothing new, let steps finish up to WODDRAIN seconds, leave the rest for the next start."""
        log.info("server-draining", seconds=self.settings.WODDRAIN)
        self.request_stop()
        if self.listener is not None:
            self.listener.stop_accepting()
        rested = self.engine.drain(self.settings.WODDRAIN)
        if not rested:
            ended = self.services.children.end_all()
            log.warning("children-ended", processes=ended)
            self.services.hub.close()  # whoever waits for it runs again at the next start
            if self.writes is not None:
                self.services.registry.close()
            self.engine.drain(UNWIND)
        if self.listener is not None:
            self.listener.stop()
        if self.couriers is not None:
            self.couriers.stop()
        self._mailer.join(timeout=5.0)
        self.engine.stop()
        self.services.registry.close()
        self.services.store.close()
        self.lock.release()
        log.info("server-stopped")

    def idle(self) -> bool:
        """Whether every mail is taken in, every job ended and every mail that can go out is out."""
        if self.intake.waiting() or self.intake.held or self._wake.is_set():
            return False
        if self.writes is not None and not self.writes.idle():
            return False
        store = self.services.store
        left = sa.select(jobs.c.id).where(jobs.c.state.in_(UNFINISHED)).limit(1)
        if self._drained:  # what is kept is none of our business until it is resumed
            left = left.where(jobs.c.enqueued.is_(True))
        unfinished = store.row(left)
        due = store.row(sa.select(mails.c.id).where(mails.c.state == "due", mails.c.tries == 0).limit(1))
        return unfinished is None and due is None

    def sweep(self) -> None:
        """Delete what is older than WODRETENTION."""
        seconds = self.settings.WODRETENTION * DAY
        finished, count = requests.purge(self.services.store, time.time() - seconds)
        self.engine.forget(finished)
        needed = requests.jobs_with_passwords(self.services.store)
        self.services.passwords.sweep(needed)
        self.services.documents.sweep(needed)
        self.spool.purge(seconds)
        self.services.trace.sweep()
        if count:
            log.info("swept", requests=count)

    def _facts(self) -> dict[str, object]:
        return {
            "backend": self.settings.WODBEFQDN,
            "version": __version__,
            "jobs may start": drained.current(self.services.store).words() or "yes",
            "jobs at work": len(self.engine.active),
            "workers": self.settings.WODWORKERS,
            "writes kept": kept(self.services.store),
            "mails held": self.intake.held,
        }


def serve(server: Server, notify_address: str | None = None, until: Callable[[], bool] = lambda: False) -> None:
    """Run a server until SIGTERM or SIGINT, then drain it."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.request_stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.start()
    notify_systemd("READY=1", notify_address)
    try:
        server.run(until)
    finally:
        notify_systemd("STOPPING=1", notify_address)
        server.drain()
