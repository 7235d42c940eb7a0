"""What is found in a look at the processes: pure but for what `Programs` asks of the disk.

CPU is judged by its rate over a window, in cores. Time beyond the limit counts up and time below it counts down, so a
process that pauses now and then is found a little later, and a short burst is not found at all. A student's processes
together are counted in two ways, see `Living`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wodmail.guard.lineage import Lineage, Origin
from wodmail.guard.policy import Allowed, Policy, Rung
from wodmail.guard.programs import Programs
from wodmail.guard.sockets import holders
from wodmail.guard.tracks import Everything, Key, Living, Look, Track, absorbed, gained
from wodmail.guard.watch import Seen
from wodmail.mail.grammar import visible

Found = dict[tuple[int, str], list[tuple[Seen | None, Rung, str]]]
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Finding:
    """One offence of one student at one moment.

    Args:
        student: the number.
        rule: which part of the policy: name, command-line, port, port-loopback, kernel-age, cpu, cpu-together, cpu-long
            or gpu.
        then: how far the ladder goes.
        words: what was found, printable.
        processes: which processes, the worst first.
        again: the same of a student that was stopped for it again and again.
    """

    student: int
    rule: str
    then: Rung
    words: str
    processes: tuple[Seen, ...]
    again: Rung = Rung.WARN


class Judge:
    """Compares looks with the policy.

    Args:
        policy: the policy.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.programs = policy, Programs(policy)
        self.lineage = Lineage(self.programs.hub)
        self.sessions_known = True  # until then a kernel may be as old as it is
        self._who: Mapping[int, str] = {}
        self.in_session: frozenset[int] = frozenset()  # students whose session goes on: their kernels may be old
        self.limits: dict[int, float] = {}  # how old a student's kernels may be, where that is known
        self.tracks: dict[Key, Track] = {}
        self.together: dict[int, Track] = {}
        self.everything = Everything()
        self.living, self.all_living = Living(), Living()
        self._last: dict[Key, Seen] = {}
        self._entries: dict[int, Allowed | None] | None = None  # by pid, while one look is judged
        self._used: dict[int, float] = {}
        self._gpu: dict[Key, float] = {}
        self._gpu_at: float | None = None

    def replace(self, policy: Policy) -> None:
        """Go on with another policy; what is known of the processes stays."""
        self.policy, self.programs = policy, Programs(policy)
        self.lineage.hub = self.programs.hub

    def judge(self, look: Look) -> list[Finding]:
        """All findings of a look, one at most for a student and rule.

        Args:
            look: what was seen now; looks come in the order of time.
        """
        self.lineage.look(look.processes)
        self._entries = {}
        self._measure(look)
        found: Found = {}
        by_pid = self._single(look, found)
        self._gpus(look, by_pid, found)
        self._sockets(look, found)
        self._summed(look, found)
        self._long(look, found)
        self._entries = None
        self.programs.forget({seen.key for seen in look.processes})
        again = {"cpu-long": self.policy.cpu.all_again_then}
        return [
            _finding(key, entries, again.get(key[1], Rung.WARN))
            for key, entries in sorted(found.items(), key=lambda item: item[0])
        ]

    def restore(self, over_seconds: Mapping[Key, float]) -> None:
        """Go on counting where a guard of this boot ended; only processes that still live will be seen again."""
        self.tracks.update({key: Track(over_seconds=seconds) for key, seconds in over_seconds.items()})

    def stopped(self, student: int) -> None:
        """Count a student's processes together anew: what was stopped is no reason to stop what comes after it."""
        self.together.pop(student, None)
        self._used.pop(student, None)
        self.everything.tracks.pop(student, None)
        self.living.forget(student)
        self.all_living.forget(student)

    def sits(self, who: Mapping[int, str]) -> None:
        """Count anew in whose seat somebody else sits by now; see `Sittings`."""
        for student in {student for student, words in who.items() if self._who.get(student, words) != words}:
            self.stopped(student)
        self._who = who

    def allowed(self, seen: Seen) -> Allowed | None:
        """The entry of the allow-list for a process: by its program, and by where it comes from."""
        if self._entries is None:
            return self._entry(seen)
        if seen.pid not in self._entries:
            self._entries[seen.pid] = self._entry(seen)
        return self._entries[seen.pid]

    def _entry(self, seen: Seen) -> Allowed | None:
        entry = self.programs.allowed(seen)
        if entry is None or not (entry.kernel or entry.parents):
            return entry
        return entry if self.lineage.of(seen) is (Origin.BELOW if entry.kernel else Origin.SERVER) else None

    def free(self, seen: Seen) -> bool:
        """Whether it is a kernel or a server, whose own computing does not count with everything else."""
        entry = self.allowed(seen)
        return entry is not None and (entry.kernel or bool(entry.parents))

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
        cpu, most, window = self.policy.cpu, self._gap_most(), self.policy.cpu.window_seconds
        spent: dict[int, float] = {}
        for seen in look.processes:
            if self.allowed(seen) is None:
                spent[seen.student] = spent.get(seen.student, 0.0) + sum(gained(seen, self._last.get(seen.key), most))
            track = self.tracks.setdefault(seen.key, Track())
            if not track.samples and seen.age_seconds <= most:
                track.samples.append((look.now - seen.age_seconds, 0.0))  # its whole life is known
            track.add(look.now, seen.cpu_seconds, window, cpu.limit_cores, most)
        self.everything.measure(look, self._last, self.free, most, cpu)
        self.living.measure(look, self._last, lambda seen: self.allowed(seen) is None, most, window, cpu.limit_cores)
        self.all_living.measure(look, self._last, lambda seen: not self.free(seen), most, window, cpu.all_limit_cores)
        counted = absorbed(look, self._last, lambda seen: self.allowed(seen) is None)
        for student in {*spent, *self.together}:
            used = max(0.0, spent.get(student, 0.0) - counted.get(student, 0.0))
            self._used[student] = self._used.get(student, 0.0) + used
            track = self.together.setdefault(student, Track())
            total = self._used[student]
            track.add(look.now, total, window, cpu.together_limit_cores, most)
        self._last = {seen.key: seen for seen in look.processes}
        self.tracks = {key: track for key, track in self.tracks.items() if key in self._last}
        self.together = {student: track for student, track in self.together.items() if _still(track, student, spent)}
        self._used = {student: self._used[student] for student in self.together}

    def _single(self, look: Look, found: Found) -> dict[int, Seen]:
        """What each process is found for by itself; gives the processes by pid."""
        policy = self.policy
        for seen in look.processes:
            rule, matched = self.programs.denied(seen)
            if rule:
                words = f"{_what(seen)}: denied by its {rule.replace('-', ' ')}, {visible(matched, _SHOWN)}"
                found.setdefault((seen.student, rule), []).append((seen, policy.denied.then, words))
            listed, allowed = self.programs.allowed(seen), self.allowed(seen)
            if listed is not None and listed.kernel:
                self._aged(seen, found)
            limit, rule = self._patience(allowed), "cpu" if allowed is None else "cpu-long"
            track = self.tracks[seen.key]
            if track.over_seconds > limit and track.rate_cores > policy.cpu.limit_cores:
                words = f"{_what(seen)}: {_busy(track, policy.cpu.limit_cores)}"
                then = policy.cpu.then if allowed is None else policy.cpu.all_then
                found.setdefault((seen.student, rule), []).append((seen, then, words))
        return {seen.pid: seen for seen in look.processes}

    def _patience(self, allowed: Allowed | None) -> float:
        """How many seconds beyond the limit a process may be busy."""
        if allowed is None:
            return self.policy.cpu.longer_than_seconds
        if allowed.longer_than_seconds is not None:
            return allowed.longer_than_seconds
        return float("inf") if allowed.kernel else self.policy.cpu.all_longer_than_seconds

    def _aged(self, seen: Seen, found: Found) -> None:
        """Kernels that are too old, wherever they come from."""
        policy = self.policy.kernels
        limit = self.limits.get(seen.student, policy.limit_seconds)
        if self.sessions_known and seen.age_seconds > limit and seen.student not in self.in_session:
            hours = f"{seen.age_seconds / 3600:.1f} h old, limit {limit / 3600:.1f} h"
            found.setdefault((seen.student, "kernel-age"), []).append((seen, policy.then, f"{_what(seen)}: {hours}"))

    def _gpus(self, look: Look, by_pid: Mapping[int, Seen], found: Found) -> None:
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
            allowed = self.allowed(seen)
            if seconds > policy.longer_than_seconds and (allowed is None or not allowed.kernel):
                words = f"{_what(seen)}: more than {policy.limit_percent:g} % of a GPU for {seconds:.0f} s"
                found.setdefault((seen.student, "gpu"), []).append((seen, policy.then, words))

    def _sockets(self, look: Look, found: Found) -> None:
        """Connections to mining ports, with the processes that have them open."""
        holding = holders(look.connections, look.processes)
        for each in look.connections:
            rule = "port-loopback" if each.here else "port"
            then = self.policy.connections.loopback_then if each.here else self.policy.connections.then
            words = f"connected to {each.address} port {each.port}"
            if not each.calls:  # or from it, to a service of the student's: no reason to stop anything
                then, words = min(then, Rung.WARN), f"{words}, by whom can't be told"
            entries = found.setdefault((each.student, rule), [])
            owners = holding.get(each.inode, [])
            entries += [(seen, then, f"{_what(seen)}: {words}") for seen in owners]
            if not owners:
                entries.append((None, then, f"a process that could not be found: {words}"))

    def _summed(self, look: Look, found: Found) -> None:
        """Students whose processes are too busy together while none of them is by itself."""
        cpu = self.policy.cpu
        for student in {*self.together, *self.living.tracks}:
            all_of_it = (self.together.get(student), cpu.together_limit_cores)
            busy_words = _beyond(cpu.longer_than_seconds, all_of_it, (self.living.tracks.get(student), cpu.limit_cores))
            if not busy_words or (student, "cpu") in found:
                continue
            mine = [seen for seen in look.processes if seen.student == student and self.allowed(seen) is None]
            mine.sort(key=lambda seen: self.tracks[seen.key].rate_cores, reverse=True)
            words = f"{len(mine)} process(es) together: {busy_words}"
            busy = [seen for seen in mine if self.tracks[seen.key].rate_cores > 0] or mine
            found[student, "cpu-together"] = [(seen, cpu.then, words) for seen in busy] or [(None, cpu.then, words)]

    def _long(self, look: Look, found: Found) -> None:
        """Students whose processes are busy together for longer than anything takes to build."""
        cpu = self.policy.cpu
        everything, living = self.everything.tracks, self.all_living.tracks
        for student in {*everything, *living}:
            limited = [(tracks.get(student), cpu.all_limit_cores) for tracks in (everything, living)]
            busy_words = _beyond(cpu.all_longer_than_seconds, *limited)
            if not busy_words:
                continue
            mine = [seen for seen in look.processes if seen.student == student]
            counted = [seen for seen in mine if self.everything.busy(seen, self.free(seen), self.tracks[seen.key])]
            counted.sort(key=lambda seen: self.tracks[seen.key].rate_cores, reverse=True)
            words = f"everything but kernels and servers together: {busy_words}"
            entries = found.setdefault((student, "cpu-long"), [])
            entries += [(seen, cpu.all_then, words) for seen in counted] or [(None, cpu.all_then, words)]


