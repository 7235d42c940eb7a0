"""What wod-install writes into the configuration: what was said, what is found out, what is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from wodmail import config, installer, installingfile, paths
from wodmail.errors import ConfigError
from wodmail.installing import SOURCES, Facts, Wanted, configuration, hosts, left_to_do, sources
from wodmail.installingfacts import HUB_FILES, checkout_problems, other_code, strange_hub
from wodmail.schema import Settings

HERE = Facts(name="backend.example.org", checkout=Path("/opt/wod/wod-backend"), own=frozenset({"192.0.2.5"}))


def test_nothing_said_makes_a_whole_backend_with_secrets_of_its_own() -> None:
    """Two machines never have a secret in common."""
    first, second = (configuration(Wanted(), HERE, {}) for _ in range(2))
    assert (first["WODUSER"], first["WODBEFQDN"], first["WODTYPE"]) == ("wodadmin", "backend.example.org", "backend")
    assert first["WODBEDIR"] == "/opt/wod/wod-backend" and first["WODROOTDIR"] == "/opt/wod"
    for name in ("WODBETOKEN", "VAULTPWD"):
        assert first[name] != second[name] and len(first[name]) >= 32
    assert "WODLISTEN" not in first and "WODSENDER" not in first
    assert [words[:6] for words in left_to_do(first, Wanted(), {})] == ["nobody", "nobody"]


def test_a_second_run_changes_nothing_and_an_option_changes_one_key() -> None:
    """An update keeps values and secrets."""
    before = configuration(Wanted(sender="a@example.org"), HERE, {})
    again = configuration(Wanted(), HERE, before)
    assert {**before, **again} == before
    assert {**before, **configuration(Wanted(port=2525), HERE, before)} == {**before, "WODPOSTPORT": 2525}


def test_a_frontend_on_another_machine_may_command_and_connect() -> None:
    """The door is opened for those who were named, and the machine's own addresses are none of them."""
    wanted = Wanted(frontend="front.example.org", apidb="backend.example.org", user="wodops")
    addresses = {"front.example.org": ("192.0.2.7", "2001:db8::7"), "backend.example.org": ("192.0.2.5", "127.0.1.1")}
    assert hosts(wanted) == ("front.example.org", "backend.example.org")
    found = configuration(wanted, Facts(HERE.name, HERE.checkout, addresses, HERE.own), {})
    assert found["WODSENDER"] == "wodops@front.example.org"
    assert found["WODLISTEN"] == "0.0.0.0"  # noqa: S104 - what was asked for
    assert found["WODALLOWEDPEERS"] == ["127.0.0.0/8", "::1/128", "192.0.2.7/32", "2001:db8::7/128"]
    assert found["WODTRUSTEDPEERS"] == found["WODALLOWEDPEERS"]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("lab.example.org", {"WODBEEXTFQDN": "lab.example.org"}),
        ("lab.example.org:8443", {"WODBEEXTFQDN": "lab.example.org", "WODBEPORT": 8443}),
        ("https://lab.example.org", {"WODBEEXTFQDN": "lab.example.org", "WODBEPROTO": "https", "WODBEPORT": 443}),
    ],
)
def test_the_name_for_students(text: str, keys: dict[str, Any]) -> None:
    """-e takes a host, its port, or a URL."""
    found = configuration(Wanted(external=text), HERE, {})
    assert {name: found[name] for name in keys} == keys
    assert ("WODBEPORT" in found) == ("WODBEPORT" in keys)


@pytest.mark.parametrize("text", ["ftp://x", "https://", "host:port", "https://user:word@host"])
def test_a_name_for_students_that_makes_no_sense_is_refused(text: str) -> None:
    """In words that name the option."""
    with pytest.raises(ConfigError) as caught:
        configuration(Wanted(external=text), HERE, {})
    assert caught.value.problems[0].path == "-e"


def test_the_api_db_is_switched_on_with_its_password_alone() -> None:
    """Half of its keys would be an error."""
    half = Wanted(apidb="api.example.org")
    found = configuration(half, HERE, {})
    assert not any(name.startswith("WODAPIDB") for name in found)
    assert any("--api-db-password-file" in words for words in left_to_do(found, half, {}))
    whole = configuration(Wanted(apidb="api.example.org", apidb_user="be", apidb_password="w"), HERE, {})
    assert whole["WODAPIDBEXTURL"] == "http://api.example.org:8021/api"
    url = Wanted(apidb="https://api.example.org/api/", apidb_user="be", apidb_password="w")
    assert configuration(url, HERE, {})["WODAPIDBEXTURL"] == "https://api.example.org/api"


def test_several_backends_have_students_of_their_own() -> None:
    """The second backend's students begin behind the first one's."""
    assert configuration(Wanted(number=1), HERE, {})["WODBASESTDID"] == 0
    assert configuration(Wanted(number=3), HERE, {})["WODBASESTDID"] == 4000


