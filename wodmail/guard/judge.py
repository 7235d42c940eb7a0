"""What is found in a look at the processes: pure but for what `Programs` asks of the disk.

CPU is judged by its rate over a window, in cores. Time beyond the limit counts up and time below it counts down, so a
process that pauses now and then is found a little later, and a short burst is not found at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wodmail.guard.policy import Policy, Rung
from wodmail.guard.programs import Programs
from wodmail.guard.sockets import Connection, holders
from wodmail.guard.watch import Seen
from wodmail.mail.grammar import visible

Key = tuple[int, int]
_SHOWN = 80
_HISTORY = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One offence of one student at one moment.

    Args:
        student: the number.
        rule: which part of the policy: name, command-line, port, port-loopback, kernel-age, cpu, cpu-together or gpu.
        then: how far the ladder goes.
        words: what was found, printable.
        processes: which processes, the worst first.
    """

    student: int
    rule: str
    then: Rung
    words: str
    processes: tuple[Seen, ...]


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


class Judge:
    """Compares looks with the policy.

    Args:
        policy: the policy.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.programs = policy, Programs(policy)
        self.in_session: frozenset[int] = frozenset()  # students whose session goes on: their kernels may be old
        self.tracks: dict[Key, Track] = {}
        self.together: dict[int, Track] = {}
        self._last: dict[Key, Seen] = {}
        self._used: dict[int, float] = {}
        self._gpu: dict[Key, float] = {}
        self._gpu_at: float | None = None

    def replace(self, policy: Policy) -> None:
        """Go on with another policy; what is known of the processes stays."""
        self.policy, self.programs = policy, Programs(policy)

    def judge(self, look: Look) -> list[Finding]:
        """All findings of a look, one at most for a student and rule.

        Args:
            look: what was seen now; looks come in the order of time.
        """
        self._measure(look)
        found: dict[tuple[int, str], list[tuple[Seen | None, Rung, str]]] = {}
        by_pid = self._single(look, found)
        self._gpus(look, by_pid, found)
        self._sockets(look, found)
        self._summed(look, found)
        self.programs.forget({seen.key for seen in look.processes})
        return [_finding(key, entries) for key, entries in sorted(found.items(), key=lambda item: item[0])]

    def restore(self, over_seconds: Mapping[Key, float]) -> None:
        """Go on counting where a guard of this boot ended; only processes that still live will be seen again."""
        self.tracks.update({key: Track(over_seconds=seconds) for key, seconds in over_seconds.items()})

    def stopped(self, student: int) -> None:
        """Count a student's processes together anew: what was stopped is no reason to stop what comes after it."""
        self.together.pop(student, None)
        self._used.pop(student, None)

    def rates(self) -> dict[int, float]:
        """Cores that each student's processes used over the window, allowed ones included."""
        rates: dict[int, float] = {}
        for key, track in self.tracks.items():
            if key not in self._last:
                continue
            student = self._last[key].student
            rates[student] = rates.get(student, 0.0) + track.rate_cores
        return rates

    def _gap_most(self) -> float:
        return 2 * self.policy.interval_seconds

    def _measure(self, look: Look) -> None:
        """Take the samples of all processes, and of each student's together."""
        cpu = self.policy.cpu
        spent: dict[int, float] = {}
        for seen in look.processes:
            if self.programs.allowed(seen) is None:
                spent[seen.student] = spent.get(seen.student, 0.0) + self._spent(seen)
            track = self.tracks.setdefault(seen.key, Track())
            if not track.samples and seen.age_seconds <= self._gap_most():
                track.samples.append((look.now - seen.age_seconds, 0.0))  # its whole life is known
            track.add(look.now, seen.cpu_seconds, cpu.window_seconds, cpu.limit_cores, self._gap_most())
        absorbed = self._absorbed(look)
        for student in {*spent, *self.together}:
            used = max(0.0, spent.get(student, 0.0) - absorbed.get(student, 0.0))
            self._used[student] = self._used.get(student, 0.0) + used
            track = self.together.setdefault(student, Track())
            total = self._used[student]
            track.add(look.now, total, cpu.window_seconds, cpu.together_limit_cores, self._gap_most())
        self._last = {seen.key: seen for seen in look.processes}
        self.tracks = {key: track for key, track in self.tracks.items() if key in self._last}
        self.together = {student: track for student, track in self.together.items() if _still(track, student, spent)}
        self._used = {student: self._used[student] for student in self.together}

    def _spent(self, seen: Seen) -> float:
        """CPU seconds of a process since the last look, with those of children that it has waited for."""
        before = self._last.get(seen.key)
        if before is not None:
            return seen.cpu_seconds - before.cpu_seconds + seen.children_seconds - before.children_seconds
        if seen.age_seconds <= self._gap_most():
            return seen.cpu_seconds + seen.children_seconds
        return 0.0  # what it did before the guard was there

    def _absorbed(self, look: Look) -> dict[int, float]:
        """What parents got from children whose time was counted before, while they lived."""
        alive = {seen.key for seen in look.processes}
        gained: dict[int, float] = {}
        for seen in look.processes:
            before = self._last.get(seen.key)
            if before is not None and self.programs.allowed(seen) is None:
                more = seen.children_seconds - before.children_seconds
                gained[seen.student] = gained.get(seen.student, 0.0) + more
        gone: dict[int, float] = {}
        for key, seen in self._last.items():
            if key not in alive:
                gone[seen.student] = gone.get(seen.student, 0.0) + seen.cpu_seconds + seen.children_seconds
        return {student: min(more, gone.get(student, 0.0)) for student, more in gained.items()}

    def _single(self, look: Look, found: dict[tuple[int, str], list[tuple[Seen | None, Rung, str]]]) -> dict[int, Seen]:
        """What each process is found for by itself; gives the processes by pid."""
        policy = self.policy
        for seen in look.processes:
            rule, matched = self.programs.denied(seen)
            if rule:
                words = f"{_what(seen)}: denied by its {rule.replace('-', ' ')}, {visible(matched, _SHOWN)}"
                found.setdefault((seen.student, rule), []).append((seen, policy.denied.then, words))
            allowed = self.programs.allowed(seen)
            if allowed is not None:
                old = seen.age_seconds > policy.kernels.limit_seconds
                if allowed.kernel and old and seen.student not in self.in_session:
                    hours = f"{seen.age_seconds / 3600:.1f} h old, limit {policy.kernels.limit_seconds / 3600:.1f} h"
                    entry = (seen, policy.kernels.then, f"{_what(seen)}: {hours}")
                    found.setdefault((seen.student, "kernel-age"), []).append(entry)
                continue
            track = self.tracks[seen.key]
            if self._too_long(track) and track.rate_cores > policy.cpu.limit_cores:
                words = f"{_what(seen)}: {_busy(track, policy.cpu.limit_cores)}"
                found.setdefault((seen.student, "cpu"), []).append((seen, policy.cpu.then, words))
        return {seen.pid: seen for seen in look.processes}

    def _too_long(self, track: Track) -> bool:
        return track.over_seconds > self.policy.cpu.longer_than_seconds

    def _gpus(
        self, look: Look, by_pid: Mapping[int, Seen], found: dict[tuple[int, str], list[tuple[Seen | None, Rung, str]]]
    ) -> None:
        """Programs that are not allowed and use a GPU for too long."""
        policy = self.policy.gpu
        if look.gpu_percent is not None:
            gap = look.now - self._gpu_at if self._gpu_at is not None else 0.0
            over = {}
            for seen in by_pid.values():
                change = gap if look.gpu_percent.get(seen.pid, 0.0) > policy.limit_percent else -gap
                over[seen.key] = max(0.0, self._gpu.get(seen.key, 0.0) + change)
            self._gpu, self._gpu_at = {key: seconds for key, seconds in over.items() if seconds > 0}, look.now
        for seen in by_pid.values():
            seconds = self._gpu.get(seen.key, 0.0)
            if seconds > policy.longer_than_seconds and self.programs.allowed(seen) is None:
                words = f"{_what(seen)}: more than {policy.limit_percent:g} % of a GPU for {seconds:.0f} s"
                found.setdefault((seen.student, "gpu"), []).append((seen, policy.then, words))

    def _sockets(self, look: Look, found: dict[tuple[int, str], list[tuple[Seen | None, Rung, str]]]) -> None:
        """Connections to mining ports, with the processes that have them open."""
        holding = holders(look.connections, look.processes)
        for each in look.connections:
            rule = "port-loopback" if each.here else "port"
            then = self.policy.connections.loopback_then if each.here else self.policy.connections.then
            words = f"connected to {each.address} port {each.port}"
            entries = found.setdefault((each.student, rule), [])
            owners = holding.get(each.inode, [])
            entries += [(seen, then, f"{_what(seen)}: {words}") for seen in owners]
            if not owners:
                entries.append((None, then, f"a process that could not be found: {words}"))

    def _summed(self, look: Look, found: dict[tuple[int, str], list[tuple[Seen | None, Rung, str]]]) -> None:
        """Students whose processes are too busy together while none of them is by itself."""
        cpu = self.policy.cpu
        for student, track in self.together.items():
            over = self._too_long(track) and track.rate_cores > cpu.together_limit_cores
            if not over or (student, "cpu") in found:
                continue
            mine = [seen for seen in look.processes if seen.student == student and self.programs.allowed(seen) is None]
            mine.sort(key=lambda seen: self.tracks[seen.key].rate_cores, reverse=True)
            words = f"{len(mine)} process(es) together: {_busy(track, cpu.together_limit_cores)}"
            busy = [seen for seen in mine if self.tracks[seen.key].rate_cores > 0] or mine
            found[student, "cpu-together"] = [(seen, cpu.then, words) for seen in busy] or [(None, cpu.then, words)]


def _still(track: Track, student: int, spent: Mapping[int, float]) -> bool:
    return student in spent or track.over_seconds > 0 or track.rate_cores > 0


def _busy(track: Track, limit_cores: float) -> str:
    return f"{track.rate_cores:.2f} cores (limit {limit_cores:g}), beyond the limit for {track.over_seconds:.0f} s"


def _what(seen: Seen) -> str:
    """A process in a few printable words."""
    return f"process {seen.pid}, {visible(seen.exe or seen.name, _SHOWN)}"


def _finding(key: tuple[int, str], entries: Iterable[tuple[Seen | None, Rung, str]]) -> Finding:
    listed = list(entries)
    words = listed[0][2] + (f" (and {len(listed) - 1} more)" if len({e[2] for e in listed}) > 1 else "")
    processes = {seen.key: seen for seen, _, _ in listed if seen is not None}
    return Finding(key[0], key[1], max(then for _, then, _ in listed), words, tuple(processes.values()))
