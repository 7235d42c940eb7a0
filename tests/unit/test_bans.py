"""Bans: whom they may hit, the list over all jails, and the firewall elsewhere that is told."""

from __future__ import annotations

import ipaddress
import json
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.support import wait_until
from wodmail import bans, firewallapi
from wodmail.bans import Bans
from wodmail.cli.fail2ban_ip import fail2ban_ip
from wodmail.errors import ConfigError, Failed, NotLetIn, Refused, Temporary, WodmailError
from wodmail.schema import Settings

TOKEN = "tok-4711-geheim"
STRANGER = ipaddress.ip_address("198.51.100.7")
SIXTH = ipaddress.ip_address("2001:db8::7")


@dataclass
class Wall:
    """A small firewall with an API: it keeps what it was sent, and answers with what it is told to, then 204."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    seen: list[tuple[str, str, str, str]] = field(default_factory=list)

    def plan(self, **more: Any) -> dict[str, Any]:
        """A file for it."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        body = {"address": "{ip}", "more": ["v{family}"]}
        return {
            "ban": {"method": "POST", "url": f"{self.url}/blocks?key={TOKEN}", "headers": headers, "body": body},
            "unban": {"method": "DELETE", "url": f"{self.url}/blocks/{{ip}}", "headers": headers},
            **more,
        }

    def api(self, **more: Any) -> firewallapi.FirewallApi:
        """A client of it that doesn't wait between its tries."""
        return firewallapi.FirewallApi(firewallapi.Plan.model_validate(self.plan(**more)), pause=lambda _: None)

    def calls(self) -> list[str]:
        """Method and path of what came."""
        return [f"{method} {path.partition('?')[0]}" for method, path, _, _ in self.seen]


@pytest.fixture
def wall() -> Iterator[Wall]:
    found = Wall()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            found.seen.append((self.command, self.path, self.headers.get("authorization", ""), body))
            self.send_response(found.answers.pop(0) if found.answers else 204)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_DELETE = answer  # noqa: N815 - names of http.server

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def call(tmp_path: Path, wall: Wall) -> Callable[..., Result]:
    """The command with a configuration, a firewall's file and a folder of the test's own."""
    config, file = tmp_path / "wod.yml", tmp_path / "firewall.yml"
    config.write_text("WODSANDBOX: true\nWODNEVERBAN: 203.0.113.0/24\n", encoding="utf-8")
    file.touch(0o600)
    file.write_text(yaml.safe_dump(wall.plan(tries=1)), encoding="utf-8")

    def run(name: str, *words: str) -> Result:
        places = ["--state", str(tmp_path / "state"), "--firewall", str(file)]
        places += ["--config", str(config)] if name == "ban" else []
        return CliRunner().invoke(fail2ban_ip, [name, *places, *words], standalone_mode=False)

    return run


def listed(call: Callable[..., Result]) -> dict[str, Any]:
    """What `status --json` says."""
    data: dict[str, Any] = json.loads(call("status", "--json").output)
    assert data["version"] == 1
    return data


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        *[
            (wrong, None)
            for wrong in (
                "",
                "198.51.100.7\n",
                " 198.51.100.7",
                "198.51.100.07",
                "198.51.100",
                "3325256711",
                "198.51.100.0/24",
                "198.51.100.7:22",
                "fe80::1%eth0",
                "example.org",
                "--all-jails",
                "$(id)",
                "٣.٣.٣.٣",
                "0.0.0.0",  # noqa: S104 - refused
                "::",
                "224.0.0.1",
                "255.255.255.255",
            )
        ],
    ],
)
def test_an_address_is_read_strictly(text: str, means: str | None) -> None:
    if means is None:
        with pytest.raises(Refused):
            bans.parsed(text)
    else:
        assert str(bans.parsed(text)) == means


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.8.9.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.1.2.3", "own"),
        ("fe80::5", "own"),
        ("203.0.113.80", "WODNEVERBAN"),
        ("192.0.2.7", "WODTRUSTEDPEERS"),
        ("192.0.2.8", ""),
        ("10.1.2.4", ""),
    ],
)
def test_who_is_never_banned(text: str, why: str) -> None:
    settings = Settings.model_validate(
        {"WODSANDBOX": True, "WODNEVERBAN": "203.0.113.80/32 2001:db8::/64", "WODTRUSTEDPEERS": ["192.0.2.7/32"]}
    )
    own = {ipaddress.ip_address("10.1.2.3"), ipaddress.ip_address("fe80::5")}
    said = bans.protected(bans.parsed(text), settings, lambda: own)
    assert (why in said) if why else said == ""


