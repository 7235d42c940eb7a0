"""Students' passwords in an LDAP directory, by ldap3 (docs/ldap.md).

A connection a call: nothing is shared between threads, and nothing is kept that a restarted server would have cut.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ldap3
from ldap3.core.exceptions import LDAPCommunicationError, LDAPExceptionError, LDAPStartTLSError
from ldap3.core.tls import Tls
from ldap3.utils.dn import escape_rdn
from ldap3.utils.log import OFF, set_library_log_detail_level

from wodmail.errors import Failed, Temporary, WodmailError
from wodmail.schema import Settings

TRIES = 3
PAUSE = 0.25
CONNECT_SECONDS = 5
ANSWER_SECONDS = 10

_SUCCESS, _CONSTRAINT = 0, 19
# Result codes of RFC 4511, appendix A, that say "not now": timeLimitExceeded, busy, unavailable.
_LATER = frozenset({3, 51, 52})
_ENCRYPT = "it wants an encrypted connection: set WODLDAPTLS to starttls or ldaps"
_BIND_WORDS: Mapping[int, str] = {
    8: _ENCRYPT,
    13: _ENCRYPT,
    32: "it knows no such account: check WODLDAPBINDDN",
    34: "WODLDAPBINDDN is no distinguished name",
    48: "it lets this account in by other means only: check WODLDAPBINDDN",
    49: "it does not accept this backend's account or password: check WODLDAPBINDDN and WODLDAPPWD",
}
_MODIFY_WORDS: Mapping[int, str] = {
    8: _ENCRYPT,
    13: _ENCRYPT,
    10: "it is a copy that can't be written: name the main server in WODLDAPSRVNAME",
    19: "its password policy does not accept the password: see WODPASSWORDLENGTH, or ease the policy",
    32: "it has no such entry: add it, or check WODLDAPSETUPUSER and WODLDAPDMN",
    34: "WODLDAPDMN is no distinguished name",
    50: "the account of WODLDAPBINDDN may not write userPassword: allow it there",
    53: "it is not its entry to change, or it is read-only: check WODLDAPDMN and WODLDAPSRVNAME",
    65: "the entry's object classes have no userPassword: add one that has, e.g. simpleSecurityObject",
}


class _StrictTls(Tls):
    """TLS that OpenSSL itself checks: the chain against the system's CAs (SSL_CERT_FILE counts), and the host's name.

    ldap3's own comparison of names knows no addresses on newer Pythons.
    """

    def __init__(self, host: str) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self.host = host
        self.refused = ""

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        """Encrypt a connection's socket; keeps why the certificate was refused, which ldap3 only prints."""
        del do_handshake  # without it nothing would have been checked yet
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        try:
            connection.socket = context.wrap_socket(connection.socket, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            self.refused = error.verify_message
            raise


class LdapDirectory:
    """A `wodmail.directory.Directory` on an LDAP server.

    Args:
        settings: the WODLDAP* keys, all of them.
        connect_timeout: seconds to wait for a connection.
        answer_timeout: whole seconds to wait for each answer.
        pause: seconds before the second try when the server is away; doubled before the third.
    """

    enabled = True

    def __init__(
        self,
        settings: Settings,
        *,
        connect_timeout: float = CONNECT_SECONDS,
        answer_timeout: int = ANSWER_SECONDS,
        pause: float = PAUSE,
    ) -> None:
        self._settings = settings
        self._connect_timeout, self._answer_timeout, self._pause = connect_timeout, answer_timeout, pause
        self._server = f"The LDAP server {settings.WODLDAPSRVNAME}:{settings.WODLDAPPORT}"
        # ldap3 has a log of its own that shows new passwords, its switch for hiding them notwithstanding.
        set_library_log_detail_level(OFF)

    def dn(self, student: int) -> str:
        """The student's entry."""
        uid = escape_rdn(f"{self._settings.WODLDAPSETUPUSER}{student}")
        return f"uid={uid},ou=People,{self._settings.WODLDAPDMN}"

    def set_password(self, student: int, password: str) -> None:
        """See `wodmail.directory.Directory.set_password`.

        Raises:
            Temporary: the server was away or busy three times.
            Failed: it clearly says no, its certificate can't be trusted, or the password is empty.
        """
        if not password:
            raise Failed(f"There is no password to set for student {student}.", "an empty password was given")
        for number in range(1, TRIES + 1):
            try:
                self._replace(student, password)
            except Temporary:
                if number == TRIES:
                    raise
                time.sleep(self._pause * 2 ** (number - 1))
            else:
                break

    # -- one try ------------------------------------------------------------------------------------------------------

    def _replace(self, student: int, password: str) -> None:
        """One connection: bind, and replace userPassword (RFC 4511, sections 4.2 and 4.6)."""
        dn = self.dn(student)
        with self._bound(self._settings.WODLDAPBINDDN, self._settings.WODLDAPPWD) as connection:
            change = {"userPassword": [(ldap3.MODIFY_REPLACE, [password.encode()])]}
            connection.modify(dn, change)
            result = connection.result
        if result["result"] == _CONSTRAINT and self._opens(dn, password):
            return  # an earlier run of this step has set it; a policy may not take the same one twice
        if result["result"] != _SUCCESS:
            raise self._refusal(f"has not set the password of {dn}", result, _MODIFY_WORDS, password)

    def _opens(self, dn: str, password: str) -> bool:
        """Whether the password is the entry's."""
        try:
            with self._bound(dn, password):
                return True
        except Failed:
            return False

    @contextlib.contextmanager
    def _bound(self, user: str, password: str) -> Iterator[Any]:
        """A connection that is bound as a user; what goes wrong on it comes out as an error of ours."""
        tls = _StrictTls(self._settings.WODLDAPSRVNAME) if self._settings.WODLDAPTLS != "off" else None
        connection = None
        try:
            connection = self._connection(user, password, tls)
            connection.open(read_server_info=False)
            if self._settings.WODLDAPTLS == "starttls":
                connection.start_tls(read_server_info=False)
            connection.bind(read_server_info=False)
            if connection.result["result"] != _SUCCESS:
                raise self._refusal(f"has refused {user}", connection.result, _BIND_WORDS, password)
            yield connection
        except (LDAPExceptionError, OSError) as error:
            # Without the cause: ldap3's errors may drag the request along, and with it the password.
            raise self._trouble(error, tls.refused if tls else "", password) from None
        finally:
            if connection is not None:
                with contextlib.suppress(LDAPExceptionError, OSError):  # it may be gone, and we are done with it
                    connection.unbind()

    def _connection(self, user: str, password: str, tls: _StrictTls | None) -> Any:
        settings = self._settings
        server = ldap3.Server(
            settings.WODLDAPSRVNAME,
            port=settings.WODLDAPPORT,
            use_ssl=settings.WODLDAPTLS == "ldaps",
            tls=tls,
            get_info=ldap3.NONE,
            connect_timeout=self._connect_timeout,
        )
        return ldap3.Connection(
            server,
            user,
            password,
            authentication=ldap3.SIMPLE,
            auto_referrals=False,  # a referral must not carry the bind password to another host
            check_names=False,
            receive_timeout=self._answer_timeout,
        )

    # -- words --------------------------------------------------------------------------------------------------------

    def _refusal(self, what: str, result: Mapping[str, Any], words: Mapping[int, str], secret: str) -> WodmailError:
        """The error for a result other than success."""
        code, name = int(result["result"]), str(result["description"])
        cause = _without(secret, f"{self._server} {what}: {name} ({code}) {result.get('message') or ''}".rstrip())
        if code in _LATER:
            return Temporary(f"{self._server} is busy ({name}). Send the mail again later.", cause)
        return Failed(f"{self._server} {what}: {words.get(code, f'{name}; ask who runs it')}.", cause)

    def _trouble(self, error: Exception, refused: str, secret: str) -> WodmailError:
        """The error for a connection that did not do."""
        cause = _without(secret, f"{self._server}: {type(error).__name__}: {error}")
        if refused:
            advice = "Check WODLDAPSRVNAME against the names in the certificate, and that its CA is known to this host"
            return Failed(f"{self._server} shows a certificate that can't be trusted ({refused}). {advice}.", cause)
        if isinstance(error, LDAPStartTLSError) and "protocolError" in str(error):
            return Failed(f"{self._server} knows no STARTTLS: set WODLDAPTLS to ldaps, or have it switched on.", cause)
        if isinstance(error, LDAPCommunicationError | LDAPStartTLSError | OSError):
            advice = "Send the mail again once it is back; if it runs, check WODLDAPSRVNAME, WODLDAPPORT and WODLDAPTLS"
            return Temporary(f"{self._server} does not answer. {advice}.", cause)
        return Failed(f"{self._server} can't be used: check WODLDAPSRVNAME, WODLDAPPORT and WODLDAPDMN.", cause)


def _without(secret: str, text: str) -> str:
    """A text of the server's or the library's, should it repeat what it was given."""
    return text.replace(secret, "****") if secret else text
