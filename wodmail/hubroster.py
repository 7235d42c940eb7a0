"""JupyterHub's users by the thousand: which students have one, made many in a call, removed several at a time.

The hub's API has a call that makes many users and a list of them in pages, and none that removes many
(https://jupyterhub.readthedocs.io/en/stable/reference/rest-api.html).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from wodmail.errors import Failed, WodmailError
from wodmail.hubwire import Wire
from wodmail.jupyterhub import JupyterHub, server_of
from wodmail.schema import Settings

PAGE = 200  # as many as the hub gives at most unless it is told otherwise
AT_ONCE = 50  # the hub makes them one after another, some 25 a second, and answers when all are there
THREADS = 8
_NAME = re.compile(r"student([1-9][0-9]{0,8})")

Told = Callable[[int], None]
"""Called with how many more students are done."""


class HubRoster:
    """The users of the hub at WODBEAPIURL.

    Args:
        settings: see `JupyterHub`.

    Raises:
        Failed: the token or the certificates can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._wire = Wire(settings)
        self._hub = JupyterHub(settings)

    def close(self) -> None:
        """Give the connections back."""
        self._wire.close()
        self._hub.close()

    def users(self) -> dict[int, bool]:
        """The students who have a hub user, and whether a server of theirs runs or is pending.

        Raises:
            Temporary: the hub is away.
            Failed: it says no, or its list makes no sense.
        """
        found: dict[int, bool] = {}
        seen = 0
        while models := self._page(seen):
            seen += len(models)
            for model in models:
                match = _NAME.fullmatch(str(model.get("name")))
                if match:
                    server = server_of(model)
                    found[int(match[1])] = server.running or bool(server.pending)
        return found

    def _page(self, offset: int) -> list[dict[str, object]]:
        answer = self._wire.call("GET", f"/users?offset={offset}&limit={PAGE}", slow=True)
        good = answer.status == 200 and isinstance(answer.data, list)
        if not good or not all(isinstance(model, dict) for model in answer.data):
            words = f"JupyterHub's list of users can't be read: it answers {answer.status} {answer.words}"
            raise Failed(f"{words}. The service of WODBETOKEN needs the scope admin:users.", words)
        models: list[dict[str, object]] = answer.data
        return models

    def make(self, students: Collection[int], told: Told) -> dict[int, str]:
        """Make hub users, many in a call; those that are there already are fine.

        Args:
            students: their numbers; their Linux accounts must be there, a hub that knows them by PAM asks for them.
            told: is called for each lot.

        Returns:
            Why it didn't work, by student; empty when all are there.

        Raises:
            Temporary: the hub is away.
        """
        failed: dict[int, str] = {}
        for lot in _lots(sorted(students)):
            body = {"usernames": [f"student{student}" for student in lot]}
            answer = self._wire.call("POST", "/users", slow=True, body=body)
            if answer.status not in (200, 201, 409):
                # The hub ends such a call at the first that it can't make; one by one it says which that is.
                failed |= self._one_by_one(self._hub.ensure, lot)
            told(len(lot))
        return failed

    def remove(self, students: Collection[int], told: Told) -> dict[int, str]:
        """Remove hub users with their servers, several at a time; those that aren't there are fine.

        Args:
            students: their numbers.
            told: is called for each.

        Returns:
            Why it didn't work, by student.
        """

        def one(student: int) -> str:
            said = self._hub.remove(student)
            told(1)
            return said

        return self._one_by_one(one, sorted(students))

    def _one_by_one(self, work: Callable[[int], str], students: Sequence[int]) -> dict[int, str]:
        failed: dict[int, str] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for student, future in [(student, pool.submit(work, student)) for student in students]:
                try:
                    future.result()
                except WodmailError as error:
                    failed[student] = error.sender
        return failed


def _lots(students: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(students), AT_ONCE):
        yield students[start : start + AT_ONCE]
