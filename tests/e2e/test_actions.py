"""Each action through the real server: mail in, student provisioned, result mail out. And what must not happen."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import leaks
from tests.contract.accounts_contract import notebook
from tests.e2e.harness import ROOT, Deployment, step_of
from tests.parts import require
from tests.support import wait_until

CELL = '{"cells": [%s], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
CODE = '{"cell_type": "code", "id": "%s", "metadata": {}, "source": [], "outputs": [], "execution_count": %s}'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all tests of this file; each uses students of its own."""
    made = Deployment(tmp_path_factory.mktemp("site"), WODMONITOR="monitor@localhost", WODREPLYBUDGET=1000)
    made.workshop("WKSHP-Test", {"data.bin": "\x00\x01{{ no }}", "run.sh": "echo {{ STDID }}\n"})
    made.workshop("WKSHP-Again", reset=True)
    made.script("reset-WKSHP-Again.sh", 'echo "reset $stdid of $ws as $action"\n')
    made.workshop("WKSHP-NoScript", reset=True)
    made.workshop("WKSHP-Fails")
    made.script("create-WKSHP-Fails.sh", 'echo "to stdout"; echo "to stderr $randompw" >&2; exit 7\n')
    made.workshop("WKSHP-Daemon")
    made.script("create-WKSHP-Daemon.sh", "setsid sleep 777 >/dev/null 2>&1 &\nsleep 0.1\n")
    made.workshop("WKSHP-Pass", {"1-Pass.ipynb": CELL % ""}, varpass=True)
    (made.notebooks / "WKSHP-Pass" / "note.py").write_text("password = '{{ PASSSTU }}'\n")
    made.workshop("WKSHP-Broken", {"bad.py": "fine\nx = {{ NOSUCHNAME }}\n"})
    made.workshop("WKSHP-Compile", compile="a.sh", varpass=True)
    made.script("cleanup-WKSHP-Test.sh", "echo cleaning\n")
    made.start()
    yield made
    made.close()


def test_create_then_cleanup(site: Deployment) -> None:
    row = site.one("CREATE 11 0")
    assert row["state"] == "done"
    assert (site.home(11) / "WKSHP-Test" / "run.sh").read_text() == "echo 11\n"
    assert (site.home(11) / "WKSHP-Test" / "data.bin").read_text() == "\x00\x01{{ no }}"
    trace = (site.state / ".mail" / "from").read_text()
    found = re.search(
        r"^end of procmail-action for student 11 \(passwd (\w{8})\) with workshop WKSHP-Test with action CREATE at "
        r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d UTC \d{4}$",
        trace,
        re.MULTILINE,
    )
    assert found is not None
    assert f"[{row['id']} student11]" in trace
    (site.home(11) / "mine").write_text("kept until cleanup")
    again = site.one("CLEANUP 11 0")
    assert again["state"] == "done"
    assert not (site.home(11) / "mine").exists()
    assert not (site.home(11) / "WKSHP-Test").exists()
    assert step_of(again, "cleanup-script")["state"] == "done"
    assert step_of(again, "free-seat")["state"] == "done"


def test_the_result_mail(site: Deployment) -> None:
    before = len(site.requests())
    site.mail("CREATE 12 0", message_id="<mine@example.org>")
    row = site.ended(before + 1)[-1]
    mail = wait_until(lambda: site.replies(row["id"]), what="the reply")[0]
    assert mail["Subject"] == "Re: CREATE 12 0: done"
    assert mail["Auto-Submitted"] == "auto-replied"
    assert mail["In-Reply-To"] == "<mine@example.org>"
    assert mail["X-WOD-Loop"]
    parts = {part.get_content_type(): part for part in mail.walk()}
    text = parts["text/plain"].get_payload(decode=True).decode()
    for step in ("validate", "password", "copy-folder", "trace"):
        assert re.search(rf"{step}\s+(done|skipped)\s+\d", text), text
    document = json.loads(parts["application/json"].get_payload(decode=True))
    assert document["version"] == 1
    assert document["state"] == "done"
    assert step_of(row, "validate")["state"] == "done"


