"""Root's plays: never newer playbooks with older code, never two at once."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wodmail import checkrun, deliverrun, installingfacts, maintenance, paths, rootplays
from wodmail.cli.deliver import deliver
from wodmail.errors import ConfigError, Failed, Temporary
from wodmail.maintenance import Played
from wodmail.schema import Settings

CONFIG = Path("/etc/wod.yml")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root, on a machine whose memory is a folder of ours."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(rootplays, "MEMORY", tmp_path)
    return tmp_path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A backend with our own playbooks and no scripts."""
    (tmp_path / "scripts").mkdir()
    own = {"WODANSIBLEDIR": paths.share("ansible"), "WODSCRIPTDIR": tmp_path / "scripts", "WODTRUSTTREES": False}
    return Settings.model_validate({**own, "WODSTATEDIR": tmp_path / "state", "WODNOBO": tmp_path / "scripts"})


def held() -> bool:
    """Whether somebody keeps others out."""
    try:
        with rootplays.alone(CONFIG, "a test", patience=0):
            return False
    except Temporary:
        return True


def test_one_at_a_time(root: Path) -> None:
    """Who comes second is told for whom it waits, and in the end that it is to be called again."""
    told: list[str] = []
    with rootplays.alone(CONFIG, "wod-install"):
        with (
            pytest.raises(Temporary, match=rf"^wod-install \(process {os.getpid()}\) is at work .* Try again"),
            rootplays.alone(CONFIG, "wod-check", waiting=told.append, patience=0.6),
        ):
            pass
        with rootplays.alone(root / "another.yml", "wod-check"):
            pass
    assert len(told) == 1 and told[0].startswith(f"waiting for wod-install (process {os.getpid()})")
    assert not held()


def test_the_second_goes_on_when_the_first_has_ended(root: Path) -> None:
    waits, done = threading.Event(), threading.Event()

    def second() -> None:
        with rootplays.alone(CONFIG, "wod-check", waiting=lambda _: waits.set()):
            done.set()

    thread = threading.Thread(target=second)
    with rootplays.alone(CONFIG, "wod-install"):
        thread.start()
        assert waits.wait(20)
        assert not done.is_set()
    thread.join(20)
    assert done.is_set()


def test_a_link_in_the_lock_s_place_is_not_followed(root: Path) -> None:
    (root / "wodmail-plays-etc-wod.yml.lock").symlink_to(root / "other")
    with pytest.raises(Failed), rootplays.alone(CONFIG, "wod-check"):
        pass
    assert not (root / "other").exists()


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What was played, and whether others were kept out meanwhile."""
    found: list[tuple[str, bool]] = []

    def play(_: Settings, playbook: str, **__: Any) -> Played:
        found.append((playbook, held()))
        return Played(0, (), "")

    monkeypatch.setattr(maintenance, "play", play)
    return found


def test_checks_and_deliveries_are_alone(root: Path, settings: Settings, plays: list[tuple[str, bool]]) -> None:
    assert checkrun.run(settings, CONFIG).status == 0
    assert not deliverrun.run(settings, CONFIG).failed
    assert plays == [("check_backend.yml", True)] * 2


def test_who_calls_deliver_is_told_whom_it_waits_for(
    root: Path, settings: Settings, plays: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error, before it waits for half an hour."""
    file = root / "wod.yml"
    file.write_text("".join(f"{name}: {getattr(settings, name)}\n" for name in sorted(settings.model_fields_set)))
    monkeypatch.setattr(rootplays, "_acquire", lambda _, waiting, __: waiting("waiting for wod-install"))
    done = CliRunner().invoke(deliver, ["--config", str(file), "--json", "--no-mail"])
    assert done.stderr == "waiting for wod-install\n", done.output
    assert [playbook for playbook, _ in plays] == ["check_backend.yml"]


def test_newer_playbooks_are_not_played(
    root: Path, settings: Settings, plays: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a check, nor by a delivery at night, whose mail says what to call; WODUSER, who changes nothing, may look."""
    monkeypatch.setattr(installingfacts, "other_code", lambda _: ("paths.py",))
    monkeypatch.setattr(sys, "prefix", str(root))
    (root / rootplays.BUILD).touch()
    with pytest.raises(ConfigError, match=r"scripts/wod-install\.sh"):
        checkrun.run(settings, CONFIG)
    done = deliverrun.run(settings, CONFIG, mail=False)
    assert "scripts/wod-install.sh" in done.problem and done.failed
    assert done.playbook is not None and done.playbook.status == "failed"
    assert "scripts/wod-install.sh" in done.playbook.remark
    assert deliverrun.run(settings, CONFIG, check=True, playbook=False).problem == "", "wod-install --check looks, too"
    assert plays == []
    (root / rootplays.BUILD).unlink()
    with pytest.raises(ConfigError, match=r"docs/operations\.md, An update by hand") as refused:
        checkrun.run(settings, CONFIG)
    assert "wod-install.sh" not in str(refused.value), "it would make a whole backend of what was installed by hand"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert deliverrun.run(settings, CONFIG, mail=False).problem == ""
