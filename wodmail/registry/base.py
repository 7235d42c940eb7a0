"""The registry: who sits where. What callers may ask of one; the embedded one and the API-DB both answer this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from wodmail.catalog import Workshop


@dataclass(frozen=True, slots=True)
class Seat:
    """What is known of one student's seat.

    Args:
        student: the student's number.
        assigned: whether it is taken (or kept for inspection); only a seat that is not may be given out.
        workshop: the workshop it is taken for, None when free or unknown.
        participant: who has it, 0 when nobody is known by number.
        active: whether somebody works there now.
        since: when that began, ISO 8601 in UTC; None when never used or unknown.
        ends: when the participant's time is over, seconds since 1970; said by `Registry.overdue` only.
    """

    student: int
    assigned: bool = False
    workshop: str | None = None
    participant: int = 0
    active: bool = False
    since: str | None = None
    ends: float | None = None


@runtime_checkable
class Registry(Protocol):
    """Reads and writes of seats, participants and workshops.

    Every write is idempotent and returns a few words for the transcript: empty, or that it is kept and delivered when
    the registry is back. Writes about one student are delivered in the order in which they were made. A read raises
    `Away` when the registry can't be reached or makes no sense (network, time-out, 5xx); a call raises `Temporary` when
    it is busy (a lock), `Failed` when it clearly says no (rights, a row that can't be written), `Refused` when it
    disagrees with the mail. A participant of 0 means none; writes about it do nothing.
    """

    def workshop(self, name: str) -> Workshop:
        """The workshop's description.

        Args:
            name: WKSHP-Name or CHLG-Name.

        Raises:
            Refused: unknown; the words name those that look like it.
        """
        ...

    def workshop_by_id(self, number: int) -> Workshop:
        """The description of the workshop that `Workshop.id` numbers.

        Raises:
            Refused: there is none.
        """
        ...

    def check_participant(self, participant: int, student: int, workshop: str | None) -> None:
        """See that participant, student and workshop belong together and that nobody else works on that seat.

        Args:
            participant: the participant's number, 0 for none (then only the seat is looked at where that matters).
            student: the student's number.
            workshop: WKSHP-Name or CHLG-Name; None where it is to be ignored (PURGE).

        Raises:
            Refused: they disagree; the words say in what.
        """
        ...

    def participant_student(self, participant: int) -> int:
        """The student that a participant has.

        Raises:
            Refused: the participant is unknown or has none.
        """
        ...

    def is_clean(self, participant: int) -> bool:
        """Whether a CLEANUP of that participant has ended; True for one that was never at work."""
        ...

    def set_password(self, student: int, password_ref: str) -> str:
        """Tell the registry a student's new password.

        Args:
            student: the student's number.
            password_ref: reference to it (`wodmail.secretstore.reference`); never the password itself.
        """
        ...

    def assign(self, student: int, workshop: str, participant: int = 0) -> str:
        """Take a seat for a workshop; a seat that already is taken so stays as it is.

        Args:
            student: the student's number.
            workshop: WKSHP-Name or CHLG-Name.
            participant: who gets it, 0 for nobody known by number.

        Raises:
            Refused: another participant works there.
        """
        ...

    def set_completion(self, participant: int, percent: int, student: int = 0) -> str:
        """Store how far a participant got, 0 to 100; `student` is the seat, 0 when not of interest."""
        ...

    def set_capacity(self, workshop: str, size: int) -> str:
        """Store how many seats a workshop offers, 0 or more."""
        ...

    def free_seat(self, student: int) -> str:
        """Give a seat back; only after its home is verified empty."""
        ...

    def keep_seat(self, student: int, participant: int) -> str:
        """End the participant's work but keep the seat taken until a RESET (workshops with `reset: true`)."""
        ...

    def set_active(self, participant: int, student: int = 0) -> str:
        """Mark work as begun.

        Args:
            participant: who begins.
            student: the seat, for registries that know seats without participants; 0 when not of interest.

        Raises:
            Overtaken: a later mail has ended that participant's work.
        """
        ...

    def set_cleaned(self, participant: int, student: int = 0) -> str:
        """Mark a participant's CLEANUP as ended; `student` is the seat, 0 when not of interest."""
        ...

    def seat(self, student: int) -> Seat:
        """What is known of a seat."""
        ...

    def taken(self) -> set[int]:
        """The students whose seats are assigned (kept for inspection, too) or worked at and not cleaned, by number.

        What is still to be written about them counts as not written: a seat may be told taken that is about to be free.
        """
        ...

    def overdue(self, before: float) -> list[Seat]:
        """The seats of participants whose time ended before a moment and who were not cleaned.

        A registry that doesn't keep such times has none: there the backend ends sessions (docs/sessions.md).

        Args:
            before: seconds since 1970.
        """
        ...

    def session_token(self) -> str:
        """The token that workshop scripts find as `accessToken`; empty where none is needed."""
        ...

    def close(self) -> None:
        """Give the connections back; calls that wait fail with `Temporary`, and nothing may be asked afterwards."""
        ...
