"""The workshops that real backends run, when they lie beside the checkout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from tests.copying import Desk, settings_for
from tests.parts import shared_notebooks
from wodmail.copyfolder import source
from wodmail.errors import Failed

NOTEBOOKS = shared_notebooks()
WORKSHOPS = sorted(path.name for path in NOTEBOOKS.glob("WKSHP-*")) if NOTEBOOKS else []
NEEDED = {
    "BRANDINGLOGO": "logo.png",
    "BRANDINGURL": "https://brand.example",
    "BRANDINGSLACK": "https://chat.example",
    "SURVEYURL": "https://survey.example/w",
    "SURVEYCHALURL": "https://survey.example/c",
    "LABLOCATION": "here",
    "LABSTUDENTNAME": "student",
    "LABSTUDENTID": "{{ STDID }}",
    "HPEECPGWNAME": "gateway.example",
    "HPEECPK8S101PORT": "31000",
    "PASSSTU": "hunter22",
    "WODBEEXTFQDN": "be.example",
}
RAW = r"\{%\s*raw\s*%\}(.*?)\{%\s*endraw\s*%\}"

pytestmark = pytest.mark.skipif(not WORKSHOPS, reason="no real workshops beside the checkout")


def desk_for(folder: Path, needed: dict[str, str]) -> Desk:
    desk = Desk(settings_for(folder, WODNOBO=NOTEBOOKS))
    text = yaml.safe_dump(
        {**needed, **{f"{kind}-{name}": "10.1.2.3" for kind in ("IP", "HTTPPORT", "SSHPORT") for name in WORKSHOPS}}
    )
    (folder / "public/group_vars/production").write_text(text if needed else "{}\n")
    return desk


def survivors(text: str, mark: str) -> int:
    """How many opening marks a template means to leave: those quoted in an expression and those in raw parts."""
    raw = re.findall(RAW, text, re.DOTALL)
    outside = re.sub(RAW, "", text, flags=re.DOTALL)
    quoted = re.findall(r"\{\{[^{}]*'([^']*)'[^{}]*\}\}|\{\{\s*'(\{\{)'\s*\}\}|\{\{\s*'(\{%.*?)'\s*\}\}", outside)
    return sum(part.count(mark) for part in raw) + sum("".join(found).count(mark) for found in quoted)


@pytest.mark.parametrize("kind", ["WKSHP", "CHLG"])
@pytest.mark.parametrize("workshop", WORKSHOPS)
def test_a_real_workshop_is_personalised_rightly(tmp_path: Path, workshop: str, kind: str) -> None:
    desk = desk_for(tmp_path, NEEDED)
    desk.copy(workshop.replace("WKSHP", kind, 1), 121)
    home, original = desk.home(121) / workshop, Path(str(NOTEBOOKS)) / workshop
    for path in (path for path in original.rglob("*") if path.is_file()):
        made = home / path.relative_to(original)
        if not source.is_expanded(path.name):
            assert made.read_bytes() == path.read_bytes(), path
            continue
        text, template = made.read_text(), path.read_text()
        for mark in ("{{", "{%"):
            assert text.count(mark) <= survivors(template, mark), path
        assert "STDID" not in text
        if path.suffix == ".ipynb":
            nbformat.validate(nbformat.reads(text, as_version=nbformat.NO_CONVERT))
    assert json.loads((home / ".ipynb_checkpoints/0-ReadMeFirst-checkpoint.ipynb").read_text())["nbformat"] == 4


@pytest.mark.parametrize("workshop", WORKSHOPS)
def test_without_its_variables_file_line_and_name_are_told(tmp_path: Path, workshop: str) -> None:
    desk = desk_for(tmp_path, {})
    with pytest.raises(Failed) as caught:
        desk.copy(workshop, 121)
    told = re.search(r"^(\S+\.ipynb) line (\d+): the variable (\S+) is not defined", caught.value.sender)
    assert told, caught.value.sender
    line = (Path(str(NOTEBOOKS)) / workshop / told.group(1)).read_text().splitlines()[int(told.group(2)) - 1]
    assert told.group(3) in line
