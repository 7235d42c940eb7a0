"""Ansible's filters, tests and lookups in templates: the same text as Ansible's own engine makes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from wodmail import ansiblefilters, rendering
from wodmail.copyfolder.expand import render as by_ansible
from wodmail.copyfolder.variables import trusted
from wodmail.errors import Failed

VALUES: dict[str, Any] = {
    "A": "it's",
    "P": "/a/b/c.txt",
    "L": ["x", "y", "y"],
    "D": {"b": 1, "a": [1, 2]},
    "NUMBERS": [3, 1, 2],
    "NOTHING": None,
    "ALIAS": "{{ L }}",
    "DEEP": {"word": "{{ A }}", "list": ["{{ P }}"]},
    "CHAIN": "{{ A }} {{ P }}",
}
TEMPLATES = (
    "{{ A | quote }} {{ A | quote | length }}",
    "{{ 'yes' | bool }} {{ 'off' | bool }} {{ 1 | bool }} {{ '0' | bool }}",
    "{{ P | basename }} {{ P | dirname }} {{ P | splitext | first }} {{ '/a/b/' | basename }}",
    "{{ 'wod' | b64encode }} {{ 'd29k' | b64decode }}",
    "{{ D | to_json }} {{ D | to_nice_json }} {{ D | to_yaml }} {{ D | to_nice_yaml(indent=2) }}",
    "{{ '{\"a\": [1]}' | from_json }} {{ 'a: [1, 2]' | from_yaml }}",
    "{{ D | combine({'c': {'d': 2}}, recursive=True) }} {{ D | dict2items }} {{ D | dict2items | items2dict }}",
    "{{ 'x' | hash('sha1') }} {{ 'x' | md5 }} {{ 'x' | checksum }} {{ 'x' | to_uuid }}",
    "{{ 100 | random(seed='a') }} {{ L | random(seed='b') }} {{ L | shuffle(seed='c') }}",
    "{{ L | unique }} {{ L | union(['z']) }} {{ L | difference(['y']) }} {{ L | intersect(['y']) }}",
    "{{ P | regex_replace('[A-B]', '-', ignorecase=True) }} {{ P | regex_search('b.*') }} {{ P | regex_findall('/') }}",
    "{{ (1 == 1) | ternary('one', 'two') }} {{ A | mandatory }} {{ 'a.b' | regex_escape }}",
    "{{ MISSING | default('otherwise') }} {{ NOTHING | default('none', true) }} {{ MISSING | d(A) }}",
    "a{{ MISSING | default(omit) }}b{{ NOTHING }}c{{ None }}d",
    "{{ 'abc' is match('a') }} {{ 'abc' is search('c') }} {{ 'abc' is regex('^b') }} {{ L is contains('x') }}",
    "{{ '1.10' is version('1.9', '>') }} {{ A is defined }} {{ MISSING is defined }} {{ MISSING is undefined }}",
    "{{ ['x'] is subset(L) }} {{ '/etc' is directory }} {{ '/nowhere' is exists }} {{ 'yes' is truthy }}",
    "{{ 'http://h:8/p?q' | urlsplit('port') }} {{ 'a b' | urlencode }} {{ '1 GB' | human_to_bytes }}",
    "{{ NUMBERS | max }} {{ 8 | log(2) }} {{ 2 | pow(3) }} {{ [[1], [2]] | flatten }}",
    "{{ NUMBERS | zip(L) | map('join', '-') | list }}",
    "{{ ALIAS | length }} {{ ALIAS | join(',') }} {{ DEEP.word }} {{ DEEP.list[0] }} {{ DEEP['list'] | first }}",
    "{{ CHAIN }} {{ 'A' | ansible.builtin.quote }} {{ 'x' is ansible.builtin.match('x') }}",
    "{{ lookup('env', 'HOME') }} {{ lookup('ansible.builtin.env', 'NO_SUCH', default='d') }}",
    "{{ lookup('vars', 'A') }} {{ query('vars', 'A', 'P') }} {{ lookup('vars', 'MISSING', default='d') }}",
    "{{ lookup('file', 'beside.txt') }} {{ q('file', 'beside.txt') }} {{ lookup('nested', [1], [2], wantlist=True) }}",
    "{{ now(fmt='%Y') | length }} {{ 'x' | password_hash('sha512', salt='abcdefgh', rounds=5000) | length }}",
    "{% if true %}\nline\n{% endif %}\n{% for each in L %}\n{{ loop.index }}{{ each }}\n{% endfor %}\n",
    "#jinja2: variable_start_string:'[%', variable_end_string:'%]'\n[% A %] {{ kept }}\n",
    "#jinja2: comment_start_string: '[#', comment_end_string: '#]', trim_blocks: False\n${#A}{% if A %}\nx{% endif %}",
)


def ours(folder: Path, text: str, **more: Any) -> str:
    file = folder / "script.sh.j2"
    file.write_text(text)
    return rendering.render(file, {**VALUES, **more})


@pytest.mark.parametrize("text", TEMPLATES)
def test_the_same_as_ansible(tmp_path: Path, text: str) -> None:
    (tmp_path / "beside.txt").write_text("beside\n")
    ansiblefilters.load_collections()
    loader = DataLoader()
    loader.set_basedir(str(tmp_path))
    templar = Templar(loader=loader, variables=trusted(VALUES))
    if "password_hash" in text:
        pytest.importorskip("passlib", reason="Ansible hashes passwords with passlib")
    assert ours(tmp_path, text) == by_ansible(templar, text)


class StrangeError(Exception):
    """An error of somebody else's filter, of no kind that jinja2 or Python has."""


