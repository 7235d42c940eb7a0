"""The vocabulary of the configuration: every name once, with type, default and description.

The sample file, docs/configuration.md, the shell variables and the checks are all made from the fields of `Settings`.
The fields are the WOD* names themselves, because Python, Ansible and shell scripts share that one vocabulary.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from wodmail import paths, schedule

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

GROUPS = {
    "WODUSER": "This backend",
    "WODUSERMIN": "Students",
    "WODROOTDIR": "Folders",
    "WODSANDBOX": "Running wodmail",
    "WODDOOR": "The front door",
    "WODSENDER": "Who may command",
    "WODSUBJECTNUMBER": "Reading the mails",
    "WODOUTBOX": "Mail that goes out",
    "WODAPIDBURL": "The API-DB (all or none of its keys)",
    "WODBEAPIURL": "JupyterHub (all or none of its keys)",
    "WODLDAPSRVNAME": "LDAP (all or none of its keys)",
    "BRANDING": "Names that notebooks and scripts use",
}
"""Headings of the sample and of the docs page: the first key of each group."""


def listed(value: Any) -> Any:
    """A list written as one text ("a, b c") becomes a list; anything else is left for the schema to judge."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def parsed_networks(value: Any) -> Any:
    """Networks from one text or a list of texts; all that are none are named at once."""
    value = listed(value)
    if not isinstance(value, list):
        return value
    found: list[Network] = []
    wrong: list[str] = []
    for text in value:
        try:
            found.append(ipaddress.ip_network(text if isinstance(text, Network) else str(text)))
        except ValueError:
            wrong.append(str(text))
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: no network; write one as 10.0.0.0/8, with the host bits zero")
    return found


