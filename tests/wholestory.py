"""What people do in a whole deployment: register, work, leave; and somebody who kills and restarts its parts."""

from __future__ import annotations

import json
import pwd
import random
import subprocess
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import psutil
import websocket

from tests.apidb.frontend import NoSeat, Participant, Phase
from tests.appliances import answers
from tests.linux_students import BASE as UIDS
from tests.support import wait_until
from tests.whole import CELLS, KINDS, LAB, Whole, proxies

AT_WORK = 4  # so many people work at the same time; the machine has few cores
SAME = ({"hub", "hub and proxy"}, {"appliance", "cable"})  # never dead at the same time: they are one
TROUBLE = (httpx.HTTPError, websocket.WebSocketException, OSError, AssertionError, ValueError, KeyError)


@dataclass
class Person:
    """One who wants to take part once.

    Args:
        word: the workshop, WKSHP- or CHLG-.
        cells: how many code cells this one executes.
    """

    word: str
    cells: int
    tries: list[Participant] = field(default_factory=list)
    working: Future[None] | None = None
    done: bool = False

    @property
    def now(self) -> Participant:
        """The newest registration."""
        return self.tries[-1]

    @property
    def percent(self) -> int:
        """The completion ratio that must come out."""
        return self.cells * 100 // CELLS


def people(count: int) -> list[Person]:
    """So many persons, spread over the workshops; every share of cells comes, 1 to all but one."""
    words = [kind.words[turn % len(kind.words)] for turn in range(2) for kind in KINDS]
    return [Person(words[number % len(words)], 1 + number % (CELLS - 1)) for number in range(count)]


class Story:
    """Everybody registers as soon as there is a seat, works once the credentials are there, and then leaves.

    Args:
        whole: where.
        persons: who.
        patient: whether trouble while working is met by trying again, as a person reloads a page; else it fails.
    """

    def __init__(self, whole: Whole, persons: list[Person], *, patient: bool = False) -> None:
        self.whole, self.persons, self.patient = whole, persons, patient
        self.troubles: list[str] = []
        self._pool = ThreadPoolExecutor(AT_WORK, "person")

    def play(self, seconds: float) -> None:
        """Until everybody is over; fails after so many seconds, and says where each one is."""
        try:
            wait_until(self._all_over, seconds=seconds, what="everybody to be over", every=0.25)
        except AssertionError as late:
            frontend = self.whole.frontend
            open_ = [row["subject"] for row in self.whole.site.requests() if not row["finished"]]
            told = f"{frontend.summary()}; at work: {open_}; {frontend.troubles[-3:]}; {self.troubles[-3:]}"
            raise AssertionError(f"{late}; {told}") from late
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _all_over(self) -> bool:
        full = set[str]()
        for person in self.persons:
            if not person.done:
                self._go_on(person, full)
        return all(person.done for person in self.persons)

    def _go_on(self, person: Person, full: set[str]) -> None:
        """The person's next step, when it is time for one."""
        notebook = "WKSHP-" + person.word.partition("-")[2]
        if not person.tries or (person.now.phase is Phase.OVER and person.working is None):
            if notebook not in full:
                try:
                    person.tries.append(self.whole.frontend.register(person.word))
                except NoSeat:
                    full.add(notebook)
        elif person.now.phase is Phase.WORKING and person.working is None:
            person.working = self._pool.submit(self._works, person, person.now)
        elif person.working is not None and person.working.done():
            person.working.result()
            person.done = person.now.phase is Phase.OVER

    def _works(self, person: Person, one: Participant) -> None:
        """Work, then let the time be over."""
        if self.patient:
            wait_until(lambda: self._worked(person, one), seconds=120, what=f"{one} to get on with the work", every=0.5)
        else:
            self._work(person, one)
        self.whole.frontend.expire(one)

    def _worked(self, person: Person, one: Participant) -> bool:
        try:
            self._work(person, one)
        except TROUBLE as trouble:
            self.troubles.append(f"participant {one.number}: {trouble!r}"[:300])
            return False
        return True

    def _work(self, person: Person, one: Participant) -> None:
        name, whole = f"student{one.student}", self.whole
        if one.word == "WKSHP-Ldap":
            assert whole.slapd.opens(one.password, one.student), f"LDAP does not let {one} in"
        if one.word == "WKSHP-Mono":
            assert lands(one.student, whole.lab.base) == name, f"no ssh to the appliance for {one}"
        browser = whole.hub.login(name, one.password)
        assert browser is not None, f"the hub does not let {one} in"
        try:
            self._await_server(name)
            assert browser.enter(), f"the server of {one} does not let its owner in"
            path = f"WKSHP-{one.word.partition('-')[2]}/{LAB}"
            assert browser.execute(path, person.cells) == person.cells
        finally:
            browser.close()
        self._check_work(person, one)

    def _await_server(self, name: str) -> None:
        """The credentials come a moment before the server does, and the hub shows a page that waits for it."""

        def ready() -> bool:
            return bool((self.whole.hub.server(name) or {}).get("ready"))

        try:
            wait_until(ready, seconds=10 if self.patient else 60, what=f"the server of {name}", every=0.25)
        except AssertionError:
            if self.patient:
                self.whole.hub.api("POST", f"/users/{name}/server")  # the page's button: Start my server
            raise

    def _check_work(self, person: Person, one: Participant) -> None:
        """The notebook in the home says that the student has executed its cells, and is the student's own."""
        file = self.whole.site.home(one.student) / f"WKSHP-{one.word.partition('-')[2]}" / LAB
        assert file.stat().st_uid == UIDS + one.student
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        word = one.password if one.word == "WKSHP-Ldap" else "no password"
        said = f"worked as {UIDS + one.student} student {one.student} {word}\n"
        texts = [
            "".join(text for output in cell["outputs"] for text in output["text"])
            for cell in cells
            if cell["execution_count"]
        ]
        assert texts == [said] * person.cells


