"""What holds for all tests: an environment of their own, and loud words about system parts that are missing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.parts import JUPYTERHUB, PROGRAMS, program

# No test depends on how fast a machine is.
settings.register_profile("wodmail", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wodmail")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the machine reaches a test."""
    for name in ("WOD_CONFIG", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """A test that leaves another umask behind breaks those that come after it, so it fails by itself."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        left = os.umask(before)
    assert left == 0o022, f"this test left the umask {left:04o}"


def absent_parts() -> list[str]:
    """System parts that tests would use and that this machine doesn't have."""
    absent = sorted(name for name, (executable, _) in PROGRAMS.items() if program(executable) is None)
    if not os.environ.get("WODMAIL_TEST_POSTGRES"):
        absent.append("postgres")
    if not all(os.environ.get(name) for name in JUPYTERHUB):
        absent.append("jupyterhub")
    if os.geteuid() != 0:
        absent.append("root")
    return absent


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not tested, where one looks."""
    absent = absent_parts()
    if absent:
        terminalreporter.section("NOT ALL WAS TESTED", sep="!", red=True)
        terminalreporter.line(f"missing here, so their tests were skipped: {', '.join(absent)} (see CONTRIBUTING.md)")
