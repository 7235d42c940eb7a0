"""The server as a process: doors, drain, one live processor, lost services, budgets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.harness import ROOT, SENDER, Deployment
from tests.support import free_port, wait_until
from wodmail.mail.spool import Spool
from wodmail.store import facts, requests

BASE = [sys.executable, "-m", "wodmail"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment with one workshop."""
    made = Deployment(tmp_path, WODREPLYBUDGET=3, WODDRAIN=60)
    made.workshop("WKSHP-Test")
    yield made
    made.close()


def run(site: Deployment, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a wodmail command on the deployment."""
    command = [*BASE, *arguments]
    if arguments[0] != "pipe":
        command += ["--config", str(site.file)]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, check=False, timeout=120)


def test_sigterm_finishes_the_step_and_the_rest_resumes(site: Deployment) -> None:
    go = site.folder / "go"
    until = f"touch {site.folder}/began; until [ -e {go} ]; do sleep 0.05; done; echo once >>{site.folder}/count\n"
    site.script("create-WKSHP-Test.sh", until)
    process = site.start()
    site.mail("CREATE 7 0")
    wait_until(lambda: (site.folder / "began").exists(), what="the script")
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: not site.answers(), what="the drain, in which the door is shut first")
    assert process.poll() is None
    go.touch()
    assert process.wait(120) == 0
    assert (site.folder / "count").read_text() == "once\n"
    assert site.requests()[0]["state"] == "running"
    site.start()
    row = site.ended(1)[0]
    assert row["state"] == "done"
    assert (site.folder / "count").read_text() == "once\n"
    assert row["jobs"][0]["interruptions"] == 0


def test_a_script_longer_than_the_drain_is_ended_and_runs_again(site: Deployment) -> None:
    values = yaml.safe_load(site.file.read_text())
    site.file.write_text(yaml.safe_dump({**values, "WODDRAIN": 0.5}))
    site.script(
        "create-WKSHP-Test.sh",
        f"echo $WODATTEMPT >>{site.folder}/count\n[ $WODATTEMPT -gt 1 ] || exec sleep 655\n",
    )
    process = site.start()
    site.mail("CREATE 7 0")
    wait_until(lambda: (site.folder / "count").exists(), what="the script")
    assert site.stop(process) == 0
    assert b"sleep\x00655" not in b"".join(cmdlines())
    site.start()
    assert site.ended(1)[0]["state"] == "done"
    assert (site.folder / "count").read_text() == "1\n2\n"


def cmdlines() -> list[bytes]:
    """The command lines of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes())
        except OSError:
            continue
    return found


def test_a_second_server_is_refused(site: Deployment) -> None:
    first = site.start()
    second = run(site, "serve")
    assert second.returncode == 1
    assert f"process {first.pid}".encode() in second.stderr
    assert b"WODSTATEDIR" in second.stderr


def test_pipe_and_work(site: Deployment) -> None:
    mail = f"From {SENDER}  Fri Mar  3 09:08:35 2023\nSubject: CREATE 7 0\n\nWKSHP-Test\n".encode()
    Spool(site.state / "spool")
    assert run(site, "pipe", "--spool", str(site.state / "spool"), stdin=mail).returncode == 0
    done = run(site, "work", "--until-empty")
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in site.requests()] == ["done"]
    assert site.subjects() == ["Re: CREATE 7 0: done"]


def test_a_piped_mail_is_noticed_while_serving(site: Deployment) -> None:
    site.start()
    mail = f"From {SENDER}  Fri Mar  3 09:08:35 2023\nSubject: PING\n\n\n".encode()
    assert run(site, "pipe", "--spool", str(site.state / "spool"), stdin=mail).returncode == 0
    assert site.ended(1)[0]["action"] == "PING"


def test_the_postfix_door_opens_no_port(site: Deployment) -> None:
    values = yaml.safe_load(site.file.read_text())
    site.file.write_text(yaml.safe_dump({**values, "WODDOOR": "postfix"}))
    log = (site.folder / "server.log").open("ab")
    process = subprocess.Popen([*BASE, "serve", "--config", str(site.file)], cwd=ROOT, stdout=log, stderr=log)
    log.close()
    site.running.append(process)
    wait_until(lambda: "server-ready" in site.log(), what="the server")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", site.port)) != 0
    assert site.stop(process) == 0


