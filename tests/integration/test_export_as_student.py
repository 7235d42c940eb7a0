"""What the root helper gives the exporter, and what it believes of what that says; with exporters of our own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.accounts_contract import own
from tests.linux_students import BASE, FIRST, Site, site
from tests.support import wait_until
from wodmail import exporting
from wodmail.errors import Failed, Refused
from wodmail.students import exports, install, rootexport, sandbox
from wodmail.students.rootlimits import HelperError

TOLD = """
echo '{"version": 1, "notebooks": []}'
printf '{"notebook": "%s", "error": "%s"}' "$(id -u) $(id -ru) $(id -G)" \
  "$(pwd -P)|$(grep -c : /proc/net/dev)|$(ulimit -v)|$(ulimit -t)|$(grep -c '^NoNewPrivs:.1' /proc/self/status)|$(
  ls /proc/self/fd | wc -l)|$(env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD=' | sort | tr '\\n' ' ')"
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[Site]:
    """Real users, once for this file."""
    with site() as made:
        yield made


@pytest.fixture
def folder(backend: Site) -> Path:
    """The student's folder of a workshop."""
    backend.renew_home(FIRST)
    made = backend.accounts.home(FIRST) / "WKSHP-Try101"
    made.mkdir()
    own(made.parent)
    return made


def exporter(backend: Site, text: str, mode: int = 0o755) -> Path:
    """Have the helper use a shell script as its exporter."""
    file = backend.settings.WODHELPER.with_name("exporter")
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(mode)
    limits = install.limits_file(backend.settings.WODHELPER)
    limits.write_text(json.dumps({**json.loads(limits.read_text()), "exporter": str(file)}))
    backend.accounts.close()  # the next one reads it
    return file


def says(*rows: dict[str, str], also: tuple[str, ...] = ()) -> str:
    """A script that reports these rows, and notebooks that it says nothing else of."""
    names = [*(row["notebook"] for row in rows), *also]
    lines = [json.dumps({"version": 1, "notebooks": names}), *map(json.dumps, rows)]
    return "; ".join(f"echo {shlex.quote(line)}" for line in lines)


@pytest.mark.root
@pytest.mark.xdist_group("linux-accounts")
class TestExporter:
    """Real users, reached by an unprivileged one through sudo."""

    def test_it_is_the_students_and_has_nothing_else(self, backend: Site, folder: Path) -> None:
        """Its uids, groups, place, network, limits, descriptors and environment."""
        exporter(backend, TOLD)
        (told,) = backend.accounts.export(FIRST, "WKSHP-Try101", "pdf")
        uid = BASE + FIRST
        assert told.notebook == f"{uid} {uid} {uid}"
        place, devices, memory, seconds, locked, descriptors, environment = told.error.split("|")
        assert (place, memory, seconds, locked) == (str(folder), str(4 * 1024**2), "600", "1")
        assert devices == "1"  # the loopback alone
        assert descriptors == "4"  # its own three, and that of the listing
        assert environment.split() == sorted(f"{name}={value}" for name, value in exports.ENVIRONMENT.items())

    def test_what_it_says_is_not_believed(self, backend: Site, folder: Path) -> None:
        """Paths out of the folder, links, pipes and other files are no documents."""
        secret = backend.settings.WODSTUDDIR.parent / "secret.pdf"
        secret.write_text("secret")
        (folder / "link.pdf").symlink_to(secret)
        (folder / "way").symlink_to(secret.parent)
        os.mkfifo(folder / "pipe.pdf")
        (folder / "good.pdf").write_text("good")
        (folder / "good.txt").write_text("no document")
        own(folder.parent)
        names = ["link.pdf", "way/secret.pdf", "pipe.pdf", "../../../secret.pdf", str(secret), "good.txt", "none.pdf"]
        said = {"notebook": "a", "note": "n" * 1000}
        exporter(backend, says(*({**said, "document": name} for name in [*names, "good.pdf"])))
        *bad, good = backend.accounts.export(FIRST, "WKSHP-Try101", "pdf")
        assert {(each.path, each.data, each.error) for each in bad} == {("", None, "Its document could not be read.")}
        assert len(bad) == len(names)
        assert (good.path, good.data, good.note) == ("good.pdf", b"good", "n" * exports.MAX_WORDS)

    def test_a_home_that_is_a_link(self, backend: Site) -> None:
        """The exporter isn't even started."""
        exporter(backend, says())
        home = backend.accounts.home(FIRST)
        backend.renew_home(FIRST)
        home.rmdir()
        home.symlink_to("/var/tmp")
        try:
            with pytest.raises(Failed, match="it is a link"):
                backend.accounts.export(FIRST, "WKSHP-Try101", "pdf")
        finally:
            home.unlink()
            backend.renew_home(FIRST)

    @pytest.mark.parametrize(
        ("script", "cause"),
        [
            ("echo no", "Expecting value"),
            ("echo '{}'", "report is not understood"),
            ("echo oh no >&2; exit 4", "ended with 4: oh no"),
            ("echo oh no >&2; exit 1", "ended with 1: oh no"),
            ("kill -9 $$", "ended with -9"),
        ],
    )
    @pytest.mark.usefixtures("folder")
    def test_an_exporter_that_goes_wrong(self, backend: Site, script: str, cause: str) -> None:
        """Its end is told to the operator."""
        exporter(backend, script)
        with pytest.raises(Failed, match="could not be exported") as error:
            backend.accounts.export(FIRST, "WKSHP-Try101", "pdf")
        assert cause in error.value.operator

    @pytest.mark.parametrize(
        ("end", "cause"),
        [
            ("echo oh no >&2; exit 1", "ended with 1: oh no"),
            ("kill -9 $$", "ended with -9"),
        ],
    )
    def test_what_was_made_before_it_went_wrong_is_there(
        self, backend: Site, folder: Path, end: str, cause: str
    ) -> None:
        """The rest is told, with the reason for the operator."""
        (folder / "a.pdf").write_text("good")
        own(folder.parent)
        rows = says({"notebook": "a.ipynb", "document": "a.pdf"}, also=("b.ipynb",))
        exporter(backend, f"{rows}; printf '{{\"no'; {end}")
        made, missing = backend.accounts.export(FIRST, "WKSHP-Try101", "pdf")
        assert (made.path, made.data) == ("a.pdf", b"good")
        assert (missing.notebook, missing.path, "not reached" in missing.error) == ("b.ipynb", "", True)
        assert cause in missing.cause

    def test_no_exporter_that_root_alone_can_change(self, backend: Site, folder: Path) -> None:
        """Nothing is run then."""
        file = exporter(backend, f"touch {folder}/ran; {says()}", 0o777)
        with pytest.raises(Failed, match="PDF and WORD are not installed") as error:
            backend.accounts.export(FIRST, "WKSHP-Try101", "pdf")
        assert "writable by root alone" in error.value.operator
        file.unlink()
        with pytest.raises(Failed, match="PDF and WORD are not installed"):
            backend.accounts.export(FIRST, "WKSHP-Try101", "pdf")
        limits = install.limits_file(backend.settings.WODHELPER)
        limits.write_text(json.dumps({**json.loads(limits.read_text()), "exporter": ""}))
        backend.accounts.close()
        with pytest.raises(Refused) as refused:
            backend.accounts.export(FIRST, "WKSHP-Try101", "pdf")
        assert "wodmail helper install" in refused.value.operator
        assert not (folder / "ran").exists()


def test_one_that_takes_too_long_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And one that says too much."""
    mark = tmp_path / "pid"
    script = f"sleep 500 & echo $! >{mark}; echo said; wait"
    handle = os.open(tmp_path, os.O_RDONLY)
    for seconds in (1.5, 16):  # the longer one where a slow machine has not come to the script in the shorter
        monkeypatch.setattr(exports, "SECONDS", seconds)
        began = time.monotonic()
        ran = rootexport._run(["sh", "-c", script], lambda: None)
        assert time.monotonic() - began < 100
        said, ended = sandbox._exported(["sh", "-c", "echo said; sleep 500 & wait"], handle)
        if ran[1] and said:
            break
    os.close(handle)
    assert ran == (-9, b"said\n", b"", True)
    assert (said, ended) == (b"said\n", f"sh: not done after {seconds:.0f} s")
    pid = mark.read_text().strip()

    def state() -> str:
        return subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout

    wait_until(lambda: state().strip()[:1] in ("", "Z"), what="the end of what it started")
    monkeypatch.setattr(exports, "SECONDS", 20.0)
    with pytest.raises(HelperError) as error:
        rootexport._run(["yes"], lambda: None)
    assert "too long" in error.value.cause


def test_the_exporter_that_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None without wodmail[export], and none that others than root could change."""
    monkeypatch.setattr(exporting, "NEEDED", ("no_such_module",))
    assert install.exporter() == ""
    monkeypatch.setattr(exporting, "NEEDED", ())
    file = tmp_path / "wod-generate-pdf"
    file.touch()
    file.chmod(0o777)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert exporting.program() == file
    assert install.exporter() == ""
    file.unlink()
    with pytest.raises(Failed, match="operator has to look"):
        exporting.program()
