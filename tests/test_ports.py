"""A port that a test gives to a server is still free when the server binds it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.ports import FIRST, LAST, free_ports


def test_ports_are_different_and_can_be_bound() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


def test_a_port_in_use_and_one_whose_twin_is_in_use_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (used,) = free_ports(1)
    with socket.socket() as server:
        server.bind(("127.0.0.1", used))
        monkeypatch.setattr("tests.ports.random.SystemRandom", lambda: _Chosen([used, used - 7, used - 6]))
        assert free_ports(1, twin=7) == [used - 6]


def test_no_outgoing_connection_can_take_them() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not given.exists():
        pytest.skip("Linux tells which ports outgoing connections get")
    lowest, highest = map(int, given.read_text().split())
    assert lowest > LAST or highest < FIRST


class _Chosen:
    def __init__(self, ports: list[int]) -> None:
        self._ports = ports

    def sample(self, population: range, count: int) -> list[int]:
        return self._ports
