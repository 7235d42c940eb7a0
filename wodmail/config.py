"""The configuration: one YAML file of WOD* names, read once, checked whole.

The only module that reads the environment. The fields of `Settings` are the names themselves, because Python, Ansible
and shell share that one vocabulary.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from wodmail.errors import ConfigError, Problem

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts]


class Settings(BaseModel):
    """Everything that can be set; unknown keys become Ansible variables (`model_extra`)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    WODUSER: str = "wodadmin"
    WODGROUP: str = "production"
    WODTYPE: str = "backend"
    WODSENDER: str = ""
    WODMONITOR: str = ""
    WODPOSTPORT: int = Field(default=10025, ge=1, le=65535)
    WODUSERMIN: int = Field(default=1, ge=1)
    WODUSERMAX: int = Field(default=2000, ge=1)
    WODBASESTDID: int = 0
    UIDBASE: int = 2000
    GIDBASE: int = 2000
    WODSTUDDIR: Path = Path("/student")
    WODBEDIR: Path | None = None
    WODNOBO: Path | None = None
    WODANSIBLEDIR: Path | None = None
    WODSCRIPTDIR: Path | None = None
    WODSYSDIR: Path | None = None
    WODPRIVDIR: Path | None = None
    WODANSIBLEPRIVDIR: Path | None = None
    WODSCRIPTPRIVDIR: Path | None = None
    WODSYSPRIVDIR: Path | None = None
    WODPRIVNOBO: Path | None = None
    WODBEFQDN: str = "localhost"
    VAULTPWD: str = ""
    WODSANDBOX: bool = False
    WODSTATEDIR: Path = Path("/var/lib/wodmail")
    WODDOOR: Literal["listener", "postfix"] = "listener"
    WODLISTEN: str = "127.0.0.1"
    WODTRUSTEDPEERS: list[Network] = _networks("127.0.0.0/8", "::1/128")
    WODALLOWEDPEERS: list[Network] = _networks(
        "127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"
    )
    WODALLOWEDSENDERS: list[str] = []
    WODSIGNKEYFILE: Path | None = None
    WODREQUIRESIGNATURE: bool | list[Network] = False
    WODSIGNWINDOW: int = 300
    WODTLSCERT: Path | None = None
    WODTLSKEY: Path | None = None
    WODAUTHFILE: Path | None = None
    WODMAILSIZE: int = 1024 * 1024
    WODREPLYBUDGET: int = 20
    WODSUBJECTNUMBER: Literal["auto", "count", "participant"] = "auto"
    WODMAXCOUNT: int = 100
    WODSTRICTRANGE: bool = False
    WODOUTBOX: Path | None = None
    WODSMTPURL: str = "smtp://localhost:25"
    WODDATABASEURL: str = ""
    WODBACKEND: str = ""
    WODWORKERS: int = Field(default=(os.cpu_count() or 1) * 4, ge=1)
    WODSTEPTIMEOUT: float = 900
    WODSCRIPTTIMEOUT: float = 1800
    WODDRAIN: float = 15
    WODRETENTION: int = 90
    WODREPLYCREDENTIALS: bool = False
    WODPASSWORDLENGTH: int = Field(default=8, ge=8)
    WODSSHKEYTYPE: Literal["rsa", "ed25519"] = "rsa"
    WODAPIDBEXTURL: str = ""


def load(path: Path | None = None) -> Settings:
    """Read and check the configuration file.

    Args:
        path: the file; without it $WOD_CONFIG, else /etc/wod.yml.

    Raises:
        ConfigError: every problem found.
    """
    file = path or Path(os.environ.get("WOD_CONFIG", "/etc/wod.yml"))
    try:
        data: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError([Problem(str(file), str(error))]) from error
    return Settings.model_validate(data or {})
