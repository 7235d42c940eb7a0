"""Workshop scripts: what they are given, the order they run in, how they fail, and the functions they call."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.parts import require
from wodmail import paths, variables, vaultformat
from wodmail.children import Children
from wodmail.config import Settings
from wodmail.deliver import Site as Delivery
from wodmail.deliver import deliver
from wodmail.errors import Failed
from wodmail.model import Action, JobSpec
from wodmail.scripts import Kind, ScriptRun, Scripts

PROGRAM = re.compile(r"<<'PROGRAM'\n(.*?)^PROGRAM$", re.DOTALL | re.MULTILINE)
WOD_YML = """%YAML 1.1
# a workshop
---
name: Try it
range: [5, 9]
capacity: 5
reset: true
ldap: "false"
compile: "a.sh,b.sh"
"""


class Site:
    """A sandbox with one workshop and folders for scripts."""

    def __init__(self, folder: Path, **more: object) -> None:
        self.public, self.private = folder / "scripts", folder / "priv" / "scripts"
        self.vars, self.private_vars = folder / "ansible" / "group_vars", folder / "priv" / "ansible" / "group_vars"
        self.workshop = folder / "notebooks" / "WKSHP-Try101"
        for each in (self.public, self.private, self.vars, self.private_vars, self.workshop):
            each.mkdir(parents=True)
        (self.workshop / "wod.yml").write_text(WOD_YML)
        self.keys: dict[str, object] = {
            "WODSANDBOX": True,
            "WODSTATEDIR": str(folder / "state"),
            "WODNOBO": str(folder / "notebooks"),
            "WODSCRIPTDIR": str(self.public),
            "WODANSIBLEDIR": str(folder / "ansible"),
            "WODPRIVDIR": str(folder / "priv"),
            "WODUSERMAX": 300,
            "WODBASESTDID": 1000,
            **more,
        }
        self.config = folder / "wod.yml"
        self.config.write_text(yaml.safe_dump(self.keys))
        self.settings = Settings.model_validate(self.keys)
        self.scripts = Scripts(self.settings, Children(self.settings.WODSTATEDIR), config_file=self.config)
        self.wid = "0"
        self.lines: list[str] = []

    def run(self, kind: Kind = "create", w: str = "WKSHP-Try101", student: int = 7, **more: object) -> list[ScriptRun]:
        """Run the scripts of a kind for a job."""
        values: dict[str, object] = {"action": Action.CREATE, "students": (student,), "participant": 57, **more}
        spec = JobSpec(request=1, job=3, workshop=w, **values)  # type: ignore[arg-type]
        environment = {"randompw": "werty123", "accessToken": "tok", "wid": self.wid}
        return self.scripts.run(kind, spec, environment, self.lines.append)

    def output(self) -> list[str]:
        """What the scripts printed."""
        return [line for line in self.lines if not line.startswith("running ")]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site without scripts."""
    return Site(tmp_path)


def test_what_a_script_is_given(site: Site) -> None:
    show = f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'; pwd; echo $#"
    (site.public / "create-WKSHP-Try101.sh").write_text(show)
    site.wid = "4"
    site.run(w="CHLG-Try101", attempt=2)
    given, folder, count = site.output()
    environment = json.loads(given)
    wanted = {
        "action": "CREATE",
        "stdid": "7",
        "dbstdid": "1007",
        "stddir": str(site.settings.WODSTUDDIR / "student7"),
        "w": "CHLG-Try101",
        "ws": "WKSHP-Try101",
        "wid": "4",
        "userid": "57",
        "MODEWS": "CHLG",
        "randompw": "werty123",
        "accessToken": "tok",
        "WODAPIDBEXTURL": "",
        "WODATTEMPT": "2",
        "WODSANDBOX": "true",
        "WODUSERMAX": "300",
        "WODSTUDENTS": "7",
    }
    assert {name: environment.get(name) for name in wanted} == wanted
    folders = environment["PATH"].split(":")
    assert folders.index("/usr/bin") < folders.index(str(Path(sys.executable).parent)), "a site's python3 comes first"
    assert environment["LOGNAME"] == environment["USER"] != ""
    assert "WODRTARGET" not in environment
    assert (folder, count) == (str(site.settings.WODNOBO), "0")


