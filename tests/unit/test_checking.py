"""Items of a check out of the tasks of its playbook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from wodmail import checking, checkrun
from wodmail.checking import Item, Verdict, items
from wodmail.errors import Failed, Refused
from wodmail.maintenancetasks import TaskResult, diff, message, read_event, tags_at
from wodmail.schema import Settings

TASKS = """---
- name: Outer
  tags: [item_outer]
  block:
    - name: First
      ansible.builtin.command: "true"
      tags: look
    - name: Second
      ansible.builtin.command: !vault "true"
  rescue:
    - name: Third
      ansible.builtin.debug:
- name: Alone
  ansible.builtin.debug:
"""


def task(status: str, *tags: str, words: str = "", difference: str = "", item: str = "one") -> TaskResult:
    """A task of an item."""
    return TaskResult("here", f"task {status}", "", (f"item_{item}", *tags), status, words, difference)


def verdict(tasks: Sequence[TaskResult], *, check: bool = True) -> Verdict:
    """What one item's tasks come to."""
    (found,) = items(tasks, check=check)
    return found.verdict


@pytest.mark.parametrize(
    ("tasks", "audited", "mended"),
    [
        ([task("ok")], Verdict.OK, Verdict.OK),
        ([task("ok"), task("changed")], Verdict.DIFFERS, Verdict.FIXED),
        ([task("ok", "look"), task("skipped", words="Conditional result was False")], Verdict.OK, Verdict.OK),
        ([task("skipped", words="Conditional result was False")], Verdict.NOT_APPLICABLE, Verdict.NOT_APPLICABLE),
        ([task("skipped"), task("ok", "note", words="remark")], Verdict.NOT_APPLICABLE, Verdict.NOT_APPLICABLE),
        ([task("ok"), task("ok", "na", words="no such thing")], Verdict.NOT_APPLICABLE, Verdict.NOT_APPLICABLE),
        ([task("ok", "look"), task("ok", "differs")], Verdict.DIFFERS, Verdict.DIFFERS),
        ([task("changed"), task("ok", "differs")], Verdict.DIFFERS, Verdict.DIFFERS),
        ([task("changed"), task("failed"), task("ok")], Verdict.FAILED, Verdict.FAILED),
        ([task("unreachable")], Verdict.FAILED, Verdict.FAILED),
        ([task("changed", "look")], Verdict.OK, Verdict.OK),
    ],
)
def test_verdicts(tasks: list[TaskResult], audited: Verdict, mended: Verdict) -> None:
    assert (verdict(tasks), verdict(tasks, check=False)) == (audited, mended)


def test_items_keep_their_order_and_say_what() -> None:
    tasks = [
        task("changed", difference="-a\n+b", item="two"),
        task("failed", words="no\n  room", item="one"),
        task("ok", "note", words="a remark", item="two"),
        TaskResult("here", "of none", "", (), "failed"),
    ]
    assert items(tasks, check=True) == [
        Item("two", Verdict.DIFFERS, ("task changed", "a remark"), "-a\n+b"),
        Item("one", Verdict.FAILED, ("task failed: no room",)),
    ]


def test_tasks_of_a_site_belong_to_one_item() -> None:
    tasks = [
        task("skipped", item="private"),
        TaskResult("here", "theirs", "/srv/private/more/x.yml:3", (), "changed"),
        TaskResult("here", "ours", "/srv/private-not/x.yml:3", (), "changed"),
    ]
    found = items(tasks, check=True, private=Path("/srv/private"))
    assert found == [Item("private", Verdict.DIFFERS, ("theirs",))]


@pytest.mark.parametrize(
    ("verdicts", "played", "status"),
    [
        ([Verdict.OK, Verdict.FIXED, Verdict.NOT_APPLICABLE], 0, 0),
        ([Verdict.OK, Verdict.DIFFERS], 0, 2),
        ([Verdict.DIFFERS, Verdict.FAILED], 0, 1),
        ([Verdict.OK], 2, 1),
        ([], 4, 1),
    ],
)
def test_exit_status(verdicts: list[Verdict], played: int, status: int) -> None:
    assert checking.status([Item(str(at), each) for at, each in enumerate(verdicts)], played) == status


def test_counts_name_every_verdict() -> None:
    assert checking.counts([Item("a", Verdict.OK), Item("b", Verdict.OK)]) == {
        "ok": 2,
        "fixed": 0,
        "differs": 0,
        "not applicable": 0,
        "failed": 0,
    }


