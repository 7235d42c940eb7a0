"""What is made from the schema: sample, docs page, shell variables, the masked listing; and the commands for it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.parts import require
from wodmail import configtext, paths
from wodmail.cli import reference
from wodmail.cli.config import config
from wodmail.config import load, read
from wodmail.schema import GROUPS, Settings

HOSTILE = 'a\'b "c" $(id) `id` \\ *\nnewline; exit 7 é'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A sandbox configuration with awkward values."""
    values = {
        "WODSANDBOX": True,
        "WODSTATEDIR": str(tmp_path / "state"),
        "WODNOBO": str(tmp_path),
        "VAULTPWD": "hunter2",
        "BRANDING": HOSTILE,
        "IP-WKSHP-API101": "10.0.0.5",
        "SITE": {"a": [1, 2]},
        "UID": 5,
        "MYTOKEN": "hunter3",
    }
    path = tmp_path / "wod.yml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    path.chmod(0o600)
    return path


def ask(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(config, list(arguments))
    return result.exit_code, result.output


def test_docs_page_is_in_sync_with_the_schema() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == configtext.page(), "run: wodmail config docs > docs/configuration.md"


def test_commands_page_is_in_sync_with_the_commands() -> None:
    page = Path(__file__).parents[2] / "docs" / "commands.md"
    assert page.read_text(encoding="utf-8") == reference.page(), (
        "run: python -m wodmail.cli.reference > docs/commands.md"
    )


def test_every_command_and_option_is_described() -> None:
    tables = [line for line in reference.page().splitlines() if line.startswith("| `")]
    assert len(tables) > 20
    assert [line for line in tables if line.endswith("|  |")] == []


def test_every_key_is_described() -> None:
    short = [name for name, field in Settings.model_fields.items() if len(field.description or "") < 8]
    assert short == []
    assert set(GROUPS) <= set(Settings.model_fields)


def test_sample_holds_every_key_and_is_in_order(tmp_path: Path) -> None:
    status, text = ask("sample")
    assert status == 0
    assert re.findall(r"^#([A-Z]+):", text, re.MULTILINE) == list(Settings.model_fields)
    sample = tmp_path / "wod.yml"
    sample.write_text(text, encoding="utf-8")
    assert load(sample, files=False) == Settings()


def test_sample_uncommented_means_the_same(tmp_path: Path) -> None:
    sample = tmp_path / "wod.yml"
    sample.write_text(re.sub(r"^#([A-Z]+:)", r"\1", configtext.sample(), flags=re.MULTILINE), encoding="utf-8")
    report = read(sample, files=False)
    assert report.problems == ()
    assert report.settings is not None
    assert report.settings.variables() == Settings().variables()


def test_check_tells_people_and_programs(file: Path) -> None:
    status, text = ask("check", "--config", str(file))
    assert (status, text.splitlines()[-1]) == (0, f"{file}: in order")
    bad = file.with_name("bad.yml")
    bad.write_text("WODPOSTPORT: x\nWODUSERMXA: 1\n", encoding="utf-8")
    status, text = ask("check", "--config", str(bad))
    assert status == 78
    assert "problem: WODPOSTPORT: must be a whole number" in text
    assert "warning: WODUSERMXA:" in text
    status, text = ask("check", "--json", "--config", str(bad))
    answer = json.loads(text)
    assert status == 78
    assert (answer["version"], answer["ok"], answer["file"]) == (1, False, str(bad))
    assert "WODPOSTPORT" in [problem["path"] for problem in answer["problems"]]
    assert all(set(problem) == {"path", "message"} for problem in answer["problems"] + answer["warnings"])


def test_show_masks_secrets(file: Path) -> None:
    status, text = ask("show", "--config", str(file))
    assert status == 0
    assert "hunter" not in text
    assert f"WODSTATEDIR: {file.parent / 'state'}" in text
    status, text = ask("show", "--json", "--config", str(file))
    answer = json.loads(text)
    assert "hunter" not in text
    assert answer["settings"]["BRANDING"] == HOSTILE
    assert answer["settings"]["VAULTPWD"] == configtext.MASK


def in_bash(script: Path, program: str) -> str:
    argv = [require("bash"), "-euc", f'source "$1"; {program}', "bash", str(script)]
    return subprocess.run(
        argv, capture_output=True, check=True, encoding="utf-8", env={"PATH": os.environ["PATH"]}
    ).stdout


def test_shell_gives_bash_exactly_the_values(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "wod.sh"
    status, _ = ask("shell", "--config", str(file), "--output", str(script))
    assert status == 0
    assert in_bash(script, 'printf %s "$BRANDING"') == HOSTILE
    assert in_bash(script, 'printf %s "$VAULTPWD,$WODSANDBOX,$WODPRIVDIR,$WODSTEPTIMEOUT"') == "hunter2,true,,900"
    assert json.loads(in_bash(script, 'printf %s "$SITE"')) == {"a": [1, 2]}
    assert in_bash(script, "bash -c 'echo $WODUSER'") == "wodadmin\n"


def test_shell_holds_identifiers_only(file: Path) -> None:
    status, text = ask("shell", "--config", str(file))
    assert status == 0
    assert "IP-WKSHP" not in text
    assert "export UID=" not in text
    assert "\nexport WODPOSTPORT=10025\n" in text


def test_shell_file_is_closed_and_replaced_whole(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "out" / "wod.sh"
    script.parent.mkdir()
    script.write_text("old", encoding="ascii")
    script.chmod(0o666)
    status, _ = ask("shell", "--config", str(file), "--output", str(script))
    assert status == 0
    assert stat.S_IMODE(script.stat().st_mode) == 0o640
    assert list(script.parent.iterdir()) == [script]


def test_shell_says_when_it_cannot_write(file: Path, tmp_path: Path) -> None:
    status, text = ask("shell", "--config", str(file), "--output", str(tmp_path / "absent" / "wod.sh"))
    assert status != 0
    assert "can't be written" in text


def test_ansible_options_survive_word_splitting(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "wod.sh"
    script.write_text(configtext.shell(load(file, files=False), file), encoding="utf-8")
    words = in_bash(script, r'printf "%s\0" $WODANSPLAYOPT').split("\0")[:-1]
    assert words[::2] == ["-e"] * (len(words) // 2)
    values = dict(option.split("=", 1) for option in words[1::2] if not option.startswith("{"))
    structured = [json.loads(option) for option in words[1::2] if option.startswith("{")]
    assert values["WODUSER"] == "wodadmin"
    assert {"BRANDING": HOSTILE} in structured
    assert {"WODSANDBOX": True} in structured
    assert "hunter" not in str(words)


def test_private_options_name_what_exists(tmp_path: Path) -> None:
    private = tmp_path / "private"
    settings = Settings(WODPRIVDIR=private, WODGROUP="lab")
    assert configtext.ansible_options(settings)["WODANSPRIVOPT"] == ""
    (private / "ansible" / "group_vars").mkdir(parents=True)
    for name in ("all.yml", "lab", "other"):
        (private / "ansible" / "group_vars" / name).write_text("{}\n", encoding="ascii")
    (private / "ansible" / "inventory").write_text("", encoding="ascii")
    options = configtext.ansible_options(settings)
    variables = private / "ansible" / "group_vars"
    assert options["WODANSPRIVOPT"] == f"-e @{variables / 'all.yml'} -e @{variables / 'lab'}"
    assert options["WODPRIVINV"] == f"-i {private / 'ansible' / 'inventory'}"


def test_own_folders() -> None:
    for name in sorted(paths.FOLDERS):
        assert paths.share(name).is_dir(), name
    with pytest.raises(ValueError, match="no folder 'etc'"):
        paths.share("etc")