def test_public_runs_before_private_and_a_template_is_rendered(site: Site) -> None:
    (site.vars / "all.yml").write_text("LAB: public lab\nROOM: '{{ LAB }}, room 1'\nIP-WKSHP-Try101: 10.0.0.9\n")
    (site.private_vars / "production").write_text("LAB: private lab\n")
    template = "echo '{{ ROOM }} {{ hostvars[inventory_hostname]['IP-WKSHP-Try101'] }} {{ WODUSERMAX }}'\n"
    (site.public / "create-WKSHP-Try101.sh.j2").write_text(template)
    (site.public / "create-WKSHP-Try101.sh").write_text("echo stale")
    (site.private / "create-WKSHP-Try101.sh").write_text("echo private")
    runs = site.run()
    assert site.output() == ["private lab, room 1 10.0.0.9 300", "private"]
    assert [(run.name, run.where, run.status) for run in runs] == [
        ("create-WKSHP-Try101.sh", "public", 0),
        ("create-WKSHP-Try101.sh", "private", 0),
    ]
    rendered = site.settings.WODSTATEDIR / "scripts" / "public" / "create-WKSHP-Try101.sh"
    assert rendered.stat().st_mode & 0o777 == 0o600


def test_there_may_be_none(site: Site) -> None:
    assert not site.scripts.exists("create", "WKSHP-Try101")
    assert site.run() == []
    with pytest.raises(Failed):
        site.scripts.exists("create", "WKSHP-../../etc/passwd")


@pytest.mark.parametrize(
    ("template", "line", "variable"),
    [
        ("echo ok\necho {{ NOWHERE }}\n", 2, "NOWHERE"),
        ("{% if true %}\necho {{ hostvars[inventory_hostname]['IP-WKSHP-X'] }}\n{% endif %}", 2, "IP-WKSHP-X"),
        ("\n\necho {{ 1 + }}\n", 3, "unexpected"),
        ("echo {{ CIRCLE }}", 1, "circle"),
    ],
)
def test_a_template_error_names_file_line_and_variable(site: Site, template: str, line: int, variable: str) -> None:
    (site.vars / "all.yml").write_text("CIRCLE: '{{ CIRCLE }}'\n")
    (site.public / "create-WKSHP-Try101.sh.j2").write_text(template)
    with pytest.raises(Failed) as error:
        site.run()
    assert f"create-WKSHP-Try101.sh.j2:{line}" in error.value.sender
    assert variable in error.value.sender
    assert str(site.public) in error.value.operator


def test_a_broken_variable_file_names_the_line_and_no_value(site: Site) -> None:
    (site.vars / "all.yml").write_text("A: 1\nSECRET: 'hunter2\nB: 3\n")
    (site.public / "create-WKSHP-Try101.sh.j2").write_text("true")
    with pytest.raises(Failed) as error:
        site.run()
    assert "all.yml" in error.value.sender
    assert "hunter2" not in error.value.sender + error.value.operator


def test_vaulted_variables_are_opened(tmp_path: Path) -> None:
    site = Site(tmp_path, VAULTPWD="key")
    (site.private_vars).joinpath("all.yml").write_bytes(vaultformat.encrypted(b'{"TOKEN": "inside"}', "key"))
    (site.public / "create-WKSHP-Try101.sh.j2").write_text("echo {{ TOKEN }}")
    site.run()
    assert site.output() == ["inside"]
    (site.private_vars / "all.yml").write_bytes(vaultformat.encrypted(b'{"TOKEN": "inside"}', "another"))
    with pytest.raises(Failed, match="encrypted with another password") as error:
        site.run()
    assert "VAULTPWD" in error.value.operator


def test_create_stops_at_the_first_failure(site: Site) -> None:
    (site.public / "create-WKSHP-Try101.sh").write_text("echo why >&2; exit 3")
    (site.private / "create-WKSHP-Try101.sh").write_text("echo private")
    with pytest.raises(Failed) as error:
        site.run()
    assert "create-WKSHP-Try101.sh ended with exit status 3" in error.value.sender
    assert error.value.output == "why\n"
    assert site.output() == ["why"]


def test_cleanup_runs_both_and_reports_every_failure(site: Site) -> None:
    (site.public / "cleanup-WKSHP-Try101.sh").write_text("echo one; exit 3")
    (site.private / "cleanup-WKSHP-Try101.sh").write_text("echo two; kill -9 $$")
    with pytest.raises(Failed) as error:
        site.run("cleanup", action=Action.CLEANUP)
    assert "exit status 3" in error.value.sender
    assert "signal 9" in error.value.sender
    assert site.output() == ["one", "two"]


def test_a_script_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, WODSCRIPTTIMEOUT=60)
    (site.public / "create-WKSHP-Try101.sh").write_text("echo begun; sleep 600")
    # Its time is over as soon as it has begun, however long that takes.
    ahead = SimpleNamespace(monotonic=lambda: time.monotonic() + (3600 if "begun" in site.lines else 0))
    monkeypatch.setattr("wodmail.children.time", ahead)
    with pytest.raises(Failed) as error:
        site.run()
    assert "time limit of 60 s" in error.value.sender
    assert error.value.output.startswith("begun\n")