def test_other_machines_get_what_belongs_to_them() -> None:
    """An API-DB's machine has no hub and no token for it."""
    found = configuration(Wanted(type="api-db", frontend="front.example.org"), HERE, {})
    assert found["WODTYPE"] == "api-db" and "WODBETOKEN" not in found and "WODSENDER" not in found
    assert left_to_do(found, Wanted(type="api-db"), {}) == []
    (told,) = left_to_do(found, Wanted(type="api-db", frontend="front.example.org", backend="b", group="g"), {})
    assert told == "-b, -f: a backend's; nothing was done with them here, where the type is api-db"


def test_a_host_that_no_name_server_knows_is_told() -> None:
    """Its door stays shut; the other one's is open, and nothing is said of it."""
    wanted = Wanted(frontend="frnt.example.org", apidb="api.example.org:8021", apidb_user="be", apidb_password="w")
    settings = {"WODSENDER": "a", "WODMONITOR": "b", **configuration(wanted, HERE, {})}
    assert "WODALLOWEDPEERS" not in settings
    (told,) = left_to_do(settings, wanted, {"api.example.org": ("192.0.2.9",)})
    assert told.startswith("no name server knows frnt.example.org") and "WODALLOWEDPEERS" in told


def test_a_vault_that_has_its_password_gets_no_second_one() -> None:
    """Two passwords would be a warning of `wodmail config check`."""
    found = configuration(Wanted(), Facts("b", Path("/opt/wod/b"), private="/opt/wod/wod-private", vault=True), {})
    assert "VAULTPWD" not in found and found["WODPRIVDIR"] == "/opt/wod/wod-private"


def test_sources_by_name() -> None:
    """`others` are all, `none` is none, a wrong name is told with the right ones."""
    assert sources(["others"]) == tuple(SOURCES) and sources(["none"]) == ()
    assert sources(["galaxy", "galaxy"]) == ("galaxy",)
    with pytest.raises(ConfigError, match="galxy"):
        sources(["galxy"])


def test_the_file_keeps_its_comments(tmp_path: Path) -> None:
    """Only lines of keys that change are touched; what was made is a configuration without problems."""
    file = tmp_path / "wod.yml"
    text = "# mine\nWODUSERMAX: 40  # few\nWODLISTEN: 127.0.0.1\nIP-WKSHP-X: 10.0.0.5\n"
    file.write_text(text)
    read, present = installingfile.read(file)
    new = {"WODLISTEN": "0.0.0.0", "WODALLOWEDPEERS": ["127.0.0.0/8"], "WODUSERMAX": 40, "WODSENDER": "a@b"}  # noqa: S104
    changed = installingfile.changed(read, present, new)
    assert changed.startswith("# mine\nWODUSERMAX: 40  # few\nWODLISTEN: 0.0.0.0\nIP-WKSHP-X: 10.0.0.5\n")
    assert yaml.safe_load(changed) == {**present, **new}
    file.write_text(changed)
    assert config.read(file, files=False).problems == ()
    assert installingfile.changed(changed, yaml.safe_load(changed), new) == changed


@pytest.mark.parametrize(
    "text", ["WODWITHOUT:\n  - galaxy\n", "{WODWITHOUT: [galaxy]}\n", "A: |\n  x\nWODWITHOUT: >\n  galaxy\n"]
)
def test_a_key_over_several_lines_is_left_to_the_operator(text: str) -> None:
    """Nothing is guessed about a file that is written in another way."""
    with pytest.raises(ConfigError) as caught:
        installingfile.changed(text, yaml.safe_load(text), {"WODWITHOUT": ["docker"]})
    assert "WODWITHOUT: [docker]" in str(caught.value)


def test_a_first_file_tells_what_it_is(tmp_path: Path) -> None:
    """No file is no error; a broken one is."""
    text, present = installingfile.read(tmp_path / "none.yml")
    assert present == {} and yaml.safe_load(installingfile.changed(text, {}, {"WODUSER": "x"})) == {"WODUSER": "x"}
    (tmp_path / "broken.yml").write_text("a: [")
    with pytest.raises(ConfigError):
        installingfile.read(tmp_path / "broken.yml")


def test_a_checkout_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """Root runs what is in it."""
    tree = tmp_path / "tree"
    (tree / "ansible").mkdir(parents=True)
    tree.chmod(0o777)
    assert "can be changed by others" in str(checkout_problems(tree)[0])
    assert "is no checkout" in str(checkout_problems(tmp_path)[0])
    assert checkout_problems(Path("/usr/share"))[0].message.startswith("is no checkout")