def test_challenge_uses_the_same_folder(site: Deployment) -> None:
    row = site.one("CREATE 13 0", "CHLG-Test")
    assert row["state"] == "done"
    assert row["workshop"] == "CHLG-Test"
    assert (site.home(13) / "WKSHP-Test" / "0-ReadMeFirst.ipynb").exists()


def test_a_count_makes_a_job_a_student(site: Deployment) -> None:
    row = site.one("CREATE 21 3")
    assert row["students"] == [21, 22, 23]
    assert [job["state"] for job in row["jobs"]] == ["done"] * 3
    for student in (21, 22, 23):
        assert f"student {student}" in (site.home(student) / "WKSHP-Test" / "0-ReadMeFirst.ipynb").read_text()


def test_reset_over_a_range_is_one_job(site: Deployment) -> None:
    row = site.one("RESET 31,33 0", "WKSHP-Again")
    assert row["state"] == "done"
    assert len(row["jobs"]) == 1
    assert step_of(row, "reset-script")["state"] == "done"
    assert step_of(row, "free-seat-student33")["state"] == "done"
    assert step_of(row, "registry-capacity")["note"] == "3"
    assert f"[{row['id']} student31]" in (site.state / ".mail" / "from").read_text()


def test_reset_of_a_workshop_without_reset_does_nothing(site: Deployment) -> None:
    row = site.one("RESET 34 0", "WKSHP-Test")
    assert row["state"] == "done"
    assert "reset: false" in step_of(row, "nothing-to-reset")["note"]
    assert not site.home(34).exists()


def test_reset_without_its_script_is_refused(site: Deployment) -> None:
    row = site.one("RESET 35 0", "WKSHP-NoScript")
    assert row["state"] == "refused"
    assert "reset-WKSHP-NoScript.sh" in row["reason"]


def test_cleanup_of_a_reset_workshop_is_followed_by_its_reset(site: Deployment) -> None:
    assert site.one("CREATE 36 0", "WKSHP-Again")["state"] == "done"
    (site.home(36) / "mine").write_text("x")
    before = len(site.requests())
    assert site.mail("CLEANUP 36 0", "WKSHP-Again").startswith("250")
    rows = site.ended(before + 2)[-2:]
    assert [(row["action"], row["state"]) for row in rows] == [("CLEANUP", "done"), ("RESET", "done")]
    assert step_of(rows[0], "keep-seat")["state"] == "done"
    assert not (site.home(36) / "mine").exists()


def test_a_create_that_comes_during_a_cleanup_waits_for_its_reset_too(site: Deployment) -> None:
    site.script("cleanup-WKSHP-Again.sh", f"while [ -e {site.folder}/hold-$stdid ]; do sleep 0.05; done\n")
    assert site.one("CREATE 37 0", "WKSHP-Again")["state"] == "done"
    (site.folder / "hold-37").touch()
    before = len(site.requests())
    site.mail("CLEANUP 37 0", "WKSHP-Again")
    wait_until(lambda: site.requests()[-2]["state"] == "running", what="the CLEANUP")
    site.mail("CREATE 37 0", "WKSHP-Again")
    wait_until(lambda: len(site.requests()) == before + 3, what="the CREATE")
    (site.folder / "hold-37").unlink()
    rows = site.ended(before + 3)[-3:]
    assert [(row["action"], row["state"]) for row in rows] == [
        *(("CLEANUP", "done"), ("RESET", "done"), ("CREATE", "done"))
    ]
    ended = [row["finished"] for row in rows]
    assert ended == sorted(ended)
    assert (site.home(37) / "WKSHP-Again").is_dir(), "the participant's workshop is there"


def test_a_repeated_cleanup_is_a_duplicate_though_its_reset_waits(site: Deployment) -> None:
    site.one("CREATE 38 0", "WKSHP-Again")
    (site.folder / "hold-38").touch()
    before = len(site.requests())
    site.mail("CLEANUP 38 0", "WKSHP-Again")
    site.mail("CLEANUP 38 0", "WKSHP-Again")
    wait_until(lambda: len(site.requests()) == before + 3, what="both mails")
    (site.folder / "hold-38").unlink()
    rows = site.ended(before + 3)[-3:]
    assert [(row["action"], row["state"]) for row in rows] == [
        *(("CLEANUP", "done"), ("RESET", "done"), ("CLEANUP", "duplicate"))
    ]


