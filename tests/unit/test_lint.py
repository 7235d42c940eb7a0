"""wod-catalogue: a folder of tests/data/catalogue for each kind of mistake, beside the lines that shall be found."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.parts import shared_notebooks
from wodmail import containerscripts, lint, paths, rendering
from wodmail.cli.catalogue import catalogue
from wodmail.lint import Finding
from wodmail.schema import Settings

DATA = Path(__file__).resolve().parents[1] / "data" / "catalogue"
CASES = sorted(path.name for path in DATA.iterdir())
NOTEBOOKS = shared_notebooks()


def settings_of(case: Path, state: Path) -> Settings:
    values = {
        "WODSANDBOX": True,
        "WODSTATEDIR": state,
        "WODNOBO": case / "notebooks",
        "WODANSIBLEDIR": case / "ansible",
        "WODSCRIPTDIR": case / "scripts",
        "WODBEDIR": case,
    }
    if (case / "private").is_dir():
        values["WODPRIVDIR"] = case / "private"
    return Settings.model_validate(values)


def as_line(finding: Finding) -> str:
    return f"{finding.severity} {finding.where} {finding.text}"


def matches(wanted: str, finding: Finding) -> bool:
    severity, where, text = wanted.split(" ", 2)
    right = finding.where == where or finding.where.endswith(f"/{where}")
    return finding.severity == severity and right and finding.text.startswith(text.strip())


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_is_found_and_nothing_else(tmp_path: Path, case: str) -> None:
    report = lint.look(settings_of(DATA / case, tmp_path))
    wanted = (DATA / case / "expected.txt").read_text().splitlines()
    missing = [line for line in wanted if not any(matches(line, each) for each in report.findings)]
    unexpected = [as_line(each) for each in report.findings if not any(matches(line, each) for line in wanted)]
    assert (missing, unexpected) == ([], [])
    assert len(report.findings) == len(wanted)
    assert all(each.advice for each in report.findings), "every finding says what to do"
    errors, warnings = (sum(line.startswith(kind) for line in wanted) for kind in ("error", "warning"))
    assert (report.counts["errors"], report.counts["warnings"]) == (errors, warnings)
    assert (report.status(strict=False), report.status(strict=True)) == (int(errors > 0), int(errors + warnings > 0))


def test_files_that_are_no_files_and_large_ones(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks" / "WKSHP-Big101"
    folder.mkdir(parents=True)
    (folder / "wod.yml").write_text("name: Big\nrange: [1,2]\ncapacity: 2\n")
    (folder / "0-ReadMeFirst.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 2}')
    (folder / "data.bin").write_bytes(b"x" * 101)
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "latin.py").write_bytes(b"# {{ STDID }} \xe9\n")
    (folder / "latin.ipynb").write_bytes(b'{"\xe9": 1}')
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(folder)
        made.bind("s")
        os.chdir(here)
    report = lint.look(settings_of(tmp_path, tmp_path / "state"), max_bytes=100)
    assert [as_line(each).removeprefix(f"{each.severity} WKSHP-Big101/") for each in report.findings] == [
        "data.bin 101 bytes are more than 100: each student gets a copy",
        "latin.ipynb:1 no UTF-8 text",
        "latin.py:1 is not UTF-8 text, so its template marks can't be expanded",
        "out not copied: neither a file nor a link within the workshop's folder",
        "s not copied: neither a file nor a link within the workshop's folder",
    ]
    assert lint.look(settings_of(tmp_path, tmp_path / "state"), max_bytes=101).counts["errors"] == 2


def test_a_folder_that_is_too_large(tmp_path: Path) -> None:
    """One byte more than 1 GiB, of nothing but a hole; it isn't read first."""
    folder = tmp_path / "notebooks" / "WKSHP-Big101"
    folder.mkdir(parents=True)
    (folder / "wod.yml").write_text("name: Big\nrange: [1,2]\ncapacity: 2\n")
    with (folder / "video.bin").open("wb") as file:
        file.truncate((1 << 30) + 1)
    tracemalloc.start()
    try:
        report = lint.look(settings_of(tmp_path, tmp_path / "state"), max_bytes=1 << 31)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    [found] = report.findings
    assert as_line(found) == f"error {folder} the workshop's folder WKSHP-Big101 holds more than 1 GiB"
    assert most < 1 << 29


