"""The directory (LDAP) that may hold students' passwords: what callers may ask, and the answer when there is none."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from wodmail.errors import Failed
from wodmail.schema import Settings


@runtime_checkable
class Directory(Protocol):
    """Holds students' passwords beside their account, for workshops that say `ldap: true`."""

    @property
    def enabled(self) -> bool:
        """Whether there is a directory at all."""
        ...

    def set_password(self, student: int, password: str) -> None:
        """Replace the student's password; setting the same one again is fine.

        Args:
            student: the student's number, WODUSERMIN to WODUSERMAX.
            password: the new password, in clear; never on a command line, in a log or in an error.

        Raises:
            Temporary: the directory is away or busy.
            Failed: it clearly says no (no such entry, not allowed), or there is none.
        """
        ...


class NoDirectory:
    """No directory is configured: a workshop that needs one can't be given out."""

    enabled = False

    def set_password(self, student: int, password: str) -> None:
        """Say that there is none.

        Raises:
            Failed: always.
        """
        del password  # there is nobody to hand it to
        raise Failed(
            "this workshop needs LDAP passwords and this backend has no LDAP server; tell its operator",
            f"student{student}: the workshop's wod.yml says ldap: true; set the WODLDAP* keys or ldap: false",
        )


def for_settings(settings: Settings) -> Directory:
    """The directory that a configuration names: LDAP when its keys are there, else none."""
    if not settings.WODLDAPSRVNAME:
        return NoDirectory()
    # Imported late: most backends have no LDAP, and `wodmail query` starts often.
    from wodmail.ldap import LdapDirectory

    return LdapDirectory(settings)
