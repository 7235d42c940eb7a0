"""compile_scripts: listed scripts become programs in the home, with the real shc and the real playbook."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.copying import Desk, settings_for
from tests.parts import require
from tests.support import wait_until
from wodmail import paths, processes, vault, vaultkeys
from wodmail.errors import Failed
from wodmail.model import Action, JobSpec
from wodmail.playbooks import CopyResult

WORKSHOP = "WKSHP-Small101"
TOKEN, PASSWORD = "mltok-4711-secret", "stupass-4711"
TRAIN = """#!/bin/bash
{% if MODEWS == 'WKSHP' %}
echo "$(id -u) student {{ STDID }} of {{ WORKSHOP }} with {{ MLTOK }} and {{ PASSSTU }} $1"
{% endif %}
"""


@pytest.fixture(autouse=True)
def tools() -> None:
    """What compiles."""
    for part in ("shc", "cc", "strings"):
        require(part)


class Bench:
    """Scripts in two folders, a desk that compiles them."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.folder = folder
        self.public, self.private = folder / "scripts", folder / "private-scripts"
        for each in (self.public, self.private, folder / "private" / "production"):
            each.mkdir(parents=True)
        values = {"WODSCRIPTDIR": self.public, "WODSCRIPTPRIVDIR": self.private, **values}
        self.settings = settings_for(folder, **values)
        self.desk = Desk(self.settings)
        self.tokens(f"MLTOK: {TOKEN}\n")
        vault.write(
            vault.pass_file(self.settings, WORKSHOP, 7), {"PASSSTU": PASSWORD}, vaultkeys.password(self.settings)
        )

    def tokens(self, text: str) -> None:
        """The workshop's private variable file."""
        (self.folder / "private" / "production" / f"variables_{WORKSHOP}.yml").write_text(text)

    def script(self, name: str, text: str, *, private: bool = False) -> None:
        """Write a script or template."""
        ((self.private if private else self.public) / name).write_text(text)

    def compile(self, *names: str) -> CopyResult:
        """Compile into the home of student 7."""
        spec = JobSpec(request=1, job=1, action=Action.CREATE, students=(7,), workshop=WORKSHOP)
        return self.desk.playbooks.compile_scripts(spec, 7, names, None, self.desk.lines.append)

    def program(self, name: str) -> Path:
        """A program in the home."""
        return self.desk.home() / name

    def run(self, name: str, *arguments: str) -> str:
        """Run a program, and what it printed."""
        argv = [str(self.program(name)), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def failure(self, *names: str) -> Failed:
        """The error of compiling these; no secret is in it, nothing in the home."""
        with pytest.raises(Failed) as caught:
            self.compile(*names)
        told = caught.value.sender + caught.value.operator + caught.value.output + "\n".join(self.desk.lines)
        assert TOKEN not in told
        assert PASSWORD not in told
        assert not self.desk.home().exists() or list(self.desk.home().iterdir()) == []
        return caught.value

    def left(self) -> list[str]:
        """Everything below the folder that holds a token, but for the files that shall."""
        found = [file for file in self.folder.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
        return [str(file) for file in found if not file.name.startswith("variables_")]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One for each test."""
    return Bench(tmp_path)


def test_programs_hold_their_values_and_show_none(bench: Bench) -> None:
    bench.script("train.sh.j2", TRAIN)
    bench.script("both.sh", "#!/bin/bash\necho public\n")
    bench.script("both.sh", '#!/bin/bash\nname="{{ kept }}"; echo "private ${#name}"\n', private=True)
    bench.script("mine.sh", "#!/bin/sh\necho mine\n", private=True)
    done = bench.compile("train.sh", "both.sh", "mine.sh")
    wanted = "train from public train.sh.j2, both from private both.sh, mine from private mine.sh"
    assert (done.files, done.expanded, done.note) == (3, 1, wanted)
    said = bench.run("train", "now")
    assert said == f"{os.getuid()} student 7 of {WORKSHOP} with {TOKEN} and {PASSWORD} now\n"
    assert (bench.run("both"), bench.run("mine")) == ("private 10\n", "mine\n")
    seen = subprocess.run(["strings", "-a", str(bench.program("train"))], capture_output=True, text=True, check=True)
    assert "GLIBC" in seen.stdout
    assert TOKEN not in seen.stdout and PASSWORD not in seen.stdout and "student" not in seen.stdout
    assert sorted(file.name for file in bench.desk.home().iterdir()) == ["both", "mine", "train"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in bench.desk.home().iterdir()} == {0o700}
    assert bench.left() == []
    assert list((bench.folder / "state" / "runs").iterdir()) == []


def test_a_second_run_replaces_the_program_and_one_that_runs_goes_on(bench: Bench) -> None:
    bench.script("wait.sh.j2", "#!/bin/bash\necho {{ MLTOK }}\nread -r word\necho $word\n")
    bench.compile("wait.sh")
    with subprocess.Popen([bench.program("wait")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as old:
        assert old.stdout is not None
        assert old.stdout.readline() == f"{TOKEN}\n"
        bench.tokens("MLTOK: another-token\n")
        bench.compile("wait.sh")
        out, _ = old.communicate("still here\n", timeout=20)
    assert out == "still here\n"
    done = subprocess.run([bench.program("wait")], input="x\n", capture_output=True, text=True, check=True)
    assert done.stdout == "another-token\nx\n"


def test_what_is_wrong_is_told_and_nothing_is_in_the_home(bench: Bench) -> None:
    bench.script("good.sh", "#!/bin/bash\necho good\n")
    bench.script("lacks.sh.j2", f"#!/bin/bash\necho {TOKEN}\necho {{{{ SPARKTOK }}}}\n")
    error = bench.failure("good.sh", "lacks.sh")
    assert error.sender.startswith("lacks.sh.j2 line 3: the variable SPARKTOK is not defined; define it")
    assert error.operator.startswith(f"{bench.public}/lacks.sh.j2:3: ")
    error = bench.failure("good.sh", "none.sh", "gone.sh")
    assert "none.sh, gone.sh can't be compiled: there is no such script" in error.sender
    assert f"{bench.public} or {bench.private}" in error.sender
    bench.script("bare.sh.j2", "echo {{ MLTOK }}\n")
    error = bench.failure("bare.sh")
    assert "its first line must name the shell: #!/bin/bash; shc says: shc: invalid first line" in error.sender
    assert "******" in error.output
    bench.script(f"{WORKSHOP}.sh", "#!/bin/bash\n")
    assert "name of the workshop's folder" in bench.failure(f"{WORKSHOP}.sh").sender
    bench.script("long.sh", "#!/bin/bash\n" + "#" * 120_000)
    assert "120012 bytes, a compiled script may have 120000" in bench.failure("long.sh").sender
    assert bench.left() == [str(bench.public / "lacks.sh.j2")]


def test_the_longest_script_still_runs(bench: Bench) -> None:
    head, tail = "#!/bin/bash\n", "\necho the end\n"
    bench.script("long.sh", head + "#" * (120_000 - len(head) - len(tail)) + tail)
    bench.compile("long.sh")
    assert bench.run("long") == "the end\n"


def test_a_folder_of_the_programs_name_is_no_file_to_replace(bench: Bench) -> None:
    bench.script("good.sh", "#!/bin/bash\necho good\n")
    work = bench.program("good") / "work"
    work.mkdir(parents=True)
    with pytest.raises(Failed, match="a folder named good is in the way"):
        bench.compile("good.sh")
    assert work.is_dir()


def _path_without(folder: Path, *names: str) -> str:
    """A PATH with the usual programs but these."""
    folder.mkdir()
    for place in ("/usr/local/bin", "/usr/bin", "/bin"):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if program.name not in names and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return f"{Path(sys.executable).parent}:{folder}"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("shc", "there is no shc; install it (Debian: apt-get install shc)"),
        ("cc", "there is no cc; install it (Debian: apt-get install gcc and libc6-dev)"),
    ],
)
def test_a_missing_compiler_is_named(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    bench.script("good.sh", "#!/bin/bash\necho good\n")
    monkeypatch.setenv("PATH", _path_without(tmp_path / "bin", program))
    assert words in bench.failure("good.sh").sender


@pytest.fixture
def slow_shc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An shc that never ends; gives the file into which it writes its process id and its folder."""
    folder, began = tmp_path / "slow", tmp_path / "began"
    folder.mkdir()
    (folder / "shc").write_text(f'#!/bin/sh\necho "$$ $PWD" >{began}.new\nmv {began}.new {began}\nexec sleep 777\n')
    (folder / "shc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield began
    shutil.rmtree(folder)


def test_a_run_that_is_ended_leaves_nothing_and_shows_nothing(bench: Bench, slow_shc: Path) -> None:
    bench.script("train.sh.j2", TRAIN)
    caught: list[Failed] = []

    def work() -> None:
        with pytest.raises(Failed) as error:
            bench.compile("train.sh")
        caught.append(error.value)

    thread = threading.Thread(target=work)
    thread.start()
    pid, folder = wait_until(lambda: slow_shc.is_file() and slow_shc.read_text(), what="shc at work").split()
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert Path(folder).is_relative_to(bench.folder / "state" / "runs")
    assert TOKEN in (Path(folder) / "train.sh").read_text()
    assert stat.S_IMODE((Path(folder) / "train.sh").stat().st_mode) == 0o600
    told = b"".join(file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if _readable(file))
    assert TOKEN.encode() not in told and PASSWORD.encode() not in told
    bench.desk.launcher.end_job(1)
    thread.join(120)
    assert caught[0].sender == "the playbook run ended before it was finished"
    found = processes.lookup(int(pid))
    assert found is None or found.dead
    assert bench.left() == []
    assert list((bench.folder / "state" / "runs").iterdir()) == []


def test_the_time_limit_of_a_step_holds(tmp_path: Path, slow_shc: Path) -> None:
    bench = Bench(tmp_path, WODSTEPTIMEOUT=2)
    bench.script("train.sh.j2", TRAIN)
    assert bench.failure("train.sh").sender == "compiling took longer than 2 s and was ended"
    assert bench.left() == []
    assert list((bench.folder / "state" / "runs").iterdir()) == []


def _readable(file: Path) -> bool:
    try:
        file.read_bytes()
    except OSError:
        return False
    return True


def test_by_hand(bench: Bench) -> None:
    bench.script("train.sh.j2", TRAIN)
    config = bench.folder / "wod.yml"
    config.write_text(
        f"WODSANDBOX: true\nVAULTPWD: open sesame\nWODSTATEDIR: {bench.folder}/state\n"
        f"WODSTUDDIR: {bench.folder}/homes\nWODANSIBLEPRIVDIR: {bench.folder}/private\n"
        f"WODSCRIPTDIR: {bench.public}\nWODSCRIPTPRIVDIR: {bench.private}\n"
    )
    own = paths.share("ansible")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(bench.folder),
        "WOD_CONFIG": str(config),
        "LANG": "C.UTF-8",
    }
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(own / "inventory")]
    argv += [str(own / "compile_scripts.yml"), "-e", "STDID=7", "-e", f"WORKSHOP={WORKSHOP}"]
    for extra, status, words in (([], 2, "give -e SCRIPTS=a.sh,b.sh"), (["-e", "SCRIPTS=train.sh"], 0, "changed=1")):
        done = subprocess.run(
            [*argv, *extra], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, words in done.stdout + done.stderr) == (status, True), done.stdout + done.stderr
    assert TOKEN in bench.run("train")
    assert bench.left() == []