def test_purge_ignores_the_workshop(site: Deployment) -> None:
    site.one("CREATE 41 0")
    row = site.one("PURGE 41 0", "VOID")
    assert row["state"] == "done"
    assert not (site.home(41) / "WKSHP-Test").exists()


def test_plan_changes_nothing(site: Deployment) -> None:
    row = site.one("PLAN CREATE 42 0")
    assert (row["state"], row["jobs"]) == ("done", [])
    text = site.replies(row["id"])[0].get_payload(decode=True).decode()
    for words in ("validate", "ansible-playbook", "copy_folder.yml", "no such script", "student42"):
        assert words in text
    assert not site.home(42).exists()


def test_ping(site: Deployment) -> None:
    row = site.one("PING hello", "")
    assert row["state"] == "done"
    assert "workers" in site.replies(row["id"])[0].get_payload(decode=True).decode()


def test_pdf_comes_with_the_mail(site: Deployment) -> None:
    folder = site.home(43) / "WKSHP-Test"
    folder.mkdir(parents=True)
    (folder / "1-Täst.ipynb").write_text(notebook("# Hello"))
    row = site.one("PDF 43 0")
    assert row["state"] == "done"
    made = (folder / "1-Täst.pdf").read_bytes()
    assert attached(site, row["id"]) == {"1-Täst.pdf": ("application/pdf", made)}
    assert made.startswith(b"%PDF-")
    assert "1 document, " in step_of(row, "export")["note"]
    kept = site.state / "documents"
    wait_until(lambda: list(kept.iterdir()) == [], what="the end of what was kept for the mail")
    planned = site.one("PLAN WORD 43 0")
    text = site.replies(planned["id"])[0].get_payload(decode=True).decode()
    assert f"wod-generate-pdf --json-lines --word in {folder}" in text
    assert not (folder / "1-Täst.docx").exists()


def test_letters_that_are_boxes_are_told(site: Deployment) -> None:
    folder = site.home(46) / "WKSHP-Test"
    folder.mkdir(parents=True)
    (folder / "1-Odd.ipynb").write_text(notebook("# \U000f1234"))
    row = site.one("PDF 46 0")
    assert row["state"] == "done"
    assert "; 1-Odd.ipynb: No font has these letters, they are boxes: " in step_of(row, "export")["note"]
    text = next(part for part in site.replies(row["id"])[0].walk() if part.get_content_type() == "text/plain")
    assert "boxes: U+F1234." in text.get_payload(decode=True).decode()


def test_word_with_one_notebook_that_fails(site: Deployment) -> None:
    folder = site.home(44) / "WKSHP-Test"
    folder.mkdir(parents=True)
    (folder / "1-Good.ipynb").write_text(notebook("# Hello"))
    (folder / "2-Bad.ipynb").write_text("{")
    row = site.one("WORD 44 0")
    assert row["state"] == "failed"
    assert step_of(row, "export")["error"] == "2-Bad.ipynb: It is no valid notebook."
    kind, made = attached(site, row["id"])["1-Good.docx"]
    assert kind == "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    assert made == (folder / "1-Good.docx").read_bytes()


def test_nothing_to_export(site: Deployment) -> None:
    row = site.one("PDF 45 0")
    assert row["state"] == "refused"
    assert "student45 has no folder WKSHP-Test, so there is nothing to export. Send a CREATE first." in row["reason"]


def attached(site: Deployment, request: int) -> dict[str, tuple[str, bytes]]:
    """The documents of the result mail: name to type and content."""
    mail = next(mail for mail in site.replies(request) if mail["To"] != "monitor@localhost")
    parts = [part for part in mail.walk() if part.get_filename() not in (None, "result.json")]
    return {str(part.get_filename()): (part.get_content_type(), part.get_payload(decode=True)) for part in parts}