def test_this_machine_s_addresses_are_found() -> None:
    assert ipaddress.ip_address("127.0.0.1") in bans.own_addresses()


def test_the_command_bans_lists_and_lets_in_again(call: Callable[..., Result], wall: Wall, tmp_path: Path) -> None:
    """Twice each; the firewall hears of each once, with its secret, and the secret is nowhere else."""
    said = [call("ban", "--jail", "wod-jupyterhub", str(ip)) for ip in (STRANGER, SIXTH, STRANGER)]
    assert [done.return_value for done in said] == [0, 0, 0]
    method, path, secret, body = wall.seen[0]
    assert (method, path, secret) == ("POST", f"/blocks?key={TOKEN}", f"Bearer {TOKEN}")
    assert json.loads(body) == {"address": "198.51.100.7", "more": ["v4"]}
    rows = listed(call)["bans"]
    assert [(row["address"], list(row["jails"]), row["firewall"]) for row in rows] == [
        ("198.51.100.7", ["wod-jupyterhub"], "banned"),
        ("2001:db8::7", ["wod-jupyterhub"], "banned"),
    ]
    shown = call("status")
    assert shown.return_value == 0 and "2001:db8::7" in shown.output and "a firewall API" in shown.output
    said += [call("unban", "--jail", "wod-jupyterhub", str(ip)) for ip in (SIXTH, STRANGER, SIXTH)]
    assert wall.calls() == ["POST /blocks"] * 2 + ["DELETE /blocks/2001%3Adb8%3A%3A7", "DELETE /blocks/198.51.100.7"]
    assert listed(call)["bans"] == []
    assert TOKEN not in "".join(done.output for done in said) + shown.output
    state = tmp_path / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert TOKEN not in "".join(file.read_text(encoding="utf-8") for file in state.iterdir())
    assert {file.name.partition("-")[0] for file in state.iterdir()} == {"bans.json", "lock", "telling"}


@pytest.mark.parametrize("ip", ["127.0.0.1", "203.0.113.9", "::ffff:203.0.113.9", "nobody", "198.51.100.0/24"])
def test_the_command_refuses_before_anybody_is_told(ip: str, call: Callable[..., Result], wall: Wall) -> None:
    refused = call("ban", ip)
    assert isinstance(refused.exception, Refused)
    assert wall.seen == [] and listed(call)["bans"] == []


def test_the_last_jail_lets_in(tmp_path: Path, wall: Wall) -> None:
    found = Bans(tmp_path, wall.api())
    found.ban(STRANGER, "sshd")
    found.ban(STRANGER, "wod-jupyterhub")
    left = found.unban(STRANGER, "sshd")
    assert left is not None and list(left.jails) == ["wod-jupyterhub"] and wall.calls() == ["POST /blocks"]
    assert found.unban(STRANGER, "wod-jupyterhub") is None
    assert wall.calls() == ["POST /blocks", "DELETE /blocks/198.51.100.7"]
    assert found.unban(STRANGER, None) is None


def test_a_firewall_that_is_away_is_owed_the_ban_and_its_end(call: Callable[..., Result], wall: Wall) -> None:
    wall.answers = [503, 500, 204, 502]
    away = call("ban", str(STRANGER))
    assert isinstance(away.exception, Temporary) and TOKEN not in str(away.exception) + away.exception.operator
    assert listed(call)["bans"][0]["firewall"] == "owed-ban" and call("status").return_value == 75
    assert isinstance(call("sync").exception, Temporary)
    assert call("sync").return_value == 0 and listed(call)["bans"][0]["firewall"] == "banned"
    assert isinstance(call("unban", str(STRANGER)).exception, Temporary)
    assert listed(call)["bans"][0] | {"jails": {}} == {
        "address": "198.51.100.7",
        "jails": {},
        "firewall": "owed-unban",
    }
    assert call("sync").return_value == 0 and listed(call)["bans"] == []
    assert wall.calls() == ["POST /blocks"] * 3 + ["DELETE /blocks/198.51.100.7"] * 2


