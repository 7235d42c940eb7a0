"""The hub that gives students their notebook server: what callers may ask of one, and the answer when there is none."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from wodmail.schema import Settings


@runtime_checkable
class Hub(Protocol):
    """Makes and removes hub users, starts and stops their servers.

    All calls are idempotent: what already is as asked is fine. They raise `Temporary` when the hub is away or too busy
    (network, 429, 5xx after the retries), `Failed` when it clearly says no. They may come from several threads.
    """

    @property
    def enabled(self) -> bool:
        """Whether there is a hub at all; without one its steps are skipped."""
        ...

    def ensure(self, student: int) -> str:
        """Make the student's hub user.

        Args:
            student: the student's number, WODUSERMIN to WODUSERMAX.

        Returns:
            a few words for the transcript; may be empty.
        """
        ...

    def remove(self, student: int) -> str:
        """Remove the student's hub user, and with it its server and every session that is still logged in.

        Args:
            student: the student's number, WODUSERMIN to WODUSERMAX.

        Returns:
            a few words for the transcript; may be empty.
        """
        ...

    def start(self, student: int) -> str:
        """Make the student's hub user when there is none, start its server and wait until it runs.

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

    def close(self) -> None:
        """Give the connections back; calls that wait fail with `Temporary`."""
        ...


class NoHub:
    """No hub is configured: nothing to start or stop."""

    enabled = False

    def ensure(self, student: int) -> str:
        """Nothing to do."""
        return f"no hub for student{student}"

    def remove(self, student: int) -> str:
        """Nothing to do."""
        return f"no hub for student{student}"

    def start(self, student: int) -> str:
        """Nothing to do."""
        return f"no hub for student{student}"

    def stop(self, student: int) -> str:
        """Nothing to do."""
        return f"no hub for student{student}"

    def close(self) -> None:
        """Nothing to do."""


def for_settings(settings: Settings) -> Hub:
    """The hub that a configuration names: JupyterHub when its keys are there, else none.

    Raises:
        Failed: its token or certificates can't be used.
    """
    if not settings.WODBEAPIURL:
        return NoHub()
    from wodmail.jupyterhub import JupyterHub

    return JupyterHub(settings)
