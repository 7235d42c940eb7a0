"""How busy processes and students were, look by look (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wodmail.guard.policy import Cpu
from wodmail.guard.sockets import Connection
from wodmail.guard.watch import Seen

Key = tuple[int, int]
_HISTORY = 60
_NOTHING = 0.1  # cores of ended children that a kernel or server may always have had


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw.

    Args:
        now: seconds of the monotonic clock.
        processes: all of students.
        connections: students' connections to the policy's ports.
        gpu_percent: GPU time in percent of one GPU, by pid; None when it was not asked this time.
    """

    now: float
    processes: list[Seen]
    connections: list[Connection] = field(default_factory=list)
    gpu_percent: Mapping[int, float] | None = None


@dataclass
class Track:
    """How busy one process (or a student's processes together) was.

    Args:
        samples: moments with the CPU seconds used until then.
        over_seconds: time beyond the limit, less time below it.
        rate_cores: CPU seconds a second over the window.
        history: rates at earlier moments, for the evidence.
    """

    samples: deque[tuple[float, float]] = field(default_factory=deque)
    over_seconds: float = 0.0
    rate_cores: float = 0.0
    history: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def add(self, now: float, cpu_seconds: float, window_seconds: float, limit_cores: float, gap_most: float) -> None:
        """Take a sample.

        Args:
            now: seconds of the monotonic clock.
            cpu_seconds: used since the track's beginning.
            window_seconds: over which the rate is taken, or over the track's whole life when that is shorter.
            limit_cores: the rate that is too much.
            gap_most: most seconds that one sample can add; what happened while nobody looked is not known.
        """
        gap = min(now - self.samples[-1][0], gap_most) if self.samples else 0.0
        self.samples.append((now, cpu_seconds))
        while len(self.samples) > 2 and self.samples[1][0] <= now - window_seconds:
            self.samples.popleft()
        then, used = self.samples[0]
        self.rate_cores = max(0.0, cpu_seconds - used) / (now - then) if now > then else 0.0
        self.history.append((now, self.rate_cores))
        change = gap if self.rate_cores > limit_cores else -gap
        self.over_seconds = max(0.0, self.over_seconds + change)

    def series(self) -> list[list[float]]:
        """The rates so far: [seconds before the last one, cores]."""
        return [[round(now - self.history[-1][0], 2), round(rate, 3)] for now, rate in self.history]


class Everything:
    """How busy all of a student's processes were but for kernels and servers, with all that ended between two looks.

    What ends between two looks is seen in its parent alone, which may be an allowed one (make) or a kernel. What a
    parent got from children that were seen alive was counted then, and is taken off here.
    """

    def __init__(self) -> None:
        self.tracks: dict[int, Track] = {}
        self._used: dict[int, float] = {}
        self._got: dict[Key, float] = {}

    def measure(
        self, look: Look, last: Mapping[Key, Seen], free: Callable[[Seen], bool], gap_most: float, cpu: Cpu
    ) -> None:
        """Take the samples of a look.

        Args:
            look: what was seen now.
            last: what was seen before.
            free: whether a process is a kernel or a server.
            gap_most: see `Track.add`; of a process that is older and was never seen nothing is known.
            cpu: the policy's part.
        """
        gone = _gone(look, last)
        seconds = look.now - max((track.samples[-1][0] for track in self.tracks.values()), default=look.now)
        spent: dict[int, float] = {}
        self._got = {}
        for seen in look.processes:
            own, children = _gained(seen, last.get(seen.key), gap_most)
            fresh = max(0.0, children - gone.get(seen.pid, 0.0))
            self._got[seen.key] = fresh / seconds if seconds > 0 else 0.0
            spent[seen.student] = spent.get(seen.student, 0.0) + fresh + (0.0 if free(seen) else own)
        for student in {*spent, *self.tracks}:
            self._used[student] = self._used.get(student, 0.0) + spent.get(student, 0.0)
            track = self.tracks.setdefault(student, Track())
            track.add(look.now, self._used[student], cpu.window_seconds, cpu.all_limit_cores, gap_most)
        self.tracks = {key: track for key, track in self.tracks.items() if key in spent or track.over_seconds > 0}
        self._used = {student: self._used[student] for student in self.tracks}

    def busy(self, seen: Seen, free: bool, track: Track) -> bool:
        """Whether a process has its part in it: by itself, or by children that ended."""
        got = self._got.get(seen.key, 0.0)
        return got > _NOTHING if free else got > 0 or track.rate_cores > 0


def _gained(seen: Seen, before: Seen | None, gap_most: float) -> tuple[float, float]:
    """CPU seconds of a process since the last look: its own, and those of children that it has waited for."""
    if before is not None:
        return seen.cpu_seconds - before.cpu_seconds, seen.children_seconds - before.children_seconds
    return (seen.cpu_seconds, seen.children_seconds) if seen.age_seconds <= gap_most else (0.0, 0.0)


def _gone(look: Look, last: Mapping[Key, Seen]) -> dict[int, float]:
    """What had been counted of processes that are gone, by the living process that has got it: theirs or above."""
    alive = {seen.key for seen in look.processes}
    ended = {seen.pid: seen for key, seen in last.items() if key not in alive}
    gone: dict[int, float] = {}
    for seen in ended.values():
        heir, steps = seen.parent, 0
        while heir in ended and steps < len(ended):
            heir, steps = ended[heir].parent, steps + 1
        gone[heir] = gone.get(heir, 0.0) + seen.cpu_seconds + seen.children_seconds
    return gone
