"""Passwords in a real slapd: set, refused, away, hanging, encrypted; and never shown."""

from __future__ import annotations

import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from ldap3.utils import log as ldap_log

from tests.slapdsite import ADMIN_PASSWORD, BASE, OLD, READER, Authority, Slapd, slapd
from tests.support import free_port, wait_until
from wodmail.errors import Failed, Temporary, WodmailError
from wodmail.ldap import LdapDirectory
from wodmail.schema import Settings

NEW = "n3wPassw0rd"
WRONG = "wr0ng-4711"
UNSEEN = "never-shown-4711"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Slapd]:
    """One server for all tests of this file; each uses students of its own."""
    with slapd(authority) as made:
        yield made


def quick(settings: Settings, patience: int = 20) -> LdapDirectory:
    """A directory that tries again soon. One second of patience is for servers that hang, not for slow ones."""
    return LdapDirectory(settings, connect_timeout=patience, answer_timeout=patience, pause=0.01)


def told(error: WodmailError) -> str:
    """All that an error says anywhere, its traceback with every cause included."""
    return error.sender + error.operator + "".join(traceback.format_exception(error))


def test_the_new_password_opens_and_the_old_one_does_not(server: Slapd) -> None:
    assert server.opens(OLD, 1)
    quick(server.settings()).set_password(1, NEW)
    assert (server.opens(NEW, 1), server.opens(OLD, 1)) == (True, False)
    assert server.opens(OLD, 2), "nobody else's was touched"


@pytest.mark.parametrize("word", ["back\\41slash", "\u00e9\u20ac blank", "*()", "a" * 200])
def test_any_password_arrives_as_it_is(server: Slapd, word: str) -> None:
    quick(server.settings()).set_password(2, word)
    assert server.opens(word, 2)


def test_many_at_once(server: Slapd) -> None:
    directory = quick(server.settings())
    words = {student: f"{NEW}{student}" for student in (3, 4, 5)}
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(lambda each: directory.set_password(*each), [*words.items()] * 6)) == [None] * 18
    assert {student: server.opens(word, student) for student, word in words.items()} == dict.fromkeys(words, True)


@pytest.mark.parametrize(
    ("keys", "student", "words"),
    [
        ({"WODLDAPPWD": WRONG}, 1, "WODLDAPPWD"),
        ({"WODLDAPBINDDN": "no dn"}, 1, "WODLDAPBINDDN"),
        ({"WODLDAPBINDDN": f"cn=nobody,{BASE}"}, 1, "WODLDAPBINDDN"),
        ({"WODLDAPBINDDN": READER}, 1, "WODLDAPBINDDN may not write userPassword"),
        ({}, 77, "WODLDAPSETUPUSER"),
        ({"WODLDAPDMN": "dc=elsewhere"}, 1, "WODLDAPSRVNAME|WODLDAPDMN"),
        ({"WODLDAPDMN": "no dn"}, 1, "WODLDAPDMN"),
        ({"WODLDAPSETUPUSER": "student,ou=Evil+"}, 1, "WODLDAPSETUPUSER"),
        ({"WODLDAPSRVNAME": "http://127.0.0.1/"}, 1, "WODLDAPSRVNAME"),
    ],
)
def test_a_clear_no_names_the_key_to_look_at(server: Slapd, keys: dict[str, object], student: int, words: str) -> None:
    with pytest.raises(Failed, match=words) as caught:
        quick(server.settings(**keys)).set_password(student, UNSEEN)
    assert UNSEEN not in told(caught.value)
    assert ADMIN_PASSWORD not in told(caught.value)
    assert WRONG not in told(caught.value)


def test_a_prefix_is_one_name_whatever_is_in_it(server: Slapd) -> None:
    settings = server.settings(WODLDAPSETUPUSER="a,ou=b+c#")
    assert LdapDirectory(settings).dn(7) == f"uid=a\\,ou=b\\+c#7,ou=People,{BASE}".replace("=b", "\\=b")


def test_no_password_is_no_password(server: Slapd) -> None:
    with pytest.raises(Failed, match="no password"):
        quick(server.settings()).set_password(6, "")
    assert server.opens(OLD, 6)


# -- away -------------------------------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    gone = Settings.model_validate({"WODLDAPSRVNAME": "127.0.0.1", "WODLDAPPORT": free_port(), "WODLDAPDMN": BASE})
    with pytest.raises(Temporary, match="WODLDAPSRVNAME") as caught:
        quick(gone.model_copy(update={"WODLDAPPWD": ADMIN_PASSWORD})).set_password(1, NEW)
    assert ADMIN_PASSWORD not in told(caught.value)


def test_a_name_that_is_nowhere(server: Slapd) -> None:
    with pytest.raises(Temporary, match=r"no-such-host\.invalid"):
        quick(server.settings(WODLDAPSRVNAME="no-such-host.invalid")).set_password(1, NEW)


def test_it_comes_back_between_two_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Slapd(tmp_path / "slapd")
    pauses, back = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        pauses.set()
        back.wait(60)

    monkeypatch.setattr("wodmail.ldap.time", SimpleNamespace(sleep=sleep))
    try:
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(quick(site.settings()).set_password, 1, NEW)
            assert pauses.wait(60)
            site.start()
            back.set()
            assert pending.result(60) is None
        assert site.opens(NEW, 1)
        site.stop()
        with pytest.raises(Temporary):
            quick(site.settings()).set_password(1, OLD)
        site.start()
        assert site.opens(NEW, 1)
    finally:
        site.stop()


