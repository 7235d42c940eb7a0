"""copy_folder through real ansible-runner runs: what is written, what goes wrong, what is told."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from tests.copying import WORKSHOPS, Desk, own_workshop, settings_for
from wodmail import paths, vault
from wodmail.errors import Failed


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def texts(path: Path) -> str:
    """All lines of a notebook's cells."""
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def test_a_workshop_is_personalised(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    put(tmp_path / "public/group_vars/all.yml", "IP-WKSHP-Small101: 10.9.8.{{ LAST }}\nLAST: 7\n")
    put(desk.home() / "WKSHP-Small101/left-over.txt", "of an earlier run")
    put(desk.home() / "own-notes.txt", "the student's own")
    result = desk.copy("WKSHP-Small101")
    home, source = desk.home() / "WKSHP-Small101", WORKSHOPS / "WKSHP-Small101"
    count = sum(path.is_file() for path in source.rglob("*"))
    assert (result.files, result.expanded) == (count, 9)
    first, work = texts(home / "0-ReadMeFirst.ipynb"), texts(home / "1-Work.ipynb")
    assert first == "# Student 7 of Own Workshops\nworkshop WKSHP-Small101 WKSHP-Small101"
    assert "Address: 10.9.8.7\nNumber: 7\nkept: {{ range .items }}\nalso kept: {{ name }}\nupper: ABC" in work
    assert (home / "tool.py").read_text() == "NUMBER = 7\nGUIDED = True\n"
    assert (home / "run.sh").read_text() == '#!/bin/bash\necho "7" \\\n  "$HOME"\n'
    assert (home / "run.sh").stat().st_mode & 0o777 == 0o755
    for name in ("play.yaml", "vars.src", "main.tf", "lab.env", "Variables.ps1"):
        assert "7" in (home / name).read_text()
        assert "STDID" not in (home / name).read_text()
    kept = ["Other.ps1", "README.md", "config.yml", "templates/lab.sh.j2", "notes.py.j2", "plain.py", "wod.yml"]
    for name in [*kept, "Pictures/dots.png", "Pictures/odd.bin", ".ipynb_checkpoints/1-Work-checkpoint.ipynb"]:
        assert (home / name).read_bytes() == (source / name).read_bytes()
    assert not (home / "left-over.txt").exists()
    assert (desk.home() / "own-notes.txt").read_text() == "the student's own"
    assert desk.lines == [f"copy_folder: {result.note}"]


def test_jupyterlab_opens_the_first_notebook(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    desk.copy("CHLG-Pass101", pass_file=_pass_file(tmp_path, "CHLG-Pass101", 7, "hunter22"))
    home = desk.home() / "WKSHP-Pass101"
    workspace = json.loads((desk.home() / ".jupyter/lab/workspaces/default-37a8.jupyterlab-workspace").read_text())
    tab = "notebook:WKSHP-Pass101/0-ReadMeFirst.ipynb"
    assert workspace["metadata"]["id"] == "default"
    assert workspace["data"]["layout-restorer:data"]["main"]["current"] == tab
    assert workspace["data"][tab]["data"]["path"] == "WKSHP-Pass101/0-ReadMeFirst.ipynb"
    checkpoint = home / ".ipynb_checkpoints/0-ReadMeFirst-checkpoint.ipynb"
    assert checkpoint.read_bytes() == (home / "0-ReadMeFirst.ipynb").read_bytes()
    assert (home / "wod-generate-pdf.sh").stat().st_mode & 0o777 == 0o755


def _pass_file(tmp_path: Path, challenge: str, student: int, password: str) -> Path:
    path = vault.pass_file(settings_for(tmp_path), challenge, student)
    vault.write(path, {"PASSSTU": password}, "open sesame")
    return path


def test_the_pass_file_is_found_by_itself_and_belongs_to_one_student(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    _pass_file(tmp_path, "WKSHP-Pass101", 7, "hunter22")
    desk.copy("WKSHP-Pass101", 7)
    assert "Your password: hunter22" in texts(desk.home() / "WKSHP-Pass101/0-ReadMeFirst.ipynb")
    with pytest.raises(Failed, match=r'0-ReadMeFirst.ipynb line 14: the variable PASSSTU .* set "varpass: true"'):
        desk.copy("WKSHP-Pass101", 8)


def test_a_vault_file_of_another_password_is_told_apart_from_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "foreign.yml"
    vault.write(path, {"PASSSTU": "hunter22"}, "another word")
    with pytest.raises(Failed, match=r"foreign\.yml was encrypted with another password") as caught:
        Desk(settings_for(tmp_path)).copy("WKSHP-Pass101", 7, path)
    assert "hunter22" not in str(vars(caught.value))
    assert "sesame" not in str(vars(caught.value))


def test_both_modes(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    put(tmp_path / "public/group_vars/production", "IP-WKSHP-Small101: x\n")
    desk.copy("CHLG-Small101")
    first = texts(desk.home() / "WKSHP-Small101/0-ReadMeFirst.ipynb")
    assert first.endswith("challenge WKSHP-Small101 CHLG-Small101")
    assert (desk.home() / "WKSHP-Small101/tool.py").read_text() == "NUMBER = 7\n"


LAYERS = [
    "public/group_vars/all.yml",
    "public/group_vars/production",
    "private/group_vars/all.yml",
    "private/group_vars/production",
    "public/production/variables_WKSHP-Order101.yml",
    "private/production/variables_WKSHP-Order101.yml",
    "private/production/pass/variables_WKSHP-Order101_7.yml",
]


def test_later_variables_win(tmp_path: Path) -> None:
    names = " ".join(f"{{{{ V{number} }}}}" for number in range(len(LAYERS) + 1))
    folder = own_workshop(tmp_path / "books", "WKSHP-Order101", {"order.py": names.encode()})
    values = {f"V{number}": "config" for number in range(len(LAYERS) + 1)}
    desk = Desk(settings_for(tmp_path, WODNOBO=folder, **values))
    for layer, name in enumerate(LAYERS):
        put(tmp_path / name, "".join(f"V{number}: layer{layer}\n" for number in range(layer + 1, len(LAYERS) + 1)))
    desk.copy("WKSHP-Order101")
    made = (desk.home() / "WKSHP-Order101/order.py").read_text().split()
    assert made == ["config", *(f"layer{number}" for number in range(len(LAYERS)))]


def test_nothing_overrides_the_inputs(tmp_path: Path) -> None:
    files = {"who.py": b"{{ STDID }} {{ MODEWS }} {{ inventory_hostname }} {{ hostvars[inventory_hostname].STDID }}"}
    desk = Desk(settings_for(tmp_path, WODNOBO=own_workshop(tmp_path / "books", "WKSHP-Who101", files)))
    put(tmp_path / "private/group_vars/all.yml", "STDID: 99\nMODEWS: X\ninventory_hostname: elsewhere\n")
    desk.copy("WKSHP-Who101")
    assert (desk.home() / "WKSHP-Who101/who.py").read_text() == "7 WKSHP 127.0.0.1 7"


def test_an_undefined_variable_is_named_with_file_and_the_line_that_asked(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    with pytest.raises(Failed, match=r"0-ReadMeFirst.ipynb line 10: the variable LABROOM is not defined") as caught:
        desk.copy("WKSHP-Undefined101")
    assert str(WORKSHOPS / "WKSHP-Undefined101/0-ReadMeFirst.ipynb") + ":10" in caught.value.operator
    assert not (desk.home() / "WKSHP-Undefined101").exists()
    with pytest.raises(Failed, match=r"0-ReadMeFirst.ipynb line 8: the variable LABROOM is not defined"):
        desk.copy("CHLG-Undefined101")


def test_a_variable_that_is_missing_inside_another_is_named(tmp_path: Path) -> None:
    files = {"0-ReadMeFirst.py": b"# a\n# b\nx = '{{ OUTER }}'\n"}
    desk = Desk(settings_for(tmp_path, WODNOBO=own_workshop(tmp_path / "books", "WKSHP-Deep101", files)))
    put(tmp_path / "public/group_vars/all.yml", 'OUTER: "{{ INNER }}"\n')
    with pytest.raises(Failed, match=r"0-ReadMeFirst\.py line 3: the variable INNER is not defined"):
        desk.copy("WKSHP-Deep101")


def test_a_filter_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    files = {"a.py": b"x = 1\ny = {{ 'pear' | from_json }}\n"}
    desk = Desk(settings_for(tmp_path, WODNOBO=own_workshop(tmp_path / "books", "WKSHP-Filter101", files)))
    with pytest.raises(Failed, match=r"a\.py line 2: the template can't be expanded"):
        desk.copy("WKSHP-Filter101")


def test_a_syntax_error_is_named_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"0-ReadMeFirst\.ipynb line \d+: the template's syntax is wrong: .*endif"):
        Desk(settings_for(tmp_path)).copy("WKSHP-Syntax101")


def test_an_invalid_notebook_after_expansion_is_named(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path, QUOTED='"ouch"'))
    with pytest.raises(Failed, match=r"1-Work\.ipynb is no valid notebook .* line 7 is not valid JSON"):
        desk.copy("WKSHP-Broken101")


def test_text_that_is_no_utf8_is_only_an_error_where_it_would_be_expanded(tmp_path: Path) -> None:
    folder = own_workshop(tmp_path / "books", "WKSHP-Latin101", {"plain.py": b"# caf\xe9\n"})
    desk = Desk(settings_for(tmp_path, WODNOBO=folder))
    desk.copy("WKSHP-Latin101")
    assert (desk.home() / "WKSHP-Latin101/plain.py").read_bytes() == b"# caf\xe9\n"
    own_workshop(folder, "WKSHP-Latin101", {"mixed.py": b"# {{ STDID }}\n# caf\xe9\n"})
    with pytest.raises(Failed, match=r"mixed\.py line 2 is not UTF-8"):
        desk.copy("WKSHP-Latin101")


def test_the_names_of_files_are_only_names(tmp_path: Path) -> None:
    files = {
        "$(touch x);\n.py": b"{{ STDID }}",
        "{{ STDID }}.py": b"{{ STDID }}",
        "-rf": b"",
        "#jinja2:x.py": b"{{ 1 }}",
    }
    desk = Desk(settings_for(tmp_path, WODNOBO=own_workshop(tmp_path / "books", "WKSHP-Names101", files)))
    assert desk.copy("WKSHP-Names101").files == 4
    home = desk.home() / "WKSHP-Names101"
    assert (home / "$(touch x);\n.py").read_text() == "7"
    assert (home / "{{ STDID }}.py").read_text() == "7"


def test_facts_are_gathered_when_a_template_names_them_and_kept(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    desk.copy("WKSHP-Facts101")
    facts = tmp_path / "state/facts.json"
    name = json.loads(facts.read_text())["nodename"]
    assert f"on {name} = {name}" in texts(desk.home() / "WKSHP-Facts101/0-ReadMeFirst.ipynb")
    assert facts.stat().st_mode & 0o777 == 0o600
    facts.write_text(json.dumps({"nodename": "kept.example"}))
    desk.copy("WKSHP-Facts101")
    assert "on kept.example = kept.example" in texts(desk.home() / "WKSHP-Facts101/0-ReadMeFirst.ipynb")


def test_no_facts_without_need(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    desk.copy("WKSHP-Some101", 6)
    assert not (tmp_path / "state/facts.json").exists()


def test_inventories_that_say_localhost_and_list_other_hosts(tmp_path: Path) -> None:
    lines = "[production]\nother.example\nbe.example ansible_connection=localhost COLOUR=green\n"
    put(tmp_path / "public/inventory", lines)
    files = {"a.py": b"{{ inventory_hostname }} {{ COLOUR }} {{ hostvars['other.example'].inventory_hostname }}"}
    folder = own_workshop(tmp_path / "books", "WKSHP-Hosts101", files)
    desk = Desk(settings_for(tmp_path, WODNOBO=folder, WODBEFQDN="be.example"))
    desk.copy("WKSHP-Hosts101")
    assert (desk.home() / "WKSHP-Hosts101/a.py").read_text() == "be.example green other.example"


def test_a_missing_workshop_is_told(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no folder WKSHP-Nowhere101"):
        Desk(settings_for(tmp_path)).copy("WKSHP-Nowhere101")


def test_a_home_that_is_a_link_is_not_written_to(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    put(tmp_path / "elsewhere/keep", "x")
    desk.settings.WODSTUDDIR.mkdir(parents=True)
    desk.home(6).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failed, match="no folder of its own"):
        desk.copy("WKSHP-Some101", 6)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["keep"]


def test_a_link_planted_in_the_home_leads_nowhere(tmp_path: Path) -> None:
    desk = Desk(settings_for(tmp_path))
    put(tmp_path / "elsewhere/0-ReadMeFirst.ipynb", "precious")
    desk.home(6).mkdir(parents=True)
    for name in ("WKSHP-Some101", ".jupyter"):
        (desk.home(6) / name).symlink_to(tmp_path / "elsewhere")
    desk.copy("WKSHP-Some101", 6)
    assert (tmp_path / "elsewhere/0-ReadMeFirst.ipynb").read_text() == "precious"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["0-ReadMeFirst.ipynb"]
    assert "fine" in texts(desk.home(6) / "WKSHP-Some101/0-ReadMeFirst.ipynb")


@pytest.mark.parametrize("kind", ["WKSHP", "CHLG"])
def test_the_demo_workshop_needs_no_variables_and_its_cells_run(tmp_path: Path, kind: str) -> None:
    desk = Desk(settings_for(tmp_path, WODNOBO=paths.share("demo") / "notebooks"))
    assert desk.copy(f"{kind}-Demo101", 12).expanded == 4
    home = desk.home(12) / "WKSHP-Demo101"
    books = sorted(home.glob("*.ipynb"))
    assert len(books) == 3
    names: dict[str, object] = {}
    for book in books:
        read = nbformat.read(book, as_version=4)
        nbformat.validate(read)
        for cell in read.cells:
            if cell.cell_type == "code":
                exec(cell.source, names)  # noqa: S102 - our own notebook
    assert names["lamp"] == 12
    assert "{{ STDID }}" in (home / "README.md").read_text()
    assert (home / "lamp.env").read_text().endswith(f"LAMP=12\nMODE={kind}\n")
