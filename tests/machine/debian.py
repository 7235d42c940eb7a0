"""A fresh Debian for tests: made once by debootstrap, never changed afterwards; machines keep their changes elsewhere.

It lies in WODMAIL_TEST_MACHINES (default /var/tmp/wodmail-machines) together with caches of what machines download.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.parts import require

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("ca-certificates", "dbus", "iproute2", "systemd", "systemd-sysv")
"""What a minimal Debian lacks to boot, to have a network, and to trust who it downloads from."""
CERTIFICATES = Path("/usr/local/share/ca-certificates")
CACHES = {"pip": "/root/.cache/pip", "npm": "/root/.npm"}
"""Names of caches of downloads that machines share while they run, and where a machine has them."""
DEBS = Path("var/cache/apt/archives")


def store() -> Path:
    """Where fresh systems, machines and caches lie."""
    return Path(os.environ.get("WODMAIL_TEST_MACHINES", "/var/tmp/wodmail-machines"))


def caches() -> dict[Path, str]:
    """Folders of this machine that a test machine keeps its downloads in, and where it sees them."""
    found = {store() / "cache" / name: place for name, place in CACHES.items()}
    for folder in found:
        folder.mkdir(parents=True, exist_ok=True)
    return found


def lend_packages(root: Path) -> None:
    """Give a machine the packages that earlier ones downloaded; apt locks its folder, so each machine has its own.

    Args:
        root: the machine's root folder.
    """
    _link(store() / "cache" / "apt", root / DEBS)


def take_packages(root: Path) -> None:
    """Keep what a machine has downloaded for the next one."""
    _link(root / DEBS, store() / "cache" / "apt")


def _link(source: Path, target: Path) -> None:
    """The same packages in another folder, where they are not there yet."""
    target.mkdir(parents=True, exist_ok=True)
    for package in source.glob("*.deb"):
        if not (target / package.name).exists():
            fresh_one = target / f".{package.name}.{os.getpid()}"
            shutil.copy(package, fresh_one)
            fresh_one.rename(target / package.name)


def fresh() -> Path:
    """The root of a fresh Debian, made when there is none yet; not to be written to."""
    for part in ("root", "debootstrap"):
        require(part)
    place = store() / SUITE
    with _alone(SUITE):
        if not place.is_dir():
            making = place.with_name(f".{SUITE}.new")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            _make(making)
            making.rename(place)
    return place


@contextmanager
def _alone(name: str) -> Iterator[None]:
    store().mkdir(parents=True, exist_ok=True)
    with (store() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path) -> None:
    mirror = os.environ.get("WODMAIL_TEST_MIRROR") or _mirror()
    kept = store() / "cache" / "debootstrap"
    kept.mkdir(parents=True, exist_ok=True)
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", f"--cache-dir={kept}"]
    done = subprocess.run([*argv, SUITE, str(folder), mirror], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, f"debootstrap: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    sources = f"deb {mirror} {SUITE} main\ndeb {mirror} {SUITE}-updates main\n"
    (folder / "etc/apt/sources.list").write_text(sources)
    # Networks with a certificate authority of their own: machines trust whom this one trusts.
    for certificate in sorted(CERTIFICATES.glob("*.crt")):
        shutil.copy(certificate, folder / CERTIFICATES.relative_to("/"))
    _in(folder, "update-ca-certificates")
    for left in (folder / "var/lib/apt/lists").glob("*_*"):
        left.unlink()


def _mirror() -> str:
    """This machine's own mirror of Debian, else Debian's."""
    sources = Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.*"))
    text = "\n".join(file.read_text(errors="replace") for file in sources if file.is_file())
    found = re.findall(r"^(?:deb (?:\[[^\]]*\] )?|URIs:\s*)(https?://\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
    return found[0] if found else MIRROR


def _in(folder: Path, *argv: str) -> None:
    done = subprocess.run(["chroot", str(folder), *argv], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
