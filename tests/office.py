"""Services beside a stand-in of the API-DB, for tests of what is kept while that is away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests import databases
from tests.apidb.site import ApiDbSite
from tests.e2e.harness import SENDER, Deployment
from tests.support import wait_until
from wodmail import requests, store
from wodmail.delivery import Couriers
from wodmail.errors import Away
from wodmail.jobs.atwork import at_work
from wodmail.jobs.services import Services
from wodmail.logs import Masker
from wodmail.model import State
from wodmail.registry.apidb import ApiDbRegistry
from wodmail.requests import NewRequest, accept
from wodmail.server import build_services

WORD = "Werty123"


class Office:
    """Services on one database beside a stand-in of the API-DB; students 1-9, participants 50 + student."""

    def __init__(self, folder: Path, url: str, api: ApiDbSite, patience: float) -> None:
        self.api = api
        keys = {"WODAPIDBTIMEOUT": patience, "WODAPIDBRETRIES": 0, "WODMONITOR": "monitor@localhost", "WODRETENTION": 1}
        self.site = Deployment(folder, url, **keys, **api.keys)
        self.site.workshop("WKSHP-Test")
        self.masker = Masker()
        self.services: Services = build_services(self.site.settings, self.masker)
        self.services.store.migrate()
        assert isinstance(self.services.registry, ApiDbRegistry)
        self.registry = self.services.registry
        self.writes = self.registry.writes
        self.started: list[Couriers] = []

    def job(self, student: int) -> tuple[int, int]:
        """A request with its job, a CLEANUP that has a password; returns both numbers."""
        number, job = self.mail("CLEANUP", student, 50 + student)
        self.services.passwords.put(job, student, WORD)
        return number, job

    def mail(self, action: str, student: int, participant: int, workshop: str = "WKSHP-Test") -> tuple[int, int]:
        """A mail that was taken in; the numbers of its request and job."""
        new = NewRequest(
            spool_key=f"{time.time_ns()}",
            state=State.WAITING,
            received_at=time.time(),
            action=action,
            students=(student,),
            participant=participant,
            workshop=workshop,
            subject=f"{action} {student} {participant}",
            sender=SENDER,
        )
        with self.services.store.transaction() as connection:
            number = accept(connection, self.services.store.backend, new)
            query = sa.select(store.jobs.c.id).where(store.jobs.c.request == number)
            return number, int(connection.execute(query).scalar_one())

    def validated(self, job: int, state: State, *, refused: bool = False) -> None:
        """How a job's validation ended."""
        row = {"job": job, "position": 1, "name": "validate", "state": state.value, "started_at": time.time()}
        with self.services.store.transaction() as connection:
            result = json.dumps({"data": {"refused": True}} if refused else {})
            connection.execute(store.steps.insert(), {**row, "result": result})

    @contextmanager
    def at_work(self, student: int) -> Iterator[tuple[int, int]]:
        """As in a step of a job of that student."""
        request, job = self.job(student)
        with at_work(request, job):
            yield request, job

    def cleanup(self, student: int, job: int) -> list[str]:
        """What a CLEANUP tells, in its order; returns the notes."""
        registry, participant = self.registry, 50 + student
        return [
            registry.set_password(student, self.services.passwords.reference(job, student)),
            registry.set_completion(participant, 83, student),
            registry.free_seat(student),
            registry.set_cleaned(participant, student),
        ]

    def kept(self) -> list[dict[str, Any]]:
        """The table."""
        return self.services.store.rows(sa.select(store.writes).order_by(store.writes.c.id))

    def await_back(self) -> None:
        """Ask until the API-DB answers."""

        def answers() -> bool:
            try:
                return not self.registry.is_clean(51)
            except Away:
                return False

        wait_until(answers, what="the API-DB to be back")

    def deliver_until(self, done: Callable[[], object]) -> None:
        """Rounds until something is true; the breaker lets one try through now and then."""

        def round_() -> object:
            self.deliver()
            return done()

        wait_until(round_, what="the delivery")

    def deliver(self) -> None:
        """One round in this thread."""
        for lane in self.writes.due():
            for request in self.writes.deliver(lane):
                requests.forget_secrets(self.services, request)

    def start(self) -> None:
        """As the server does."""
        found = Couriers(self.writes, lambda request: requests.forget_secrets(self.services, request))
        self.started.append(found)
        found.start()


@contextmanager
def opened(kind: str, folder: Path, patience: float = 20.0) -> Iterator[Office]:
    with (
        databases.fresh(kind, folder) as url,
        ApiDbSite(folder, base=1000, absent="hang") as api,
    ):
        api.add_students(range(1, 10))
        api.add_workshop("WKSHP-Test", id=5)
        for student in range(1, 10):
            api.add_customer("WKSHP-Test", student, id=50 + student)
        made = Office(folder, "" if kind == "sqlite" else url, api, patience)
        yield made
        for found in made.started:
            found.stop()
        made.registry.close()
        made.services.store.close()
