"""Shell templates: Ansible's variables and filters, expanded without Ansible."""

from __future__ import annotations

from pathlib import Path

import pytest

from wodmail import rendering
from wodmail.errors import Failed


def render(tmp_path: Path, text: str, **variables: object) -> str:
    file = tmp_path / "script.sh.j2"
    file.write_text(text)
    return rendering.render(file, variables)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{ A | quote }}", "'it'\"'\"'s'"),
        ("{{ 'yes' | bool }} {{ 'off' | bool }}", "True False"),
        ("{{ P | basename }} {{ P | dirname }}", "c.txt /a/b"),
        ("{{ L | to_json }}", '["x", 1]'),
        ("{{ 'wod' | b64encode }} {{ 'd29k' | b64decode }}", "d29k wod"),
        ("{{ P | regex_replace('[a-b]', '-') }}", "/-/-/c.txt"),
        ("{{ (1 == 1) | ternary('one', 'two') }} {{ A | mandatory }}", "one it's"),
        ("{{ NOT_THERE | default('otherwise') }}", "otherwise"),
        ("{% if true %}\nline\n{% endif %}\n", "line\n"),
        ("{{ CHAIN }}", "it's /a/b/c.txt"),
        ("{% raw %}{{ kept }}{% endraw %}", "{{ kept }}"),
        ("{{ hostvars[inventory_hostname]['CHAIN'] }}", "it's /a/b/c.txt"),
        ("{% include 'part.sh' %}", "part of it's"),
    ],
)
def test_what_templates_use(tmp_path: Path, text: str, result: str) -> None:
    (tmp_path / "part.sh").write_text("part of {{ A }}")
    assert render(tmp_path, text, A="it's", P="/a/b/c.txt", L=["x", 1], CHAIN="{{ A }} {{ P }}") == result


def test_a_variable_that_needs_another_names_that(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"script\.sh\.j2:2 can't be expanded: 'LOST' is undefined"):
        render(tmp_path, "\n{{ CHAIN }}", CHAIN="{{ LOST }}")


def test_a_missing_include_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"nowhere\.sh"):
        render(tmp_path, "{% include 'nowhere.sh' %}")
    with pytest.raises(Failed, match=r"gone\.j2"):
        rendering.render(tmp_path / "gone.j2", {})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bytes.j2").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Failed, match=r"bytes\.j2"):
        rendering.render(tmp_path / "bytes.j2", {})
