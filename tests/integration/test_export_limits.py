"""What an export may take and whose rights it has: limits that are really reached, root that is root no longer."""

from __future__ import annotations

import faulthandler
import json
import os
import pwd
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typst
from PIL import Image

from tests.integration.test_export import said
from tests.parts import require
from wodmail.errors import Failed
from wodmail.exporting import folder as exporting
from wodmail.exporting.apart import NO_MEMORY, Limits, apart
from wodmail.exporting.convert import Form
from wodmail.students import exports

CALL = [sys.executable, "-c", "import sys; from wodmail.cli.generate_pdf import main; sys.exit(main())"]
MIB = 1024**2
GROWING = '#let a = "x" * 1000\n#for i in range(40) { a = a + a }\n#a.len()'
ENDLESS = "#for i in range(1000000) { for j in range(1000000) { let a = i + j } }"


def test_one_that_cannot_be_converted_stops_no_other(tmp_path: Path) -> None:
    """Nested far beyond what anything here can walk through."""
    (tmp_path / "a.ipynb").write_bytes(said("<div>" * 400))
    (tmp_path / "c.ipynb").write_bytes(said("fine"))
    bad, good = exporting.export(tmp_path, Form.PDF)
    assert (bad.document, bad.error) == ("", "Something in it is nested too deeply.")
    assert (good.document, good.error) == ("c.pdf", "")


def test_tiny_limits_fail_each_notebook_with_words(tmp_path: Path) -> None:
    """Of memory and of time, through the whole way; and none of it is left behind."""
    (tmp_path / "a.ipynb").write_bytes(said("fine"))
    (row,) = exporting.export(tmp_path, Form.PDF, limits=Limits(memory=64 * MIB))
    assert (row.document, row.error) == ("", NO_MEMORY)
    (row,) = exporting.export(tmp_path, Form.PDF, limits=Limits(seconds=0.05))
    assert "in the time that a conversion may take" in row.error
    (row,) = exporting.export(tmp_path, Form.PDF, limits=Limits(file=64))
    assert "larger than it may be" in row.error
    (row,) = exporting.export(tmp_path, Form.PDF, seconds=0.5)
    assert "no time left" in row.error
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]


def typesetting(text: str) -> Callable[[], bytes]:
    """Have typst itself do that."""

    def work() -> bytes:
        faulthandler.disable()  # pytest's, which tells of every abort
        return bytes(typst.compile(text.encode()))

    return work


def drawing() -> bytes:
    """Have Pillow unpack more than there is memory for."""
    return Image.new("RGB", (20_000, 20_000)).tobytes()


def turning() -> bytes:
    """Use the processor, and nothing else."""
    while True:
        pass


@pytest.mark.parametrize("work", [typesetting(GROWING), drawing], ids=["typst", "Pillow"])
def test_memory(work: Callable[[], bytes]) -> None:
    """Also where a library ends the process itself instead of telling."""
    with pytest.raises(Failed) as error:
        apart(work, Limits(memory=used() + 256 * MIB))
    assert error.value.sender == NO_MEMORY


def used() -> int:
    """Bytes of address space that this process has, which a child begins with."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.parametrize("work", [typesetting(ENDLESS), turning], ids=["typst", "Python"])
def test_time(work: Callable[[], bytes]) -> None:
    """Whatever takes it."""
    began = time.monotonic()
    with pytest.raises(Failed, match="in the time that a conversion may take"):
        apart(work, Limits(seconds=1))
    assert time.monotonic() - began < 30


def test_processor_time_alone() -> None:
    """With time that passes left, as with several cores at work."""

    def work() -> bytes:
        resource.setrlimit(resource.RLIMIT_CPU, (1, 3))
        return turning()

    with pytest.raises(Failed) as error:
        apart(work, Limits(seconds=60))
    assert "SIGXCPU" in error.value.operator and "in the time" in error.value.sender


def test_size_of_files(tmp_path: Path) -> None:
    """Of a file that it writes, and of the document."""
    for work in (lambda: str((tmp_path / "a").write_bytes(bytes(2 * MIB))).encode(), lambda: bytes(2 * MIB)):
        with pytest.raises(Failed, match="larger than it may be"):
            apart(work, Limits(file=MIB))
    assert apart(lambda: bytes(MIB), Limits(file=MIB)) == bytes(MIB)


def test_however_it_ends() -> None:
    """By a fault of ours, by a signal, without a word."""

    def fault() -> bytes:
        raise ZeroDivisionError("of ours")

    for work, cause in (
        (fault, "of ours"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM) or b"", "SIGTERM"),
        (lambda: os._exit(0) or b"", "0"),
    ):
        with pytest.raises(Failed) as error:
            apart(work, Limits())
        assert cause in error.value.operator


def test_what_was_said_of_some_counts(tmp_path: Path) -> None:
    """A report that is cut off gives what was made before, and tells of the rest."""
    (tmp_path / "a.pdf").write_bytes(b"made")
    rows = [{"version": 1, "notebooks": ["a", "b", "c"]}, {"notebook": "a", "document": "a.pdf"}]
    report = "".join(json.dumps(row) + "\n" for row in rows).encode()
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        found = exports.taken(folder, report + b'{"notebook": "b", "docu', "pdf", "killed")
        assert [(each.notebook, each.data, each.cause) for each in found] == [
            ("a", b"made", ""),
            ("b", None, "killed"),
            ("c", None, "killed"),
        ]
        assert all("not reached" in each.error for each in found[1:])
        for bad in (b"", b"\n", b"[]\n", b"torn"):
            with pytest.raises(ValueError, match=r"killed|nothing|understood|Expecting"):
                exports.taken(folder, bad, "pdf", "killed")
    finally:
        os.close(folder)


def owned(folder: Path, name: str = "nobody") -> pwd.struct_passwd:
    """Give a folder and all in it to a user, when this is root."""
    user = pwd.getpwnam(name)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return user


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder of somebody who isn't root."""
    folder = tmp_path / "WKSHP-X"
    folder.mkdir()
    (folder / "a.ipynb").write_bytes(said("x"))
    if os.geteuid() == 0:
        owned(folder)
    return folder


