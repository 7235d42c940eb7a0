"""The mails that go out: what they say, and what can't be smuggled into them."""

from __future__ import annotations

import email
import email.policy
import json
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wodmail.config import Settings
from wodmail.errors import Refused
from wodmail.mail import message, reply
from wodmail.mail.reply import CredentialsData, JobReport, PlanStep, ReplyData, StepReport
from wodmail.model import State

AT = datetime(2026, 3, 3, 9, 8, 35, tzinfo=UTC)
SETTINGS = Settings(WODBEFQDN="backend.example.org", WODMONITOR="ops@example.org")
SHOWING = SETTINGS.model_copy(update={"WODREPLYCREDENTIALS": True})
STEPS = (
    StepReport("validate", State.DONE, 0.04),
    StepReport("copy-folder", State.DONE, 1.26, "16 files, 3 expanded"),
    StepReport("create-script", State.FAILED, 3.2, error="create-WKSHP-API101.sh ended with status 3"),
    StepReport("post-copy-script", State.SKIPPED),
)
FAILED = JobReport(
    (121,), State.FAILED, STEPS, ("student 121 is outside of 1 to 6",), "a line\nthe last\x1b[0m line", "werty123"
)
DONE = JobReport((122,), State.DONE, STEPS[:2], password="qwert456")
DATA = ReplyData(
    request=17,
    to="person@example.org",
    subject="CREATE 121 0",
    action="CREATE",
    state=State.FAILED,
    received=AT,
    finished=AT.replace(minute=9),
    students=(121,),
    workshop="WKSHP-API101",
    number=0,
    number_note="NUMBER 0 was read as a count: student 121",
    jobs=(FAILED,),
    in_reply_to="<two@example.org>",
    references="<one@example.org>",
)
HEADERS = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-WOD-Loop", "X-Auto-Response-Suppress"}
MIME = {"MIME-Version", "Content-Type", "Content-Transfer-Encoding"}


def received(mail: EmailMessage) -> EmailMessage:
    """The mail as somebody who gets it reads it."""
    again = email.message_from_bytes(mail.as_bytes(), policy=email.policy.default)
    assert isinstance(again, EmailMessage)
    return again


def text_of(mail: EmailMessage) -> str:
    body = received(mail).get_body(("plain",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def document_of(mail: EmailMessage) -> dict[str, Any]:
    (attachment,) = received(mail).iter_attachments()
    assert attachment.get_filename() == "result.json"
    return dict(json.loads(attachment.get_content()))


def test_a_failed_result() -> None:
    mail = received(reply.render_result(SETTINGS, DATA))
    assert mail["Subject"] == "Re: CREATE 121 0: FAILED at step create-script"
    assert mail["To"] == "person@example.org"
    assert mail["Auto-Submitted"] == "auto-replied"
    assert mail["In-Reply-To"] == "<two@example.org>"
    assert mail["References"] == "<one@example.org> <two@example.org>"
    lines = text_of(mail).splitlines()
    assert "  validate          done        0.0 s" in lines
    assert "  copy-folder       done        1.3 s  16 files, 3 expanded" in lines
    assert "  create-script     failed      3.2 s" in lines
    assert "    create-WKSHP-API101.sh ended with status 3" in lines
    assert "  post-copy-script  skipped" in lines
    assert "NUMBER 0 was read as a count: student 121." in lines
    assert "  Warning: student 121 is outside of 1 to 6" in lines
    assert "    | the last\\x1b[0m line" in lines
    assert any(line.startswith("What to do next: `wodmail show 17`") for line in lines)


def test_a_result_as_data() -> None:
    document = document_of(reply.render_result(SETTINGS, DATA))
    assert document["version"] == 1
    assert document["id"] == 17
    assert document["state"] == "failed"
    assert document["received"] == "2026-03-03T09:08:35Z"
    assert document == reply.result_json(DATA, credentials=False)
    (job,) = document["jobs"]
    assert job["student"] == 121
    assert job["steps"][1] == {
        "name": "copy-folder",
        "state": "done",
        "seconds": 1.26,
        "note": "16 files, 3 expanded",
        "error": "",
    }


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        (replace(DATA, state=State.DONE, jobs=(DONE,)), "Re: CREATE 121 0: done"),
        (replace(DATA, jobs=(FAILED, DONE)), "Re: CREATE 121 0: FAILED at step create-script (1 of 2 students)"),
        (replace(DATA, state=State.REFUSED, reason="seat taken\nmore"), "Re: CREATE 121 0: refused: seat taken"),
        (replace(DATA, state=State.ABORTED), "Re: CREATE 121 0: ABORTED"),
        (replace(DATA, state=State.SHELVED), "Re: CREATE 121 0: SHELVED"),
        (replace(DATA, jobs=()), "Re: CREATE 121 0: FAILED"),
    ],
)
def test_subjects_of_results(data: ReplyData, subject: str) -> None:
    assert received(reply.render_result(SETTINGS, data))["Subject"] == subject


def test_passwords_show_only_where_they_may() -> None:
    data = replace(DATA, jobs=(FAILED, DONE))
    shown, hidden = reply.render_result(SHOWING, data), reply.render_result(SETTINGS, data)
    assert "password of student122: qwert456" in text_of(shown)
    assert "qwert456" in json.dumps(document_of(shown))
    assert "werty123" not in text_of(hidden)
    assert "password" not in json.dumps(document_of(hidden))
    assert "werty123" not in repr(data)