def hostile() -> None:
    raise StrangeError("no such thing")


def unreadable() -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("text", "line", "variable", "words"),
    [
        ("\n{{ MISSING | to_json }}", 2, "MISSING", "'MISSING' is undefined"),
        ("{{ MISSING | mandatory }}", 1, "MISSING", "'MISSING' is undefined"),
        ("\n\n{{ BROKEN }}", 3, "LOST", "'LOST' is undefined"),
        ("\n{{ DEEP.no }}", 2, "no", "has no attribute 'no'"),
        ("\n{{ 'x' | from_json }}", 2, "", "Expecting value"),
        ("\n{{ 'x' | hash('none') }}", 2, "", "none"),
        ("\n{{ 'x' | nosuch }}", 2, "", "No filter named 'nosuch'"),
        ("\n{{ 'x' is nosuch }}", 2, "", "No test named 'nosuch'"),
        ("\n{{ lookup('nosuch', 'x') }}", 2, "", "no lookup nosuch"),
        ("\n{{ lookup('file', 'none.txt') }}", 2, "", "none.txt"),
        ("\n{{ 1 / 0 }}", 2, "", "division by zero"),
        ("\n{{ A | regex_search('(') }}", 2, "", "missing \\), unterminated subpattern"),
        ("\n{{ '{a: [' | from_yaml }}", 2, "", "while parsing a flow node .*expected .*node content"),
        ("\n{{ HOSTILE() }}", 2, "", "no such thing"),
        ("\n{% include 'none.sh' %}", 2, "", "none.sh"),
        ("\n{{ UNREADABLE() }}", 2, "", "Permission denied"),
        ("{{ CIRCLE }}", 1, "", "in a circle"),
        ("#jinja2: nosuch: 1\n", 0, "", "no setting"),
        ("#jinja2: trim_blocks: os\n", 0, "", "no plain value"),
        ("#jinja2: trim_blocks: False\n\n{{ MISSING }}", 3, "MISSING", "'MISSING' is undefined"),
        ("#jinja2: trim_blocks: False\n\n{% if %}", 3, "", "Expected an expression"),
    ],
)
def test_what_is_wrong_and_where(tmp_path: Path, text: str, line: int, variable: str, words: str) -> None:
    with pytest.raises(rendering.Broken, match=words) as caught:
        ours(tmp_path, text, BROKEN="{{ LOST }}", CIRCLE="{{ CIRCLE }}", HOSTILE=hostile, UNREADABLE=unreadable)
    assert (caught.value.line, caught.value.variable) == (line, variable)
    assert isinstance(caught.value, Failed)


def test_a_lookup_that_may_fail(tmp_path: Path) -> None:
    text = (
        "[{{ lookup('file', 'none.txt', errors='ignore') }}] {{ lookup('file', 'none.txt', errors='warn') | length }}"
    )
    assert ours(tmp_path, text) == "[] 0"


def test_in_many_threads_at_once(tmp_path: Path) -> None:
    """Ansible's parts are imported by whoever comes first; a server renders scripts in several threads."""
    program = """
import sys, pathlib
from concurrent.futures import ThreadPoolExecutor
from wodmail import rendering
folder = pathlib.Path(sys.argv[1])
with ThreadPoolExecutor(8) as pool:
    print(*set(pool.map(lambda name: rendering.render(folder / name, {"L": ["x"]}), ["a.sh.j2"] * 40)))
"""
    (tmp_path / "a.sh.j2").write_text("{{ L | to_nice_json | hash('md5') }} {{ lookup('env', 'HOME') | length > 0 }}")
    argv = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[1:] == ["True"]


def test_a_filter_of_a_collection(tmp_path: Path) -> None:
    if importlib.util.find_spec("ansible_collections") is None:  # only looked for: Ansible has its own way to import it
        pytest.skip("the extra operate brings collections")
    assert ours(
        tmp_path, "{{ {'a': 1} | community.general.dict_kv('k') }} {{ 'x' is ansible.builtin.regex('x') }}"
    ) == ("{'k': {'a': 1}} True")
    with pytest.raises(rendering.Broken, match=r"No filter named 'community\.general\.nosuch'"):
        ours(tmp_path, "{{ 1 | community.general.nosuch }}")
