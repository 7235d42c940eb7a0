"""LDAP passwords and variable files through the real server: CREATE to notebook, failures, and a kill in the middle."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.apidb.site import ApiDbSite
from tests.apidb.state import PASSWORD
from tests.e2e.harness import ROOT, Deployment, step_of
from tests.e2e.watching import watching
from tests.parts import require
from tests.slapdsite import ADMIN_PASSWORD, OLD, PLAIN_ADMIN, STUDENTS, SUPERUSER, Slapd, slapd
from tests.support import wait_until
from wodmail import vaultformat

KEY = "vault-s3cret-4711"
OTHER_KEY = "an0ther-key-4711"
SECRETS = {"WODLDAPPWD": ADMIN_PASSWORD, "vault_secret": KEY, "another key": OTHER_KEY, "WODAPIDBUSERPWD": PASSWORD}
# As existing scripts do it: the file in clear for a moment, a variable appended.
APPENDS = """set -e
file=$WODANSIBLEPRIVDIR/$WODGROUP/pass/variables_${w}_$stdid.yml
key=$WODANSIBLEPRIVDIR/vault_secret
ansible-vault decrypt --vault-password-file "$key" "$file"
echo "MLTOK: tok-$stdid-4711" >>"$file"
hold=$WODROOTDIR/hold-$stdid
[ ! -e "$hold" ] || { touch "$WODROOTDIR/open-$stdid"; read -r _ <"$hold"; }
ansible-vault encrypt --vault-password-file "$key" "$file"
"""
# Another way: the script writes a file of its own and encrypts that.
OWN = """set -e
umask 077
file=$WODANSIBLEPRIVDIR/$WODGROUP/pass/variables_${w}_$stdid.yml
mkdir -p "${file%/*}"
printf -- '---\\nHTTPPORT: 8%s\\n' "$stdid" >"$file"
ansible-vault encrypt --vault-id "mine@$WODANSIBLEPRIVDIR/vault_secret" --encrypt-vault-id mine "$file"
"""
ADDS = """set -e
. "$WODFUNCTIONS"
wod_update_ldap_passwd
printf 'a{{ b }}"c\\n' | wod_add_variable MLTOK
wod_create_var_passwd
"""
NOTE = "token = '{{ MLTOK }}'\npassword = '{{ PASSSTU }}'\n"


class Site(Deployment):
    """A deployment with a private tree, a vault_secret and an LDAP server."""

    def __init__(self, folder: Path, server: Slapd) -> None:
        self.private = folder / "private" / "ansible"
        self.private.mkdir(parents=True)
        self.secret = self.private / "vault_secret"
        self.secret.write_text(f"{KEY}\n")
        self.secret.chmod(0o600)
        self.server, self.api = server, ApiDbSite(folder, base=1000)
        self.api.add_students(range(1, 101))
        keys: dict[str, Any] = {**server.keys(), **self.api.keys}
        super().__init__(folder, WODPRIVDIR=str(folder / "private"), WODROOTDIR=str(folder), **keys)

    def workshop(self, name: str, files: Mapping[str, str] | None = None, **meta: Any) -> Path:
        """Make a workshop, here and in the API-DB."""
        self.api.add_workshop(name, range=[1, 100], **meta)
        return super().workshop(name, files, **meta)

    def refused(self, student: int, workshop: str, step: str) -> dict[str, Any]:
        """A participant registers, and the CREATE fails at that step: the rows are as the frontend left them."""
        number, before = self.api.add_customer(workshop, student), self.api.mark()
        row = self.one(f"CREATE {student} {number}", workshop)
        assert self.untold(row), row
        assert step_of(row, step)["state"] == "failed"
        customer = self.api.customer(number)
        rows = (self.api.student(student)["assigned"], customer["active"], customer["cleaned"])
        assert (rows, self.api.puts(before)) == ((True, False, False), [])
        assert self.pass_files() == []
        return row

    def pass_files(self) -> list[str]:
        """The variable files that are there, whatever their names."""
        return [file.name for file in self.private.rglob("pass/*")]

    def note(self, student: int, workshop: str) -> str:
        """What the student's notebook says."""
        return (self.home(student) / workshop / "note.py").read_text()

    def password(self, student: int) -> str:
        """The student's newest password, of the trace."""
        return re.findall(rf"student {student} \(passwd (\w+)\)", self.trace())[-1]

    def mailed(self, request: int) -> str:
        """The text of the request's result mail."""
        mail = self.replies(request)[0]
        return "".join(
            part.get_payload(decode=True).decode() for part in mail.walk() if part.get_content_type() == "text/plain"
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One deployment for all tests of this file; each uses students of its own."""
    require("ansible")
    with slapd(students=(*STUDENTS, 13)) as server:
        made = Site(tmp_path_factory.mktemp("site"), server)
        made.workshop("WKSHP-Ldap", {"note.py": "password = '{{ PASSSTU }}'\n"}, ldap=True)
        made.workshop("WKSHP-Append", {"note.py": NOTE}, varpass=True)
        made.script("create-WKSHP-Append.sh", APPENDS)
        made.workshop("WKSHP-Own", {"note.py": "port = {{ HTTPPORT }}\n"})
        made.script("create-WKSHP-Own.sh", OWN)
        made.workshop("WKSHP-Add", {"note.py": NOTE}, varpass=True)
        made.script("create-WKSHP-Add.sh", ADDS)
        made.workshop("WKSHP-Fails", varpass=True)
        made.script("create-WKSHP-Fails.sh", "exit 3\n")
        with made.api:
            made.start()
            yield made
            made.close()


@pytest.fixture(autouse=True)
def nothing_leaks(site: Site) -> Iterator[None]:
    """All tests of this file are watched."""
    tokens = {f"token {student}": f"tok-{student}-4711" for student in (11, 15, 17)}
    with watching(site, {**SECRETS, **tokens}):
        yield


# -- LDAP -------------------------------------------------------------------------------------------------------------


def test_the_mailed_password_binds(site: Site) -> None:
    row = site.one("CREATE 1 0", "WKSHP-Ldap")
    assert row["state"] == "done"
    word = site.password(1)
    assert word in site.mailed(row["id"])
    assert (site.server.opens(word, 1), site.server.opens(OLD, 1)) == (True, False)
    assert site.note(1, "WKSHP-Ldap") == f"password = '{word}'\n"
    assert site.pass_files() == []
    assert site.one("CLEANUP 1 0", "WKSHP-Ldap")["state"] == "done"
    assert not site.server.opens(word, 1)
    assert site.server.opens(site.password(1), 1)


def test_without_the_server_a_create_ends_before_the_home_and_a_cleanup_goes_on(site: Site) -> None:
    for student in (2, 4):
        assert site.one(f"CREATE {student} 0", "WKSHP-Ldap")["state"] == "done"
        (site.home(student) / "mine").write_text("the student's work")
    before = len(site.requests())
    site.server.stop()
    try:
        site.mail("CREATE 2 0", "WKSHP-Ldap")
        site.mail("CLEANUP 4 0", "WKSHP-Ldap")
        created, cleaned = site.ended(before + 2)[-2:]
    finally:
        site.server.start()
    assert (created["state"], cleaned["state"]) == ("failed", "failed")
    assert step_of(created, "registry-active")["state"] == "waiting"
    assert not site.api.student(4)["assigned"], "a directory that is away keeps no seat"
    wait_until(lambda: site.replies(created["id"]), what="the result mail")
    mail = site.replies(created["id"])[0]
    assert "FAILED at step ldap-password" in mail["Subject"]
    assert "does not answer. Send the mail again once it is back" in " ".join(site.mailed(created["id"]).split())
    assert (site.home(2) / "mine").exists(), "the home was not wiped"
    states = {step["name"]: step["state"] for step in cleaned["jobs"][0]["steps"]}
    assert states["ldap-password"] == "failed"
    assert (states["erase"], states["free-seat"], states["forget-variables"]) == ("done", "done", "done")
    assert not (site.home(4) / "mine").exists()
    assert site.one("CREATE 2 0", "WKSHP-Ldap")["state"] == "done"
    assert site.server.opens(site.password(2), 2)


# How slapd is made to refuse, and what the sender is told; the account is the same each time.
AN_ACCOUNT_LIKE_OTHERS = (SUPERUSER, "")
NOBODY_BINDS = ("by anonymous auth", "by * none")
REFUSALS = (
    (
        (AN_ACCOUNT_LIKE_OTHERS, NOBODY_BINDS),
        "has refused cn=Directory Manager,dc=example,dc=org: it does not accept this backend's account or password: "
        "check WODLDAPBINDDN and WODLDAPPWD",
    ),
    (
        (AN_ACCOUNT_LIKE_OTHERS,),
        "has not set the password of uid=student5,ou=People,dc=example,dc=org: "
        "the account of WODLDAPBINDDN may not write userPassword: allow it there",
    ),
)


def test_slapd_refuses(site: Site) -> None:
    """It does not let this backend in, or lets it in without the right to write: a clear reply, the seat unused."""
    entry = PLAIN_ADMIN
    for changes, words in REFUSALS:
        with site.server.changed(*changes, ldif=entry):
            row = site.refused(5, "WKSHP-Ldap", "ldap-password")
        entry = ""
        assert words in " ".join(site.mailed(row["id"]).split())
        assert site.server.opens(OLD, 5)
    assert site.one("CREATE 5 0", "WKSHP-Ldap")["state"] == "done"
    assert site.server.opens(site.password(5), 5)


def test_a_student_without_an_entry(site: Site) -> None:
    row = site.refused(99, "WKSHP-Ldap", "ldap-password")
    assert "no such entry" in step_of(row, "ldap-password")["error"]
    assert not site.home(99).exists() or not list(site.home(99).iterdir())


def test_a_script_sets_a_password_by_query(site: Site) -> None:
    command = [sys.executable, "-m", "wodmail", "query", "--config", str(site.file), "directory-password"]

    def ask(student: str) -> subprocess.CompletedProcess[str]:
        given = "Qu3ryPassw0rd\n"
        return subprocess.run([*command, student], cwd=ROOT, input=given, capture_output=True, text=True, check=False)

    assert ask("3").returncode == 0
    assert site.server.opens("Qu3ryPassw0rd", 3)
    failed = ask("98")
    assert failed.returncode != 0
    assert "no such entry" in failed.stderr
    assert "Qu3ry" not in failed.stderr


# -- variables --------------------------------------------------------------------------------------------------------


def test_a_script_that_appends_to_the_pass_file(site: Site) -> None:
    row = site.one("CREATE 11 0", "WKSHP-Append")
    assert row["state"] == "done", row["reason"]
    assert site.note(11, "WKSHP-Append") == f"token = 'tok-11-4711'\npassword = '{site.password(11)}'\n"
    assert site.pass_files() == []


def test_a_script_that_encrypts_a_file_of_its_own(site: Site) -> None:
    assert site.one("CREATE 12 0", "WKSHP-Own")["state"] == "done"
    assert site.note(12, "WKSHP-Own") == "port = 812\n"
    assert site.pass_files() == []


def test_a_script_that_sets_a_password_and_adds_a_variable_by_functions(site: Site) -> None:
    row = site.one("CREATE 13 0", "WKSHP-Add")
    assert row["state"] == "done", row["reason"]
    assert (site.server.opens(site.password(13), 13), site.server.opens(OLD, 13)) == (True, False)
    assert site.note(13, "WKSHP-Add") == f"token = 'a{{{{ b }}}}\"c'\npassword = '{site.password(13)}'\n"
    assert site.pass_files() == []


def test_the_pass_file_goes_after_a_failure(site: Site) -> None:
    row = site.refused(14, "WKSHP-Fails", "create-script")
    assert step_of(row, "pass-file")["state"] == "done"


def test_killed_while_the_pass_file_is_open(site: Site) -> None:
    """The second run finds the file as the first one found it, not in clear and not with half of the variables."""
    os.mkfifo(site.folder / "hold-15")
    server = site.running[-1]
    before = len(site.requests())
    site.mail("CREATE 15 0", "WKSHP-Append")
    wait_until(lambda: (site.folder / "open-15").exists(), what="the script with the file in clear")
    assert "MLTOK" in next(site.private.rglob("pass/variables_*_15.yml")).read_text()
    server.kill()
    server.wait()
    (site.folder / "hold-15").unlink()
    site.start()
    row = site.ended(before + 1)[-1]
    assert row["state"] == "done", row["reason"]
    assert site.note(15, "WKSHP-Append") == f"token = 'tok-15-4711'\npassword = '{site.password(15)}'\n"
    assert site.pass_files() == []


def test_a_file_of_another_key(site: Site) -> None:
    """The script uses a key of its own; what it encrypted can't be opened, and nobody is told what was in it."""
    other = site.folder / "other_secret"
    other.write_text(OTHER_KEY)
    other.chmod(0o600)
    site.workshop("WKSHP-Other", {"note.py": "port = {{ HTTPPORT }}\n"})
    site.script("create-WKSHP-Other.sh", OWN.replace("$WODANSIBLEPRIVDIR/vault_secret", str(other)))
    row = site.refused(16, "WKSHP-Other", "copy-folder")
    mail = " ".join(site.mailed(row["id"]).split())
    assert "variables_WKSHP-Other_16.yml was encrypted with another password" in mail
    assert "vault_secret in WODANSIBLEPRIVDIR" in mail
    assert "HTTPPORT: 816" not in mail + site.log() + site.trace()


def test_group_variables_of_another_key(site: Site) -> None:
    """vault_secret is not what opens the site's own variables: the CREATE ends before a script or a playbook runs."""
    folder = site.private / "group_vars"
    folder.mkdir()
    (folder / "production.yml").write_bytes(vaultformat.encrypted(b"MLTOK: of-the-site", OTHER_KEY))
    site.script("create-WKSHP-Add.sh.j2", ADDS)
    try:
        row = site.refused(18, "WKSHP-Add", "create-script")
    finally:
        (folder / "production.yml").unlink()
        (site.scripts / "create-WKSHP-Add.sh.j2").unlink()
    mail = " ".join(site.mailed(row["id"]).split())
    assert "production.yml was encrypted with another password than this backend's vault has" in mail
    assert "encrypt it anew, or correct vault_secret in WODANSIBLEPRIVDIR" in mail
    assert "of-the-site" not in mail + site.log() + site.trace()


def test_a_secret_that_others_may_read_is_not_used(site: Site) -> None:
    site.secret.chmod(0o644)
    try:
        row = site.refused(17, "WKSHP-Append", "pass-file")
        checked = subprocess.run(
            [sys.executable, "-m", "wodmail", "config", "check", "--config", str(site.file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        site.secret.chmod(0o600)
    assert "chmod 0600" in step_of(row, "pass-file")["cause"]
    assert checked.returncode == 78
    assert "vault_secret has mode 0644 and is open to others; chmod 0600" in checked.stdout + checked.stderr
    assert site.pass_files() == []
