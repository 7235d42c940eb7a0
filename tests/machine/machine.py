"""Machines for tests: a Debian with its own systemd, network and files, booted by systemd-nspawn.

What a machine changes is kept in a folder of its own over the fresh system. Its network is a cable to this machine and
nothing else; package registries are reached through a proxy at this end of the cable, as behind a company's. The whole
machine ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.appliances import free_subnet
from tests.machine import debian
from tests.parts import require
from tests.support import free_port, wait_until

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_PROXY = """\
User {user}
Port {port}
Listen {address}
Timeout 600
MaxClients 100
LogLevel Warning
PidFile "{folder}/proxy.pid"
LogFile "{folder}/proxy.log"
ConnectPort 443
ConnectPort 80
"""


# A machine of ours lies on overlayfs, where Podman's usual store can't be; what is asked of it is not about images.
PODMAN = ("podman", "--root", "/run/podman-store", "--storage-driver", "vfs")


@dataclass(frozen=True)
class Done:
    """What a program on a machine did."""

    status: int
    out: str
    err: str


class Machine:
    """One machine.

    Args:
        folder: an empty folder for what it changes; on a filesystem that may lie above others (ext4, xfs, tmpfs).
        below: folders of earlier, stopped machines whose changes this one begins with, the newest first.
        binds: folders and files of this machine, and where the machine sees them, read-only.
        registries: whether it reaches package registries.
    """

    def __init__(
        self,
        folder: Path,
        *,
        below: Sequence[Path] = (),
        binds: Mapping[Path, str] | None = None,
        registries: bool = True,
    ) -> None:
        for part in ("root", "systemd-nspawn", "ip", *(("tinyproxy",) if registries else ())):
            require(part)
        self._folder = folder
        self._below = below
        self._binds = dict(binds or {})
        self._registries = registries
        self._mark, subnet = free_subnet()
        self.address, self.gateway = f"{subnet}.11", f"{subnet}.254"
        self._name = f"wm{os.getpid()}x{subnet.rsplit('.', 1)[1]}"
        self._proxy: subprocess.Popen[bytes] | None = None
        self._proxy_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """Its root folder as this machine sees it while it is mounted."""
        return self._folder / "root"

    @property
    def environment(self) -> dict[str, str]:
        """What `run` gives programs: the way to the registries among it."""
        found = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "USER": "root", "LOGNAME": "root"}
        found |= {"DEBIAN_FRONTEND": "noninteractive"}
        if self._registries:
            proxy = f"http://{self.gateway}:{self._proxy_port}"
            found |= dict.fromkeys(("http_proxy", "https_proxy"), proxy)
            found |= {"no_proxy": "localhost,127.0.0.1,::1"}
            found |= {"PIP_CERT": BUNDLE, "SSL_CERT_FILE": BUNDLE, "NODE_EXTRA_CA_CERTS": BUNDLE}
        return found

    def start(self) -> None:
        """Make and boot it; its services have been started when this returns."""
        self._mount()
        self._connect()
        if self._registries:
            debian.lend_packages(self.root)
            self._start_proxy()
        self._boot()

    def _mount(self) -> None:
        for name in ("changes", "work", "root"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        lower = ":".join(str(each) for each in [*(below / "changes" for below in self._below), debian.fresh()])
        # redirect_dir: folders of a machine below can be renamed, as on a disk.
        options = (
            f"lowerdir={lower},upperdir={self._folder / 'changes'},workdir={self._folder / 'work'},redirect_dir=on"
        )
        _quiet("mount", "-t", "overlay", "overlay", "-o", options, str(self.root))
        # A machine that is thrown away needs no packages that outlive a power cut.
        (self.root / "etc/dpkg/dpkg.cfg.d/quick").write_text("force-unsafe-io\n")

    def _connect(self) -> None:
        """A network namespace with a cable to this machine; it stays over reboots."""
        _quiet("ip", "netns", "add", self._name)
        inside = ("ip", "-n", self._name)
        _quiet("ip", "link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        _quiet("ip", "address", "add", self.gateway, "peer", f"{self.address}/32", "dev", self._name)
        _quiet("ip", "link", "set", self._name, "up")
        _quiet(*inside, "link", "set", "lo", "up")
        _quiet(*inside, "address", "add", self.address, "peer", f"{self.gateway}/32", "dev", "eth0")
        _quiet(*inside, "link", "set", "eth0", "up")

    def _start_proxy(self) -> None:
        self._proxy_port = free_port()
        user = pwd.getpwnam("tinyproxy").pw_name
        place = Path(tempfile.mkdtemp(prefix="wodmail-proxy-"))
        shutil.chown(place, user)
        (place / "conf").write_text(_PROXY.format(user=user, port=self._proxy_port, address=self.gateway, folder=place))
        argv = ["setpriv", "--pdeathsig", "KILL", "--", "tinyproxy", "-d", "-c", str(place / "conf")]
        self._proxy = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _boot(self) -> None:
        nspawn = ["systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine={self._name}"]
        nspawn += ["--register=no", "--keep-unit", "--console=read-only", "--resolv-conf=off"]
        # Its network is its own, so its firewall may rule there.
        nspawn += [f"--network-namespace-path=/run/netns/{self._name}", "--capability=CAP_NET_ADMIN"]
        if self._registries:
            nspawn += [f"--bind={here}:{there}" for here, there in debian.caches().items()]
        nspawn += [f"--bind-ro={here}:{there}" for here, there in self._binds.items()]
        # In groups of its own: machines that shared one would end each other's services.
        groups = " ".join(str(group / "cgroup.procs") for group in self._groups(make=True))
        enter = f'for procs in {groups}; do echo $$ >"$procs"; done; exec "$@"'
        with (self._folder / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", "sh", "-ec", enter, "sh", *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # Of the kernel's values it may set those of its network (systemd-nspawn's ENVIRONMENT.md).
                env={**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
            )
        self._wait_booted()

    def _groups(self, *, make: bool = False) -> list[Path]:
        """Its control groups in the hierarchies that systemd uses, whichever of them there are."""
        tops = [Path(top) for top in HIERARCHIES if Path(top, "cgroup.procs").exists()]
        for top in tops if make else ():
            (top / self._name).mkdir(exist_ok=True)
        return [top / self._name for top in tops]

    def _wait_booted(self) -> None:
        wait_until(
            self._up, seconds=120, what=f"the boot of {self._name}; see {self._folder / 'console.log'}", every=0.1
        )

    def _up(self) -> bool:
        """Whether all services that start at boot have been started, or have failed."""
        process = self._process
        assert process is not None and process.poll() is None, (self._folder / "console.log").read_text()[-3000:]
        if not self._init():
            return False
        done = self.run(["systemctl", "is-system-running"], check=False, timeout=30)
        return done.out.strip() in ("running", "degraded")

    def _init(self) -> int:
        """Its first process, 0 while there is none."""
        pid = self._process.pid if self._process is not None else 0
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() in ("systemd", "init"):
                    return int(child)
        return 0

    def reboot(self) -> None:
        """Restart the machine in good order and wait until it is up again."""
        process = self._process
        assert process is not None
        # Restarting in place is only for hosts whose /run is no disk, so it is switched off and on.
        self.run(["systemctl", "poweroff"], check=False)
        process.wait(120)
        self._boot()

    def stop(self) -> None:
        """Power it off, in good order when it can; its changes stay in the folder."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.wait()
        if self._registries and self.root.is_mount():
            debian.take_packages(self.root)
        for group in self._groups():
            for folder in sorted(group.glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        subprocess.run(["umount", "--recursive", str(self.root)], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self._name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._name], check=False, capture_output=True)
        self._mark.close()

    def __enter__(self) -> Machine:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(
        self,
        argv: Sequence[str],
        *,
        text: str = "",
        environment: Mapping[str, str] | None = None,
        user: str = "",
        check: bool = True,
        timeout: float = 300,
    ) -> Done:
        """Run a program on it, as root or as a user.

        Args:
            argv: the program.
            text: its standard input.
            environment: beside what `environment` says.
            user: who runs it, with that one's home and login environment.
            check: whether an exit status other than 0 fails the test.
            timeout: seconds.
        """
        enter = [
            "nsenter",
            "--target",
            str(self._init()),
            "--mount",
            "--net",
            "--pid",
            "--uts",
            "--ipc",
            "--root",
            "--wd",
        ]
        variables = {**self.environment, **(environment or {})}
        become = ["runuser", "-u", user, "--", "env", f"USER={user}", f"LOGNAME={user}"] if user else []
        if user:
            variables["HOME"] = self._home(user)
        done = subprocess.run(
            [*enter, "--", "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *become, *argv],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            timeout=timeout,
        )
        assert not check or done.returncode == 0, (
            f"{argv}: {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def shell(self, script: str, *, user: str = "", check: bool = True, timeout: float = 300) -> str:
        """Run a bash script on it (-e, pipefail); gives what it printed."""
        return self.run(["bash", "-eo", "pipefail", "-c", script], user=user, check=check, timeout=timeout).out

    def _home(self, user: str) -> str:
        return self.run(["getent", "passwd", user]).out.split(":")[5]

    def read(self, path: str) -> str:
        """A file on it."""
        return self.run(["cat", path]).out

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file on it, folders above it included."""
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"'
        self.run(["bash", "-c", script, "bash", path, mode], text=text)

    def put(self, here: Path, there: str) -> None:
        """Copy a file or folder of this machine to it."""
        packed = subprocess.run(
            ["tar", "-C", str(here.parent), "-cf", "-", here.name], check=True, capture_output=True, timeout=300
        ).stdout
        enter = ["nsenter", "--target", str(self._init()), "--mount", "--root", "--wd", "--"]
        into = 'mkdir -p "$1" && tar -C "$1" --strip-components=1 --no-same-owner -xf -'
        if not here.is_dir():
            into = 'mkdir -p "$(dirname "$1")" && tar --to-stdout -xf - >"$1"'
        subprocess.run([*enter, "bash", "-ec", into, "bash", there], input=packed, check=True, cwd="/", timeout=300)


def _quiet(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
