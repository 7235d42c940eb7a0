"""The numbers that a check writes, literally: limits, values of the kernel, tasks of users (docs/check.md)."""

from __future__ import annotations

from typing import Any

import yaml

from wodmail import paths, rendering
from wodmail.schema import Settings

ANSIBLE = paths.share("ansible")
USER = "wodops"


def lines(template: str) -> list[str]:
    """What a template of sys/ becomes with the defaults of the checks, without comments and blanks around."""
    defaults = yaml.safe_load((ANSIBLE / "roles/wod/defaults/main.yml").read_text(encoding="utf-8"))
    variables = {**Settings.model_validate({"WODUSER": USER}).variables(), **defaults}
    text = rendering.render(paths.share("sys") / template, variables)
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_values_of_the_kernel() -> None:
    assert lines("sysctl.conf.j2") == [
        "kernel.pid_max=200000",
        "kernel.threads-max=4096000",
        "net.ipv4.tcp_keepalive_time=1800",
        "vm.max_map_count=600000",
    ]


def test_limits_of_the_services_user() -> None:
    assert sorted(lines("limits.conf.j2")) == [
        f"{USER} hard nofile 65535",
        f"{USER} hard nproc 800000",
        f"{USER} soft nofile 65535",
        f"{USER} soft nproc 800000",
    ]


def test_limits_of_a_login() -> None:
    script = lines("wod-limits.sh.j2")
    first = [line.split(" 2>", 1)[0] for line in script if line.startswith("ulimit") and " 2>" in line]
    assert first == ["ulimit -u 641465", "ulimit -p 641465", "ulimit -n 65535"]


def test_tasks_of_a_user() -> None:
    """As logind knew it, and as the slices of today's systemd do; each for the systemd that reads it."""
    defaults: dict[str, Any] = yaml.safe_load((ANSIBLE / "roles/wod/defaults/main.yml").read_text(encoding="utf-8"))
    assert defaults["wod_user_tasks_max"] == 100000
    tasks = yaml.safe_load((ANSIBLE / "tasks/logind.yml").read_text(encoding="utf-8"))[0]["block"]
    written = {task["when"]: task["community.general.ini_file"] for task in tasks}
    assert written.keys() == {"wod_systemd >= 239", "wod_systemd < 239"}
    assert {ini["value"] for ini in written.values()} == {"{{ wod_user_tasks_max }}"}
    new, old = written["wod_systemd >= 239"], written["wod_systemd < 239"]
    assert (new["path"], new["section"], new["option"]) == (
        "/etc/systemd/system/user-.slice.d/50-wodmail.conf",
        "Slice",
        "TasksMax",
    )
    assert (old["path"], old["section"], old["option"]) == (
        "/etc/systemd/logind.conf.d/50-wodmail.conf",
        "Login",
        "UserTasksMax",
    )
