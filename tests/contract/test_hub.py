"""The hub contract where there is no hub, and where one answers what a test wrote down.

A real JupyterHub runs the same contract in tests/e2e/test_jupyterhub.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.hub_contract import HubContract
from tests.contract.scriptedhub import ScriptedHub, scripted_hub
from tests.support import free_port, wait_until
from wodmail import hub as hubs
from wodmail.errors import Failed, Temporary
from wodmail.hub import Hub, NoHub
from wodmail.hubwire import Outage, api_url
from wodmail.jupyterhub import JupyterHub, Server, server_of
from wodmail.schema import Settings

TOKEN = "t0ken-that-nobody-sees-4711"
USER, SERVER = "/users/student1", "/users/student1/server"


def model(*, ready: bool = False, pending: str | None = None, active: bool = True) -> dict[str, Any]:
    """A user model as JupyterHub gives it; stopped servers are not in it."""
    servers = {"": {"name": "", "ready": ready, "pending": pending}} if active else {}
    return {"kind": "user", "name": "student1", "server": None, "pending": pending, "servers": servers}


STOPPED, RUNNING = model(active=False), model(ready=True)
STARTING, STOPPING = model(pending="spawn"), model(pending="stop")


def refused(message: str) -> tuple[int, object]:
    """A 400 in the hub's form."""
    return 400, {"status": 400, "message": message}


def settings(url: str, **more: Any) -> Settings:
    """A configuration that names a hub; patient, for a busy machine is slow, unless a test has trouble that lasts."""
    return Settings(WODBEAPIURL=url, WODBETOKEN=TOKEN, **{"WODHUBTIMEOUT": 60, "WODHUBPATIENCE": 20, **more})


class TestNoHub(HubContract):
    @pytest.fixture
    def hub(self) -> Hub:
        return hubs.for_settings(Settings())

    def test_says_that_there_is_none(self, hub: Hub) -> None:
        assert isinstance(hub, NoHub)
        assert not hub.enabled
        assert "no hub" in hub.start(7)


@pytest.fixture
def site() -> Iterator[ScriptedHub]:
    with scripted_hub() as scripted:
        scripted.answer(f"POST {USER}", (201, {}), (409, {"message": "User student1 already exists"}))
        yield scripted


@pytest.fixture
def jupyter(site: ScriptedHub) -> Iterator[Hub]:
    hub = hubs.for_settings(settings(site.url))
    yield hub
    hub.close()


class TestScripted(HubContract):
    @pytest.fixture
    def hub(self, site: ScriptedHub, jupyter: Hub) -> Hub:
        site.answer(f"POST {SERVER}", (201, ""), refused("student1 is already running"))
        site.answer(f"GET {USER}", (200, RUNNING))
        site.answer(f"DELETE {SERVER}", (204, ""))
        site.answer(f"DELETE {USER}", (204, ""), (404, {"message": "Not Found"}))
        assert isinstance(jupyter, JupyterHub)
        return jupyter


# -- start -------------------------------------------------------------------------------------------------------------


