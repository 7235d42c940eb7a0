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
_PASSES = 2.0  # so many times the limit may be used in bursts, on average
_SLOWEST = 1 / 8  # of the speed with which time beyond the limit is forgiven
_ROUGH = 2.0  # the same of a figure that is rough: less than the limit on average may look like more for a while
_YOUNG = 0.1  # seconds; the kernel's figures are in hundredths, which is too coarse for a rate over less


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
        over_used: CPU seconds that were used in that time.
        rate_cores: CPU seconds a second over the window.
        history: rates at earlier moments, for the evidence.
        forgiving: how many seconds beyond the limit a second below it makes good at most.
    """

    samples: deque[tuple[float, float]] = field(default_factory=deque)
    over_seconds: float = 0.0
    over_used: float = 0.0
    rate_cores: float = 0.0
    history: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    forgiving: float = 1.0

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
        if self.rate_cores > limit_cores:
            self.over_seconds += gap
            self.over_used += gap * self.rate_cores
        elif self.over_seconds > 0:
            left = max(0.0, 1.0 - gap * self._forgiven(limit_cores) / self.over_seconds)
            self.over_seconds, self.over_used = self.over_seconds * left, self.over_used * left

    def _forgiven(self, limit_cores: float) -> float:
        """How many seconds beyond the limit a second below it makes good.

        As fast as they came, unless so much was used in them that whoever goes on like that, with pauses that are just
        long enough, would use more than `_PASSES` times the limit on average.
        """
        passes, rate = _PASSES * limit_cores, self.over_used / self.over_seconds
        if rate <= passes * (1 + 1 / self.forgiving):
            return self.forgiving
        return max(_SLOWEST, passes / (rate - passes))

    def series(self) -> list[list[float]]:
        """The rates so far: [seconds before the last one, cores]."""
        return [[round(now - self.history[-1][0], 2), round(rate, 3)] for now, rate in self.history]


class Living:
    """How busy each student's processes were together, by what lived at the moments of the looks alone.

    What ends between two looks is not missing in it: in its place stands what is seen for the first time. The share of
    its life that such a process has computed is taken for all the time since the last look, which is rough for one look
    and right over many. So what nobody waits for counts, of which no parent ever gets the time; and what was allowed is
    told from what was not, which the time that a parent gets doesn't tell.
    """

    def __init__(self) -> None:
        self.tracks: dict[int, Track] = {}
        self._used: dict[int, float] = {}
        self._guessed: dict[Key, float] = {}
        self._at: float | None = None

    def measure(
        self,
        look: Look,
        last: Mapping[Key, Seen],
        counts: Callable[[Seen], bool],
        gap_most: float,
        window_seconds: float,
        limit_cores: float,
    ) -> None:
        """Take the samples of a look.

        Args:
            look: what was seen now.
            last: what was seen before.
            counts: whether a process is one of those.
            gap_most: see `Track.add`; of a process that is older and was never seen nothing is known.
            window_seconds: see `Track.add`.
            limit_cores: see `Track.add`.
        """
        seconds = min(look.now - self._at, gap_most) if self._at is not None else 0.0
        self._at, guessed = look.now, {}
        spent: dict[int, float] = {}
        for seen in look.processes:
            if not counts(seen):
                continue
            before = last.get(seen.key)
            if before is None and seen.age_seconds > gap_most:
                used, guessed[seen.key] = 0.0, seen.cpu_seconds
            elif before is None:
                used = guessed[seen.key] = _guess(seen) * seconds
            else:  # what it has really used takes the place of the guess
                used = seen.cpu_seconds - self._guessed.get(seen.key, before.cpu_seconds)
            spent[seen.student] = spent.get(seen.student, 0.0) + used
        for student in {*spent, *self.tracks}:
            self._used[student] = self._used.get(student, 0.0) + spent.get(student, 0.0)
            track = self.tracks.setdefault(student, Track(forgiving=_ROUGH))
            track.add(look.now, self._used[student], window_seconds, limit_cores, gap_most)
        self.tracks = {key: track for key, track in self.tracks.items() if key in spent or track.over_seconds > 0}
        self._used, self._guessed = {student: self._used[student] for student in self.tracks}, guessed

    def forget(self, student: int) -> None:
        """Count a student's processes anew."""
        self.tracks.pop(student, None)
        self._used.pop(student, None)


def _guess(seen: Seen) -> float:
    """How many cores a process uses that is seen for the first time.

    Most begin with work and then wait, and their share of a short life would be too much. So only one counts of which a
    thread runs at this moment; a look asks all threads of what is new.
    """
    if not seen.running:
        return 0.0
    return seen.cpu_seconds / seen.age_seconds if seen.age_seconds >= _YOUNG else 1.0


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
            own, children = gained(seen, last.get(seen.key), gap_most)
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


def gained(seen: Seen, before: Seen | None, gap_most: float) -> tuple[float, float]:
    """CPU seconds of a process since the last look: its own, and those of children that it has waited for."""
    if before is not None:
        return seen.cpu_seconds - before.cpu_seconds, seen.children_seconds - before.children_seconds
    return (seen.cpu_seconds, seen.children_seconds) if seen.age_seconds <= gap_most else (0.0, 0.0)


def absorbed(look: Look, last: Mapping[Key, Seen], counts: Callable[[Seen], bool]) -> dict[int, float]:
    """What parents got from children whose time was counted before, while they lived; by student.

    Args:
        look: what was seen now.
        last: what was seen before.
        counts: whether a parent is one of those that are asked for.
    """
    alive = {seen.key for seen in look.processes}
    got: dict[int, float] = {}
    for seen in look.processes:
        before = last.get(seen.key)
        if before is not None and counts(seen):
            more = seen.children_seconds - before.children_seconds
            got[seen.student] = got.get(seen.student, 0.0) + more
    gone: dict[int, float] = {}
    for key, seen in last.items():
        if key not in alive:
            gone[seen.student] = gone.get(seen.student, 0.0) + seen.cpu_seconds + seen.children_seconds
    return {student: min(more, gone.get(student, 0.0)) for student, more in got.items()}


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
