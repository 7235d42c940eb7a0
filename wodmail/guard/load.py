"""The server's load: load average for each core, memory, GPUs; WODMONITOR is told before students notice."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import structlog

from wodmail.guard.policy import Load
from wodmail.mail.grammar import visible

log = structlog.get_logger("wodmail.guard")

PATH = "/usr/local/bin:/usr/bin:/bin"
_GPU_FIELDS = "index,utilization.gpu,memory.used,memory.total"
_GPU_SECONDS = 10.0
GPU_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Args:
        index: its number.
        used_percent: of its time.
        memory_percent: of its memory.
    """

    index: int
    used_percent: float
    memory_percent: float


@dataclass(frozen=True, slots=True)
class Facts:
    """How busy the machine is.

    Args:
        load_per_core: load average of five minutes, divided by the number of cores.
        cores: how many there are.
        memory_percent: of memory that is not available.
        gpus: those that nvidia-smi knows.
        gpu_trouble: why nvidia-smi said nothing, empty when it did or isn't there.
    """

    load_per_core: float
    cores: int
    memory_percent: float
    gpus: tuple[Gpu, ...] = ()
    gpu_trouble: str = ""

    def data(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def facts(gpus: tuple[Gpu, ...] = (), trouble: str = "") -> Facts:
    """How busy the machine is now.

    Args:
        gpus: what is known of the GPUs.
        trouble: see `Facts`.
    """
    cores = os.cpu_count() or 1
    return Facts(
        load_per_core=psutil.getloadavg()[1] / cores,
        cores=cores,
        memory_percent=psutil.virtual_memory().percent,
        gpus=gpus,
        gpu_trouble=trouble,
    )


class GpuError(Exception):
    """nvidia-smi did not say what it was asked."""


class Smi:
    """Asks nvidia-smi; without it there are no GPUs.

    Args:
        path: folders in which it is looked for.
    """

    def __init__(self, path: str = PATH) -> None:
        self._path = path

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs.

        Raises:
            GpuError: it failed.
        """
        text = self._ask(f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits")
        try:
            rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
            return tuple(
                Gpu(int(row[0]), _number(row[1]), 100 * _number(row[2]) / (_number(row[3]) or 1)) for row in rows
            )
        except (ValueError, IndexError) as error:
            raise GpuError(f"its answer was not understood: {text[:200]!r}") from error

    def by_process(self) -> dict[int, float]:
        """GPU time in percent by pid, of all GPUs together.

        Raises:
            GpuError: it failed.
        """
        used: dict[int, float] = {}
        for line in self._ask("pmon", "-c", "1", "-s", "u").splitlines():
            cells = line.split()
            if len(cells) > 3 and not line.startswith("#") and cells[1].isdigit():
                used[int(cells[1])] = used.get(int(cells[1]), 0.0) + _number(cells[3])
        return used

    def _ask(self, *words: str) -> str:
        program = shutil.which("nvidia-smi", path=self._path)
        if program is None:
            return ""
        environment = {"PATH": self._path, "LC_ALL": "C"}
        try:
            done = subprocess.run(
                [program, *words], capture_output=True, check=False, timeout=_GPU_SECONDS, env=environment, cwd="/"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GpuError(f"nvidia-smi {words[0]}: {error}") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-200:]
            raise GpuError(f"nvidia-smi {words[0]} ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace")


class GpuWatch:
    """Asks for the GPUs now and then.

    Args:
        smi: answers.
        every: seconds between two questions; one takes about a second.
    """

    def __init__(self, smi: Smi, every: float = GPU_EVERY) -> None:
        self._smi, self._every = smi, every
        self._next = float("-inf")
        self.gpus: tuple[Gpu, ...] = ()
        self.trouble = ""

    def look(self, now: float) -> dict[int, float] | None:
        """GPU time in percent by pid; None when it is not yet time to ask, or there is no GPU, or no answer.

        Args:
            now: monotonic seconds.
        """
        if now < self._next:
            return None
        self._next = now + self._every
        try:
            self.gpus = self._smi.gpus()
            used = self._smi.by_process() if self.gpus else None
        except GpuError as error:
            self.trouble = visible(str(error), 300)
            log.warning("guard-gpu-trouble", cause=self.trouble)
            return None
        self.trouble = ""
        return used


def _number(text: str) -> float:
    """A figure; [N/A], - and the like are none, so 0."""
    try:
        return float(text)
    except ValueError:
        return 0.0


class Alarm:
    """Says when the load has been too high for long enough, and not again for a while.

    Args:
        policy: the policy's part.
    """

    def __init__(self, policy: Load) -> None:
        self.policy = policy
        self.since: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def look(self, found: Facts, now: float) -> dict[str, str]:
        """What has to be told now, in words, by a short name.

        Args:
            found: the facts.
            now: monotonic seconds.
        """
        over = exceeded(found, self.policy)
        self.since = {name: self.since.get(name, now) for name in over}
        due = [
            name
            for name in over
            if now - self.since[name] >= self.policy.longer_than_seconds
            and now - self._told.get(name, float("-inf")) >= self.policy.again_seconds
        ]
        return {name: over[name] for name in due}

    def told(self, names: Iterable[str], now: float) -> None:
        """Note that these were told."""
        self._told.update(dict.fromkeys(names, now))


def exceeded(found: Facts, policy: Load) -> Mapping[str, str]:
    """What is beyond its limit, in words, by a short name (pure)."""
    over = {}
    if found.load_per_core > policy.load_limit_per_core:
        words = f"load average of 5 minutes: {found.load_per_core:.2f} for each of {found.cores} cores"
        over["load"] = f"{words} (limit {policy.load_limit_per_core:g})"
    if found.memory_percent > policy.memory_limit_percent:
        over["memory"] = f"memory: {found.memory_percent:.0f} % used (limit {policy.memory_limit_percent:g} %)"
    for gpu in found.gpus:
        if gpu.used_percent > policy.gpu_limit_percent:
            over[f"gpu{gpu.index}"] = (
                f"GPU {gpu.index}: {gpu.used_percent:.0f} % busy (limit {policy.gpu_limit_percent:g} %)"
            )
        if gpu.memory_percent > policy.gpu_memory_limit_percent:
            limit = f"(limit {policy.gpu_memory_limit_percent:g} %)"
            over[f"gpu{gpu.index}-memory"] = f"GPU {gpu.index}: {gpu.memory_percent:.0f} % of its memory used {limit}"
    if found.gpu_trouble:
        over["nvidia-smi"] = f"GPUs can't be watched: {found.gpu_trouble}"
    return over
