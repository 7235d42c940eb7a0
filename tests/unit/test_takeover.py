"""The chapter "Replace an existing backend": its example has every key and is in order, its command makes a draft."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.parts import require
from wodmail import checks
from wodmail.config import load
from wodmail.schema import Settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
CHAPTER = PAGE.partition("## Replace an existing backend\n")[2].partition("\n## ")[0]
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", CHAPTER, re.DOTALL | re.MULTILINE)]
SAID: dict[str, Any] = {name: value for block in BLOCKS for name, value in block.items()}
OLD = r"""# as an old installer writes it
export WODUSER=wodadmin
export WODGROUP='production'
WODUSERMAX=400
export WODSENDER="wodadmin@frontend.example.org"
export NOCHECKSSH="-o StrictHostKeyChecking=no"
export BRANDING="Labs: \"good\" ones"
export CLEAN=false
"""


def test_every_key_has_an_example() -> None:
    assert set(Settings.model_fields) - set(SAID) == {"WODSANDBOX"}
    assert sum(map(len, BLOCKS)) == len(SAID), "a key is there twice"
    others = {name.partition("-")[0] for name in set(SAID) - set(Settings.model_fields)}
    assert others == {"IP", "SSHPORT", "HTTPPORT", "wod_hub_here"}, "a variable of playbooks alone"


def test_the_examples_are_in_order() -> None:
    settings = Settings.model_validate(SAID)
    assert checks.values(settings) == []
    assert settings.number_reading == "participant"


def test_what_is_shown_as_a_default_is_the_default() -> None:
    lines = re.findall(r"^(WOD\w+): (.*)$", CHAPTER.partition("have safe defaults")[2], re.MULTILINE)
    plain = Settings()
    shown = [name for name, rest in lines if "example" not in rest and "not the default" not in rest]
    beside = {"WODTLSKEY"}  # goes with the line above it
    differing = [
        n for n in shown if n not in beside and getattr(Settings.model_validate({n: SAID[n]}), n) != getattr(plain, n)
    ]
    assert len(shown) > 20
    assert differing == []


def test_what_root_runs_is_not_in_the_users_home() -> None:
    """The timers run playbooks and templates as root: the checkout is root's, the old path a link to it."""
    maintained = [SAID[name] for name in ("WODBEDIR", "WODANSIBLEDIR", "WODSCRIPTDIR", "WODSYSDIR")]
    assert {Path(each).is_relative_to("/opt/wod/wod-backend") for each in maintained} == {True}
    assert "ln -s /opt/wod/wod-backend wod-backend" in CHAPTER
    assert re.search(r"sudo -i?u wodadmin .*(git clone|wodmail deliver)", CHAPTER) is None
    assert SAID["WODTRUSTTREES"] is False
    assert CHAPTER.index("wod-check --check") < CHAPTER.index("    wod-schedule install\n")


def test_the_draft_of_the_old_values(tmp_path: Path) -> None:
    require("bash")
    found = re.search(r"^    (env -i bash -c '.*')$", CHAPTER, re.MULTILINE)
    assert found
    old = tmp_path / "wod.sh.old"
    old.write_text(OLD)
    command = found.group(1).replace("/etc/wod.sh.old", str(old))
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=False)
    draft = tmp_path / "wod.yml"
    draft.write_text(done.stdout)
    settings = load(draft, files=False)
    assert (settings.WODUSER, settings.WODGROUP, settings.WODUSERMAX) == ("wodadmin", "production", 400)
    assert (settings.NOCHECKSSH, settings.CLEAN) == ("-o StrictHostKeyChecking=no", False)
    assert settings.BRANDING == 'Labs: "good" ones'