def test_the_completion_ratio(site: Deployment) -> None:
    site.one("CREATE 51 0")
    folder = site.home(51) / "WKSHP-Test"
    cells = ",".join(CODE % (f"c{at}", number) for at, number in enumerate(["1", "2", "null"]))
    (folder / "1-Lab.ipynb").write_text(CELL % cells)
    row = site.one("CLEANUP 51 0")
    assert step_of(row, "ratio")["note"] == "66 %"


def test_passstu_reaches_the_notebook_and_the_pass_file_goes(site: Deployment) -> None:
    row = site.one("CREATE 52 0", "WKSHP-Pass")
    assert row["state"] == "done"
    written = (site.home(52) / "WKSHP-Pass" / "note.py").read_text()
    trace = (site.state / ".mail" / "from").read_text()
    password = re.search(r"student 52 \(passwd (\w+)\)", trace)
    assert password is not None
    assert written == f"password = '{password[1]}'\n"
    assert not list(site.state.rglob("variables_*_52.yml"))


# -- failures -----------------------------------------------------------------------------------------------------


def test_a_failing_script_fails_the_job_and_says_where(site: Deployment) -> None:
    row = site.one("CREATE 61 0", "WKSHP-Fails")
    assert row["state"] == "failed"
    step = step_of(row, "create-script")
    assert "7" in step["error"]
    assert "to stdout" in step["output"]
    assert step_of(row, "copy-folder")["state"] == "waiting"
    assert step_of(row, "trace")["state"] == "done"
    mails = site.replies(row["id"])
    assert "Re: CREATE 61 0: FAILED at step create-script" in {mail["Subject"] for mail in mails}
    wait_until(lambda: len(site.replies(row["id"])) == 2, what="the monitor's mail")
    assert {mail["To"] for mail in site.replies(row["id"])} == {"wodadmin@localhost", "monitor@localhost"}
    trace = (site.state / ".mail" / "from").read_text()
    password = re.search(r"student 61 \(passwd (\w+)\)", trace)
    assert password is not None
    assert password[1] not in json.dumps(row)
    assert trace.count(password[1]) == 1, "a password stands in the last line only"


def test_retry_runs_a_failed_request_again(site: Deployment) -> None:
    site.workshop("WKSHP-Mended")
    site.script("create-WKSHP-Mended.sh", "exit 3\n")
    row = site.one("CREATE 62 0", "WKSHP-Mended")
    assert row["state"] == "failed"
    site.script("create-WKSHP-Mended.sh", "exit 0\n")
    command = [sys.executable, "-m", "wodmail", "retry", "--json", "--config", str(site.file), str(row["id"])]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["request"] == row["id"]
    again = site.ended(1)
    assert next(found for found in again if found["id"] == row["id"])["state"] == "done"
    wait_until(lambda: "Re: CREATE 62 0: done" in site.subjects(), what="the second result mail")


def test_an_old_request_is_not_retried_over_a_newer_one(site: Deployment) -> None:
    old = site.one("CREATE 78 0", "WKSHP-Fails")
    site.one("CREATE 78 0")
    command = [sys.executable, "-m", "wodmail", "retry", "--config", str(site.file), str(old["id"])]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "newer request" in told.stderr
    assert "--force" in told.stderr


def test_abort_ends_the_script_at_once(site: Deployment) -> None:
    site.workshop("WKSHP-Slow")
    site.script("create-WKSHP-Slow.sh", f"touch {site.folder}/slow-began\nsleep 600\n")
    site.mail("CREATE 63 0", "WKSHP-Slow")
    wait_until(lambda: (site.folder / "slow-began").exists(), what="the script")
    number = site.requests()[-1]["id"]
    command = [sys.executable, "-m", "wodmail", "abort", "--config", str(site.file), str(number)]
    subprocess.run(command, cwd=ROOT, check=True)
    row = next(found for found in site.ended(1) if found["id"] == number)
    assert row["state"] == "aborted"
    assert step_of(row, "create-script")["error"] == "ended by an abort"
    assert step_of(row, "copy-folder")["state"] == "waiting"
    assert step_of(row, "forget-variables")["state"] == "skipped"
    assert step_of(row, "trace")["state"] == "done"


