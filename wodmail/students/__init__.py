"""Students' accounts: plain folders in the sandbox, Linux users through the root helper else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wodmail.config import Settings
    from wodmail.students.base import Accounts


def for_settings(settings: Settings) -> Accounts:
    """The accounts that the configuration asks for: `WODSANDBOX: true` means plain folders."""
    # Imported here, so that the helper's modules, which are standard library alone, stay importable without the rest.
    if settings.WODSANDBOX:
        from wodmail.students.sandbox import SandboxAccounts

        return SandboxAccounts(settings)
    from wodmail.students.linux import LinuxAccounts

    return LinuxAccounts(settings)