def test_tags_of_a_task_and_of_the_blocks_around_it(tmp_path: Path) -> None:
    file = tmp_path / "tasks.yml"
    file.write_text(TASKS)
    lines = {text.strip().removeprefix("- name: "): at for at, text in enumerate(TASKS.splitlines(), 1)}
    found = {name: tags_at(f"{file}:{lines[name]}") for name in ("First", "Second", "Third", "Alone")}
    assert found == {"First": ("item_outer", "look"), "Second": ("item_outer",), "Third": ("item_outer",), "Alone": ()}
    assert tags_at(f"{tmp_path}/absent.yml:3") == tags_at("") == ()


def test_an_event_that_ends_a_task() -> None:
    data = {
        "host": "here",
        "task": "Write",
        "task_path": "/nowhere/x.yml:3",
        "res": {"changed": True, "msg": "word: secret", "diff": {"before": "a\n", "after": "secret\n"}},
    }
    event = {"event": "runner_on_ok", "event_data": data}

    def mask(value: object) -> object:
        return {"changed": True, "msg": "word: ****", "diff": {"before": "a\n", "after": "****\n"}} if value else value

    found = read_event(event, mask)
    assert found is not None
    assert (found.status, found.message, found.name, found.host) == ("changed", "word: ****", "Write", "here")
    assert found.diff.splitlines()[-2:] == ["-a", "+****"]
    assert read_event({"event": "playbook_on_stats"}, mask) is None
    ignored = {"event": "runner_on_failed", "event_data": {"ignore_errors": True, "res": {}}}
    assert (told := read_event(ignored, mask)) is not None
    assert told.status == "ok"


def test_the_message_of_a_loop_names_its_items() -> None:
    results = [
        {"item": "a", "changed": False, "msg": "fine"},
        {"item": {"name": "b"}, "failed": True, "msg": "no room"},
        {"_ansible_item_label": "c", "failed": True, "stderr": "gone\n"},
    ]
    assert message({"msg": "All items completed", "results": results}) == "b: no room\nc: gone"


def test_of_a_program_that_failed_its_own_words_are_told() -> None:
    failed = {"failed": True, "rc": 3, "msg": "non-zero return code", "stderr": "no such seat\n", "stdout": "begun\n"}
    assert message(failed) == "status 3: no such seat"
    assert message({**failed, "stderr": ""}) == "status 3: begun"
    assert message({**failed, "stderr": "", "stdout": "x" * 5000 + "the end"}).endswith("xthe end")
    assert len(message({**failed, "stderr": "x" * 5000})) < 1100
    assert message({**failed, "stderr": "", "stdout": ""}) == "non-zero return code"
    assert message({**failed, "msg": "too low"}) == "too low"
    assert message({"msg": "All items completed", "results": [{**failed, "item": "a"}]}) == "a: status 3: no such seat"


def test_a_run_that_ended_before_its_end_failed_where_it_was() -> None:
    found = [Item("one", Verdict.OK), Item("two", Verdict.DIFFERS, ("x",))]
    text = "TASK [x]\n[ERROR]: no such module\nOrigin: /a.yml:3:3\n\n1 - hosts: all"
    first, last = checking.stopped(found, "two", 4, text)
    assert (first, last.verdict) == (found[0], Verdict.FAILED)
    assert "ended here" in last.what[0] and "[ERROR]: no such module Origin: /a.yml:3:3 (" in last.what[0]
    assert last.what[1:] == ("x",)
    assert "killed (" in checking.stopped(found, "one", 250, "killed\n\n")[0].what[0]
    assert "it says nothing" in checking.stopped(found, "one", -9, "")[0].what[0]
    for status in (0, 2):
        assert checking.stopped(found, "two", status, text) == found
    failed = [Item("one", Verdict.FAILED), *found[1:]]
    assert checking.stopped(failed, "two", 4, text) == failed


def test_differences_of_a_loop_and_in_a_module_s_own_words() -> None:
    prepared = {"diff": {"prepared": "would install: vim\n"}}
    state = {"diff": [{"before": {"mode": "0644"}, "after": {"mode": "0600"}}, {"before": "", "after": ""}]}
    text = diff({"results": [prepared, state]})
    assert text.startswith("would install: vim\n")
    assert text.splitlines()[-2:] == ["-mode: 0644", "+mode: 0600"]


def test_items_of_our_own_playbook_and_those_that_are_none() -> None:
    found = checkrun.listed(Settings())
    assert list(found)[:3] == ["limits", "sysctl", "firewall"]
    assert list(found)[-2:] == ["private", "users"]
    assert all(found.values())
    with pytest.raises(Refused, match=r"no item nonsense; there are limits, sysctl"):
        checkrun.run(Settings(), Path("/etc/wod.yml"), only=["limits", "nonsense"])


def test_a_type_of_machine_without_a_playbook(tmp_path: Path) -> None:
    settings = Settings.model_construct(WODTYPE="strange", WODANSIBLEDIR=tmp_path)
    with pytest.raises(Failed, match=r"no playbook check_strange\.yml"):
        checkrun.listed(settings)
