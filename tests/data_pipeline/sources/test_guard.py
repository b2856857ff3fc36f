"""No fetch reaches an address that is not public, unless its source allows it."""

from __future__ import annotations

import socket
import urllib.request
from typing import Any

import pytest
from pydantic import ValidationError

from headwater.data_pipeline.sources.guard import AddressGuard, ForbiddenAddress, guarded_session
from tests.data_pipeline.conftest import WebServer
from tests.data_pipeline.reading import LOOPBACK, read_all, source_of

FORBIDDEN = [
    "127.0.0.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",  # metadata of most clouds
    "168.63.129.16",  # Azure's
    "100.100.100.200",  # Alibaba's, in the range of carriers' own networks (RFC 6598)
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",  # EC2's
    "::ffff:127.0.0.1",
    "64:ff9b::a9fe:a9fe",  # 169.254.169.254 behind NAT64
    "2002:7f00:1::",  # 127.0.0.1 behind 6to4
    "ff02::1",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_addresses_that_are_not_public_are_refused_unless_allowed(address: str) -> None:
    assert not AddressGuard().permits(address)
    assert AddressGuard([address]).permits(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:4700::6810:84e5", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_permitted(address: str) -> None:
    assert AddressGuard().permits(address)


def test_a_url_of_this_machine_is_refused_before_any_request(web_server: WebServer) -> None:
    web_server.files["/a.jsonl"] = b'{"text": "inside"}\n'
    for host in ("127.0.0.1", "localhost", "[::1]", "2130706433", "127.1"):
        url = web_server.url.replace("127.0.0.1", host) + "/a.jsonl"
        documents, _, error = read_all("jsonl", url, allow_addresses=[])
        assert documents == []
        assert error is not None and error.reason == "forbidden_address", host
        assert "allow_addresses" in error.detail
    assert web_server.requests == []


def test_a_redirect_to_an_internal_address_is_not_followed(web_server: WebServer) -> None:
    """A host that is allowed sends on to one that is not."""
    web_server.redirects["/a.jsonl"] = web_server.url.replace("127.0.0.1", "127.0.0.2") + "/secret.jsonl"
    web_server.files["/secret.jsonl"] = b'{"text": "secret"}\n'
    documents, _, error = read_all("jsonl", f"{web_server.url}/a.jsonl", allow_addresses=["127.0.0.1"])
    assert documents == []
    assert error is not None and error.reason == "forbidden_address"
    assert [path for path, _ in web_server.requests] == ["/a.jsonl"]
    _, _, error = read_all("jsonl", f"{web_server.url}/a.jsonl", allow_addresses=LOOPBACK)
    assert error is not None and error.reason == "unreachable"  # followed: nothing listens there


def test_the_connection_goes_to_the_address_that_was_checked(
    web_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers first with one address, and then with this machine's."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebind.example":
            return real(host, *args, **kwargs)
        asked.append(host)
        return real("192.0.0.9" if len(asked) == 1 else "127.0.0.1", *args, **kwargs)

    connected: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        connected.append(address)
        raise OSError("not in this test")

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    with guarded_session(AddressGuard(["192.0.0.9"])) as session, pytest.raises(OSError):
        session.get("http://rebind.example/a", timeout=5)
    assert (asked, connected) == (["rebind.example"], [("192.0.0.9", 80)])


def test_of_several_addresses_only_the_public_ones_are_used() -> None:
    guard = AddressGuard()
    assert guard.permitted("a.org", ["10.0.0.1", "8.8.8.8", "8.8.8.8"]) == ["8.8.8.8"]
    with pytest.raises(ForbiddenAddress, match=r"10\.0\.0\.1, the address of a\.org"):
        guard.permitted("a.org", ["10.0.0.1"])


def test_behind_a_proxy_a_host_that_is_an_address_is_checked(
    web_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, web_server.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert urllib.request.getproxies()["http"] == web_server.url
    with guarded_session(AddressGuard()) as session, pytest.raises(ForbiddenAddress):
        session.get("http://169.254.169.254/latest/meta-data/", timeout=5)
    assert web_server.requests == []


def test_a_network_that_is_none_is_refused_when_the_source_is_read() -> None:
    with pytest.raises(ValidationError, match="allow_addresses"):
        source_of("jsonl", paths=["a.jsonl"], allow_addresses=["localhost"])