def test_the_command(workshop: Path) -> None:
    """A table, and data row by row; status 3 says that one failed, and nothing else does."""
    done = subprocess.run([*CALL, str(workshop), "--word"], capture_output=True, text=True, check=False)
    assert (done.returncode, "1 exported, 0 failed" in done.stdout) == (0, True), done.stderr
    (workshop / "b.ipynb").write_text("{")
    lines = subprocess.run([*CALL, str(workshop), "--json-lines"], capture_output=True, text=True, check=False)
    head, *rows = map(json.loads, lines.stdout.splitlines())
    assert (lines.returncode, head) == (exports.SOME_FAILED, {"version": 1, "notebooks": ["a.ipynb", "b.ipynb"]})
    assert [(row["document"], row["size"]) for row in rows] == [
        ("a.pdf", (workshop / "a.pdf").stat().st_size),
        ("", 0),
    ]


def test_the_command_confines_itself(tmp_path: Path) -> None:
    """Limits of its own; as root always without network, else wherever the kernel lets it."""
    program = (
        "import resource, socket\n"
        "from wodmail.exporting import confine\n"
        "shut = confine.confine()\n"
        "print(resource.getrlimit(resource.RLIMIT_AS)[1], shut, len(socket.if_nameindex()))\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert int(told[0]) <= 4 * 1024**3
    assert told[1] in (("True",) if os.geteuid() == 0 else ("True", "False"))
    if told[1] == "True":
        assert told[2] == "1"  # the loopback alone


@pytest.mark.root
def test_root_becomes_the_owner(workshop: Path) -> None:
    """Documents are the owner's, and a folder that only root could read stays shut."""
    require("root")
    hidden = workshop / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "b.ipynb").write_bytes(said("root's"))
    done = subprocess.run([*CALL, str(workshop), "--json"], capture_output=True, text=True, check=False)
    assert [row["document"] for row in json.loads(done.stdout)["documents"]] == ["a.pdf"], done.stderr
    assert (workshop / "a.pdf").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert [path.name for path in hidden.iterdir()] == ["b.ipynb"]


@pytest.mark.root
def test_root_exports_nothing_of_roots(workshop: Path, tmp_path: Path) -> None:
    """Neither a folder of root's, nor one that a link leads to."""
    require("root")
    (tmp_path / "link").symlink_to(workshop)
    os.chown(workshop, 0, 0)
    for path, words in ((workshop, "is root's"), (tmp_path / "link", "can't be opened as a folder")):
        done = subprocess.run([*CALL, str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert [path.name for path in workshop.iterdir()] == ["a.ipynb"]


def test_a_folder_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    """After the listing, before the reading: nothing is read there, nothing written."""
    outside, inside = tmp_path / "outside", tmp_path / "WKSHP-X"
    outside.mkdir()
    (inside / "sub").mkdir(parents=True)
    for folder in (outside, inside / "sub"):
        (folder / "a.ipynb").write_bytes(said("x"))
    paths = exporting.notebooks(inside)
    (inside / "sub").rename(tmp_path / "was")
    (inside / "sub").symlink_to(outside)
    (row,) = exporting.export(inside, Form.PDF, paths)
    assert (row.notebook, row.document) == ("sub/a.ipynb", "")
    assert "could not be read" in row.error
    assert [path.name for path in outside.iterdir()] == ["a.ipynb"]


def test_one_that_works_for_another_ends_with_that() -> None:
    """A killed server leaves no exporter behind that writes into a home which a later job has emptied."""
    inner = (
        "from wodmail.exporting.confine import confine; confine(); print('on', flush=True); import time; time.sleep(60)"
    )
    outer = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(60)"
    argv = [sys.executable, "-c", outer, sys.executable, "-c", inner]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "WODMAIL_EXPORT": "1"}) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"on\n"
        parent.kill()
        ready, _, _ = select.select([parent.stdout], [], [], 30)
        assert ready, "the pipe's other end is shut when both are gone"
        assert parent.stdout.read() == b""