def test_other_code_than_the_checkout_s_is_seen(tmp_path: Path) -> None:
    """Modules that were changed, added and removed; bytecode and a checkout that runs itself are no matter."""
    package, checkout = tmp_path / "package", tmp_path / "checkout"
    for folder in (package, checkout / "wodmail"):
        (folder / "cli").mkdir(parents=True)
        for name in ("same.py", "cli/other.py"):
            (folder / name).write_text("x = 1\n")
    (package / "same.pyc").write_bytes(b"x")
    (package / "share").mkdir()
    (package / "share/plugin.py").write_text("")
    assert other_code(checkout, package) == ()
    (package / "cli/other.py").write_text("x = 2\n")
    (package / "old.py").write_text("")
    (checkout / "wodmail/new.py").write_text("")
    assert other_code(checkout, package) == ("cli/other.py", "new.py", "old.py")
    assert other_code(checkout, checkout / "wodmail") == ()


def test_the_modules_are_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are read for it; an audit goes on with what differs, an installation is refused and names it."""
    asked: list[Path] = []

    def differ(checkout: Path) -> tuple[str, ...]:
        asked.append(checkout)
        return ("paths.py",)

    monkeypatch.setattr(installer.installingfacts, "other_code", differ)
    order = installer.Order(Wanted(), tmp_path / "wod.yml", check=True)
    assert installer._other_code(order, tmp_path) == ("paths.py",)
    with pytest.raises(ConfigError, match=r"1 modules differ, such as paths\.py"):
        installer._other_code(replace(order, check=False), tmp_path)
    assert asked == [tmp_path] * 2


@pytest.mark.parametrize("name", HUB_FILES)
def test_a_hub_of_the_site_s_own_is_seen(tmp_path: Path, name: str) -> None:
    """By the first line of its configuration or unit; ours says who made it."""
    assert strange_hub(tmp_path) is None
    (tmp_path / name).parent.mkdir(parents=True)
    for template in ("jupyterhub_config.py.j2", "jupyterhub.service.j2"):
        (tmp_path / name).write_text((paths.share("sys") / template).read_text(encoding="utf-8"))
        assert strange_hub(tmp_path) is None
    (tmp_path / name).write_text("c = get_config()\n# made by wod-install\n")
    assert strange_hub(tmp_path) == tmp_path / name


def test_a_hub_of_the_site_s_own_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused unless the configuration, or group_vars, say that it stays; one elsewhere is nothing to replace."""
    strange, file = tmp_path / "jupyterhub.service", tmp_path / "wod.yml"
    monkeypatch.setattr(installer.installingfacts, "strange_hub", lambda: strange)
    own = {"WODBEDIR": tmp_path, "WODBETOKEN": "a" * 32}
    here = {**own, "WODBEAPIURL": "http://127.0.0.1:8000"}

    def problems(values: dict[str, Any]) -> list[str]:
        return [each.message for each in installer._strange_hub(Settings.model_validate(values), file)]

    (words,) = problems(here)
    assert f"write wod_hub_here: false into {file}" in words and "nothing was changed" in words
    for kept in ({"wod_hub_here": False}, {"WODBEAPIURL": "https://hub.example.org"}, {"WODTYPE": "frontend"}):
        assert problems({**here, **kept}) == []
    (tmp_path / "ansible" / "group_vars").mkdir(parents=True)
    (tmp_path / "ansible" / "group_vars" / "all.yml").write_text("wod_hub_here: false\n")
    assert problems(here) == []
    monkeypatch.setattr(installer.installingfacts, "strange_hub", lambda: None)
    (tmp_path / "ansible" / "group_vars" / "all.yml").unlink()
    assert problems(here) == []


def test_neighbours_named_anew_are_added() -> None:
    """Who commands changes, who may connect is added to; without news nothing changes."""
    addresses = {"front1": ("192.0.2.7",), "front2": ("192.0.2.9",)}
    facts = Facts(HERE.name, HERE.checkout, addresses, HERE.own)
    first = configuration(Wanted(frontend="front1"), facts, {})
    assert configuration(Wanted(frontend="front1"), facts, first) == {
        name: first[name] for name in ("WODTYPE", "WODSENDER", "WODLISTEN", "WODALLOWEDPEERS", "WODTRUSTEDPEERS")
    }
    second = configuration(Wanted(frontend="front2"), facts, first)
    assert second["WODSENDER"] == "wodadmin@front2"
    assert second["WODALLOWEDPEERS"] == [*first["WODALLOWEDPEERS"], "192.0.2.9/32"]
    written = configuration(Wanted(frontend="front2", sender="me@front2"), facts, {"WODALLOWEDPEERS": "10.0.0.0/8"})
    assert (written["WODSENDER"], written["WODALLOWEDPEERS"][0]) == ("me@front2", "10.0.0.0/8")


def test_an_api_db_without_its_password_is_told() -> None:
    """Also where another one is used so far."""
    wanted = Wanted(apidb="other.example.org")
    known, others = {"WODSENDER": "a", "WODMONITOR": "b"}, {"other.example.org": ("192.0.2.9",)}
    (told,) = left_to_do({**known, "WODAPIDBEXTURL": "http://api:8021/api"}, wanted, others)
    assert "other.example.org is not used yet, api is" in told
    assert left_to_do({**known, "WODAPIDBEXTURL": "http://other.example.org/api"}, wanted, others) == []
