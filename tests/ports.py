"""Ports for servers that a test starts."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 20_000, 32_000
"""Above the ports that Ray gives its workers (10002 to 19999) and below those that Linux gives to outgoing
connections (from 32768). A server may bind its port seconds after it was found free; a connection must not
have taken it by then."""


def free_ports(count: int, twin: int | None = None) -> list[int]:
    """Different ports that are free on localhost. With `twin`, the port so far above each is free, too."""
    found: set[int] = set()
    for port in random.SystemRandom().sample(range(FIRST, LAST - (twin or 0)), 1000):
        if len(found) < count and all(map(_is_free, {port, port + (twin or 0)})):
            found.add(port)
    assert len(found) == count, f"only {len(found)} free ports between {FIRST} and {LAST}"
    return list(found)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
