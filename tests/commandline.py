"""Our commands as tests call them, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from wodmail.cli.root import root


def wodmail(file: Path, *words: str, status: int = 0, answer: str | None = None) -> dict[str, Any]:
    """Run `wodmail WORDS --json`; what it reports.

    Args:
        file: the configuration.
        words: the command and its arguments.
        status: the exit status that it must have.
        answer: what a person types.
    """
    line = [*words, "--json", "--config", str(file)]
    done = CliRunner().invoke(root, line, standalone_mode=False, input=answer)
    if done.exception is not None:
        raise done.exception
    assert (done.return_value or 0) == status, done.output
    data: dict[str, Any] = json.loads(done.stdout)
    assert data["version"] == 1
    return data
