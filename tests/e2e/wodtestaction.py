"""`wod-test-action` as a program, called on a deployment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.harness import Deployment


def act(site: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    program = Path(sys.executable).with_name("wod-test-action")
    environment = {**os.environ, "WOD_CONFIG": str(site.file), "COLUMNS": "200"}
    argv = [str(program), *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)