class Deaf:
    """Accepts and says nothing; or hangs up."""

    def __init__(self, answer: bytes | None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._answer = answer
        self.clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.clients.append(client)
            if self._answer is not None:
                client.sendall(self._answer)
                client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End it."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        for each in (*self.clients, self._socket):
            each.close()


HTTP = b"HTTP/1.0 400 Bad Request\r\n\r\n"


@pytest.mark.parametrize(
    ("tls", "answer"),
    [(tls, answer) for tls in ("off", "starttls", "ldaps") for answer in (b"", HTTP, b"\x30\x84")]
    + [("off", None), ("ldaps", None)],
)
def test_what_is_no_ldap_server_is_away(tls: str, answer: bytes | None) -> None:
    deaf = Deaf(answer)
    keys = {"WODLDAPSRVNAME": "127.0.0.1", "WODLDAPPORT": deaf.port, "WODLDAPDMN": BASE, "WODLDAPPWD": ADMIN_PASSWORD}
    try:
        with pytest.raises(Temporary) as caught:
            quick(Settings.model_validate({**keys, "WODLDAPTLS": tls}), patience=1).set_password(1, NEW)
        wait_until(lambda: len(deaf.clients) == 3, what="three tries")
    finally:
        deaf.close()
    assert NEW not in told(caught.value)
    assert len(deaf.clients) == 3


# -- encrypted --------------------------------------------------------------------------------------------------------


def encrypted(server: Slapd, tls: str, **more: object) -> Settings:
    """Settings for an encrypted connection."""
    port = server.tls_port if tls == "ldaps" else server.port
    return server.settings(WODLDAPTLS=tls, WODLDAPPORT=port, **more)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("tls", ["starttls", "ldaps"])
def test_encrypted(server: Slapd, authority: Authority, monkeypatch: pytest.MonkeyPatch, tls: str, name: str) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    word = f"{NEW}-{tls}-{name}"
    before = len(server.log())
    quick(encrypted(server, tls, WODLDAPSRVNAME=name)).set_password(6, word)
    assert server.opens(word, 6)
    wait_until(lambda: "TLS established" in server.log()[before:], what="slapd's word that it was encrypted")


@pytest.mark.parametrize("tls", ["starttls", "ldaps"])
def test_a_certificate_of_an_unknown_authority_is_refused(server: Slapd, tls: str) -> None:
    before = len(server.log())
    with pytest.raises(Failed, match=r"certificate.*CA") as caught:
        quick(encrypted(server, tls)).set_password(1, UNSEEN)
    assert UNSEEN not in told(caught.value)
    # Not merely BIND: the UNBIND of an earlier connection may be written late.
    assert " BIND " not in server.log()[before:], "the bind password was not sent"


@pytest.mark.parametrize("tls", ["starttls", "ldaps"])
def test_a_certificate_for_another_name_is_refused(
    server: Slapd, authority: Authority, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    with pytest.raises(Failed, match="WODLDAPSRVNAME against the names"):
        quick(encrypted(server, tls, WODLDAPSRVNAME="127.0.0.2")).set_password(1, NEW)


def test_a_server_that_wants_encryption_and_one_that_has_none() -> None:
    with slapd(more="security simple_bind=56") as strict:
        with pytest.raises(Failed, match="WODLDAPTLS to starttls or ldaps"):
            quick(strict.settings()).set_password(1, NEW)
        with pytest.raises(Failed, match="knows no STARTTLS"):
            quick(strict.settings(WODLDAPTLS="starttls")).set_password(1, NEW)


POLICY = f"""dn: cn=policy,{BASE}
objectClass: organizationalRole
objectClass: pwdPolicy
cn: policy
pwdAttribute: userPassword
pwdInHistory: 3
pwdCheckQuality: 1
pwdMinLength: 8

"""
POLICED = f"""moduleload ppolicy
overlay ppolicy
ppolicy_default cn=policy,{BASE}
ppolicy_hash_cleartext
access to attrs=userPassword by dn.exact="{READER}" write by anonymous auth by * none
"""


def test_a_policy_that_takes_no_password_twice(tmp_path: Path) -> None:
    """A step that runs again after a crash sets the same one, which is fine; an older one is refused clearly."""
    policed = Slapd(tmp_path / "slapd", more=POLICED)
    policed.fill(POLICY)
    try:
        policed.start()
        directory = quick(policed.settings(WODLDAPBINDDN=READER))
        assert [directory.set_password(1, NEW), directory.set_password(1, NEW)] == [None, None]
        assert policed.opens(NEW, 1)
        # It writes that after it has answered.
        wait_until(lambda: policed.log().count("err=19") == 1, what="the server refusing the second")
        directory.set_password(1, f"{NEW}2")
        with pytest.raises(Failed, match="password policy"):
            directory.set_password(1, NEW)
        with pytest.raises(Failed, match=r"password policy.*WODPASSWORDLENGTH"):
            directory.set_password(1, "short")
        assert policed.opens(f"{NEW}2", 1)
    finally:
        policed.stop()


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_the_librarys_own_log_holds_no_password(server: Slapd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = ldap_log.get_library_log_detail_level()
    ldap_log.set_library_log_detail_level(ldap_log.EXTENDED)
    try:
        assert server.opens(OLD, 7)
        assert "BIND" in caplog.text, "it logs all when it is told to"
        quick(server.settings()).set_password(7, UNSEEN)
        with pytest.raises(Failed):
            quick(server.settings()).set_password(77, UNSEEN)
    finally:
        ldap_log.set_library_log_detail_level(before)
    assert UNSEEN not in caplog.text
    assert ADMIN_PASSWORD not in caplog.text


def test_nothing_shows_a_password_by_its_repr(server: Slapd) -> None:
    directory = LdapDirectory(server.settings())
    assert ADMIN_PASSWORD not in repr(directory) + repr(directory.__dict__)
