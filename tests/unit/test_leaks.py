"""What looks for leaks finds them; a search that finds nothing proves nothing else."""

from __future__ import annotations

import base64
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from tests.leaks import Finding, Sampler, forms, in_files, in_texts
from tests.support import wait_until

SECRET = "pl4nted+s3cret/4711"
NAMED = {"PLANTED": SECRET}


def test_a_command_line_and_an_environment_are_seen() -> None:
    waiting = [sys.executable, "-c", "import sys; sys.stdin.read()", f"--password={SECRET}"]
    quiet = [*waiting[:3], "only-in-the-environment"]
    with Sampler(environ=lambda _pid, line: b"only-in-the-environment" in line) as sampler:
        children = [
            subprocess.Popen(waiting, stdin=subprocess.PIPE),
            subprocess.Popen(quiet, stdin=subprocess.PIPE, env={"TOKEN": SECRET}),
        ]
        try:
            wait_until(lambda: len(sampler.findings(NAMED)) >= 2, what="both findings")
        finally:
            for child in children:
                child.communicate(b"", timeout=30)
    assert sampler.saw(b"only-in-the-environment")
    assert sampler.looks > 0
    found = sampler.findings(NAMED)
    assert {each.secret for each in found} == {"PLANTED"}
    assert {each.where.split(" of ")[0] for each in found} == {"command line", "environment"}
    assert SECRET not in repr(found)
    assert sampler.findings({"OTHER": "not-there-at-all"}) == []


def test_what_is_ignored_is_not_seen() -> None:
    with Sampler(ignore=lambda _pid, line: SECRET.encode() in line) as sampler:
        child = subprocess.Popen([sys.executable, "-c", "input()", SECRET], stdin=subprocess.PIPE)
        before = sampler.looks
        wait_until(lambda: sampler.looks > before + 2, what="two looks")
        child.communicate(b"\n", timeout=30)
    assert sampler.findings(NAMED) == []


def test_files_and_texts(tmp_path: Path) -> None:
    texts = {
        "plain": SECRET,
        "url": urllib.parse.quote(SECRET, safe=""),
        "base64": base64.b64encode(f"user:{SECRET}".encode()).decode(),
        "nothing": "no secret",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(f"before {text} after")
    wanted = ["base64", "plain", "url"]
    assert in_files([tmp_path], NAMED) == [Finding("PLANTED", str(tmp_path / name)) for name in wanted]
    assert [each.where for each in in_files([tmp_path], NAMED, {tmp_path / "url"})] == [
        str(tmp_path / name) for name in wanted[:2]
    ]
    assert in_files([tmp_path], NAMED, {tmp_path}) == []
    assert [each.where for each in in_texts(texts, NAMED)] == wanted


def test_a_word_that_is_everywhere_is_refused() -> None:
    assert SECRET.encode() in forms(SECRET)
    with pytest.raises(ValueError, match="too short"):
        in_files([], {"SHORT": "abc"})
