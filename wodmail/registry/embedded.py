"""The registry for a backend that stands alone: the wod.yml catalogue and one SQLite file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wodmail.catalog import Catalog, Workshop, folder_name, unknown
from wodmail.config import Settings
from wodmail.errors import Failed, Refused, Temporary
from wodmail.registry.base import Seat

FILE = "registry.sqlite"
SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS workshop (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, capacity INTEGER);
CREATE TABLE IF NOT EXISTS seat (
    student INTEGER PRIMARY KEY, assigned INTEGER NOT NULL DEFAULT 0, workshop TEXT,
    participant INTEGER NOT NULL DEFAULT 0, active INTEGER NOT NULL DEFAULT 0, since TEXT, password_changed TEXT);
CREATE TABLE IF NOT EXISTS participant (
    id INTEGER PRIMARY KEY, student INTEGER NOT NULL, workshop TEXT NOT NULL, cleaned INTEGER NOT NULL DEFAULT 0,
    completion INTEGER, registered TEXT NOT NULL);
"""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class EmbeddedRegistry:
    """Seats and participants in WODSTATEDIR/registry.sqlite, workshops from the catalogue.

    A participant is known from the first `assign` that names it. Passwords never get here: only when one was changed.
    Safe for several threads and processes.

    Args:
        settings: WODSTATEDIR, WODUSERMIN and WODUSERMAX are used.
        catalog: the workshops.

    Raises:
        Failed: the file can't be opened or was written by a newer wodmail.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.catalog = catalog
        self._students = (settings.WODUSERMIN, settings.WODUSERMAX)
        self._file: Path = settings.WODSTATEDIR / FILE
        self._lock = threading.RLock()
        with self._trouble():
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self._file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._file.chmod(0o600)
            self._migrate()

    def _migrate(self) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            self._database.close()
            words = "the registry was written by a newer wodmail; the operator has to update this one"
            raise Failed(words, f"{self._file} has schema {version}, this wodmail knows {SCHEMA_VERSION}")
        self._database.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")

    def close(self) -> None:
        """Close the file; nothing may be asked afterwards."""
        with self._lock:
            self._database.close()

    def workshop(self, name: str) -> Workshop:
        """See `Registry.workshop`; capacity is the stored one when `set_capacity` has set it."""
        found = self.catalog.find(name)
        if found is None:
            raise Refused(unknown("there is no workshop {} here", self.catalog.names(), name))
        number, capacity = self._numbered(found.name)
        return replace(found, id=number, capacity=found.capacity if capacity is None else capacity)

    def workshop_by_id(self, number: int) -> Workshop:
        """See `Registry.workshop_by_id`; a number stays a workshop's as long as the file exists."""
        row = self._one("SELECT name FROM workshop WHERE id = ?", (number,))
        if row is None:
            raise Refused(f"there is no workshop number {number}")
        return self.workshop(row[0])

    def _numbered(self, name: str) -> tuple[int, int | None]:
        ask = "SELECT id, capacity FROM workshop WHERE name = ?"
        row = self._one(ask, (name,))
        if row is None:
            with self._writing():
                self._database.execute("INSERT OR IGNORE INTO workshop (name) VALUES (?)", (name,))
            row = self._one(ask, (name,))
        return (row[0], row[1]) if row else (0, None)

    def check_participant(self, participant: int, student: int, workshop: str | None) -> None:
        """See `Registry.check_participant`.

        A participant that is unknown or whose CLEANUP has ended has nothing to disagree with. Without a participant
        nothing is checked but the student's number: who counts students has no participants.
        """
        self._checked(student)
        if participant == 0:
            return
        with self._reading():
            self._agree(participant, student, workshop)

    def _agree(self, participant: int, student: int, workshop: str | None) -> None:
        """Compare with what is stored; the caller holds a transaction or a read."""
        known = self._one("SELECT student, workshop, cleaned FROM participant WHERE id = ?", (participant,))
        wanted = folder_name(workshop) if workshop else None
        if known is not None and not known[2]:
            if known[0] != student:
                raise Refused(f"participant {participant} has student {known[0]}, not student {student}")
            if wanted is not None and known[1] != wanted:
                raise Refused(f"participant {participant} has workshop {known[1]}, not {wanted}")
        seat = self.seat(student)
        if seat.active and seat.participant not in (0, participant):
            raise Refused(
                f"student {student} now belongs to participant {seat.participant} (since {seat.since}),"
                f" not to participant {participant}; nothing was changed"
            )

    def participant_student(self, participant: int) -> int:
        """See `Registry.participant_student`."""
        row = self._one("SELECT student FROM participant WHERE id = ?", (participant,))
        if row is None:
            raise Refused(f"participant {participant} is unknown here; name the student instead")
        return int(row[0])

    def is_clean(self, participant: int) -> bool:
        """See `Registry.is_clean`."""
        row = self._one("SELECT cleaned FROM participant WHERE id = ?", (participant,))
        return row is None or bool(row[0])

    def set_password(self, student: int, password_ref: str) -> str:
        """Note that the password was changed, and when; neither it nor the reference is kept."""
        del password_ref  # nobody reads passwords here
        with self._seat_writing(student):
            self._database.execute("UPDATE seat SET password_changed = ? WHERE student = ?", (_now(), student))
        return ""

    def assign(self, student: int, workshop: str, participant: int = 0) -> str:
        """See `Registry.assign`; registers the participant when it is new or was cleaned."""
        wanted = self.workshop(workshop).name
        with self._seat_writing(student):
            if participant:  # without one it is an operator's own mail, who may take any seat
                self._agree(participant, student, workshop)
                self._database.execute(
                    "INSERT INTO participant (id, student, workshop, registered) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET student = excluded.student, workshop = excluded.workshop,"
                    " cleaned = 0, completion = NULL, registered = excluded.registered WHERE cleaned = 1",
                    (participant, student, wanted, _now()),
                )
            self._database.execute(
                "UPDATE seat SET assigned = 1, workshop = ?, participant = ?, active = 0, since = ? WHERE student = ?"
                " AND NOT (assigned = 1 AND workshop IS ? AND participant = ?)",
                (wanted, participant, _now(), student, wanted, participant),
            )
        return ""

    def set_completion(self, participant: int, percent: int, student: int = 0) -> str:
        """See `Registry.set_completion`; a participant that is unknown here is passed over."""
        del student  # participants are known here
        if not 0 <= percent <= 100:
            raise Failed("the completion ratio makes no sense", f"{percent} % for participant {participant}")
        with self._writing():
            self._database.execute("UPDATE participant SET completion = ? WHERE id = ?", (percent, participant))
        return ""

    def completion(self, participant: int) -> int | None:
        """How far the participant got in percent, None when never told."""
        row = self._one("SELECT completion FROM participant WHERE id = ?", (participant,))
        return None if row is None or row[0] is None else int(row[0])

    def set_capacity(self, workshop: str, size: int) -> str:
        """See `Registry.set_capacity`."""
        if size < 0:
            raise Failed("the capacity makes no sense", f"{size} seats for {workshop}")
        number = self.workshop(workshop).id
        with self._writing():
            self._database.execute("UPDATE workshop SET capacity = ? WHERE id = ?", (size, number))
        return ""

    def free_seat(self, student: int) -> str:
        """See `Registry.free_seat`."""
        with self._seat_writing(student):
            self._database.execute(
                "UPDATE seat SET assigned = 0, workshop = NULL, participant = 0, active = 0, since = ?"
                " WHERE student = ? AND assigned = 1",
                (_now(), student),
            )
        return ""

    def keep_seat(self, student: int, participant: int) -> str:
        """See `Registry.keep_seat`; passed over when another participant has the seat by now."""
        with self._seat_writing(student):
            self._database.execute(
                "UPDATE seat SET assigned = 1, active = 0 WHERE student = ? AND participant IN (0, ?)",
                (student, participant),
            )
        return ""

    def set_active(self, participant: int, student: int = 0) -> str:
        """See `Registry.set_active`; a seat that is not assigned (to that participant) is passed over."""
        with self._writing():
            self._database.execute(
                "UPDATE seat SET active = 1 WHERE assigned = 1 AND participant = ? AND (student = ? OR ? != 0)",
                (participant, student, participant),
            )
        return ""

    def set_cleaned(self, participant: int, student: int = 0) -> str:
        """See `Registry.set_cleaned`."""
        del student
        with self._writing():
            self._database.execute("UPDATE participant SET cleaned = 1 WHERE id = ?", (participant,))
            self._database.execute(
                "UPDATE seat SET active = 0 WHERE participant = ? AND participant != 0", (participant,)
            )
        return ""

    def seat(self, student: int) -> Seat:
        """See `Registry.seat`."""
        self._checked(student)
        columns = "student, assigned, workshop, participant, active, since"
        row = self._one(f"SELECT {columns} FROM seat WHERE student = ?", (student,))  # noqa: S608 - a constant
        if row is None:
            return Seat(student)
        return Seat(row[0], bool(row[1]), row[2], row[3], bool(row[4]), row[5])

    def taken(self) -> set[int]:
        """See `Registry.taken`."""
        with self._reading():
            return {
                row[0] for row in self._database.execute("SELECT student FROM seat WHERE assigned = 1 OR active = 1")
            }

    def overdue(self, before: float) -> list[Seat]:
        """See `Registry.overdue`: none."""
        del before
        return []

    def session_token(self) -> str:
        """Empty: there is no API to log in to."""
        return ""

    def _checked(self, student: int) -> None:
        first, last = self._students
        if not first <= student <= last:
            raise Refused(f"there is no student {student} here; they are numbered {first} to {last}")

    def _one(self, query: str, values: Sequence[object]) -> tuple[Any, ...] | None:
        with self._reading():
            row: tuple[Any, ...] | None = self._database.execute(query, values).fetchone()
            return row

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._trouble():
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction that holds the file from its start, so that what it reads stays true until it commits."""
        with self._lock, self._trouble():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _seat_writing(self, student: int) -> Iterator[None]:
        self._checked(student)
        with self._writing():
            self._database.execute("INSERT OR IGNORE INTO seat (student) VALUES (?)", (student,))
            yield

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise Temporary("the registry of seats is busy; it is tried again", f"{self._file}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            words = "the registry of seats is broken; the operator has to look at it"
            raise Failed(words, f"{self._file}: {error}") from error
