"""Telling systemd how a service is (sd_notify(3))."""

from __future__ import annotations

import socket


def notify_systemd(state: str, address: str | None) -> None:
    """Tell systemd how we are.

    Args:
        state: e.g. "READY=1".
        address: the socket named by $NOTIFY_SOCKET; nothing happens without one.
    """
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode("ascii"))
