"""The map of rebranding: regular expressions and what they become, put to work on one text (docs/rebranding.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from wodmail.errors import ConfigError, Problem
from wodmail.rebrandingplace import NOWHERE, Place


@dataclass(frozen=True, slots=True)
class Rule:
    r"""One line of the map.

    Args:
        pattern: what is looked for.
        text: what it becomes; may name groups as \1 or \g<name>.
    """

    pattern: re.Pattern[str]
    text: str

    def apply(self, text: str, place: Place = NOWHERE) -> tuple[str, int]:
        """The text with every match replaced, and how many were; what already reads as it should counts as none.

        Args:
            text: any.
            place: knows what in it is left alone; no match reaches into that.
        """
        parts, count, last = [], 0, 0
        for match in self._matches(text, place):
            found, wanted = match.group(0), match.expand(self.text)
            if found != wanted and not _stands(text, match.start(), found, wanted):
                parts += [text[last : match.start()], wanted]
                count, last = count + 1, match.end()
        return "".join([*parts, text[last:]]), count

    def _matches(self, text: str, place: Place) -> Iterator[re.Match[str]]:
        start = 0
        for first, last in place.left_alone(text):
            yield from self.pattern.finditer(text, start, first)
            start = last
        yield from self.pattern.finditer(text, start)


def _stands(text: str, start: int, found: str, wanted: str) -> bool:
    """Whether the replacement, which holds what it replaces, is there already: so that a second run changes nothing."""
    offset = wanted.find(found) if found else -1
    while offset >= 0:
        first = start - offset
        if first >= 0 and text.startswith(wanted, first):
            return True
        offset = wanted.find(found, offset + 1)
    return False


class UnstableError(ValueError):
    """The rules would change their own result again; the words name the rule."""


def read_rules(file: Path) -> tuple[Rule, ...]:
    """The rules of a map file, in their order.

    Args:
        file: YAML, a mapping of regular expressions to texts.

    Raises:
        ConfigError: it can't be read, or isn't such a mapping; every wrong line is named.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([Problem(str(file), f"it can't be read: {error}")]) from error
    if not isinstance(data, dict) or not data:
        words = "no mapping of regular expressions to texts; write lines such as  'Old Brand': New Brand"
        raise ConfigError([Problem(str(file), words)])
    rules, problems = [], []
    for pattern, text in data.items():
        try:
            rules.append(_rule(pattern, text))
        except (ValueError, re.error, IndexError) as error:
            problems.append(Problem(f"{file}: {pattern}", str(error)))
    if problems:
        raise ConfigError(problems)
    return tuple(rules)


def _rule(pattern: object, text: object) -> Rule:
    if not isinstance(pattern, str) or not isinstance(text, str):
        raise ValueError("both sides must be texts; put them in quotes")  # noqa: TRY004 - about a value in a file
    compiled = re.compile(pattern)
    if compiled.match(""):
        raise ValueError("it also matches nothing at all, which is everywhere")
    compiled.sub(text, "")  # names and numbers of groups in the text are looked up also without a match
    return Rule(compiled, text)


def rebranded(text: str, rules: Sequence[Rule], place: Place = NOWHERE) -> tuple[str, int]:
    """A text with the rules applied in their order, and how many places were replaced.

    Args:
        text: any.
        rules: the rules.
        place: where it stands; links to files that are there are left alone, as are pictures and attachments anywhere.

    Raises:
        UnstableError: a second run would change the result again.
    """
    once, count = _applied(text, rules, place)
    for number, rule in enumerate(rules, 1):
        again, _ = _applied(once, rules, place)
        if again == once:
            break
        if rule.apply(once, place)[0] != once:
            raise UnstableError(
                f"a second run would change it again, by rule {number}, {rule.pattern.pattern!r}: "
                "let the expression exclude what it makes"
            )
    return once, count


def _applied(text: str, rules: Sequence[Rule], place: Place) -> tuple[str, int]:
    total = 0
    for rule in rules:
        text, count = rule.apply(text, place)
        total += count
    return text, total
