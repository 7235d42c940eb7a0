"""What wod-install installs for notebooks is what may be busy: paths are taken from the plays and their variables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import pytest
import yaml

from tests.guards import seen
from wodmail.config import Settings
from wodmail.guard import policy as rules
from wodmail.guard.policy import Allowed
from wodmail.guard.programs import Programs, java_target

ROOT = Path(__file__).parents[2]
PLAYS = ROOT / "ansible"
HUB = "/opt/hub"
DISTRIBUTIONS = sorted(file.stem for file in (PLAYS / "group_vars").glob("*-*.yml"))


def variables(distribution: str) -> dict[str, Any]:
    """What the plays know on a distribution, as far as paths depend on it."""
    found: dict[str, Any] = {"JPHUB": HUB, "wod_os_release": "/etc/os-release"}
    for name in ("install", distribution):
        found |= yaml.safe_load((PLAYS / "group_vars" / f"{name}.yml").read_text(encoding="utf-8"))
    return found


def rendered(text: str, distribution: str) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["quote"] = shlex.quote
    return environment.from_string(text).render(variables(distribution))


def task(file: str, name: str, distribution: str) -> dict[str, Any]:
    """A module's arguments in a file of tasks, with the variables filled in."""
    tasks = yaml.safe_load((PLAYS / "tasks" / file).read_text(encoding="utf-8"))
    (found,) = (each for each in tasks if each["name"] == name)
    words = next(value for key, value in found.items() if key.startswith("ansible.builtin."))
    return {key: rendered(str(value), distribution) for key, value in words.items()}


def shell_variables(distribution: str) -> dict[str, str]:
    """What the variables of the script are that builds the Rust kernel."""
    text = rendered((ROOT / "sys" / "wod-build-evcxr.sh.j2").read_text(encoding="utf-8"), distribution)
    assert '"$root/bin/$crate"' in text  # where the kernel is
    found = {"triple": "x86_64-unknown-linux-gnu"}
    for name, value in re.findall(r"^\s*(?:export )?(\w+)=(\S+)$", text, re.MULTILINE):
        found.setdefault(name, re.sub(r"\$(\w+)", lambda part: found.get(part[1], part[0]), value))
    return found


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """The shipped list, on a machine where everything is installed."""
    (tmp_path / "sys").mkdir()
    monkeypatch.setattr(Programs, "installed", lambda *_: True)
    return Programs(rules.load(Settings(WODPRIVDIR=tmp_path, JPHUB=HUB)))


def entry(programs: Programs, exe: str, *words: str) -> Allowed | None:
    return programs.allowed(seen(exe=exe, argv=(PurePosixPath(exe).name, *words)))


def is_kernel(programs: Programs, exe: str, *words: str) -> bool:
    found = entry(programs, exe, *words)
    return found is not None and found.kernel


