"""Faults that a test switches on: which requests go wrong, how, and how often."""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from typing import Any

KINDS = {
    "unauthorized": "401 Unauthorized!, whatever the token is (not for /login unless `path` names it)",
    "forbidden": "403, as for an account whose role was taken away",
    "html": "a web page where JSON belongs, status `status` (200)",
    "broken": "200 and JSON that ends in its middle",
    "busy": "429 with Retry-After: `seconds` (1)",
    "error": "status `status` (503) with plain text",
    "hang": "no answer until the client leaves",
    "slow": "the right answer, `seconds` (1) late",
    "drop": "the connection ends without an answer; nothing was done",
    "lost": "it is done, but the connection ends without an answer",
}


@dataclass
class Fault:
    """One thing that goes wrong.

    Args:
        kind: one of `KINDS`.
        times: for so many requests; None for ever.
        method: only these requests, e.g. PUT; empty for all.
        path: only paths below /api that this regular expression finds itself in, e.g. `^/customer/`; empty for all.
        seconds: see `KINDS`.
        status: see `KINDS`; 0 for what stands there.
    """

    kind: str
    times: int | None = None
    method: str = ""
    path: str = ""
    seconds: float = 1.0
    status: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no fault {self.kind!r}; there are {', '.join(KINDS)}")
        re.compile(self.path)

    def hits(self, method: str, path: str) -> bool:
        """Whether this request is to go wrong."""
        if self.kind == "unauthorized" and not self.path and path == "/login":
            return False
        return (not self.method or self.method == method) and re.search(self.path, path) is not None


class Faults:
    """The faults that are switched on; the first that fits a request counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Switch one on."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Switch all off."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for a request, one of its times used up."""
        with self._lock:
            for fault in self._faults:
                if not fault.hits(method, path):
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                return fault
        return None

    def listed(self) -> list[dict[str, Any]]:
        """Those switched on."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]
