"""wod-test-action against a real server: exit statuses, ranges, what --wait follows and prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Deployment
from tests.e2e.wodtestaction import act
from tests.support import wait_until

SYNTAX = "Syntax: wod-test-action <CREATE|CLEANUP|RESET|PURGE|PDF|WORD> WKSHOP [MIN[,MAX]]"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all tests of this file; each uses students of its own."""
    made = Deployment(tmp_path_factory.mktemp("site"))
    made.workshop("WKSHP-Test", range=[4, 6])
    made.workshop("WKSHP-Again", reset=True)
    made.script("reset-WKSHP-Again.sh", "true\n")
    made.workshop("WKSHP-Fails")
    made.script("create-WKSHP-Fails.sh", "echo no; exit 3\n")
    made.workshop("WKSHP-Slow")
    made.script("create-WKSHP-Slow.sh", f"while [ ! -e {made.folder}/go ]; do sleep 0.05; done\n")
    made.start()
    yield made
    made.close()


def test_the_transcript_as_operators_know_it(site: Deployment) -> None:
    before = len(site.requests())
    done = act(site, "CREATE", "WKSHP-Test", "121")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "Action: CREATE",
        "We are working on WKSHP-Test",
        "Student range: 121",
        "Sending a mail to CREATE student 121 for workshop WKSHP-Test",
    ]
    assert [line[:3] for line in lines[4:]] == ["220", "250", "250", "250", "354", "250", "221"]
    assert re.match(r"250 2\.0\.0 stored as \S+$", lines[-2])
    row = site.ended(before + 1)[-1]
    assert (row["action"], row["students"], row["workshop"], row["state"]) == ("CREATE", [121], "WKSHP-Test", "done")


def test_wait_follows_to_the_credentials(site: Deployment) -> None:
    done = act(site, "CREATE", "WKSHP-Test", "122", "--wait", "--timeout", "60")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    steps = [line for line in lines if re.match(r"\[\d+ student122\] [a-z-]+: (done|skipped) \d+\.\d s", line)]
    assert len(steps) >= 10
    assert steps[0].split()[2] == "validate:"
    assert re.fullmatch(
        r"end of procmail-action for student 122 \(passwd \w{8}\) with workshop WKSHP-Test with action CREATE at "
        r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d UTC \d{4}",
        lines[-1],
    )
    assert lines[-1] in (site.state / ".mail" / "from").read_text().splitlines()


def test_a_range_is_one_mail_a_student(site: Deployment) -> None:
    before = len(site.requests())
    done = act(site, "CREATE", "WKSHP-Test", "31,33", "--wait", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Sending a mail to CREATE student ") == 3
    for student in (31, 32, 33):
        assert len(re.findall(rf"^end of procmail-action for student {student} ", done.stdout, re.MULTILINE)) == 1
    assert [row["students"] for row in site.requests()[before:]] == [[31], [32], [33]]


def test_without_a_range_the_workshops_own_is_used(site: Deployment) -> None:
    before = len(site.requests())
    done = act(site, "CLEANUP", "WKSHP-Test", "--wait", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    assert [row["students"] for row in site.requests()[before:]] == [[4], [5], [6]]


def test_reset_sends_its_range_in_one_mail(site: Deployment) -> None:
    before = len(site.requests())
    done = act(site, "RESET", "WKSHP-Again", "41,43", "--wait", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Sending a mail to RESET students 41,43 ") == 1
    [row] = site.requests()[before:]
    assert (row["students"], len(row["jobs"]), row["state"]) == ([41, 42, 43], 1, "done")
    assert len(re.findall(r"^end of procmail-action for student 4[123] ", done.stdout, re.MULTILINE)) == 3


def test_purge_takes_one_student_and_any_word(site: Deployment) -> None:
    before = len(site.requests())
    refused = act(site, "PURGE", "VOID", "51,52")
    assert (refused.returncode, refused.stdout) == (64, "")
    assert refused.stderr.splitlines()[0] == SYNTAX
    assert "PURGE takes one student" in refused.stderr
    assert len(site.requests()) == before
    assert act(site, "PURGE", "VOID", "51", "--wait", "--timeout", "60").returncode == 0


def test_failed_is_1_and_says_where_to_look(site: Deployment) -> None:
    done = act(site, "CREATE", "WKSHP-Fails", "61", "--wait", "--timeout", "60")
    number = site.requests()[-1]["id"]
    assert done.returncode == 1
    assert "create-script: failed" in done.stdout
    assert done.stderr == f"Request {number} is failed. Look with: wodmail show {number}\n"


def test_one_failure_of_a_range_is_1(site: Deployment) -> None:
    site.home(72).parent.mkdir(exist_ok=True)
    site.home(72).symlink_to(site.folder)
    done = act(site, "CREATE", "WKSHP-Test", "71,73", "--wait", "--timeout", "60")
    assert done.returncode == 1
    assert {row["students"][0]: row["state"] for row in site.requests()[-3:]} == {71: "done", 72: "failed", 73: "done"}


def test_refused_is_1_and_says_why(site: Deployment) -> None:
    done = act(site, "CREATE", "WKSHP-Tset", "62", "--wait", "--timeout", "60")
    assert done.returncode == 1
    assert re.search(r"^request \d+ refused: .*WKSHP-Test", done.stdout, re.MULTILINE)
    assert "is refused" in done.stderr


@pytest.mark.parametrize("action", ["PDF", "WORD"])
def test_an_export_of_nothing_is_1(site: Deployment, action: str) -> None:
    done = act(site, action, "WKSHP-Test", "63")
    assert done.returncode == 1
    assert done.stdout.endswith("Exporting the notebooks of student 63 in WKSHP-Test\n")
    assert "WKSHP-Test" in done.stderr


def test_usage_is_64(site: Deployment) -> None:
    done = act(site)
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (64, "", [SYNTAX, "ACTION is mandatory"])


def test_not_ended_in_time_is_75_and_it_goes_on(site: Deployment) -> None:
    before = len(site.requests())
    done = act(site, "CREATE", "WKSHP-Slow", "64", "--wait", "--timeout", "1.5")
    assert done.returncode == 75
    assert done.stderr == "Not ended after 1.5 s. It goes on; look with: wodmail requests\n"
    (site.folder / "go").touch()
    assert site.ended(before + 1)[-1]["state"] == "done"


def test_no_server_is_69(tmp_path: Path) -> None:
    nobody = Deployment(tmp_path)
    done = act(nobody, "CREATE", "WKSHP-Test", "1", "--wait")
    assert done.returncode == 69
    assert f"No mail server answers at 127.0.0.1 port {nobody.port}" in done.stderr


def test_with_a_key_the_mail_is_signed_and_accepted(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef0123456789abcdef\n")
    keys.chmod(0o600)
    strict = Deployment(tmp_path, WODSIGNKEYFILE=str(keys), WODREQUIRESIGNATURE=True)
    strict.workshop("WKSHP-Test")
    strict.start()
    try:
        assert act(strict, "CREATE", "WKSHP-Test", "7", "--wait", "--timeout", "60").returncode == 0
        strict.mail("CLEANUP 7 0")
        refused = strict.ended(2)[-1]
        assert refused["state"] == "refused"
        wait_until(lambda: strict.home(7).joinpath("WKSHP-Test").is_dir(), what="the home as it was")
    finally:
        strict.close()