def test_systemd_is_told(site: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        address = str(site.folder / "notify")
        channel.bind(address)
        channel.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        process = site.start()
        assert channel.recv(100) == b"READY=1"
        assert site.stop(process) == 0
        assert channel.recv(100) == b"STOPPING=1"


def test_refusals_are_answered_within_the_budget(site: Deployment) -> None:
    site.start()
    for number in range(6):
        site.mail(f"FROBNICATE {number} 0")
    site.ended(6)
    wait_until(lambda: len(site.outbox()) == 4, what="three refusals and the notice")
    site.mail("CREATE 7 0")
    site.ended(7)
    wait_until(lambda: "Re: CREATE 7 0: done" in site.subjects(), what="the result mail, which is never limited")
    subjects = site.subjects()
    assert sum("refused" in subject for subject in subjects) == 3
    assert sum("held back" in subject for subject in subjects) == 1
    assert len(subjects) == 5


def test_an_unreachable_mail_server_loses_no_result(site: Deployment) -> None:
    values = yaml.safe_load(site.file.read_text())
    nobody = f"smtp://127.0.0.1:{free_port()}"
    site.file.write_text(yaml.safe_dump({**values, "WODSMTPURL": nobody}))
    process = site.start()
    for subject in ("PING", "CREATE 7 0"):
        assert site.mail(subject).startswith("250 ")
    assert [row["state"] for row in site.ended(2)] == ["done", "done"]
    wait_until(lambda: site.log().count("reply-deferred") >= 2, what="the first try of both")
    assert site.stop(process) == 0
    assert site.subjects() == []
    site.file.write_text(yaml.safe_dump(values))
    site.start()
    wait_until(lambda: len(site.outbox()) >= 2, what="the answers after the server is back")
    assert site.subjects() == ["Re: CREATE 7 0: done", "Re: PING: pong"]


def test_a_lost_apidb_key_refuses_to_start(site: Deployment) -> None:
    process = site.start()
    site.stop(process)
    with site.store.transaction() as connection:
        connection.execute(facts.insert(), {"name": "apidb", "value": "configured"})
    refused = run(site, "serve")
    assert refused.returncode == 78
    assert b"WODAPIDBEXTURL" in refused.stderr
    values = yaml.safe_load(site.file.read_text())
    site.file.write_text(yaml.safe_dump({**values, "WODSUBJECTNUMBER": "count"}))
    site.start()
    assert site.answers()


def test_the_credentials_mail(site: Deployment) -> None:
    site.start()
    row = site.one("CREATE 7 0 participant@example.org")
    wait_until(lambda: len(site.outbox()) == 2, what="both mails")
    mail = next(found for found in site.outbox() if found["To"] == "participant@example.org")
    trace = (site.state / ".mail" / "from").read_text()
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    password = trace.split("(passwd ")[1].split(")")[0]
    assert password in text.decode()
    assert "student7" in text.decode()
    wait_until(lambda: not list((site.state / "secrets").glob("*/password*")), what="the secret's removal")
    assert row["state"] == "done"


def test_from_the_250_to_the_first_step_it_takes_no_time_to_speak_of(site: Deployment) -> None:
    site.start()
    site.mail("PING")
    site.ended(1)
    began = time.time()
    site.mail("CREATE 7 0")
    wait_until(lambda: "job-started" in site.log(), what="the first step")
    assert time.time() - began < 10, "not a benchmark: only that nothing waits for a long poll"


def test_kill_with_nothing_at_work_harms_nothing(site: Deployment) -> None:
    process = site.start()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    site.start()
    assert site.one("CREATE 7 0")["state"] == "done"


def test_sigterm_ends_a_copy_of_several_students(site: Deployment) -> None:
    private = site.folder / "private"
    (private / "ansible").mkdir(parents=True)
    (private / "ansible" / "pre_templating.yml").write_text(
        "- name: Take long\n  ansible.builtin.command: sleep 677\n", encoding="utf-8"
    )
    values = yaml.safe_load(site.file.read_text())
    site.file.write_text(yaml.safe_dump({**values, "WODDRAIN": 1, "WODPRIVDIR": str(private)}))
    process = site.start()
    for student in (7, 8, 9):
        site.mail(f"CREATE {student} 0")
    wait_until(lambda: b"sleep\x00677\x00" in b"".join(cmdlines()), what="the private task")
    began = time.monotonic()
    assert site.stop(process) == 0
    assert time.monotonic() - began < 60
    assert b"sleep\x00677\x00" not in b"".join(cmdlines())
    (private / "ansible" / "pre_templating.yml").unlink()
    site.start()
    assert [row["state"] for row in site.ended(3)] == ["done"] * 3


def test_what_is_older_than_the_retention_goes_at_the_next_start(site: Deployment) -> None:
    process = site.start()
    site.one("CLEANUP 7 0")  # no CREATE: its session goes on for four hours, and it stays for so long
    site.one("CREATE 8 0")
    site.stop(process)
    with site.store.transaction() as connection:
        long_ago = time.time() - 91 * 86400
        connection.execute(requests.update().where(requests.c.id == 1).values(finished_at=long_ago))
    site.start()
    wait_until(lambda: [row["id"] for row in site.requests()] == [2], what="the sweep")

    def workflows(job: int) -> list[str]:
        with site.store.reading() as view:
            names = view.exec_driver_sql("SELECT workflow_uuid FROM workflow_status").scalars()
            return [name for name in names if f"-job{job}-" in name]

    wait_until(lambda: workflows(1) == [], what="the end of its workflow, which follows")
    assert workflows(2) != []
