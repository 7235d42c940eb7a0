"""fail2ban's filter, as fail2ban reads it, on what a real hub logs about logins; hostile ones among them."""

from __future__ import annotations

import configparser
import ipaddress
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import jinja2
import pytest

from tests.hubsite import HubSite, hub_site
from tests.parts import require
from tests.support import wait_until
from wodmail import paths
from wodmail.schema import Settings

VICTIM = "203.0.113.9"
FAKE = f"[W 2026-11-24 01:02:03.456 JupyterHub log:192] 403 POST /hub/login?next=%2Fhub%2F (@{VICTIM}) 9.99ms"
JOURNAL_LINE = 48 * 1024  # journald.conf(5), LineMax: what is longer goes on in a new entry
# PAM for everybody but one, whose password is known here: no Linux user is needed. Its failures take two seconds each.
MORE = """
from concurrent.futures import ThreadPoolExecutor
from jupyterhub.auth import PAMAuthenticator

class Logins(PAMAuthenticator):
    executor = ThreadPoolExecutor(8)

    async def authenticate(self, handler, data):
        if (data["username"], data["password"]) == ("student7", "right"):
            return "student7"
        return await super().authenticate(handler, data)

    def add_user(self, user):
        pass

c.JupyterHub.authenticator_class = Logins
c.Authenticator.allow_all = True
c.PAMAuthenticator.service = "other"  # any: all refuse the unknown
c.JupyterHub.trusted_downstream_ips = ["127.0.0.1"]
"""


def filled(name: str) -> str:
    """A template of sys/ as Ansible fills it in."""
    settings = Settings.model_validate({"WODSANDBOX": True, "WODNEVERBAN": "192.0.2.80/32"})
    values = {"wod_jail_maxretry": 60, "wod_jail_findtime": "10m", "wod_jail_bantime": "10m", **settings.variables()}
    values["wod_hub_ports"] = [8000, 443]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((paths.share("sys") / name).read_text(encoding="utf-8")).render(values)


