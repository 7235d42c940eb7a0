"""The grammar of a subject: how docs/mail.md's words become a command, and how a refusal is worded. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from typing import NoReturn

from wodmail.config import Settings
from wodmail.errors import Refused
from wodmail.model import Action, Command

MAX_SUBJECT = 998  # RFC 5322 section 2.1.1: no line is longer, and no command comes near
MAX_NUMBER = 2**31 - 1  # the participant is a row number, an INTEGER in every database that keeps one
QUOTED = 120
_BLANKS = re.compile(r"[ \t]+")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_BROKEN_STUDENT = ["[object", "Promise]"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What student numbers and counts may be.

    Args:
        user_min: the smallest student number (WODUSERMIN).
        user_max: the largest student number (WODUSERMAX).
        max_count: most students of one request (WODMAXCOUNT); RESET over a range knows no such limit.
    """

    user_min: int
    user_max: int
    max_count: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits that the configuration sets."""
        return cls(settings.WODUSERMIN, settings.WODUSERMAX, settings.WODMAXCOUNT)


@dataclass(frozen=True, slots=True)
class Broken:
    """A stock frontend's RESET or PURGE with `[object Promise]` where the student belongs; see `repair`.

    Args:
        action: RESET or PURGE.
        number: the participant, above 0.
    """

    action: Action
    number: int


def visible(text: str, limit: int = QUOTED) -> str:
    """The text on one line, cut, with everything that does not print written as an escape.

    Args:
        text: anything, also with line breaks, terminal codes or lone surrogates.
        limit: how many characters of it are kept.
    """
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text[:limit]
    )
    return shown if len(text) <= limit else f"{shown}… ({len(text)} characters in all)"


def is_address(text: str) -> bool:
    """Whether the text is one plain e-mail address: an RFC 5321 dot-string at a host name, ASCII, up to 254 long."""
    if "=?" in text:  # would be read as an encoded word in a header
        return False
    return len(text) <= 254 and len(text.partition("@")[0]) <= 64 and _ADDRESS.fullmatch(text) is not None


def parse(subject: str, *, limits: Limits) -> Command | Broken:
    """Read a subject.

    Args:
        subject: the decoded and unfolded subject; any text.
        limits: which student numbers exist and how many one request may name.

    Returns:
        The command as written; `Broken` for the stock frontend's `[object Promise]`.

    Raises:
        Refused: the subject is no command. Quotes it, says what is wrong and shows a correct example.
    """
    return _Parser(subject, limits).parse()


def render(command: Command) -> str:
    """The command as a canonical subject; `parse` gives the same command back."""
    if command.first is None:
        return f"{command.action} {command.text}".rstrip()
    words = [str(command.action), str(command.first)]
    if command.plan:
        words.insert(0, "PLAN")
    if command.last is not None:
        words[-1] += f",{command.last}"
    if command.number is not None or command.email is not None:
        words.append(str(command.number or 0))
    if command.email is not None:
        words.append(command.email)
    return " ".join(words)


def outside(limits: Limits) -> str:
    """The words for a student number beyond the limits."""
    return f"not between {limits.user_min} and {limits.user_max}"


def _example(action: Action | None, limits: Limits) -> str:
    first = limits.user_min
    if action is Action.PING:
        return "PING"
    if action is Action.RESET:
        return f"RESET {first},{min(first + 9, limits.user_max)}"
    return f"{action or Action.CREATE} {first} 0"


def refuse(subject: str, what: str, action: Action | None, limits: Limits) -> NoReturn:
    """Refuse a subject.

    Args:
        subject: the subject; quoted cut and made visible.
        what: what is wrong with it.
        action: the action when it is known; the example shows that one.
        limits: see `Limits`.

    Raises:
        Refused: always.
    """
    raise Refused(
        f'The subject "{visible(subject)}" can\'t be executed: {what}. Nothing was changed.\n'
        f"A correct subject: {_example(action, limits)}"
    )


class _Parser:
    """One subject being read; holds what every refusal needs."""

    def __init__(self, subject: str, limits: Limits) -> None:
        self.subject = subject
        self.limits = limits
        self.action: Action | None = None

    def parse(self) -> Command | Broken:
        words = self.words()
        plan = words[0].upper() == "PLAN" and words[0].isascii()
        if plan:
            words = words[1:]
            if not words:
                self.refuse("PLAN needs the action that it is to explain")
        self.action = self.read_action(words[0])
        if self.action is Action.PING:
            if plan:
                self.refuse("PING has no steps to PLAN")
            return Command(action=Action.PING, text=self.rest())
        if words[1:3] == _BROKEN_STUDENT:
            return self.broken(plan, words[3:])
        return replace(self.command(self.action, words[1:]), plan=plan)

    def refuse(self, what: str) -> NoReturn:
        refuse(self.subject, what, self.action, self.limits)

    def words(self) -> list[str]:
        if len(self.subject) > MAX_SUBJECT:
            self.refuse(f"it is longer than {MAX_SUBJECT} characters")
        strange = next((char for char in self.subject if not char.isprintable() and char != "\t"), None)
        if strange is not None:
            self.refuse(f"it holds a character that does not print, {visible(strange)}")
        words = [word for word in _BLANKS.split(self.subject) if word]
        if not words:
            self.refuse("it is empty")
        return words

    def rest(self) -> str:
        """Everything after the first word."""
        return " ".join(_BLANKS.split(self.subject.strip(" \t"))[1:])

    def read_action(self, word: str) -> Action:
        names = [str(action) for action in Action]
        name = word.upper() if word.isascii() else ""
        if name not in names:
            self.refuse_action(word)
        return Action(name)

    def refuse_action(self, word: str) -> NoReturn:
        names = [str(action) for action in Action]
        near = difflib.get_close_matches(visible(word.upper(), 20), names, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        self.refuse(f'the first word, "{visible(word, 40)}", is none of {", ".join(names)}, PLAN{hint}')

    def command(self, action: Action, words: list[str]) -> Command:
        if not words:
            self.refuse("the student number is missing")
        if len(words) > 3:
            self.refuse(f'nothing may follow the EMAIL, but "{visible(words[3], 40)}" does')
        first, last = self.students(action, words[0])
        number = self.number(words[1]) if len(words) > 1 else None
        email = words[2] if len(words) > 2 else None
        if email is not None and not is_address(email):
            self.refuse(f'"{visible(email, 60)}" is no plain e-mail address')
        return Command(action=action, first=first, last=last, number=number, email=email)

    def students(self, action: Action, word: str) -> tuple[int, int | None]:
        left, comma, right = word.partition(",")
        first = self.student(left, "STUDENT")
        if not comma:
            return first, None
        if action is Action.PURGE:
            self.refuse("PURGE takes one student, no range")
        if "," in right:
            self.refuse("a range has one comma, STUDENT,STUDENT_MAX")
        last = self.student(right, "STUDENT_MAX")
        if last < first:
            self.refuse(f"the range ends at {last}, before it begins")
        if action is not Action.RESET and last - first + 1 > self.limits.max_count:
            self.refuse(f"the range has {last - first + 1} students; one mail may name {self.limits.max_count} at most")
        return first, last

    def student(self, word: str, name: str) -> int:
        if not word:
            self.refuse(f"{name} is missing (no blanks around the comma of a range)")
        value = self.integer(word, name)
        if not self.limits.user_min <= value <= self.limits.user_max:
            self.refuse(f"{name} {value} is {outside(self.limits)}")
        return value

    def number(self, word: str) -> int:
        if "@" in word:
            self.refuse("the EMAIL comes after NUMBER (write 0 when there is none)")
        return self.integer(word, "NUMBER")

    def integer(self, word: str, name: str) -> int:
        """A decimal number, ASCII digits only; bounded before conversion, which is slow for thousands of digits."""
        shown = visible(word, 40)
        if not (word.isascii() and word.isdigit()):
            sign = ", without a sign" if word[:1] in "+-" else ""
            self.refuse(f'{name} "{shown}" is not a whole number in the digits 0 to 9{sign}')
        if word[0] == "0" and word != "0":
            self.refuse(f'{name} "{shown}" has a leading zero')
        if len(word) > 10 or int(word) > MAX_NUMBER:
            self.refuse(f'{name} "{shown}" is too large')
        return int(word)

    def broken(self, plan: bool, words: list[str]) -> Broken:
        if self.action not in (Action.RESET, Action.PURGE) or plan or len(words) != 1:
            self.refuse("the student number is missing")
        number = self.number(words[0])
        if number == 0:
            self.refuse("the student number is missing, and NUMBER 0 names no participant to look it up")
        return Broken(action=self.action, number=number)
