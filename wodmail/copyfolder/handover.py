"""How the job gets from the server into ansible-playbook: through standard input, an anonymous file in memory."""

from __future__ import annotations

import json
import os
from typing import Any

MARK = "WODMAIL_COPY_JOB"
"""Set (to "stdin") in the environment of a run whose standard input holds the job."""


def received() -> dict[str, Any] | None:
    """The job as a mapping when the server started this run, None in a run by hand.

    Only the main process can ask: Ansible's workers have no standard input.
    """
    if os.environ.get(MARK) != "stdin":
        return None
    data = bytearray()
    while chunk := os.pread(0, 1 << 20, len(data)):
        data += chunk
    job: dict[str, Any] = json.loads(data)
    return job
