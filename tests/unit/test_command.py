"""Subjects: what is a command, what it means, and how a refusal is worded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wodmail.config import Settings
from wodmail.errors import Refused
from wodmail.mail.command import (
    Broken,
    Command,
    Limits,
    interpret,
    is_address,
    parse,
    reading,
    render,
    repair,
    visible,
)
from wodmail.model import Action

LIMITS = Limits(user_min=1, user_max=2000, max_count=100)
WITH_STUDENT = [action for action in Action if action is not Action.PING]


def read(subject: str) -> Command:
    parsed = parse(subject, limits=LIMITS)
    assert isinstance(parsed, Command)
    return parsed


def why_refused(subject: str, reading_: str = "count") -> str:
    with pytest.raises(Refused) as refused:
        interpret(read(subject), "participant" if reading_ == "participant" else "count", LIMITS)
    return refused.value.sender


@st.composite
def commands(draw: st.DrawFn) -> Command:
    action = draw(st.sampled_from(list(Action)))
    if action is Action.PING:
        words = draw(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), max_size=5))
        return Command(action=action, text=" ".join(words))
    first = draw(st.integers(1, 2000))
    most = 2000 if action is Action.RESET else min(2000, first + 99)
    last = None if action is Action.PURGE else draw(st.none() | st.integers(first, most))
    number = draw(st.none() | st.integers(0, 2**31 - 1))
    email = draw(st.none() | st.sampled_from(["user@example.org", "a.b+c@x.example", "o'neil@localhost"]))
    plan = draw(st.booleans())
    return Command(action, plan, first, last, number if email is None else number or 0, email)


@given(commands())
def test_rendering_and_parsing_are_inverse(command: Command) -> None:
    assert parse(render(command), limits=LIMITS) == command


@given(
    st.text()
    | st.lists(st.sampled_from(["PLAN", "CREATE", "reset", "1", "2,9", "0", "[object Promise]", "é"])).map(" ".join)
)
def test_any_text_is_a_command_or_refused(subject: str) -> None:
    try:
        command = parse(subject, limits=LIMITS)
    except Refused as refused:
        assert visible(subject) in refused.sender
        assert "A correct subject: " in refused.sender
        return
    assert command.action in Action


@given(commands(), st.sampled_from(["count", "participant"]))
def test_any_command_has_a_meaning_or_is_refused(command: Command, how: str) -> None:
    try:
        meaning = interpret(command, "count" if how == "count" else "participant", LIMITS)
    except Refused as refused:
        assert visible(render(command)) in refused.sender
        return
    assert list(meaning.students) == sorted(set(meaning.students))
    assert all(1 <= student <= 2000 for student in meaning.students)
    assert meaning.participant == (0 if how == "count" else command.number or 0)


@pytest.mark.parametrize("action", WITH_STUDENT)
def test_every_example_that_a_refusal_shows_is_correct(action: Action) -> None:
    with pytest.raises(Refused) as refused:
        parse(f"{action} nobody", limits=LIMITS)
    example = refused.value.sender.rpartition("A correct subject: ")[2]
    assert read(example).action is action


def test_blanks_and_letter_case_do_not_count() -> None:
    assert read("  cReAtE   121\t 0 ") == Command(action=Action.CREATE, first=121, number=0)


def test_a_leading_zero_and_an_unknown_verb_are_answered() -> None:
    for subject, words in (("CREATE 0121 0", "leading zero"), ("CRAETE 121 0", "did you mean CREATE?")):
        with pytest.raises(Refused) as refused:
            parse(subject, limits=LIMITS)
        assert words in refused.value.sender
        assert f'"{subject}"' in refused.value.sender


def test_an_arithmetic_expression_is_only_text(tmp_path: object) -> None:
    for subject in (f"CREATE a[$(touch {tmp_path}/x)] 0", f"CREATE 1 a[$(touch>{tmp_path}/x)]"):
        with pytest.raises(Refused) as refused:
            parse(subject, limits=LIMITS)
        assert "Nothing was changed" in refused.value.sender


def test_a_long_subject_is_quoted_cut() -> None:
    with pytest.raises(Refused) as refused:
        parse("CREATE " + "1" * 10_240, limits=LIMITS)
    assert len(refused.value.sender) < 400
    assert "10247 characters" in refused.value.sender


def test_numbers_as_counts() -> None:
    assert interpret(read("CREATE 121"), "count", LIMITS).students == (121,)
    assert interpret(read("CREATE 121 0"), "count", LIMITS).students == (121,)
    assert interpret(read("CREATE 121 1"), "count", LIMITS).students == (121,)
    several = interpret(read("CREATE 121 3"), "count", LIMITS)
    assert several.students == (121, 122, 123)
    assert several.note == "NUMBER 3 was read as a count: students 121 to 123"
    assert several.participant == 0


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("CREATE 121 101", "100 at most"),
        ("CREATE 1999 3", "student 2001 is not between 1 and 2000"),
        ("RESET 1 2", "write a range instead"),
        ("PURGE 1 2", "PURGE takes none"),
        ("CREATE 1,3 2", "a range has its own"),
        ("CREATE 1 2 a@example.org", "an EMAIL belongs to one student"),
        ("CREATE 1,2 0 a@example.org", "not to a range"),
    ],
)
def test_counts_that_make_no_sense(subject: str, words: str) -> None:
    assert words in why_refused(subject)


def test_numbers_as_participants() -> None:
    one = interpret(read("CREATE 12 57 user@example.org"), "participant", LIMITS)
    assert (one.students, one.participant) == ((12,), 57)
    assert one.note == "NUMBER 57 was read as the participant's id"
    assert interpret(read("CREATE 12 0"), "participant", LIMITS).participant == 0
    assert interpret(read("CREATE 1,3"), "participant", LIMITS).students == (1, 2, 3)
    assert interpret(read("RESET 1,40 825"), "participant", LIMITS).participant == 825
    assert "one participant can't have students 1 to 3" in why_refused("CREATE 1,3 57", "participant")


def test_a_reset_of_a_range_is_one_job_without_a_limit() -> None:
    whole = interpret(read("RESET 1,2000"), "count", LIMITS)
    assert whole.one_job
    assert len(whole.students) == 2000
    assert not interpret(read("CREATE 1,3"), "count", LIMITS).one_job


def test_the_stock_frontends_broken_subject_is_repaired() -> None:
    broken = parse("RESET [object Promise] 825", limits=LIMITS)
    assert broken == Broken(Action.RESET, 825)
    asked: list[int] = []

    def student_of(participant: int) -> int:
        asked.append(participant)
        return 12

    command, note = repair(broken, student_of, "participant", LIMITS)
    assert command == Command(action=Action.RESET, first=12, number=825)
    assert asked == [825]
    assert "participant 825 has student 12" in note


def test_a_broken_subject_without_participants_is_refused() -> None:
    with pytest.raises(Refused, match="object Promise"):
        repair(Broken(Action.PURGE, 825), lambda _: 12, "count", LIMITS)
    with pytest.raises(Refused, match="student 4000, which is not between"):
        repair(Broken(Action.PURGE, 825), lambda _: 4000, "participant", LIMITS)


def test_how_number_is_read_follows_the_configuration() -> None:
    assert reading(Settings()) == "count"
    assert reading(Settings(WODAPIDBEXTURL="https://api.example.org/api")) == "participant"
    assert reading(Settings(WODAPIDBEXTURL="https://api.example.org/api", WODSUBJECTNUMBER="count")) == "count"
    assert reading(Settings(WODSUBJECTNUMBER="participant")) == "participant"


@pytest.mark.parametrize("address", ["a@example.org", "a.b-c+d@sub.example.org", "root@localhost", "1@2.example"])
def test_addresses(address: str) -> None:
    assert is_address(address)


@pytest.mark.parametrize(
    "address",
    [
        *[
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            ".a@b",
            "a..b@c",
            "a@-b",
            "a@b-",
            "a@b..c",
            "a b@c",
            "a@b\n",
            "<a@b>",
            "a@b,c@d",
        ],
        *['"a"@b', "é@b", "a@é", "=?x@b", "a" * 65 + "@b", "a@" + "b" * 64, "a@" + "b." * 130 + "c"],
    ],
)
def test_no_addresses(address: str) -> None:
    assert not is_address(address)


def test_visible_text_is_one_printable_line() -> None:
    assert visible("a\r\nb\x1b[1m\u202e\ud800") == "a\\r\\nb\\x1b[1m\\u202e\\ud800"
    assert visible("é ü 漢") == "é ü 漢"