def test_a_ban_from_before_the_firewall_is_told_by_sync(tmp_path: Path, wall: Wall) -> None:
    Bans(tmp_path).ban(STRANGER, "sshd")
    assert [ban.firewall for ban in Bans(tmp_path).all()] == ["none"]
    assert Bans(tmp_path, wall.api()).sync() == []
    assert [ban.firewall for ban in Bans(tmp_path).all()] == ["banned"] and wall.calls() == ["POST /blocks"]


@pytest.mark.parametrize(
    ("answers", "error", "tries"),
    [
        ([503, 429, 200], None, 3),
        ([409], None, 1),
        ([503, 503, 503], Temporary, 3),
        ([401], NotLetIn, 1),
        ([302], Failed, 1),
        ([422], Failed, 1),
    ],
)
def test_which_answers_are_tried_again(
    answers: list[int], error: type[WodmailError] | None, tries: int, wall: Wall
) -> None:
    wall.answers = list(answers)
    if error is None:
        wall.api().ban(STRANGER)
    else:
        with pytest.raises(error) as caught:
            wall.api().ban(STRANGER)
        assert type(caught.value) is error and TOKEN not in caught.value.sender + caught.value.operator
        assert str(answers[-1]) in caught.value.operator
    assert len(wall.seen) == tries