def is_builder(programs: Programs, exe: str) -> bool:
    found = entry(programs, exe)
    return found is not None and not found.kernel and not found.parents


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_kernels_that_are_installed_are_kernels(programs: Programs, distribution: str) -> None:
    known = variables(distribution)
    gonb = task("install_go.yml", "Build the Go kernel", distribution)["creates"]
    assert gonb.startswith(f"{HUB}/go/v") and is_kernel(programs, gonb, "--kernel", "k.json")
    rust = shell_variables(distribution)
    assert is_kernel(programs, f"{rust['root']}/bin/{rust['crate']}", "--control_file", "k.json")
    for each in known["wod_pip_kernels"]:
        module = each["module"].partition(".")[0]
        python = Path(known["wod_python"]).name
        for exe in (known["wod_python"], f"/usr/bin/{python}.99", f"{HUB}/bin/{python}"):
            assert is_kernel(programs, exe, "-m", module, "-f", "k.json"), exe
    folder = PurePosixPath(task("install_java.yml", "Note which Java kernel is in place", distribution)["dest"]).parent
    archive = f"{folder}/ijava-{known['wod_java_kernel']['version']}.jar"
    assert archive.startswith(f"{HUB}/share/jupyter/kernels/java/")
    for java in ("java-17-openjdk-amd64", "java-17-openjdk-17.0.13.0.11-3.el9.x86_64", "java-8-openjdk-amd64/jre"):
        assert is_kernel(programs, f"/usr/lib/jvm/{java}/bin/java", "-jar", archive, "k.json")
    assert known["wod_powershell_repository"]["packages"] == ["powershell"]
    assert is_kernel(programs, "/opt/microsoft/powershell/7/pwsh", "-NoLogo")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_compilers_that_are_installed_may_build(programs: Programs, distribution: str) -> None:
    rust = shell_variables(distribution)
    toolchain = PurePosixPath(rust["tools"])
    assert str(toolchain).startswith(f"{HUB}/rust/rustup/toolchains/{rust['rust']}-x86_64")
    linker = toolchain.parent / "lib" / "rustlib" / rust["triple"] / "bin" / "rust-lld"
    places = [str(toolchain / "cargo"), str(toolchain / "rustc"), str(linker), "/usr/bin/cargo", "/usr/bin/rustc"]
    go = {"golang-go": "/usr/lib/go-1.19", "golang": "/usr/lib/golang"}
    for package in variables(distribution)["wod_packages_go"]:
        places += [f"{go[package]}/bin/go", f"{go[package]}/pkg/tool/linux_amd64/compile"]
    places.append("/usr/lib/jvm/java-17-openjdk-amd64/bin/javac")
    assert [place for place in places if not is_builder(programs, place)] == []


def test_what_only_looks_like_one_is_none(programs: Programs) -> None:
    java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java"
    archive = f"{HUB}/share/jupyter/kernels/java/ijava-1.3.0.jar"
    others: list[tuple[str, ...]] = [
        (java,),
        (java, "-jar", "/student/student1/miner.jar", archive),
        (java, "-cp", "/student/student1/miner.jar", "Main", "-jar", archive),
        (java, "-javaagent:/student/student1/miner.jar", "-jar", archive),
        (java, "-Xbootclasspath/a:/student/student1/miner.jar", "-jar", archive),
        (f"{HUB}/go/v0.10.11/bin/other",),
        (f"{HUB}/rust/rustup/toolchains/1.88.0-x86_64-unknown-linux-gnu/bin/miri",),
        ("/student/student1/gonb",),
    ]
    assert [each for each in others if entry(programs, *each) is not None] == []


@pytest.mark.parametrize(
    ("words", "archive"),
    [
        ("java -jar /k.jar c.json", "/k.jar"),
        ("java -Xmx1g -Dname=value -XX:+UseSerialGC -jar /k.jar", "/k.jar"),
        ("java --add-opens jdk.jshell/jdk.jshell=ALL-UNNAMED -jar /k.jar", "/k.jar"),
        ("java -Xms64m -Xss512k -Djava.awt.headless=true -jar /k.jar", "/k.jar"),
        ("java -XX:MaxRAMPercentage=50.0 -XX:ParallelGCThreads=2 -jar /k.jar", "/k.jar"),
        ("java @options -jar /k.jar", ""),
        ("java -XX:VMOptionsFile=/student/student1/options -jar /k.jar", ""),
        ("java -XX:Flags=/student/student1/options -jar /k.jar", ""),
        ("java -XX:Flags=7 -jar /k.jar", ""),  # a file of that name
        ("java -XX:OnOutOfMemoryError=./miner -jar /k.jar", ""),
        ("java -XX:SharedArchiveFile=/student/student1/classes.jsa -jar /k.jar", ""),
        ("java -Djava.ext.dirs=/student/student1 -jar /k.jar", ""),
        ("java -Djava.library.path=/student/student1 -jar /k.jar", ""),
        ("java -Dsun.boot.library.path=/student/student1 -jar /k.jar", ""),
        ("java Main", ""),
        ("java -jar", ""),
        ("", ""),
    ],
)
def test_what_java_runs(words: str, archive: str) -> None:
    assert java_target(words.split(" "))[1] == archive
