"""Looks for secrets where they must not be: command lines and environments while something runs, files afterwards.

    with Sampler() as sampler:
        ...                                            # what is to be watched
    assert sampler.findings({"WODLDAPPWD": "..."}) == []
    assert in_files([site.folder], {"WODLDAPPWD": "..."}, allowed={trace}) == []

A secret need not be known while the sampler runs: everything seen is kept until somebody asks. A program that lives for
less than a look (some milliseconds) can be missed; let what is watched wait somewhere, e.g. a script that reads a fifo.
"""

from __future__ import annotations

import base64
import html
import json
import os
import threading
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PAUSE = 0.005


@dataclass(frozen=True, order=True)
class Finding:
    """A secret that was seen.

    Args:
        secret: its name, never itself: a failing assertion prints this.
        where: a file, or "command line of 4711 (bash)", "environment of ...".
    """

    secret: str
    where: str


def forms(secret: str) -> set[bytes]:
    """The secret as it may also be written: in URLs, JSON, HTML, base64 at each alignment."""
    raw = secret.encode()
    texts = {secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret), html.escape(secret)}
    texts |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], raw.hex()}
    if len(raw) >= 6:
        for shift in range(3):
            coded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
            texts.add(coded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6])
    return {text.encode() for text in texts}


def _named(secrets: Mapping[str, str]) -> dict[str, set[bytes]]:
    for name, secret in secrets.items():
        if len(secret) < 6:
            raise ValueError(f"{name} is too short to be looked for; it would be found everywhere")
    return {name: forms(secret) for name, secret in secrets.items()}


class Sampler:
    """Reads /proc/*/cmdline of all processes of this machine again and again, and on demand /proc/*/environ.

    Args:
        environ: says of which processes (process id, command line) the environment is looked at; of none by default,
            because workshop scripts are given secrets there, which only their own user can read.
        ignore: says which processes (process id, command line) are not looked at, e.g. a program compiled by shc.
        pause: seconds between two looks; longer where it goes on for a whole file of tests.
    """

    def __init__(
        self,
        environ: Callable[[int, bytes], bool] = lambda _pid, _line: False,
        ignore: Callable[[int, bytes], bool] = lambda _pid, _line: False,
        pause: float = PAUSE,
    ) -> None:
        self._environ, self._ignore, self._pause = environ, ignore, pause
        self._seen: dict[tuple[str, bytes], int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="sampler", daemon=True)
        self.looks = 0

    def start(self) -> Sampler:
        """Begin to look."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Look a last time, and end."""
        self._stop.set()
        self._thread.join(30)

    def __enter__(self) -> Sampler:
        """As `start`."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `stop`."""
        self.stop()

    def _look_on(self) -> None:
        while not self._stop.wait(self._pause):
            self.look()
        self.look()

    def look(self) -> None:
        """Look once at every process; this one's own line counts too."""
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            pid, line = int(folder.name), _read(folder / "cmdline")
            if not line or self._ignore(pid, line):
                continue
            self._seen.setdefault(("command line", line), pid)
            if self._environ(pid, line):
                self._seen.setdefault(("environment", _read(folder / "environ")), pid)
        self.looks += 1

    def saw(self, words: bytes) -> bool:
        """Whether a command line with these words in it was seen: proof that the sampler did not sleep."""
        return any(kind == "command line" and words in text for kind, text in list(self._seen))

    def findings(self, secrets: Mapping[str, str]) -> list[Finding]:
        """Every place where one of the secrets (name to value) was seen so far."""
        wanted = _named(secrets)
        found = set()
        for (kind, text), pid in list(self._seen.items()):
            program = text.split(b"\0")[0].decode(errors="replace") if kind == "command line" else "?"
            where = f"{kind} of {pid} ({os.path.basename(program)})"  # noqa: PTH119 - a program's name, no path of ours
            found |= {Finding(name, where) for name, shapes in wanted.items() if any(each in text for each in shapes)}
        return sorted(found)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # ended meanwhile
        return b""


def in_files(roots: Iterable[Path], secrets: Mapping[str, str], allowed: Collection[Path] = ()) -> list[Finding]:
    """Every file below the folders (or a file itself) that holds one of the secrets (name to value).

    Args:
        roots: folders and files.
        secrets: names and values.
        allowed: files, or folders with all that is in them, that are not looked at.
    """
    wanted = _named(secrets)
    found = set()
    for file in _files(roots):
        if any(file == each or each in file.parents for each in allowed):
            continue
        data = _read(file)
        found |= {Finding(name, str(file)) for name, shapes in wanted.items() if any(each in data for each in shapes)}
    return sorted(found)


def in_texts(texts: Mapping[str, str | bytes], secrets: Mapping[str, str]) -> list[Finding]:
    """The same for texts by name: mails, logs."""
    wanted = _named(secrets)
    raw = {
        name: text.encode(errors="surrogateescape") if isinstance(text, str) else text for name, text in texts.items()
    }
    return sorted(
        Finding(secret, where)
        for where, data in raw.items()
        for secret, shapes in wanted.items()
        if any(each in data for each in shapes)
    )


def _files(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_file():
            yield root
        for folder, _, names in os.walk(root):  # which, unlike rglob, does not mind a folder that goes meanwhile
            files = (Path(folder, name) for name in names)
            yield from (file for file in files if file.is_file() and not file.is_symlink())