def lands(student: int, address: str) -> str:
    """The user as whom a student is at the appliance, with the key of the home; empty when it is refused."""
    home = pwd.getpwnam(f"student{student}").pw_dir
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=30"]
    argv = ["ssh", "-i", f"{home}/.ssh/id_ed25519", *(word for each in options for word in ("-o", each))]
    who = {"user": UIDS + student, "group": UIDS + student, "extra_groups": [], "cwd": "/"}
    done = subprocess.run(
        [*argv, f"student{student}@{address}", "id -un"],
        env={"PATH": "/usr/bin:/bin", "HOME": home},
        capture_output=True,
        text=True,
        check=False,
        **who,
    )
    return done.stdout.strip()


class Killer:
    """Kills parts with signal 9 at random moments and starts them again, until told to stop or all rounds are over.

    Args:
        whole: whose parts.
        seed: of the dice.
        rounds: how often each part is killed, at least once.
    """

    def __init__(self, whole: Whole, seed: int, rounds: int) -> None:
        self.whole, self.seed, self.rounds = whole, seed, rounds
        self.kills: list[str] = []
        self._dice = random.Random(seed)  # noqa: S311 - the same dice each time
        self._ended = threading.Event()
        self._fault: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="killer")
        self.parts: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "API-DB": (whole.api.kill, whole.api.start),
            "wodmail": (self._kill_wodmail, whole.site.start),
            "hub": (whole.hub.kill, whole.hub.start),
            "hub and proxy": (self._kill_hub_and_proxy, whole.hub.start),
            "slapd": (whole.slapd.kill, whole.slapd.start),
            "appliance": (self._kill_sshd, self._start_sshd),
            "cable": (lambda: whole.lab.down(whole.lab.base), lambda: whole.lab.up(whole.lab.base)),
        }

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever is dead is started again first; what went wrong in the thread comes out here."""
        self._ended.set()
        self._thread.join()
        if self._fault:
            raise self._fault[0]

    def _run(self) -> None:
        try:
            for _ in range(self.rounds):
                for group in self._groups():
                    if self._ended.wait(self._dice.uniform(0.2, 2.0)):
                        return
                    self._kill(group)
        except Exception as fault:  # noqa: BLE001 - raised again in the thread of the test
            self._fault.append(fault)

    def _groups(self) -> Iterable[list[str]]:
        """The parts in random order, some of them two at a time."""
        order = list(self.parts)
        self._dice.shuffle(order)
        while order:
            first = order.pop()
            others = [each for each in order if {first, each} not in SAME]
            if others and self._dice.random() < 1 / 3:
                order.remove(others[-1])
                yield [first, others[-1]]
            else:
                yield [first]

    def _kill(self, group: list[str]) -> None:
        for name in group:
            self.parts[name][0]()
            self.kills.append(name)
        self._ended.wait(self._dice.uniform(0.0, 2.0))
        self._dice.shuffle(group)
        for name in group:
            self.parts[name][1]()

    def _kill_wodmail(self) -> None:
        process = self.whole.site.running[-1]
        process.kill()
        process.wait()

    def _kill_hub_and_proxy(self) -> None:
        dying = proxies(self.whole.hub)
        self.whole.hub.kill()
        for process in dying:
            process.kill()
        psutil.wait_procs(dying, 10)

    def _kill_sshd(self) -> None:
        """The listener and every session."""
        self.whole.lab.shell(self.whole.lab.base, "pkill -KILL sshd")

    def _start_sshd(self) -> None:
        lab = self.whole.lab
        lab.shell(lab.base, "/usr/sbin/sshd")
        wait_until(lambda: answers(lab.base), what="sshd")
