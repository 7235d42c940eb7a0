"""What an installation is made of: lists of packages, sources, and files that are filled in."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from click.testing import CliRunner
from jinja2.nativetypes import NativeEnvironment

from tests.parts import require
from wodmail import paths
from wodmail.cli.install import install
from wodmail.installing import PLAYBOOKS, SOURCES

ANSIBLE = paths.share("ansible")
DISTRIBUTIONS = ("Debian-12", "Debian-13", "Rocky-9", "Ubuntu-22", "Ubuntu-24")
TESTED = {"Debian-12"}


def variables(name: str) -> dict[str, Any]:
    """A file of group_vars."""
    found: dict[str, Any] = yaml.safe_load((ANSIBLE / "group_vars" / f"{name}.yml").read_text(encoding="utf-8"))
    return found


def filled(template: str) -> str:
    """A template of sys/ with the lists of Debian 12, as Ansible fills it in."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["quote"] = lambda text: f"'{text}'"
    values = {"JPHUB": "/opt/jupyterhub", **variables("install"), **variables("Debian-12"), "wod_hub_port": 8000}
    return environment.from_string((paths.share("sys") / template).read_text(encoding="utf-8")).render(values)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_distribution_has_every_list(name: str) -> None:
    """A playbook never meets a distribution for which a name is missing; who was not run says so."""
    assert set(variables("Debian-12")) <= set(variables(name))
    text = (ANSIBLE / "group_vars" / f"{name}.yml").read_text(encoding="utf-8")
    assert ("Untested" in text) == (name not in TESTED)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_package_is_listed_twice(name: str) -> None:
    """In one list."""
    for key, value in variables(name).items():
        if key.startswith("wod_packages"):
            assert len(value) == len(set(value)), key


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_others_only_recommend_is_listed(name: str) -> None:
    """What is recommended is not installed by itself; without these two no container finds another by its name."""
    assert "rsync" in variables(name)["wod_packages_backend"], "Ansible101's notebooks play ansible.posix.synchronize"
    there = {"aardvark-dns", "netavark"} & set(variables(name)["wod_packages_podman"])
    assert len(there) == (0 if name == "Ubuntu-22" else 2), "Ubuntu 22 has neither"


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_an_appliance_without_systemd_is_left_its_services(engine: str) -> None:
    """docs/appliances.md: `--skip-tags services`."""
    file = ANSIBLE / f"setup_{engine}_based_appliance.yml"
    (last,) = yaml.safe_load(file.read_text(encoding="utf-8"))[-1]["tasks"]
    assert last["ansible.builtin.import_tasks"] == "tasks/container_workshop.yml"
    assert last["tags"] == ["services"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_a_tag_and_is_documented(source: str) -> None:
    """`--without` skips the tasks with the tag of the same name."""
    playbooks = "".join(file.read_text(encoding="utf-8") for file in ANSIBLE.glob("install_*.yml"))
    assert f"tags: [source_{source}]" in playbooks
    assert f"| `{source}` |" in (ANSIBLE.parent / "docs" / "install.md").read_text(encoding="utf-8")


def test_the_playbooks_of_every_type_are_there() -> None:
    """wod-install plays what exists."""
    assert [name for names in PLAYBOOKS.values() for name in names if not (ANSIBLE / name).is_file()] == []


@pytest.mark.parametrize(
    ("said", "sources"),
    [
        ({}, []),
        ({"WODWITHOUT": []}, []),
        ({"WODWITHOUT": "none"}, []),
        ({"WODWITHOUT": "others"}, list(SOURCES)),
        ({"WODWITHOUT": ["docker", "others"]}, list(SOURCES)),
        ({"WODWITHOUT": "galaxy, docker"}, ["galaxy", "docker"]),
    ],
)
def test_a_playbook_by_hand_knows_what_is_left_out(said: dict[str, Any], sources: list[str]) -> None:
    """From /etc/wod.yml alone, in all the ways that it may be written there; as wod-install reads it."""
    tasks = yaml.safe_load((ANSIBLE / "tasks" / "distribution.yml").read_text(encoding="utf-8"))
    task = tasks[-1]
    values: dict[str, Any] = {**variables("install"), **said}
    for name, text in {**task["vars"], **task["ansible.builtin.set_fact"]}.items():
        values[name] = NativeEnvironment(undefined=jinja2.StrictUndefined).from_string(text).render(values)
    assert values["wod_without"] == sources
    docker = {each["name"]: each.get("when", "") for each in playbook("install_docker")[0]["tasks"]}
    own, theirs = (true(docker[name], values) for name in ("Docker's own packages", "The distribution's Docker"))
    assert (own, theirs) == ("docker" not in sources, "docker" in sources)


def test_a_docker_without_a_service_is_not_started() -> None:
    """Rocky's is Podman under that name."""
    tasks = {task["name"]: task for task in playbook("install_docker")[0]["tasks"]}
    for there in (True, False):
        services = {"docker.service" if there else "podman.service": {"state": "stopped"}}
        assert true(tasks["Start Docker"]["when"], {"ansible_facts": {"services": services}}) == there
    assert "ansible.builtin.service_facts" in tasks["See which services there are"]
    assert list(tasks).index("See which services there are") == list(tasks).index("Start Docker") - 1


def test_a_database_s_password_is_kept_as_its_door_takes_it() -> None:
    """scram-sha-256 is what pg_hba.conf asks for; PostgreSQL 13, Rocky's, would keep md5 unless it is told."""
    tasks = yaml.safe_load((ANSIBLE / "tasks" / "neighbour_database.yml").read_text(encoding="utf-8"))[0]["block"]
    (told,) = (task["ansible.builtin.command"]["stdin"] for task in tasks if task["name"] == "Set its password")
    lines = told.split("\n")
    assert lines.index("set password_encryption to 'scram-sha-256';") < len(lines) - 1
    assert lines[-1].startswith("alter role ")
    assert "scram-sha-256" in (ANSIBLE / "tasks" / "neighbour_packages.yml").read_text(encoding="utf-8")


def playbook(name: str) -> list[dict[str, Any]]:
    """The plays of a playbook."""
    found: list[dict[str, Any]] = yaml.safe_load((ANSIBLE / f"{name}.yml").read_text(encoding="utf-8"))
    return found


def true(condition: str, values: dict[str, Any]) -> bool:
    """What a condition comes to."""
    return bool(jinja2.Environment(undefined=jinja2.StrictUndefined).compile_expression(condition)(**values))


def test_the_script_that_builds_the_rust_kernel_is_clean(tmp_path: Path) -> None:
    """As shellcheck sees it when its variables are filled in."""
    script = tmp_path / "build.sh"
    script.write_text(filled("wod-build-evcxr.sh.j2"), encoding="utf-8")
    done = subprocess.run([require("shellcheck"), str(script)], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout


def test_the_configuration_of_the_hub_holds_no_secret_and_no_admin() -> None:
    """It is open for reading; the token is in a file of root's."""
    text = filled("jupyterhub_config.py.j2")
    lines = [ast.unparse(line) for line in ast.parse(text).body]
    assert "c.Authenticator.admin_users = set()" in lines
    assert "c.JupyterHub.bind_url = 'http://:8000'" in lines
    assert "{{" not in text and "WODBETOKEN" not in text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--without", "galxy"], "there is no source galxy"),
        (["-t", "desktop"], "is not one of"),
        (["-p", "0"], "1<=x<=65535"),
        (["-n", "0"], "x>=1"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_done(argv: list[str], words: str, tmp_path: Path) -> None:
    """In words that name what would be right."""
    file = tmp_path / "wod.yml"
    done = CliRunner().invoke(install, [*argv, "--config", str(file), "--log", str(tmp_path / "log")])
    assert done.exit_code == 2 and words in done.output
    assert list(tmp_path.iterdir()) == []
