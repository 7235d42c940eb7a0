"""A real slapd (Debian) for tests: on a loopback port, with a database of its own in a folder, started as a child."""

from __future__ import annotations

import datetime
import ipaddress
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ldap3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.parts import require
from tests.support import free_port, wait_until
from wodmail.schema import Settings

BASE = "dc=example,dc=org"
ADMIN = f"cn=Directory Manager,{BASE}"
ADMIN_PASSWORD = "adm1n-s3cret-4711"
OLD = "old-passw0rd"
STUDENTS = (1, 2, 3, 4, 5, 6, 7)
# The lines that let ADMIN do everything; and the same account as one like others.
SUPERUSER = f'rootdn "{ADMIN}"\nrootpw {ADMIN_PASSWORD}\n'
PLAIN_ADMIN = f"""dn: {ADMIN}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: Directory Manager
userPassword: {ADMIN_PASSWORD}

"""
# The second account may read everything, and write nothing.
READER = f"cn=reader,{BASE}"

_CONFIG = """
modulepath {modules}
moduleload back_mdb
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {folder}/slapd.pid
{tls}
database mdb
suffix "{base}"
rootdn "{admin}"
rootpw {password}
directory {folder}/db
dbnosync
maxsize 10485760
{more}
access to attrs=userPassword by anonymous auth by * none
access to * by * read
"""

_ENTRY = """dn: uid={uid},ou=People,{base}
objectClass: inetOrgPerson
uid: {uid}
cn: {uid}
sn: {uid}
userPassword: {old}

"""

_TOP = """dn: {base}
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=People,{base}
objectClass: organizationalUnit
ou: People

dn: {reader}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: {password}

"""


class Authority:
    """A certification authority and the one certificate that it gives, for loopback's address and `localhost`.

    Args:
        folder: where ca.pem, cert.pem and key.pem are written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self.cert, self.key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {folder.name}")])
        own = x509.BasicConstraints(ca=True, path_length=None)
        self.ca.write_bytes(_signed(issuer, issuer, ca_key, ca_key, (own, True)))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "slapd")])
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
        )
        self.cert.write_bytes(_signed(subject, issuer, key, ca_key, (names, False)))
        plain = serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        self.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    extension: tuple[x509.ExtensionType, bool],
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(extension[0], critical=extension[1])
        .sign(signer, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


class Slapd:
    """One server.

    Args:
        folder: its database, configuration and log; must be empty.
        authority: gives its certificate; without one it speaks no TLS.
        more: further lines for its database's configuration.
        students: numbers of the students who have an entry.
    """

    def __init__(
        self, folder: Path, authority: Authority | None = None, more: str = "", students: Iterable[int] = STUDENTS
    ) -> None:
        self.program = require("slapd")
        self.folder = folder
        self.port, self.tls_port = free_port(), free_port()
        self.authority = authority
        (folder / "db").mkdir(parents=True)
        tls = ""
        if authority is not None:
            tls = f"TLSCertificateFile {authority.cert}\nTLSCertificateKeyFile {authority.key}\n"
        modules = next(path for path in map(Path, ("/usr/lib/ldap", "/usr/libexec/openldap")) if path.is_dir())
        values = {"base": BASE, "admin": ADMIN, "reader": READER, "password": ADMIN_PASSWORD, "folder": folder}
        config = _CONFIG.format(**values, modules=modules, tls=tls, more=more)
        (folder / "slapd.conf").write_text(config, encoding="utf-8")
        entries = "".join(_ENTRY.format(uid=f"student{each}", base=BASE, old=OLD) for each in students)
        self.fill(_TOP.format(**values) + entries)
        self._process: subprocess.Popen[bytes] | None = None

    def fill(self, ldif: str) -> None:
        """Add entries (LDIF) to the database while the server is down."""
        argv = [self.program, "-Ta", "-q", "-f", str(self.folder / "slapd.conf")]
        done = subprocess.run(argv, input=ldif, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it and wait until it answers."""
        urls = f"ldap://127.0.0.1:{self.port}/"
        if self.authority is not None:  # 127.0.0.2 is not in its certificate
            others = (
                ("ldap://127.0.0.2", self.port),
                ("ldaps://127.0.0.1", self.tls_port),
                ("ldaps://127.0.0.2", self.tls_port),
            )
            urls = " ".join([urls, *(f"{host}:{port}/" for host, port in others)])
        # With -d it stays in the foreground and is ours to end; "stats" says who bound and what was changed.
        argv = [self.program, "-f", str(self.folder / "slapd.conf"), "-h", urls, "-d", "stats"]
        with (self.folder / "slapd.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, what="slapd's answer")

    @contextmanager
    def changed(self, *changes: tuple[str, str], ldif: str = "") -> Iterator[None]:
        """Run it with another configuration meanwhile.

        Args:
            changes: texts of slapd.conf and what takes their place.
            ldif: entries that are added, and stay.
        """
        file = self.folder / "slapd.conf"
        text = changing = file.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in changing, old
            changing = changing.replace(old, new)
        self.stop()
        try:
            file.write_text(changing, encoding="utf-8")
            if ldif:
                self.fill(ldif)
            self.start()
            yield
        finally:
            self.stop()
            file.write_text(text, encoding="utf-8")
            self.start()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End it, if it runs."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash; the database is as it then was."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "slapd.log").read_text(encoding="utf-8", errors="replace")

    def opens(self, password: str, student: int) -> bool:
        """Whether the password is that student's: the server lets a client in with it."""
        server = ldap3.Server("127.0.0.1", port=self.port, get_info=ldap3.NONE, connect_timeout=20)
        dn = f"uid=student{student},ou=People,{BASE}"
        client = ldap3.Connection(server, dn, password, receive_timeout=20)
        try:
            return bool(client.bind())
        finally:
            client.unbind()

    def keys(self, **more: object) -> dict[str, object]:
        """The keys of a configuration that uses it."""
        return {
            "WODLDAPSRVNAME": "127.0.0.1",
            "WODLDAPPORT": self.port,
            "WODLDAPDMN": BASE,
            "WODLDAPBINDDN": ADMIN,
            "WODLDAPPWD": ADMIN_PASSWORD,
            **more,
        }

    def settings(self, **more: object) -> Settings:
        """Sandbox settings that use it."""
        return Settings.model_validate({"WODSANDBOX": True, **self.keys(**more)})


@contextmanager
def slapd(authority: Authority | None = None, more: str = "", students: Iterable[int] = STUDENTS) -> Iterator[Slapd]:
    """A server that runs; it is ended and its folder removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="wodmail-slapd-") as folder:
        site = Slapd(Path(folder) / "slapd", authority, more, students)
        try:
            site.start()
            yield site
        finally:
            site.stop()
