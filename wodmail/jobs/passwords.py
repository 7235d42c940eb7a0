"""The passwords of jobs: kept in the secret store, known to the masker for as long as the job needs them."""

from __future__ import annotations

import threading
from collections.abc import Collection

from wodmail.logs import Masker
from wodmail.secretstore import Secrets, reference


def _name(student: int) -> str:
    return f"password-{student}"


class Passwords:
    """New passwords by job and student; safe for several threads.

    Args:
        secrets: where they lie.
        masker: hides them in every log line, trace line and step result.
    """

    def __init__(self, secrets: Secrets, masker: Masker) -> None:
        self._secrets, self._masker = secrets, masker
        self._lock = threading.Lock()
        self._known: dict[int, dict[int, str]] = {}

    def get(self, job: int, student: int) -> str:
        """The password made by that job; empty when there is none (any more)."""
        with self._lock:
            kept = self._known.get(job, {}).get(student)
        if kept is None:
            kept = self._secrets.get(job, _name(student)) or ""
            self._remember(job, student, kept)
        return kept

    def put(self, job: int, student: int, word: str) -> None:
        """Keep a new password durably before it is set anywhere."""
        self._remember(job, student, word)
        self._secrets.put(job, _name(student), word)

    def _remember(self, job: int, student: int, word: str) -> None:
        if not word:
            return
        with self._lock:
            known = self._known.setdefault(job, {})
            if student not in known:
                known[student] = word
                self._masker.register(word)

    def reference(self, job: int, student: int) -> str:
        """What may be written down instead of the password."""
        return reference(job, _name(student))

    def forget(self, job: int) -> None:
        """Remove a job's passwords; from then on nothing of ours knows them."""
        with self._lock:
            known = self._known.pop(job, {})
        self._secrets.forget(job)
        for word in known.values():
            self._masker.unregister(word)

    def sweep(self, keep: Collection[int]) -> int:
        """Remove what a crash left of jobs that have ended; returns how many jobs that were.

        Args:
            keep: jobs whose passwords are still needed.
        """
        return self._secrets.sweep(keep)
