"""Hub users by the thousand: against a scripted hub for its odd answers, and a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.scriptedhub import ScriptedHub, scripted_hub
from tests.hubsite import hub_site
from wodmail.config import Settings
from wodmail.errors import Failed, Temporary
from wodmail.hubroster import HubRoster

TOKEN = "c0ffee-of-the-tests"
CREATED = (201, [{"name": "student1"}])


def model(student: int, **server: object) -> dict[str, object]:
    return {"name": f"student{student}", "servers": {"": server} if server else {}}


@pytest.fixture
def hub() -> Iterator[ScriptedHub]:
    with scripted_hub() as made:
        yield made


@pytest.fixture
def roster(hub: ScriptedHub) -> Iterator[HubRoster]:
    made = HubRoster(Settings(WODBEAPIURL=hub.url, WODBETOKEN=TOKEN, WODHUBPATIENCE=0, WODHUBTIMEOUT=5))
    yield made
    made.close()


def pages(hub: ScriptedHub, *found: object) -> None:
    for number, page in enumerate(found):
        hub.answer(f"GET /users?offset={200 * number}&limit=200", (200, page))


def test_users_come_in_pages(hub: ScriptedHub, roster: HubRoster) -> None:
    pages(hub, [model(student) for student in range(1, 201)], [model(201)])
    hub.answer("GET /users?offset=201&limit=200", (200, []))
    assert roster.users() == dict.fromkeys(range(1, 202), False)


def test_others_users_and_servers(hub: ScriptedHub, roster: HubRoster) -> None:
    odd: list[object] = [
        {"name": name, "servers": {}} for name in ("admin", "student", "student007", "student1x", "xstudent1")
    ]
    found = [*odd, model(1), model(2, ready=True, pending=None), model(3, ready=False, pending="spawn")]
    pages(hub, found)
    hub.answer(f"GET /users?offset={len(found)}&limit=200", (200, []))
    assert roster.users() == {1: False, 2: True, 3: True}


@pytest.mark.parametrize("answer", [(200, {"error": 1}), (200, ["student1"]), (404, {"message": "no"})])
def test_a_list_that_makes_no_sense(hub: ScriptedHub, roster: HubRoster, answer: tuple[int, object]) -> None:
    hub.answer("GET /users?offset=0&limit=200", answer)
    with pytest.raises(Failed, match="list of users can't be read"):
        roster.users()


def test_a_token_that_may_not(hub: ScriptedHub, roster: HubRoster) -> None:
    hub.answer("GET /users?offset=0&limit=200", (403, {"message": "Action is not authorized"}))
    with pytest.raises(Failed, match="WODBETOKEN") as error:
        roster.users()
    assert TOKEN not in error.value.operator


def test_many_are_made_in_a_call(hub: ScriptedHub, roster: HubRoster) -> None:
    hub.answer("POST /users", CREATED, (409, {"message": "All 50 users already exist"}), CREATED)
    told: list[int] = []
    assert roster.make(range(1, 131), told.append) == {}
    assert (hub.asked, told) == (["POST /users"] * 3, [50, 50, 30])


def test_one_that_cannot_be_made_is_found(hub: ScriptedHub, roster: HubRoster) -> None:
    hub.answer("POST /users", (400, {"message": "Failed to create user student2: student2 does not exist"}))
    for student in (1, 3):
        hub.answer(f"POST /users/student{student}", (409, {"message": "exists"}))
    hub.answer("POST /users/student2", (400, {"message": "Failed to create user: student2"}))
    failed = roster.make([1, 2, 3], lambda _: None)
    assert list(failed) == [2] and "The hub user student2 could not be made" in failed[2]


def test_a_hub_that_is_away(hub: ScriptedHub, roster: HubRoster) -> None:
    hub.answer("POST /users", (503, "<html>down</html>"))
    with pytest.raises(Temporary, match="JupyterHub is away"):
        roster.make([1], lambda _: None)


def test_removed_several_at_a_time(hub: ScriptedHub, roster: HubRoster) -> None:
    for student in range(1, 20):
        hub.answer(f"DELETE /users/student{student}", (204, {}))
    hub.answer("DELETE /users/student5", (404, {"message": "no such user"}))
    hub.answer("DELETE /users/student7", (409, {"message": "no"}))
    told: list[int] = []
    failed = roster.remove(range(1, 20), told.append)
    assert list(failed) == [7] and "could not be removed" in failed[7]
    assert sum(told) == 18


DUMMY = """
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.allow_all = True
c.JupyterHub.api_page_max_limit = 20
"""


def test_a_real_hub() -> None:
    with hub_site(DUMMY) as site:
        roster = HubRoster(Settings(**site.keys))
        try:
            assert roster.users() == {}
            assert roster.make(range(1, 56), lambda _: None) == {}
            assert site.api("DELETE", "/users/student7").status_code == 204
            assert sorted(roster.users()) == [student for student in range(1, 56) if student != 7]
            assert roster.make(range(1, 57), lambda _: None) == {}
            assert roster.users() == dict.fromkeys(range(1, 57), False)
            assert roster.remove(range(1, 60), lambda _: None) == {}
            assert roster.users() == {}
        finally:
            roster.close()
