"""What the steps work with, put together once by the server."""

from __future__ import annotations

from dataclasses import dataclass

from wodmail.catalog import Workshop
from wodmail.children import Children
from wodmail.config import Settings
from wodmail.directory import Directory
from wodmail.documents import Documents
from wodmail.errors import Refused
from wodmail.hub import Hub
from wodmail.jobs.passwords import Passwords
from wodmail.jobs.plan import PlannedStep
from wodmail.logs import Masker
from wodmail.model import Action, JobSpec
from wodmail.playbooks import Playbooks
from wodmail.registry.base import Registry
from wodmail.scripts import Scripts
from wodmail.store import Store
from wodmail.students.base import Accounts
from wodmail.trace import Trace


@dataclass(frozen=True)
class Services:
    """The parts around the jobs; each is a protocol with an embedded and a real implementation."""

    settings: Settings
    store: Store
    accounts: Accounts
    registry: Registry
    hub: Hub
    directory: Directory
    playbooks: Playbooks
    scripts: Scripts
    children: Children
    passwords: Passwords
    documents: Documents
    trace: Trace
    masker: Masker


@dataclass(frozen=True)
class StepContext:
    """One step at work.

    Args:
        services: the parts.
        spec: the job.
        step: the step of the plan.
        waiting_since: seconds since 1970 at which the job began to wait, None when it doesn't.
        data: what earlier steps of the job left for later ones, by key.
    """

    services: Services
    spec: JobSpec
    step: PlannedStep
    waiting_since: float | None
    data: dict[str, object]

    @property
    def workshop(self) -> Workshop | None:
        """What the catalogue says of the workshop now; None when it has gone, and for PURGE, which ignores it."""
        if self.spec.action is Action.PURGE:
            return None
        try:
            return self.services.registry.workshop(self.spec.ws)
        except Refused:
            return None

    def line(self, text: str) -> None:
        """Write a line into the trace, secrets masked."""
        self.services.trace.line(self.spec.request, self.step.student, self.services.masker.mask(text))

    def password(self, student: int) -> str:
        """The student's password of this job, known to the masker from then on; empty when none was made yet."""
        return self.services.passwords.get(self.spec.job, student)
