"""The client of the root helper, with helpers that die, hang, talk nonsense or are not there."""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import wait_until
from wodmail.errors import Failed, Refused, Temporary
from wodmail.students import helperclient
from wodmail.students.helperclient import HelperAnswer, HelperClient

ECHO = """
import json, os, sys, threading
lives = int(open(sys.argv[1]).read() or 0) if os.path.exists(sys.argv[1]) else 0
open(sys.argv[1], "w").write(str(lives + 1))
for line in iter(sys.stdin.buffer.readline, b""):
    asked = json.loads(line)
    payload = sys.stdin.buffer.read(asked["bytes"])
    op = asked["op"]
    if op == "die" or (op == "die-once" and lives == 0):
        sys.stderr.write("last words\\n")
        os._exit(3)
    if op == "hang":
        continue
    if op == "nonsense":
        sys.stdout.write("what?\\n")
    elif op in ("refused", "temporary", "failed"):
        print(json.dumps({"id": asked["id"], "ok": False, "kind": op, "error": "words", "cause": "why", "bytes": 0}))
    else:
        answer = json.dumps({"id": asked["id"], "ok": True, "lives": lives + 1, "bytes": len(payload)}).encode()
        sys.stdout.buffer.write(answer + b"\\n" + payload[::-1])
    sys.stdout.flush()
"""


@pytest.fixture
def client(tmp_path: Path) -> HelperClient:
    """A client of a helper that does what the operation says."""
    (tmp_path / "echo.py").write_text(ECHO)
    return HelperClient([sys.executable, "-I", str(tmp_path / "echo.py"), str(tmp_path / "lives")], timeout=30)


def test_answers_find_their_requests(client: HelperClient) -> None:
    with ThreadPoolExecutor(16) as pool:
        texts = [f"{number}".encode() * (number * 1000 + 1) for number in range(64)]
        answers = list(pool.map(lambda text: client.call("echo", text), texts))
    assert [answer.payload for answer in answers] == [text[::-1] for text in texts]
    client.close()


@pytest.mark.parametrize(("kind", "error"), [("refused", Refused), ("temporary", Temporary), ("failed", Failed)])
def test_what_the_helper_says_becomes_our_error(client: HelperClient, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="words") as raised:
        client.call(kind)
    assert "why" in getattr(raised.value, "operator", "")
    client.close()


def test_a_helper_that_dies_once_is_not_noticed(client: HelperClient) -> None:
    assert client.call("die-once").fields["lives"] == 2
    client.close()


def test_a_helper_that_always_dies_leaves_its_last_words(client: HelperClient) -> None:
    with pytest.raises(Failed, match="can't be reached") as error:
        client.call("die")
    assert "last words" in error.value.operator
    assert client.call("echo").fields["ok"] is True
    client.close()


def test_nonsense_is_a_dead_helper(client: HelperClient) -> None:
    with pytest.raises(Failed) as error:
        client.call("nonsense")
    assert "what?" in error.value.operator
    client.close()


def test_no_answer_in_time(tmp_path: Path, client: HelperClient) -> None:
    impatient = HelperClient([sys.executable, "-I", str(tmp_path / "echo.py"), str(tmp_path / "lives")], timeout=0.2)
    with pytest.raises(Temporary, match="in time"):
        impatient.call("hang")
    impatient.close()


def test_no_helper_at_all(tmp_path: Path) -> None:
    with pytest.raises(Failed) as error:
        HelperClient([str(tmp_path / "none")], timeout=5).call("ping")
    assert "wodmail helper install" in error.value.operator


def test_one_that_ends_just_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its input is closed by who reads its answers, between the look whether it lives and the request."""
    expect = helperclient._Helper.expect

    def late(helper: helperclient._Helper, number: int) -> Future[HelperAnswer]:
        future = expect(helper, number)
        wait_until(lambda: helper.process.stdin is None or helper.process.stdin.closed, what="its end")
        return future

    monkeypatch.setattr(helperclient._Helper, "expect", late)
    client = HelperClient(["sh", "-c", "sleep 0.2; echo last words >&2; exit 3"], timeout=30)
    with pytest.raises(Failed, match="can't be reached") as error:
        client.call("echo")
    assert "last words" in error.value.operator