def test_a_daemon_is_ended_and_counted(site: Site) -> None:
    (site.public / "create-WKSHP-Try101.sh").write_text("setsid sleep 600 </dev/null >/dev/null 2>&1 &\nsleep 0.2")
    (run,) = site.run()
    assert run.leftovers == 1


def test_the_password_is_on_no_command_line(site: Site) -> None:
    (site.public / "create-WKSHP-Try101.sh").write_text(
        "tr '\\0' ' ' </proc/$$/cmdline; tr '\\0' ' ' </proc/$PPID/cmdline"
    )
    site.run()
    assert "werty123" not in "".join(site.lines)


def test_many_at_once(site: Site) -> None:
    (site.public / "create-WKSHP-Try101.sh.j2").write_text("echo $stdid {{ WODUSERMAX }}")
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda student: site.run(student=student), range(1, 41)))
    assert sorted(site.output()) == sorted(f"{student} 300" for student in range(1, 41))


@pytest.mark.parametrize(
    ("appliance", "address", "student", "target"),
    [
        ("monoappliance", "10.1.2.3", 9, "10.1.2.3"),
        ("multiappliance", "10.1.2.3", 5, "10.1.2.3"),
        ("multiappliance", "10.1.2.3", 9, "10.1.2.7"),
        ("multiappliance", "10.1.2.253", 9, "no appliance for student 9"),
        ("multiappliance", "10.1.2.3", 4, "no appliance for student 4"),
        ("multiappliance", "lab.example.org", 9, "not usable"),
        ("monoappliance", "x.y.z.t", 9, "not configured"),
        ("monoappliance", "", 9, "not configured"),
    ],
)
def test_the_appliance_of_a_student(site: Site, appliance: str, address: str, student: int, target: str) -> None:
    (site.workshop / "wod.yml").write_text(f"{WOD_YML}{appliance}: true\n")
    (site.vars / "all.yml").write_text("IP-WKSHP-Try101: 192.0.2.1\n")
    (site.private_vars / "production.yml").write_text(f"IP-WKSHP-Try101: '{address}'\n")
    (site.public / "create-WKSHP-Try101.sh").write_text("echo $WODRTARGET")
    if target[0].isdigit():
        site.run(student=student, w="CHLG-Try101")
        assert site.output() == [target]
    else:
        with pytest.raises(Failed, match=target) as error:
            site.run(student=student)
        assert "IP-WKSHP-Try101" in error.value.operator


FUNCTIONS = """
. "$WODFUNCTIONS"
id=$(wod_get_workshop_id WKSHP-Try101)
echo "token=$(wod_get_session_token)"
echo "name=$(wod_get_workshop_name "$id") $(wid=0 wod_get_workshop_name)"
echo "status=$(wod_get_reset_status "$id") $(wod_get_ldap_status "$id") $(wod_get_varpass_status "$id")"
echo "appliance=$(wod_get_monoappliance_status "$id") $(wod_get_multiappliance_status "$id")"
echo "compile=$(wod_get_compile_status "$id")"
echo "range=$(wod_get_range_min "$id")-$(wod_get_range_max "$id")"
echo "base=$(wod_get_appliance_baseip WKSHP-Try101)"
echo "clean=$(wod_get_cleaned_status 57)"
wod_wait_till_clean 57 && echo "waited"
wod_test_stdid 7 && echo "student"
wod_test_stdid 301 2>/dev/null || echo "no student $?"
wod_get_workshop_id WKSHP-Nowhere 2>/dev/null || echo "no workshop $?"
wod_update_ldap_passwd 2>/dev/null || echo "no directory $?"
new=$(wod_generate_randompwd); echo "new=${{#new}}"
wod_erase_student && ls -A "$stddir"
wod_cleanup_processes_student && echo "ended"
mkdir "$stddir/WKSHP-Try101"; cp "{notebook}" "$stddir/WKSHP-Try101/"
echo "ratio=$(wod_get_completion_ratio WKSHP-Try101)"
wod_create_var_passwd && head -c 14 "{passfile}"
"""


def test_the_functions_answer(site: Site, tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "execution_count": count, "metadata": {}, "outputs": [], "source": ""}
        for count in (1, None)
    ]
    notebook = tmp_path / "one.ipynb"
    notebook.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))
    (site.vars / "all.yml").write_text("IP-WKSHP-Try101: 10.1.2.3\n")
    passfile = tmp_path / "priv/ansible/production/pass/variables_WKSHP-Try101_7.yml"
    script = FUNCTIONS.format(notebook=notebook, passfile=passfile)
    (site.public / "create-WKSHP-Try101.sh").write_text(script)
    site.run()
    out = site.output()
    assert out[:10] == [
        "token=",
        "name=WKSHP-Try101 WKSHP-Try101",
        "status=true false false",
        "appliance=false false",
        "compile=a.sh,b.sh",
        "range=5-9",
        "base=10.1.2.3",
        "clean=true",
        "waited",
        "student",
    ]
    assert out[10:14] == ["no student 1", "no workshop 1", "no directory 1", "new=8"]
    assert ".ssh" in out
    assert out[-3:] == ["ended", "ratio=50", "$ANSIBLE_VAULT"]