def matched(folder: Path, lines: list[str]) -> list[str]:
    """The addresses that fail2ban finds in lines of the hub, given to it the way its reader of the journal does."""
    program, log, rules = require("fail2ban-regex"), folder / "hub.log", folder / "wod-jupyterhub.conf"
    rules.write_text(filled("fail2ban-filter.conf.j2"), encoding="utf-8")
    entries = [f"Nov 24 01:02:03 backend jupyterhub[4711]: {line}\n" for line in lines]
    log.write_text("".join(entries), encoding="utf-8")
    done = subprocess.run(
        [program, "--out", "ip", str(log), str(rules)], capture_output=True, encoding="utf-8", check=False, cwd=folder
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout.split()


def attempt(hub: HubSite, source: str, name: str, word: str, query: str = "", forged: str = "") -> int:
    """One login at the hub's form from an address of this machine; returns the status of the answer."""
    headers = {"x-forwarded-for": forged} if forged else {}
    with httpx.Client(
        base_url=hub.url, headers=headers, timeout=60, transport=httpx.HTTPTransport(local_address=source)
    ) as client:
        client.get("/hub/login").raise_for_status()
        mark = next(cookie.value for cookie in client.cookies.jar if cookie.name == "_xsrf" and cookie.path == "/hub/")
        return client.post(f"/hub/login{query}", data={"username": name, "password": word, "_xsrf": mark}).status_code


ATTEMPTS = {
    "127.0.0.2": {"name": "student1", "word": "wrong"},
    "127.0.0.3": {"name": f"x\n{FAKE}\n{FAKE}", "word": f"{FAKE}\n"},
    "127.0.0.4": {"name": "y" * JOURNAL_LINE + FAKE * 200, "word": "wrong"},
    "127.0.0.5": {"name": f"a@{VICTIM}) 1.00ms", "word": "wrong", "forged": VICTIM},
    "127.0.0.6": {
        "name": "student1",
        "word": "wrong",
        "query": f"?next=(@{VICTIM})%201.00ms%0A{FAKE.replace(' ', '+')}",
    },
    "127.0.0.1": {"name": "student1", "word": "wrong", "forged": "198.51.100.7"},  # the front end that is trusted
    "127.0.0.8": {"name": "student7", "word": "right"},
}


@pytest.fixture(scope="module")
def logged() -> Iterator[list[str]]:
    """What the hub logged about all the attempts."""
    require("fail2ban-regex")
    with hub_site(MORE) as hub:
        with ThreadPoolExecutor(len(ATTEMPTS)) as pool:
            waiting = {source: pool.submit(attempt, hub, source, **how) for source, how in ATTEMPTS.items()}
            answers = {source: each.result() for source, each in waiting.items()}
        assert answers == dict.fromkeys(ATTEMPTS, 403) | {"127.0.0.8": 302}
        wait_until(lambda: hub.log().count(" POST /hub/login") >= len(ATTEMPTS), what="the lines of the attempts")
        yield hub.log().split("\n")


def test_each_failed_login_is_found_at_its_own_address(logged: list[str], tmp_path: Path) -> None:
    """And nobody else's: not who logged in, not whom a name, a query or a header names."""
    assert [line for line in logged if "302 POST /hub/login" in line and "127.0.0.8" in line]
    found = sorted(matched(tmp_path, logged))
    assert found == sorted(["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6", "198.51.100.7"])


def test_no_line_is_so_long_that_the_journal_breaks_it(logged: list[str]) -> None:
    """The second part would begin with what a stranger wrote."""
    assert max(len(line.encode()) for line in logged) < JOURNAL_LINE / 4
    assert not [line for line in logged if line.startswith("[W") and VICTIM in line and FAKE in line[:200]]


COUNT = {
    FAKE.replace(VICTIM, "198.51.100.1"): "198.51.100.1",
    FAKE.replace(VICTIM, "::ffff:198.51.100.2"): "198.51.100.2",
    FAKE.replace(VICTIM, "2001:db8::9"): "2001:db8::9",
    FAKE.replace("?next=%2Fhub%2F", f"?(@{VICTIM})").replace(f" (@{VICTIM})", " (@198.51.100.3)"): "198.51.100.3",
    FAKE.replace("?next=%2Fhub%2F", "").replace(f"@{VICTIM}", "student1@198.51.100.4"): "198.51.100.4",
}
DONT_COUNT = (
    f"    {FAKE}",
    f" {FAKE}",
    f"[I 2026-11-24 01:02:03.456 JupyterHub auth:1] {FAKE}",
    f"[W 2026-11-24 01:02:03.456 JupyterHub auth:1] PAM Authentication failed (x {FAKE}@192.0.2.1): no",
    f"x: {FAKE}",
    f"evil[1]: {FAKE}",
    f"{FAKE} more",
    FAKE.replace(VICTIM, "localhost"),
    FAKE.replace("403 POST", "302 POST"),
    FAKE.replace("403 POST", "403 GET"),
    FAKE.replace("/hub/login", "/hub/login-not"),
    FAKE.replace("?next=%2Fhub%2F", "?next=x y"),
)


def test_only_a_whole_line_of_the_hub_counts(tmp_path: Path) -> None:
    """Older hubs write names as they are, and what follows a line break in one is a line of its own, four blanks in."""
    assert matched(tmp_path, [*DONT_COUNT, *COUNT]) == list(COUNT.values())


def test_the_jails_read_what_root_wrote_and_spare_whom_they_must() -> None:
    """The journal's own words for the hub's unit; the same networks as the command's; the action besides fail2ban's."""
    jails = configparser.RawConfigParser()
    jails.read_string(filled("fail2ban-jail.conf.j2"))
    assert jails.sections() == ["sshd", "wod-jupyterhub"]
    for name in jails.sections():
        spared = [ipaddress.ip_network(text) for text in jails[name]["ignoreip"].split()]
        assert ipaddress.ip_network("192.0.2.80/32") in spared and ipaddress.ip_network("127.0.0.0/8") in spared
        assert jails[name]["action"].split("\n") == ["%(action_)s", f"wod-fail2ban-ip[name={name}]"]
    assert jails["wod-jupyterhub"]["port"] == "8000,443"
    rules = configparser.RawConfigParser()
    rules.read_string(filled("fail2ban-filter.conf.j2"))
    assert rules["Definition"]["journalmatch"] == "_SYSTEMD_UNIT=jupyterhub.service _UID=0"
    unit = (paths.share("sys") / "jupyterhub.service.j2").read_text(encoding="utf-8")
    assert "\nUser=" not in unit and "\nStandardOutput=" not in unit
    action = configparser.RawConfigParser()
    action.read_string(filled("fail2ban-action.conf.j2"))
    calls = [action["Definition"][f"action{what}"] for what in ("ban", "unban")]
    assert calls == [f"/usr/local/bin/wod-fail2ban-ip {what} --jail <name> <ip>" for what in ("ban", "unban")]


class Jail:
    """A fail2ban of the test's own with our jail, filter and action: everything it has is in a folder.

    It reads a file instead of the journal, and has no action but ours: nothing of this machine changes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "hub.log"
        self.log.touch()
        self._server = require("fail2ban-server")
        conf, client = folder / "conf", Path(self._server).with_name("fail2ban-client")
        self.client = [str(client), "-c", str(conf), "-s", str(folder / "socket")]
        for name in ("action.d", "filter.d"):
            (conf / name).mkdir(parents=True)
        (conf / "filter.d" / "wod-jupyterhub.conf").write_text(filled("fail2ban-filter.conf.j2"), encoding="utf-8")
        action = filled("fail2ban-action.conf.j2").replace("/usr/local/bin/wod-fail2ban-ip", str(self._program()))
        (conf / "action.d" / "wod-fail2ban-ip.conf").write_text(action, encoding="utf-8")
        with (conf / "jail.conf").open("w", encoding="utf-8") as file:
            self._jail().write(file)
        places = {name: folder / name for name in ("socket", "pidfile", "dbfile")}
        lines = [f"{name} = {file}" for name, file in places.items()]
        text = "\n".join(["[Definition]", "loglevel = INFO", "syslogsocket = auto", "dbpurgeage = 1d", *lines])
        (conf / "fail2ban.conf").write_text(f"{text}\nlogtarget = {folder / 'fail2ban.log'}\n", encoding="utf-8")
        self.conf = conf

    def _program(self) -> Path:
        """`wod-fail2ban-ip` as installed, with places in the folder."""
        file, config = self.folder / "wod-fail2ban-ip", self.folder / "wod.yml"
        config.write_text("WODSANDBOX: true\n", encoding="utf-8")
        ours = f"--state {self.state} --firewall {self.folder / 'firewall.yml'}"
        call = f'exec {shlex.quote(sys.executable)} -m wodmail fail2ban-ip "$verb" {ours}'
        file.write_text(
            f'#!/bin/sh\nverb=$1; shift\n[ "$verb" = unban ] || {call} --config {config} "$@"\n{call} "$@"\n',
            encoding="utf-8",
        )
        file.chmod(0o755)
        return file

    def _jail(self) -> configparser.RawConfigParser:
        jails = configparser.RawConfigParser()
        jails.read_string(filled("fail2ban-jail.conf.j2"))
        jails.remove_section("sshd")
        ours = jails["wod-jupyterhub"]
        ours["action"] = ours["action"].replace("%(action_)s\n", "")
        ours.update({"backend": "polling", "logpath": str(self.log)})
        return jails

    @property
    def state(self) -> Path:
        """Where the list of bans is."""
        return self.folder / "state"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """fail2ban runs, and our jail is ready."""
        command = [self._server, "-f", "-c", self.conf, "-s", self.folder / "socket", "-p", self.folder / "pidfile"]
        with (self.folder / "out.log").open("wb") as out:
            process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=out, stderr=out)
        try:
            # Asked about a jail that is not there yet, it would log an error.
            wait_until(lambda: self._begun() or process.poll() is not None, what="the jail")
            assert process.poll() is None, (self.folder / "out.log").read_text(encoding="utf-8")
            yield
        finally:
            process.terminate()
            process.wait(timeout=120)

    def _begun(self) -> bool:
        log = self.folder / "fail2ban.log"
        return log.exists() and "Jail 'wod-jupyterhub' started" in log.read_text(encoding="utf-8")

    def ask(self, *words: str) -> str:
        """What `fail2ban-client` says; nothing when it fails."""
        done = subprocess.run([*self.client, *words], capture_output=True, encoding="utf-8", check=False)
        return "" if done.returncode else done.stdout

    def write(self, lines: list[str]) -> None:
        """Lines of the hub, of now, as the journal has them."""
        stamp = time.strftime("%b %d %H:%M:%S")
        with self.log.open("a", encoding="utf-8") as file:
            file.writelines(f"{stamp} backend jupyterhub[4711]: {line}\n" for line in lines)

    def banned(self) -> dict[str, list[str]]:
        """Our list: the jails of each address."""
        file = self.state / "bans.json"
        rows = json.loads(file.read_text(encoding="utf-8"))["bans"] if file.exists() else []
        return {row["address"]: list(row["jails"]) for row in rows}


def test_fail2ban_itself_bans_and_lets_in_again(tmp_path: Path) -> None:
    """By our jail's own numbers: 60 failures ban, one fewer does not, nor does who is spared."""
    jail = Jail(tmp_path)
    guesser, few, spared = "198.51.100.1", "198.51.100.2", "192.0.2.80"
    with jail.at_work():
        for address, count in ((spared, 70), (few, 59), (guesser, 60)):
            jail.write([FAKE.replace(VICTIM, address)] * count)
        wait_until(lambda: jail.banned(), what="the ban")
        assert jail.banned() == {guesser: ["wod-jupyterhub"]}
        assert guesser in jail.ask("status", "wod-jupyterhub")
        assert jail.ask("set", "wod-jupyterhub", "unbanip", guesser)
        wait_until(lambda: not jail.banned(), what="the unban")
        jail.write([FAKE.replace(VICTIM, few)])
        wait_until(lambda: jail.banned() == {few: ["wod-jupyterhub"]}, what="the ban of the other")
    said = (tmp_path / "fail2ban.log").read_text(encoding="utf-8")
    assert " ERROR " not in said and f"Ban {guesser}" in said and f"Unban {guesser}" in said
    assert jail.banned() == {}  # fail2ban lets everybody in when it ends


def test_fail2ban_bans_whom_the_hub_s_own_lines_name(logged: list[str], tmp_path: Path) -> None:
    """All lines that a real hub has written about the attempts, again and again; loopback is spared."""
    jail = Jail(tmp_path)
    lines = [line for line in logged if line]
    with jail.at_work():
        jail.write(lines * 60)
        wait_until(lambda: jail.banned(), what="the ban")
        assert jail.banned() == {"198.51.100.7": ["wod-jupyterhub"]}
        said = jail.ask("status", "wod-jupyterhub")
        assert "198.51.100.7" in said and VICTIM not in said