def test_start_makes_the_user_first_and_sends_the_token(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", (201, ""))
    assert jupyter.start(1) == "started"
    assert site.asked == [f"POST {USER}", f"POST {SERVER}"]
    assert site.tokens == {f"token {TOKEN}"}


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_path_prefix(slash: str) -> None:
    with scripted_hub("/jupyter") as site:
        site.answer(f"POST {USER}", (201, {}))
        assert JupyterHub(settings(site.url + slash)).ensure(1) == "user made"


@pytest.mark.parametrize("written", ["http://h:8000", "http://h:8000/", "http://h:8000/hub/api/", "http://h:8000/hub"])
def test_forms_of_the_url(written: str) -> None:
    assert api_url(written) == "http://h:8000/hub/api"


def test_pending_is_waited_for(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", (202, ""))
    site.answer(f"GET {USER}", (200, STARTING), (200, STARTING), (200, RUNNING))
    assert jupyter.start(1) == "started"
    assert site.asked.count(f"GET {USER}") == 3


def test_pending_that_ends_stopped_fails_with_the_hubs_words(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", (202, ""))
    site.answer(f"GET {USER}", (200, STARTING), (200, STOPPED))
    event = '{"progress": 100, "failed": true, "message": "Spawn failed: no space left in the home"}'
    site.answer(f"GET {SERVER}/progress", (200, f"\n\ndata: {event}\n\n", {"content-type": "text/event-stream"}))
    with pytest.raises(Failed, match=r"student1 did not start.*no space left in the home"):
        jupyter.start(1)


def test_without_words_of_the_hub(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", (202, ""))
    site.answer(f"GET {USER}", (200, STOPPED))
    site.answer(f"GET {SERVER}/progress", None)
    with pytest.raises(Failed, match=r"did not start.*it gave no reason"):
        jupyter.start(1)


def test_a_failure_at_once_is_tried_once_more(site: ScriptedHub, jupyter: Hub) -> None:
    failure = (500, {"status": 500, "message": "Spawner failed to start [status=1]"})
    site.answer(f"POST {SERVER}", failure, (201, ""))
    assert jupyter.start(1) == "started"
    site.answer(f"POST {SERVER}", failure)
    with pytest.raises(Failed, match=r"Spawner failed to start \[status=1\]"):
        jupyter.start(1)
    assert site.asked.count(f"POST {SERVER}") == 4


def test_pending_for_ever(site: ScriptedHub) -> None:
    site.answer(f"POST {SERVER}", (202, ""))
    site.answer(f"GET {USER}", (200, STARTING))
    with pytest.raises(Failed, match=r"spawn is still pending after 0.3 s \(WODHUBTIMEOUT\)"):
        JupyterHub(settings(site.url, WODHUBTIMEOUT=0.3)).start(1)


def test_400_is_already_running(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", refused("student1 is already running"))
    site.answer(f"GET {USER}", (200, RUNNING))
    assert jupyter.start(1) == "already running"
    assert site.asked.count(f"POST {SERVER}") == 1


def test_400_is_pending_stop_then_the_start_is_repeated(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", refused("student1 is pending stop"), refused("student1 is pending stop"), (201, ""))
    site.answer(f"GET {USER}", (200, STOPPING), (200, STOPPING), (200, STOPPED), (200, STOPPING), (200, STOPPED))
    assert jupyter.start(1) == "started"
    assert site.asked.count(f"POST {SERVER}") == 3


def test_400_while_another_start_is_pending(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", refused("student1 is pending spawn"))
    site.answer(f"GET {USER}", (200, STARTING), (200, RUNNING))
    assert jupyter.start(1) == "started"


def test_400_that_the_model_does_not_explain(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", refused("user_options must be an object"))
    site.answer(f"GET {USER}", (200, STOPPED))
    with pytest.raises(Failed, match=r"did not start.*user_options must be an object"):
        jupyter.start(1)
    assert site.asked.count(f"POST {SERVER}") == 3


# -- stop and remove ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "models", "told"),
    [
        (204, [], "stopped"),
        (404, [], "no such user"),
        (400, [STOPPED], "was not running"),
        (202, [STOPPING, STOPPED], "stopped"),
    ],
)
def test_stop(site: ScriptedHub, jupyter: Hub, status: int, models: list[dict[str, Any]], told: str) -> None:
    site.answer(f"DELETE {SERVER}", (status, {"message": "said"}))
    site.answer(f"GET {USER}", *((200, each) for each in models))
    assert jupyter.stop(1) == told
    assert site.asked.count(f"GET {USER}") == len(models)


def test_a_server_that_the_student_starts_again_is_stopped_again(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"DELETE {SERVER}", (202, ""), (204, ""))
    site.answer(f"GET {USER}", (200, STOPPING), (200, STARTING), (200, RUNNING))
    assert jupyter.stop(1) == "stopped"
    assert site.asked.count(f"DELETE {SERVER}") == 2


def test_a_server_that_does_not_stop(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"DELETE {SERVER}", (202, ""))
    site.answer(f"GET {USER}", (200, RUNNING))
    with pytest.raises(Failed, match="The server of student1 could not be stopped: JupyterHub answers 202"):
        jupyter.stop(1)


def test_remove_waits_for_a_server_that_is_stopping(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"DELETE {USER}", refused("student1's server is in the process of stopping"), (204, ""))
    site.answer(f"GET {USER}", (200, STOPPING), (200, STOPPED))
    assert jupyter.remove(1) == "user removed"


# -- away, busy, refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [None, (503, "<html>proxy"), (404, "Not Found"), (500, {"message": "Internal Server Error"})]
)
def test_trouble_for_a_moment_is_repeated(site: ScriptedHub, jupyter: Hub, trouble: Any) -> None:
    site.answer(f"POST {USER}", trouble, (201, {}))
    assert jupyter.ensure(1) == "user made"


def test_too_many_requests(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {SERVER}", (429, {"message": "Too many users"}, {"Retry-After": "1"}), (201, ""))
    began = time.monotonic()
    assert jupyter.start(1) == "started"
    assert time.monotonic() - began >= 1, "as long as the hub asked"


def test_too_many_requests_for_too_long(site: ScriptedHub) -> None:
    site.answer(f"POST {SERVER}", (429, {"message": "Active user limit exceeded."}))
    with pytest.raises(Temporary, match=r"too busy, for 0.5 s now: Active user limit exceeded"):
        JupyterHub(settings(site.url, WODHUBTIMEOUT=0.5)).start(1)


def test_a_hub_that_is_away() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    hub = JupyterHub(settings(url, WODHUBPATIENCE=0.6))
    with pytest.raises(Temporary, match=f"JupyterHub is away.*Connection refused.*check WODBEAPIURL .{url}") as caught:
        hub.start(1)
    assert "tries: 1)" not in caught.value.operator
    with pytest.raises(Temporary) as later:
        hub.stop(2)
    assert "tries: 1)" in later.value.operator, "only the first call waits out the patience"


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_not_accepted(site: ScriptedHub, jupyter: Hub, status: int) -> None:
    site.answer(f"POST {USER}", (status, {"status": status, "message": f"no scope for {TOKEN}"}))
    with pytest.raises(Failed, match=f"{status} no scope for .*check WODBETOKEN") as caught:
        jupyter.start(1)
    assert TOKEN not in f"{caught.value.sender} {caught.value.operator} {caught.value!r}"
    assert len(site.asked) == 1, "asking again would not help"


@pytest.mark.parametrize(
    "answer",
    [
        (302, "", {"location": "https://elsewhere.example.org/"}),
        (200, {"no": "user"}),
        (200, "<html>welcome</html>"),
    ],
)
def test_something_else_answers(site: ScriptedHub, jupyter: Hub, answer: Any) -> None:
    site.answer(f"POST {USER}", (409, {}))
    site.answer(f"POST {SERVER}", refused("x"))
    site.answer(f"GET {USER}", answer)
    with pytest.raises(Failed, match=r"WODBEAPIURL|read:servers"):
        jupyter.start(1)


def test_a_page_in_place_of_the_hub(site: ScriptedHub) -> None:
    jupyter = JupyterHub(settings(site.url, WODHUBPATIENCE=0.6))
    site.answer(f"POST {USER}", (404, "<html>nginx</html>"))
    with pytest.raises(Temporary, match=r"404 <html>nginx.*check WODBEAPIURL .* and that the hub runs"):
        jupyter.ensure(1)


def test_another_4xx_fails_with_the_hubs_words(site: ScriptedHub, jupyter: Hub) -> None:
    site.answer(f"POST {USER}", (405, {"message": "Method not allowed"}))
    with pytest.raises(Failed, match="POST /users/student1: 405 Method not allowed"):
        jupyter.ensure(1)


def test_a_token_that_can_be_none_is_not_shown() -> None:
    with pytest.raises(Failed, match="WODBETOKEN is no token") as caught:
        JupyterHub(settings("http://127.0.0.1:1").model_copy(update={"WODBETOKEN": f"{TOKEN}\n"}))
    assert TOKEN not in str(caught.value)


def test_close_ends_waiting_at_once(site: ScriptedHub) -> None:
    site.answer(f"POST {SERVER}", (202, ""))
    site.answer(f"GET {USER}", (200, STARTING))
    hub = JupyterHub(settings(site.url, WODHUBTIMEOUT=60))
    said: list[Temporary] = []

    def start() -> None:
        with pytest.raises(Temporary) as caught:
            hub.start(1)
        said.append(caught.value)

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(lambda: site.asked.count(f"GET {USER}") > 1, what="polling")
    hub.close()
    thread.join(60)
    assert [type(error) for error in said] == [Temporary]


def test_many_threads_wait_side_by_side(site: ScriptedHub, jupyter: Hub) -> None:
    together = threading.Barrier(10)
    notes: list[str] = []
    for student in range(1, 11):
        site.answer(f"POST /users/student{student}", (201, {}))
        site.answer(f"POST /users/student{student}/server", (202, ""))
        site.answer(f"GET /users/student{student}", (200, STARTING), (200, STARTING), (200, RUNNING))

    def start(student: int) -> None:
        together.wait(60)
        notes.append(jupyter.start(student))

    threads = [threading.Thread(target=start, args=(student,)) for student in range(1, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert notes == ["started"] * 10


# -- pure --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "server"),
    [
        (RUNNING, Server(running=True)),
        (STOPPED, Server(running=False)),
        (STARTING, Server(running=False, pending="spawn")),
        ({"servers": {"other": {"ready": True}}}, Server(running=False)),
        ({"server": "/user/student1/", "pending": None}, Server(running=True)),
        ({"server": None, "pending": "stop"}, Server(running=False, pending="stop")),
    ],
)
def test_user_models(given: dict[str, Any], server: Server) -> None:
    assert server_of(given) == server


def test_a_model_without_servers_names_the_scope() -> None:
    with pytest.raises(Failed, match="read:servers"):
        server_of({"name": "student1"})


def test_an_outage_is_one_for_all_calls() -> None:
    outage = Outage(30)
    assert outage.found_away(100) == (30, True)
    assert outage.found_away(110) == (20, False)
    assert outage.found_away(140) == (0, False)
    assert outage.found_well()
    assert not outage.found_well()
    assert outage.found_away(150) == (30, True)
    assert outage.found_away(300) == (30, True), "what was long ago is another outage"