APPLIANCE = """
. "$WODFUNCTIONS"
wod_create_appliance
ls "$WODAPPLIANCESCRIPTS"
[ -x "$WODAPPLIANCESCRIPTS/reset-appliance.sh" ] && echo "executable"
wod_get_appliance_target CHLG-Try101 9
wod_get_appliance_target WKSHP-Plain101 9 2>/dev/null || echo "none $?"
stdid=7x "$WODAPPLIANCESCRIPTS/reset-appliance.sh" 2>/dev/null || echo "refused $?"
"""


def test_the_scripts_for_appliances_are_at_hand(site: Site) -> None:
    (site.workshop / "wod.yml").write_text(f"{WOD_YML}multiappliance: true\n")
    (site.workshop.parent / "WKSHP-Plain101").mkdir()
    (site.workshop.parent / "WKSHP-Plain101" / "wod.yml").write_text(WOD_YML)
    (site.vars / "all.yml").write_text("IP-WKSHP-Try101: 192.0.2.3\n")
    (site.public / "create-appliance.sh").write_text("echo own")
    (site.public / "create-WKSHP-Try101.sh").write_text(APPLIANCE)
    site.run()
    assert site.output() == [
        "own",
        "appliance.sh",
        "check-appliance.sh",
        "cleanup-container-ratio.sh",
        "container-workshop.sh",
        "create-appliance.sh",
        "reset-appliance.sh",
        "executable",
        "192.0.2.7",
        "none 1",
        "refused 64",
    ]


def test_own_scripts_are_clean(tmp_path: Path) -> None:
    shellcheck = require("shellcheck")
    shutil.copytree(paths.share("scripts"), tmp_path / "scripts")
    deliver([tmp_path / "scripts"], Delivery(variables.for_group(Site(tmp_path / "site").settings)))
    scripts = sorted((tmp_path / "scripts").glob("*.sh"))
    assert {"appliance.sh", "functions.sh", "create-WKSHP-Appliance101.sh"} < {script.name for script in scripts}
    texts = {script.stem: PROGRAM.findall(script.read_text()) for script in scripts}
    ((prelude,), programs) = texts.pop("appliance"), {name: found for name, found in texts.items() if found}
    assert len(programs) == 5
    there = []
    for name, found in programs.items():
        # What runs on an appliance is a text to the script that sends it.
        there.append(tmp_path / "scripts" / f"{name}-there.sh")
        there[-1].write_text("#!/bin/bash\n" + prelude + "".join(found))
    # Put together, there are functions of the prelude that nothing calls (2317, 2329). `A && B || refuse` is
    # meant (2015), so are names without blanks as words (2013) and quotes in which nothing shall be expanded (2016).
    for files, options in ((scripts, []), (there, ["--exclude=SC2013,SC2015,SC2016,SC2317,SC2329"])):
        checked = [shellcheck, *options, *map(str, files)]
        done = subprocess.run(checked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_own_scripts_are_clean_and_run(tmp_path: Path) -> None:
    shellcheck = require("shellcheck")
    site = Site(tmp_path, WODSCRIPTDIR=str(paths.share("scripts")))
    for name in ("Shell101", "Git101"):
        (site.workshop.parent / f"WKSHP-{name}").mkdir()
        site.run("create", f"WKSHP-{name}")
        site.run("create", f"WKSHP-{name}")
        site.run("cleanup", f"WKSHP-{name}", action=Action.CLEANUP)
    site.run("reset", "WKSHP-Git101", action=Action.RESET, students=(7, 8))
    home = site.settings.WODSTUDDIR / "student7"
    (home / "WKSHP-Demo101").mkdir(parents=True, exist_ok=True)
    (home / "WKSHP-Demo101" / "0-ReadMeFirst.ipynb").touch()
    for kind in ("create", "post-copy", "cleanup"):
        site.run(kind, "WKSHP-Demo101")  # type: ignore[arg-type]
    rendered = sorted((site.settings.WODSTATEDIR / "scripts" / "public").glob("*.sh"))
    assert len(rendered) == 9
    done = subprocess.run([shellcheck, *map(str, rendered)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "student 7 did 0 % of WKSHP-Git101" in site.output()
    assert list((site.settings.WODSTATEDIR / "workshops" / "Git101").iterdir()) == []
    assert list((site.settings.WODSTATEDIR / "workshops" / "Shell101").iterdir()) == []