def switch_or_networks(value: Any) -> Any:
    """WODREQUIRESIGNATURE: true, false or networks; a text that is no truth value is a list of networks."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if isinstance(value, bool):
        return value
    return parsed_networks(value if isinstance(value, str | list) else [value])


def off_word(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


Networks = Annotated[list[Network], BeforeValidator(parsed_networks)]
Words = Annotated[list[str], BeforeValidator(listed)]
Port = Annotated[int, Field(ge=1, le=65535)]


def key(default: Any, text: str, *, shown: str = "", secret: bool = False, **limits: Any) -> Any:
    """A field of the schema.

    Args:
        default: used when the key is absent; None together with `shown` when it is derived from other keys.
        text: what it means, with unit and range.
        shown: words for a default that depends on other keys or on the machine.
        secret: whether the value is masked wherever the configuration is shown.
        limits: pydantic's own (ge, le, pattern, ...).
    """
    notes: dict[str, Any] = {"shown": shown, "secret": secret}
    return Field(default=default, description=text, json_schema_extra=notes, repr=not secret, **limits)


def networks(*texts: str) -> list[Network]:
    """Networks from their texts."""
    return [ipaddress.ip_network(text) for text in texts]


LOOPBACK = ("127.0.0.0/8", "::1/128")
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


class Settings(BaseModel):
    """Everything that can be set; unknown keys become Ansible variables (`model_extra`).

    Made directly it checks types and limits only and fills in what depends on other keys; `wodmail.config.load` reads
    a file and checks the whole.
    """

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    WODUSER: str = key(
        "wodadmin", "Linux account that runs wodmail and owns its state.", pattern=r"^[a-z_][a-z0-9_-]*$"
    )
    WODGROUP: str = key(
        "production", "Ansible group of this backend: names its inventory group and group_vars.", pattern=r"^[\w.-]+$"
    )
    WODTYPE: Literal["backend", "api-db", "frontend", "appliance"] = key("backend", "What this machine is.")
    WODBEFQDN: str = key(
        "localhost", "Host name of this backend; part of every signature and Message-ID.", min_length=1
    )
    WODBEEXTFQDN: str = key("", "Host name by which students reach this backend.", shown="WODBEFQDN")
    WODBEPORT: Port = key(8000, "Port on which students reach JupyterHub.")
    WODBEPROTO: Literal["http", "https"] = key("http", "Protocol by which students reach JupyterHub.")
    WODBACKEND: str = key("", "This host's name in the queue; one live server a name.", shown="WODBEFQDN")
    VAULTPWD: str = key(
        "",
        "Password of the Ansible vault, where WODANSIBLEPRIVDIR has no file vault_secret (docs/variables.md).",
        secret=True,
    )
    NOCHECKSSH: str = key("", "Options that scripts give ssh, e.g. -o StrictHostKeyChecking=no.")
    WODCURLOPT: str = key("", "Options that scripts give curl, e.g. -k.")

    WODUSERMIN: int = key(1, "Lowest student number, at least 1.", ge=1)
    WODUSERMAX: int = key(2000, "Highest student number, at least WODUSERMIN.", ge=1)
    WODBASESTDID: int = key(0, "Added to a student number to make its id in the API-DB.", ge=0)
    UIDBASE: int = key(2000, "Added to a student number to make its Linux uid.", ge=1000)
    GIDBASE: int = key(2000, "Added to a student number to make its Linux gid.", ge=1000)
    CLEAN: bool = key(False, "The backend check removes all students' hub and Linux users before it makes them anew.")
    WODSTUDDIR: Path = key(
        Path("/student"), "Folder of the students' homes.", shown="/student; in the sandbox WODSTATEDIR/student"
    )
    WODPASSWORDLENGTH: int = key(8, "Length of new passwords, in letters and digits, 8 to 128.", ge=8, le=128)
    WODSSHKEYTYPE: Literal["rsa", "ed25519"] = key("rsa", "Key pair in each home: rsa (2048 bits) or ed25519.")

    WODROOTDIR: Path = key(Path(), "Folder that holds the backend's checkouts.", shown="the folder above WODBEDIR")
    WODBEDIR: Path = key(Path(), "Folder with ansible/, scripts/ and sys/.", shown="wodmail's own")
    WODANSIBLEDIR: Path = key(Path(), "Public playbooks, inventory and group_vars.", shown="WODBEDIR/ansible")
    WODSCRIPTDIR: Path = key(Path(), "Public workshop scripts and their templates.", shown="WODBEDIR/scripts")
    WODSYSDIR: Path = key(Path(), "Public system files: units, skel, templates.", shown="WODBEDIR/sys")
    WODNOBO: Path = key(
        Path(), "Public workshops, a folder each.", shown="WODROOTDIR/wod-notebooks; in the sandbox the demo workshop's"
    )
    WODPRIVDIR: Path | None = key(None, "Private counterpart of WODBEDIR; used after, or over, the public one.")
    WODANSIBLEPRIVDIR: Path | None = key(None, "Private playbooks and group_vars.", shown="WODPRIVDIR/ansible")
    WODSCRIPTPRIVDIR: Path | None = key(None, "Private workshop scripts.", shown="WODPRIVDIR/scripts")
    WODSYSPRIVDIR: Path | None = key(None, "Private system files.", shown="WODPRIVDIR/sys")
    WODPRIVNOBO: Path | None = key(None, "Private workshops.", shown="WODPRIVDIR/notebooks")
    WODINSDIR: Path = key(Path(), "Installation scripts.", shown="WODBEDIR/install")
    WODWITHOUT: Words = key([], "Sources that wod-install takes nothing from (docs/install.md).")
    WODTRUSTTREES: bool = key(
        True,
        "Root runs no playbook, variables or templates that others can change (docs/check.md); false: only warns, "
        "for a backend whose WODUSER may become root by sudo anyway.",
    )

    WODSANDBOX: bool = key(False, "Students' accounts are plain folders; no root needed.")
    WODHELPER: Path = key(
        Path("/usr/local/libexec/wodmail-helper"), "The root helper, as `wodmail helper install` puts it."
    )
    WODSTATEDIR: Path = key(
        Path("/var/lib/wodmail"),
        "Spool, database, secrets, artifacts and locks; shared by serve and pipe, owned by WODUSER.",
        shown="/var/lib/wodmail; in the sandbox ~/.local/state/wodmail",
    )
    WODDATABASEURL: str = key("", "postgresql://... for several hosts.", shown="SQLite in WODSTATEDIR", secret=True)
    WODWORKERS: int = key(
        (os.cpu_count() or 1) * 4, "Jobs at the same time.", shown="4 a processor core", ge=1, le=1000
    )
    WODSTEPTIMEOUT: float = key(900, "Longest time for one step, in seconds.", gt=0)
    WODSCRIPTTIMEOUT: float = key(1800, "Longest time for one workshop script, in seconds.", gt=0)
    WODDRAIN: float = key(15, "SIGTERM lets running steps finish up to this long, in seconds.", ge=0)
    WODRETENTION: int = key(90, "How long finished requests, raw mails and traces are kept, in days.", ge=1)
    WODSCHEDULES: Annotated[dict[str, str], BeforeValidator(schedule.readable)] = key(
        {}, "When schedules run, by name: HH:MM, Sun HH:MM, Mon,Thu HH:MM, hourly, on or off (docs/schedules.md)."
    )
    WODDEVGROUP: str = key(
        "", "Linux group of the developers, who get WKSHP-Template in their homes.", shown="nobody gets it"
    )
    WODSELFCLEAN: bool = key(False, "Clean seats whose customer expired without a CLEANUP mail.")

    WODDOOR: Literal["listener", "postfix"] = key("listener", "Who owns WODPOSTPORT: wodmail's listener, or Postfix.")
    WODLISTEN: str = key("127.0.0.1", "Address of the listener.", min_length=1)
    WODPOSTPORT: Port = key(10025, "Port on which commands arrive by SMTP.")
    WODTRUSTEDPEERS: Networks = key(networks(*LOOPBACK), "Networks that may speak the lenient dialect of old clients.")
    WODNEVERBAN: Networks = key(
        [],
        "Networks that fail2ban never shuts out: front ends before JupyterHub, this host's address behind NAT; besides "
        "loopback, its own addresses and WODTRUSTEDPEERS (docs/fail2ban.md).",
    )
    WODMAILSIZE: int = key(1024 * 1024, "Largest mail accepted, in bytes, 1 KiB to 100 MiB.", ge=1024, le=104857600)
    WODTLSCERT: Path | None = key(None, "Certificate chain for STARTTLS on the listener (PEM).")
    WODTLSKEY: Path | None = key(None, "Its private key (PEM, mode 0600).")
    WODAUTHFILE: Path | None = key(None, "user:hash lines for SMTP AUTH on the listener (mode 0600).")

    WODSENDER: str = key(
        "", "Envelope sender that may command; wod-test-action uses it.", shown="none; in the sandbox anybody"
    )
    WODALLOWEDSENDERS: Words = key([], "Envelope senders that may command besides WODSENDER.")
    WODALLOWEDPEERS: Networks = key(networks(*LOOPBACK, *PRIVATE), "Networks that may connect to the listener at all.")
    WODSIGNKEYFILE: Path | None = key(None, "HMAC keys, one a line, newest first (mode 0600).")
    WODREQUIRESIGNATURE: Annotated[bool | list[Network], BeforeValidator(switch_or_networks)] = key(
        False, "Whether mails must be signed: true, false, or a list of networks that are exempt."
    )
    WODSIGNWINDOW: int = key(300, "How far a signature's time may be off, in seconds.", ge=1)

    WODSUBJECTNUMBER: Literal["auto", "count", "participant"] = key(
        "auto", "What the subject's NUMBER means; auto: participant with an API-DB, else a count of students."
    )
    WODMAXCOUNT: int = key(100, "Most students one mail may name (RESET: no limit).", ge=1)
    WODSTRICTRANGE: bool = key(False, "Refuse a student outside the workshop's own range (otherwise a warning).")

    WODOUTBOX: Path | None = key(
        None,
        "Maildir that outgoing mail is put in, instead of sending it.",
        shown="none; in the sandbox WODSTATEDIR/outbox",
    )
    WODSMTPURL: str = key(
        "smtp://localhost:25", "Server for outgoing mail when there is no WODOUTBOX: smtp://host:port."
    )
    WODMONITOR: str = key("", "Address that is told about failures.", shown="nobody")
    WODREPLYBUDGET: int = key(20, "Most refusals, duplicate notices and PING answers an hour to one address.", ge=1)
    WODREPLYCREDENTIALS: bool = key(False, "Passwords in result mails.", shown="false; in the sandbox true")

    WODAPIDBURL: str = key("", "host:port of the API-DB inside the site.", shown="host and port of WODAPIDBEXTURL")
    WODAPIDBEXTURL: str = key("", "Base URL of the API-DB, ends in /api.")
    WODAPIDBUSER: str = key("", "Its account for this backend.")
    WODAPIDBUSERPWD: str = key("", "That account's password.", secret=True)
    WODAPIDBTIMEOUT: float = key(10, "Longest time for one call, in seconds.", gt=0)
    WODAPIDBRETRIES: int = key(
        3, "How often a call is repeated after network errors, 429 and 5xx, with growing pauses.", ge=0, le=20
    )
    WODAPIDBPATIENCE: float = key(
        600, "How long a job waits for an API-DB that is away before it fails, in seconds.", ge=0
    )

    WODBEAPIURL: str = key("", "Base URL of JupyterHub, without /hub/api.")
    WODBETOKEN: str = key("", "API token for it.", secret=True)
    WODHUBTIMEOUT: float = key(120, "Longest time for a server to start, in seconds.", gt=0)
    WODHUBPATIENCE: float = key(
        60, "How long calls are repeated while JupyterHub is away (network errors, 5xx), in seconds.", ge=0
    )
    JPHUB: str = key("/opt/jupyterhub", "Folder where JupyterHub is installed.")

    WODLDAPSRVNAME: str = key("", "LDAP server: its name or address alone (docs/ldap.md).")
    WODLDAPPORT: Port = key(389, "Its port.")
    WODLDAPDMN: str = key("", "Base DN, e.g. dc=example,dc=org.")
    WODLDAPPWD: str = key("", "Password of the bind DN.", secret=True)
    WODLDAPBINDDN: str = key("cn=Directory Manager", "Bind DN.", min_length=1)
    WODLDAPTLS: Annotated[Literal["off", "starttls", "ldaps"], BeforeValidator(off_word)] = key("off", "Encryption.")
    WODLDAPSETUPUSER: str = key("student", "Prefix of the students' entries: uid=student121.", min_length=1)

    BRANDING: str = key("Workshops-on-Demand", "Name of the programme.")
    BRANDINGWOD: str = key("Workshops-on-Demand", "Name of the service.")
    BRANDINGLOGO: str = key("", "Markdown or URL of the logo.")
    BRANDINGURL: str = key("", "Home page.")
    BRANDINGSLACK: str = key("", "Chat where students get help.")
    SURVEYURL: str = key("", "Survey at the end of a workshop.")
    SURVEYCHALURL: str = key("", "Survey at the end of a challenge.")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: Any) -> Any:
        """A bare true is 1 to pydantic; in a port or a limit it is a slip of the pen."""
        field = cls.model_fields.get(info.field_name)
        if isinstance(value, bool) and field is not None and field.annotation in (int, float):
            raise ValueError("write a number, not true or false")
        return value

    @field_validator("WODSCHEDULES")
    @classmethod
    def _times(cls, value: dict[str, str]) -> dict[str, str]:
        schedule.times(value)
        return value

    @model_validator(mode="after")
    def _derive(self) -> Settings:
        """Fill in what was not written and depends on other keys."""
        fill = {**_sandbox(self), **_names(self), **_folders(self)}
        self.__dict__.update({name: value for name, value in fill.items() if name not in self.model_fields_set})
        return self

    @property
    def apidb(self) -> bool:
        """Whether an API-DB is configured (then it is the registry)."""
        return bool(self.WODAPIDBEXTURL)

    @property
    def test_sender(self) -> str:
        """The envelope sender that wod-test-action uses: WODSENDER, else WODUSER at this host."""
        return self.WODSENDER or f"{self.WODUSER}@{self.WODBEFQDN}"

    @property
    def number_reading(self) -> Literal["count", "participant"]:
        """What the subject's NUMBER means on this backend."""
        if self.WODSUBJECTNUMBER != "auto":
            return self.WODSUBJECTNUMBER
        return "participant" if self.apidb else "count"

    def variables(self, *, secrets: bool = True) -> dict[str, Any]:
        """All names, the unknown ones too, as plain values for Ansible, jinja2 and shell.

        Args:
            secrets: whether keys that hold secrets are among them.
        """
        values = self.model_dump(mode="json")
        hidden = set() if secrets else secret_keys()
        return {name: "" if value is None else value for name, value in values.items() if name not in hidden}