def test_a_hanging_script_is_ended_whole_after_its_time(tmp_path: Path) -> None:
    impatient = Deployment(tmp_path, WODSCRIPTTIMEOUT=2)
    impatient.workshop("WKSHP-Hangs")
    impatient.script("create-WKSHP-Hangs.sh", "trap '' TERM; echo hanging; sleep 633\n")
    impatient.start()
    try:
        for student in (64, 65, 66):  # the first is enough, unless two seconds are too short for bash to begin
            row = impatient.one(f"CREATE {student} 0", "WKSHP-Hangs")
            assert row["state"] == "failed"
            if step_of(row, "create-script")["output"]:
                break
    finally:
        impatient.close()
    assert "2" in step_of(row, "create-script")["error"]
    assert "hanging" in step_of(row, "create-script")["output"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "633"]]


def test_a_script_that_forks_a_daemon_leaves_none(site: Deployment) -> None:
    row = site.one("CREATE 65 0", "WKSHP-Daemon")
    assert row["state"] == "done"
    assert any("process" in warning for warning in step_of(row, "create-script")["warnings"])
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "777"]]


def test_a_template_error_names_file_line_and_variable(site: Deployment) -> None:
    row = site.one("CREATE 66 0", "WKSHP-Broken")
    assert row["state"] == "failed"
    error = step_of(row, "copy-folder")["error"]
    for words in ("bad.py", "2", "NOSUCHNAME"):
        assert words in error


def test_scripts_are_compiled_after_the_erase_and_a_missing_one_is_told_before_it(site: Deployment) -> None:
    for part in ("shc", "cc"):
        require(part)
    row = site.one("CREATE 67 0", "WKSHP-Compile")
    assert row["state"] == "failed"
    assert step_of(row, "validate")["error"].startswith(
        "a.sh can't be compiled: there is no such script; write a.sh.j2"
    )
    assert not (site.home(67) / ".ssh").exists()
    site.script("a.sh.j2", "#!/bin/bash\necho {{ STDID }} {{ PASSSTU }} {{ BRANDINGNOT }}\n")
    row = site.one("CREATE 67 0", "WKSHP-Compile")
    wanted = "a.sh.j2 line 2: the variable BRANDINGNOT is not defined; "
    assert step_of(row, "compile")["error"].startswith(wanted)
    mails = [part.get_payload() for part in site.replies(row["id"])[0].walk() if not part.is_multipart()]
    assert any(wanted[:40] in str(text) for text in mails)
    site.script("a.sh.j2", "#!/bin/bash\necho {{ STDID }} {{ PASSSTU }}\n")
    row = site.one("CREATE 67 0", "WKSHP-Compile")
    assert row["state"] == "done", row
    names = [step["name"] for step in row["jobs"][0]["steps"]]
    assert names[names.index("erase") :][:3] == ["erase", "compile", "create-script"]
    assert step_of(row, "compile")["note"] == "a from public a.sh.j2"
    said = subprocess.run([site.home(67) / "a"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"67 \w{8}\n", said)
    told = str(site.replies(site.one("PLAN CREATE 67 0", "WKSHP-Compile")["id"])[0])
    assert f"shc -r -f {site.scripts}/a.sh.j2 (public) into {site.home(67)}/a" in told.replace("=\n", "")


def test_an_unknown_workshop_is_refused(site: Deployment) -> None:
    row = site.one("CREATE 68 0", "WKSHP-Tset")
    assert row["state"] == "refused"
    assert "WKSHP-Test" in row["reason"]
    assert row["jobs"] == []


def test_a_home_that_is_a_link_is_left_alone(site: Deployment, tmp_path: Path) -> None:
    target = tmp_path / "etc"
    target.mkdir()
    (target / "passwd").write_text("root")
    mode = stat.S_IMODE(target.stat().st_mode)
    site.home(69).parent.mkdir(exist_ok=True)
    site.home(69).symlink_to(target)
    for subject in ("CREATE 69 0", "CLEANUP 69 0", "PURGE 69 0"):
        row = site.one(subject)
        assert row["state"] in ("failed", "refused"), subject
    assert [file.name for file in target.iterdir()] == ["passwd"]
    assert (target / "passwd").read_text() == "root"
    assert stat.S_IMODE(target.stat().st_mode) == mode


# -- what is answered and not run -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("CREATE 71;reboot 0", "WKSHP-Test"),
        ("CREATE a[$(touch /tmp/wodmail-pwned)] 0", "WKSHP-Test"),
        ("CREATE ../.. 0", "WKSHP-Test"),
        ("Re: CREATE 71 0", "WKSHP-Test"),
        ("CREATE 071 0", "WKSHP-Test"),
        ("CREATE 71 0", "WKSHP-../../etc"),
        ("CREATE 71 0", "$(reboot)"),
        ("PURGE 71,72 0", "VOID"),
        ("FROBNICATE 71 0", "WKSHP-Test"),
        ("CREATE 71 1000", "WKSHP-Test"),
    ],
)
def test_bad_mails_are_answered_and_run_nothing(site: Deployment, subject: str, body: str) -> None:
    row = site.one(subject, body)
    assert row["state"] == "refused"
    assert row["jobs"] == []
    assert "refused" in site.replies(row["id"])[0]["Subject"]
    assert not site.home(71).exists()
    assert not Path("/tmp/wodmail-pwned").exists()


