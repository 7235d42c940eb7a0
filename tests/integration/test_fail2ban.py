"""fail2ban's filter, as fail2ban reads it, on what a real hub logs about logins; hostile ones among them."""

from __future__ import annotations

import configparser
import ipaddress
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
