"""The benchmarks' own parts: verdicts, the client, the sampler. Nothing here is timed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import figures, mails, memory, run, site
from tests.support import free_port
from wodmail.config import Settings, load
from wodmail.mail.listener import Listener
from wodmail.mail.spool import Spool
from wodmail.trace import trace_path


@pytest.mark.parametrize(
    ("value", "goal", "want", "verdict"),
    [
        (0.5, 0.5, "at most", "met"),
        (0.6, 0.5, "at most", "missed"),
        (1.0, 1.0, "at least", "met"),
        (0.9, 1.0, "at least", "missed"),
        (None, 1.0, "at least", "not measured"),
        (7.0, None, "at most", ""),
    ],
)
def test_verdicts(value: float | None, goal: float | None, want: str, verdict: str) -> None:
    figure = figures.Figure("x", value, "s", goal, "at least" if want == "at least" else "at most")
    assert figure.verdict == verdict
    assert figure.as_json()["verdict"] == verdict


def test_the_help_names_every_measurement() -> None:
    told = " ".join(CliRunner().invoke(run.main, ["--help"]).output.split())
    assert f"memory: {', '.join(run.parts(True))}, or those NAMES" in told


def test_what_is_missed_is_named_so() -> None:
    shown = run.markdown([figures.Figure("slow", 2.0, "s", 1.0), figures.Figure("fast", 0.5, "s", 1.0)], {"cores": 2})
    assert "| slow | 2.00 s | at most 1 | **missed** |" in shown
    assert "| fast | 0.50 s | at most 1 | met |" in shown


def test_client_and_rate_count_what_the_listener_stored(tmp_path: Path) -> None:
    settings = Settings(WODSANDBOX=True, WODSTATEDIR=tmp_path, WODPOSTPORT=free_port())
    spool = Spool(tmp_path / "spool")
    listener = Listener(settings, spool, lambda: None)
    listener.start()
    try:
        assert mails.send_one(settings.WODPOSTPORT, "PING 0", "WKSHP-Bench") > 0
        assert mails.rate(settings.WODPOSTPORT, 3, 20, lambda number: f"PING {number}") > 0
    finally:
        listener.stop()
    assert len(spool.new()) == 21


def test_memory_of_this_process() -> None:
    with memory.Peak(os.getpid(), every=0.01) as peak:
        figures.until(lambda: peak.processes, seconds=60, every=0.01, what="a sample")
    assert peak.rss > 10 * memory.MIB
    assert 0 < peak.pss <= peak.rss


def test_configuration_of_the_site_is_in_order(tmp_path: Path) -> None:
    there = site.Site(tmp_path / "site")
    settings = load(there.config)
    assert settings.WODSANDBOX
    assert there.outbox == settings.WODOUTBOX
    assert there.trace == trace_path(settings)
    assert (settings.WODNOBO / there.workshop / "wod.yml").is_file()


def test_a_busy_machine_is_named() -> None:
    assert run.drift(4.8, 5.0) == ""
    assert "busy" in run.drift(4.8, 9.0)
    assert "busy" in run.drift(9.0, 4.8)


def test_unknown_measurement() -> None:
    result = CliRunner().invoke(run.main, ["nonsense"])
    assert result.exit_code == 64


def test_json_is_versioned(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(_folder: Path, runs: int) -> list[float]:
        return [4.0] * runs

    def part(_folder: Path, stick: float) -> list[figures.Figure]:
        return [figures.Figure("f", stick, "s", 1.0)]

    monkeypatch.setattr(run.yardstick, "measure", measured)
    monkeypatch.setattr(run, "parts", lambda _quick: {"fake": part})
    result = CliRunner().invoke(run.main, ["fake", "--json"])
    printed = json.loads(result.stdout)
    assert result.exit_code == 0
    assert printed["version"] == 1
    assert [(row["name"], row["verdict"]) for row in printed["figures"]][1] == ("f", "missed")
