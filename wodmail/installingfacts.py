"""What an installation finds out by itself: names, addresses, the way to the network, who owns the checkout."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

import psutil

from wodmail.checks import VAULT_SECRET
from wodmail.errors import Problem
from wodmail.installing import Facts

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CERTIFICATES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)

HUB_FILES = (
    "etc/jupyterhub/jupyterhub_config.py",
    *(f"{folder}/systemd/system/jupyterhub.service" for folder in ("etc", "usr/local/lib", "usr/lib", "lib")),
)
OURS = "made by wod-install"
"""Stands in the first line of our templates of HUB_FILES."""


def look(checkout: Path, hosts: Iterable[str]) -> Facts:
    """Look at this machine.

    Args:
        checkout: where wodmail's checkout is.
        hosts: names whose addresses are wanted.
    """
    private = checkout.parent / "wod-private"
    return Facts(
        name=own_name(),
        checkout=checkout,
        addresses={host: found for host in hosts if (found := addresses(host))},
        own=frozenset(_own()),
        private=str(private) if private.is_dir() else "",
        vault=(private / "ansible" / VAULT_SECRET).exists(),
    )


def own_name() -> str:
    """This machine's full host name; its short one where /etc/hosts or the name server knows no better."""
    full = socket.getfqdn()
    return socket.gethostname() if full.startswith("localhost") or full.replace(".", "").isdigit() else full


def addresses(host: str) -> tuple[str, ...]:
    """The addresses of a host, none when no name server knows it."""
    with contextlib.suppress(OSError):
        return tuple(sorted({str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(host, None)}))
    return ()


def environment() -> dict[str, str]:
    """The caller's way to the network: proxies, and whose certificates count; package managers are given the same."""
    return {name: os.environ[name] for name in (*PROXIES, *CERTIFICATES) if os.environ.get(name)}


def checkout_problems(checkout: Path, *, whole: bool = True) -> list[Problem]:
    """What stands against running this tree as root, and reading it as WODUSER.

    Args:
        checkout: it and the folders above must be root's alone, and open to all for reading.
        whole: whether it has to be a checkout of wodmail, and not a part of one.
    """
    if whole and not (checkout / "ansible").is_dir():
        return [Problem(str(checkout), "is no checkout of wodmail: it has no folder ansible")]
    for folder in (checkout, *checkout.parents):
        status = folder.stat()
        mode = stat.S_IMODE(status.st_mode)
        # As /tmp is: what root has there nobody else can rename.
        sticky = bool(mode & stat.S_ISVTX) and folder != checkout
        if status.st_uid != 0 or (mode & 0o022 and not sticky):
            return [
                Problem(str(folder), "can be changed by others than root, who runs it: move the checkout to /opt/wod")
            ]
        if not mode & 0o001:
            return [Problem(str(folder), "is shut for WODUSER, who must read the checkout: move it to /opt/wod")]
    return []


def other_code(checkout: Path, package: Path | None = None) -> tuple[str, ...]:
    """Names of wodmail's modules that this program has otherwise than the checkout, whose playbooks it would play.

    Args:
        checkout: wodmail's checkout.
        package: the folder of the package that runs; None for this one.
    """
    package = package or Path(__file__).parent
    folder = checkout / "wodmail"
    if not folder.is_dir() or package.resolve() == folder.resolve():
        return ()
    names = {file.relative_to(root) for root in (folder, package) for file in root.rglob("*.py")}
    modules = sorted(
        str(name) for name in names if name.parts[0] != "share"
    )  # data, which lies elsewhere in a checkout
    return tuple(name for name in modules if _bytes(folder / name) != _bytes(package / name))


def strange_hub(root: Path = Path("/")) -> Path | None:
    """A configuration or unit of JupyterHub that wod-install would replace and hasn't made; None when there is none.

    Args:
        root: the folder that is / for them.
    """
    for file in (root / name for name in HUB_FILES):
        with contextlib.suppress(FileNotFoundError):
            first = file.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
            if OURS not in first.lower():
                return file
    return None


def _bytes(file: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return file.read_bytes()
    return None


def _own() -> Iterable[str]:
    for cards in psutil.net_if_addrs().values():
        for card in cards:
            if card.family in (socket.AF_INET, socket.AF_INET6):
                yield card.address.partition("%")[0]
