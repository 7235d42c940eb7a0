"""The errors that people see: each carries the sender's words and the operator's cause.

The type says what may be done about it: `Refused` is final and the sender's to mend, `Temporary` may be tried
again as it is (`Away`: once the service is back), `Failed` needs an operator, `ConfigError` lists everything that is
wrong with the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class WodmailError(Exception):
    """An expected error; shown without a traceback.

    Args:
        sender: what the sender of the mail is told: what is wrong and what to do next; never holds a secret.
        operator: the cause, for the log and the trace; the sender's words when there is nothing to add.
    """

    def __init__(self, sender: str, operator: str | None = None) -> None:
        super().__init__(sender)
        self.sender = sender
        self.operator = operator if operator is not None else sender


class Refused(WodmailError):
    """The mail asks for something that is not allowed or makes no sense; nothing was changed."""


class Temporary(WodmailError):
    """Something outside is away or busy; the same thing may succeed later."""


class Away(Temporary):
    """A service that must be read is away: a job gives its worker back and asks again (WODAPIDBPATIENCE)."""


class Failed(WodmailError):
    """A step could not do its work.

    Args:
        sender: see `WodmailError`.
        operator: see `WodmailError`.
        output: the tail of what the failing program printed, secrets masked by the caller.
    """

    def __init__(self, sender: str, operator: str | None = None, *, output: str = "") -> None:
        super().__init__(sender, operator)
        self.output = output


class Overtaken(Failed):
    """A write must not be made any more: a later mail shows that the frontend has gone on without it."""


class NotLetIn(Failed):
    """A service refuses our account or what it may do: no call will work before an operator has mended that."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: where (a key or file path) and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(WodmailError):
    """The configuration can't be used; holds every problem found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"the configuration has {len(self.problems)} problem(s):\n{lines}")
