"""guard.yml: the shipped one is in order, a private one goes over it, mistakes are told in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.guards import policy
from wodmail.config import Settings
from wodmail.errors import ConfigError
from wodmail.guard import policy as rules
from wodmail.guard.policy import Rung


def site(folder: Path, private: str | None = None, **more: Any) -> Settings:
    (folder / "sys").mkdir()
    if private is not None:
        (folder / "sys" / "guard.yml").write_text(private, encoding="utf-8")
    return Settings(WODPRIVDIR=folder, **more)


def test_the_shipped_policy_is_in_order(tmp_path: Path) -> None:
    found = rules.load(site(tmp_path, JPHUB="/srv/hub/"))
    assert (found.cpu.longer_than_seconds, found.kernels.limit_seconds, found.cpu.then) == (300, 14400, Rung.PURGE)
    assert {3333, 4444, 14444} <= set(found.connections.ports)
    assert {"ethminer*", "packetcrypt*", "xmrig*"} <= set(found.denied.names)
    assert "/srv/hub/**" in found.allowed[0].exe
    assert rules.advice(found, 4) == []


def test_a_private_policy_goes_over_it(tmp_path: Path) -> None:
    settings = site(tmp_path, "cpu: {limit_cores: 2.5}\ndenied: {names: [teapot]}\n")
    found = rules.load(settings)
    assert (found.cpu.limit_cores, found.cpu.longer_than_seconds) == (2.5, 300)
    assert (found.denied.names, found.denied.then) == (["teapot"], Rung.PURGE)
    assert [file.parent.name for file in rules.files(settings)] == ["sys", "sys"]
    assert rules.over({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}}) == {"a": {"b": 1, "c": [2]}}


def test_what_is_shown_is_a_policy_again(tmp_path: Path) -> None:
    found = rules.load(site(tmp_path))
    again = yaml.safe_load(yaml.safe_dump(found.as_data()))
    assert again["cpu"]["then"] == "purge"
    assert rules.Policy.model_validate(again) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "load: {memory_limit_percent: 0.95}",
            "load.memory_limit_percent must be 1 or more (a percentage from 1 to 100",
        ),
        ("cpu: {limit_cores: 0}", "cpu.limit_cores must be more than 0 (processor cores: 0.5 is half a core"),
        ("cpu: {limit_cores: true}", "cpu.limit_cores write a number, not true or false"),
        ("cpu: {limit: 90}", "cpu.limit is no key of the policy"),
        ("cpu: {then: kill}", "cpu.then must be one of: warn, stop, purge"),
        ("denied: {command_lines: ['(']}", "denied.command_lines, entry 1 is no regular expression"),
        ("connections: {ports: [70000]}", "connections.ports, entry 1 must be 65535 or less"),
        ("allowed: [{what: mine, exe: [python3]}]", "allowed, entry 1.exe 'python3' is no absolute path"),
        ("interval_seconds: 0", "interval_seconds must be 0.05 or more"),
        ("cpu: 3", "cpu must be a section"),
        ("cpu: {limit_cores: none}", "cpu.limit_cores must be a number (processor cores"),
        ("connections: {ports: 3333}", "connections.ports must be a list"),
        ("cpu:\n\tlimit_cores: 1", "a tab"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        rules.load(site(tmp_path, text))
    assert words in str(told.value)
    assert str(tmp_path / "sys" / "guard.yml") in str(told.value)


def test_a_percentage_where_cores_belong_is_noticed() -> None:
    settings = Settings()
    (words, _) = rules.advice(policy(settings, {"cpu": {"limit_cores": 90, "together_limit_cores": 90}}), 2)
    assert "cpu.limit_cores is 90" in words and "0.5 is half a core" in words


def test_a_change_of_the_files_shows(tmp_path: Path) -> None:
    settings = site(tmp_path, "interval_seconds: 20\n")
    before = rules.stamp(settings)
    assert rules.stamp(settings) == before
    (tmp_path / "sys" / "guard.yml").write_text("interval_seconds: 2\n", encoding="utf-8")
    assert rules.stamp(settings) != before
