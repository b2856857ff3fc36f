"""Fetches of https URLs through a real proxy, which tunnels them (CONNECT), from a server whose certificate
the test's own authority signed."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.guard import AUTHORITIES
from tests.data_pipeline.crawl.conftest import Crawl, net, run
from tests.data_pipeline.reading import read_all
from tests.data_pipeline.sources.test_proxy import ENCODED, HERE, PASSWORD, credentials, proxy

__all__ = ["credentials", "net", "proxy", "run"]  # fixtures
PAGE = b"<html><body><p>Of mills.</p></body></html>"


class Server(NamedTuple):
    url: str
    authority: str
    """File of the authority that signed its certificate."""
    requests: list[tuple[str, dict[str, str]]]
    """Path and headers."""


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Files of an authority's certificate, and of a server's for localhost with its key."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    made = []
    for subject, key in (("Test authority", keys[0]), ("localhost", keys[1])):
        builder = (
            x509.CertificateBuilder(_named("Test authority"), _named(subject), key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=key is keys[0], path_length=None), critical=True)
        )
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        if key is keys[1]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_pem = keys[1].private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    authority, server = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(made[0])
    server.write_bytes(key_pem + made[1])
    return authority, server


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    authority, certificate = _certificate(tmp_path_factory.mktemp("tls"))
    requests: list[tuple[str, dict[str, str]]] = []
    answers = {"/a.jsonl": b'{"text": "inside"}\n', "/": PAGE}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, dict(self.headers)))
            content = answers.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Server(f"https://localhost:{server.server_address[1]}", str(authority), requests)
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def trusted(secure: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AUTHORITIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", secure.authority)
    monkeypatch.setattr("headwater.data_pipeline.sources.opening.FIRST_PAUSE_SECONDS", 0.0)
    secure.requests.clear()


def test_a_file_at_an_https_url_is_downloaded_through_the_proxys_tunnel(
    secure: Server, proxy: str, credentials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, here = f"{secure.url}/a.jsonl", HERE["allow_addresses"]
    given = {"proxy": proxy, "proxy_credentials": credentials}
    documents, _, error = read_all("jsonl", url, allow_addresses=here, **given)
    assert ([document.text for document in documents], error) == (["inside"], None)
    [(_, headers)] = secure.requests
    assert "Proxy-Authorization" not in headers and ENCODED not in str(headers)
    _, _, error = read_all("jsonl", url, allow_addresses=[], **given)
    assert error is not None and error.reason == "forbidden_address"
    _, _, error = read_all("jsonl", url, allow_addresses=here, proxy=proxy)
    assert error is not None and "407" in error.detail
    monkeypatch.delenv("SSL_CERT_FILE")
    _, _, error = read_all("jsonl", url, allow_addresses=here, **given)
    assert error is not None and "CERTIFICATE_VERIFY_FAILED" in error.detail
    assert len(secure.requests) == 1
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(HeadwaterError, match="certificate authorities"):
        read_all("jsonl", url, allow_addresses=here, **given)


def test_a_crawl_of_https_pages_goes_through_the_proxys_tunnel(
    secure: Server, run: Crawl, proxy: str, credentials: str
) -> None:
    seed = f"{secure.url}/"
    given = {"proxy": proxy, "proxy_credentials": credentials}
    assert run(seed, **given, **HERE | {"allow_addresses": []}).get("page", 0) == 0
    assert "forbidden_address" in str(run.log()[seed])
    assert run(seed, **HERE, proxy=proxy, refresh=True).get("page", 0) == 0
    assert secure.requests == []
    assert run(seed, **given, **HERE, refresh=True)["page"] == 1
    assert [path for path, _ in secure.requests][-1] == "/"
    assert not any("Proxy-Authorization" in headers for _, headers in secure.requests)
    written = [path for path in Path(run.output.location).parent.rglob("*/*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in written for secret in (PASSWORD, ENCODED))
    assert not any(ENCODED in str(head) for _, head, _ in run.records("request"))
    [(head, _, body)] = run.records()
    assert (head.get_header("WARC-IP-Address"), body) == (None, PAGE)
