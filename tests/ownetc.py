"""A mount namespace in which /etc is a copy: programs find /etc/wod.yml, /etc/wod.sh, accounts and sudo rules of their
own there, and the machine's /etc stays as it is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts import missing, require

# Other tests make users meanwhile: a file that goes while it is copied spoils that copy, not the next.
_MAKE = """
for _ in {1..20}; do if cp -a /etc/. "$1"; then copied=1; break; fi; done
[ "$copied" ] && mount --bind "$1" /etc && echo ready && exec cat
"""


@dataclass(frozen=True)
class OwnEtc:
    """The namespace.

    Args:
        folder: what is /etc inside, as it is seen from outside.
        holder: the process that keeps it alive.
    """

    folder: Path
    holder: int

    @property
    def enter(self) -> list[str]:
        """What goes in front of an argv to run it inside; the process stays the same one."""
        return ["nsenter", f"--target={self.holder}", "--mount", "--"]

    def run(
        self, argv: Sequence[str], *, text: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, in /."""
        command = [*self.enter, *argv]
        return subprocess.run(
            command, input=text, env=env, cwd="/", capture_output=True, text=True, check=False, timeout=120
        )

    def must(self, *argv: str) -> str:
        """Run a program as root inside, which has to end well; gives what it printed."""
        done = self.run(argv)
        assert done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
        return done.stdout


@contextmanager
def own_etc(folder: Path) -> Iterator[OwnEtc]:
    """Make the namespace; it ends with the block, or with this process.

    Args:
        folder: becomes the copy; must be empty, and must not lie below /etc.
    """
    require("root")
    argv = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private", "--"]
    holder = subprocess.Popen(
        [*argv, "bash", "-c", _MAKE, "bash", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != "ready\n":
            missing("root", f"this root can't make a mount namespace: {holder.communicate()[1].strip()}")
        yield OwnEtc(folder, holder.pid)
    finally:
        holder.kill()
        holder.communicate()