def test_no_secret_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks" / "WKSHP-Secret101"
    folder.mkdir(parents=True)
    (folder / "wod.yml").write_text("name: Secret\nrange: [1,2]\ncapacity: 2\n")
    (folder / "a.py").write_text("{{ VAULTPWD | from_json }}\n")
    settings = settings_of(tmp_path, tmp_path / "state").model_copy(update={"VAULTPWD": "open-sesame-4711"})
    report = lint.look(settings)
    assert report.counts["errors"] == 2
    assert "open-sesame-4711" not in str(report)


MARK = "touch {mark}"
REACHING = {
    "lookup": "{{ lookup('pipe', '" + MARK + "') }}",
    "in full": "{{ lookup('ansible.builtin.pipe', '" + MARK + "') }}",
    "query": "{{ query('pipe', '" + MARK + "') }}",
    "q": "{{ q('pipe', '" + MARK + "') | first }}",
    "by another name": "{% set look = lookup %}{{ look('pi' ~ 'pe', '" + MARK + "') }}",
    "of a filter": "{{ ['" + MARK + "'] | map('quote') | list | first | default(lookup('pipe', '" + MARK + "')) }}",
    "within a lookup": "{{ lookup('vars', lookup('pipe', '" + MARK + "'), default='') }}",
    "of a variable": "{{ CALLS }}",
    "as a list": "{% for each in q('lines', '" + MARK + "') %}{{ each }}{% endfor %}",
    "a file": "{{ lookup('password', '{mark}') }}",
    "a template": "{{ lookup('template', 'b.py') }}",
}
INNER = "{{ cycler.__init__.__globals__.os.system('" + MARK + "') }}"