def secret_keys() -> set[str]:
    """The names whose values must not be shown."""
    return {name for name in Settings.model_fields if note(name, "secret")}


def note(name: str, what: str) -> Any:
    """One of the notes that `key` keeps beside a field: shown or secret."""
    extra = Settings.model_fields[name].json_schema_extra
    return extra.get(what) if isinstance(extra, dict) else None


def _sandbox(settings: Settings) -> dict[str, Any]:
    """Defaults that the sandbox changes."""
    if not settings.WODSANDBOX:
        return {}
    written = "WODSTATEDIR" in settings.model_fields_set
    state = settings.WODSTATEDIR if written else Path.home() / ".local" / "state" / "wodmail"
    fill: dict[str, Any] = {"WODSTATEDIR": state, "WODSTUDDIR": state / "student", "WODREPLYCREDENTIALS": True}
    if "WODSMTPURL" not in settings.model_fields_set:
        fill["WODOUTBOX"] = state / "outbox"
    return fill


def _names(settings: Settings) -> dict[str, Any]:
    """Names that follow from the host's name."""
    host = settings.WODBEFQDN
    _, _, rest = settings.WODAPIDBEXTURL.partition("://")
    return {
        "WODBEEXTFQDN": host,
        "WODBACKEND": host,
        "WODAPIDBURL": rest.partition("/")[0],
    }


def _folders(settings: Settings) -> dict[str, Any]:
    """Folders that follow from their parents."""
    written = settings.model_fields_set
    backend = settings.WODBEDIR if "WODBEDIR" in written else paths.root()
    top = settings.WODROOTDIR if "WODROOTDIR" in written else backend.parent
    demo = paths.share("demo") / "notebooks"
    fill: dict[str, Any] = {
        "WODBEDIR": backend,
        "WODROOTDIR": top,
        "WODANSIBLEDIR": backend / "ansible",
        "WODSCRIPTDIR": backend / "scripts",
        "WODSYSDIR": backend / "sys",
        "WODINSDIR": backend / "install",
        "WODNOBO": demo if settings.WODSANDBOX else top / "wod-notebooks",
    }
    if settings.WODPRIVDIR is not None:
        private = settings.WODPRIVDIR
        fill |= {
            "WODANSIBLEPRIVDIR": private / "ansible",
            "WODSCRIPTPRIVDIR": private / "scripts",
            "WODSYSPRIVDIR": private / "sys",
            "WODPRIVNOBO": private / "notebooks",
        }
    return fill
