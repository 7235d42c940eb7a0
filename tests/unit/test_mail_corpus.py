"""Every mail of the corpus is read as its expectation says; the hostile ones run nothing and are told why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wodmail.errors import Refused
from wodmail.mail import command, message
from wodmail.mail.reply import should_reply

MAILS = Path(__file__).parent.parent / "data" / "mails"
NAMES = sorted(str(path.relative_to(MAILS))[:-4] for path in MAILS.rglob("*.eml"))
LIMITS = command.Limits(user_min=1, user_max=2000, max_count=100)


def expectation(name: str) -> dict[str, Any]:
    return json.loads((MAILS / f"{name}.json").read_text(encoding="utf-8"))


def test_corpus_is_there() -> None:
    assert len([name for name in NAMES if name.startswith("hostile")]) >= 40
    assert len(NAMES) >= 65


@pytest.mark.parametrize("name", NAMES)
def test_mail(name: str) -> None:
    expected = expectation(name)
    mail = message.read((MAILS / f"{name}.eml").read_bytes())
    if "reply" in expected:
        assert should_reply(mail, "wodadmin@example.org") is expected["reply"]
    if "refused" in expected:
        with pytest.raises(Refused) as refused:
            command.parse(mail.subject, limits=LIMITS)
        assert expected["refused"] in refused.value.sender
        assert "A correct subject: " in refused.value.sender
        return
    parsed = command.parse(mail.subject, limits=LIMITS)
    if isinstance(parsed, command.Broken):
        assert [parsed.action, parsed.number] == expected["broken"]
    else:
        assert command.render(parsed) == expected["command"]
    if "workshop_refused" in expected:
        with pytest.raises(Refused) as refused:
            message.workshop(mail.workshop_line, parsed.action)
        assert expected["workshop_refused"] in refused.value.sender
    else:
        assert message.workshop(mail.workshop_line, parsed.action) == expected["workshop"]