def reaching(tmp_path: Path, text: str) -> tuple[Settings, Path]:
    """A workshop whose files and script hold the text; {mark} in it is the file that must not come to be."""
    mark = tmp_path / "mark"
    folder, scripts = tmp_path / "notebooks" / "WKSHP-Out101", tmp_path / "scripts"
    for made in (folder, scripts, tmp_path / "ansible" / "group_vars"):
        made.mkdir(parents=True)
    (folder / "wod.yml").write_text("name: Out\nrange: [1,2]\ncapacity: 2\n")
    (folder / "0-ReadMeFirst.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 2}')
    (folder / "b.py").write_text("\n{{ lookup('pipe', 'touch " + str(mark) + "') }}\n")
    text = text.replace("{mark}", str(mark))
    (folder / "a.py").write_text(f"{text}\n{{{{ NOWHERE }}}}\n")
    (scripts / "create-WKSHP-Out101.sh.j2").write_text(f"{text}\n{{{{ NOWHERE }}}}\n")
    calls = REACHING["lookup"].replace("{mark}", str(mark))
    (tmp_path / "ansible" / "group_vars" / "all.yml").write_text(f'CALLS: "{calls}"\n')
    return settings_of(tmp_path, tmp_path / "state"), mark


@pytest.mark.parametrize("text", REACHING.values(), ids=REACHING)
def test_nothing_is_looked_up(tmp_path: Path, text: str) -> None:
    """The call is told, the rest of the template is looked at all the same."""
    settings, mark = reaching(tmp_path, text)
    report = lint.look(settings)
    assert not mark.exists()
    told = {(each.file.name, each.severity) for each in report.findings if "not tried: a sample value" in each.text}
    of_all = {("a.py", "note"), ("b.py", "note"), ("create-WKSHP-Out101.sh.j2", "note")}
    assert told >= (of_all if "default" not in text or "vars" in text else {("b.py", "note")})
    missing = [each for each in report.findings if "NOWHERE" in each.text]
    assert [(each.file.name, each.line, each.severity) for each in missing] == [
        ("a.py", 2, "error"),
        ("create-WKSHP-Out101.sh.j2", 2, "error"),
    ]


def test_lookups_are_themselves_again_afterwards(tmp_path: Path) -> None:
    settings, mark = reaching(tmp_path, "plain")
    lint.look(settings)
    script = tmp_path / "x.sh.j2"
    script.write_text(REACHING["lookup"].replace("{mark}", str(mark)))
    rendering.render(script, {})
    assert mark.exists()


def test_python_is_out_of_reach(tmp_path: Path) -> None:
    settings, mark = reaching(tmp_path, INNER)
    report = lint.look(settings)
    assert not mark.exists()
    [script] = [each for each in report.findings if each.file.suffix == ".j2"]
    assert (script.severity, script.text.startswith("not tried to its end, as it may reach outside: ")) == (
        "note",
        True,
    )


def test_what_a_sample_breaks_is_no_error(tmp_path: Path) -> None:
    settings, _ = reaching(tmp_path, "{{ (lookup('file', 'x.json') | from_json).a }}")
    found = [each for each in lint.look(settings).findings if each.file.name != "b.py"]
    assert {each.severity for each in found} == {"note"}
    assert len([each for each in found if "not tried to its end" in each.text]) == 2


def test_no_configuration_of_ansible_is_taken_from_the_folder(tmp_path: Path) -> None:
    """A merge request may hold one, and with it plugins; they are programs."""
    reaching(tmp_path, "{{ 1 | evil }}")
    for folder in ("cwd", "cwd/evil"):
        (tmp_path / folder).mkdir(mode=0o755)
    (tmp_path / "cwd" / "ansible.cfg").write_text("[defaults]\nfilter_plugins = ./evil\n")
    plugin = f"open({str(tmp_path / 'mark')!r}, 'w').close()\nclass FilterModule:\n    filters = staticmethod(dict)\n"
    (tmp_path / "cwd" / "evil" / "evil.py").write_text(plugin)
    folders = f"WODNOBO: {tmp_path}/notebooks\nWODANSIBLEDIR: {tmp_path}/none\nWODSCRIPTDIR: {tmp_path}/none\n"
    (tmp_path / "wod.yml").write_text(f"WODSANDBOX: true\nWODSTATEDIR: {tmp_path}/state\n{folders}")
    argv = [sys.executable, "-m", "wodmail.cli.catalogue", "--config", str(tmp_path / "wod.yml")]
    environment = {name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"}
    environment |= {"PYTHONPATH": str(paths.share("conf").parent), "COLUMNS": "250"}
    done = subprocess.run(argv, cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, "evil" in done.stdout) == (1, "", True)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("text", ["{{ 'x' | community.sops.decrypt(sops_binary='{mark}') }}", "{{ '/*' | fileglob }}"])
def test_filters_that_reach_outside_are_not_tried(tmp_path: Path, text: str) -> None:
    settings, _ = reaching(tmp_path, text)
    found = [each for each in lint.look(settings).findings if "not tried: a sample" in each.text]
    assert {each.file.name for each in found} == {"a.py", "b.py", "create-WKSHP-Out101.sh.j2"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "wod.yml"
    case = DATA / "variables"
    file.write_text(
        f"WODSANDBOX: true\nWODSTATEDIR: {tmp_path}/state\nWODNOBO: {case}/notebooks\n"
        f"WODANSIBLEDIR: {tmp_path}/none\nWODSCRIPTDIR: {tmp_path}/none\n"
    )
    return file


def command(config: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(catalogue, ["--config", str(config), *options], env={"COLUMNS": "250"})
    return done.exit_code, done.output


def test_the_command(config: Path) -> None:
    status, told = command(config)
    assert (status, "1 workshops, 5 errors, 1 warnings" in told) == (1, True)
    assert "WKSHP-Need101/0-ReadMeFirst.ipynb:7" in told
    status, told = command(config, "--json", "CHLG-Need101")
    data = json.loads(told)
    assert (status, data["version"], data["ok"], data["workshops"]) == (1, 1, False, ["WKSHP-Need101"])
    assert data["counts"] == {"workshops": 1, "errors": 5, "warnings": 1}
    assert data["findings"][0] == {
        "workshop": "WKSHP-Need101",
        "file": str(DATA / "variables/notebooks/WKSHP-Need101/0-ReadMeFirst.ipynb"),
        "line": 7,
        "severity": "error",
        "finding": "the variable LABROOM is not defined",
        "advice": "define it in a group_vars file or in the workshop's variable file (docs/copy-folder.md)",
    }


def test_a_name_that_is_none(config: Path) -> None:
    status, told = command(config, "WKSHP-Ned101")
    assert (status, "did you mean WKSHP-Need101?" in told) == (2, True)


def test_the_status_of_warnings(config: Path) -> None:
    config.write_text(config.read_text().replace("variables/notebooks", "private-task/notebooks"))
    with config.open("a") as file:
        file.write(f"WODPRIVDIR: {DATA}/private-task/private\n")
    assert [command(config)[0], command(config, "--strict")[0]] == [0, 1]


def test_the_shipped_seats_need_an_appliance(tmp_path: Path) -> None:
    """The workshop as it was before there were definitions: its wod.yml names no appliance."""
    folder = tmp_path / "notebooks" / "WKSHP-Ansible101"
    folder.mkdir(parents=True)
    (folder / "wod.yml").write_text("name: Ansible101\nrange: [52,91]\ncapacity: 20\nreset: true\n")
    settings = settings_of(tmp_path, tmp_path / "state").model_copy(update={"WODBEDIR": paths.share("conf").parent})

    def told() -> list[str]:
        found = lint.look(settings).findings
        return [f"{each.severity} {each.text} {each.advice}" for each in found if " seats " in each.text]

    words = "error conf/containers/WKSHP-Ansible101.yml gives it seats on an appliance, but wod.yml names none:"
    [line] = told()
    assert line.startswith(words)
    assert line.endswith("write monoappliance: true (or multiappliance: true), and IP-WKSHP-Ansible101 in group_vars")
    own = tmp_path / "scripts" / "create-WKSHP-Ansible101.sh"
    own.parent.mkdir()
    own.write_text("true\n")
    assert told() == [], "the site's own scripts count, as they did before"
    way = [each for each in lint.look(settings).findings if "gives way" in each.text]
    assert [(each.severity, each.file) for each in way] == [("note", own)]
    made = own.with_name("cleanup-WKSHP-Ansible101.sh")
    made.write_text(f"#!/bin/bash\n{containerscripts.MARK}WKSHP-Ansible101.yml\n")
    way = [each for each in lint.look(settings).findings if "gives way" in each.text]
    assert [(each.severity, str(made) in each.text) for each in way] == [("warning", True)]
    made.unlink()
    own.unlink()
    with (folder / "wod.yml").open("a") as file:
        file.write("monoappliance: true\n")
    assert told() == []


@pytest.mark.skipif(NOTEBOOKS is None, reason="no real workshops beside the checkout")
def test_real_workshops(tmp_path: Path) -> None:
    """What is missing is told with a line that names it; with the variables at hand nothing of it is left."""
    settings = settings_of(tmp_path, tmp_path / "state").model_copy(update={"WODNOBO": NOTEBOOKS})
    report = lint.look(settings)
    missing = [each for each in report.findings if " is not defined" in each.text]
    assert {each.workshop for each in missing} == set(report.workshops)
    names = {each: each.text.partition("the variable ")[2].partition(" ")[0] for each in missing}
    for each, name in names.items():
        assert name in each.file.read_text().splitlines()[each.line - 1], each
    (tmp_path / "ansible" / "group_vars").mkdir(parents=True)
    known = "".join(f"{name}: 10.0.0.1\n" for name in sorted({*names.values()}))
    (tmp_path / "ansible" / "group_vars" / "all.yml").write_text(known)
    left = lint.look(settings).findings
    assert [as_line(each) for each in left if " is not defined" in each.text or ".ipynb" in each.where] == []
