"""Guard against server-side request forgery: which addresses a fetch may connect to.

Every http(s) fetch goes through it: downloads of source files (`guarded_session`) and the crawler
(`crawl/fetch.py`). A host name is resolved once, each address is checked, and the connection is made to a
checked address, so that a second answer of the name server cannot change it (DNS rebinding). A redirect opens
a connection like any other.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.items import UnreadableFile
from headwater.data_pipeline.sources.proxy import Proxy

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
PLATFORM = ipaddress.ip_address("168.63.129.16")  # Azure's host agent, a public address by number only

AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables of requests, curl and OpenSSL."""


class ForbiddenAddress(UnreadableFile):
    """A fetch would reach an address that is not public."""

    def __init__(self, host: str, address: str) -> None:
        where = address if host == address else f"{address}, the address of {host},"
        super().__init__(
            "forbidden_address", f"{where} is not public: to reach it, name it in `allow_addresses`"
        )


class AddressGuard:
    """Allows public addresses, and those within the networks `allowed` (CIDR, such as `10.1.0.0/16`)."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = [ipaddress.ip_network(network, strict=False) for network in allowed]

    def permits(self, address: str) -> bool:
        found = ipaddress.ip_address(address)
        return any(found in network for network in self._allowed) or all(map(_public, _meant(found)))

    def check_host(self, host: str) -> None:
        """Raise ForbiddenAddress if the host is itself an address, and not a permitted one."""
        literal = host.strip("[]")
        try:
            ipaddress.ip_address(literal)
        except ValueError:
            return
        if not self.permits(literal):
            raise ForbiddenAddress(literal, literal)

    def permitted(self, host: str, addresses: Iterable[str]) -> list[str]:
        """Those of a host's addresses that may be reached. Raises ForbiddenAddress if there is none."""
        found = list(dict.fromkeys(addresses))
        if kept := [address for address in found if self.permits(address)]:
            return kept
        raise ForbiddenAddress(host, found[0] if found else "none")

    def resolve(self, host: str, port: int) -> list[str]:
        """Look a host up. Raises OSError without an address, ForbiddenAddress without a permitted one."""
        answers = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        return self.permitted(host, (str(answer[4][0]) for answer in answers))


def _meant(address: Address) -> list[Address]:
    """The address and the IPv4 address that is written into it."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    return [address, *(each for each in inner if each is not None)]


def _public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and address != PLATFORM


def authorities() -> Path | None:
    """File or folder of the certificate authorities that the environment names, for servers with one of
    their own. Raises HeadwaterError if it is not there."""
    name = next((name for name in AUTHORITIES if os.environ.get(name)), None)
    if name is None:
        return None
    found = Path(os.environ[name])
    if not found.exists():
        raise HeadwaterError(
            "there are no certificate authorities", where=str(found), fix=f"correct the variable {name}"
        )
    return found


def tls_context() -> ssl.SSLContext:
    """Checks certificates by `authorities`, or by those of the system."""
    found = authorities()
    if found is not None and found.is_dir():
        return ssl.create_default_context(capath=found)
    return ssl.create_default_context(cafile=found)


def guarded_session(guard: AddressGuard, proxy: Proxy | None = None) -> requests.Session:
    """A session of requests that connects to permitted addresses only.

    `proxy`: use this one, not those that the environment names. A proxy looks hosts up itself, so each host
    is looked up and checked before a request is handed to it. Certificates are checked by `authorities`.
    """
    session = requests.Session()
    found = authorities()
    session.verify = True if found is None else str(found)
    if proxy is not None:
        session.trust_env = False  # its proxies would come first
        session.proxies = dict.fromkeys(("http", "https"), proxy.with_credentials)
    adapter = _Adapter(guard)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Adapter(HTTPAdapter):
    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            scheme: type("Pool", (pool,), {"ConnectionCls": _pinned(pool.ConnectionCls, self._guard)})
            for scheme, pool in (
                ("http", urllib3.HTTPConnectionPool),
                ("https", urllib3.HTTPSConnectionPool),
            )
        }

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        url = urlsplit(str(request.url))
        self._guard.check_host(url.hostname or "")
        if select_proxy(str(request.url), kwargs.get("proxies")):
            self._guard.resolve(url.hostname or "", url.port or 443)
        return super().send(request, *args, **kwargs)


def _pinned(base: type[Any], guard: AddressGuard) -> type[Any]:
    """A connection class whose sockets are opened to checked addresses. Names in requests and TLS stay."""

    class Pinned(base):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            problem: OSError = OSError("no address")
            try:
                for address in guard.resolve(self._dns_host, self.port):
                    try:
                        return urllib3.util.connection.create_connection(
                            (address, self.port),
                            self.timeout,
                            source_address=self.source_address,
                            socket_options=self.socket_options,
                        )
                    except OSError as error:
                        problem = error
            except OSError as error:
                problem = error
            raise urllib3.exceptions.NewConnectionError(self, f"cannot connect: {problem}") from problem

    return Pinned