def _still(track: Track, student: int, spent: Mapping[int, float]) -> bool:
    return student in spent or track.over_seconds > 0 or track.rate_cores > 0


def _beyond(longer_than_seconds: float, *limited: tuple[Track | None, float]) -> str:
    """Which of some tracks is beyond its limit for too long, in words; empty for none."""
    for track, limit_cores in limited:
        if track is not None and track.over_seconds > longer_than_seconds and track.rate_cores > limit_cores:
            return _busy(track, limit_cores)
    return ""


def _busy(track: Track, limit_cores: float) -> str:
    return f"{track.rate_cores:.2f} cores (limit {limit_cores:g}), beyond the limit for {track.over_seconds:.0f} s"


def _what(seen: Seen) -> str:
    """A process in a few printable words."""
    return f"process {seen.pid}, {visible(seen.exe or seen.name, _SHOWN)}"


def _finding(key: tuple[int, str], entries: Iterable[tuple[Seen | None, Rung, str]], again: Rung) -> Finding:
    listed = list(entries)
    words = listed[0][2] + (f" (and {len(listed) - 1} more)" if len({e[2] for e in listed}) > 1 else "")
    processes = {seen.key: seen for seen, _, _ in listed if seen is not None}
    return Finding(key[0], key[1], max(then for _, then, _ in listed), words, tuple(processes.values()), again)