def test_two_blanks_and_small_letters_are_fine(site: Deployment) -> None:
    row = site.one("create   72  0")
    assert (row["action"], row["state"]) == ("CREATE", "done")


def test_a_repeated_create_deletes_nothing(site: Deployment) -> None:
    site.script("create-WKSHP-Test.sh", f"while [ -e {site.folder}/hold-$stdid ]; do sleep 0.05; done\n")
    (site.folder / "hold-73").touch()
    before = len(site.requests())
    site.mail("CREATE 73 0")
    site.mail("CREATE 73 0")
    wait_until(lambda: len(site.requests()) == before + 2, what="both requests")
    (site.folder / "hold-73").unlink()
    first, second = site.ended(before + 2)[-2:]
    assert (first["state"], second["state"]) == ("done", "duplicate")
    assert second["reason"] == f"already in hand as request {first['id']}"
    wait_until(lambda: site.replies(second["id"]), what="the notice")


def test_the_same_message_again_is_a_duplicate(site: Deployment) -> None:
    before = len(site.requests())
    site.mail("CREATE 74 0", message_id="<once@example.org>")
    site.ended(before + 1)
    site.mail("CLEANUP 74 0", message_id="<once@example.org>")
    assert site.ended(before + 2)[-1]["state"] == "duplicate"


def test_create_cleanup_create_are_three_requests(site: Deployment) -> None:
    before = len(site.requests())
    for action in ("CREATE", "CLEANUP", "CREATE"):
        site.mail(f"{action} 75 0")
    assert [row["state"] for row in site.ended(before + 3)[-3:]] == ["done"] * 3


def test_requests_and_show_as_json(site: Deployment) -> None:
    row = site.one("CREATE 76 0")
    base = [sys.executable, "-m", "wodmail"]
    listed = subprocess.run(
        [*base, "requests", "--json", "--config", str(site.file)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    document = json.loads(listed.stdout)
    assert document["version"] == 1
    newest = document["requests"][0]
    assert newest["id"] == row["id"]
    assert set(newest) >= {
        *("id", "action", "students", "workshop", "number", "state", "reason", "received", "finished", "jobs")
    }
    assert set(newest["jobs"][0]) >= {"student", "state", "steps"}
    assert set(newest["jobs"][0]["steps"][0]) >= {"name", "state", "seconds", "error"}
    shown = subprocess.run(
        [*base, "show", "--config", str(site.file), str(row["id"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "copy-folder" in shown.stdout
    assert str(site.state / ".mail" / "from") in shown.stdout


def test_no_password_stays_anywhere_but_in_the_trace(site: Deployment) -> None:
    site.one("CREATE 77 0")
    trace = (site.state / ".mail" / "from").read_text()
    found = re.search(r"student 77 \(passwd (\w+)\)", trace)
    assert found is not None
    wait_until(lambda: not list((site.state / "secrets").glob("*/password-77*")), what="the secret's removal")
    allowed = {site.state / ".mail" / "from", site.state / "outbox"}
    assert leaks.in_files([site.folder], {"password": found[1]}, allowed) == []