def test_a_firewall_that_is_gone_is_told_without_its_secrets(wall: Wall) -> None:
    plan = wall.plan(timeout_seconds=0.2)
    plan["ban"]["url"] = f"http://127.0.0.1:1/blocks?key={TOKEN}"
    api = firewallapi.FirewallApi(firewallapi.Plan.model_validate(plan), pause=lambda _: None)
    with pytest.raises(Temporary) as caught:
        api.ban(STRANGER)
    assert caught.value.operator == "POST at 127.0.0.1:1: no answer (ConnectError)"
    assert TOKEN not in repr(firewallapi.Plan.model_validate(plan))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ban": {"method": "POST", "url": f"http://firewall.example.org/{TOKEN}"}}, "must begin with https://"),
        ({"ban": {"method": "POST", "url": f"{TOKEN}"}}, "must begin with https://"),
        ({"ban": {"method": "POST", "url": f"https://{{ip}}/{TOKEN}"}}, "a host"),
        (
            {"ban": {"method": "POST", "url": "https://x.example", "headers": {"A": f"{TOKEN}\r\nB: c"}}},
            "can't be sent",
        ),
        ({"ban": {"method": "BREW", "url": f"https://x.example/{TOKEN}"}}, "ban.method"),
        ({"tries": 50}, "tries"),
        ({"bann": TOKEN}, "bann"),
    ],
)
def test_a_wrong_file_is_told_without_its_secrets(
    change: dict[str, Any], words: str, wall: Wall, tmp_path: Path
) -> None:
    file = tmp_path / "firewall.yml"
    file.touch(0o600)
    file.write_text(yaml.safe_dump(wall.plan() | change), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        firewallapi.load(file)
    assert words in str(caught.value) and TOKEN not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_open_is_refused(mode: int, wall: Wall, tmp_path: Path) -> None:
    file = tmp_path / "firewall.yml"
    file.write_text(yaml.safe_dump(wall.plan()), encoding="utf-8")
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 0600"):
        firewallapi.load(file)
    file.chmod(0o600)
    assert firewallapi.load(file) is not None
    link = tmp_path / "link.yml"
    link.symlink_to(file)
    with pytest.raises(ConfigError):
        firewallapi.load(link)


def test_a_damaged_list_and_one_of_a_newer_version_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "bans.json"
    for text, words in (("{", "damaged"), ('{"version": 2, "bans": []}', "version 2")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(Failed, match=words):
            Bans(tmp_path).ban(STRANGER, "sshd")
        assert file.read_text(encoding="utf-8") == text


def test_bans_at_once_take_their_turns(tmp_path: Path, wall: Wall) -> None:
    addresses = [ipaddress.ip_address(f"198.51.100.{number}") for number in range(1, 9)]
    threads = [threading.Thread(target=Bans(tmp_path, wall.api()).ban, args=(each, "sshd")) for each in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ban.address for ban in Bans(tmp_path).all()] == [str(each) for each in addresses]
    assert len(wall.seen) == len(addresses)


class Slow:
    """A firewall that takes each call when it is let, and keeps the calls in their order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.at_it, self.go_on = threading.Event(), threading.Event()

    def ban(self, address: bans.Address) -> None:
        self._take(f"ban {address}")

    def unban(self, address: bans.Address) -> None:
        self._take(f"unban {address}")

    def _take(self, call: str) -> None:
        self.calls.append(call)
        self.at_it.set()
        assert self.go_on.wait(20)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    """At work on the ban of a stranger, until it is let go on."""
    wall = Slow()
    thread = threading.Thread(target=Bans(tmp_path, wall).ban, args=(STRANGER, "sshd"))
    thread.start()
    assert wall.at_it.wait(20)
    yield wall
    wall.go_on.set()
    thread.join()


def test_while_the_firewall_is_silent_others_are_noted_and_told(tmp_path: Path, slow: Slow, wall: Wall) -> None:
    quick = Bans(tmp_path, wall.api(), patience=0.0)
    assert quick.ban(SIXTH, "sshd").firewall == "banned"
    assert [(ban.address, ban.firewall) for ban in quick.all()] == [(str(STRANGER), "owed-ban"), (str(SIXTH), "banned")]
    assert quick.unban(SIXTH, "sshd") is None
    assert slow.calls == [f"ban {STRANGER}"] and len(wall.calls()) == 2


def test_an_unban_behind_a_ban_that_is_told_is_told_after_it(tmp_path: Path, slow: Slow) -> None:
    """It has no time to wait, and is noted all the same; who tells the ban goes on with what is owed then."""
    with pytest.raises(Temporary, match="noted"):
        Bans(tmp_path, slow, patience=0.0).unban(STRANGER, "sshd")
    (left,) = Bans(tmp_path).all()
    assert (left.jails, left.firewall) == ({}, "owed-unban")
    slow.go_on.set()
    wait_until(lambda: not Bans(tmp_path).all(), what="the unban")
    assert slow.calls == [f"ban {STRANGER}", f"unban {STRANGER}"]


def test_another_jail_s_ban_of_the_same_address_is_told_once(tmp_path: Path, slow: Slow) -> None:
    other = threading.Thread(target=Bans(tmp_path, slow).ban, args=(STRANGER, "wod-jupyterhub"))
    other.start()
    wait_until(lambda: len(Bans(tmp_path).all()[0].jails) == 2, what="the other jail")
    slow.go_on.set()
    other.join()
    (left,) = Bans(tmp_path).all()
    assert (sorted(left.jails), left.firewall) == (["sshd", "wod-jupyterhub"], "banned")
    assert slow.calls == [f"ban {STRANGER}"]


def test_sync_holds_up_nobody(tmp_path: Path, wall: Wall) -> None:
    """It tells many addresses of a firewall that takes its time; a new ban of another one is told meanwhile."""
    for number in range(1, 4):
        Bans(tmp_path).ban(ipaddress.ip_address(f"192.0.2.{number}"), "sshd")
    silent = Slow()
    syncing = threading.Thread(target=Bans(tmp_path, silent).sync)
    syncing.start()
    assert silent.at_it.wait(20)
    assert Bans(tmp_path, wall.api(), patience=0.0).ban(STRANGER, "sshd").firewall == "banned"
    silent.go_on.set()
    syncing.join()
    assert silent.calls == [f"ban 192.0.2.{number}" for number in range(1, 4)]
    assert {ban.firewall for ban in Bans(tmp_path).all()} == {"banned"}
