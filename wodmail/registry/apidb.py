"""The registry that a frontend fills: students, participants and workshops in the API-DB.

Reads ask it at once; writes go through `wodmail.delivery`, which keeps them while it is away. docs/api-db.md says which
step makes which call.
"""

from __future__ import annotations

import structlog

from wodmail.apidb import ApiDb, NoRow
from wodmail.catalog import Catalog, Workshop, folder_name, unknown
from wodmail.delivery import Writes
from wodmail.errors import Away, Failed, Refused
from wodmail.model import Write
from wodmail.registry.base import Seat
from wodmail.registry.rows import Customer, Row, by_notebook, truth, workshop
from wodmail.registry.rows import number as as_number
from wodmail.schema import Settings
from wodmail.shared import Shared

log = structlog.get_logger("wodmail.registry")

WORKSHOPS_AGE = 60.0  # seconds for which the list of workshops is good
SCRIPT_SHARE = 0.75  # how much of its life a script's token still has at least


class ApiDbRegistry:
    """Seats, participants and workshops in the API-DB. Safe for many threads.

    A student's row has the number of the student plus WODBASESTDID. The frontend assigns students; `assign` writes
    nothing.

    Args:
        settings: WODBASESTDID, WODUSERMIN and WODUSERMAX are used.
        api: the client.
        catalog: the workshops whose folders are here.
        writes: sends and keeps what is told.
    """

    def __init__(self, settings: Settings, api: ApiDb, catalog: Catalog, writes: Writes) -> None:
        self.api, self.catalog, self.writes = api, catalog, writes
        self._base = settings.WODBASESTDID
        self._students = (settings.WODUSERMIN, settings.WODUSERMAX)
        writes.agrees = self.agrees
        self._workshops: Shared[list[Row]] = Shared(lambda: api.rows("/workshops", unnamed=True))
        self._customers: Shared[list[Row]] = Shared(lambda: api.rows("/customers"))

    def close(self) -> None:
        """Give the connections back; nothing may be asked afterwards."""
        self.api.close()

    # -- workshops --------------------------------------------------------------------------------------------

    def workshop(self, name: str) -> Workshop:
        """See `Registry.workshop`; told by the API-DB, what it leaves out by wod.yml; the folder must be here."""
        wanted = folder_name(name)
        known = self._known()
        if wanted is not None and wanted not in known:
            known = self._known(news=True)
        if wanted is None or wanted not in known:
            raise Refused(unknown("the API-DB has no workshop {}", sorted(known), name, listed="it has"))
        local = self.catalog.find(wanted)
        if local is None:
            words = f"The API-DB knows {wanted}, but its folder is not on this backend."
            raise Refused(f"{words} Bring it to the notebooks here, or send the mail to the backend that has it.")
        return workshop(local, known[wanted])

    def workshop_by_id(self, number: int) -> Workshop:
        """See `Registry.workshop_by_id`; the number is that of the row."""
        for news in (False, True):
            for name, row in self._known(news=news).items():
                if as_number(row.get("id")) == number:
                    return self.workshop(name)
        raise Refused(f"the API-DB has no workshop number {number}")

    def _known(self, *, news: bool = False) -> dict[str, Row]:
        """The rows of workshops by name.

        An old list serves while somebody fetches a new one and while the API-DB is away; with `news` it must have been
        asked for after this call, as a workshop may be entered in the moment before its first mail.
        """
        latest = self._workshops.latest()
        if news or latest is None:
            return by_notebook(self._workshops.get())
        if not self._workshops.busy:
            try:
                latest = self._workshops.get(WORKSHOPS_AGE)
            except Away as error:
                log.warning("service-away", service="API-DB", cause=error.operator)
        return by_notebook(latest)

    # -- participants -----------------------------------------------------------------------------------------

    def check_participant(self, participant: int, student: int, workshop: str | None) -> None:
        """See `Registry.check_participant`; the participant's row must be there and name this student."""
        id_ = self._id(student)
        if participant == 0:
            return
        differs = self._differs(self._customer(participant), student, workshop)
        if differs:
            raise Refused(f"participant {participant} {differs}; nothing was changed")
        # Who registered last has the seat, active or not yet; one before may have been purged and still be "active".
        later = [found for found in self._at(id_) if found.id > participant and not found.cleaned]
        if later:
            self._caught_up(student)
            state = "is active" if later[-1].active else "registered later"
            words = f"student {student} now belongs to participant {later[-1].id}, who {state}"
            raise Refused(f"{words}, not to participant {participant}; nothing was changed")

    def agrees(self, participant: int, student: int, workshop: str | None) -> bool:
        """Whether the participant's row names that student and workshop (any when None) now.

        Raises:
            Away: the API-DB can't be asked.
            Failed: it says no, but for a row that isn't there.
        """
        try:
            row = self.api.row(f"/customers/{participant}", tries=1)
        except NoRow:
            return False
        return not self._differs(Customer.of(row), student, workshop)

    def _differs(self, row: Customer, student: int, workshop: str | None) -> str:
        """In what a participant's row is another than a mail says; empty when in nothing."""
        if row.student_id != student + self._base:
            has = f"student {row.student_id - self._base}" if row.student_id else "no student"
            return f"has {has}, not student {student}"
        wanted = folder_name(workshop) if workshop else None
        if wanted is not None and row.workshop != wanted:
            has = f"workshop {row.workshop}" if row.workshop else "no workshop"
            return f"has {has}, not {wanted}"
        return ""

    def participant_student(self, participant: int) -> int:
        """See `Registry.participant_student`; a student of another backend counts as none."""
        row = self._customer(participant)
        student = row.student_id - self._base
        first, last = self._students
        if not row.student_id or not first <= student <= last:
            has = f"student id {row.student_id}, which is not of this backend" if row.student_id else "no student"
            raise Refused(f"participant {participant} has {has}; name the student instead")
        return student

    def is_clean(self, participant: int) -> bool:
        """See `Registry.is_clean`; one whose row is gone has nothing to wait for."""
        if participant == 0:
            return True
        try:
            return Customer.of(self.api.row(f"/customers/{participant}")).cleaned
        except NoRow:
            return True

    def _customer(self, participant: int) -> Customer:
        try:
            return Customer.of(self.api.row(f"/customers/{participant}"))
        except NoRow as error:
            words = f"the API-DB knows no participant {participant}"
            raise Refused(
                f"{words}; check the number, or write 0 when no participant is meant", error.operator
            ) from error

    def _at(self, id_: int) -> list[Customer]:
        """Everybody who has or had that student, in the order of their numbers."""
        found = [Customer.of(row) for row in self._customers.get()]
        return sorted((row for row in found if row.student_id == id_), key=lambda row: row.id)

    # -- writes -----------------------------------------------------------------------------------------------

    def set_password(self, student: int, password_ref: str) -> str:
        """See `Registry.set_password`."""
        return self.writes.write(Write(_lane(student), self._student(student), {}, password_ref))

    def assign(self, student: int, workshop: str, participant: int = 0) -> str:
        """Nothing to write: the frontend has assigned the student before it sent its mail."""
        self._id(student)
        del workshop, participant
        return ""

    def set_completion(self, participant: int, percent: int, student: int = 0) -> str:
        """See `Registry.set_completion`."""
        if not 0 <= percent <= 100:
            raise Failed("the completion ratio makes no sense", f"{percent} % for participant {participant}")
        return self._tell(participant, student, {"completionPercentage": percent})

    def set_capacity(self, workshop: str, size: int) -> str:
        """See `Registry.set_capacity`."""
        if size < 0:
            raise Failed("the capacity makes no sense", f"{size} seats for {workshop}")
        found = self.workshop(workshop)
        for row in self._workshops.latest() or []:
            if as_number(row.get("id")) == found.id:
                row["capacity"] = size
        return self.writes.write(Write(f"workshop {found.id}", f"/workshop/{found.id}", {"capacity": size}))

    def free_seat(self, student: int) -> str:
        """See `Registry.free_seat`."""
        return self.writes.write(Write(_lane(student), self._student(student), {"assigned": False}))

    def keep_seat(self, student: int, participant: int) -> str:
        """See `Registry.keep_seat`."""
        kept = self.writes.write(Write(_lane(student), self._student(student), {"assigned": True}))
        return self._tell(participant, student, {"active": False}) or kept

    def set_active(self, participant: int, student: int = 0) -> str:
        """See `Registry.set_active`."""
        return self._tell(participant, student, {"active": True})

    def set_cleaned(self, participant: int, student: int = 0) -> str:
        """See `Registry.set_cleaned`."""
        return self._tell(participant, student, {"cleaned": True})

    def _tell(self, participant: int, student: int, body: Row) -> str:
        """Write about a participant, in the order of its student's writes."""
        if participant == 0:
            return ""
        lane = _lane(student) if student else f"participant {participant}"
        return self.writes.write(Write(lane, f"/customer/{participant}", body))

    # -- seats ------------------------------------------------------------------------------------------------

    def seat(self, student: int) -> Seat:
        """See `Registry.seat`; the newest participant counts that is not cleaned, without one the newest active."""
        id_ = self._id(student)
        self._caught_up(student)
        try:
            row = self.api.row(f"/students/{id_}")
        except NoRow as error:
            raise Refused(f"the API-DB has no student {student} (id {id_})", error.operator) from error
        here = self._at(id_)
        holder = next((found for found in reversed(here) if not found.cleaned), None)
        holder = holder or next((found for found in reversed(here) if found.active), None)
        assigned = truth(row.get("assigned"))
        if holder is None:
            return Seat(student, assigned)
        return Seat(student, assigned, holder.workshop or None, holder.id, holder.active)

    def taken(self) -> set[int]:
        """See `Registry.taken`; two calls, however many students there are."""
        ids = {as_number(row.get("id")) for row in self.api.rows("/students") if truth(row.get("assigned"))}
        ids |= {
            found.student_id for found in map(Customer.of, self._customers.get()) if found.active and not found.cleaned
        }
        return {id_ - self._base for id_ in ids if id_ > self._base}

    def overdue(self, before: float) -> list[Seat]:
        """See `Registry.overdue`; one call. Who is active counts, and is the last at that seat."""
        found = [Customer.of(row) for row in self._customers.get()]
        last = {each.student_id: each.id for each in sorted(found, key=lambda each: each.id)}
        first, highest = self._students
        return [
            Seat(each.student_id - self._base, True, each.workshop or None, each.id, each.active, ends=each.ends)
            for each in found
            if each.active
            and not each.cleaned
            and each.ends is not None
            and each.ends < before
            and last[each.student_id] == each.id
            and first <= each.student_id - self._base <= highest
        ]

    def session_token(self) -> str:
        """A token with most of its life before it."""
        return self.api.token(SCRIPT_SHARE)

    def _caught_up(self, student: int) -> None:
        """What the API-DB says of a seat counts only when it has all that was written about it.

        Raises:
            Away: it hasn't.
        """
        if self.writes.behind(_lane(student)):
            words = f"Earlier writes about student {student} have not reached the API-DB yet"
            raise Away(f"{words}; `wodmail show` of their request says why.")

    def _id(self, student: int) -> int:
        first, last = self._students
        if not first <= student <= last:
            raise Refused(f"there is no student {student} here; they are numbered {first} to {last}")
        return student + self._base

    def _student(self, student: int) -> str:
        return f"/student/{self._id(student)}"


def _lane(student: int) -> str:
    return f"student {student}"