def test_the_same_request_gives_the_same_message_id() -> None:
    first, again = reply.render_result(SETTINGS, DATA), reply.render_result(SETTINGS, replace(DATA, state=State.DONE))
    assert first["Message-ID"] == again["Message-ID"]
    others = [
        reply.render_result(SETTINGS, replace(DATA, request=18)),
        reply.render_result(SETTINGS, replace(DATA, turn=2)),
        reply.render_result(SETTINGS, replace(DATA, received=AT.replace(year=2027))),
        reply.render_refusal(SETTINGS, DATA),
        reply.render_duplicate(SETTINGS, DATA, 3),
    ]
    assert len({mail["Message-ID"] for mail in [first, *others]}) == 6


def test_a_refusal_says_why() -> None:
    data = replace(DATA, state=State.REFUSED, subject="Re: hello", reason="It is none.\nA correct subject: CREATE 1 0")
    mail = reply.render_refusal(SETTINGS, data)
    assert mail["Subject"] == "Re: Re: hello: refused: It is none."
    assert "Nothing was changed." in text_of(mail)
    assert "A correct subject: CREATE 1 0" in text_of(mail)


def test_a_duplicate_names_the_first() -> None:
    mail = reply.render_duplicate(SETTINGS, replace(DATA, state=State.DUPLICATE), 3)
    assert mail["Subject"] == "Re: CREATE 121 0: already in hand as request 3"
    assert "wodmail show 3" in text_of(mail)


def test_ping_and_plan() -> None:
    ping = reply.render_ping(SETTINGS, replace(DATA, subject="PING you"), {"Version": "0.1.0", "Jobs running": 2})
    assert ping["Subject"] == "Re: PING you: pong"
    assert "Jobs running: 2" in text_of(ping)
    steps = [PlanStep("validate"), PlanStep("create-script", ("bash create-WKSHP-API101.sh",))]
    plan = reply.render_plan(SETTINGS, replace(DATA, subject="PLAN CREATE 121,122"), [((121,), steps), ((122,), steps)])
    assert plan["Subject"] == "Re: PLAN CREATE 121,122: the plan; nothing was changed"
    assert "student 122:\n  1. validate\n  2. create-script\n       bash create-WKSHP-API101.sh\n" in text_of(plan)


def test_a_budget_notice_says_until_when() -> None:
    mail = reply.render_budget_notice(SETTINGS, DATA, AT.replace(hour=10))
    assert "Until 2026-03-03T10:08:35Z" in text_of(mail)
    assert "20 refusals" in text_of(mail)


def test_credentials_go_to_the_participant() -> None:
    data = CredentialsData(
        17, "user@example.org", 121, "student121", "werty123", "WKSHP-API101", AT, AT, "https://hub.example.org"
    )
    mail = reply.render_credentials(SETTINGS, data)
    assert mail["To"] == "user@example.org"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "User name: student121\nPassword:  werty123\n" in text_of(mail)
    assert "werty123" not in repr(data)
    for bad in ("user@example.org\r\nBcc: all@example.org", "a@b,c@d", ""):
        with pytest.raises(Refused, match="no plain e-mail address"):
            reply.render_credentials(SETTINGS, replace(data, email=bad))


def test_what_we_send_is_never_answered_by_us() -> None:
    for mail in (reply.render_result(SETTINGS, DATA), reply.render_ping(SETTINGS, DATA, {})):
        assert not reply.should_reply(message.read(mail.as_bytes()), "person@example.org")


def test_plain_text_stays_searchable() -> None:
    data = replace(DATA, reason="word " * 60)
    assert ("word " * 60).strip().encode() in reply.render_result(SETTINGS, data).as_bytes()


NASTY = st.text() | st.lists(
    st.sampled_from(
        [
            "\r\nBcc: x@y",
            "\n\n",
            "=?utf-8?q?=0D=0ABcc:_x=40y?=",
            "=?utf-8?b?Cg==?=",
            "é",
            "{{ 7*7 }}",
            "<b>",
            " ",
            "\ud800",
        ]
    )
).map("".join)


@given(NASTY, NASTY, NASTY, NASTY)
def test_nothing_can_be_smuggled_into_a_mail(subject: str, address: str, identity: str, output: str) -> None:
    job = replace(FAILED, output=output, warnings=(output,))
    settings = SETTINGS.model_copy(update={"WODBEFQDN": identity, "WODUSER": address})
    data = replace(
        DATA,
        subject=subject,
        to=address,
        in_reply_to=f"<{identity}>",
        references=f"<{identity}>",
        reason=output,
        jobs=(job,),
    )
    for mail in (reply.render_result(settings, data), reply.render_refusal(settings, data)):
        seen = received(mail)
        assert set(seen.keys()) <= HEADERS | MIME | {"In-Reply-To", "References"}
        assert len(seen.keys()) == len(set(seen.keys()))
        assert mail.as_bytes().isascii()


def test_a_subject_is_never_a_template() -> None:
    mail = reply.render_refusal(SETTINGS, replace(DATA, subject="{{ 7*7 }} <b>", reason="{% raw %}"))
    assert "Subject: {{ 7*7 }} <b>\n" in text_of(mail)
    assert "{% raw %}" in text_of(mail)
