"""The distribution's name as Ansible has it, and the variable file of that name."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.facts.system.distribution import DistributionFactCollector

from tests.copying import settings_for
from wodmail import distribution, variables


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n', "Debian-12"),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n', "Ubuntu-24"),
        ('ID="rocky"\nVERSION_ID="9.4"\n', "Rocky-9"),
        ("# a comment\n\nID='rhel'\nVERSION_ID=9.4\n", "RedHat-9"),
        ("ID=debian\n", None),
        ("ID=arch\nVERSION_ID=1\n", None),
        ("ID='debian\nVERSION_ID=12\n", None),
        ("", None),
    ],
)
def test_names(tmp_path: Path, text: str, name: str | None) -> None:
    file = tmp_path / "os-release"
    file.write_text(text)
    assert distribution.name(file) == name


def test_without_such_a_file_there_is_no_name(tmp_path: Path) -> None:
    assert distribution.name(tmp_path / "none") is None
    (tmp_path / "odd").write_bytes(b"ID=\xff")
    assert distribution.name(tmp_path / "odd") is None


def test_this_machine_as_ansible_sees_it() -> None:
    class Module:
        """What the collector asks of a module."""

        def __init__(self) -> None:
            self.params: dict[str, str] = {}

        def get_bin_path(self, *_: object, **__: object) -> None:
            return None

    known = DistributionFactCollector().collect(Module())
    own = distribution.name()
    if own is None:
        pytest.skip("a distribution that is not in distribution.NAMES")
    assert own == f"{known['distribution']}-{known['distribution_major_version']}"
    facts = variables.machine("g")
    assert facts["ansible_distribution"] == known["distribution"]
    assert facts["ansible_facts"]["distribution_major_version"] == known["distribution_major_version"]


def test_which_variable_file_wins(tmp_path: Path) -> None:
    """The configuration, all, the group, the distribution; public, then the same privately."""
    own = distribution.name()
    assert own is not None, "run this where the distribution is known"
    settings = settings_for(tmp_path, BRANDINGWOD="configuration", EXTRA="configuration")
    order = [(place, name) for place in ("public", "private") for name in ("all", "production", own)]
    wanted = {"BRANDINGWOD": "configuration", "EXTRA": "configuration"}
    assert {name: variables.for_group(settings)[name] for name in wanted} == wanted
    for place, name in order:
        (tmp_path / place / "group_vars" / f"{name}.yml").write_text(f"BRANDINGWOD: {place} {name}\n")
        assert variables.for_group(settings)["BRANDINGWOD"] == f"{place} {name}"
    (tmp_path / "public" / "group_vars" / f"{own}.yml").write_text("ansible_hostname: mine\n")
    assert variables.for_group(settings)["ansible_hostname"] == "mine"
